"""What a data file holds, and what is wrong with it."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ups_models.data.chunks import chunks
from ups_models.data.layouts.pdebench import bytes_of_row, open_file
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
    parameter: float
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
    with open_file(path) as source:
        datasets = tuple(_dataset_info(source.dataset(name), name) for name in source.ranks)
        tensor = source.dataset("tensor")
        _, second = source.coordinates()
        is_single = source.problem.steady or len(second) == 1
        return FileInfo(
            path=path,
            size_bytes=path.stat().st_size,
            family=source.problem.name,
            parameter=source.parameter(),
            n_samples=tensor.shape[0],
            grid=tuple(tensor.shape[2:]),
            dt=None if is_single else float(second[-1] - second[0]) / (len(second) - 1),
            datasets=datasets,
            n_nan=sum(info.n_nan for info in datasets),
            n_inf=sum(info.n_inf for info in datasets),
            n_duplicates=_n_duplicates(tensor),
            attrs={plain(name): shortened(value) for name, value in source.file.attrs.items()},
        )


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
