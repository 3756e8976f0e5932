"""What the flow costs over calling the same functions in plain Python: a whole pipeline, and a completed one again."""

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

TASKS = 6
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
print(json.dumps(time.perf_counter() - started))
"""
FLOW = """
import json, sys, time
started = time.perf_counter()
from flows.pipeline import train_pipeline
from flows.request import TrainRequest

train_pipeline(TrainRequest.model_validate_json(sys.argv[1]))
print(json.dumps(time.perf_counter() - started))
"""


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.flow", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with control_room(home) as room:
            for number in range(-1, rounds):  # the first round warms everything up, and does not count
                for name, script in (("plain", PLAIN), ("flow", FLOW)):
                    root = Path(folder) / f"{name}{number}"
                    for what in ("new", "completed"):
                        took = _run(script, root, room.environment)
                        if number >= 0:
                            seconds.setdefault(f"{what} {name}", []).append(took)
    print(f"{'seconds, imports included':<28}{'plain':>22}{'flow':>22}{'flow - plain':>24}")
    for what in ("new", "completed"):
        plain, flow = seconds[f"{what} plain"], seconds[f"{what} flow"]
        over = [one - other for one, other in zip(flow, plain, strict=True)]
        print(f"{what + ' pipeline':<28}{_spread(plain):>22}{_spread(flow):>22}{_spread(over):>24}")
        print(f"{'  a task':<28}{'':>22}{'':>22}{_spread([one / TASKS for one in over]):>24}")
    return 0


def _run(script: str, root: Path, environment: dict[str, str]) -> float:
    request = json.dumps({"config": "configs/smoke.yaml", "auto_resume": True, "run_dir": str(root)})
    done = subprocess.run(
        [sys.executable, "-c", script, request],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
