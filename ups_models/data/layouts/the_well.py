"""The Well's HDF5 files (Ohana et al. 2024): scalars and vectors by name, with boundaries and several parameters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups_models.data.layouts.hdf5 import Array, floats_in, names_in
from ups_models.data.layouts.source import Source, coordinate
from ups_models.errors import DataError
from ups_models.problems.problem import Problem
from ups_models.wording import plain, shown

RANKS = ("t0_fields", "t1_fields", "t2_fields")


def is_the_well(file: h5py.File) -> bool:
    """Whether an HDF5 file is of this layout."""
    return RANKS[0] in file and "dimensions" in file


def look(path: Path, file: h5py.File, _: Problem | None) -> Source:
    """What a file of The Well says. Raises DataError.

    Channels are named as its own reader flattens them: `velocity_x`. Fields that do not change in time, and those that
    are the same for every trajectory, are not among them.
    """
    if _text(file.attrs.get("grid_type", "cartesian")) != "cartesian":
        raise DataError(f"{path}: its grid is {shown(file.attrs['grid_type'])}, and only Cartesian ones are read")
    names = [_text(name) for name in np.atleast_1d(_group(path, file, "dimensions").attrs.get("spatial_dims", ()))]
    if not 1 <= len(names) <= 2:
        raise DataError(f"{path}: has {len(names)} dimensions of space, and files of one or two are read")
    parts = list(_parts(path, file, names))
    if not parts:
        raise DataError(f"{path}: holds no field that changes in time; the file has {names_in(file)}")
    n, nt, *space = parts[0].shape
    for part in parts:
        if part.shape != (n, nt, *space):
            raise DataError(f"{path}: field '{part.name}' has shape {part.shape}, but the first has {(n, nt, *space)}")

    def read(rows: slice, times: slice, points: slice, channels: Sequence[int]) -> Array:
        inner = [points] * (len(space) - 1)
        of = [parts[channel] for channel in channels]
        return np.stack([part.dataset[(rows, times, *inner)][(..., points, *part.index)] for part in of], 2)

    return Source(
        path,
        "The Well's",
        None,
        f"field '{parts[0].name}'",
        (n, nt, len(parts), *space),
        tuple(part.name for part in parts),
        _times(path, file, nt),
        tuple(
            coordinate(path, f"dimension '{name}'", floats_in(path, file, f"dimensions/{name}")[:], size)
            for name, size in zip(names, space, strict=True)
        ),
        _parameters(path, file),
        read,
        periodic=_periodic(file, names),
        datasets={part.name: part.dataset for part in parts if not part.index},
        attrs=dict(file.attrs),
    )


@dataclass(frozen=True)
class Part:
    """One channel: a field, or a component of one."""

    name: str
    dataset: h5py.Dataset
    index: tuple[int, ...]
    shape: tuple[int, ...]
    """(N, T, *space)."""


def _parts(path: Path, file: h5py.File, axes: Sequence[str]) -> Iterator[Part]:
    for rank, group in enumerate(RANKS):
        for name in file.get(group, ()):
            dataset = floats_in(path, file, f"{group}/{name}")
            if not all(bool(dataset.attrs.get(f"{what}_varying", True)) for what in ("sample", "time")):
                continue
            if not np.all(dataset.attrs.get("dim_varying", True)):
                raise DataError(f"{path}: field '{plain(name)}' is constant along an axis of space, which is not read")
            wanted = 2 + len(axes) + rank
            if dataset.ndim != wanted or any(size != len(axes) for size in dataset.shape[2 + len(axes) :]):
                raise DataError(
                    f"{path}: field '{plain(name)}' has shape {dataset.shape}, expected (N, T, *space) and {rank} "
                    f"axes of {len(axes)} components"
                )
            for index in np.ndindex(*[len(axes)] * rank):
                ending = "".join(axes[one] for one in index)
                yield Part(
                    plain(f"{name}_{ending}" if ending else name), dataset, index, dataset.shape[: 2 + len(axes)]
                )


def _times(path: Path, file: h5py.File, nt: int) -> Array:
    values = np.asarray(floats_in(path, file, "dimensions/time")[:])
    if values.ndim == 2 and bool((values == values[0]).all()):
        values = values[0]
    if values.ndim != 1:
        raise DataError(f"{path}: dimension 'time' differs from trajectory to trajectory, which is not read")
    return coordinate(path, "dimension 'time'", values, nt)


def _parameters(path: Path, file: h5py.File) -> dict[str, Array]:
    """What `simulation_parameters` lists: attributes of the file, or else its scalars."""
    found = {}
    for raw in np.atleast_1d(file.attrs.get("simulation_parameters", ())):
        name = _text(raw)
        if name in file.attrs:
            found[name] = np.asarray(file.attrs[name])
        elif name in file.get("scalars", ()):
            values = np.asarray(floats_in(path, file, f"scalars/{name}")[()])
            found[name] = values[:, 0] if values.ndim == 2 else values
    return found


def _periodic(file: h5py.File, axes: Sequence[str]) -> tuple[bool, ...] | None:
    """Which axes have a periodic boundary; None where the file says nothing of boundaries."""
    if "boundary_conditions" not in file:
        return None
    found: set[str] = set()
    for one in file["boundary_conditions"].values():
        if _text(one.attrs.get("bc_type", "")).lower() == "periodic":
            found |= {_text(axis) for axis in np.atleast_1d(one.attrs.get("associated_dims", ()))}
    return tuple(axis in found for axis in axes)


def _group(path: Path, file: h5py.File, name: str) -> h5py.Group:
    found = file.get(name)
    if not isinstance(found, h5py.Group):
        raise DataError(f"{path}: '{name}' is no group; the file has {names_in(file)}")
    return found


def _text(value: Any) -> str:
    return plain(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)
