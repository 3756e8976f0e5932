"""Training by several processes under fire: their number changes, and one of them, torchrun or the owner is killed.

    make chaos-ranks N=10 ARGS="--seed 0"

Each start of a run trains with 1 to 4 processes, chosen at random, and is struck once: SIGKILL or SIGTERM to one of its
ranks, to torchrun, or to the process that owns the run. In the end every run must have the weights, averages, figures
and history of one that a single process trained undisturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from flows import ROOT
from harness.bench.comparison import contents, differences
from harness.chaos.__main__ import echo
from harness.chaos.workload import STOPPED, Workload, run_plainly
from tasks.services.run.paths import RunDir
from tasks.services.run.signals import end_at_once_on_sigterm
from tasks.services.run.status import read_status
from ups_models.errors import UPSError

SHARDS, PROCESSES = 4, (1, 2, 3, 4)
WORKLOAD = Workload(
    save_every_steps=20, epochs=1, steps_per_epoch=(150, 120, 100, 60), more=(f"training.shards={SHARDS}",)
)
TARGETS = ("rank", "torchrun", "owner")
SOON_S, LATE_S, END_WITHIN_S = 1.0, 25.0, 700.0
MAX_STARTS = 40
"""Of one run, at most."""
BEGUN = "the owner has begun"
RANK, TORCHRUN = "tasks.services.stages.rank", "torch.distributed.run"


@dataclass
class OwnerProcess:
    """One process that owns the run, and the processes below it."""

    root: Path
    n_processes: int
    log: Path

    def __post_init__(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "harness.chaos.ranks", "--run", str(self.root)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *_path()])}
        with self.log.open("ab") as log:
            self.begun_before = self.log.read_text("utf-8").count(BEGUN)
            self.process = subprocess.Popen(
                [*command, "--processes", str(self.n_processes)],
                env=environment | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def has_begun(self) -> bool:
        """Whether a signal finds its handlers."""
        return self.log.read_text("utf-8").count(BEGUN) > self.begun_before

    def below(self, name: str) -> list[int]:
        """Pids of its torchrun, or of its ranks; torchrun's command names the rank's module as well."""
        found = _descendants(self.process.pid)
        return sorted(pid for pid, command in found if name in command and (name == TORCHRUN) == (TORCHRUN in command))

    def target(self, kind: str, rng: random.Random) -> int | None:
        """A pid of the kind; None where there is none now."""
        if kind == "owner":
            return self.process.pid
        found = self.below(RANK if kind == "rank" else TORCHRUN)
        return rng.choice(found) if found else None

    def end(self) -> int:
        """Its exit code; it is killed where it does not end."""
        try:
            return self.process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise SystemExit(f"{self.root}: did not end within {END_WITHIN_S:g} s; {self.log}") from None


def main() -> int:
    """Strike `--kills` times in all; 0 when every run ended the same."""
    parser = argparse.ArgumentParser(prog="chaos-ranks", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        return run_once(arguments.run, arguments.processes)
    with tempfile.TemporaryDirectory(prefix="chaos-ranks-", ignore_cleanup_errors=True) as folder:
        wrong, summary = campaign(Path(folder), arguments.kills, arguments.seed)
    for line in wrong:
        echo(f"  {line}")
    echo(f"chaos-ranks: {summary}; {'RED' if wrong else 'identical'}")
    return 1 if wrong else 0


def run_once(root: Path, n_processes: int) -> int:
    """Train as the command does, without Prefect; the exit code."""
    end_at_once_on_sigterm("stopped before there was anything to save")
    print(BEGUN, flush=True)
    try:
        run_plainly(_with(n_processes), root)
    except UPSError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def campaign(scratch: Path, kills: int, seed: int) -> tuple[list[str], str]:
    """Runs until so many were struck; what is wrong, and what was done in words."""
    rng, strikes, runs = random.Random(seed), Counter[str](), 0
    wrong: list[str] = []
    reference = scratch / "alone"
    alone = OwnerProcess(reference, 1, scratch / "alone.log")
    if code := alone.end():
        return [f"one process, undisturbed: exit code {code}"], ""
    expected = contents(reference)
    while strikes.total() < kills and not wrong:
        root, runs = scratch / f"run{runs}", runs + 1
        wrong += _to_its_end(root, rng, strikes, kills)
        if not wrong:
            wrong += [f"{root.name}: {difference}" for difference in differences(expected, contents(root))]
    counted = ", ".join(f"{count} x {what}" for what, count in sorted(strikes.items()))
    return wrong, f"{runs} runs, {strikes.total()} strikes ({counted})"


def _to_its_end(root: Path, rng: random.Random, strikes: Counter[str], kills: int) -> list[str]:
    """One run, struck after every start until it is done or there were enough strikes; what is wrong."""
    for number in range(MAX_STARTS):
        owner = OwnerProcess(root, rng.choice(PROCESSES), root.with_suffix(".log"))
        what = _strike(owner, rng) if strikes.total() < kills else ""
        if what:
            strikes[what] += 1
        code = owner.end()
        leftover = [pid for pid in owner.below(RANK) if Path(f"/proc/{pid}").exists()]
        if leftover:
            return [f"{root.name}, start {number}: ranks {leftover} outlived their owner"]
        if code == 0 and read_status(_run_in(root).status).is_trained():
            return []
        if code not in (0, STOPPED, -signal.SIGKILL):
            return [
                f"{root.name}, start {number} ({owner.n_processes} processes, {what}): exit code {code}; {owner.log}"
            ]
    return [f"{root.name}: not done after {MAX_STARTS} starts"]


def _strike(owner: OwnerProcess, rng: random.Random) -> str:
    """Signal one of its processes after a while; what was done, or nothing where it had ended."""
    until = time.monotonic() + rng.uniform(SOON_S, LATE_S)
    kind, number = rng.choice(TARGETS), rng.choice((signal.SIGKILL, signal.SIGTERM))
    while (time.monotonic() < until or not owner.has_begun) and owner.process.poll() is None:
        time.sleep(0.05)
    if owner.process.poll() is not None:
        return ""
    pid = owner.target(kind, rng)
    if pid is None:  # it trains alone, or does something else just now
        kind, pid = "owner", owner.process.pid
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return ""
    return f"{signal.Signals(number).name} to {kind}"


def _with(n_processes: int) -> Workload:
    more = (*WORKLOAD.more, f"runtime.processes={n_processes}")
    return Workload(WORKLOAD.save_every_steps, WORKLOAD.epochs, WORKLOAD.steps_per_epoch, more)


def _run_in(root: Path) -> RunDir:
    return RunDir.of(root, root / "checkpoints")


def _path() -> list[str]:
    known = os.environ.get("PYTHONPATH")
    return [known] if known else []


def _descendants(pid: int) -> list[tuple[int, str]]:
    """Pid and command of every process below another."""
    found: list[tuple[int, str]] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text("utf-8").split()]
            commands = [Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode() for child in children]
        except OSError:  # it has ended since
            continue
        for child, command in zip(children, commands, strict=True):
            found += [(child, command), *_descendants(child)]
    return found


if __name__ == "__main__":
    sys.exit(main())
