"""What the flow costs over calling the same functions in plain Python: a whole pipeline, and a completed one again.

All seconds hold the imports. A task costs what is left of the difference without what a flow of no task costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos.control_room import control_room
from flows import ROOT

TASKS = {"new": 7, "completed": 6}
PLAIN = """
import json, sys, time
started = time.perf_counter()
from flows.request import TrainRequest, resolve
from tasks.services.evaluation import write_report
from tasks.services.evaluation import evaluate_run
from tasks.services.execution import carry_out
from tasks.services.planning import plan, plan_evaluation
from tasks.services.run_dir import owned
from tasks.services.signals import heeded
from tasks.services.tracking import Tracker

imported = time.perf_counter() - started
job, tracker, changed = resolve(TrainRequest.model_validate_json(sys.argv[1])), Tracker(), False
with owned(job.run), heeded():
    for decision in plan(job.cfg, job.run, job.policy):
        changed |= carry_out(decision, job.cfg, job.run, tracker)
    for name, settings in job.evaluations.items():
        todo = plan_evaluation(name, settings, job.cfg, job.run, redo=False)
        if todo.run:
            evaluate_run(name, job.cfg, settings, job.run)
            changed = True
    if changed:
        write_report(job.run)
print(json.dumps([time.perf_counter() - started, imported]))
"""
FLOW = """
import json, sys, time
started = time.perf_counter()
from flows.pipeline import train_pipeline
from flows.request import TrainRequest

train_pipeline(TrainRequest.model_validate_json(sys.argv[1]))
print(json.dumps([time.perf_counter() - started]))
"""
EMPTY = """
import json, time
started = time.perf_counter()
from flows.pipeline import train_pipeline
from flows.request import TrainRequest
from prefect import flow

@flow
def nothing() -> None:
    pass

nothing()
print(json.dumps([time.perf_counter() - started]))
"""


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.flow", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with control_room(home) as room:
            _measured(Path(folder) / "warm", room.environment)
            seen = [_measured(Path(folder) / str(number), room.environment) for number in range(rounds)]
    print(f"{'seconds':<32}{'plain':>22}{'flow':>22}{'flow - plain':>24}")
    start = [one["nothing"] - one["imports"] for one in seen]
    print(f"{'a flow of no task':<32}{_spread([one['imports'] for one in seen]):>22}", end="")
    print(f"{_spread([one['nothing'] for one in seen]):>22}{_spread(start):>24}")
    for what, tasks in TASKS.items():
        plain, flow = ([one[f"{what} {how}"] for one in seen] for how in ("plain", "flow"))
        over = [one - other for one, other in zip(flow, plain, strict=True)]
        each = [(one - begun) / tasks for one, begun in zip(over, start, strict=True)]
        print(f"{what + ' pipeline':<32}{_spread(plain):>22}{_spread(flow):>22}{_spread(over):>24}")
        print(f"{f'  each of its {tasks} tasks':<32}{'':>22}{'':>22}{_spread(each):>24}")
    return 0


def _measured(root: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each, one after the other."""
    seconds = {"nothing": _run(EMPTY, root, environment)[0]}
    for what in TASKS:
        seconds[f"{what} plain"], seconds["imports"] = _run(PLAIN, root / "plain", environment)
        seconds[f"{what} flow"] = _run(FLOW, root / "flow", environment)[0]
    return seconds


def _run(script: str, root: Path, environment: dict[str, str]) -> list[float]:
    request = json.dumps({"config": "configs/smoke.yaml", "auto_resume": True, "run_dir": str(root)})
    done = subprocess.run(
        [sys.executable, "-c", script, request],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
