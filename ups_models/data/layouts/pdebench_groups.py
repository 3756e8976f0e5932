"""PDEBench's other HDF5 files: a group for each trajectory, and a dataset for each field of a flow."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups_models.data.layouts.hdf5 import Array, floats_in
from ups_models.data.layouts.source import Source, coordinate
from ups_models.errors import DataError
from ups_models.problems.problem import Problem
from ups_models.reading import Unparsable, parse_yaml
from ups_models.wording import shown

AXES = ("x", "y")
FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
"""Fields of its compressible flows, in the order of its own reader."""
OPEN = "_trans"
"""In the name of a file whose flow leaves through the boundary."""


def is_groups(file: h5py.File) -> bool:
    """Whether an HDF5 file has a group for each trajectory, as diffusion-reaction and shallow water do."""
    first = next(iter(file), "")
    return first.isdecimal() and isinstance(file.get(first), h5py.Group) and "data" in file[first]


def look_at_groups(path: Path, file: h5py.File, _: Problem | None) -> Source:
    """What a file of groups `0000/data` (T, *space, C) and `0000/grid/*` says. Raises DataError.

    Parameters are the numbers of each group's attribute `config`, YAML, by their own names.
    """
    names = sorted(name for name in file if name.isdecimal())
    rows = [floats_in(path, file, f"{name}/data") for name in names]
    shape = rows[0].shape
    if not 3 <= len(shape) <= 4 or 0 in shape:
        raise DataError(f"{path}: dataset '{names[0]}/data' has shape {shape}, expected (T, *space, C)")
    for name, row in zip(names, rows, strict=True):
        if row.shape != shape:
            raise DataError(f"{path}: dataset '{name}/data' has shape {row.shape}, but the first has {shape}")
    nt, *space, n_channels = shape
    grid = {name: floats_in(path, file, f"{names[0]}/grid/{name}") for name in ("t", *AXES[: len(space)])}

    def read(which: slice, times: slice, points: slice, channels: Sequence[int]) -> Array:
        found = [row[(times, *[points] * len(space))][..., channels] for row in rows[which]]
        return np.moveaxis(np.stack(found), -1, 2)

    return Source(
        path,
        "PDEBench's groups",
        None,
        f"dataset '{names[0]}/data'",
        (len(rows), nt, n_channels, *space),
        (),
        coordinate(path, f"dataset '{names[0]}/grid/t'", grid["t"][:nt], nt),
        tuple(
            coordinate(path, f"dataset '{names[0]}/grid/{name}'", grid[name][:], size)
            for name, size in zip(AXES, space, strict=False)
        ),
        _numbers_of(path, file, names),
        read,
        datasets={f"{names[0]}/data": rows[0], **{f"{names[0]}/grid/{name}": one for name, one in grid.items()}},
        attrs=dict(file.attrs),
    )


def is_flow(file: h5py.File) -> bool:
    """Whether an HDF5 file has a dataset for each field of a compressible flow."""
    return FLOW[0] in file and FLOW[2] in file


def look_at_flow(path: Path, file: h5py.File, _: Problem | None) -> Source:
    """What a file of `density`, `pressure`, `Vx`, `Vy` (N, T, *space) says. Raises DataError."""
    fields = {name: floats_in(path, file, name) for name in FLOW if name in file}
    shape = fields[FLOW[0]].shape
    if not 3 <= len(shape) <= 4 or 0 in shape:
        raise DataError(f"{path}: dataset '{FLOW[0]}' has shape {shape}, expected (N, T, *space) of 1D or 2D")
    for name, one in fields.items():
        if one.shape != shape:
            raise DataError(f"{path}: dataset '{name}' has shape {one.shape}, but '{FLOW[0]}' has {shape}")
    n, nt, *space = shape
    grid = {name: floats_in(path, file, f"{name}-coordinate") for name in ("t", *AXES[: len(space)])}

    def read(rows: slice, times: slice, points: slice, channels: Sequence[int]) -> Array:
        of = list(fields.values())
        inner = [points] * (len(space) - 1)
        return np.stack([of[channel][(rows, times, *inner)][..., points] for channel in channels], 2)

    return Source(
        path,
        "PDEBench's flows",
        f"compressible_ns{len(space)}d",
        f"dataset '{FLOW[0]}'",
        (n, nt, len(fields), *space),
        tuple(fields),
        coordinate(path, "dataset 't-coordinate'", grid["t"][:nt], nt),  # it has one value too many
        tuple(
            coordinate(path, f"dataset '{name}-coordinate'", grid[name][:], size)
            for name, size in zip(AXES, space, strict=False)
        ),
        {name: np.asarray(value) for name, value in file.attrs.items()},
        read,
        periodic=(False,) * len(space) if OPEN in path.stem else None,
        datasets={**fields, **{f"{name}-coordinate": one for name, one in grid.items()}},
        attrs=dict(file.attrs),
    )


def _numbers_of(path: Path, file: h5py.File, names: Sequence[str]) -> dict[str, Array]:
    """Every number that all groups' settings have, (N,) each, by its own name."""
    found = [_numbers_in(path, name, file[name].attrs.get("config")) for name in names]
    common = set(found[0]).intersection(*found)
    return {name: np.asarray([one[name] for one in found]) for name in sorted(common)}


def _numbers_in(path: Path, group: str, text: Any) -> dict[str, float]:
    if text is None:
        return {}
    try:
        settings = parse_yaml(text.decode() if isinstance(text, bytes) else str(text))
    except (Unparsable, UnicodeDecodeError) as error:
        raise DataError(f"{path}: attribute 'config' of '{group}' is no YAML ({shown(str(error))})") from None
    return dict(_leaves(settings))


def _leaves(settings: Any) -> Iterator[tuple[str, float]]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield str(name), float(value)
            else:
                yield from _leaves(value)
