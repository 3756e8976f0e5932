"""Fields in memory: trajectories of a problem, and steady states."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor

from ups_models.data.on_disk import OnDisk
from ups_models.problems.problem import Problem, Symmetry, Values


@dataclass(frozen=True)
class Fields:
    """Trajectories of a problem on a uniform grid.

    `row` is the number of the trajectory in its file: files of other parameters hold the same initial condition in
    the same row, so a split goes by row.

    Attributes:
        problem: What they solve.
        stored: (N, T, C, *space) float32; on the disk where they are too large for the memory.
        axes: The coordinate along each axis of space, (points,) each.
        t: Times (T,).
        parameters: The problem's parameters of each trajectory, in its order, (N, P).
        row: (N,).
    """

    problem: Problem
    stored: Tensor | OnDisk
    axes: tuple[Tensor, ...]
    t: Tensor
    parameters: Tensor
    row: Tensor

    @property
    def dt(self) -> float:
        """Time between two frames, in the time unit of the equation; NaN for a single frame."""
        return float(self.t[-1] - self.t[0]) / (len(self.t) - 1) if len(self.t) > 1 else math.nan

    def select(self, rows: Tensor) -> Self:
        """The trajectories of a boolean mask (N,) or of an index tensor."""
        stored = self.stored[rows] if isinstance(self.stored, Tensor) else self.stored.select(rows)
        return replace(self, stored=stored, parameters=self.parameters[rows], row=self.row[rows])

    def values(self, row: int) -> Values:
        """The parameters of one trajectory, by name."""
        return dict(zip(self.problem.defaults, self.parameters[row].tolist(), strict=True))

    def after(self, frames: int) -> Self:
        """The trajectories without their first `frames` times, of which at least two are left; t begins at 0 again."""
        if not frames:
            return self
        stored = self.u[:, frames:]
        return replace(self, stored=stored, t=self.t[frames:] - self.t[frames])

    @property
    def u(self) -> Tensor:
        """(N, T, C, *space) in memory: of few rows, where they are kept on the disk."""
        return self.stored if isinstance(self.stored, Tensor) else self.stored.tensor()

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, T, C, *space)."""
        return tuple(self.stored.shape)

    def windows(self, which: Tensor, start: Tensor, length: int) -> Tensor:
        """`length` times of rows `which` (B,) from `start` (B,) on: (B, length, C, *space)."""
        if isinstance(self.stored, Tensor):
            return self.stored[which[:, None], start[:, None] + torch.arange(length)]
        return self.stored.windows(which, start, length)

    def conditioning(self) -> Tensor:
        """What networks are told of each trajectory, (N, P + 1): the parameters as the problem says, and ln dt."""
        columns = [one.as_input(values) for one, values in zip(self.problem.parameters, self.parameters.T, strict=True)]
        return torch.stack([*columns, self.parameters.new_full((len(self.row),), self.dt).log()], -1)

    def facts(self) -> dict[str, Any]:
        """What a surrogate that learns from them can be asked for: grid, time step, ranges of the parameters."""
        ranges = {
            one.name: [float(values.min()), float(values.max())]
            for one, values in zip(self.problem.parameters, self.parameters.T, strict=True)
        }
        return {
            "problem": self.problem.name,
            "points": list(self.grid),
            "dt": float(f"{self.dt:.9g}"),
            "parameters": ranges,
        }

    @property
    def symmetries(self) -> tuple[Symmetry, ...]:
        """Those of the problem that the grid has too: only axes that are alike can be exchanged."""
        (n, length), *others = ((len(axis), float(axis[-1] - axis[0])) for axis in self.axes)
        is_square = all(n == m and math.isclose(length, other, rel_tol=1e-4) for m, other in others)
        return tuple(one for one in self.problem.symmetries if is_square or not one.exchanges_axes)

    @property
    def grid(self) -> tuple[int, ...]:
        """Points along each axis of space."""
        return self.shape[3:]


def joined(parts: Sequence[Fields]) -> Fields:
    """The trajectories of several files of one grid, one after the other."""
    in_memory = [part.stored for part in parts if isinstance(part.stored, Tensor)]
    if len(in_memory) == len(parts):
        stored: Tensor | OnDisk = torch.cat(in_memory)
    else:
        stored = reduce(OnDisk.joined, (OnDisk.of(part.stored) for part in parts))
    return replace(
        parts[0],
        stored=stored,
        parameters=torch.cat([part.parameters for part in parts]),
        row=torch.cat([part.row for part in parts]),
    )


@dataclass(frozen=True)
class SteadyFields:
    """Darcy coefficients and solutions. a, u: (N, H, W) float32, beta and row: (N,)."""

    a: Tensor
    u: Tensor
    beta: Tensor
    row: Tensor

    def select(self, rows: Tensor) -> Self:
        """The samples of a boolean mask (N,) or of an index tensor."""
        return replace(self, a=self.a[rows], u=self.u[rows], beta=self.beta[rows], row=self.row[rows])
