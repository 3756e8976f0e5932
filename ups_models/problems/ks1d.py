"""The Kuramoto-Sivashinsky equation on a periodic interval: chaotic after a warm-up."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ups_models.problems.initial import smooth_fields
from ups_models.problems.problem import Progress, Solver, Values
from ups_models.problems.registry import KS
from ups_models.problems.spectral import PeriodicGrid, convection, solve_modes

WARM_UP = 500.0
"""Time before the first stored frame: the attractor forgets its initial field (Brandstetter et al. 2022, app. B)."""
LONGEST_STEP = 0.1
"""Measured on 256 points after the warm-up: 3e-5 of the field after 10 units of time; fourth order."""
WAVES = 8


def initial(n: int, points: tuple[int, ...], parameters: Values, rng: np.random.Generator) -> Tensor:
    """Smooth random fields without mean, marched through the warm-up: (N, 1, X)."""
    start = 0.1 * smooth_fields(n, points, (True,), rng, waves=WAVES, channels=1)
    return solve(start, parameters, [0.0, WARM_UP], None)[:, -1]


def solve(
    u0: Tensor,
    parameters: Values,
    times: Sequence[float],
    on_progress: Progress | None = None,
    *,
    longest: float = LONGEST_STEP,
) -> Tensor:
    """Solve u_t + u u_x + u_xx + nu u_xxxx = 0: (N, 1, X) -> (N, T, 1, X) float64.

    Pseudo-spectral with 2/3 dealiasing and ETDRK4, the test case of Kassam & Trefethen 2005, section 4. The mean is
    conserved; chaos doubles any difference within about 8 units of time.
    """
    grid = PeriodicGrid(u0.shape[-1:], KS.lengths)
    k = grid.k[0]
    linear = k**2 - parameters["nu"] * k**4

    return solve_modes(grid, u0, linear, convection(grid), times, longest=longest, on_progress=on_progress)


SOLVER = Solver(initial, solve)
