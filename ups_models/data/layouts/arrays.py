"""A file of plain arrays: what our own solvers write for any problem, and what a user may write in ten lines.

HDF5 with `u` (N, T, C, *space) float32, `t` (T,) and a coordinate for each axis by its name. Attributes: `problem`, its
name; and each parameter by its name, one number or one for each trajectory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ups_models.data.fields import Fields, joined
from ups_models.data.layouts.hdf5 import is_uniform, names_in, open_hdf5, read_rows, require_own_data
from ups_models.errors import DataError
from ups_models.problems.problem import Problem
from ups_models.problems.registry import EVOLVING
from ups_models.wording import shown

FIELDS, TIMES, PROBLEM = "u", "t", "problem"


def write_arrays(file: h5py.File, problem: Problem, *, n: int, points: int, t: Sequence[float]) -> h5py.Dataset:
    """All but parameters and fields, which the caller fills in: the dataset (n, T, C, *space) float32."""
    file.attrs.update({PROBLEM: problem.name, "channels": ",".join(problem.channels)})
    file[TIMES] = np.asarray(t, dtype=np.float32)
    for axis in problem.axes:
        file[axis.name] = np.asarray(axis.positions(points), dtype=np.float32)
    grid = (points,) * problem.dimensions
    return file.create_dataset(FIELDS, shape=(n, len(t), len(problem.channels), *grid), dtype=np.float32)


def load_arrays(
    paths: Sequence[Path], problem: Problem, *, stride: int = 1, stride_t: int = 1, limit: int | None = None
) -> Fields:
    """Read files of one problem and one grid, one after the other; `limit` keeps the first rows of each.

    Every `stride`-th point of each axis and every `stride_t`-th time are kept. Raises DataError.
    """
    if not paths:
        raise DataError("no data file given. Name at least one, or run: ups data generate")
    parts = [_load(path, problem, stride, stride_t, limit) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        pairs = zip((*part.axes, part.t), (*parts[0].axes, parts[0].t), strict=True)
        if not all(
            one.shape == first.shape and torch.allclose(one, first, rtol=1e-4, atol=1e-5) for one, first in pairs
        ):
            raise DataError(f"{path}: its grid or times differ from those of {paths[0]}. Load files of one grid")
    return joined(parts)


def is_arrays(file: h5py.File) -> bool:
    """Whether a file is of this layout."""
    return FIELDS in file and TIMES in file


@contextmanager
def open_arrays(path: Path, wanted: Problem | None = None) -> Iterator["ArraysFile"]:
    """Open for reading. Raises DataError for a file of another layout, and for one that is of another problem."""
    with open_hdf5(path) as file:
        if not is_arrays(file):
            raise DataError(
                f"{path}: datasets '{FIELDS}' and '{TIMES}' are missing, the file has {names_in(file)}. Write u "
                "(N, T, C, *space), t and a coordinate for each axis (docs/data.md)"
            )
        name = file.attrs.get(PROBLEM)
        found = EVOLVING.get(str(name)) if name is not None else wanted
        if found is None:
            raise DataError(
                f"{path}: its attribute '{PROBLEM}' is {shown(name) if name is not None else 'missing'}. Set it to one "
                f"of: {', '.join(EVOLVING)}"
            )
        if wanted is not None and found.name != wanted.name:
            raise DataError(f"{path}: holds {found.name}, not {wanted.name}. Set data.problem: {found.name}")
        yield ArraysFile(path, file, found)


@dataclass(frozen=True)
class ArraysFile:
    """A file that is open for reading; whatever it returns was checked. Raises DataError."""

    path: Path
    file: h5py.File
    problem: Problem

    def fields(self) -> h5py.Dataset:
        """u (N, T, C, *space)."""
        u = self._dataset(FIELDS)
        wanted = 3 + self.problem.dimensions
        if u.ndim != wanted or 0 in u.shape or u.shape[2] != len(self.problem.channels):
            raise DataError(
                f"{self.path}: dataset 'u' has shape {u.shape}, but {self.problem.name} needs (N, T, "
                f"{len(self.problem.channels)}, {', '.join(axis.name for axis in self.problem.axes)}), the channels "
                f"being {', '.join(self.problem.channels)}"
            )
        return u

    def coordinates(self) -> tuple[Tensor, ...]:
        """Times, then the coordinate along each axis."""
        shape = self.fields().shape
        names = (TIMES, *(axis.name for axis in self.problem.axes))
        return tuple(self._uniform(name, size) for name, size in zip(names, (shape[1], *shape[3:]), strict=True))

    def parameters(self, n: int) -> Tensor:
        """The problem's parameters of the first n rows, (n, P) float32."""
        columns = []
        for one in self.problem.parameters:
            if one.name not in self.file.attrs:
                raise DataError(f"{self.path}: attribute '{one.name}' is missing. Set it to the parameter's value")
            values = np.asarray(self.file.attrs[one.name])
            if values.dtype.kind not in "fiu" or values.size not in (1, len(self.fields())):
                raise DataError(
                    f"{self.path}: attribute '{one.name}' is {shown(self.file.attrs[one.name])}, expected one number, "
                    "or one for each trajectory"
                )
            for value in np.unique(values):
                if not one.allows(float(value)):
                    raise DataError(f"{self.path}: {one.name}={value:g} is not possible for {self.problem.name}")
            full = np.broadcast_to(
                values.reshape(-1).astype(np.float32), (len(self.fields()),) if values.size > 1 else (n,)
            )
            columns.append(torch.from_numpy(full[:n].copy()))
        return torch.stack(columns, 1) if columns else torch.zeros(n, 0)

    def _dataset(self, name: str) -> h5py.Dataset:
        dataset = self.file.get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
            raise DataError(
                f"{self.path}: dataset '{name}' is missing, or no floats; the file has {names_in(self.file)}"
            )
        require_own_data(self.path, name, dataset)
        return dataset

    def _uniform(self, name: str, size: int) -> Tensor:
        values = np.asarray(self._dataset(name)[:], dtype=np.float64)
        if values.shape != (size,) or not is_uniform(values):
            raise DataError(
                f"{self.path}: dataset '{name}' has shape {values.shape}, expected {size} increasing values at equal "
                "distances. Interpolate the file to a uniform grid"
            )
        return torch.from_numpy(values.astype(np.float32))


def _load(path: Path, problem: Problem, stride: int, stride_t: int, limit: int | None) -> Fields:
    with open_arrays(path, problem) as source:
        n_rows, nt, _, *grid = source.fields().shape
        if nt < 2:
            raise DataError(f"{path}: dataset 'u' has one time, but two or more are needed. Use another file")
        if any(size % stride for size in grid) or (nt - 1) % stride_t:
            raise DataError(
                f"{path}: reduced_resolution={stride} and reduced_resolution_t={stride_t} do not divide its {grid} "
                f"points and {nt - 1} steps. Use divisors"
            )
        t, *axes = source.coordinates()
        n = n_rows if limit is None else min(limit, n_rows)
        inner = (slice(None, None, stride_t), slice(None), *[slice(None, None, stride)] * problem.dimensions)
        u, parameters = read_rows(path, FIELDS, source.fields(), n, inner), source.parameters(n)
    return Fields(problem, u, tuple(one[::stride] for one in axes), t[::stride_t], parameters, torch.arange(n))
