"""Burgers' equation on the periodic unit interval."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ups_models.problems.initial import waves
from ups_models.problems.problem import Progress, Solver, Values
from ups_models.problems.solving import ROWS_PER_CHUNK, SolverFailed, check_times, one_thread
from ups_models.problems.spectral import Etdrk4, etdrk4, step

CFL = 1.25  # max|v| dt / dx; measured at max|v| = 1.5, nx = 512: nRMSE 4e-5, with 1.9 7e-5, with 3.8 7e-4
POINTS_TIMES_NU = 4.0  # measured, nu=.01, 512 points, 64 random waves: nRMSE median 5e-7, worst 2e-4
LARGEST_TAIL = 1e-3  # largest fraction in the highest modes; measured: the nRMSE of a solution is about as large


def resolution(nu: float, nx: int) -> int:
    """Grid points the Burgers solver needs: 2 nx doubled until it is >= 4 / nu (512 for nu=.01, 4096 for nu=.001)."""
    points = 2 * nx
    while points * nu < POINTS_TIMES_NU:
        points *= 2
    return points


def solve(
    u0: Tensor,
    nu: float,
    times: Sequence[float],
    *,
    on_progress: Progress | None = None,
    largest_tail: float = LARGEST_TAIL,
) -> Tensor:
    """Solve u_t + (u^2/2)_x = (nu/pi) u_xx on the periodic unit interval: (N, X) -> (N, T, X) float64.

    Pseudo-spectral with 2/3 dealiasing, ETDRK4 in time (Kassam & Trefethen 2005). The mean m is conserved, so
    v = u - m is solved in the frame that moves with m: this halves max|v|, and with it the number of steps.
    A row's time step depends on that row alone, so its solution does not depend on its neighbours. Raises SolverFailed
    where the highest modes hold more than `largest_tail` of the largest.
    """
    check_times(times)
    u0 = u0.to(torch.float64)
    nx = u0.shape[-1]
    mean = u0.mean(dim=-1, keepdim=True)
    k = 2 * math.pi * torch.arange((nx - 1) // 3 + 1, dtype=torch.float64)
    steppers: dict[float, Etdrk4] = {}
    u = torch.empty(u0.shape[0], len(times), nx, dtype=torch.float64)
    n_done = 0
    for rows, speed in _rows_of_like_speed((u0 - mean).abs().amax(dim=-1)):
        v_hat = torch.fft.rfft(u0[rows] - mean[rows])[:, : len(k)]
        with one_thread():
            v_hats = _march(v_hat, nu, times, nx=nx, speed=speed, k=k, steppers=steppers)
        _check_resolved(v_hats, nu, nx, largest_tail)
        shift = mean[rows][:, :, None] * torch.as_tensor(times, dtype=torch.float64)[None, :, None]
        u[rows] = torch.fft.irfft(v_hats * torch.exp(-1j * k * shift), n=nx) + mean[rows][:, :, None]
        n_done += len(rows)
        if on_progress is not None:
            on_progress(n_done)
    u[:, 0] = u0
    return u


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
    steppers: dict[float, Etdrk4],
) -> Tensor:
    """Integrate the modes (B, K) of a zero-mean field through all output times: (B, T, K)."""
    decay = -(nu / math.pi) * k**2
    advect = -0.5j * k

    def slope(modes: Tensor) -> Tensor:
        flux_hat: Tensor = torch.fft.rfft(torch.fft.irfft(modes, n=nx).square_())[:, : modes.shape[1]]
        return advect * flux_hat

    v_hats = [v_hat]
    for start, end in pairwise(times):
        fastest = min(speed, 1 / start) if start > 0 else speed  # v_x <= 1/t (Oleinik), hence max|v| <= 1/t
        n_steps = math.ceil((end - start) * nx * fastest / CFL)
        dt = round((end - start) / n_steps, 14)
        if dt not in steppers:
            steppers[dt] = etdrk4(decay, dt)
        for _ in range(n_steps):
            v_hat = step(v_hat, steppers[dt], slope)
        v_hats.append(v_hat)
    return torch.stack(v_hats, dim=1)


def _check_resolved(v_hats: Tensor, nu: float, nx: int, largest_tail: float) -> None:
    """Refuse a solution whose highest modes carry part of a shock. v_hats: (B, T, K), t=0 is not looked at."""
    size = v_hats[:, 1:].abs() if v_hats.shape[1] > 1 else v_hats.abs()
    n_tail = max(1, size.shape[-1] // 10)
    tail = size[..., -n_tail:].amax(dim=-1) / size.amax(dim=-1).amax(dim=1, keepdim=True).clamp_min(1e-12)
    worst = float(tail.max())
    if not math.isfinite(worst) or worst > largest_tail:
        raise SolverFailed(
            f"burgers1d: {nx} points do not resolve nu={nu:g} (highest modes at {worst:.1e} of the largest, "
            f"at most {largest_tail:g} is accurate). Solve on {2 * nx} points or more."
        )


def _solve(u0: Tensor, parameters: Values, times: Sequence[float], on_progress: Progress | None) -> Tensor:
    return solve(u0[:, 0], parameters["Nu"], times, on_progress=on_progress)[:, :, None]


def _solve_anyway(u0: Tensor, parameters: Values, times: Sequence[float], on_progress: Progress | None) -> Tensor:
    return solve(u0[:, 0], parameters["Nu"], times, on_progress=on_progress, largest_tail=math.inf)[:, :, None]


def _resolution(parameters: Values, points: int) -> int:
    return resolution(parameters["Nu"], points)


SOLVER = Solver(waves, _solve, _resolution, unchecked=_solve_anyway)
