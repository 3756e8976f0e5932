"""Exponential time stepping of modes: a linear part solved exactly, the rest by a fourth-order Runge-Kutta method."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ups_models.problems.problem import Progress
from ups_models.problems.solving import SolverFailed, in_chunks

Slope = Callable[[Tensor], Tensor]
"""The nonlinear part N(v) of v' = L v + N(v), in modes."""
CIRCLE = 64
"""Points of the contour about dt L; half of them where L is real."""


class Etdrk4(NamedTuple):
    """Coefficients of one step, each in the shape of the modes. Cox & Matthews 2002, eqs. 26-29."""

    full: Tensor
    half: Tensor
    stage: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor


def etdrk4(linear: Tensor, dt: float) -> Etdrk4:
    """Coefficients for v' = linear v + N(v), by the contour integral of Kassam & Trefethen 2005, section 3.

    Of a real `linear` the upper half of the circle is enough: the coefficients are real.
    """
    is_real = not linear.is_complex()
    count = CIRCLE // 2 if is_real else CIRCLE
    angle = (math.pi if is_real else 2 * math.pi) * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = dt * linear[..., None] + torch.exp(1j * angle)
    exp_z = torch.exp(z)

    def average(values: Tensor) -> Tensor:
        return torch.mean(dt * (values.real if is_real else values), dim=-1)

    return Etdrk4(
        full=torch.exp(dt * linear),
        half=torch.exp(dt * linear / 2),
        stage=average((torch.exp(z / 2) - 1) / z),
        first=average((-4 - z + exp_z * (4 - 3 * z + z**2)) / z**3),
        middle=average(2 * (2 + z + exp_z * (z - 2)) / z**3),
        last=average((-4 - 3 * z - z**2 + exp_z * (4 - z)) / z**3),
    )


def step(v: Tensor, c: Etdrk4, slope: Slope) -> Tensor:
    """One step of the modes."""
    slope_0 = slope(v)
    halfway = c.half * v
    a = halfway + c.stage * slope_0
    slope_a = slope(a)
    slope_b = slope(halfway + c.stage * slope_a)
    slope_c = slope(c.half * a + c.stage * (2 * slope_b - slope_0))
    return c.full * v + c.first * slope_0 + c.middle * (slope_a + slope_b) + c.last * slope_c


def march(v: Tensor, linear: Tensor, slope: Slope, times: Sequence[float], *, longest: float) -> Tensor:
    """The modes (B, ...) at all output times, (B, T, ...), in steps of at most `longest`.

    Raises SolverFailed where they do not stay finite.
    """
    steppers: dict[float, Etdrk4] = {}
    found = [v]
    for start, end in pairwise(times):
        n_steps = math.ceil((end - start) / longest - 1e-9)
        dt = round((end - start) / n_steps, 14)
        c = steppers[dt] if dt in steppers else steppers.setdefault(dt, etdrk4(linear, dt))
        for _ in range(n_steps):
            v = step(v, c, slope)
        found.append(v)
    if not bool(torch.isfinite(torch.view_as_real(v) if v.is_complex() else v).all()):
        raise SolverFailed(f"the solution does not stay finite in steps of {longest:g}; use more points, or less time")
    return torch.stack(found, dim=1)


def solve_modes(
    grid: "PeriodicGrid | CosineGrid",
    u0: Tensor,
    linear: Tensor,
    slope: Slope,
    times: Sequence[float],
    *,
    longest: float,
    on_progress: Progress | None,
) -> Tensor:
    """Solve for fields (N, C, *space) in the modes of a grid: (N, T, C, *space) float64, a chunk of rows at once."""

    def rows(u: Tensor) -> Tensor:
        return grid.fields(march(grid.modes(u) * grid.kept, linear, slope, times, longest=longest))

    return in_chunks(rows, u0, times, on_progress)


def convection(grid: "PeriodicGrid", speed: float = 1.0) -> Slope:
    """-speed (u^2 / 2)_x of a field on a line."""
    advect = -0.5j * speed * grid.k[0] * grid.kept

    def slope(v: Tensor) -> Tensor:
        found: Tensor = advect * grid.modes(grid.fields(v).square())
        return found

    return slope


class PeriodicGrid:
    """Fourier modes of real fields on a periodic grid of 1 or 2 dimensions, without those that products would fold.

    Attributes:
        k: The wave numbers along each axis, each in a shape that broadcasts over the modes.
        kept: 1 for the modes below two thirds of the highest (Orszag 1971), 0 for the others.
    """

    def __init__(self, points: Sequence[int], lengths: Sequence[float]) -> None:
        self.points = tuple(points)
        self.axes = tuple(range(-len(self.points), 0))
        waves = [
            (torch.fft.rfftfreq if axis == -1 else torch.fft.fftfreq)(n, 1 / n, dtype=torch.float64)
            for axis, n in zip(self.axes, self.points, strict=True)
        ]
        shapes = [[-1 if one == axis else 1 for one in self.axes] for axis in self.axes]
        waves = [wave.view(shape) for wave, shape in zip(waves, shapes, strict=True)]
        self.k = [2 * math.pi / length * wave for wave, length in zip(waves, lengths, strict=True)]
        kept = torch.ones((), dtype=torch.float64)
        for wave, n in zip(waves, self.points, strict=True):
            kept = kept * (wave.abs() < n / 3)
        self.kept = kept

    @property
    def k_squared(self) -> Tensor:
        """|k|^2 of every mode."""
        return torch.stack([one.expand(self.kept.shape) for one in self.k]).square().sum(0)

    def modes(self, u: Tensor) -> Tensor:
        """(..., *space) -> complex modes (..., *modes)."""
        found: Tensor = torch.fft.rfftn(u, dim=self.axes)
        return found

    def fields(self, v: Tensor) -> Tensor:
        """The inverse."""
        found: Tensor = torch.fft.irfftn(v, s=self.points, dim=self.axes)
        return found


class CosineGrid:
    """Cosine modes of fields with zero normal derivative on the boundary, at cell centres. Ahmed et al. 1974 (DCT-II).

    `k_squared` (*modes) are minus the eigenvalues of the Laplacian.
    """

    def __init__(self, points: Sequence[int], lengths: Sequence[float]) -> None:
        self.bases = [dct(n) for n in points]
        self.kept = torch.ones((), dtype=torch.float64)  # all of them
        waves = [
            math.pi / length * torch.arange(n, dtype=torch.float64) for n, length in zip(points, lengths, strict=True)
        ]
        self.k_squared: Tensor = sum(
            wave.square().view([-1 if one == axis else 1 for one in range(len(waves))])
            for axis, wave in enumerate(waves)
        )  # type: ignore[assignment]

    def modes(self, u: Tensor) -> Tensor:
        """(..., *space) -> (..., *modes)."""
        return self._along_all(u, self.bases)

    def fields(self, v: Tensor) -> Tensor:
        """The inverse."""
        return self._along_all(v, [basis.T for basis in self.bases])

    @staticmethod
    def _along_all(u: Tensor, matrices: list[Tensor]) -> Tensor:
        for axis, matrix in zip(range(-len(matrices), 0), matrices, strict=True):
            u = (u.transpose(axis, -1) @ matrix.T).transpose(axis, -1)
        return u


def dct(n: int) -> Tensor:
    """The orthonormal DCT-II of n points, (n, n) float64: a row for each frequency."""
    k = torch.arange(n, dtype=torch.float64)[:, None]
    rows = torch.cos(math.pi * k * (torch.arange(n, dtype=torch.float64) + 0.5) / n) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows
