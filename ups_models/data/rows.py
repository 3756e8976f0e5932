"""Solving a problem row by row, on as many cores as there are: a row depends on the seed and its number alone."""

import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups_models.children import quiet_child
from ups_models.errors import UPSError
from ups_models.own_code import is_reference
from ups_models.problems.finding import problem_named
from ups_models.problems.problem import Values
from ups_models.problems.solving import SolverFailed
from ups_models.wording import first_line

WORTH_IT_S = 30.0
"""Work of so many seconds is shared out: a process needs 3 to start."""
ROWS_AT_ONCE, LOOK_S = 8, 0.5
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Order:
    """What to solve: everything that the rows have in common."""

    problem: str
    values: Values
    points: int
    solved: int
    times: Sequence[float]
    seed: int

    def solve(self, start: int, stop: int) -> Array:
        """Rows start..stop as they are stored, (stop - start, T, C, *space). Raises SolverFailed."""
        problem = problem_named(self.problem)
        how = problem.how()
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, n_children_spawned=start)))
        space = (self.solved,) * problem.dimensions
        with _named(self.problem):
            u0 = how.initial(stop - start, space, self.values, rng)
            u = how.solve(u0, self.values, self.times, None)
        wanted = (stop - start, len(self.times), len(problem.channels), *space)
        if tuple(u.shape) != wanted:
            raise SolverFailed(f"{self.problem}: solve returns an array of shape {tuple(u.shape)}, expected {wanted}")
        stored = thinned(u, self.solved // self.points, problem.periodic).to(torch.float32)
        if not (finite := stored.isfinite().flatten(1).all(1)).all():
            row = start + int(finite.logical_not().nonzero()[0])
            raise SolverFailed(
                f"{self.problem}: the solution of sample {row} is not finite; use more points, less time or other "
                "parameters, and where the problem is your own, look at its solver"
            )
        return np.ascontiguousarray(stored.numpy())


@contextmanager
def _named(problem: str) -> Iterator[None]:
    """What a solver of the user's raises, in one line with the place. Raises SolverFailed."""
    try:
        yield
    except (UPSError, MemoryError):
        raise
    except Exception as error:
        if not is_reference(problem):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        raise SolverFailed(f"{problem}: raises {type(error).__name__} at {where}: {first_line(error)}") from error


def thinned(u: Tensor, factor: int, periodic: Sequence[bool]) -> Tensor:
    """Every factor-th node of periodic axes of (..., *space), and means over as many cells of the others."""
    for axis, is_periodic in zip(range(-len(periodic), 0), periodic, strict=True):
        if factor > 1:
            groups = u.unflatten(axis, (-1, factor))
            u = groups.select(axis, 0) if is_periodic else groups.mean(axis)
    return u


def solved_rows(
    order: Order, n: int, *, seconds: float, on_progress: Callable[[int], None]
) -> Iterator[tuple[int, Array]]:
    """The number of the first row of each piece, and the piece, in order.

    `seconds` is what all of them will take on one core. What `on_progress` raises ends the work.
    """
    pieces = [(start, min(start + ROWS_AT_ONCE, n)) for start in range(0, n, ROWS_AT_ONCE)]
    workers = min(len(os.sched_getaffinity(0)), len(pieces))
    if seconds < WORTH_IT_S or workers < 2:
        for start, stop in pieces:
            yield start, order.solve(start, stop)
            on_progress(stop)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=quiet_child, initargs=(os.getpid(),))
    ahead: deque[Future[Array]] = deque()
    try:
        for number, (start, stop) in enumerate(pieces):
            ahead += [pool.submit(order.solve, *one) for one in pieces[number + len(ahead) : number + 2 * workers]]
            while wait([ahead[0]], timeout=LOOK_S).not_done:
                on_progress(start)
            yield start, ahead.popleft().result()
            on_progress(stop)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
