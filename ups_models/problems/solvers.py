"""Reference solvers and random inputs of the three PDE families: Burgers, advection and Darcy flow."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ups_models.errors import UPSError

Progress = Callable[[int], None]

BURGERS_CFL = 1.25  # max|v| dt / dx; measured at max|v| = 1.5, nx = 512: nRMSE 4e-5, with 1.9 7e-5, with 3.8 7e-4
BURGERS_POINTS_TIMES_NU = 4.0  # measured, nu=.01, 512 points, 64 random waves: nRMSE median 5e-7, worst 2e-4
BURGERS_TAIL = 1e-3  # largest share of the highest modes; measured: the nRMSE of a solution is about as large
ROWS_PER_CHUNK = 32  # a chunk of 32 rows x 512 points stays in the cache
DARCY_TOLERANCE = 1e-10  # relative residual of every Darcy solution
DARCY_LOW, DARCY_HIGH = 0.1, 1.0  # the two diffusion coefficients of PDEBench's Darcy files


class SolverFailed(UPSError):
    """A reference solution that is not accurate enough to be called one."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run thousands of tiny operations on one thread: on two busy cores, two threads took 80 times as long."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


# ---------------------------------------------------------------------------------------------------------------------
# Burgers


class _Etdrk4(NamedTuple):
    """Coefficients of one step for each mode, (K,) float64. Cox & Matthews 2002, eqs. 26-29."""

    full: Tensor
    half: Tensor
    stage: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor


def burgers_resolution(nu: float, nx: int) -> int:
    """Grid points the Burgers solver needs: 2 nx doubled until it is >= 4 / nu (512 for nu=.01, 4096 for nu=.001)."""
    points = 2 * nx
    while points * nu < BURGERS_POINTS_TIMES_NU:
        points *= 2
    return points


def burgers1d(u0: Tensor, nu: float, times: Sequence[float], *, on_progress: Progress | None = None) -> Tensor:
    """Solve u_t + (u^2/2)_x = (nu/pi) u_xx on the periodic unit interval: (N, X) -> (N, T, X) float64.

    Pseudo-spectral with 2/3 dealiasing, ETDRK4 in time (Kassam & Trefethen 2005). The mean m is conserved, so
    v = u - m is solved in the frame that moves with m: this halves max|v|, and with it the number of steps.
    A row's time step depends on that row alone, so its solution does not depend on its neighbours.
    """
    _check_times(times)
    u0 = u0.to(torch.float64)
    nx = u0.shape[-1]
    mean = u0.mean(dim=-1, keepdim=True)
    k = 2 * math.pi * torch.arange((nx - 1) // 3 + 1, dtype=torch.float64)
    steppers: dict[float, _Etdrk4] = {}
    u = torch.empty(u0.shape[0], len(times), nx, dtype=torch.float64)
    n_done = 0
    for rows, speed in _rows_of_like_speed((u0 - mean).abs().amax(dim=-1)):
        v_hat = torch.fft.rfft(u0[rows] - mean[rows])[:, : len(k)]
        with _one_thread():
            v_hats = _march(v_hat, nu, times, nx=nx, speed=speed, k=k, steppers=steppers)
        _check_resolved(v_hats, nu, nx)
        shift = mean[rows][:, :, None] * torch.as_tensor(times, dtype=torch.float64)[None, :, None]
        u[rows] = torch.fft.irfft(v_hats * torch.exp(-1j * k * shift), n=nx) + mean[rows][:, :, None]
        n_done += len(rows)
        if on_progress is not None:
            on_progress(n_done)
    u[:, 0] = u0
    return u


def _check_times(times: Sequence[float]) -> None:
    if len(times) == 0 or times[0] != 0 or any(late <= early for early, late in pairwise(times)):
        raise ValueError(f"output times must start at 0 and increase, got {list(times)[:4]}...")


def _rows_of_like_speed(speed: Tensor) -> Iterator[tuple[Tensor, float]]:
    """Chunks of row numbers whose max|v| rounds up to the same power of sqrt(2), with that power. speed: (N,)."""
    levels = torch.ceil(2 * torch.log2(speed.clamp_min(0.25))).tolist()
    for level in sorted(set(levels)):
        rows = torch.tensor([row for row, own in enumerate(levels) if own == level])
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            yield rows[start : start + ROWS_PER_CHUNK], 2.0 ** (level / 2)


def _march(
    v_hat: Tensor,
    nu: float,
    times: Sequence[float],
    *,
    nx: int,
    speed: float,
    k: Tensor,
    steppers: dict[float, _Etdrk4],
) -> Tensor:
    """Integrate the modes (B, K) of a zero-mean field through all output times: (B, T, K)."""
    decay = -(nu / math.pi) * k**2
    advect = -0.5j * k
    v_hats = [v_hat]
    for start, end in pairwise(times):
        fastest = min(speed, 1 / start) if start > 0 else speed  # v_x <= 1/t (Oleinik), hence max|v| <= 1/t
        n_steps = math.ceil((end - start) * nx * fastest / BURGERS_CFL)
        dt = round((end - start) / n_steps, 14)
        if dt not in steppers:
            steppers[dt] = _etdrk4(decay, dt)
        for _ in range(n_steps):
            v_hat = _etdrk4_step(v_hat, steppers[dt], advect, nx)
        v_hats.append(v_hat)
    return torch.stack(v_hats, dim=1)


def _etdrk4(decay: Tensor, dt: float) -> _Etdrk4:
    """Coefficients for v' = decay * v + N(v), by the contour integral of Kassam & Trefethen 2005, section 3."""
    angle = math.pi * (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    z = dt * decay[:, None] + torch.exp(1j * angle)  # upper half of a unit circle about dt * decay
    exp_z = torch.exp(z)

    def average(values: Tensor) -> Tensor:
        return torch.mean(dt * values.real, dim=1)

    return _Etdrk4(
        full=torch.exp(dt * decay),
        half=torch.exp(dt * decay / 2),
        stage=average((torch.exp(z / 2) - 1) / z),
        first=average((-4 - z + exp_z * (4 - 3 * z + z**2)) / z**3),
        middle=average(2 * (2 + z + exp_z * (z - 2)) / z**3),
        last=average((-4 - 3 * z - z**2 + exp_z * (4 - z)) / z**3),
    )


def _etdrk4_step(v_hat: Tensor, c: _Etdrk4, advect: Tensor, nx: int) -> Tensor:
    """One step of the modes (B, K)."""

    def slope(modes: Tensor) -> Tensor:
        flux_hat: Tensor = torch.fft.rfft(torch.fft.irfft(modes, n=nx).square_())[:, : modes.shape[1]]
        return advect * flux_hat

    slope_0 = slope(v_hat)
    halfway = c.half * v_hat
    a = halfway + c.stage * slope_0
    slope_a = slope(a)
    slope_b = slope(halfway + c.stage * slope_a)
    slope_c = slope(c.half * a + c.stage * (2 * slope_b - slope_0))
    return c.full * v_hat + c.first * slope_0 + c.middle * (slope_a + slope_b) + c.last * slope_c


def _check_resolved(v_hats: Tensor, nu: float, nx: int) -> None:
    """Refuse a solution whose highest modes carry part of a shock. v_hats: (B, T, K), t=0 being the caller's affair."""
    size = v_hats[:, 1:].abs() if v_hats.shape[1] > 1 else v_hats.abs()
    n_tail = max(1, size.shape[-1] // 10)
    tail = size[..., -n_tail:].amax(dim=-1) / size.amax(dim=-1).amax(dim=1, keepdim=True).clamp_min(1e-12)
    worst = float(tail.max())
    if not math.isfinite(worst) or worst > BURGERS_TAIL:
        raise SolverFailed(
            f"burgers1d: {nx} points do not resolve nu={nu:g} (highest modes at {worst:.1e} of the largest, "
            f"at most {BURGERS_TAIL:g} is accurate). Solve on {2 * nx} points or more."
        )


# ---------------------------------------------------------------------------------------------------------------------
# Advection


def advection1d(u0: Tensor, beta: float, times: Sequence[float], *, on_progress: Progress | None = None) -> Tensor:
    """Solve u_t + beta u_x = 0 on the periodic unit interval, exactly for each mode: (N, X) -> (N, T, X) float64."""
    _check_times(times)
    u0 = u0.to(torch.float64)
    nx = u0.shape[-1]
    k = 2 * math.pi * torch.arange(nx // 2 + 1, dtype=torch.float64)
    shift = torch.exp(-1j * beta * k * torch.as_tensor(times, dtype=torch.float64)[:, None])
    u = torch.empty(u0.shape[0], len(times), nx, dtype=torch.float64)
    for start in range(0, len(u0), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        u[rows] = torch.fft.irfft(torch.fft.rfft(u0[rows])[:, None, :] * shift, n=nx)
        if on_progress is not None:
            on_progress(min(start + ROWS_PER_CHUNK, len(u0)))
    u[:, 0] = u0
    return u


# ---------------------------------------------------------------------------------------------------------------------
# Darcy flow


class _Faces(NamedTuple):
    """Conductivities of the cell faces over h^2: along = (B, n+1, n) across dimension 1, across = (B, n, n+1)."""

    along: Tensor
    across: Tensor


def darcy2d(a: Tensor, beta: float | Tensor, *, on_progress: Progress | None = None) -> Tensor:
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
        with _one_thread():
            u[rows] = scale[rows, None, None] * _unit_darcy(a[rows])
        if on_progress is not None:
            on_progress(min(start + ROWS_PER_CHUNK, len(a)))
    return u


def _unit_darcy(a: Tensor) -> Tensor:
    """Preconditioned conjugate gradients for beta = 1, (B, n, n). Golub & Van Loan 2013, algorithm 11.5.1.

    A row that has converged stands still, so that its solution does not depend on its neighbours.
    """
    faces = _faces(a)
    sines, inverse_eigenvalues = _sine_transform(a.shape[-1])

    def precondition(r: Tensor) -> Tensor:
        return sines.T @ (inverse_eigenvalues * (sines @ r @ sines.T)) @ sines

    u, r = torch.zeros_like(a), torch.ones_like(a)
    target = 0.1 * DARCY_TOLERANCE * _norm(r)
    p = s = precondition(r)
    rho = _dot(r, s)
    for _ in range(20 * a.shape[-1] + 200):
        moving = _norm(r) > target
        if not bool(moving.any()):
            break
        q = _apply_darcy(faces, p)
        step = torch.where(moving, rho / _dot(p, q), 0.0)
        u, r = u + step * p, r - step * q
        s = precondition(r)
        rho, rho_before = _dot(r, s), rho
        p = torch.where(moving, s + rho / rho_before * p, p)
    residual = float((_norm(1 - _apply_darcy(faces, u)) / a.shape[-1]).max())
    if not residual <= DARCY_TOLERANCE:
        raise SolverFailed(
            f"darcy2d: relative residual {residual:.1e} above {DARCY_TOLERANCE:g} on {a.shape[-1]}^2 cells, "
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


def _apply_darcy(faces: _Faces, u: Tensor) -> Tensor:
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


# ---------------------------------------------------------------------------------------------------------------------
# Random inputs


def random_waves(n: int, nx: int, rng: np.random.Generator, *, offset: float = 0.5) -> Tensor:
    """Initial conditions with PDEBench's distribution at x = (i + offset) / nx, (n, nx) float64.

    Takamoto et al. 2022 (PDEBench), appendix D: a sum of A_k sin(2 pi c_k k x + phase_k), k = 1..4, where c_k counts
    how often two draws with replacement gave k: a mode drawn twice has twice its wave number, one not drawn adds a
    constant.
    Every function gets a random sign; one in ten is an absolute value, one in ten is cut off by a smooth window.
    The i-th function of a fresh `rng` depends on its seed and i alone (`Generator.spawn`), not on n nor on nx.
    """
    x = (np.arange(nx) + offset) / nx % 1.0
    return torch.from_numpy(np.stack([_random_wave(x, child) for child in rng.spawn(n)]))


def _random_wave(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One initial condition, (X,) -> (X,)."""
    wave_number = np.arange(1, 5) * np.bincount(rng.integers(0, 4, size=2), minlength=4)
    amplitude = rng.uniform(0, 1, size=4)
    phase = rng.uniform(0, 2 * np.pi, size=4)
    is_absolute, is_cut = rng.random(size=2) < 0.1
    sign = rng.choice([-1.0, 1.0])
    left, right = rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)
    u: np.ndarray = np.sin(2 * np.pi * x[:, None] * wave_number + phase) @ amplitude
    u = sign * (np.abs(u) if is_absolute else u)
    return u * (np.tanh((x - left) / 0.01) - np.tanh((x - right) / 0.01)) / 2 if is_cut else u


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
            return np.where(is_high, DARCY_HIGH, DARCY_LOW)
