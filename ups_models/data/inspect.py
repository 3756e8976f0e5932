"""What a data file holds, and what is wrong with it."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ups_models.data.chunks import chunks
from ups_models.data.layouts.hdf5 import Array, bytes_of_row
from ups_models.data.layouts.pdebench import load_steady
from ups_models.data.layouts.reading import open_source
from ups_models.data.layouts.source import Request, Source, require_fields
from ups_models.problems.problem import Problem, Values
from ups_models.wording import plain, shortened


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset of a file; the statistics are over its finite values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    min: float
    max: float
    mean: float
    n_nan: int
    n_inf: int


@dataclass(frozen=True)
class FileInfo:
    """What a file holds: for `ups data info`; None is what it does not say."""

    path: Path
    layout: str
    size_bytes: int
    problem: str | None
    channels: tuple[str, ...]
    parameters: dict[str, str]
    n_samples: int
    grid: tuple[int, ...]
    n_times: int
    dt: float | None
    periodic: tuple[bool, ...] | None
    datasets: tuple[DatasetInfo, ...]
    n_nan: int
    n_inf: int
    n_duplicates: int
    attrs: dict[str, str]


def inspect(path: Path, problem: Problem | None = None, layout: str | None = None) -> FileInfo:
    """Read a whole file in chunks and say what is in it; NaN and duplicates are counted, not refused.

    `problem` is the one that it is read as, `layout` a function of the user's that reads it. Raises BadInput.
    """
    with open_source(Path(path), problem, layout) as source:
        n, nt, n_channels, *grid = source.shape
        datasets = tuple(_dataset_info(values, name) for name, values in source.datasets.items())
        t = source.t
        return FileInfo(
            path=source.path,
            layout=source.layout,
            size_bytes=source.path.stat().st_size,
            problem=source.says,
            channels=source.channels or tuple(f"#{number}" for number in range(n_channels)),
            parameters={name: _spread(values) for name, values in source.parameters.items() if _are_numbers(values)},
            n_samples=n,
            grid=tuple(grid),
            n_times=nt,
            dt=float(t[-1] - t[0]) / (len(t) - 1) if len(t) > 1 else None,
            periodic=source.periodic,
            datasets=datasets,
            n_nan=sum(info.n_nan for info in datasets),
            n_inf=sum(info.n_inf for info in datasets),
            n_duplicates=_n_duplicates(source),
            attrs={plain(name): shortened(value) for name, value in source.attrs.items()},
        )


def require_trainable(path: Path, problem: Problem, layout: str | None = None, said: Values | None = None) -> None:
    """Raise DataError where training on the file as this problem would; `said` are parameters that it does not tell."""
    if problem.steady:
        load_steady([path])
        return
    with open_source(Path(path), problem, layout) as source:
        require_fields(source, Request(problem, said=said or {}))


def _are_numbers(values: Array) -> bool:
    return values.dtype.kind in "fiu" and values.size > 0


def _spread(values: Array) -> str:
    """One value, or the range of several."""
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _dataset_info(dataset: Any, name: str) -> DatasetInfo:
    low, high, total, n_finite, n_nan, n_inf = math.inf, -math.inf, 0.0, 0, 0, 0
    for rows in chunks(dataset.shape[0], bytes_of_row(dataset)):
        values = dataset[rows.start : rows.stop]
        n_nan += int(np.isnan(values).sum())
        n_inf += int(np.isinf(values).sum())
        finite = values[np.isfinite(values)].astype(np.float64)
        if finite.size > 0:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            total, n_finite = total + float(finite.sum()), n_finite + finite.size
    if n_finite == 0:
        low = high = total = math.nan
    return DatasetInfo(
        name=name,
        shape=tuple(dataset.shape),
        dtype=str(dataset.dtype),
        min=low,
        max=high,
        mean=total / max(1, n_finite),
        n_nan=n_nan,
        n_inf=n_inf,
    )


def _n_duplicates(source: Source) -> int:
    """Rows that repeat an earlier row to the bit."""
    seen: set[bytes] = set()
    n, *inner = source.shape
    everything, which = slice(None), range(inner[1])
    for rows in chunks(n, 4 * math.prod(inner)):
        values = np.ascontiguousarray(source.read(slice(rows.start, rows.stop), everything, everything, list(which)))
        seen.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in values)
    return n - len(seen)
