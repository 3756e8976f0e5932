"""Burgers, KdV and KS as APEBench sets them, by their difficulties on 160 points (Koehler et al. 2024).

data:
  problem: configs/bench/apebench/problems.py:KS
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ups_models import Axis, Problem, Sampling, Solver
from ups_models.problems.problem import Progress, Symmetry, Values, mirrored
from ups_models.problems.solving import SolverFailed, in_chunks
from ups_models.problems.spectral import PeriodicGrid, convection

POINTS, WAVES, CIRCLE, LONGEST = 160, 5, 16, 200


def waves(points: int, rng: np.random.Generator) -> Tensor:
    """The five lowest waves, amplitudes U(-1, 1), phases U(0, 2 pi), scaled to a maximum of one: (1, X) float64."""
    phase = 2 * np.pi * np.outer(np.arange(points) / points, np.arange(1, WAVES + 1))
    amplitude, shift = rng.uniform(-1, 1, WAVES), rng.uniform(0, 2 * np.pi, WAVES)
    u = np.sin(phase + shift) @ amplitude
    return torch.from_numpy(u / np.abs(u).max())[None]


def solver(delta: float, gammas: Mapping[int, float], warm_up: int = 0) -> Solver:
    """Of u_t + b (u^2 / 2)_x = sum_j a_j d^j u / dx^j on the unit interval, one step of ETDRK2 for a unit of time.

    Difficulties are a_j N^j 2^(j - 1) and -b N, on N = 160 points, whatever the grid (Koehler et al. 2024, sec. 3).
    """

    def solve(u0: Tensor, _parameters: Values, times: Sequence[float], on_progress: Progress | None = None) -> Tensor:
        """(N, 1, X) -> (N, T, 1, X) float64."""
        grid = PeriodicGrid(u0.shape[-1:], (1.0,))
        derivative = 1j * grid.k[0]
        linear = torch.stack([g / (POINTS**j * 2 ** (j - 1)) * derivative**j for j, g in gammas.items()]).sum(0)
        slope, (decay, first, second) = convection(grid, -delta / POINTS), etdrk2(linear)

        def rows(u: Tensor) -> Tensor:
            if any(time != round(time) for time in times):
                raise SolverFailed(f"{times[1]:g} is no whole number of steps; use t_end = nt - 1")
            v, found = grid.modes(u), []
            for _ in range(round(times[-1]) + 1):
                found.append(v)
                before = slope(v)
                ahead = decay * v + first * before
                v = ahead + second * (slope(ahead) - before)
            return grid.fields(torch.stack([found[round(time)] for time in times], dim=1))

        return in_chunks(rows, u0, times, on_progress)

    def initial(n: int, points: tuple[int, ...], parameters: Values, rng: np.random.Generator) -> Tensor:
        """Waves after the warm-up, (N, 1, X); drawn again if their solution has no bound (KdV: 1 of 2000)."""
        children = rng.spawn(n)
        u, bad = torch.empty(n, 1, *points, dtype=torch.float64), torch.ones(n, dtype=torch.bool)
        while bad.any():
            drawn = torch.stack([waves(points[0], children[row]) for row in bad.nonzero().flatten()])
            found = solve(drawn, parameters, [float(time) for time in sorted({0, warm_up, warm_up + LONGEST})])
            u[bad] = found[:, -2]
            bad[bad.clone()] = ~found[:, -1].isfinite().flatten(1).all(1)
        return u

    return Solver(initial, solve)


def etdrk2(linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of a step of one. Cox & Matthews 2002, eq. 22, by the contour of Kassam & Trefethen 2005, sec. 3."""
    angle = 2 * math.pi * (torch.arange(CIRCLE, dtype=torch.float64) + 0.5) / CIRCLE
    z = linear[..., None] + torch.exp(1j * angle)
    return torch.exp(linear), ((z.exp() - 1) / z).mean(-1), ((z.exp() - 1 - z) / z**2).mean(-1)


def problem(name: str, how: Solver, symmetries: tuple[Symmetry, ...] = ()) -> Problem:
    """One of the three: a field on the periodic unit interval whose mean is conserved, 50 steps of a unit of time."""
    return Problem(
        name=name,
        channels=("u",),
        parameters=(),
        axes=(Axis("x"),),
        sampling=Sampling(points=POINTS, nt=51, t_end=50.0),
        solver=how,
        order=2,
        conserved=("u",),
        symmetries=symmetries,
        pattern=f"{name}_{{}}.h5",
        seconds=0.01,
    )


BURGERS = problem("apebench_burgers", solver(-1.5, {2: 1.5}), (mirrored(1),))
KDV = problem("apebench_kdv", solver(-2.0, {3: -14.0, 4: -9.0}))
KS = problem("apebench_ks", solver(-1.0, {2: -2.0, 4: -18.0}, warm_up=500), (mirrored(1),))
