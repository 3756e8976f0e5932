"""`python -m harness.chaos.demo`: a training on rented machines, outbid in the middle, on loopback from end to end."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.chaos import remote
from harness.chaos.remote import (
    ARGUMENTS,
    VAST_KEY,
    WANDB_KEY,
    environment_in,
    final_weights,
    newest_status,
    sets_in,
    undisturbed,
)
from harness.emulators.vast.emulator import VastEmulator
from harness.emulators.wandb.server import WandbServer, client_environment

RUN = "demo"
TIMEOUT_S = 7200
DISTURBANCES = ("outbid", "offline", "stall", "controller")
IMPATIENT = ("--stall-min-s", "8", "--stall-max-s", "40")
"""The product's 120 and 600 s, fifteen times faster."""
QUICK = ("--poll-s", "1", "--lost-after-s", "2", "--max-price", "1", "--resume-from-wandb", RUN)


@dataclass
class Seen:
    """What a remote training came to."""

    code: int
    machines: int
    live: int
    usd: float
    disturbed: list[str]
    identical: bool
    most_live: int
    steps_lost: list[int] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    """From the end of a machine to the next row of metrics on another."""
    lines: list[str] = field(default_factory=list)
    machine_logs: list[str] = field(default_factory=list)


def train_remotely(
    scratch: Path,
    disturbances: Sequence[str],
    *,
    echo: Callable[[str], None],
    steps_per_epoch: int = 300,
    within_s: float = 0.0,
    seed: int = 0,
    loading_s: float = 0.0,
) -> Seen:
    """Launch on the emulator, disturb the run each time it has uploaded anew, and compare with an undisturbed run.

    The instant is random, up to `within_s` seconds after the upload.

    `outbid` takes the machine away; `offline` cuts its host off while the training on it goes on; `stall` stops every
    Python of the machine, whose heart beats on; `controller` kills the controller with kill -9, and starts it again.
    """
    arguments = [*ARGUMENTS, "--set", f"stages.operator.steps_per_epoch={steps_per_epoch}"]
    environment = environment_in(scratch)
    reference = undisturbed(scratch, environment, arguments)
    echo("undisturbed run: done, for comparison")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shown = {"OMP_NUM_THREADS": "1"}
    with (
        WandbServer() as wandb,
        VastEmulator(scratch / "cloud", api_key=VAST_KEY, instance_path=path, instance_env=shown) as cloud,
    ):
        cloud.faults.set(auto_resume_delay_s=None, boot_delay_s=loading_s)
        cloud.default_market()
        for _ in disturbances:  # each machine that is outbid is dearer from then on
            cloud.add_offer(min_bid=0.2)
        environment |= {**client_environment(wandb.url, scratch, WANDB_KEY), "VAST_URL": cloud.url}

        def start() -> subprocess.Popen[bytes]:
            patience = IMPATIENT if "stall" in disturbances else ()
            return remote.launch(scratch, environment, [*arguments, *QUICK, *patience])

        launch = start()
        left, done, sets, most_live, pending_stop_signal = list(disturbances), [], 0, 0, 0
        dice, steps_lost, due, stopwatch = random.Random(seed), [], float("inf"), Stopwatch()
        deadline = time.monotonic() + TIMEOUT_S
        while launch.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            live, committed = cloud.live(), sets_in(wandb)
            stopwatch.look(live[0].home if live else None)
            most_live = max(most_live, len(live))
            ready = left and live and live[0].state == "running" and not live[0].offline and committed >= sets + 2
            ready = ready and any(
                asked.endpoint == "show" for asked in cloud.requests[pending_stop_signal:]
            )  # a controller watches
            due = min(due, time.monotonic() + dice.uniform(0, within_s)) if ready else float("inf")
            if time.monotonic() >= due:
                done.append(left.pop(0))
                launch = _disturb(done[-1], cloud, live[0].id, launch, start)
                sets, due, pending_stop_signal = sets_in(wandb), float("inf"), len(cloud.requests)
                if done[-1] in ("outbid", "offline", "stall"):
                    stopwatch.begin(live[0].home)
                if done[-1] == "outbid":
                    steps_lost.append(_steps_lost(live[0].home / "ups" / "run", wandb))
                echo(f"{done[-1]} (instance {live[0].id})")
        return Seen(
            _ended(launch),
            len(cloud.instances),
            len(cloud.live()),
            cloud.cost(),
            done,
            final_weights(wandb) == reference,
            most_live,
            steps_lost,
            stopwatch.waits_s,
            (scratch / "launch.log").read_text("utf-8").splitlines(),
            [one.log_path.read_text("utf-8") for one in cloud.instances if one.log_path.exists()],
        )


@dataclass
class Stopwatch:
    """Measures how long a training stands still between two machines."""

    ended: tuple[float, Path] | None = None
    rows: int | None = None
    waits_s: list[float] = field(default_factory=list)

    def begin(self, home: Path) -> None:
        """The machine whose home this is was taken away."""
        self.ended, self.rows = (time.monotonic(), home), None

    def look(self, home: Path | None) -> None:
        """At the machine that there is."""
        if self.ended is None or home is None or home == self.ended[1]:
            return
        path = home / "ups" / "run" / "reports" / "metrics.jsonl"
        rows = path.read_bytes().count(b"\n") if path.exists() else 0
        if self.rows is not None and rows > self.rows:
            self.waits_s.append(time.monotonic() - self.ended[0])
            self.ended = None
        elif self.rows is None and rows:
            self.rows = rows


def _ended(launch: subprocess.Popen[bytes]) -> int:
    if launch.poll() is None:
        launch.kill()
    return launch.wait()


def _disturb(
    what: str,
    cloud: VastEmulator,
    instance_id: int,
    launch: subprocess.Popen[bytes],
    launch_again: Callable[[], subprocess.Popen[bytes]],
) -> subprocess.Popen[bytes]:
    if what == "outbid":
        cloud.preempt(instance_id)
    elif what == "offline":
        cloud.host_offline(instance_id, kill=False)
    elif what == "stall":
        cloud.stall(instance_id)
    else:
        launch.kill()
        launch.wait()
        return launch_again()
    return launch


def main() -> int:
    """Run and tell."""
    parser = argparse.ArgumentParser(prog="harness.chaos.demo", description=__doc__)
    parser.add_argument("--disturb", nargs="*", choices=DISTURBANCES, default=["outbid"])
    parser.add_argument("--times", type=int, default=1, help="go through --disturb so many times")
    parser.add_argument("--steps-per-epoch", type=int, default=300, help="of the operator's three epochs")
    parser.add_argument("--within-s", type=float, default=0.0, help="disturb up to so long after an upload, at random")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    parser.add_argument("--loading-s", type=float, default=0.0, help="so long a machine loads its image")
    arguments = parser.parse_args()
    started = time.monotonic()

    def echo(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        plan = list(arguments.disturb) * arguments.times
        seen = train_remotely(
            Path(directory),
            plan,
            echo=echo,
            steps_per_epoch=arguments.steps_per_epoch,
            within_s=arguments.within_s,
            seed=arguments.seed,
            loading_s=arguments.loading_s,
        )
    for line in seen.lines:
        print(f"          {line}")
    echo(f"exit code {seen.code}; {len(seen.disturbed)} of {len(plan)} disturbances took place")
    echo(f"{seen.machines} machines rented, {seen.most_live} at a time, {seen.live} left; ledger: {seen.usd:.6f} USD")
    if seen.steps_lost:
        mean = sum(seen.steps_lost) / len(seen.steps_lost)
        echo(f"steps since the newest set in W&B, when outbid: {mean:.0f} on average, {max(seen.steps_lost)} at most")
    if seen.waits_s:
        echo(
            f"from the end of a machine to the next row of training on another: {len(seen.waits_s)} times, "
            f"{max(seen.waits_s):.0f} s at most, {arguments.loading_s:g} s of them loading"
        )
    echo(f"final weights {'identical to' if seen.identical else 'DIFFERENT from'} the undisturbed run")
    well = seen.code == 0 and seen.identical and not seen.live and len(seen.disturbed) == len(plan)
    return 0 if well else 1


def _steps_lost(run: Path, wandb: WandbServer) -> int:
    """How many optimiser steps a machine that is gone had done since the set that the next one goes on from."""
    lines = (run / "reports" / "metrics.jsonl").read_text("utf-8").splitlines()
    done: dict[str, int] = {}
    for line in lines:
        row = json.loads(line)
        done[row["stage"]] = int(row["step"])
    safe = {stage: int(record.get("step") or 0) for stage, record in newest_status(wandb).get("stages", {}).items()}
    return sum(max(0, step - safe.get(stage, 0)) for stage, step in done.items())


if __name__ == "__main__":
    sys.exit(main())
