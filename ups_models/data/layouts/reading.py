"""Data files of every layout: what they say, and their trajectories."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import torch

from ups_models.data.fields import Fields, joined
from ups_models.data.layouts import arrays, npz, pdebench, pdebench_groups, the_well
from ups_models.data.layouts.hdf5 import names_in, open_hdf5
from ups_models.data.layouts.source import Request, Source, fields_of
from ups_models.errors import BadInput, DataError
from ups_models.own_code import own_code
from ups_models.problems.problem import Problem
from ups_models.wording import first_line

Look = Callable[[Path, h5py.File, Problem | None], Source]
LAYOUTS: tuple[tuple[Callable[[h5py.File], bool], Look], ...] = (
    (arrays.is_arrays, arrays.look),
    (the_well.is_the_well, the_well.look),
    (pdebench_groups.is_flow, pdebench_groups.look_at_flow),
    (pdebench_groups.is_groups, pdebench_groups.look_at_groups),
    (pdebench.is_pdebench, pdebench.look),
)
"""Whether an HDF5 file is of a layout, and how it is read; the first that says so does."""


@contextmanager
def open_source(path: Path, wanted: Problem | None = None, own: str | None = None) -> Iterator[Source]:
    """A data file of whichever layout, open for reading; `own` names a function of the user's that reads it.

    Raises DataError for one that is of no layout.
    """
    path = Path(path)
    if own is not None:
        yield arrays.look_at(path, *_read_by(own, path, arrays.array_names(wanted)), wanted)
        return
    if path.suffix == npz.SUFFIX:
        with npz.open_npz(path, wanted) as source:
            yield source
        return
    with open_hdf5(path) as file:
        look = next((look for is_it, look in LAYOUTS if is_it(file)), None)
        if look is None:
            raise DataError(
                f"{path}: is of no known layout; the file has {names_in(file)}. Write u (N, T, C, *space), t and a "
                "coordinate for each axis (docs/data.md), or give a file of PDEBench or The Well"
            )
        yield look(path, file, wanted)


def _read_by(own: str, path: Path, names: Collection[str]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Arrays and numbers by their names, as a function of the user's returns them for a file. Raises BadInput."""
    try:
        found = own_code(own).load()(path)
    except Exception as error:
        raise BadInput(f"{path}: {own} raises {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(found, Mapping):
        raise BadInput(f"{path}: {own} returns a {type(found).__name__}, expected arrays by their names: u, t, x")
    said = {name: value for name, value in found.items() if name not in names}
    return {name: value for name, value in found.items() if name in names}, said


def load_fields(paths: Sequence[Path], problem: Problem, *, layout: str | None = None, **request: Any) -> Fields:
    """Trajectories of one problem from files of one grid, one after the other; see `Request`. Raises DataError."""
    asked = Request(problem, **request)
    if not paths:
        raise DataError("no data file given. Name at least one, or run: ups data generate")
    if asked.in_memory is not None:  # by all of them together
        asked = replace(asked, in_memory=asked.in_memory // len(paths))
    if asked.limit is not None and asked.limit < 1:
        raise DataError(f"{paths[0]}: limit={asked.limit} leaves no row. Use a limit of at least 1")
    parts = []
    for path in paths:
        with open_source(path, problem, layout) as source:
            parts.append(fields_of(source, asked))
        _require_same_grid(path, parts[-1], parts[0], paths[0])
    return joined(parts)


def _require_same_grid(path: Path, part: Fields, first: Fields, first_path: Path) -> None:
    names = (*(axis.name for axis in part.problem.axes), "t")
    for name, one, other in zip(names, (*part.axes, part.t), (*first.axes, first.t), strict=True):
        step = float(other[-1] - other[0]) / max(1, len(other) - 1)
        if one.shape != other.shape or not torch.allclose(one, other, rtol=0.0, atol=1e-2 * abs(step)):
            raise DataError(f"{path}: its {name} differs from that of {first_path}. Load files of one grid")


def problem_in(path: Path) -> str | None:
    """The name of the problem whose solutions a file holds, where it says so. Raises DataError."""
    with open_source(path) as source:
        return source.says
