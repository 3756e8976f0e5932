"""Diffusion and reaction of an activator and an inhibitor on a square that nothing leaves (FitzHugh-Nagumo)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ups_models.problems.initial import smooth_fields
from ups_models.problems.problem import Progress, Solver, Values
from ups_models.problems.registry import DIFFUSION_REACTION
from ups_models.problems.spectral import CosineGrid, solve_modes

LONGEST_STEP = 0.02
WAVES = 16


def initial(n: int, points: tuple[int, ...], _parameters: Values, rng: np.random.Generator) -> Tensor:
    """Smooth random fields of unit variance, with zero normal derivative: (N, 2, X, Y).

    PDEBench starts from independent noise in every cell, which no refinement converges for.
    """
    return smooth_fields(n, points, (False, False), rng, waves=WAVES, channels=2)


def solve(
    u0: Tensor,
    parameters: Values,
    times: Sequence[float],
    on_progress: Progress | None = None,
    *,
    longest: float = LONGEST_STEP,
) -> Tensor:
    """Solve u_t = Du laplace u + u - u^3 - k - v, v_t = Dv laplace v + u - v: (N, 2, X, Y) -> (N, T, 2, X, Y).

    PDEBench's equation (Takamoto et al. 2022, app. D.6) with zero normal derivative on (-1, 1)^2: cosine modes at cell
    centres, and ETDRK4.
    """
    grid = CosineGrid(u0.shape[-2:], DIFFUSION_REACTION.lengths)
    linear = torch.stack([1 - parameters["Du"] * grid.k_squared, -1 - parameters["Dv"] * grid.k_squared])

    def slope(modes: Tensor) -> Tensor:
        u, v = grid.fields(modes).unbind(-3)
        return grid.modes(torch.stack([-(u**3) - parameters["k"] - v, u], -3))

    return solve_modes(grid, u0, linear, slope, times, longest=longest, on_progress=on_progress)


SOLVER = Solver(initial, solve)
