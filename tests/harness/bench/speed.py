"""What a surrogate saves, honestly: beside the solver at the resolution of equal error, on one thread each.

    make bench-speed ARGS="runs/a"

The truth are the test rows, which were solved on a finer grid. The solver is given every k-th point of their first
fields, and compared at those points. Breakeven is the number of forecasts after which data, training and inference
have cost less than the solver at equal error; it never comes where a forecast takes longer than that solution.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.bench.problems import machine
from tasks.services.data.datasets import load_data
from tasks.services.run.code_version import code_version
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.result_rows import ResultRow, write_row
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import Fields
from ups_models.data.generate import generate
from ups_models.data.split import split_rows
from ups_models.errors import UPSError
from ups_models.evaluation import metrics
from ups_models.surrogate import Surrogate, load_surrogate

STRIDES, MANY, REPEATS = (8, 4, 2, 1), 64, 5
"""Every k-th point of the data, trajectories of a batch, and how often each is timed."""


@dataclass(frozen=True)
class Solved:
    """The solver: points along the first axis, seconds a trajectory, mean nRMSE; infinite where it does not end."""

    points: int
    seconds: float
    error: float


def main() -> None:
    """Measure, print, and keep a row."""
    parser = argparse.ArgumentParser(prog="bench-speed", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of a trained run")
    parser.add_argument("--rows", type=int, default=16, help="test trajectories to solve again")
    parser.add_argument("--to", type=Path, help="also keep the figures as a row, in this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(arguments.run, arguments.rows)
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if arguments.to is not None:
        row = ResultRow(command="make bench-speed ARGS=RUN", commit=code_version(), machine=machine(), figures=figures)
        write_row(arguments.to, row)


def measure(root: Path, rows: int) -> dict[str, float]:
    """Every figure of a run."""
    cfg = load_config(root / "config.yaml", schema=PipelineConfig)
    run = RunDir.of(root, cfg.checkpoint.dir)
    data = load_data(cfg, run)
    test = data.select(split_rows(data.row, val=cfg.data.val, test=cfg.data.test).test)
    test = test.select(torch.arange(min(rows, len(test.row))))
    surrogate = load_surrogate(root)
    error, alone, batched, member = of_surrogate(surrogate, test)
    solved = [of_solver(test, stride) for stride in STRIDES if all(n % stride == 0 for n in test.grid)]
    equal = next((one for one in solved if one.error <= error), None)
    seconds = read_status(run.status).stages
    spent = {name: record.seconds or 0.0 for name, record in seconds.items()}
    data_s = cfg.data.generate.n * of_data(cfg)
    figures = {
        "surrogate, nRMSE": error,
        "surrogate, one trajectory alone (s)": alone,
        f"surrogate, one of {MANY} (s)": batched,
        f"a member of its ensemble, one of {MANY} (s)": member,
        "data (s)": data_s,
        "training of the operator (s)": spent.get("operator", 0.0),
    }
    for one in solved:
        figures |= {f"solver on {one.points}, nRMSE": one.error, f"solver on {one.points} (s)": one.seconds}
    figures["solver of equal error, points"] = float(equal.points) if equal else math.nan
    figures["solver of equal error / surrogate alone"] = equal.seconds / alone if equal else math.nan
    figures[f"solver of equal error / surrogate, one of {MANY}"] = equal.seconds / batched if equal else math.nan
    saved = equal.seconds - batched if equal else math.nan
    cost = data_s + spent.get("operator", 0.0)
    figures["breakeven, forecasts"] = cost / saved if saved > 0 else math.inf
    return figures


def of_surrogate(surrogate: Surrogate, test: Fields) -> tuple[float, float, float, float]:
    """Its error; seconds of a trajectory alone, of one of a batch, and of a member of an ensemble."""
    steps = test.shape[1] - 1
    known: dict[str, Any] = {
        name: test.parameters[:, column].numpy() for column, name in enumerate(test.problem.defaults)
    }
    found = torch.from_numpy(surrogate.rollout(test.u[:, 0], steps=steps, **known).u)
    first: dict[str, Any] = {name: values[:1] for name, values in known.items()}
    many = test.u[:1, 0].expand(MANY, *test.u.shape[2:])
    alone = seconds_of(lambda: surrogate.rollout(test.u[:1, 0], steps=steps, **first))
    batched = seconds_of(lambda: surrogate.rollout(many, steps=steps, **first)) / MANY
    members = seconds_of(lambda: surrogate.rollout(test.u[:1, 0], steps=steps, members=MANY, **first))
    return error_of(found, test.u), alone, batched, members / MANY if surrogate.samplers else math.nan


def of_solver(test: Fields, stride: int) -> Solved:
    """The solver on every `stride`-th point of the data along each axis."""
    every: list[Any] = [slice(None, None, stride)] * len(test.grid)
    truth = test.u[(..., *every)]
    parameters = dict(zip(test.problem.defaults, test.parameters[0].tolist(), strict=True))
    points, start = test.grid[0] // stride, truth[:, 0].double()
    how = test.problem.how()
    solve = how.unchecked or how.solve
    try:
        found = solve(start, parameters, test.t.tolist(), None)
    except UPSError as error:
        print(f"the solver on {points} points: {error}", file=sys.stderr)
        return Solved(points, math.nan, math.inf)
    seconds = seconds_of(lambda: solve(start, parameters, test.t.tolist(), None)) / len(start)
    return Solved(points, seconds, error_of(found.float(), truth))


def of_data(cfg: PipelineConfig) -> float:
    """Seconds that a trajectory of the training data takes."""
    generate_cfg, count = cfg.data.generate, 4
    given = [value for value in generate_cfg.parameters if isinstance(value, float)]
    defaults = cfg.data.problem.defaults
    values = {**defaults, **dict(zip(defaults, given[:1], strict=False))}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        generate(
            cfg.data.problem.name, Path(folder) / "some.hdf5", n=count, seed=1, parameters=values,
            nx=cfg.data.grid[0], nt=generate_cfg.nt, t_end=generate_cfg.t_end,
        )  # fmt: skip
        return (time.perf_counter() - began) / count


def seconds_of(work: Callable[[], object]) -> float:
    """The fastest of some: whatever else the machine does only adds."""
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def error_of(found: Tensor, truth: Tensor) -> float:
    """Mean nRMSE over rows and later times."""
    return float(metrics.nrmse(found[:, 1:].flatten(2), truth[:, 1:].flatten(2)).mean())


if __name__ == "__main__":
    main()
