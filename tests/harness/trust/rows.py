"""Kills right after a stage was completed, and within one: W&B has the rows of metrics.jsonl, each once, in order.

`python -m harness.trust.rows [--kills N]`: chains of seven kills each, the last process runs to the end.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.chaos.processes import Command, finish
from harness.chaos.uploads import ENTITY, PROJECT, TRACKED
from harness.chaos.workload import LONG
from harness.emulators.wandb.server import WandbServer, client_environment
from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from ups_models.reading import Unreadable

MOMENTS = (None, "operator", None, "diff_residual", None, "consistency_distill", "steady_prior")
"""Of the kills of a chain: right after this stage was completed, or within one."""
WITHIN_S = 120
SETTLE_S = 2.5
"""W&B's own process sees the death of ours within two seconds."""
MEASURED = ("loss", "lr")


def chain(scratch: Path, server: WandbServer, number: int, kills: int) -> list[str]:
    """One run, killed so often: after each of its stages, and in between. What is wrong with its rows at the end."""
    name, rng = f"rows{number}", random.Random(number)
    root, log = scratch / name, scratch / f"{name}.log"
    root.mkdir()
    run = RunDir.of(root, Path("checkpoints"))
    environment = client_environment(server.url, scratch)
    arguments = (*TRACKED, "--resume-from-wandb", name)
    killed = 0
    for moment in MOMENTS[:kills]:
        life = Command(LONG, root, log, extra=arguments, environment=environment)
        goal = _some_rows(run, rng.randrange(10, 30)) if moment is None else _completed(run, moment)
        if _wait(life, goal):
            life.send(signal.SIGKILL)
            killed += 1
        finish(life)
        time.sleep(SETTLE_S)
    code = finish(Command(LONG, root, log, extra=arguments, environment=environment))
    wrong = [] if code == 0 else [f"the last process ended with {code}: {log.read_text('utf-8')[-500:]}"]
    wrong += [] if killed == kills else [f"only {killed} of {kills} kills took place"]
    return [f"{name}: {text}" for text in [*wrong, *_differences(run, server, name)]]


def _completed(run: RunDir, stage: str) -> Callable[[], bool]:
    def reached() -> bool:
        try:
            return read_status(run.status).stage(stage).status == "completed"
        except (FileNotFoundError, Unreadable):
            return False

    return reached


def _some_rows(run: RunDir, more: int) -> Callable[[], bool]:
    """Once the process has measured so many rows more."""
    before = _count(run)
    return lambda: _count(run) >= before + more


def _count(run: RunDir) -> int:
    return len(run.history.read_bytes().splitlines()) if run.history.exists() else 0


def _wait(life: Command, goal: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline and life.poll() is None:
        if goal():
            return True
        time.sleep(0.002)
    return False


def _differences(run: RunDir, server: WandbServer, name: str) -> list[str]:
    """What W&B shows of each stage, against what was measured: steps and values, in order, each once."""
    found = server.run(ENTITY, PROJECT, name)
    wrong = []
    for stage, rows in History(run).read().items():
        mine = [(row["step"], *(row[key] for key in MEASURED)) for row in rows]
        theirs = [
            (row[f"{stage}/step"], *(row[f"{stage}/{key}"] for key in MEASURED))
            for row in found.history
            if f"{stage}/step" in row
        ]
        if mine != theirs:
            steps = [step for step, *_ in theirs]
            wrong.append(f"{stage}: {len(mine)} rows here, {len(theirs)} in W&B, of them {len(set(steps))} different")
    axis = [row["global_step"] for row in found.history if "global_step" in row]
    return wrong + ([] if axis == sorted(axis) else ["the rows are not in order"])


def main(arguments: list[str]) -> int:
    """Run and tell."""
    parser = argparse.ArgumentParser(prog="harness.trust.rows", description=__doc__)
    parser.add_argument("--kills", type=int, default=14, help="in all (default: %(default)s)")
    given = parser.parse_args(arguments)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rows-") as folder, WandbServer(entity=ENTITY) as server:
        left, number = given.kills, 0
        while left:
            kills = min(left, len(MOMENTS))
            wrong += chain(Path(folder), server, number, kills)
            left, number = left - kills, number + 1
    for text in wrong:
        print(f"  {text}")
    print(f"{given.kills} kills of tracked runs: W&B {'differs from' if wrong else 'has the rows of'} metrics.jsonl")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
