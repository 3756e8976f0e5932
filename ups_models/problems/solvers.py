"""The solvers of the problems with trajectories, by the problem's name: the part of the table that needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ups_models.problems import advection1d, burgers1d
from ups_models.problems.registry import ADVECTION, BURGERS
from ups_models.problems.solving import Progress


class Solve(Protocol):
    """Initial fields (N, X), the parameter and T output times -> trajectories (N, T, X) float64."""

    def __call__(
        self, u0: Tensor, parameter: float, times: Sequence[float], /, *, on_progress: Progress | None = None
    ) -> Tensor:
        """Solve, and tell `on_progress` the number of finished samples."""


@dataclass(frozen=True)
class Solver:
    """How one problem is solved: the solver, and the grid points that it needs to store nx of them."""

    solve: Solve
    resolution: Callable[[float, int], int]


SOLVERS: dict[str, Solver] = {
    BURGERS.name: Solver(burgers1d.solve, burgers1d.resolution),
    ADVECTION.name: Solver(advection1d.solve, advection1d.resolution),
}
