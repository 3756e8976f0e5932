"""A file of plain arrays: what our own solvers write for any problem, and what a user may write in ten lines.

HDF5 or .npz with `u` (N, T, C, *space), `t` (T,) and a coordinate for each axis by its name. As attributes of the HDF5
file, or as entries of the .npz: `problem`, its name; and each parameter by its name, one number or one for each
trajectory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups_models.data.layouts.hdf5 import Array, names_in, require_own_data
from ups_models.data.layouts.source import Source, coordinate
from ups_models.errors import DataError
from ups_models.problems.problem import Problem
from ups_models.problems.registry import EVOLVING

FIELDS, TIMES, PROBLEM, CHANNELS = "u", "t", "problem", "channels"
NO_PARAMETERS = (PROBLEM, CHANNELS, "seed", "generator")
LAYOUT = "plain arrays"
AXES = ("x", "y")


def write_arrays(file: h5py.File, problem: Problem, *, n: int, points: int, t: Sequence[float]) -> h5py.Dataset:
    """All but parameters and fields, which the caller fills in: the dataset (n, T, C, *space) float32."""
    file.attrs.update({PROBLEM: problem.name, CHANNELS: ",".join(problem.channels)})
    file[TIMES] = np.asarray(t, dtype=np.float32)
    for axis in problem.axes:
        file[axis.name] = np.asarray(axis.positions(points), dtype=np.float32)
    grid = (points,) * problem.dimensions
    return file.create_dataset(FIELDS, shape=(n, len(t), len(problem.channels), *grid), dtype=np.float32)


def array_names(wanted: Problem | None) -> set[str]:
    """Names of what is no number of a parameter, where both come together."""
    return {FIELDS, TIMES, *AXES, *(axis.name for axis in (wanted.axes if wanted else ()))}


def is_arrays(file: h5py.File) -> bool:
    """Whether an HDF5 file is of this layout."""
    return FIELDS in file and TIMES in file


def look(path: Path, file: h5py.File, wanted: Problem | None) -> Source:
    """What an HDF5 file of plain arrays says. Raises DataError."""
    return look_at(path, {name: _dataset(path, file, name) for name in file}, dict(file.attrs), wanted)


def look_at(path: Path, entries: Mapping[str, Any], attrs: Mapping[str, Any], wanted: Problem | None) -> Source:
    """The same of arrays by their names, and of what was said beside them."""
    attrs = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in attrs.items()
    }
    u, t = _floats(path, entries, FIELDS), _floats(path, entries, TIMES)
    if not 4 <= u.ndim <= 5 or 0 in u.shape:
        raise DataError(
            f"{path}: dataset 'u' has shape {u.shape}, expected (N, T, C, *space) of one or two dimensions of space. "
            "Write every axis, also one of a single channel"
        )
    says = attrs.get(PROBLEM)
    problem = wanted if says is None or (wanted and wanted.name == says) else EVOLVING.get(str(says))
    names = _axes_in(entries, u.shape[3:]) if problem is None else tuple(axis.name for axis in problem.axes)
    axes = [(name, size) for name, size in zip(names, u.shape[3:], strict=False)]

    def read(rows: slice, times: slice, points: slice, channels: Sequence[int]) -> Array:
        values = u[(rows, times, slice(None), *[points] * (u.ndim - 4))]
        return np.asarray(values[:, :, channels][..., points])  # HDF5 thins out its last dimension slowly

    return Source(
        path,
        LAYOUT,
        None if says is None else str(says),
        f"dataset '{FIELDS}'",
        tuple(u.shape),
        tuple(filter(None, str(attrs.get(CHANNELS, "")).split(","))),
        coordinate(path, f"dataset '{TIMES}'", t[:], u.shape[1]),
        tuple(coordinate(path, f"dataset '{name}'", _floats(path, entries, name)[:], size) for name, size in axes),
        {name: np.asarray(value) for name, value in attrs.items() if name not in NO_PARAMETERS},
        read,
        datasets={name: entries[name] for name in (FIELDS, TIMES, *(name for name, _ in axes))},
        attrs=attrs,
    )


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file.get(name)
    if isinstance(dataset, h5py.Dataset):
        require_own_data(path, name, dataset)
    return dataset


def _axes_in(entries: Mapping[str, Any], space: Sequence[int]) -> tuple[str, ...]:
    """Names of the axes of an unknown problem: ours, or whatever coordinates of these sizes it has, in its order."""
    names, found = AXES[: len(space)], list[str]()
    if all(name in entries for name in names):
        return names
    for size in space:
        other = (name for name, one in entries.items() if name not in (TIMES, *found) and one.shape == (size,))
        found.append(next(other, names[len(found)]))
    return tuple(found)


def _floats(path: Path, entries: Mapping[str, Any], name: str) -> Any:
    """An array of floats, on the disk or in memory. Raises DataError."""
    found = entries.get(name)
    kind = getattr(found, "dtype", None)
    if kind is not None and kind.kind != "f":
        raise DataError(f"{path}: dataset '{name}' holds {kind}, and floats are needed. Write it as float32")
    if kind is None and found is not None:
        raise DataError(f"{path}: '{name}' is a {type(found).__name__}, and an array of floats is needed")
    if kind is None:
        raise DataError(f"{path}: dataset '{name}' is missing; the file has {names_in(entries)}")
    return found
