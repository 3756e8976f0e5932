"""Linear advection on the periodic unit interval."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ups_models.problems.initial import waves
from ups_models.problems.problem import Progress, Solver, Values, twice
from ups_models.problems.solving import ROWS_PER_CHUNK, check_times


def solve(u0: Tensor, beta: float, times: Sequence[float], *, on_progress: Progress | None = None) -> Tensor:
    """Solve u_t + beta u_x = 0 on the periodic unit interval, exactly for each mode: (N, X) -> (N, T, X) float64."""
    check_times(times)
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


def _solve(u0: Tensor, parameters: Values, times: Sequence[float], on_progress: Progress | None) -> Tensor:
    return solve(u0[:, 0], parameters["beta"], times, on_progress=on_progress)[:, :, None]


SOLVER = Solver(waves, _solve, twice)
