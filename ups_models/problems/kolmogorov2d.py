"""Kolmogorov flow: the forced Navier-Stokes equations on a periodic square, as the vorticity."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ups_models.problems.initial import smooth_fields
from ups_models.problems.problem import Progress, Solver, Values
from ups_models.problems.registry import KOLMOGOROV
from ups_models.problems.spectral import PeriodicGrid, solve_modes

FORCING_WAVE, DRAG = KOLMOGOROV.axes[1].period, 0.1
"""Of PDE-Refiner (Lippe et al. 2023, app. E.2) and APEBench."""
WARM_UP = 10.0
"""Time before the first stored frame: by then the forcing, not the initial field, decides the statistics."""
LONGEST_STEP = 0.02
WAVES = 6


def initial(n: int, points: tuple[int, ...], parameters: Values, rng: np.random.Generator) -> Tensor:
    """Smooth random vorticity without mean, marched through the warm-up: (N, 1, X, Y)."""
    start = 3.0 * smooth_fields(n, points, (True, True), rng, waves=WAVES, channels=1)
    return solve(start, parameters, [0.0, WARM_UP], None)[:, -1]


def solve(
    u0: Tensor,
    parameters: Values,
    times: Sequence[float],
    on_progress: Progress | None = None,
    *,
    longest: float = LONGEST_STEP,
) -> Tensor:
    """Solve w_t + v . grad w = nu laplace w - drag w - F cos(F y), with v from w: (N, 1, X, Y) -> (N, T, 1, X, Y).

    Chandler & Kerswell 2013, eq. 2.3, with linear drag. Pseudo-spectral with 2/3 dealiasing and ETDRK4.
    """
    nx, ny = u0.shape[-2:]
    grid = PeriodicGrid((nx, ny), KOLMOGOROV.lengths)
    kx, ky = grid.k
    k_squared = grid.k_squared
    to_stream = torch.where(k_squared > 0, 1 / k_squared.clamp_min(1e-12), 0.0)  # laplace psi = -w
    y = KOLMOGOROV.lengths[1] * torch.arange(ny, dtype=torch.float64) / ny
    force = grid.modes((-FORCING_WAVE * torch.cos(FORCING_WAVE * y)).expand(nx, ny))
    linear = -parameters["nu"] * k_squared - DRAG

    def slope(w: Tensor) -> Tensor:
        v_x, v_y = grid.fields(torch.stack([1j * ky * to_stream * w, -1j * kx * to_stream * w]))
        difference, product = grid.modes(torch.stack([v_y.square() - v_x.square(), v_x * v_y]))
        found: Tensor = force + grid.kept * (kx * ky * difference + (kx.square() - ky.square()) * product)
        return found

    return solve_modes(grid, u0, linear, slope, times, longest=longest, on_progress=on_progress)


SOLVER = Solver(initial, solve)
