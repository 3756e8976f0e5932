"""What the reference solvers share: one thread, checked times, rows in chunks, and one error."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor

from ups_models.errors import UPSError
from ups_models.problems.problem import Progress

CACHED_VALUES = 16384
"""Values of the fields of a chunk: 32 rows of 512 points, 4 of 64 x 64."""
ROWS_PER_CHUNK = 32  # a chunk of 32 rows x 512 points stays in the cache


class SolverFailed(UPSError):
    """A reference solution that is not accurate enough to be called one."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run thousands of tiny operations on one thread: on two busy cores, two threads took 80 times as long."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def in_chunks(
    solve: Callable[[Tensor], Tensor], u0: Tensor, times: Sequence[float], on_progress: Progress | None
) -> Tensor:
    """Solve (N, C, *space) -> (N, T, C, *space) float64, so many rows at once that they stay in the cache."""
    check_times(times)
    u0 = u0.to(torch.float64)
    rows = max(1, CACHED_VALUES // u0[0].numel())
    parts = []
    for start in range(0, len(u0), rows):
        with one_thread():
            part = solve(u0[start : start + rows])
        part[:, 0] = u0[start : start + rows]
        parts.append(part)
        if on_progress is not None:
            on_progress(min(start + rows, len(u0)))
    return torch.cat(parts)


def check_times(times: Sequence[float]) -> None:
    """Raise ValueError unless output times start at 0 and increase."""
    if len(times) == 0 or times[0] != 0 or any(late <= early for early, late in pairwise(times)):
        raise ValueError(f"output times must start at 0 and increase, got {list(times)[:4]}...")
