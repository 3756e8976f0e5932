"""Data of our own: solve a problem and write the solutions."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch

from ups_models.data.chunks import chunks
from ups_models.data.layouts.arrays import write_arrays
from ups_models.data.rows import Order, solved_rows
from ups_models.data.sizes import cost_of, require_room
from ups_models.errors import BadInput, DataError, StorageError
from ups_models.files import atomic_path
from ups_models.problems.finding import problem_named
from ups_models.problems.initial import random_waves
from ups_models.problems.problem import Problem, Progress, Values
from ups_models.problems.registry import ADVECTION, BURGERS
from ups_models.reading import remedy
from ups_models.wording import first_line

SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""HDF5 has their numbers in its text alone."""


def generate(
    family: str,
    path: Path,
    *,
    n: int,
    seed: int,
    parameters: Values,
    nx: int,
    solver_nx: int | None = None,
    nt: int = 41,
    t_end: float = 2.0,
    on_progress: Progress | None = None,
) -> None:
    """Solve n samples of a problem and write them; a failed run leaves no file. Sample i depends on seed and i alone.

    The layout is PDEBench's where it has one for the problem, else that of plain arrays. Solved on `solver_nx` points
    along each axis, by default as many as the problem asks for, and stored on `nx`; `solver_nx`, `nt` and `t_end` do
    not apply to steady states.
    """
    path = Path(path)
    problem = _checked(family, path, n=n, nx=nx, solver_nx=solver_nx, nt=nt, t_end=t_end, parameters=parameters)
    points = nx if problem.steady else solver_nx or problem.how().resolution(parameters, nx)
    cost = cost_of(problem, n=n, nx=nx, points=points, nt=nt, t_end=t_end)
    require_room(path, cost)
    times = [i * t_end / (nt - 1) for i in range(nt + 1)]  # one too many, as in PDEBench
    with _named_errors(path), atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            {**{name: float(value) for name, value in parameters.items()}, "seed": seed, "generator": "ups-pipeline"}
        )
        if problem.steady:
            _write_steady(file, problem, parameters, n=n, nx=nx, seed=seed, on_progress=on_progress)
        elif problem in (BURGERS, ADVECTION):
            _write_pdebench_times(file, nx, times, t_end)
            _write_trajectories(
                file, problem, parameters, times[:-1], n=n, nx=nx, points=points, seed=seed, on_progress=on_progress
            )
        else:
            u = write_arrays(file, problem, n=n, points=nx, t=times[:-1])
            order = Order(family, dict(parameters), nx, points, times[:-1], seed)
            for start, piece in solved_rows(order, n, seconds=cost.seconds, on_progress=on_progress or _unseen):
                u[start : start + len(piece)] = piece


def _unseen(_done: int) -> None:
    """Nobody is told."""


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """What the system refuses, as one line that names the file and what to do. Raises StorageError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        known = getattr(error, "errno", None)
        number = known or next((code for code in SYSTEM_ERRORS if f"errno = {code}," in str(error)), 0)
        if "allocate memory" in str(error):  # PyTorch has no class for it
            number = errno.ENOMEM
        if not number and not isinstance(error, OSError):
            raise
        reason = os.strerror(number) if number else first_line(error)
        advice = remedy(OSError(number, reason)) or "choose another folder"
        raise StorageError(f"{path}: could not be written ({reason}); nothing of it is left; {advice}") from error
    except MemoryError as error:
        raise StorageError(
            f"{path}: the memory that is free is not enough; nothing of it is left. Use fewer points or times"
        ) from error


def _checked(
    family: str, path: Path, *, n: int, nx: int, solver_nx: int | None, nt: int, t_end: float, parameters: Values
) -> Problem:
    """The problem of that name, for which the request makes sense. Raises DataError."""
    try:
        problem = problem_named(family)
        problem.how()
    except BadInput as error:
        raise DataError(f"{path}: {error}") from None
    if n < 1 or nx < 4 or nt < 2 or not t_end > 0:
        raise DataError(
            f"{path}: cannot generate n={n}, nx={nx}, nt={nt}, t_end={t_end}. Use n>=1, nx>=4, nt>=2, t_end>0"
        )
    if solver_nx is not None and (problem.steady or solver_nx % nx != 0 or solver_nx < nx):
        raise DataError(
            f"{path}: solver_nx={solver_nx} does not suit {family}. Use a multiple of nx={nx}; none for darcy2d"
        )
    if fault := problem.fault_of(parameters):
        raise DataError(f"{path}: {fault}")
    return problem


def _write_pdebench_times(file: h5py.File, nx: int, times: Sequence[float], t_end: float) -> None:
    file["x-coordinate"] = ((np.arange(nx) + 0.5) / nx).astype(np.float32)
    file["t-coordinate"] = np.asarray(times, dtype=np.float32)
    file.attrs["t_end"] = float(t_end)


def _write_trajectories(
    file: h5py.File,
    problem: Problem,
    parameters: Values,
    times: Sequence[float],
    *,
    n: int,
    nx: int,
    points: int,
    seed: int,
    on_progress: Progress | None,
) -> None:
    """PDEBench's 1D layout: solved on `points` points, of which those at x = (i + .5) / nx are stored."""
    stride, rng = points // nx, np.random.default_rng(seed)
    tensor = file.create_dataset("tensor", shape=(n, len(times), nx), dtype=np.float32)
    for rows in chunks(n, 8 * len(times) * points):
        u0 = random_waves(len(rows), points, rng, offset=stride / 2)[:, None]
        u = problem.how().solve(u0, parameters, times, _counted_from(rows.start, on_progress))
        tensor[rows.start : rows.stop] = u[:, :, 0, ::stride].to(torch.float32).numpy()


def _write_steady(
    file: h5py.File,
    problem: Problem,
    parameters: Values,
    *,
    n: int,
    nx: int,
    seed: int,
    on_progress: Progress | None,
) -> None:
    """PDEBench's layout of Darcy flow."""
    how, rng = problem.how(), np.random.default_rng(seed)
    for axis in problem.axes:
        file[f"{axis.name}-coordinate"] = ((np.arange(nx) + 0.5) / nx).astype(np.float32)
    coefficients = file.create_dataset("nu", shape=(n, nx, nx), dtype=np.float32)
    tensor = file.create_dataset("tensor", shape=(n, 1, nx, nx), dtype=np.float32)
    for rows in chunks(n, 8 * nx * nx):
        a = how.initial(len(rows), (nx, nx), parameters, rng)
        u = how.solve(a, parameters, (), _counted_from(rows.start, on_progress))
        coefficients[rows.start : rows.stop] = a[:, 0].to(torch.float32).numpy()
        tensor[rows.start : rows.stop] = u[:, :, 0].to(torch.float32).numpy()


def _counted_from(start: int, on_progress: Progress | None) -> Progress | None:
    return None if on_progress is None else lambda n_done: on_progress(start + n_done)
