"""What the flow costs over calling the same functions in plain Python: a whole pipeline, a completed one again, a task.

The seconds of a pipeline hold its imports. A task's are those of many in a row that do nothing, in a flow that goes on.
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

from flows import ROOT
from harness.chaos.prefect_stack import prefect_stack

KINDS, MANY = ("new", "completed"), 200
PLAIN = """
import json, sys, time
started = time.perf_counter()
from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest

run_job(parse(TrainRequest.model_validate_json(sys.argv[1])))
print(json.dumps(time.perf_counter() - started))
"""
FLOW = """
import json, sys, time
started = time.perf_counter()
from flows.pipeline import train_pipeline
from flows.requests.train import TrainRequest

train_pipeline(TrainRequest.model_validate_json(sys.argv[1]))
print(json.dumps(time.perf_counter() - started))
"""
IDLE = """
import json, sys, time
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

@task(cache_policy=NO_CACHE, persist_result=False)
def nothing() -> None:
    pass

@flow
def idle(tasks: int) -> float:
    nothing()  # the first finds nothing imported
    started = time.perf_counter()
    for _ in range(tasks):
        nothing()
    return (time.perf_counter() - started) / tasks

print(json.dumps(idle(int(sys.argv[1]))))
"""


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="harness.bench.flow", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with prefect_stack(home) as room:
            _measured(Path(folder) / "warm", room.environment)
            seen = [_measured(Path(folder) / str(number), room.environment) for number in range(rounds)]
    print(f"{'seconds':<28}{'plain':>26}{'flow':>26}{'flow - plain':>26}")
    for what in KINDS:
        plain, flow = ([one[f"{what} {how}"] for one in seen] for how in ("plain", "flow"))
        over = [one - other for one, other in zip(flow, plain, strict=True)]
        print(f"{what + ' pipeline':<28}{_spread(plain):>26}{_spread(flow):>26}{_spread(over):>26}")
    print(f"{'a task that does nothing':<28}{'':>52}{_spread([one['task'] for one in seen]):>26}")
    return 0


def _measured(root: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each, one after the other."""
    seconds = {"task": _run(IDLE, str(MANY), environment)}
    for what in KINDS:
        seconds[f"{what} plain"] = _run(PLAIN, _request(root / "plain"), environment)
        seconds[f"{what} flow"] = _run(FLOW, _request(root / "flow"), environment)
    return seconds


def _request(root: Path) -> str:
    return json.dumps({"config": "configs/smoke.yaml", "auto_resume": True, "run_dir": str(root)})


def _run(script: str, argument: str, environment: dict[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


if __name__ == "__main__":
    sys.exit(main())
