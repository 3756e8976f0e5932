"""What a problem is: an equation, its domain and parameters, what it conserves, and how it is solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ups_models.errors import DataError

if TYPE_CHECKING:  # facts are read where PyTorch is not imported: docs/adr/0016
    import numpy as np
    from torch import Tensor

Progress = Callable[[int], None]
"""Told the number of finished samples."""
Values = Mapping[str, float]
"""Values of parameters, by name."""


@dataclass(frozen=True)
class Symmetry:
    """What turns solutions into solutions, whatever the time; to be applied to (..., C, *space)."""

    name: str
    apply: Callable[[Tensor], Tensor]
    exchanges_axes: bool = False


def mirrored(axes: int, odd: tuple[int, ...] = (0,)) -> Symmetry:
    """x -> -x along the first axis of a grid that has so many, with the sign of the `odd` channels changed."""

    def apply(u: Tensor) -> Tensor:
        return _with_signs(u.flip(-axes), axes, odd)

    return Symmetry(f"x -> -x, channels {odd} change their sign", apply)


def transposed(swapped: tuple[int, int] | None = None) -> Symmetry:
    """(x, y) -> (y, x), with two channels exchanged that are the components of a vector."""

    def apply(u: Tensor) -> Tensor:
        turned = u.transpose(-1, -2)
        if swapped is None:
            return turned
        order = list(range(u.shape[-3]))
        order[swapped[0]], order[swapped[1]] = swapped[1], swapped[0]
        return turned[..., order, :, :]

    return Symmetry(f"(x, y) -> (y, x), channels {swapped} are exchanged", apply, exchanges_axes=True)


def _with_signs(u: Tensor, axes: int, odd: tuple[int, ...]) -> Tensor:
    if not odd:
        return u
    signs = u.new_tensor([-1.0 if channel in odd else 1.0 for channel in range(u.shape[-axes - 1])])
    return u * signs.view(-1, *[1] * axes)


@dataclass(frozen=True)
class Parameter:
    """A number in the equation. Networks see its logarithm where it spans decades, else it in units of `unit`.

    Files may have it under one of the `aliases`.
    """

    name: str
    default: float
    low: float = -math.inf
    high: float = math.inf
    logarithmic: bool = False
    unit: float = 1.0
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.name.lower().replace("_", "-")

    def as_input(self, values: Tensor) -> Tensor:
        """As networks see it."""
        return values.abs().log() if self.logarithmic else values / self.unit

    def allows(self, value: float) -> bool:
        """Whether the equation can be solved for it; a limit that is zero is not reached."""
        above = value > self.low if self.low == 0 else value >= self.low
        return math.isfinite(value) and above and value <= self.high


@dataclass(frozen=True)
class Axis:
    """One dimension of space, from `low` to `low + length`."""

    name: str
    length: float = 1.0
    low: float = 0.0
    periodic: bool = True
    period: int = 0
    """On a periodic axis: shifts by multiples of length / period turn solutions into solutions; 0: any shift does."""
    offset: float = 0.0
    """Where in a cell of the grid its point lies: 0 at its beginning, 0.5 in its middle."""

    def positions(self, points: int) -> list[float]:
        """The coordinates of so many points."""
        return [self.low + self.length * (point + self.offset) / points for point in range(points)]


@dataclass(frozen=True)
class Sampling:
    """How data of a problem are generated where nothing else is said."""

    points: int
    nt: int = 41
    t_end: float = 2.0

    @property
    def dt(self) -> float:
        """Time between two stored frames."""
        return self.t_end / (self.nt - 1)


Initial = Callable[[int, tuple[int, ...], Values, "np.random.Generator"], "Tensor"]
"""(samples, grid points along each axis, parameters, generator) -> (N, C, *space) float64. The i-th field of a fresh
generator depends on its seed and on i alone."""
Solve = Callable[["Tensor", Values, Sequence[float], "Progress | None"], "Tensor"]
"""(initial fields (N, C, *space), parameters, output times from 0) -> (N, T, C, *space) float64."""
Resolution = Callable[[Values, int], int]
"""(parameters, stored points) -> points to solve on, a multiple of them."""


def as_stored(_parameters: Values, points: int) -> int:
    """Solve on the points that are stored."""
    return points


def twice(_parameters: Values, points: int) -> int:
    """Solve on twice as many along each axis."""
    return 2 * points


@dataclass(frozen=True)
class Solver:
    """How data of a problem are made."""

    initial: Initial
    solve: Solve
    resolution: Resolution = as_stored
    unchecked: Solve | None = None
    """The same on a grid that `solve` refuses as too coarse: to measure what that costs, and what it errs."""


@dataclass(frozen=True)
class Problem:
    """One equation; every question that depends on which it is, is answered here.

    Attributes:
        name: As in configs and files.
        channels: Names of the fields, in their order.
        parameters: Numbers in the equation, in their order.
        axes: Of space; their number is that of the dimensions.
        conserved: Channels whose mean over space does not change.
        symmetries: Exact ones beside shifts, used for augmentation; each is tested against the solver.
        solver: How it is solved; or where that stands, as MODULE:NAME, for then the facts are read without PyTorch;
            None where its data come from files alone.
        pattern: The name of a file that we solve for: a {} for the value of each parameter, and one for a key of the
            recipe; empty: the problem's name, and those.
        order: Of convergence of the solver in time or space, whichever dominates.
        seconds: Of one trajectory as `sampling` says, on one core; measured, and good to a factor of three.
        steady: Whether its data are pairs of a coefficient and a steady state, rather than trajectories.
    """

    name: str
    channels: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    axes: tuple[Axis, ...]
    sampling: Sampling
    solver: Solver | str | None = None
    order: int = 0
    conserved: tuple[str, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()
    pattern: str = ""
    seconds: float = 0.0
    steady: bool = False

    def file_name(self, numbers: Sequence[float], key: str) -> str:
        """Of data that we solve for with these values of the parameters; the key tells one recipe from another."""
        pattern = self.pattern or f"{self.name}{'_{}' * len(self.parameters)}_{{}}.h5"
        return pattern.format(*numbers, key)

    @property
    def dimensions(self) -> int:
        """Of space."""
        return len(self.axes)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Of each axis."""
        return tuple(axis.periodic for axis in self.axes)

    @property
    def lengths(self) -> tuple[float, ...]:
        """Of each axis."""
        return tuple(axis.length for axis in self.axes)

    def how(self) -> Solver:
        """How it is solved, imported where that is elsewhere."""
        if self.solver is None:
            raise DataError(f"{self.name} has no solver here: name its files in data.files or data.downloads")
        if isinstance(self.solver, Solver):
            return self.solver
        module, _, name = self.solver.partition(":")
        found: Solver = getattr(import_module(module), name)
        return found

    @property
    def defaults(self) -> dict[str, float]:
        """The default of each parameter, by name."""
        return {one.name: one.default for one in self.parameters}

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name, however it is spelt; None where there is none."""
        return next((one for one in self.parameters if one.name.lower() == name.lower()), None)

    def spelt_out(self, values: Values) -> dict[str, float]:
        """Values under the names that parameters have here; one that is none, or is given twice, stays as it is."""
        found: dict[str, float] = {}
        for name, value in values.items():
            known = self.parameter(name)
            found[known.name if known is not None and known.name not in found else name] = value
        return found

    def fault_of(self, values: Values) -> str:
        """What is wrong with these values of the parameters; empty where nothing is."""
        if twice := given_twice(values):
            return f"{twice} is given twice, in two spellings"
        for name in values:
            if self.parameter(name) is None:
                known = ", ".join(one.name for one in self.parameters) or "none"
                return f"{self.name} has no parameter {name}; its parameters: {known}"
        for one in self.parameters:
            if one.name not in values:
                return f"the value of {one.name} is missing"
            if not one.allows(values[one.name]):
                return f"{one.name}={values[one.name]:g} is not possible for {self.name}; {_range_of(one)}"
        return ""


def given_twice(names: Collection[str]) -> str | None:
    """The first name that is there again in another case; None where none is."""
    spelt = [name.lower() for name in names]
    return next((name for name in names if spelt.count(name.lower()) > 1), None)


def _range_of(one: Parameter) -> str:
    low = "" if one.low == -math.inf else f"above {one.low:g}" if one.low == 0 else f"at least {one.low:g}"
    high = "" if one.high == math.inf else f"at most {one.high:g}"
    return "use a value " + (" and ".join(filter(None, (low, high))) or "that is a number")
