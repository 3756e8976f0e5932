"""Parts of two runs put together: `python -m harness.trust.mixed [--every N]`.

Whatever of another run is put into a run, it is refused, or the run ends as it would have without it, or it ends as
the other one did and says so: never with a mixture.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from flows.cli.main import main as ups
from harness.chaos.checks import differences, outcome, violations
from harness.chaos.processes import Forked, finish
from harness.chaos.workload import BRIEF, Workload
from harness.trust.damage import RAW, REFUSALS, Prepare, runs
from tasks.services.run.paths import HISTORY, RunDir
from ups_models.files import DAMAGED_SUFFIX, digest_of
from ups_models.stages.lineage import read_lineage
from ups_models.stages.spec import SPECS

SETTINGS_ONLY, THROWS_AWAY = "another learning rate", "all checkpoints and the status"
OTHERS: dict[str, tuple[str, ...]] = {
    "another seed": ("seed=1",),
    "another split": ("data.val=5", "steady_data.val=5"),
    SETTINGS_ONLY: tuple(f"stages.{name}.lr=0.0005" for name in SPECS),
}
GROUPS: dict[str, tuple[str, ...]] = {
    THROWS_AWAY: ("checkpoints",),
    "all checkpoints, not the status": tuple(f"checkpoints/{file}" for spec in SPECS.values() for file in spec.files),
    "status and operator": ("checkpoints/stage_status.json", "checkpoints/operator.pt", "checkpoints/operator_ema.pt"),
    "all reports": ("reports",),
    "all data": ("data",),
    "data and reports": ("data", "reports"),
    "saved states": ("checkpoints/resume",),
    "status and saved states": ("checkpoints/stage_status.json", "checkpoints/resume"),
    "everything but the data": ("checkpoints", "reports", "config.yaml"),
    "everything but the checkpoints": ("data", "reports", "config.yaml"),
}
ENDS = (
    "refused",
    "as without it",
    "as the other run, and said so",
    "trained on from what was put in, and said that its settings were others",
)


@dataclass(frozen=True)
class Case:
    """A run, another, and what of the other is put into it."""

    difference: str
    here: Path
    other: Path
    parts: tuple[str, ...]
    label: str

    def __str__(self) -> str:
        return f"{self.here.name} run, and of a run with {self.difference}: {self.label}"


@dataclass
class Verdict:
    """How a case ended."""

    case: Case
    ended: str = ""
    wrong: list[str] = field(default_factory=list)


def cases(here: tuple[Path, Path], others: Mapping[str, tuple[Path, Path]], every: int) -> list[Case]:
    """Every `every`-th of all: single files, then groups of them."""
    found = [
        Case(difference, mine, theirs, parts, label)
        for difference, both in others.items()
        for mine, theirs in zip(here, both, strict=True)
        for label, parts in _parts(theirs)
    ]
    return found[::every]


def _parts(other: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    names = [path.relative_to(other).as_posix() for path in sorted(other.rglob("*")) if path.is_file()]
    yield from ((name, (name,)) for name in names)
    for label, parts in GROUPS.items():
        present = tuple(part for part in parts if (other / part).exists())
        if present:
            yield label, present


def try_case(
    scratch: Path,
    references: Mapping[str, dict[str, str]],
    prepare: Prepare,
    numbered: tuple[int, Case],
) -> Verdict:
    """Put the parts in, start the same command again, and look at what it ends with."""
    number, case = numbered
    root, log = scratch / f"case{number}", scratch / f"case{number}.log"
    shutil.copytree(case.here, root)
    for part in case.parts:
        _put(case.other / part, root / part)
    code = finish(Forked(BRIEF, root, log, prepare=prepare))
    verdict, said = Verdict(case), log.read_text("utf-8", "replace")
    if "Traceback" in said:
        verdict.wrong.append("printed a traceback")
    if code in REFUSALS:
        verdict.ended = ENDS[0]
        if str(root) not in said:
            verdict.wrong.append(f"what was said names no file: {said[-300:]}")
    elif code == 0 and case.label == THROWS_AWAY and case.difference != SETTINGS_ONLY:
        verdict.wrong.append("threw completed work away, and nobody had asked for that")
    elif code == 0:
        _check_end(verdict, RunDir.of(root, Path("checkpoints")), references, said)
    else:
        verdict.wrong.append(f"exit code {code}: {said[-300:]}")
    shutil.rmtree(root)
    return verdict


def _check_end(verdict: Verdict, run: RunDir, references: Mapping[str, dict[str, str]], said: str) -> None:
    case, lost = verdict.case, {name for name in (HISTORY, *RAW) if name in said}
    excused = [stage for stage, spec in SPECS.items() if lost & {*spec.files}]
    verdict.wrong += [
        one for one in violations(run, finished=True, excused=excused) if not one.endswith(DAMAGED_SUFFIX)
    ]
    found = outcome(run)
    mine = [name for name in differences(references[""], found) if name not in lost]
    theirs = [name for name in differences(references[case.difference], found) if name not in lost]
    if not mine:
        verdict.ended = ENDS[1]
    elif not theirs and case.difference == SETTINGS_ONLY and "settings" in said:
        verdict.ended = ENDS[2]
    elif case.difference == SETTINGS_ONLY and "settings" in said and _descends(run):
        verdict.ended = ENDS[3]
    else:
        verdict.wrong.append(f"a mixture: {mine} are not this run's, {theirs} are not the other's")


def _descends(run: RunDir) -> bool:
    """Whether every checkpoint was trained from those beside it."""
    found = {name: read_lineage(run.checkpoint(spec.checkpoint)) for name, spec in SPECS.items()}
    parents = {name: {SPECS[parent].checkpoint for parent in spec.needs} for name, spec in SPECS.items()}
    return all(
        lineage is not None and lineage.inputs[file] == digest_of(run.checkpoint(file)).sha256
        for name, lineage in found.items()
        for file in parents[name]
    )


def _put(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def evaluations(mine: Path, other: Path, difference: str) -> list[str]:
    """`ups evaluate` with the operator of one run and every other checkpoint of another: what it did not refuse.

    A prior of the same seed and data was trained without the operator: it belongs to any, and its settings are shown.
    """
    flags = {"diffusion": "diff_residual", "student": "consistency_distill", "prior": "steady_prior"}
    if difference == SETTINGS_ONLY:
        del flags["prior"]
    wrong = []
    for flag, stage in flags.items():
        files = [str(mine / "checkpoints" / "operator_ema.pt"), str(other / "checkpoints" / SPECS[stage].checkpoint)]
        code = ups(["evaluate", "--operator", files[0], f"--{flag}", files[1], "--output-prefix", str(mine / "mixed")])
        if code not in REFUSALS:
            wrong.append(f"ups evaluate took {flag} of a run with {difference} beside this run's operator")
    return wrong


def pairs_of_runs(scratch: Path) -> dict[str, tuple[Path, Path]]:
    """By how it differs: a finished and a half-way run; `this` is the one into which others are put."""
    made = {name: scratch / name.replace(" ", "-") for name in ("this", *OTHERS)}
    workloads = {"this": BRIEF} | {name: replace(BRIEF, more=more) for name, more in OTHERS.items()}
    return {name: _made(folder, workloads[name]) for name, folder in made.items()}


def mix_all(
    scratch: Path,
    pairs: Mapping[str, tuple[Path, Path]],
    every: int = 1,
    jobs: int = 2,
    only: str = "*",
    prepare: Prepare = None,
) -> list[Verdict]:
    """All cases that are named like `only`, side by side."""
    here, others = pairs["this"], {name: pair for name, pair in pairs.items() if name != "this"}
    references = {"": outcome(RunDir.of(here[0], Path("checkpoints")))}
    references |= {name: outcome(RunDir.of(pair[0], Path("checkpoints"))) for name, pair in others.items()}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        work = enumerate(case for case in cases(here, others, every) if fnmatch(str(case), only))
        return list(pool.map(partial(try_case, scratch, references, prepare), work))


def _made(folder: Path, workload: Workload) -> tuple[Path, Path]:
    folder.mkdir()
    return runs(folder, workload)


def main(arguments: list[str]) -> int:
    """Print the counts, and every case that went wrong; 0 when none did."""
    parser = argparse.ArgumentParser(prog="harness.trust.mixed", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try every n-th case (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="runs that live side by side")
    parser.add_argument("--only", default="*", help='cases that are named like this: "*another seed: all*"')
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mixed-") as directory:
        pairs = pairs_of_runs(Path(directory))
        verdicts = mix_all(Path(directory), pairs, given.every, given.jobs, given.only)
        wrong = [text for name in OTHERS for text in evaluations(pairs["this"][0], pairs[name][0], name)]
    wrong += [f"{verdict.case}: {text}" for verdict in verdicts for text in verdict.wrong]
    for line in wrong:
        print(f"  {line}")
    counts = ", ".join(f"{sum(v.ended == end for v in verdicts)} {end}" for end in ENDS)
    print(f"parts of two runs put together: {len(verdicts)} cases: {counts}; {len(wrong)} wrong", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ["WANDB_MODE"] = "disabled"
    sys.exit(main(sys.argv[1:]))
