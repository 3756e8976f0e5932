"""PDEBench's HDF5 layout: what is read from it, and what is refused."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups_models.data.fields import Fields, SteadyFields, joined
from ups_models.data.layouts.hdf5 import as_float32, is_uniform, names_in, open_hdf5, read_rows, require_own_data
from ups_models.errors import DataError
from ups_models.problems.problem import Problem
from ups_models.problems.registry import ADVECTION, BURGERS, DARCY
from ups_models.wording import shortened, shown

TRAJECTORY_RANKS = {"tensor": 3, "x-coordinate": 1, "t-coordinate": 1}
STEADY_RANKS = {"nu": 3, "tensor": 4, "x-coordinate": 1, "y-coordinate": 1}
OF_PDEBENCH = {problem.name: problem for problem in (BURGERS, ADVECTION)}
"""Problems whose 1D files are read."""

Array = npt.NDArray[Any]


def load_trajectories(
    paths: Sequence[Path],
    *,
    family: str,
    reduced_resolution: int = 1,
    reduced_resolution_t: int = 1,
    limit: int | None = None,
) -> Fields:
    """Read 1D files of one family and one grid, one after the other; `limit` keeps the first rows of each file.

    PDEBench's files of 201 x 1024 become its usual 41 x 256 with reduced_resolution=4 and reduced_resolution_t=5.
    """
    if family not in OF_PDEBENCH:
        names = ", ".join(str(path) for path in paths)
        raise DataError(f"{names}: PDEBench has no 1D files of {family!r}. Use {' or '.join(OF_PDEBENCH)}")
    _check_request(paths, limit)
    problem = OF_PDEBENCH[family]
    parts = [_load_trajectory_file(path, problem, reduced_resolution, reduced_resolution_t, limit) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        _check_same_grid(path, "x-coordinate", part.axes[0], parts[0].axes[0], paths[0])
        _check_same_grid(path, "t-coordinate", part.t, parts[0].t, paths[0])
    return joined(parts)


def load_steady(paths: Sequence[Path], *, reduced_resolution: int = 1, limit: int | None = None) -> SteadyFields:
    """Read Darcy files of one grid, one after the other; `limit` keeps the first rows of each file."""
    _check_request(paths, limit)
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


def problem_of(path: Path) -> Problem:
    """Which problem's solutions a file holds. Raises DataError."""
    with open_file(path) as source:
        return source.problem


@dataclass(frozen=True)
class PDEBenchFile:
    """A file that is open for reading; whatever it returns was checked. Raises DataError."""

    path: Path
    file: h5py.File
    problem: Problem

    @property
    def ranks(self) -> dict[str, int]:
        """The datasets that must be there, and their numbers of dimensions."""
        return STEADY_RANKS if self.problem.steady else TRAJECTORY_RANKS

    def dataset(self, name: str) -> h5py.Dataset:
        """A dataset, after a look at its rank and its type."""
        dataset = self.file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise _missing(self.path, self.file, name)
        if len(dataset.shape) != self.ranks[name] or 0 in dataset.shape:
            raise DataError(
                f"{self.path}: dataset '{name}' has shape {dataset.shape}, expected {self.ranks[name]} non-empty "
                f"dimensions. Use a file in PDEBench's layout"
            )
        if dataset.dtype.kind != "f":
            raise DataError(
                f"{self.path}: dataset '{name}' has type {shortened(dataset.dtype)}, expected float32. Convert it to "
                "float32"
            )
        require_own_data(self.path, name, dataset)
        return dataset

    def parameter(self) -> float:
        """nu or beta, of the attribute or else of the file name."""
        name = self.problem.parameters[0].name
        if name not in self.file.attrs:
            value = _parameter_in_name(self.path, self.problem)
            if value is None:
                raise DataError(
                    f"{self.path}: attribute '{name}' of 'tensor' is missing. Set it, or name the file "
                    f"..._{name}0.1.hdf5"
                )
            return value
        values = np.asarray(self.file.attrs[name])
        if values.size != 1 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise DataError(
                f"{self.path}: attribute '{name}' is {shown(self.file.attrs[name])}, expected one number. Set it again"
            )
        return float(values.reshape(-1)[0])

    def coordinates(self) -> tuple[Array, Array]:
        """The two coordinates, float32: x (X,) and t (T,), or x (H,) and y (W,)."""
        shape = self.dataset("tensor").shape
        if not self.problem.steady:
            _, nt, nx = shape
            return self._coordinate("x-coordinate", nx), self._coordinate("t-coordinate", nt)
        n, channels, height, width = shape
        coefficients = self.dataset("nu")
        if channels != 1 or coefficients.shape != (n, height, width):
            raise DataError(
                f"{self.path}: dataset 'nu' has shape {coefficients.shape} and 'tensor' {shape}, expected "
                f"(N, H, W) and (N, 1, H, W). Use a file in PDEBench's layout"
            )
        return self._coordinate("x-coordinate", height), self._coordinate("y-coordinate", width)

    def _coordinate(self, name: str, size: int) -> Array:
        """A uniform coordinate (size,); PDEBench's t-coordinate has one value too many."""
        dataset = self.dataset(name)
        extra = 1 if name == "t-coordinate" else 0
        if not size <= dataset.shape[0] <= size + extra:
            raise DataError(
                f"{self.path}: dataset '{name}' has {dataset.shape[0]} values for {size} in 'tensor'. "
                f"Generate the file again"
            )
        values = as_float32(dataset[:size])
        if not is_uniform(values):
            raise DataError(
                f"{self.path}: dataset '{name}' is not uniform and increasing. Interpolate the file to a uniform grid"
            )
        return values


@contextmanager
def open_file(path: Path, wanted: Problem | None = None) -> Iterator[PDEBenchFile]:
    """Open for reading, and be sure of the problem; whatever HDF5 cannot read becomes a DataError."""
    path = Path(path)
    with open_hdf5(path) as file:
        found = _problem_in(file, path)
        if wanted is not None and found != wanted:
            raise DataError(
                f"{path}: its datasets {names_in(file)} are those of {found.name}, not {wanted.name}. "
                f"Give a {wanted.name} file"
            )
        yield PDEBenchFile(path, file, found)


def _problem_in(file: h5py.File, path: Path) -> Problem:
    """The problem by the datasets; those with trajectories, alike in these, by attribute or file name."""
    if "nu" in file or getattr(file.get("tensor"), "ndim", 0) == STEADY_RANKS["tensor"]:
        return DARCY
    known = OF_PDEBENCH.values()
    by_attribute = [problem for problem in known if problem.parameters[0].name in file.attrs]
    by_name = [problem for problem in known if _parameter_in_name(path, problem) is not None]
    found = next(iter(by_attribute + by_name), None)
    if found is not None:
        return found
    if "tensor" not in file:
        raise _missing(path, file, "tensor")
    raise DataError(
        f"{path}: dataset 'tensor' comes without attribute 'Nu' or 'beta'. Set one, or name the file like "
        f"1D_Burgers_Sols_Nu0.01.hdf5"
    )


def _missing(path: Path, file: h5py.File, name: str) -> DataError:
    return DataError(
        f"{path}: dataset '{name}' is missing, the file has {names_in(file)}. Use a file in PDEBench's layout"
    )


def _parameter_in_name(path: Path, problem: Problem) -> float | None:
    match = re.search(rf"{problem.parameters[0].name}(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)", path.stem)
    return float(match.group(1)) if match else None


def _load_trajectory_file(
    path: Path, problem: Problem, reduced_resolution: int, reduced_resolution_t: int, limit: int | None
) -> Fields:
    with open_file(path, problem) as source:
        parameter, name = source.parameter(), problem.parameters[0].name
        n_rows, nt, nx = source.dataset("tensor").shape
        if nt < 2 or parameter <= 0:
            raise DataError(
                f"{path}: dataset 'tensor' has {nt} times and {name}={parameter:g}, but two times or more "
                f"and a positive {name} are needed. Use another file"
            )
        x, t = source.coordinates()
        _check_divides(path, "reduced_resolution", reduced_resolution, nx)
        _check_divides(path, "reduced_resolution_t", reduced_resolution_t, nt - 1)
        n = n_rows if limit is None else min(limit, n_rows)
        u = read_rows(
            path,
            "tensor",
            source.dataset("tensor"),
            n,
            (slice(None, None, reduced_resolution_t), slice(None, None, reduced_resolution)),
        )
    return Fields(
        problem=problem,
        u=u[:, :, None],
        axes=(torch.from_numpy(x[::reduced_resolution].copy()),),
        t=torch.from_numpy(t[::reduced_resolution_t].copy()),
        parameters=torch.full((n, 1), parameter),
        row=torch.arange(n),
    )


def _load_steady_file(path: Path, reduced_resolution: int, limit: int | None) -> SteadyFields:
    with open_file(path, DARCY) as source:
        beta = source.parameter()
        source.coordinates()
        n_rows, _, *sizes = source.dataset("tensor").shape
        for size in sizes:
            _check_divides(path, "reduced_resolution", reduced_resolution, size)
        n = n_rows if limit is None else min(limit, n_rows)
        every = slice(None, None, reduced_resolution)
        a = read_rows(path, "nu", source.dataset("nu"), n, (every, every))
        u = read_rows(path, "tensor", source.dataset("tensor"), n, (slice(None), every, every))[:, 0]
    return SteadyFields(a=a, u=u, beta=torch.full((n,), beta), row=torch.arange(n))


def _check_divides(path: Path, name: str, factor: int, size: int) -> None:
    if factor < 1 or size % factor != 0:
        raise DataError(
            f"{path}: {name}={factor} does not divide the {size} intervals of dataset 'tensor'. Use a divisor"
        )


def _check_request(paths: Sequence[Path], limit: int | None) -> None:
    if len(paths) == 0:
        raise DataError("no data file given. Name at least one, or run: ups data generate")
    if limit is not None and limit < 1:
        raise DataError(f"{paths[0]}: limit={limit} leaves no row. Use a limit of at least 1")


def _check_same_grid(path: Path, name: str, found: Tensor, wanted: Tensor, wanted_path: Path) -> None:
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
        raise DataError(f"{path}: dataset '{name}' differs from that of {wanted_path}. Load files of one grid")
