"""A data file that is open for reading, of whichever layout: what it says, and whether it is what was asked for."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ups_models.data.chunks import chunks
from ups_models.data.fields import Fields
from ups_models.data.layouts.hdf5 import Array, as_float32, is_uniform, require_memory
from ups_models.data.on_disk import OnDisk
from ups_models.errors import DataError
from ups_models.problems.problem import Parameter, Problem, Values
from ups_models.problems.registry import PROBLEMS
from ups_models.wording import shown

Read = Callable[[slice, slice, slice, Sequence[int]], Array]
"""(rows, times, points along every axis, channels) -> (N, T, C, *space)."""


@dataclass(frozen=True)
class Source:
    """What a file says of itself; its fields are read later.

    Attributes:
        path: The file.
        layout: What it is written in, in words.
        says: The problem that it names; None where it names none.
        name: Of the fields in it, for messages.
        shape: (N, T, C, *space).
        channels: Their names; empty where it does not tell.
        t: Times, (T,).
        axes: The coordinate along each axis of space.
        parameters: By their names, one number or one for each trajectory.
        read: Reads fields.
        periodic: Of each axis, where it tells.
        datasets: What `ups data info` shows numbers of.
        attrs: And what it lists.
    """

    path: Path
    layout: str
    says: str | None
    name: str
    shape: tuple[int, ...]
    channels: tuple[str, ...]
    t: Array
    axes: tuple[Array, ...]
    parameters: Mapping[str, Array]
    read: Read
    periodic: tuple[bool, ...] | None = None
    datasets: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What is asked of every file: a problem, how it is thinned out, and values of parameters that no file names."""

    problem: Problem
    stride: int = 1
    stride_t: int = 1
    limit: int | None = None
    said: Values = field(default_factory=dict)
    repeats: Literal["refuse", "together"] = "refuse"
    """Rows that are the same: an error, or on the same side of every split."""
    in_memory: int | None = None
    """Bytes of a file's fields that are kept in memory; what is larger is kept on the disk. None: all in memory."""


def fields_of(source: Source, request: Request) -> Fields:
    """The trajectories of a file, which must be of the problem. Raises DataError."""
    n = source.shape[0] if request.limit is None else min(request.limit, source.shape[0])
    parameters = _parameters_of(source, request, n)
    seen = _Seen(source, are_errors=request.repeats == "refuse")
    stored = _read(source, request, n, seen)
    return Fields(
        request.problem,
        stored,
        tuple(torch.from_numpy(axis[:: request.stride].astype(np.float32)) for axis in source.axes),
        torch.from_numpy((source.t - source.t[0])[:: request.stride_t].astype(np.float32)),  # dt beside a large t
        torch.stack(parameters, 1) if parameters else torch.zeros(n, 0),
        torch.tensor(seen.numbers),
    )


def require_fields(source: Source, request: Request) -> None:
    """Read all of a file and keep nothing. Raises DataError where `fields_of` does."""
    n = source.shape[0]
    _parameters_of(source, request, n)
    for _ in _pieces(source, request, n, _Seen(source, are_errors=request.repeats == "refuse")):
        pass


def _parameters_of(source: Source, request: Request, n: int) -> list[Tensor]:
    """Of the first n rows, (n,) each, once the file is known to hold what is asked for. Raises DataError."""
    require_problem(source, request.problem)
    _require_times_and_strides(source, request)
    return [_values_of(source, request, one, n) for one in request.problem.parameters]


def require_problem(source: Source, problem: Problem) -> None:
    """Raise DataError where a file is of another problem, or cannot be of this one."""
    path = source.path
    if source.says is not None and source.says != problem.name:
        if source.says in PROBLEMS:
            raise DataError(f"{path}: holds {source.says}, not {problem.name}. Set data.problem: {source.says}")
        raise DataError(
            f"{path}: its attribute 'problem' is {shown(source.says)}, not {problem.name}. Set data.problem to the "
            "object of your own that it names, as my_pde.py:NAME; or the attribute to one of: " + ", ".join(PROBLEMS)
        )
    _, _, n_channels, *space = source.shape
    missing = [one for one in problem.channels if source.channels and one not in source.channels]
    if len(space) != problem.dimensions or missing or n_channels < len(problem.channels) or (
        not source.channels and n_channels != len(problem.channels)
    ):  # fmt: skip
        has = f", which are {', '.join(source.channels)}" if source.channels else ""
        raise DataError(
            f"{path}: {source.name} has shape {source.shape}{has}, but {problem.name} needs (N, T, "
            f"{len(problem.channels)}, {', '.join(axis.name for axis in problem.axes)}), the channels being "
            f"{', '.join(problem.channels)}. Set data.problem to what the file holds (ups data info tells what it says)"
        )
    _require_lengths(source, problem)
    if source.periodic is not None and source.periodic != problem.periodic:
        raise DataError(
            f"{path}: its axes are {_in_words(source.periodic)}, but those of {problem.name} are "
            f"{_in_words(problem.periodic)}. Set data.problem to one with these boundaries"
        )


def _require_lengths(source: Source, problem: Problem) -> None:
    """Raise DataError where space is not as long as the problem's, by half a cell; walls may lie on its last points."""
    for axis, values in zip(problem.axes, source.axes, strict=True):
        cells = len(values)
        step = (float(values[-1]) - float(values[0])) / max(1, cells - 1)
        lengths = (step * cells, *(() if axis.periodic else (step * (cells - 1),)))
        if all(abs(length - axis.length) > axis.length / (2 * cells) for length in lengths):
            raise DataError(
                f"{source.path}: its {axis.name} is {lengths[0]:.6g} long, but that of {problem.name} is "
                f"{axis.length:.6g}, and parameters, spectra and coordinates would be wrong. Rescale the file, or name "
                "a problem of your own with this length (docs/extension.md)"
            )


def coordinate(path: Path, name: str, values: Array, size: int) -> Array:
    """A coordinate, which has `size` values at equal distances. Raises DataError."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (size,) or not is_uniform(values):
        raise DataError(
            f"{path}: {name} has shape {values.shape}, expected {size} increasing values at equal distances. "
            "Interpolate the file to a uniform grid"
        )
    return values


def _in_words(periodic: Collection[bool]) -> str:
    return " and ".join("periodic" if one else "not periodic" for one in periodic)


def _require_times_and_strides(source: Source, request: Request) -> None:
    """Raise DataError for a single time, and for a reduction that does not divide the grid."""
    _, nt, _, *space = source.shape
    if nt < 2:
        raise DataError(f"{source.path}: {source.name} has one time, but two or more are needed. Use another file")
    if request.stride < 1 or any(size % request.stride for size in space):
        raise DataError(
            f"{source.path}: reduced_resolution={request.stride} does not divide the {' x '.join(map(str, space))} "
            f"points of {source.name}. Use a divisor"
        )
    if request.stride_t < 1 or (nt - 1) % request.stride_t:
        raise DataError(
            f"{source.path}: reduced_resolution_t={request.stride_t} does not divide the {nt - 1} intervals of "
            f"{source.name}. Use a divisor"
        )


def _values_of(source: Source, request: Request, one: Parameter, n: int) -> Tensor:
    """A parameter of the first n rows (n,), as the file tells it, or else the config."""
    meant = {name.lower() for name in (one.name, *one.aliases)}
    names = [name for name in source.parameters if name.lower() in meant]
    found = names[0] if names else None
    for other in names[1:]:
        if not np.array_equal(source.parameters[other], source.parameters[names[0]]):
            raise DataError(
                f"{source.path}: {names[0]} and {other} both name {one.name}, and differ. Remove one of them"
            )
    if found is None and one.name not in request.said:
        raise DataError(
            f"{source.path}: attribute '{one.name}' is missing. Set it to the parameter's value, or say it in the "
            f"config: data.parameters: {{{one.name}: {one.default:g}}}"
        )
    given = request.said[one.name] if found is None else source.parameters[found]
    values = np.asarray(given)
    if values.dtype.kind not in "fiu" or values.size not in (1, source.shape[0]):
        raise DataError(
            f"{source.path}: attribute '{found}' is {shown(given)}, expected one number, or one for each trajectory"
        )
    for value in np.unique(values):
        if not one.allows(float(value)):
            raise DataError(f"{source.path}: {one.name}={value:g} is not possible for {request.problem.name}")
    if found is not None and one.name in request.said and np.any(values != request.said[one.name]):
        raise DataError(
            f"{source.path}: {one.name} is {float(values.flat[0]):g}, and data.parameters says "
            f"{request.said[one.name]:g}. Leave it out of the config, or correct the file"
        )
    flat = values.reshape(-1).astype(np.float32)
    return torch.from_numpy((flat[:n] if len(flat) > 1 else np.repeat(flat, n)).copy())


def _read(source: Source, request: Request, n: int, seen: "_Seen") -> Tensor | OnDisk:
    """The first n rows (n, T, C, *space), thinned out; in memory, or on the disk where they are larger than that."""
    _, nt, _, *space = source.shape
    kept = 4 * n * len(request.problem.channels) * -(-nt // request.stride_t) * prod(space)
    kept //= request.stride ** len(space)
    pieces = _pieces(source, request, n, seen)
    if request.in_memory is not None and kept > request.in_memory:
        return OnDisk.write(pieces, source.path.parent)
    require_memory(source.path, source.name, kept)
    return torch.cat(list(pieces))


def _pieces(source: Source, request: Request, n: int, seen: "_Seen") -> Iterator[Tensor]:
    """Some rows after others. Raises DataError for rows that nothing can be learned from."""
    _, nt, n_channels, *space = source.shape
    names = source.channels or request.problem.channels
    which = [names.index(one) for one in request.problem.channels]
    times, points = slice(None, None, request.stride_t), slice(None, None, request.stride)
    stored = 4 * nt * n_channels * prod(space)
    for rows in chunks(n, stored):
        values = as_float32(source.read(slice(rows.start, rows.stop), times, points, which))
        seen.require_good(values, rows.start)
        yield torch.from_numpy(np.ascontiguousarray(values))


class _Seen:
    """The rows of a file that were read so far, and their numbers: of a row that repeats another, the other's."""

    def __init__(self, source: Source, *, are_errors: bool) -> None:
        self.what, self.are_errors = f"{source.path}: {source.name}", are_errors
        self.first, self.numbers = dict[bytes, int](), list[int]()

    def require_good(self, values: Array, first: int) -> None:
        """Raise DataError for a row that is not finite, one that is a constant, and one that may not repeat another."""
        for number, row in enumerate(values, first):
            if not np.isfinite(row).all():
                raise DataError(f"{self.what} has NaN or Inf, first in row {number}. Remove it or generate it again")
            if (row == row[:1, :, *[slice(1)] * (row.ndim - 2)]).all():
                raise DataError(f"{self.what} is constant in row {number}. Remove the row, or name another file")
            twin = self.first.setdefault(blake2b(row.tobytes(), digest_size=16).digest(), number)
            self.numbers.append(twin)
            if twin != number and self.are_errors:
                raise DataError(
                    f"{self.what} holds row {twin} again as row {number}: one of them could be trained on and the "
                    "other tested. Remove one, or keep both on one side: data.repeats: together"
                )
