"""What generating data will cost, estimated before it starts: bytes on the disk, memory, seconds."""

import logging
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ups_models.errors import DataError
from ups_models.problems.problem import Problem
from ups_models.problems.registry import BURGERS

logger = logging.getLogger(__name__)

GIGABYTE, HOUR_S = 1_000_000_000, 3600.0
LARGE_BYTES, LONG_S = 20 * GIGABYTE, HOUR_S
"""From here on the cost is said before it is paid."""
MEMORY_OF_POINT, MEMORY_OF_VALUE = 600, 24
"""Bytes that a solver holds for each grid point of a row, and for each value that it returns; measured."""
SECONDS = {"burgers1d": 1e-8, "advection1d": 5e-9, "darcy2d": 5e-8}
"""Of one unit of work below, on one core; measured, and good to a factor of three."""
CFL = 1.25


@dataclass(frozen=True)
class Cost:
    """An estimate."""

    n_bytes: int
    memory: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.n_bytes / GIGABYTE:,.3g} GB and {self.seconds / HOUR_S:,.2g} h on one core"


def cost_of(problem: Problem, *, n: int, nx: int, points: int, nt: int, t_end: float) -> Cost:
    """Of n samples stored on nx points and solved on `points`, for nt times; steady ones on nx x nx cells."""
    if problem.steady:
        cells = nx * nx
        return Cost(8 * n * cells, cells * (MEMORY_OF_POINT + MEMORY_OF_VALUE), SECONDS[problem.name] * n * nx**3)
    sampling, axes, channels = problem.sampling, problem.dimensions, len(problem.channels)
    if problem.seconds:
        finer, longer = nx / sampling.points, t_end / sampling.t_end
        solved, stored = channels * points**axes, channels * nx**axes
        memory = solved * (MEMORY_OF_POINT + MEMORY_OF_VALUE * nt)
        return Cost(4 * n * nt * stored, memory, n * problem.seconds * finer**axes * longer)
    transforms = float(nt)
    if problem.name == BURGERS.name:
        transforms = points / CFL * (min(t_end, 1.0) + math.log(max(t_end, 1.0)))
    work = n * transforms * points * math.log2(points)
    return Cost(
        4 * n * nt * nx, points * (MEMORY_OF_POINT + MEMORY_OF_VALUE * nt), SECONDS.get(problem.name, 0.0) * work
    )


def require_room(path: Path, cost: Cost) -> None:
    """Say what is large before it starts. Raises DataError for what fits neither the disk nor the memory."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if cost.n_bytes > free:
        raise DataError(
            f"{path}: needs {cost.n_bytes / GIGABYTE:,.3g} GB, and the disk has {free / GIGABYTE:,.3g} GB free. "
            "Use fewer samples, times or points, or another disk"
        )
    total = machine_memory()
    if cost.memory > total:
        raise DataError(
            f"{path}: one sample needs {cost.memory / GIGABYTE:,.3g} GB of memory to be solved, and this machine has "
            f"{total / GIGABYTE:,.3g} GB. Use fewer points or times, or a larger nu"
        )
    if cost.n_bytes > LARGE_BYTES or cost.seconds > LONG_S:
        logger.warning("%s: this will take about %s", path, cost)


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
