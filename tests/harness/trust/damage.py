"""Every file of a run damaged in every way, one by one: `python -m harness.trust.damage [--every N]`.

The run must go on to the same end, or one line must name the file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from harness.chaos.checks import differences, outcome, violations
from harness.chaos.processes import Forked, finish
from harness.chaos.workload import BRIEF, Workload, run_plainly
from tasks.services.run.paths import CONFIG, HISTORY, LOCK, STATUS, RunDir
from ups_models.files import DAMAGED_SUFFIX
from ups_models.stages.spec import SPECS

LIMIT_S = 60
HALF_WAY = "diff_residual.pt"
REFUSALS = (1, 2)
COST_THEMSELVES = (HISTORY, CONFIG)
NEVER_FOLLOWED = (STATUS, LOCK, HISTORY, CONFIG)
RAW = frozenset(file for spec in SPECS.values() for file in spec.files if file != spec.checkpoint)
"""Weights without averaging, which nothing needs: where one is lost, that is told and nothing is trained again."""
SAVES_BEFORE = 2
"""The half-way run dies at this save of its second stage: it has a saved state and the one before it."""

Damage = Callable[[Path], None]
Prepare = Callable[[], None] | None
"""What the process does before the run: switches a protection off."""


def cut(path: Path) -> None:
    """Its first half is left."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Nothing is left."""
    os.truncate(path, 0)


def flip(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def flips(path: Path) -> None:
    """A bit in each of sixteen places of its second half: what lies there is still read, and is wrong."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content), max(1, len(content) // 32)):
        content[place] ^= 0x10
    path.write_bytes(bytes(content))


def text(path: Path) -> None:
    """Another file in its place."""
    path.write_text("this is no such file\n", encoding="utf-8")


def zeros(path: Path) -> None:
    """What some file systems leave of a file after a power failure."""
    path.write_bytes(bytes(path.stat().st_size))


def missing(path: Path) -> None:
    """Deleted."""
    path.unlink()


def folder(path: Path) -> None:
    """A folder of its name."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """A named pipe of its name, to which nobody writes."""
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    """A link to the file, which lies outside the run."""
    target = Path(tempfile.mkdtemp(prefix="damage-link-")) / path.name
    shutil.move(path, target)
    path.symlink_to(target)


def device(path: Path) -> None:
    """A link to a device that never ends."""
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES: tuple[Damage, ...] = (cut, empty, flip, flips, text, zeros, missing, folder, pipe, link, device)


@dataclass(frozen=True)
class Case:
    """A file of one of the two runs, and what happens to it."""

    source: Path
    name: str
    damage: Damage

    def __str__(self) -> str:
        return f"{self.source.name} run: {self.name}: {self.damage.__name__}"


@dataclass
class Verdict:
    """How a case ended: the run went on, was refused in a line that names the file, or what was wrong."""

    case: Case
    went_on: bool = False
    refused: bool = False
    wrong: list[str] = field(default_factory=list)


def runs(scratch: Path, workload: Workload = BRIEF) -> tuple[Path, Path]:
    """A finished run and one that was killed in its second stage."""
    finished, half = scratch / "finished", scratch / "half-way"
    for folder_ in (finished, half):
        folder_.mkdir()
    run_plainly(workload, finished)
    saves = 0

    def die(point: str, path: Path) -> None:
        nonlocal saves
        saves += point == "renamed" and path.name == HALF_WAY and path.parent.name == "resume"
        if saves == SAVES_BEFORE:
            os._exit(9)

    code = finish(Forked(workload, half, scratch / "half-way.log", hook=die))
    if code != 9:
        raise SystemExit(f"the half-way run ended with {code}: {(scratch / 'half-way.log').read_text('utf-8')}")
    return finished, half


def cases(sources: tuple[Path, ...], every: int) -> Iterator[Case]:
    """Every `every`-th of all."""
    every_case = [
        Case(source, path.relative_to(source).as_posix(), damage)
        for source in sources
        for path in sorted(source.rglob("*"))
        if path.is_file()
        for damage in DAMAGES
    ]
    return iter(every_case[::every])


def try_case(scratch: Path, reference: dict[str, str], prepare: Prepare, numbered: tuple[int, Case]) -> Verdict:
    """Copy the run, damage the file, and start the same command again."""
    number, case = numbered
    root, log = scratch / f"case{number}", scratch / f"case{number}.log"
    shutil.copytree(case.source, root)
    content = (root / case.name).read_bytes()
    case.damage(root / case.name)
    link_ = (root / case.name).resolve() if case.damage is link else None
    began = time.monotonic()
    code = finish(Forked(BRIEF, root, log, prepare=prepare))
    verdict, said = Verdict(case), log.read_text("utf-8", "replace")
    if time.monotonic() - began > LIMIT_S:
        verdict.wrong.append(f"took longer than {LIMIT_S} s")
    if "Traceback" in said:
        verdict.wrong.append("printed a traceback")
    if link_ is not None and Path(case.name).name in NEVER_FOLLOWED and link_.read_bytes() != content:
        verdict.wrong.append("wrote through a link into a file that lies elsewhere")
    if code == 0 and case.name.endswith(STATUS) and case.damage is not flip:  # one bit may hit what nobody reads
        verdict.wrong.append("went on without the record of which stages ran")
    if code != 0 and Path(case.name).name in COST_THEMSELVES:
        verdict.wrong.append(f"exit code {code}, for a file that the run can do without")
    if code == 0:
        verdict.went_on = True
        verdict.wrong += _differences(root, reference, Path(case.name), said)
    else:
        verdict.refused = True
        last = (said.splitlines() or [""])[-1]
        if code not in REFUSALS or Path(case.name).name not in last:
            verdict.wrong.append(f"exit code {code}, and what was said does not name it: {last[:300]}")
    shutil.rmtree(root)
    return verdict


def _differences(root: Path, reference: dict[str, str], name: Path, said: str) -> list[str]:
    run = RunDir.of(root, Path("checkpoints"))
    lost = {name.name} & {HISTORY, *RAW} if name.name in said else set()  # it cost itself, and that was told
    excused = [stage for stage, spec in SPECS.items() if lost & {*spec.files}]
    wrong = [one for one in violations(run, finished=True, excused=excused) if not one.endswith(DAMAGED_SUFFIX)]
    changed = [found for found in differences(reference, outcome(run)) if found not in lost]
    return wrong + [f"{found} differs from the undisturbed run" for found in changed]


def damage_all(scratch: Path, every: int = 1, jobs: int = 2, only: str = "*", prepare: Prepare = None) -> list[Verdict]:
    """All cases that are named like `only`, side by side."""
    sources = runs(scratch)
    reference = outcome(RunDir.of(sources[0], Path("checkpoints")))
    work = enumerate(case for case in cases(sources, every) if fnmatch(str(case), only))
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(partial(try_case, scratch, reference, prepare), work))


def main(arguments: list[str]) -> int:
    """Print the counts, and every case that went wrong; 0 when none did."""
    parser = argparse.ArgumentParser(prog="harness.trust.damage", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try every n-th case (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="runs that live side by side")
    parser.add_argument("--only", default="*", help='cases that are named like this: "half-way*: cut"')
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="damage-") as directory:
        found = damage_all(Path(directory), given.every, given.jobs, given.only)
    for verdict in found:
        for text_ in verdict.wrong:
            print(f"  {verdict.case}: {text_}")
    wrong = sum(bool(verdict.wrong) for verdict in found)
    on, refused = sum(v.went_on for v in found), sum(v.refused for v in found)
    print(f"files of a run damaged: {len(found)} cases, {on} went on, {refused} refused, {wrong} wrong", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    os.environ["WANDB_MODE"] = "disabled"
    sys.exit(main(sys.argv[1:]))
