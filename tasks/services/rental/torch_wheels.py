"""Which PyTorch a machine can run: the one table of versions, of the CUDA they are built for, and what drivers run."""

import re
from collections.abc import Mapping

INDEX = "https://download.pytorch.org/whl"
"""Below it lies one package index for each CUDA, such as cu126."""
CPU_INDEX = f"{INDEX}/cpu"
BUILDS: Mapping[str, tuple[float, ...]] = {
    "2.6": (12.6, 12.4, 11.8),
    "2.7": (12.8, 12.6, 11.8),
    "2.8": (12.9, 12.8, 12.6),
    "2.9": (13.0, 12.8, 12.6),
    "2.10": (13.0, 12.8, 12.6),
    "2.11": (13.0, 12.8, 12.6),
    "2.12": (13.2, 13.0, 12.6),
    "2.13": (13.2, 13.0, 12.6),
    "2.14": (13.2, 13.0, 12.6),
}
"""For each version of PyTorch the CUDA of its wheels, newest first (PyTorch RFCs #172663, #178665, #190355)."""
NEWEST = "2.13.0"
"""What is asked for where a job pins no version."""
LEAST_CUDA = 12.4
"""What a driver must support where the image does not say what it was built for."""
CUDA_IN_IMAGE = re.compile(r"cuda[-_.:]?(\d+\.\d+)|[:-]cu(\d{2})(\d)\b")


def least_cuda(image: str) -> float:
    """The CUDA that a machine's driver must support to run the image: `cuda_max_good` of its offer, at least."""
    found = CUDA_IN_IMAGE.search(image)
    if found is None:
        return LEAST_CUDA
    version, major, minor = found.groups()
    return float(version or f"{major}.{minor}")


def build_for(torch: str, driver_cuda: float) -> float | None:
    """The CUDA of the wheel of this PyTorch that a driver can run; None where it can run none of them.

    A driver runs what was built for its own CUDA or an older one, and, by CUDA's minor version compatibility, what was
    built for a newer one of the same major version (from driver 525.60 for CUDA 12, 580 for CUDA 13).
    """
    builds = BUILDS.get(series_of(torch), ())
    older = [cuda for cuda in builds if cuda <= driver_cuda]
    same_major = [cuda for cuda in reversed(builds) if int(cuda) == int(driver_cuda)]
    return next(iter([*older, *same_major]), None)


def wheel_for(pinned: str, driver_cuda: float) -> tuple[str, str] | None:
    """What pip is asked for, and its index: the pinned version, or else the newest before it that the driver can run.

    None where it can run none. `driver_cuda`: the newest CUDA that the driver supports.
    """
    if (cuda := build_for(pinned, driver_cuda)) is not None:
        return f"torch=={pinned}", _index_of(cuda)
    for series in sorted(BUILDS, key=_as_numbers, reverse=True):
        cuda = build_for(series, driver_cuda)
        if cuda is not None and _as_numbers(series) < _as_numbers(series_of(pinned)):
            return f"torch=={series}.*", _index_of(cuda)
    return None


def series_of(version: str) -> str:
    """2.13 of 2.13.0+cu130."""
    return ".".join(version.partition("+")[0].split(".")[:2])


def _index_of(cuda: float) -> str:
    return f"{INDEX}/cu{cuda * 10:.0f}"


def _as_numbers(series: str) -> tuple[int, ...]:
    return tuple(int(part) for part in series.split("."))
