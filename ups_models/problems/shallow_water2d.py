"""The shallow-water equations on a square: a cylinder of water that collapses (radial dam break)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ups_models.problems.problem import Progress, Solver, Values, twice
from ups_models.problems.registry import SHALLOW_WATER
from ups_models.problems.solving import in_chunks

INSIDE, OUTSIDE = 2.0, 1.0
SMALLEST, LARGEST = 0.3, 0.7
"""Depths and radii of PDEBench's radial dam break (Takamoto et al. 2022, app. D.7)."""
COURANT = 0.4
FASTER_THAN_WAVES = 1.6
"""The water moves too; measured: at most 1.1 times as fast as waves on the deepest of it."""


def initial(n: int, points: tuple[int, ...], _parameters: Values, rng: np.random.Generator) -> Tensor:
    """Still water, twice as deep inside a circle of random radius: (N, 3, X, Y), averages over cells."""
    fine = 8  # a cell that the circle cuts holds its share of the deep water, which no other radius gives it
    x, y = (
        axis.low + axis.length * (np.arange(fine * size) + 0.5) / (fine * size)
        for axis, size in zip(SHALLOW_WATER.axes, points, strict=True)
    )
    distance = np.hypot(x[:, None], y[None, :])
    depths = []
    width = max(axis.length / (fine * size) for axis, size in zip(SHALLOW_WATER.axes, points, strict=True))
    for child in rng.spawn(n):
        share = np.clip(0.5 + (child.uniform(SMALLEST, LARGEST) - distance) / width, 0, 1)
        deep = OUTSIDE + (INSIDE - OUTSIDE) * share
        depths.append(deep.reshape(points[0], fine, points[1], fine).mean((1, 3)))
    depth = torch.from_numpy(np.stack(depths))
    return torch.stack([depth, torch.zeros_like(depth), torch.zeros_like(depth)], 1)


def solve(u0: Tensor, parameters: Values, times: Sequence[float], on_progress: Progress | None = None) -> Tensor:
    """Solve h_t + div(h v) = 0, (h v)_t + div(h v v) + grad(g h^2 / 2) = 0: (N, 3, X, Y) -> (N, T, 3, X, Y).

    Channels are h and the momenta h v_x, h v_y. Finite volumes: linear reconstruction with the limiter of van Leer
    1979, fluxes of Harten, Lax & van Leer 1983, the Runge-Kutta method of Shu & Osher 1988; second order where the
    solution is smooth. Waves leave through the boundary.
    """
    gravity = parameters["g"]

    def rows(u: Tensor) -> Tensor:
        return _march(u, times, gravity)

    return in_chunks(rows, u0, times, on_progress)


def _march(u: Tensor, times: Sequence[float], gravity: float) -> Tensor:

    found = [u]
    length_x, length_y = SHALLOW_WATER.lengths
    spacing = length_x / u.shape[-2], length_y / u.shape[-1]
    level = math.ceil(4 * math.log2(gravity * float(u[:, 0].max())))  # in levels, so that neighbours do not matter
    fastest = FASTER_THAN_WAVES * 2.0 ** (level / 8)
    for start, end in pairwise(times):
        n_steps = math.ceil((end - start) * fastest / (COURANT * min(spacing)))
        dt = (end - start) / n_steps
        for _ in range(n_steps):
            first = u + dt * _slope(u, spacing, gravity)
            second = 0.75 * u + 0.25 * (first + dt * _slope(first, spacing, gravity))
            u = (u + 2 * (second + dt * _slope(second, spacing, gravity))) / 3
        found.append(u)
    return torch.stack(found, 1)


def _slope(u: Tensor, spacing: tuple[float, float], gravity: float) -> Tensor:
    """-div of the fluxes, (N, 3, X, Y)."""
    along_x = _divergence(u, gravity) / spacing[0]
    turned = u.transpose(-1, -2)[:, (0, 2, 1)]
    along_y = _divergence(turned, gravity)[:, (0, 2, 1)].transpose(-1, -2) / spacing[1]
    return -(along_x + along_y)


def _divergence(u: Tensor, gravity: float) -> Tensor:
    """Differences of the fluxes along the first axis of space, times the spacing."""
    padded = torch.cat([u[:, :, :1], u[:, :, :1], u, u[:, :, -1:], u[:, :, -1:]], 2)
    before, after = padded[:, :, 1:-1] - padded[:, :, :-2], padded[:, :, 2:] - padded[:, :, 1:-1]
    both = before * after
    rise = torch.where(both > 0, 2 * both / (before + after + torch.where(before + after == 0, 1.0, 0.0)), 0.0)
    inner = padded[:, :, 1:-1]
    left, right = (inner + rise / 2)[:, :, :-1], (inner - rise / 2)[:, :, 1:]
    return _hll(left, right, gravity).diff(dim=2)


def _hll(left: Tensor, right: Tensor, gravity: float) -> Tensor:
    """The flux between two states, with the fastest waves to both sides. Harten, Lax & van Leer 1983, sec. 3."""
    flux_left, flux_right = _flux(left, gravity), _flux(right, gravity)
    speeds = [(state[:, 1] / state[:, 0], (gravity * state[:, 0]).sqrt()) for state in (left, right)]
    slow = torch.minimum(*(velocity - wave for velocity, wave in speeds)).clamp_max(0)[:, None]
    fast = torch.maximum(*(velocity + wave for velocity, wave in speeds)).clamp_min(0)[:, None]
    return (fast * flux_left - slow * flux_right + slow * fast * (right - left)) / (fast - slow)


def _flux(u: Tensor, gravity: float) -> Tensor:
    """Of (h, h v_x, h v_y) along x."""
    h, qx, qy = u.unbind(1)
    return torch.stack([qx, qx.square() / h + 0.5 * gravity * h.square(), qx * qy / h], 1)


def solve_height(u0: Tensor, parameters: Values, times: Sequence[float], on_progress: Progress | None = None) -> Tensor:
    """The same of water at rest whose height alone is known: (N, 1, X, Y) -> (N, T, 1, X, Y)."""
    at_rest = torch.cat([u0, torch.zeros_like(u0), torch.zeros_like(u0)], 1)
    return solve(at_rest, parameters, times, on_progress)[:, :, :1]


def initial_height(n: int, points: tuple[int, ...], parameters: Values, rng: np.random.Generator) -> Tensor:
    """Its height, (N, 1, X, Y)."""
    return initial(n, points, parameters, rng)[:, :1]


SOLVER = Solver(initial, solve, twice)
HEIGHT = Solver(initial_height, solve_height, twice)
