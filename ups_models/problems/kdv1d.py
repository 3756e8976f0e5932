"""The Korteweg-de Vries equation with a little hyper-diffusion, as APEBench sets it (Koehler et al. 2024)."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ups_models.problems.initial import smooth_fields
from ups_models.problems.problem import Progress, Solver, Values
from ups_models.problems.registry import KDV
from ups_models.problems.spectral import PeriodicGrid, convection, solve_modes

CONVECTION, DISPERSION = 0.0125, 8.545e-7
"""APEBench's difficulties delta_1 = -2 and gamma_3 = -14 on 160 points, for a unit interval and steps of one."""
LONGEST_STEP = 0.05
WAVES = 5


def initial(n: int, points: tuple[int, ...], _parameters: Values, rng: np.random.Generator) -> Tensor:
    """The five lowest waves at random, without mean, scaled to a maximum of one: (N, 1, X)."""
    u = smooth_fields(n, points, (True,), rng, waves=WAVES, channels=1)
    return u / u.abs().amax(-1, keepdim=True)


def solve(
    u0: Tensor,
    parameters: Values,
    times: Sequence[float],
    on_progress: Progress | None = None,
    *,
    longest: float = LONGEST_STEP,
) -> Tensor:
    """Solve u_t = -a (u^2/2)_x - b u_xxx - nu u_xxxx with a = CONVECTION, b = DISPERSION: (N, 1, X) -> (N, T, 1, X).

    Pseudo-spectral with 2/3 dealiasing and ETDRK4 (Kassam & Trefethen 2005). The mean is conserved.
    """
    grid = PeriodicGrid(u0.shape[-1:], KDV.lengths)
    k = grid.k[0]
    linear = 1j * DISPERSION * k**3 - parameters["nu"] * k**4

    return solve_modes(grid, u0, linear, convection(grid, CONVECTION), times, longest=longest, on_progress=on_progress)


SOLVER = Solver(initial, solve)
