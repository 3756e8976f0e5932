"""Diffusion and logistic reaction on a periodic line (Fisher's equation), as in PDEBench."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ups_models.problems.initial import random_waves
from ups_models.problems.problem import Progress, Solver, Values
from ups_models.problems.registry import REACTION_DIFFUSION
from ups_models.problems.spectral import PeriodicGrid, solve_modes

LONGEST_STEP = 0.002
"""Short, for the initial fields have kinks, whose modes decay that fast."""


def initial(n: int, points: tuple[int, ...], _parameters: Values, rng: np.random.Generator) -> Tensor:
    """PDEBench's waves, their absolute value over its maximum (Takamoto et al. 2022, app. D.5): (N, 1, X)."""
    u = random_waves(n, points[0], rng)[:, None].abs()
    return u / u.amax(-1, keepdim=True)


def solve(
    u0: Tensor,
    parameters: Values,
    times: Sequence[float],
    on_progress: Progress | None = None,
    *,
    longest: float = LONGEST_STEP,
) -> Tensor:
    """Solve u_t = Nu u_xx + rho u (1 - u) on the unit interval: (N, 1, X) -> (N, T, 1, X). Pseudo-spectral, ETDRK4."""
    grid = PeriodicGrid(u0.shape[-1:], REACTION_DIFFUSION.lengths)
    linear = parameters["rho"] - parameters["Nu"] * grid.k_squared

    def slope(modes: Tensor) -> Tensor:
        return -parameters["rho"] * grid.kept * grid.modes(grid.fields(modes).square())

    return solve_modes(grid, u0, linear, slope, times, longest=longest, on_progress=on_progress)


SOLVER = Solver(initial, solve)
