"""The Gray-Scott reaction of two species that diffuse on a periodic square: spots, stripes and mazes (Pearson 1993)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ups_models.problems.initial import blobs
from ups_models.problems.problem import Progress, Solver, Values, twice
from ups_models.problems.registry import GRAY_SCOTT
from ups_models.problems.spectral import PeriodicGrid, solve_modes

DIFFUSION_A, DIFFUSION_B = 2e-5, 1e-5
"""Of The Well's gray_scott_reaction_diffusion (Ohana et al. 2024)."""
LONGEST_STEP = 2.0
BLOBS = 24
WARM_UP = 50.0


def initial(n: int, points: tuple[int, ...], parameters: Values, rng: np.random.Generator) -> Tensor:
    """Spots of species B in species A at random places, marched until they are patterns: (N, 2, X, Y)."""
    spots = blobs(n, points, rng, count=BLOBS, width=0.04)
    start = torch.stack([1 - 0.5 * spots, 0.25 * spots], 1)
    return solve(start, parameters, [0.0, WARM_UP], None)[:, -1]


def solve(
    u0: Tensor,
    parameters: Values,
    times: Sequence[float],
    on_progress: Progress | None = None,
    *,
    longest: float = LONGEST_STEP,
) -> Tensor:
    """Solve A_t = Da laplace A - A B^2 + F (1 - A), B_t = Db laplace B + A B^2 - (F + k) B: (N, 2, X, Y) alike.

    Pseudo-spectral with 2/3 dealiasing and ETDRK4.
    """
    grid = PeriodicGrid(u0.shape[-2:], GRAY_SCOTT.lengths)
    feed, kill = parameters["F"], parameters["k"]
    decay = torch.stack([-DIFFUSION_A * grid.k_squared - feed, -DIFFUSION_B * grid.k_squared - feed - kill])

    def slope(modes: Tensor) -> Tensor:
        a, b = grid.fields(modes).unbind(-3)
        eaten = a * b.square()
        return grid.kept * grid.modes(torch.stack([feed - eaten, eaten], -3))

    return solve_modes(grid, u0, decay, slope, times, longest=longest, on_progress=on_progress)


SOLVER = Solver(initial, solve, twice)
