"""`python -m harness.chaos.retries`: kill runs, their worker and server; every chain must end as if undisturbed."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import ROOT
from harness.chaos.checks import outcome
from harness.chaos.prefect_stack import ControlRoom, prefect_stack, trainer_of
from tasks.services.run.paths import RunDir

CONFIG = "configs/smoke.yaml"
SETTINGS = ("stages.operator.steps_per_epoch={}", "checkpoint.save_every_steps=20", "runtime.device=cpu")
STEPS_PER_KILL = 250
DOWN_S = 3.0


@dataclass(frozen=True)
class Row:
    """What one scenario came to."""

    name: str
    states: list[tuple[str, int]]
    expected: list[tuple[str, int]]
    identical: bool
    seconds_to_next_step: list[float]

    @property
    def well(self) -> bool:
        """Whether it ended as it should."""
        return self.states == self.expected and self.identical

    def __str__(self) -> str:
        times = self.seconds_to_next_step
        shown = f"; next new step after {min(times):.0f} to {max(times):.0f} s" if times else ""
        ends = ", ".join(f"{name} ({attempt})" for name, attempt in self.states)
        weights = "weights identical" if self.identical else "weights DIFFERENT"
        return f"{'well' if self.well else 'WRONG'}  {self.name}: {ends}; {weights}{shown}"


class Runs:
    """Runs of the deployment, each in a directory of its own, and what they must end with."""

    def __init__(self, room: ControlRoom, scratch: Path) -> None:
        self.room, self.scratch = room, scratch
        self.references: dict[int, dict[str, str]] = {}

    def start(self, name: str, steps: int, times: int = 1) -> Path:
        """Start it so many times in one directory; the directory."""
        root = self.scratch / name
        for _ in range(times):
            self.room.run(
                {"config": CONFIG, "auto_resume": True, "run_dir": str(root), "set": [*_settings(steps)]},
                max_attempts_per_day=100,
            )
        return root

    def wait_for_steps(self, root: Path, since: int = 0) -> int:
        """Wait until the run has saved anew since then; when, in nanoseconds."""

        def saved() -> int:
            at = _saved_at(root)
            return at if at > since else 0

        return int(self.room.wait_for(saved, f"a saved step in {root.name}"))

    def kill(self, root: Path) -> float:
        """SIGKILL to the process that trains; when."""
        os.kill(trainer_of(root), signal.SIGKILL)
        return time.monotonic()

    def identical(self, root: Path, steps: int) -> bool:
        """Whether it ended with the weights of an undisturbed run."""
        if steps not in self.references:
            self.references[steps] = self._reference(steps)
        return _weights(root) == self.references[steps]

    def _reference(self, steps: int) -> dict[str, str]:
        root = self.scratch / f"undisturbed{steps}"
        root.mkdir()
        words = [word for setting in _settings(steps) for word in ("--set", setting)]
        environment = {name: value for name, value in self.room.environment.items() if name != "PREFECT_API_URL"}
        environment["PREFECT_HOME"] = str(root / "prefect")  # its own server must not open the database of the room
        subprocess.run(
            [sys.executable, str(ROOT / "flows" / "pipeline.py"), "--config", CONFIG, *words, "--run-dir", str(root)],
            env=environment,
            cwd=root,
            check=True,
            capture_output=True,
        )
        return _weights(root)


def kills(runs: Runs, times: int) -> Row:
    """SIGKILL the flow's process again and again: each time the next attempt comes by itself."""
    steps = max(200, STEPS_PER_KILL * times // 3)
    root, took = runs.start("kills", steps), []
    saved_at = runs.wait_for_steps(root)
    for _ in range(times):
        killed = runs.kill(root)
        saved_at = runs.wait_for_steps(root, max(saved_at, _saved_at(root)))
        took.append(time.monotonic() - killed)
    expected = [("Crashed", n) for n in range(1, times + 1)] + [("Completed", times + 1)]
    return _row(runs, "the flow killed", root, steps, expected, took)


def at_once(runs: Runs, times: int) -> Row:
    """So many runs of one directory at the same moment: one trains, the others wait and find everything done."""
    root = runs.start("at-once", 200, times)
    return _row(runs, f"{times} runs at once", root, 200, [("Completed", 1)] * times, [])


def server_restarted(runs: Runs, times: int) -> Row:
    """The server dies while a run trains, and comes back: the run does not notice, or the next attempt comes.

    A worker that finds no server three times ends; whoever keeps it running starts it again.
    """
    steps = 1000 * times
    root = runs.start("server", steps)
    for _ in range(times):
        runs.wait_for_steps(root, _saved_at(root))
        runs.room.stop_server(signal.SIGKILL)
        time.sleep(DOWN_S)
        runs.room.start_server()
        if runs.room.workers[-1].poll() is not None:
            runs.room.start_worker()
    runs.room.wait_for(lambda: "Completed" in dict(runs.room.states(root)), "completion after the server was killed")
    attempts = len(runs.room.states(root))
    expected = [("Crashed", n) for n in range(1, attempts)] + [("Completed", attempts)]
    return _row(runs, "the server killed and started again", root, steps, expected, [])


def worker_and_flow_killed(runs: Runs, times: int) -> Row:
    """Worker and flow die together, as with their machine: only the missing heartbeats tell."""
    root, took = runs.start("worker", 400 * times), []
    saved_at = runs.wait_for_steps(root)
    for _ in range(times):
        runs.room.workers[-1].kill()
        killed = runs.kill(root)
        runs.room.start_worker()
        saved_at = runs.wait_for_steps(root, max(saved_at, _saved_at(root)))
        took.append(time.monotonic() - killed)
    expected = [("Crashed", n) for n in range(1, times + 1)] + [("Completed", times + 1)]
    return _row(runs, "worker and flow killed", root, 400 * times, expected, took)


def called_crashed(runs: Runs, times: int) -> Row:
    """A run that lives is called crashed, as when no heartbeats are heard: it ends well, and the next attempt waits."""
    steps = 800 * times
    root = runs.start("alive", steps)
    runs.wait_for_steps(root)
    [alive] = runs.room.attempts(root)
    crashed = {"state": {"type": "CRASHED"}, "force": True}
    runs.room.ask("POST", f"/flow_runs/{alive['id']}/set_state", json=crashed)
    return _row(runs, "called crashed, but alive", root, steps, [("Completed", 1), ("Completed", 2)], [])


def files_elsewhere(runs: Runs, times: int) -> Row:
    """The next attempt does not find what the killed one left, as on another machine: it waits, and never trains."""
    root, aside = runs.start("elsewhere", 400), runs.scratch / "aside"
    saved_at = runs.wait_for_steps(root)
    for _ in range(times):
        runs.kill(root)
        root.rename(aside)
        [*_, waiting] = runs.room.wait_for(lambda: _awaiting(runs.room, root), "an attempt that waits for its files")
        trained = (root / "checkpoints").exists()
        if trained:
            return _row(runs, "files elsewhere: trained from nothing", root, 400, [], [])
        shutil.rmtree(root, ignore_errors=True)
        aside.rename(root)
        now = {"state": {"type": "SCHEDULED"}, "force": True}  # two minutes later it would look again by itself
        runs.room.ask("POST", f"/flow_runs/{waiting['id']}/set_state", json=now)
        saved_at = runs.wait_for_steps(root, max(saved_at, _saved_at(root)))
    expected = [("Crashed", n) for n in range(1, times + 1)] + [("Completed", times + 1)]
    return _row(runs, "the files were elsewhere", root, 400, expected, [])


def _awaiting(room: ControlRoom, root: Path) -> list[dict[str, Any]]:
    return [run for run in room.attempts(root) if run["state"]["name"] == "AwaitingFiles"]


SCENARIOS: dict[str, tuple[Callable[[Runs, int], Row], int]] = {
    "kills": (kills, 10),
    "at-once": (at_once, 3),
    "server": (server_restarted, 1),
    "worker": (worker_and_flow_killed, 1),
    "alive": (called_crashed, 1),
    "elsewhere": (files_elsewhere, 1),
}


def main() -> int:
    """Run and tell."""
    parser = argparse.ArgumentParser(prog="harness.chaos.retries", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=tuple(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--times", type=int, help="disturb so often, instead of the scenario's own number")
    parser.add_argument("--retry-after", default="10", help="as of `ups deploy`")
    parser.add_argument("--vanished-after", default="90", help="as of `ups deploy`")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="retries-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with prefect_stack(home, within_s=420.0) as room:
            delays = ("--retry-after", given.retry_after, "--vanished-after", given.vanished_after)
            room.deploy(*delays).check_returncode()
            room.start_worker()
            room.start_watch()
            runs = Runs(room, Path(folder))
            for name in given.only:
                scenario, times = SCENARIOS[name]
                rows.append(scenario(runs, given.times or times))
                print(rows[-1], flush=True)
                if not rows[-1].well:
                    print(*(f"    {run['name']}: {run['state']['message']}" for run in room.runs()), sep="\n")
                    print(room.log())
    print(f"{sum(row.well for row in rows)} of {len(rows)} as they should be")
    return 0 if all(row.well for row in rows) else 1


def _row(runs: Runs, name: str, root: Path, steps: int, expected: list[tuple[str, int]], took: list[float]) -> Row:
    return Row(name, runs.room.settled(root, expected[-1]), expected, runs.identical(root, steps), took)


def _settings(steps: int) -> list[str]:
    return [setting.format(steps) for setting in SETTINGS]


def _saved_at(root: Path) -> int:
    """When a stage last saved its state or completed, in nanoseconds; 0: never."""
    checkpoints = root / "checkpoints"
    paths = [*(checkpoints / "resume").glob("*.pt"), *checkpoints.glob("*.pt")]
    return max((modified(path) for path in paths), default=0)


def modified(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0: it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _weights(root: Path) -> dict[str, str]:
    found = outcome(RunDir.of(root, root / "checkpoints"))
    return {name: digest for name, digest in found.items() if name.endswith(".pt")}


if __name__ == "__main__":
    sys.exit(main())
