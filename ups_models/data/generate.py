"""Data of our own: solve a problem and write the solutions in PDEBench's layout."""

import errno
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch

from ups_models.data.chunks import chunks
from ups_models.data.sizes import cost_of, require_room
from ups_models.errors import DataError, StorageError
from ups_models.files import atomic_path
from ups_models.problems import advection1d, burgers1d, darcy2d
from ups_models.problems.initial import random_waves
from ups_models.problems.registry import ADVECTION, BURGERS, PROBLEMS, Problem
from ups_models.problems.solving import Progress
from ups_models.reading import remedy
from ups_models.wording import first_line

SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""HDF5 has their numbers in its text alone."""
SOLVERS = {BURGERS.name: burgers1d.solve, ADVECTION.name: advection1d.solve}
RESOLUTIONS = {BURGERS.name: burgers1d.resolution, ADVECTION.name: advection1d.resolution}


def generate(
    family: str,
    path: Path,
    *,
    n: int,
    seed: int,
    parameter: float,
    nx: int,
    solver_nx: int | None = None,
    nt: int = 41,
    t_end: float = 2.0,
    on_progress: Progress | None = None,
) -> None:
    """Solve n samples and write them in PDEBench's layout; a failed run leaves no file.

    `parameter` is nu (Burgers) or beta. 1D: solved on `solver_nx` points, default 2 nx and more where nu asks for it,
    of which every (solver_nx / nx)-th is stored: those at x = (i + .5) / nx. Darcy: solved on nx^2 cells; `solver_nx`,
    `nt` and `t_end` do not apply. Sample i depends on seed and i alone.
    """
    path = Path(path)
    problem = _checked(family, path, n=n, nx=nx, solver_nx=solver_nx, nt=nt, t_end=t_end, parameter=parameter)
    points = nx if problem.steady else solver_nx or RESOLUTIONS[family](parameter, nx)
    require_room(path, cost_of(problem, n=n, nx=nx, points=points, nt=nt, t_end=t_end))
    rng = np.random.default_rng(seed)
    with _named_errors(path), atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({problem.parameter: float(parameter), "seed": seed, "generator": "ups-pipeline"})
        centres = ((np.arange(nx) + 0.5) / nx).astype(np.float32)
        file["x-coordinate"] = centres
        if problem.steady:
            file["y-coordinate"] = centres
            _write_steady(file, n=n, nx=nx, beta=parameter, rng=rng, on_progress=on_progress)
        else:
            times = [i * t_end / (nt - 1) for i in range(nt + 1)]  # one too many, as in PDEBench
            file["t-coordinate"] = np.asarray(times, dtype=np.float32)
            file.attrs["t_end"] = float(t_end)
            stride = points // nx
            _write_trajectories(
                file, problem, parameter, times[:-1], n=n, nx=nx, stride=stride, rng=rng, on_progress=on_progress
            )


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
        advice = remedy(OSError(number, reason)) or "free some space, or choose another folder"
        raise StorageError(f"{path}: could not be written ({reason}); nothing of it is left; {advice}") from error
    except MemoryError as error:
        raise StorageError(
            f"{path}: the memory that is free is not enough; nothing of it is left. Use fewer points or times"
        ) from error


def _checked(
    family: str, path: Path, *, n: int, nx: int, solver_nx: int | None, nt: int, t_end: float, parameter: float
) -> Problem:
    """The problem of that name, for which the request makes sense. Raises DataError."""
    problem = PROBLEMS.get(family)
    if problem is None:
        raise DataError(f"{path}: no PDE family {family!r}. Use one of: {', '.join(PROBLEMS)}")
    if n < 1 or nx < 4 or nt < 2 or not t_end > 0:
        raise DataError(
            f"{path}: cannot generate n={n}, nx={nx}, nt={nt}, t_end={t_end}. Use n>=1, nx>=4, nt>=2, t_end>0"
        )
    if solver_nx is not None and (problem.steady or solver_nx % nx != 0 or solver_nx < nx):
        raise DataError(
            f"{path}: solver_nx={solver_nx} does not suit {family}. Use a multiple of nx={nx}; none for darcy2d"
        )
    if not math.isfinite(parameter) or (problem.positive and parameter <= 0):
        raise DataError(f"{path}: {problem.parameter}={parameter} is not possible for {family}. Use a positive number")
    return problem


def _write_trajectories(
    file: h5py.File,
    problem: Problem,
    parameter: float,
    times: Sequence[float],
    *,
    n: int,
    nx: int,
    stride: int,
    rng: np.random.Generator,
    on_progress: Progress | None,
) -> None:
    """Solve on nx * stride points and store every stride-th."""
    tensor = file.create_dataset("tensor", shape=(n, len(times), nx), dtype=np.float32)
    for rows in chunks(n, 8 * len(times) * nx * stride):
        u0 = random_waves(len(rows), nx * stride, rng, offset=stride / 2)
        u = SOLVERS[problem.name](u0, parameter, times, on_progress=_counted_from(rows.start, on_progress))
        tensor[rows.start : rows.stop] = u[:, :, ::stride].to(torch.float32).numpy()


def _write_steady(
    file: h5py.File, *, n: int, nx: int, beta: float, rng: np.random.Generator, on_progress: Progress | None
) -> None:
    coefficients = file.create_dataset("nu", shape=(n, nx, nx), dtype=np.float32)
    tensor = file.create_dataset("tensor", shape=(n, 1, nx, nx), dtype=np.float32)
    for rows in chunks(n, 8 * nx * nx):
        a = darcy2d.random_coefficients(len(rows), nx, rng)
        u = darcy2d.solve(a, beta, on_progress=_counted_from(rows.start, on_progress))
        coefficients[rows.start : rows.stop] = a.to(torch.float32).numpy()
        tensor[rows.start : rows.stop, 0] = u.to(torch.float32).numpy()


def _counted_from(start: int, on_progress: Progress | None) -> Progress | None:
    return None if on_progress is None else lambda n_done: on_progress(start + n_done)
