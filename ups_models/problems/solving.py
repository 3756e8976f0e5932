"""What the reference solvers share: one thread, checked times, rows in chunks, and one error."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch

from ups_models.errors import UPSError

Progress = Callable[[int], None]
"""Told the number of finished samples."""

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


def check_times(times: Sequence[float]) -> None:
    """Raise ValueError unless output times start at 0 and increase."""
    if len(times) == 0 or times[0] != 0 or any(late <= early for early, late in pairwise(times)):
        raise ValueError(f"output times must start at 0 and increase, got {list(times)[:4]}...")
