"""A data file of whichever layout: whose it is, and its trajectories."""

from collections.abc import Sequence
from pathlib import Path

from ups_models.data.fields import Fields
from ups_models.data.layouts import arrays, pdebench
from ups_models.data.layouts.hdf5 import open_hdf5
from ups_models.errors import DataError
from ups_models.problems.problem import Problem


def load_fields(
    paths: Sequence[Path], problem: Problem, *, stride: int = 1, stride_t: int = 1, limit: int | None = None
) -> Fields:
    """Trajectories of one problem from files of one layout and grid. Raises DataError."""
    of_arrays = [has_arrays(path) for path in paths]
    if all(of_arrays):
        return arrays.load_arrays(paths, problem, stride=stride, stride_t=stride_t, limit=limit)
    if any(of_arrays):
        raise DataError(
            f"{paths[0]} and {paths[of_arrays.index(not of_arrays[0])]} are of two layouts. Load them apart"
        )
    return pdebench.load_trajectories(
        paths, family=problem.name, reduced_resolution=stride, reduced_resolution_t=stride_t, limit=limit
    )


def problem_in(path: Path) -> Problem:
    """Which problem's solutions a file holds. Raises DataError."""
    if has_arrays(path):
        with arrays.open_arrays(path) as source:
            return source.problem
    return pdebench.problem_of(path)


def has_arrays(path: Path) -> bool:
    """Whether a file is of the layout of plain arrays. Raises DataError for no HDF5 file."""
    with open_hdf5(path) as file:
        return arrays.is_arrays(file)
