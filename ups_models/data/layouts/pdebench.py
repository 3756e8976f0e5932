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

from ups_models.data.fields import SteadyFields
from ups_models.data.layouts.hdf5 import as_float32, is_uniform, names_in, open_hdf5, read_rows, require_own_data
from ups_models.data.layouts.source import Source
from ups_models.errors import DataError
from ups_models.problems.problem import Problem
from ups_models.problems.registry import ADVECTION, BURGERS, DARCY, REACTION_DIFFUSION
from ups_models.wording import shortened, shown

TRAJECTORY_RANKS = {"tensor": 3, "x-coordinate": 1, "t-coordinate": 1}
STEADY_RANKS = {"nu": 3, "tensor": 4, "x-coordinate": 1, "y-coordinate": 1}
OF_PDEBENCH = (BURGERS, ADVECTION, REACTION_DIFFUSION)
"""Problems of its 1D files, told apart by their parameters."""
LAYOUT = "PDEBench's arrays"

Array = npt.NDArray[Any]


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


def is_pdebench(file: h5py.File) -> bool:
    """Whether an HDF5 file has the datasets of 1D trajectories or of Darcy flow."""
    return not {"tensor", "nu", "x-coordinate"}.isdisjoint(file)


def look(path: Path, file: h5py.File, wanted: Problem | None) -> Source:
    """What a file says of 1D trajectories, or of Darcy flow. Raises DataError."""
    problem = _problem_in(file, path, wanted)
    source = PDEBenchFile(path, file, problem)
    tensor = source.dataset("tensor")
    first, second = source.coordinates()
    for name in source.ranks:
        source.dataset(name)  # each is looked at before it is read
    shape = tensor.shape if problem.steady else (tensor.shape[0], tensor.shape[1], 1, tensor.shape[2])

    def read(rows: slice, times: slice, points: slice, _: Sequence[int]) -> Array:
        return np.asarray(tensor[rows, times][..., points])[:, :, None]

    return Source(
        path,
        LAYOUT,
        problem.name,
        "dataset 'tensor'",
        (shape[0], 1, *shape[1:]) if problem.steady else shape,
        problem.channels,
        np.zeros(1) if problem.steady else second.astype(np.float64),
        (first, second) if problem.steady else (first,),
        {name: np.asarray(value) for name, value in source.parameters().items()},
        read,
        datasets={name: source.dataset(name) for name in source.ranks},
        attrs=dict(file.attrs),
    )


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

    def parameters(self) -> dict[str, float]:
        """The problem's, of the attributes or else of the file name; without those that neither has."""
        found = {}
        for one in self.problem.parameters:
            value = self._attribute(one.name) if one.name in self.file.attrs else _number_in(self.path, one.name)
            if value is not None:
                found[one.name] = value
        return found

    def _attribute(self, name: str) -> float:
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
def open_steady(path: Path) -> Iterator[PDEBenchFile]:
    """Open Darcy flow for reading; whatever HDF5 cannot read becomes a DataError."""
    path = Path(path)
    with open_hdf5(path) as file:
        found = _problem_in(file, path, None)
        if found != DARCY:
            raise DataError(
                f"{path}: its datasets {names_in(file)} are those of {found.name}, not {DARCY.name}. Give a "
                f"{DARCY.name} file"
            )
        yield PDEBenchFile(path, file, found)


def _problem_in(file: h5py.File, path: Path, wanted: Problem | None) -> Problem:
    """Steady states by the datasets; trajectories by all of the parameters that attributes and file name have."""
    if "nu" in file or getattr(file.get("tensor"), "ndim", 0) == STEADY_RANKS["tensor"]:
        return DARCY
    if "tensor" not in file:
        raise _missing(path, file, "tensor")
    names = {one.name for problem in OF_PDEBENCH for one in problem.parameters}
    there = {name for name in names if name in file.attrs or _number_in(path, name) is not None}
    fitting = [problem for problem in OF_PDEBENCH if {one.name for one in problem.parameters} == there]
    if fitting:
        return fitting[0]
    if wanted is not None and not there and wanted in OF_PDEBENCH:
        return wanted
    raise DataError(
        f"{path}: dataset 'tensor' comes with {' and '.join(sorted(there)) or 'no parameter'}, expected the attribute "
        "'Nu' of Burgers, 'beta' of advection, or 'Nu' and 'rho' of reaction-diffusion. Set them, or name the file "
        "like 1D_Burgers_Sols_Nu0.01.hdf5"
    )


def _missing(path: Path, file: h5py.File, name: str) -> DataError:
    return DataError(
        f"{path}: dataset '{name}' is missing, the file has {names_in(file)}. Use a file in PDEBench's layout"
    )


def _number_in(path: Path, name: str) -> float | None:
    """The value of a parameter as PDEBench's file names have it, as in ReacDiff_Nu0.5_Rho1.0."""
    match = re.search(rf"(?:^|[_-]){name}(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)", path.stem, re.IGNORECASE)
    return float(match.group(1)) if match else None


def _load_steady_file(path: Path, reduced_resolution: int, limit: int | None) -> SteadyFields:
    with open_steady(path) as source:
        (beta_name,) = (one.name for one in DARCY.parameters)
        beta = source.parameters().get(beta_name)
        if beta is None:
            raise DataError(
                f"{path}: attribute '{beta_name}' of 'tensor' is missing. Set it, or name the file "
                f"..._{beta_name}0.1.hdf5"
            )
        source.coordinates()
        n_rows, _, *sizes = source.dataset("tensor").shape
        if reduced_resolution < 1 or any(size % reduced_resolution for size in sizes):
            raise DataError(
                f"{path}: reduced_resolution={reduced_resolution} does not divide the {sizes[0]} intervals of dataset "
                "'tensor'. Use a divisor"
            )
        n = n_rows if limit is None else min(limit, n_rows)
        every = slice(None, None, reduced_resolution)
        a = read_rows(path, "nu", source.dataset("nu"), n, (every, every))
        u = read_rows(path, "tensor", source.dataset("tensor"), n, (slice(None), every, every))[:, 0]
    return SteadyFields(a=a, u=u, beta=torch.full((n,), beta), row=torch.arange(n))


def _check_request(paths: Sequence[Path], limit: int | None) -> None:
    if len(paths) == 0:
        raise DataError("no data file given. Name at least one, or run: ups data generate")
    if limit is not None and limit < 1:
        raise DataError(f"{paths[0]}: limit={limit} leaves no row. Use a limit of at least 1")
