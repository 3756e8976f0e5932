"""Every crash point, one by one: the disk as a kill there would leave it, checked and resumed to the end."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from harness.chaos.checks import differences, outcome, violations
from harness.chaos.counts import Counts
from harness.chaos.processes import Forked, finish
from harness.chaos.workload import BRIEF, run_plainly
from tasks.services.run.paths import RunDir


def enumerate_crash_points(scratch: Path, *, every: int, jobs: int) -> Counts:
    """Snapshot the run directory at every `every`-th crash point of one run, resume each snapshot, and compare."""
    whole, live, snapshots = (scratch / name for name in ("whole", "live", "snapshots"))
    for directory in (whole, live, snapshots):
        directory.mkdir()
    run_plainly(BRIEF, whole)
    reference = outcome(RunDir.of(whole, Path("checkpoints")))
    seen = [0]

    def snapshot(name: str, path: Path) -> None:
        if seen[0] % every == 0:
            label = f"{seen[0]:04d} {name} {path.name.strip('.')[:40]}"
            shutil.copytree(live, snapshots / label)
        seen[0] += 1

    log = scratch / "children.log"
    code = finish(Forked(BRIEF, live, log, hook=snapshot))
    if code:
        return Counts(trouble=[f"the run that was to be photographed ended with exit code {code}"])
    points = sorted(snapshots.iterdir())
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        found = pool.map(partial(_resume, log=log, reference=reference), points)
        return Counts(points=len(points), trouble=[text for texts in found for text in texts])


def _resume(point: Path, log: Path, reference: dict[str, str]) -> list[str]:
    run = RunDir.of(point, Path("checkpoints"))
    found = violations(run, finished=False)
    code = finish(Forked(BRIEF, point, log))
    if code:
        found.append(f"resume ended with exit code {code}")
    else:
        found += violations(run, finished=True)
        found += [f"{name} differs from the undisturbed run" for name in differences(reference, outcome(run))]
    if not found:
        shutil.rmtree(point)
    return [f"crash at {point.name}: {text}" for text in found]
