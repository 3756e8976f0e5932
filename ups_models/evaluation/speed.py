"""What a surrogate saves: seconds of its rollouts beside the solver's, on the grid where both err alike.

The truth are the rows that are evaluated, which were solved on a finer grid. The solver is given every k-th point of
their first fields, and compared at those points. All of it is timed on one thread of the CPU, where the solvers run;
a network on a GPU is timed there.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ups_models.data.fields import Fields
from ups_models.errors import UPSError
from ups_models.evaluation import metrics
from ups_models.evaluation.inputs import OperatorCase
from ups_models.evaluation.result import Solved, Speed
from ups_models.evaluation.rollout import rollout
from ups_models.problems.solving import one_thread

STRIDES, MANY, REPEATS, SAMPLES = (8, 4, 2, 1), 64, 3, 4
"""Every k-th point of the data, rollouts of a batch, how often each is timed, and trajectories solved as the data."""


def measure_speed(case: OperatorCase, rows: int, *, samples: int, training_seconds: float) -> Speed:
    """Of the first rows that have the same parameters; `samples` trajectories were solved to train on.

    Raises BadInput for a problem that has no solver here.
    """
    test = case.data.select((case.data.parameters == case.data.parameters[0]).all(1).nonzero().flatten()[:rows])
    strides = [stride for stride in STRIDES if all(points % stride == 0 for points in test.grid)]
    with one_thread():
        error, alone, batched = _of_operator(case, test)
        return Speed(
            trajectories=len(test.row),
            error=error,
            alone=alone,
            batched=batched,
            batch=MANY,
            solver=tuple(_of_solver(test, stride) for stride in strides),
            data_seconds=samples * _of_data(test),
            training_seconds=training_seconds,
        )


def seconds_of(work: Callable[[], object]) -> float:
    """The fastest of some: whatever else the machine does only adds."""
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
    return error, seconds_of(lambda: forecast(one)), seconds_of(lambda: forecast(many)) / MANY


def _of_solver(test: Fields, stride: int) -> Solved:
    """The solver on every `stride`-th point along each axis; its error is infinite where it does not end."""
    every: list[Any] = [slice(None, None, stride)] * len(test.grid)
    truth, parameters = test.u[(..., *every)], _parameters(test)
    points, start, how = test.grid[0] // stride, truth[:, 0].double(), test.problem.how()
    solve = how.unchecked or how.solve
    try:
        found = solve(start, parameters, test.t.tolist(), None)
    except UPSError:
        return Solved(points=points, seconds=float("nan"), error=float("inf"))
    seconds = seconds_of(lambda: solve(start, parameters, test.t.tolist(), None)) / len(start)
    return Solved(points=points, seconds=seconds, error=_error(found.float(), truth))


def _of_data(test: Fields) -> float:
    """Seconds of one trajectory of the training data, solved as finely as they are."""
    how, parameters = test.problem.how(), _parameters(test)
    began = time.perf_counter()
    points = tuple(how.resolution(parameters, points) for points in test.grid)
    u0 = how.initial(SAMPLES, points, parameters, np.random.default_rng(0))
    how.solve(u0, parameters, test.t.tolist(), None)
    return (time.perf_counter() - began) / SAMPLES


def _parameters(test: Fields) -> dict[str, float]:
    return dict(zip(test.problem.defaults, test.parameters[0].tolist(), strict=True))


def _error(found: Tensor, truth: Tensor) -> float:
    """Mean nRMSE over rows and later times."""
    return float(metrics.nrmse(found[:, -truth.shape[1] + 1 :].flatten(2), truth[:, 1:].flatten(2)).mean())
