"""What a data file holds, and what is wrong with it."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ups_models.data.chunks import chunks
from ups_models.data.layouts.arrays import FIELDS, TIMES, open_arrays
from ups_models.data.layouts.hdf5 import bytes_of_row
from ups_models.data.layouts.pdebench import Array, open_file
from ups_models.data.layouts.reading import has_arrays
from ups_models.problems.problem import Problem
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
    """What a file holds: for `ups data info`. `dt` is None for steady fields."""

    path: Path
    size_bytes: int
    family: str
    channels: tuple[str, ...]
    parameters: dict[str, str]
    n_samples: int
    grid: tuple[int, ...]
    dt: float | None
    datasets: tuple[DatasetInfo, ...]
    n_nan: int
    n_inf: int
    n_duplicates: int
    attrs: dict[str, str]


def inspect(path: Path) -> FileInfo:
    """Read a whole file in chunks and say what is in it; NaN and duplicates are counted, not refused."""
    path = Path(path)
    return _of_arrays(path) if has_arrays(path) else _of_pdebench(path)


def _of_arrays(path: Path) -> FileInfo:
    with open_arrays(path) as source:
        u = source.fields()
        t, *axes = source.coordinates()
        names = (FIELDS, TIMES, *(axis.name for axis in source.problem.axes))
        values = source.parameters(len(u))
        parameters = {
            one.name: _spread(column.tolist()) for one, column in zip(source.problem.parameters, values.T, strict=True)
        }
        return _info(
            path,
            source.file,
            source.problem,
            u,
            names,
            parameters,
            tuple(map(len, axes)),
            t.numpy() if len(t) > 1 else None,
        )


def _of_pdebench(path: Path) -> FileInfo:
    with open_file(path) as source:
        tensor = source.dataset("tensor")
        _, second = source.coordinates()
        is_single = source.problem.steady or len(second) == 1
        for name in source.ranks:
            source.dataset(name)  # each is looked at before it is read
        parameters = {source.problem.parameters[0].name: _spread([source.parameter()])}
        grid, times = tuple(tensor.shape[2:]), None if is_single else second
        return _info(path, source.file, source.problem, tensor, tuple(source.ranks), parameters, grid, times)


def _info(
    path: Path,
    file: h5py.File,
    problem: Problem,
    rows: h5py.Dataset,
    names: tuple[str, ...],
    parameters: dict[str, str],
    grid: tuple[int, ...],
    times: Array | None,
) -> FileInfo:
    datasets = tuple(_dataset_info(file[name], name) for name in names)
    return FileInfo(
        path=path,
        size_bytes=path.stat().st_size,
        family=problem.name,
        channels=problem.channels,
        parameters=parameters,
        n_samples=rows.shape[0],
        grid=grid,
        dt=None if times is None else float(times[-1] - times[0]) / (len(times) - 1),
        datasets=datasets,
        n_nan=sum(info.n_nan for info in datasets),
        n_inf=sum(info.n_inf for info in datasets),
        n_duplicates=_n_duplicates(rows),
        attrs={plain(name): shortened(value) for name, value in file.attrs.items()},
    )


def _spread(values: list[float]) -> str:
    """One value, or the range of several."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _dataset_info(dataset: h5py.Dataset, name: str) -> DatasetInfo:
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


def _n_duplicates(tensor: h5py.Dataset) -> int:
    """Rows that repeat an earlier row to the bit."""
    seen: set[bytes] = set()
    for rows in chunks(tensor.shape[0], bytes_of_row(tensor)):
        seen.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in tensor[rows.start : rows.stop])
    return int(tensor.shape[0]) - len(seen)
