"""What a surrogate saves, honestly: beside the solver at the resolution of equal error, on one thread each.

    make bench-speed ARGS="runs/a"

The same figures as in the report of an evaluation with `solver_trajectories`, and the seconds of an ensemble's member.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from flows.requests.job import settings_of
from harness.bench.problems import machine, run_in
from tasks.services.run.code_version import code_version
from tasks.services.run.status import read_status
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.result_rows import ResultRow, write_row
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.forecasts import case_of
from ups_models.evaluation.inputs import OperatorCase
from ups_models.evaluation.speed import MANY, fastest_s, measure_speed
from ups_models.surrogate import load_surrogate

CPU = torch.device("cpu")


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
    """Every figure of a run, on the rows of its full evaluation."""
    cfg = load_config(root / "config.yaml", schema=PipelineConfig)
    run, settings = run_in(root), settings_of(cfg, "full_eval", Path("configs") / "full_eval.yaml")
    models = models_of(cfg, run, {"operator": None}, CPU)
    case = case_of(cfg, settings, models, data_of(cfg, settings, run, models), CPU)
    if case is None:
        raise SystemExit(f"{root}: there is no operator, or there are no trajectories")
    training_s = read_status(run.status).stage("operator").seconds or 0.0
    found = measure_speed(case, rows, cfg.data, training_s=training_s)
    equal = found.equal
    figures = {
        "surrogate, nRMSE": found.error,
        "surrogate, one trajectory alone (s)": found.alone_s,
        f"surrogate, one of {MANY} (s)": found.batched_s,
        f"a member of its ensemble, one of {MANY} (s)": seconds_of_member(root, case),
        "data (s)": found.data_s,
        "training of the operator (s)": found.training_s,
    }
    for one in found.solver:
        figures |= {f"solver on {one.points}, nRMSE": one.error, f"solver on {one.points} (s)": one.trajectory_s}
    return figures | {
        "solver of equal error, points": float(equal.points) if equal else math.nan,
        "solver of equal error / surrogate alone": equal.trajectory_s / found.alone_s if equal else math.nan,
        f"solver of equal error / surrogate, one of {MANY}": equal.trajectory_s / found.batched_s
        if equal
        else math.nan,
        "breakeven, forecasts": found.breakeven,
    }


def seconds_of_member(root: Path, case: OperatorCase) -> float:
    """Of an ensemble's rollout, where the run has a sampler."""
    surrogate = load_surrogate(root)
    known: dict[str, Any] = dict(case.data.values(0))
    steps = case.data.shape[1] - 1
    if not surrogate.samplers:
        return math.nan
    return fastest_s(lambda: surrogate.rollout(case.data.u[:1, 0], steps=steps, members=MANY, **known)) / MANY


if __name__ == "__main__":
    main()
