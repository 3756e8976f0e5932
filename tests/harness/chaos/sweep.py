"""A sweep over two workers while its command, its workers and its trainings are killed: the table of one undisturbed.

    make chaos-sweep N=10

Eight points of a small config. Whoever is killed by SIGKILL is started again as a supervisor or a person would: the
command and the workers, never a training, which its chain tries again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flows import ROOT
from harness.chaos.prefect_stack import ControlRoom, prefect_stack, trainer_of

SWEEP = """config: smoke
set: [data.generate.n=24, stages.steady_prior.epochs=0]
grid:
  operator.width: [8, 16]
  latent.dim: [4, 8]
  operator.blocks: [1, 2]
"""
POINTS, PAUSES_S, WITHIN_S = 8, (3.0, 9.0), 1500.0


def main() -> int:
    """Both sweeps, and whether their tables agree."""
    parser = argparse.ArgumentParser(prog="chaos-sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-sweep-", ignore_cleanup_errors=True) as name:
        home = Path(name).resolve()
        (home / "sweep.yaml").write_text(SWEEP, "utf-8")
        undisturbed = table_of(home, undisturbed_sweep(home))
        print(f"undisturbed: {len(undisturbed)} points", flush=True)
        with prefect_stack(home, {"UPS_DATA": str(home / "data")}) as room:
            room.deploy()
            disturbed = Disturbed(room, home, random.Random(arguments.seed))
            found = table_of(home, disturbed.run(arguments.kills))
    same = found == undisturbed and len(found) == POINTS
    print(f"{arguments.kills} kills ({', '.join(disturbed.killed)}): {'the same table' if same else 'ANOTHER TABLE'}")
    if not same:
        print(json.dumps({"undisturbed": undisturbed, "disturbed": found}, indent=1))
    return 0 if same else 1


def undisturbed_sweep(home: Path) -> str:
    """Point after point in one process; the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(home, "one"), cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return "one"


def command(home: Path, folder: str, *more: str) -> list[str]:
    """`ups sweep`."""
    return [sys.executable, "-m", "flows.cli", "sweep", str(home / "sweep.yaml"), "--out", str(home / folder), *more]


def table_of(home: Path, folder: str) -> dict[str, Any]:
    """The error of every point and seed, to the bit."""
    rows = json.loads((home / folder / "leaderboard.json").read_text("utf-8"))
    return {row["point"]: row["errors"] for row in sorted(rows, key=lambda row: str(row["point"]))}


class Disturbed:
    """A sweep by two workers in two folders, and what happens to it."""

    def __init__(self, room: ControlRoom, home: Path, dice: random.Random) -> None:
        self.room, self.home, self.dice = room, home, dice
        self.killed: list[str] = []
        self.folders = [home / "worker-a", home / "worker-b"]
        self.workers = [self._worker(folder) for folder in self.folders]
        room.start_watch()
        self.sweep = self._sweep()

    def run(self, kills: int) -> str:
        """Kill so often, then wait for the end; the folder."""
        began = time.monotonic()
        while len(self.killed) < kills:
            time.sleep(self.dice.uniform(*PAUSES_S))
            if self.sweep.poll() is not None:
                raise SystemExit(f"the sweep ended ({self.sweep.returncode}) after {len(self.killed)} kills; use fewer")
            self._kill(self.dice.choice(("command", "worker", "training", "training")))
        while self.sweep.poll() is None:
            if time.monotonic() - began > WITHIN_S:
                raise SystemExit(f"the sweep did not end within {WITHIN_S:g} s\n{self.room.log()[-4000:]}")
            time.sleep(1)
        if self.sweep.returncode:
            raise SystemExit(f"exit code {self.sweep.returncode}\n{self.room.log()[-4000:]}")
        return "two"

    def _kill(self, what: str) -> None:
        if what == "command":
            self.sweep.kill()
            self.sweep.wait()
            self.sweep = self._sweep()
        elif what == "worker":
            index = self.dice.randrange(len(self.workers))
            self.workers[index].kill()
            self.workers[index].wait()
            self.workers[index] = self._worker(self.folders[index])
        else:
            owners = [owner for owner in map(owner_of, self.home.glob("two/*/*")) if owner is not None]
            if not owners:
                return
            os.kill(self.dice.choice(owners), signal.SIGKILL)
        self.killed.append(what)

    def _worker(self, folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return self.room.start_worker(folder)

    def _sweep(self) -> subprocess.Popen[bytes]:
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                command(self.home, "two", "--workers", "ups"),
                cwd=self.home,
                env=self.room.environment,
                stdout=log,
                stderr=log,
            )


def owner_of(root: Path) -> int | None:
    """The living process that owns a run directory."""
    try:
        pid = trainer_of(root)
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError):
        return None
    return pid


if __name__ == "__main__":
    sys.exit(main())
