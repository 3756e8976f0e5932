"""Steady Darcy flow on the unit square: random coefficients and the reference solver."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ups_models.problems.problem import Progress, Solver, Values
from ups_models.problems.solving import ROWS_PER_CHUNK, SolverFailed, one_thread

TOLERANCE = 1e-10  # relative residual of every solution
LOW, HIGH = 0.1, 1.0  # the two diffusion coefficients of PDEBench's files


class _Faces(NamedTuple):
    """Conductivities of the cell faces over h^2: along = (B, n+1, n) across dimension 1, across = (B, n, n+1)."""

    along: Tensor
    across: Tensor


def solve(a: Tensor, beta: float | Tensor, *, on_progress: Progress | None = None) -> Tensor:
    """Solve -div(a grad u) = beta on (0,1)^2 with u = 0 on the boundary: a (N, n, n) -> u (N, n, n) float64.

    Finite volumes on cell centres with harmonic means on the faces (second order). u is linear in beta, a number or
    (N,), so the system is solved for beta = 1. Conjugate gradients, preconditioned by the sine transform of a = 1.
    """
    a = a.to(torch.float64)
    if a.ndim != 3 or a.shape[1] != a.shape[2] or not bool((a > 0).all()):
        raise ValueError(f"darcy2d needs positive coefficients of shape (N, n, n), got {tuple(a.shape)}")
    scale = torch.as_tensor(beta, dtype=torch.float64).expand(len(a))
    u = torch.empty_like(a)
    for start in range(0, len(a), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        with one_thread():
            u[rows] = scale[rows, None, None] * _solve_unit_force(a[rows])
        if on_progress is not None:
            on_progress(min(start + ROWS_PER_CHUNK, len(a)))
    return u


def _solve_unit_force(a: Tensor) -> Tensor:
    """Preconditioned conjugate gradients for beta = 1, (B, n, n). Golub & Van Loan 2013, algorithm 11.5.1.

    A row that has converged changes no more, so that its solution does not depend on its neighbours.
    """
    faces = _faces(a)
    sines, inverse_eigenvalues = _sine_transform(a.shape[-1])

    def precondition(r: Tensor) -> Tensor:
        return sines.T @ (inverse_eigenvalues * (sines @ r @ sines.T)) @ sines

    u, r = torch.zeros_like(a), torch.ones_like(a)
    target = 0.1 * TOLERANCE * _norm(r)
    p = s = precondition(r)
    rho = _dot(r, s)
    for _ in range(20 * a.shape[-1] + 200):
        moving = _norm(r) > target
        if not bool(moving.any()):
            break
        q = _apply_operator(faces, p)
        step = torch.where(moving, rho / _dot(p, q), 0.0)
        u, r = u + step * p, r - step * q
        s = precondition(r)
        rho, rho_before = _dot(r, s), rho
        p = torch.where(moving, s + rho / rho_before * p, p)
    residual = float((_norm(1 - _apply_operator(faces, u)) / a.shape[-1]).max())
    if not residual <= TOLERANCE:
        raise SolverFailed(
            f"darcy2d: relative residual {residual:.1e} above {TOLERANCE:g} on {a.shape[-1]}^2 cells, "
            f"coefficients {float(a.min()):g} to {float(a.max()):g}. Use a coarser grid or a smaller contrast."
        )
    return u


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=(1, 2), keepdim=True)


def _norm(x: Tensor) -> Tensor:
    return _dot(x, x).sqrt()


def _faces(a: Tensor) -> _Faces:
    """Harmonic mean of the two cells of a face; on the boundary, u = 0 lies half a cell away: 2 a."""
    along = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
    across = 2 * a[:, :, 1:] * a[:, :, :-1] / (a[:, :, 1:] + a[:, :, :-1])
    n_squared = a.shape[-1] ** 2
    return _Faces(
        along=n_squared * torch.cat([2 * a[:, :1], along, 2 * a[:, -1:]], dim=1),
        across=n_squared * torch.cat([2 * a[:, :, :1], across, 2 * a[:, :, -1:]], dim=2),
    )


def _apply_operator(faces: _Faces, u: Tensor) -> Tensor:
    """-div(a grad u), (B, n, n) -> (B, n, n)."""
    padded = torch.nn.functional.pad(u, (1, 1, 1, 1))
    flux_along = faces.along * padded[:, :, 1:-1].diff(dim=1)
    flux_across = faces.across * padded[:, 1:-1, :].diff(dim=2)
    return -(flux_along.diff(dim=1) + flux_across.diff(dim=2))


def _sine_transform(n: int) -> tuple[Tensor, Tensor]:
    """For a = 1: eigenvectors of the 1D operator (DST-II, orthonormal), inverse eigenvalues of the 2D one, (n, n)."""
    wave = torch.arange(1, n + 1, dtype=torch.float64)
    cell = torch.arange(n, dtype=torch.float64) + 0.5
    sines = torch.sin(math.pi * torch.outer(wave, cell) / n) * math.sqrt(2 / n)
    sines[-1] /= math.sqrt(2)
    eigenvalues = (2 * n * torch.sin(math.pi * wave / (2 * n))) ** 2
    return sines, 1 / (eigenvalues[:, None] + eigenvalues[None, :])


def random_coefficients(n: int, size: int, rng: np.random.Generator) -> Tensor:
    """Diffusion coefficients in {0.1, 1.0}, never constant, (n, size, size) float64.

    The sign of a Gaussian random field with covariance (-Laplace + 9)^-2 and zero normal derivative on the boundary
    (Li et al. 2021, appendix A.3.2), cut off at 32 modes a side. The i-th field of a fresh `rng` does not depend on n.
    """
    if size < 2:
        raise ValueError(f"a field of {size} cells a side cannot take two values")
    mode = np.arange(32)
    cosines = np.cos(np.pi * np.outer((np.arange(size) + 0.5) / size, mode))
    spread = 1 / (np.pi**2 * (mode[:, None] ** 2 + mode[None, :] ** 2) + 9)
    spread[0, 0] = 0  # the mean would decide the sign of the whole field
    fields = [_two_valued_field(cosines, spread, child) for child in rng.spawn(n)]
    return torch.from_numpy(np.stack(fields))


def _two_valued_field(cosines: np.ndarray, spread: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw until the field takes both values. cosines: (size, 32), spread: (32, 32) -> (size, size)."""
    while True:
        is_high = cosines @ (spread * rng.standard_normal(spread.shape)) @ cosines.T > 0
        if is_high.any() and not is_high.all():
            return np.where(is_high, HIGH, LOW)


def _coefficients(n: int, points: tuple[int, ...], _parameters: Values, rng: np.random.Generator) -> Tensor:
    return random_coefficients(n, points[0], rng)[:, None]


def _solve(a: Tensor, parameters: Values, _times: Sequence[float], on_progress: Progress | None) -> Tensor:
    return solve(a[:, 0], parameters["beta"], on_progress=on_progress)[:, None, None]


SOLVER = Solver(_coefficients, _solve)
