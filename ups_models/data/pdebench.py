"""PDEBench's HDF5 layout: write, read, split and inspect its files."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups_models.errors import DataError
from ups_models.files import atomic_path
from ups_models.problems import solvers as pde

BURGERS, ADVECTION, DARCY = "burgers1d", "advection1d", "darcy2d"
FAMILIES = (BURGERS, ADVECTION, DARCY)
PARAMETER = {BURGERS: "Nu", ADVECTION: "beta", DARCY: "beta"}  # root attribute, and part of PDEBench's file names
RANKS = {
    BURGERS: {"tensor": 3, "x-coordinate": 1, "t-coordinate": 1},
    ADVECTION: {"tensor": 3, "x-coordinate": 1, "t-coordinate": 1},
    DARCY: {"nu": 3, "tensor": 4, "x-coordinate": 1, "y-coordinate": 1},
}
CHUNK_BYTES = 64 * 2**20  # read and solve this much at a time
SPACING_TOLERANCE = 1e-2  # of one cell: float32 coordinates are uniform to about 1e-4

Array = npt.NDArray[Any]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Trajectories:
    """Solutions of a 1D family. u: (N, T, X) float32, x: (X,), t: (T,), parameter (nu or beta) and row: (N,).

    `row` is the number of the trajectory in its file: files of other parameters hold the same initial condition in
    the same row, so a split goes by row.
    """

    family: str
    u: Tensor
    x: Tensor
    t: Tensor
    parameter: Tensor
    row: Tensor

    @property
    def dt(self) -> float:
        """Time between two frames, in the time unit of the equation; NaN for a single frame."""
        return float(self.t[-1] - self.t[0]) / (len(self.t) - 1) if len(self.t) > 1 else math.nan

    def select(self, rows: Tensor) -> "Trajectories":
        """The trajectories of a boolean mask (N,) or of an index tensor."""
        return replace(self, u=self.u[rows], parameter=self.parameter[rows], row=self.row[rows])


@dataclass(frozen=True)
class SteadyFields:
    """Darcy coefficients and solutions. a, u: (N, H, W) float32, beta and row: (N,)."""

    a: Tensor
    u: Tensor
    beta: Tensor
    row: Tensor

    def select(self, rows: Tensor) -> "SteadyFields":
        """The samples of a boolean mask (N,) or of an index tensor."""
        return SteadyFields(a=self.a[rows], u=self.u[rows], beta=self.beta[rows], row=self.row[rows])


@dataclass(frozen=True)
class Split:
    """Boolean masks (N,), disjoint and complete."""

    train: Tensor
    val: Tensor
    test: Tensor


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
    """What a file holds: for `ups data info`. `dt` is None for steady fields."""

    path: Path
    size_bytes: int
    family: str
    parameter: float
    n_samples: int
    grid: tuple[int, ...]
    dt: float | None
    datasets: tuple[DatasetInfo, ...]
    n_nan: int
    n_inf: int
    n_duplicates: int
    attrs: dict[str, str]


# ---------------------------------------------------------------------------------------------------------------------
# Write


def generate(
    family: str,
    path: Path,
    *,
    n: int,
    seed: int,
    parameter: float,
    nx: int = 256,
    solver_nx: int | None = None,
    nt: int = 41,
    t_end: float = 2.0,
    on_progress: Progress | None = None,
) -> None:
    """Solve n samples and write them in PDEBench's layout; a failed run leaves no file.

    `parameter` is nu (Burgers) or beta. 1D: solved on `solver_nx` points, default 2 nx and more where nu asks for it,
    of which every (solver_nx / nx)-th is stored: those at x = (i + .5) / nx. Darcy: solved on nx^2 cells; `solver_nx`,
    `nt` and `t_end` do not apply. Sample i depends on seed and i alone.
    """
    path = Path(path)
    _check_request(family, path, n=n, nx=nx, solver_nx=solver_nx, nt=nt, t_end=t_end, parameter=parameter)
    rng = np.random.default_rng(seed)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({PARAMETER[family]: float(parameter), "seed": seed, "generator": "ups-pipeline"})
        centres = ((np.arange(nx) + 0.5) / nx).astype(np.float32)
        file["x-coordinate"] = centres
        if family == DARCY:
            file["y-coordinate"] = centres
            _write_darcy(file, n=n, nx=nx, beta=parameter, rng=rng, on_progress=on_progress)
        else:
            times = [i * t_end / (nt - 1) for i in range(nt + 1)]  # one too many, as in PDEBench
            file["t-coordinate"] = np.asarray(times, dtype=np.float32)
            file.attrs["t_end"] = float(t_end)
            problem = _Problem(family, parameter, solver_nx or _default_solver_nx(family, parameter, nx), times[:-1])
            _write_trajectories(file, problem, n=n, nx=nx, rng=rng, on_progress=on_progress)


@dataclass(frozen=True)
class _Problem:
    family: str
    parameter: float
    solver_nx: int
    times: list[float]


def _default_solver_nx(family: str, parameter: float, nx: int) -> int:
    return pde.burgers_resolution(parameter, nx) if family == BURGERS else 2 * nx


def _check_request(
    family: str, path: Path, *, n: int, nx: int, solver_nx: int | None, nt: int, t_end: float, parameter: float
) -> None:
    if family not in FAMILIES:
        raise DataError(f"{path}: no PDE family {family!r}. Use one of: {', '.join(FAMILIES)}")
    if n < 1 or nx < 4 or nt < 2 or not t_end > 0:
        raise DataError(
            f"{path}: cannot generate n={n}, nx={nx}, nt={nt}, t_end={t_end}. Use n>=1, nx>=4, nt>=2, t_end>0"
        )
    if solver_nx is not None and (family == DARCY or solver_nx % nx != 0 or solver_nx < nx):
        raise DataError(
            f"{path}: solver_nx={solver_nx} does not suit {family}. Use a multiple of nx={nx}; none for darcy2d"
        )
    if not math.isfinite(parameter) or (family == BURGERS and parameter <= 0):
        raise DataError(f"{path}: {PARAMETER[family]}={parameter} is not possible for {family}. Use a positive number")


def _write_trajectories(
    file: h5py.File, problem: _Problem, *, n: int, nx: int, rng: np.random.Generator, on_progress: Progress | None
) -> None:
    stride = problem.solver_nx // nx
    tensor = file.create_dataset("tensor", shape=(n, len(problem.times), nx), dtype=np.float32)
    solve = pde.burgers1d if problem.family == BURGERS else pde.advection1d
    for rows in _chunks(n, 8 * len(problem.times) * problem.solver_nx):
        u0 = pde.random_waves(len(rows), problem.solver_nx, rng, offset=stride / 2)
        u = solve(u0, problem.parameter, problem.times, on_progress=_counted_from(rows.start, on_progress))
        tensor[rows.start : rows.stop] = u[:, :, ::stride].to(torch.float32).numpy()


def _write_darcy(
    file: h5py.File, *, n: int, nx: int, beta: float, rng: np.random.Generator, on_progress: Progress | None
) -> None:
    coefficients = file.create_dataset("nu", shape=(n, nx, nx), dtype=np.float32)
    tensor = file.create_dataset("tensor", shape=(n, 1, nx, nx), dtype=np.float32)
    for rows in _chunks(n, 8 * nx * nx):
        a = pde.random_coefficients(len(rows), nx, rng)
        u = pde.darcy2d(a, beta, on_progress=_counted_from(rows.start, on_progress))
        coefficients[rows.start : rows.stop] = a.to(torch.float32).numpy()
        tensor[rows.start : rows.stop, 0] = u.to(torch.float32).numpy()


def _chunks(n: int, bytes_per_row: int) -> Iterator[range]:
    """Ranges of row numbers of at most CHUNK_BYTES each."""
    size = max(1, CHUNK_BYTES // max(1, bytes_per_row))
    for start in range(0, n, size):
        yield range(start, min(start + size, n))


def _counted_from(start: int, on_progress: Progress | None) -> Progress | None:
    return None if on_progress is None else lambda n_done: on_progress(start + n_done)


# ---------------------------------------------------------------------------------------------------------------------
# Read


def load_trajectories(
    paths: Sequence[Path],
    *,
    family: str,
    reduced_resolution: int = 1,
    reduced_resolution_t: int = 1,
    limit: int | None = None,
) -> Trajectories:
    """Read 1D files of one family and one grid, one after the other; `limit` keeps the first rows of each file.

    PDEBench's files of 201 x 1024 become its usual 41 x 256 with reduced_resolution=4 and reduced_resolution_t=5.
    """
    if family not in (BURGERS, ADVECTION):
        raise DataError(f"{_names(paths)}: {family!r} is no time-dependent family. Use {BURGERS} or {ADVECTION}")
    _check_request_to_load(paths, limit)
    parts = [_load_trajectory_file(path, family, reduced_resolution, reduced_resolution_t, limit) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        _check_same_grid(path, "x-coordinate", part.x, parts[0].x, paths[0])
        _check_same_grid(path, "t-coordinate", part.t, parts[0].t, paths[0])
    return replace(
        parts[0],
        u=torch.cat([part.u for part in parts]),
        parameter=torch.cat([part.parameter for part in parts]),
        row=torch.cat([part.row for part in parts]),
    )


def load_steady(paths: Sequence[Path], *, reduced_resolution: int = 1, limit: int | None = None) -> SteadyFields:
    """Read Darcy files of one grid, one after the other; `limit` keeps the first rows of each file."""
    _check_request_to_load(paths, limit)
    parts = [_load_steady_file(path, reduced_resolution, limit) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.a.shape[1:] != parts[0].a.shape[1:]:
            raise DataError(
                f"{path}: dataset 'tensor' has grid {tuple(part.a.shape[1:])}, but {paths[0]} has "
                f"{tuple(parts[0].a.shape[1:])}. Load files of one grid"
            )
    return SteadyFields(
        a=torch.cat([part.a for part in parts]),
        u=torch.cat([part.u for part in parts]),
        beta=torch.cat([part.beta for part in parts]),
        row=torch.cat([part.row for part in parts]),
    )


def _load_trajectory_file(
    path: Path, family: str, reduced_resolution: int, reduced_resolution_t: int, limit: int | None
) -> Trajectories:
    with _opened(path) as file:
        _check_family(file, path, family)
        parameter = _parameter(file, path, family)
        tensor = _dataset(file, path, "tensor", RANKS[family])
        n_rows, nt, nx = tensor.shape
        if nt < 2 or parameter <= 0:
            raise DataError(
                f"{path}: dataset 'tensor' has {nt} times and {PARAMETER[family]}={parameter:g}, but two times or more "
                f"and a positive {PARAMETER[family]} are needed. Use another file"
            )
        x, t = _coordinates(file, path, family, tensor)
        _check_divides(path, "tensor", "reduced_resolution", reduced_resolution, nx)
        _check_divides(path, "tensor", "reduced_resolution_t", reduced_resolution_t, nt - 1)
        n = n_rows if limit is None else min(limit, n_rows)
        u = _read_rows(
            tensor, path, n, (slice(None, None, reduced_resolution_t), slice(None, None, reduced_resolution))
        )
    return Trajectories(
        family=family,
        u=u,
        x=torch.from_numpy(x[::reduced_resolution].copy()),
        t=torch.from_numpy(t[::reduced_resolution_t].copy()),
        parameter=torch.full((n,), parameter),
        row=torch.arange(n),
    )


def _load_steady_file(path: Path, reduced_resolution: int, limit: int | None) -> SteadyFields:
    with _opened(path) as file:
        _check_family(file, path, DARCY)
        beta = _parameter(file, path, DARCY)
        coefficients = _dataset(file, path, "nu", RANKS[DARCY])
        tensor = _dataset(file, path, "tensor", RANKS[DARCY])
        _coordinates(file, path, DARCY, tensor)
        for size in tensor.shape[2:]:
            _check_divides(path, "tensor", "reduced_resolution", reduced_resolution, size)
        n = tensor.shape[0] if limit is None else min(limit, tensor.shape[0])
        every = slice(None, None, reduced_resolution)
        a = _read_rows(coefficients, path, n, (every, every))
        u = _read_rows(tensor, path, n, (slice(None), every, every))[:, 0]
    return SteadyFields(a=a, u=u, beta=torch.full((n,), beta), row=torch.arange(n))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 cannot read becomes a DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Create it with: ups data generate, or download it from PDEBench")
    if not h5py.is_hdf5(path):
        raise DataError(f"{path}: not an HDF5 file. Give a file in the PDEBench layout, or run: ups data generate")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: truncated or damaged HDF5 file ({reason}). Download or generate it again") from error


def _dataset(file: h5py.File, path: Path, name: str, ranks: dict[str, int]) -> h5py.Dataset:
    """The dataset, after a look at its rank and its type."""
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(
            f"{path}: dataset '{name}' is missing, the file has {sorted(file)}. Use a file in PDEBench's layout"
        )
    if len(dataset.shape) != ranks[name] or 0 in dataset.shape:
        raise DataError(
            f"{path}: dataset '{name}' has shape {dataset.shape}, expected {ranks[name]} non-empty dimensions. "
            f"Use a file in PDEBench's layout"
        )
    if dataset.dtype.kind != "f":
        raise DataError(f"{path}: dataset '{name}' has type {dataset.dtype}, expected float32. Convert it to float32")
    return dataset


def _family(file: h5py.File, path: Path) -> str:
    """The family by the datasets; the two 1D families, alike in these, by attribute or file name."""
    if "nu" in file or getattr(file.get("tensor"), "ndim", 0) == RANKS[DARCY]["tensor"]:
        return DARCY
    for family in (BURGERS, ADVECTION):
        if PARAMETER[family] in file.attrs:
            return family
    for family in (BURGERS, ADVECTION):
        if _parameter_in_name(path, family) is not None:
            return family
    if "tensor" not in file:
        raise DataError(
            f"{path}: dataset 'tensor' is missing, the file has {sorted(file)}. Use a file in PDEBench's layout"
        )
    raise DataError(
        f"{path}: dataset 'tensor' comes without attribute 'Nu' or 'beta'. Set one, or name the file like "
        f"1D_Burgers_Sols_Nu0.01.hdf5"
    )


def _check_family(file: h5py.File, path: Path, wanted: str) -> None:
    found = _family(file, path)
    if found != wanted:
        raise DataError(f"{path}: its datasets {sorted(file)} are those of {found}, not {wanted}. Give a {wanted} file")


def _parameter(file: h5py.File, path: Path, family: str) -> float:
    """nu or beta, of the attribute or else of the file name."""
    name = PARAMETER[family]
    if name not in file.attrs:
        value = _parameter_in_name(path, family)
        if value is None:
            raise DataError(
                f"{path}: attribute '{name}' of 'tensor' is missing. Set it, or name the file ..._{name}0.1.hdf5"
            )
        return value
    values = np.asarray(file.attrs[name])
    if values.size != 1 or values.dtype.kind not in "fiu":
        raise DataError(f"{path}: attribute '{name}' is {file.attrs[name]!r}, expected one number. Set it again")
    return float(values.reshape(-1)[0])


def _parameter_in_name(path: Path, family: str) -> float | None:
    match = re.search(rf"{PARAMETER[family]}(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)", Path(path).stem)
    return float(match.group(1)) if match else None


def _coordinates(file: h5py.File, path: Path, family: str, tensor: h5py.Dataset) -> tuple[Array, Array]:
    """The two coordinates, float32: x (X,) and t (T,), or x (H,) and y (W,)."""
    if family == DARCY:
        n, channels, height, width = tensor.shape
        coefficients = _dataset(file, path, "nu", RANKS[DARCY])
        if channels != 1 or coefficients.shape != (n, height, width):
            raise DataError(
                f"{path}: dataset 'nu' has shape {coefficients.shape} and 'tensor' {tensor.shape}, expected "
                f"(N, H, W) and (N, 1, H, W). Use a file in PDEBench's layout"
            )
        return _coordinate(file, path, "x-coordinate", family, height), _coordinate(
            file, path, "y-coordinate", family, width
        )
    _, nt, nx = tensor.shape
    return _coordinate(file, path, "x-coordinate", family, nx), _coordinate(file, path, "t-coordinate", family, nt)


def _coordinate(file: h5py.File, path: Path, name: str, family: str, size: int) -> Array:
    """A uniform coordinate (size,); PDEBench's t-coordinate has one value too many."""
    dataset = _dataset(file, path, name, RANKS[family])
    extra = 1 if name == "t-coordinate" else 0
    if not size <= dataset.shape[0] <= size + extra:
        raise DataError(
            f"{path}: dataset '{name}' has {dataset.shape[0]} values for {size} in 'tensor'. Generate the file again"
        )
    values = dataset[:size].astype(np.float32)
    steps = np.diff(values.astype(np.float64))
    if not np.isfinite(values).all() or (
        len(steps) > 0 and (steps.mean() <= 0 or np.abs(steps - steps.mean()).max() > SPACING_TOLERANCE * steps.mean())
    ):
        raise DataError(
            f"{path}: dataset '{name}' is not uniform and increasing. Interpolate the file to a uniform grid"
        )
    return np.asarray(values)


def _check_divides(path: Path, dataset: str, name: str, factor: int, size: int) -> None:
    if factor < 1 or size % factor != 0:
        raise DataError(
            f"{path}: {name}={factor} does not divide the {size} intervals of dataset '{dataset}'. Use a divisor"
        )


def _check_request_to_load(paths: Sequence[Path], limit: int | None) -> None:
    if len(paths) == 0:
        raise DataError("no data file given. Name at least one, or run: ups data generate")
    if limit is not None and limit < 1:
        raise DataError(f"{paths[0]}: limit={limit} leaves no row. Use a limit of at least 1")


def _check_same_grid(path: Path, name: str, found: Tensor, wanted: Tensor, wanted_path: Path) -> None:
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
        raise DataError(f"{path}: dataset '{name}' differs from that of {wanted_path}. Load files of one grid")


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)


def _read_rows(dataset: h5py.Dataset, path: Path, n: int, inner: tuple[slice, ...]) -> Tensor:
    """The first n rows, thinned out by `inner`, as float32; the file is read in chunks, never as a whole."""
    pieces = []
    name = dataset.name.lstrip("/")
    for rows in _chunks(n, dataset[0].nbytes):
        # HDF5 thins out the leading dimension fast and the last one slowly: that one is left to numpy
        values = dataset[(slice(rows.start, rows.stop), *inner[:-1])][..., inner[-1]].astype(np.float32)
        is_bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if is_bad.any():
            first = rows.start + int(is_bad.argmax())
            raise DataError(
                f"{path}: dataset '{name}' has NaN or Inf, first in row {first}. Remove it or generate it again"
            )
        pieces.append(torch.from_numpy(np.ascontiguousarray(values)))
    return torch.cat(pieces)


# ---------------------------------------------------------------------------------------------------------------------
# Split


def split_rows(row: Tensor, *, val: int, test: int) -> Split:
    """Rows [0, test) for the test, [test, test + val) for the validation, all others for the training. row: (N,).

    PDEBench's convention, and by row, so the twin of a trajectory under another nu falls on the same side.
    """
    if val < 0 or test < 0:
        raise DataError(f"a split of val={val} and test={test} rows is not possible. Use numbers >= 0")
    split = Split(train=row >= test + val, val=(row >= test) & (row < test + val), test=row < test)
    if not bool(split.train.any()):
        raise DataError(
            f"val={val} and test={test} rows leave none of {len(set(row.tolist()))} to train on. "
            f"Use fewer, or more data"
        )
    return split


# ---------------------------------------------------------------------------------------------------------------------
# Inspect


def inspect_family(path: Path) -> str:
    """Which of FAMILIES a file holds. Raises DataError."""
    with _opened(path) as file:
        return _family(file, path)


def inspect(path: Path) -> FileInfo:
    """Read a whole file in chunks and say what is in it; NaN and duplicates are counted, not refused."""
    path = Path(path)
    with _opened(path) as file:
        family = _family(file, path)
        ranks = RANKS[family]
        datasets = tuple(_dataset_info(_dataset(file, path, name, ranks), name) for name in ranks)
        tensor = file["tensor"]
        _, second = _coordinates(file, path, family, tensor)
        return FileInfo(
            path=path,
            size_bytes=path.stat().st_size,
            family=family,
            parameter=_parameter(file, path, family),
            n_samples=tensor.shape[0],
            grid=tuple(tensor.shape[2:]),
            dt=None if family == DARCY or len(second) == 1 else float(second[-1] - second[0]) / (len(second) - 1),
            datasets=datasets,
            n_nan=sum(info.n_nan for info in datasets),
            n_inf=sum(info.n_inf for info in datasets),
            n_duplicates=_n_duplicates(tensor),
            attrs={name: str(value) for name, value in file.attrs.items()},
        )


def _dataset_info(dataset: h5py.Dataset, name: str) -> DatasetInfo:
    low, high, total, n_finite, n_nan, n_inf = math.inf, -math.inf, 0.0, 0, 0, 0
    for rows in _chunks(dataset.shape[0], dataset[0].nbytes):
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


def _n_duplicates(tensor: h5py.Dataset) -> int:
    """Rows that repeat an earlier row to the bit."""
    seen: set[bytes] = set()
    for rows in _chunks(tensor.shape[0], tensor[0].nbytes):
        seen.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in tensor[rows.start : rows.stop])
    return int(tensor.shape[0]) - len(seen)
