"""What a surrogate saves: seconds of its rollouts beside the solver's, on the grid where both err alike.

The truth are the rows that are evaluated, which were solved on a finer grid. The solver is given their first fields on
a coarser one, and compared there. All of it is timed on one thread of the CPU, where the solvers run; a network on a
GPU is timed there.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ups_models.config.data import DataConfig
from ups_models.data.fields import Fields
from ups_models.data.rows import thinned
from ups_models.evaluation import metrics
from ups_models.evaluation.inputs import OperatorCase
from ups_models.evaluation.result import Solved, Speed
from ups_models.evaluation.rollout import rollout
from ups_models.problems.problem import Progress
from ups_models.problems.solving import SolverFailed, one_thread

FACTORS, MANY, REPEATS, SAMPLES = (8, 4, 2, 1), 64, 3, 2
"""How much coarser the solver's grids are, rollouts of a batch, how often each is timed, and trajectories solved as
the training data of each file were."""


def measure_speed(
    case: OperatorCase, rows: int, data: DataConfig, *, training_s: float, on_progress: Progress | None = None
) -> Speed:
    """Of the first rows that have the same parameters; `data` is what the operator was trained on.

    `on_progress` is called as the solver goes on. Raises what it raises, BadInput for a problem without a
    solver.
    """
    test = case.data.select((case.data.parameters == case.data.parameters[0]).all(1).nonzero().flatten()[:rows])
    factors = [factor for factor in FACTORS if all(points % factor == 0 for points in test.grid)]
    with one_thread():
        error, alone_s, batched_s = _of_operator(case, test)
        return Speed(
            trajectories=len(test.row),
            device=case.u.device.type,
            error=error,
            alone_s=alone_s,
            batched_s=batched_s,
            batch=MANY,
            solver=tuple(_of_solver(test, factor, on_progress) for factor in factors),
            data_s=seconds_of_data(data, on_progress),
            training_s=training_s,
        )


def other_domain(data: Fields) -> str:
    """Where the data do not lie where the solver would solve, in words; empty where they do."""
    for axis, positions in zip(data.problem.axes, data.axes, strict=True):
        points = len(positions)
        length = float(positions[-1] - positions[0]) * points / max(points - 1, 1)
        if abs(length / axis.length - 1) > 1.5 / points:  # some files have both ends of an axis
            return f"{axis.name} is {length:.4g} long in the data, and {axis.length:g} for the solver"
    return ""


def seconds_of_data(data: DataConfig, on_progress: Progress | None = None) -> float:
    """What the training data took to solve for, by a few trajectories of each file; 0 for data that were given."""
    if data.files or data.downloads:
        return 0.0
    how, made = data.problem.how(), data.generate
    times = [step * made.t_end / (made.nt - 1) for step in range(made.nt)]
    spent = 0.0
    for values in data.values:
        points = tuple(how.resolution(values, n * data.reduced_resolution) for n in data.grid)
        began = time.perf_counter()
        u0 = how.initial(SAMPLES, points, values, np.random.default_rng(0))
        how.solve(u0, values, times, on_progress)
        spent += (time.perf_counter() - began) * made.n / SAMPLES
    return spent


def fastest_s(work: Callable[[], object]) -> float:
    """Seconds, the fewest of some: whatever else the machine does only adds."""
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _of_operator(case: OperatorCase, test: Fields) -> tuple[float, float, float]:
    """The mean error, seconds of one rollout alone, and of one of a batch."""
    u0, known = test.u[:, 0].to(case.u.device), test.conditioning().to(case.u.device)

    def forecast(rows: Tensor) -> Tensor:
        steps = test.shape[1] - 1
        return rollout(case.operator, u0[rows], known[rows], steps=steps, reencode_every=case.reencode_every).cpu()

    every, one, many = torch.arange(len(u0)), torch.zeros(1, dtype=torch.long), torch.zeros(MANY, dtype=torch.long)
    error = _error(forecast(every), test.u)
    return error, fastest_s(lambda: forecast(one)), fastest_s(lambda: forecast(many)) / MANY


def _of_solver(test: Fields, factor: int, on_progress: Progress | None) -> Solved:
    """The solver on a grid so much coarser along each axis; its error is infinite where it does not end."""
    truth, parameters, times = thinned(test.u, factor, test.problem.periodic), test.values(0), test.t - test.t[0]
    points, start, how = test.grid[0] // factor, truth[:, 0].double(), test.problem.how()
    solve = how.unchecked or how.solve
    try:
        found = solve(start, parameters, times.tolist(), on_progress)
        trajectory_s = fastest_s(lambda: solve(start, parameters, times.tolist(), on_progress)) / len(start)
    except SolverFailed:
        return Solved(points=points, trajectory_s=float("nan"), error=float("inf"))
    return Solved(points=points, trajectory_s=trajectory_s, error=_error(found[:, 1:].float(), truth))


def _error(found: Tensor, truth: Tensor) -> float:
    """Mean nRMSE of forecasts (N, T - 1, C, *space) of the later times of (N, T, C, *space)."""
    return float(metrics.nrmse(found.flatten(2), truth[:, 1:].flatten(2)).mean())
