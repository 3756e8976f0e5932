"""Kills in every way, restarts, and what was found; a function of its seed but for the machine's own timing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checks import differences, outcome, position, violations
from chaos.workload import SAVE_EVERY_STEPS, STOPPED, fork_run, start_flow
from tasks.services.run_dir import RunDir
from tasks.services.status import EVALUATIONS, StatusStore
from ups_models.files import CrashHook
from ups_models.specs import SPECS

KILLS_PER_RUN = 8
LIFE_TIMEOUT_S = 120
REFUSED = 2
FLIP_SHARE = 0.15
TERM_SHARE = 0.17


@dataclass
class Tally:
    """What a campaign counted."""

    kills: int = 0
    terms: int = 0
    resumes: int = 0
    runs: int = 0
    identical: int = 0
    flips: int = 0
    flips_noticed: int = 0
    pairs: int = 0
    steps_lost: list[int] = field(default_factory=list)
    term_steps_lost: list[int] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)


@dataclass
class Campaign:
    """One harness run in a scratch directory."""

    scratch: Path
    seed: int
    prepare: Callable[[], None] | None = None
    flow_share: float = 0.0
    tally: Tally = field(default_factory=Tally)
    reference: dict[str, str] = field(default_factory=dict)
    life_s: float = 0.0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.log = self.scratch / "children.log"

    def undisturbed(self) -> None:
        """Run once without a kill; its outcome is what every disturbed run must end with."""
        run = self._run_dir("undisturbed")
        started = time.monotonic()
        code = wait(fork_run(run.root, self.log))
        self.life_s = time.monotonic() - started
        if code:
            raise SystemExit(f"the undisturbed run failed with exit code {code}; see {self.log}")
        self.reference = outcome(run)

    def kill(self, count: int) -> None:
        """Go on until `count` processes were ended, over as many runs as it takes."""
        while self.tally.kills + self.tally.terms < count and not self._hopeless():
            self._disturbed_run(min(KILLS_PER_RUN, count - self.tally.kills - self.tally.terms))

    def pairs(self, count: int) -> None:
        """Start two processes at the same moment: exactly one may run."""
        for index in range(count):
            run = self._run_dir(f"pair{index}")
            children = [fork_run(run.root, self.log, prepare=self.prepare) for _ in range(2)]
            with ThreadPoolExecutor(2) as pool:
                codes = sorted(pool.map(wait, children))
            self.tally.pairs += 1
            if codes != [0, REFUSED]:
                self._trouble(f"pair {index}: exit codes {codes}, expected one 0 and one {REFUSED}")
            self._judge(run)

    def _disturbed_run(self, kills: int) -> None:
        run = self._run_dir(f"run{self.tally.runs}")
        self.tally.runs += 1
        flipped: set[str] = set()
        completed: dict[str, str] = {}
        for _ in range(kills):
            terms = self.tally.terms
            finished = self._one_life(run)
            trouble = len(self.tally.trouble)
            completed = self._check_after(run, completed, flipped, stopped=self.tally.terms > terms)
            if len(self.tally.trouble) > trouble:
                return  # what comes after damage says nothing
            if finished:
                break
            flipped |= self._maybe_flip(run, completed)
        code = wait(fork_run(run.root, self.log, prepare=self.prepare))
        self.tally.resumes += 1
        if code:
            self._trouble(f"{run.root.name}: the last resume ended with exit code {code}")
        self._judge(run)

    def _one_life(self, run: RunDir) -> bool:
        """Start or resume, end it somewhere; True when it finished before that."""
        self.tally.resumes += run.status.exists()
        if self.rng.random() < self.flow_share:
            return self._flow_life(run)
        if self.rng.random() < TERM_SHARE:
            return self._term_life(run)
        near_a_write = self.rng.random() < 0.5
        hook = self._aimed(run) if near_a_write else None
        child = fork_run(run.root, self.log, hook=hook, prepare=self.prepare)
        code = wait(child) if near_a_write else end(child, self.rng.uniform(0, 0.6 * self.life_s), signal.SIGKILL)
        return self._count_kill(run, code, -signal.SIGKILL)

    def _aimed(self, run: RunDir) -> CrashHook:
        """Die at a write of what the run will write next: a saved state, the status, a stage's files, a report."""
        completed = completed_stages(run)
        stage = next((name for name in SPECS if name not in completed), None)
        if stage is None:
            targets = [f"{name}.{ending}" for name in EVALUATIONS for ending in ("npz", "md", "json")]
            return die_near([*targets, "report.html", "stage_status.json"], self.rng)
        return die_near([f"{stage}.pt", *SPECS[stage].files, *SPECS[stage].files, "stage_status.json"], self.rng)

    def _flow_life(self, run: RunDir) -> bool:
        process = start_flow(run.root, self.log)
        delay = self.rng.uniform(2.0, 4.0 + self.life_s)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        return self._count_kill(run, process.wait(), -signal.SIGKILL)

    def _term_life(self, run: RunDir) -> bool:
        child = fork_run(run.root, self.log, prepare=self.prepare)
        code = end(child, self.rng.uniform(0.2, 0.6 * self.life_s), signal.SIGTERM)
        if code == 0:
            return True
        self.tally.terms += 1
        if code != STOPPED and training(run):
            self._trouble(f"{run.root.name}: SIGTERM while training ended with exit code {code}, expected {STOPPED}")
        return False

    def _count_kill(self, run: RunDir, code: int, expected: int) -> bool:
        if code == 0:
            return True
        self.tally.kills += 1
        if code != expected:
            self._trouble(f"{run.root.name}: ended with exit code {code} before it was killed")
        return False

    def _check_after(self, run: RunDir, before: dict[str, str], flipped: set[str], *, stopped: bool) -> dict[str, str]:
        found = violations(run, finished=False, excused=flipped)
        if found:
            for text in found:
                self._trouble(f"{run.root.name}: {text}")
            return before
        now = position(run)
        allowed = 0 if stopped else SAVE_EVERY_STEPS
        (self.tally.term_steps_lost if stopped else self.tally.steps_lost).append(now.steps_lost)
        if now.steps_lost > allowed:
            self._trouble(f"{run.root.name}: {now.steps_lost} steps lost, more than {allowed}")
        for stage, completed_at in before.items():
            if stage not in flipped and now.completed.get(stage) != completed_at:
                self._trouble(f"{run.root.name}: completed stage {stage} was lost or run twice")
        return now.completed

    def _maybe_flip(self, run: RunDir, completed: dict[str, str]) -> set[str]:
        """Damage one bit of a completed checkpoint; returns the stages that must then run again."""
        if not completed or self.rng.random() >= FLIP_SHARE:
            return set()
        stage = self.rng.choice(sorted(completed))
        path = run.checkpoint(self.rng.choice(SPECS[stage].files))
        flip_bit(path, self.rng)
        self.tally.flips += 1
        return {stage, *(name for name, spec in SPECS.items() if stage in spec.needs)}

    def _judge(self, run: RunDir) -> None:
        found = violations(run, finished=True)
        different = differences(self.reference, outcome(run))
        for text in [*found, *(f"{name} differs from the undisturbed run" for name in different)]:
            self._trouble(f"{run.root.name}: {text}")
        self.tally.identical += not found and not different
        if not found and not different:
            shutil.rmtree(run.root)

    def _run_dir(self, name: str) -> RunDir:
        root = self.scratch / name
        root.mkdir()
        return RunDir.of(root, Path("checkpoints"))

    def _trouble(self, text: str) -> None:
        self.tally.trouble.append(text)

    def _hopeless(self) -> bool:
        return len(self.tally.trouble) >= 20


def die_near(names: list[str], rng: random.Random) -> CrashHook:
    """A hook that kills its process at a random one of the crash points of a file with one of these names."""
    name = rng.choice(names)
    inner = die_at(rng.randrange(30 if name == "stage_status.json" else 6), rng.random() * 2e-3)

    def hook(point: str, path: Path) -> None:
        if path.name.lstrip(".").startswith(name):
            inner(point, path)

    return hook


def completed_stages(run: RunDir) -> set[str]:
    """Stages that the status calls completed."""
    return {name for name, record in StatusStore(run.status).read().stages.items() if record.status == "completed"}


def die_at(count: int, delay_s: float) -> CrashHook:
    """A hook that kills its process `delay_s` after the count-th crash point (lines of the log do not count)."""
    left = [count]

    def hook(name: str, _path: Path) -> None:
        if name == "line appended":
            return
        left[0] -= 1
        if left[0] < 0:
            time.sleep(delay_s)
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def flip_bit(path: Path, rng: random.Random) -> None:
    """Flip one random bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def training(run: RunDir) -> bool:
    """Whether the process that died was inside a training stage, as the status has it."""
    return '"in_progress"' in run.status.read_text("utf-8").split('"evaluations"')[0] if run.status.exists() else False


def wait(pid: int) -> int:
    """Exit code of a child, negative for a signal; a child that hangs is killed."""
    code = _reap(pid, LIFE_TIMEOUT_S)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 1
    return code


def end(pid: int, delay_s: float, number: signal.Signals) -> int:
    """Signal a child after a delay and return its exit code; 0 when it had finished before."""
    code = _reap(pid, delay_s)
    if code is None:
        os.kill(pid, number)
        return wait(pid)
    return code


def _reap(pid: int, within_s: float) -> int | None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None
