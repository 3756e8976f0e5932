"""Every crash point, one by one: the disk as a kill there would leave it, checked and resumed to the end."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chaos.campaign import wait
from chaos.checks import differences, outcome, violations
from chaos.workload import fork_run
from tasks.services.run_dir import RunDir


def enumerate_crash_points(scratch: Path, reference: dict[str, str], *, every: int) -> tuple[int, list[str]]:
    """Snapshot the run directory at every `every`-th crash point of one run, resume each snapshot, and compare.

    Returns how many points were tried, and what was wrong.
    """
    live, snapshots = scratch / "live", scratch / "snapshots"
    live.mkdir()
    snapshots.mkdir()
    seen = [0]

    def snapshot(name: str, path: Path) -> None:
        if seen[0] % every == 0:
            label = f"{seen[0]:04d} {name} {path.name.strip('.')[:40]}"
            shutil.copytree(live, snapshots / label)
        seen[0] += 1

    code = wait(fork_run(live, scratch / "children.log", hook=snapshot))
    if code:
        return 0, [f"the run that was to be photographed ended with exit code {code}"]
    points = sorted(snapshots.iterdir())
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda point: _resume(point, scratch, reference), points)
    return len(points), [text for texts in found for text in texts]


def _resume(point: Path, scratch: Path, reference: dict[str, str]) -> list[str]:
    run = RunDir.of(point, Path("checkpoints"))
    found = violations(run, finished=False)
    code = wait(fork_run(point, scratch / "children.log"))
    if code:
        found.append(f"resume ended with exit code {code}")
    else:
        found += violations(run, finished=True)
        found += [f"{name} differs from the undisturbed run" for name in differences(reference, outcome(run))]
    if not found:
        shutil.rmtree(point)
    return [f"crash at {point.name}: {text}" for text in found]
