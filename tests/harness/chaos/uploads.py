"""Killed while checkpoints are on their way to W&B: an empty machine must get the newest set, and end the same."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from harness.chaos.checks import differences, outcome
from harness.chaos.counts import Counts
from harness.chaos.processes import Command, finish
from harness.chaos.workload import LONG
from harness.emulators.wandb.server import WandbServer, client_environment
from harness.emulators.wandb.store import ArtifactRecord
from tasks.services.run.paths import RunDir

ENTITY, PROJECT = "researcher", "chaos"
BYTES_PER_S = 500_000
UPLOAD_WITHIN_S = 60
TRACKED = ("--set", f"tracking.project={PROJECT}", "--set", "tracking.upload_every_s=0.2")


def kill_during_uploads(scratch: Path, count: int, seed: int) -> Counts:
    """Kill -9 `count` tracked runs, each in one of its uploads, and restore each in an empty directory."""
    whole = scratch / "whole"
    whole.mkdir()
    code = finish(Command(LONG, whole, scratch / "children.log", extra=TRACKED))  # the same config, and no W&B
    if code:
        return Counts(trouble=[f"the undisturbed run ended with exit code {code}"])
    reference = outcome(RunDir.of(whole, Path("checkpoints")))
    counts = Counts()
    with WandbServer(entity=ENTITY) as server:
        server.faults.upload_bytes_per_s = BYTES_PER_S
        for number in range(count):
            found = _one(scratch, server, reference, f"upload{number}", random.Random(f"{seed}/{number}"))
            counts.uploads_killed += 1
            counts.uploads_restored += not found
            counts.trouble += found
    return counts


def _one(scratch: Path, server: WandbServer, reference: dict[str, str], name: str, rng: random.Random) -> list[str]:
    old, new, log = scratch / f"{name}-old", scratch / f"{name}-new", scratch / "children.log"
    old.mkdir()
    new.mkdir()
    environment = client_environment(server.url, scratch)
    first = Command(LONG, old, log, extra=(*TRACKED, "--resume-from-wandb", name), environment=environment)
    moment = (rng.randrange(1, 8), rng.uniform(0, 0.6))
    if not _wait_for_upload(server, first, name, moment[0]):
        finish(first)
        return [f"{name}: ended before upload {moment[0]}"]
    time.sleep(moment[1])
    first.send(signal.SIGKILL)
    finish(first)
    time.sleep(2.5)  # W&B's own process sees the death of ours within two seconds, and nothing is committed after it
    versions = [item.version for item in _sets(server, name) if item.version is not None and item.state == "COMMITTED"]
    again = (*TRACKED, "--resume-from-wandb", name, "--resume-mode", "must" if versions else "allow")
    code = finish(Command(LONG, new, log, extra=again, environment=environment))
    run = RunDir.of(new, Path("checkpoints"))
    said = log.read_text("utf-8")
    wrong = [] if code == 0 else [f"the restored run ended with exit code {code}"]
    if versions and f"ckpt-{name}:v{max(versions)}: restored to" not in said:
        wrong.append(f"v{max(versions)}, the newest whole set, was not restored")
    wrong += [f"{item} differs from the undisturbed run" for item in differences(reference, outcome(run))]
    return [f"{name}, killed {moment[1]:.3f} s into upload {moment[0]}: {text}" for text in wrong]


def _wait_for_upload(server: WandbServer, life: Command, name: str, number: int) -> bool:
    """Wait until the run's `number`-th set is on its way; False when the run ended before."""
    deadline = time.monotonic() + UPLOAD_WITHIN_S
    while time.monotonic() < deadline and life.poll() is None:
        sets = _sets(server, name)
        if len(sets) >= number and sets[-1].state == "PENDING":
            return True
        time.sleep(0.005)
    return False


def _sets(server: WandbServer, name: str) -> list[ArtifactRecord]:
    return server.artifacts.get(f"{ENTITY}/{PROJECT}/ckpt-{name}", [])
