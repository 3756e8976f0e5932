"""A run under a Prefect worker whose server is away for longer than every lease: it trains on, and its end is told."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from harness.chaos.checks import differences, outcome, violations
from harness.chaos.prefect_stack import ControlRoom, prefect_stack
from harness.chaos.workload import Workload, run_plainly
from tasks.services.run.lock import is_owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status

MARGIN_S, PATIENCE_S = 20.0, 900.0
LAST = {"Completed", "BadInput", "GaveUp"}
"""States that end a chain."""
SHORT, LONGER = 50, 2050
"""Steps of two runs whose difference says how fast this machine trains."""


def away(seconds: float) -> int:
    """Try it once, and tell; 0: all work done to the same bits, and the server knows."""
    with tempfile.TemporaryDirectory(prefix="trust-away-") as folder:
        scratch = Path(folder)
        workload = _workload(int(_steps_per_second(scratch) * (1.1 * seconds + MARGIN_S)))
        home = scratch / "home"
        home.mkdir()
        with prefect_stack(home, {"PREFECT_WORKER_QUERY_SECONDS": "15"}, 3 * seconds + PATIENCE_S) as room:
            wrong = _trial(room, workload, scratch / "run", seconds)
            if wrong:
                print(room.log())
        if not wrong:
            run_plainly(workload, scratch / "undisturbed")
            expected = outcome(_run_in(scratch / "undisturbed"))
            wrong = [f"{name} differs" for name in differences(outcome(_run_in(scratch / "run")), expected)]
    print(f"the server away for {seconds:g} s: {'; '.join(wrong) or 'trained on, all work done, same bits'}")
    return 1 if wrong else 0


def _trial(room: ControlRoom, workload: Workload, root: Path, seconds: float) -> list[str]:
    """Run it, take the server away and bring it back; what is wrong at the end."""
    room.deploy("--retry-after", "5").check_returncode()
    room.start_worker()
    room.start_watch()
    request = workload.request(root)
    room.run({"config": str(request.config), "auto_resume": True, "run_dir": str(root), "set": [*request.set]})
    run = _run_in(root)
    room.wait_for(run.resume("operator").is_file, "a saved state")
    room.stop_server(signal.SIGKILL)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(1.0)
        if not is_owned(run) and not read_status(run.status).is_trained():
            return [f"it stopped training {seconds - (until - time.monotonic()):.0f} s after the server"]
    room.start_server()
    if room.workers[-1].poll() is not None:
        print("its worker ended meanwhile, and is started again", flush=True)
        room.start_worker()
    room.wait_for(lambda: not LAST.isdisjoint(dict(room.states(root))), "the chain's end")
    states = room.states(root)
    print(f"runs of the chain: {states}", flush=True)
    return violations(run, finished=True) if "Completed" in dict(states) else [f"its chain ended as {states}"]


def _workload(steps: int) -> Workload:
    return Workload(save_every_steps=100, epochs=1, steps_per_epoch=(steps, 4, 4, 4))


def _steps_per_second(scratch: Path) -> float:
    took = []
    for steps in (SHORT, LONGER):
        began = time.monotonic()
        run_plainly(_workload(steps), scratch / f"steps{steps}")
        took.append(time.monotonic() - began)
    return (LONGER - SHORT) / max(0.1, took[1] - took[0])


def _run_in(root: Path) -> RunDir:
    return RunDir.of(root, root / "checkpoints")
