"""One run that is killed, damaged and restarted until it is done, and what was found on the way."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.chaos.checks import differences, outcome, position, violations
from harness.chaos.counts import Counts
from harness.chaos.processes import Command, Ending, Forked, RunProcess, end, finish
from harness.chaos.worker import WorkerRun
from harness.chaos.workload import LONG, STOPPED
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS, read_status
from ups_models.files import CrashHook
from ups_models.stages.spec import SPECS

KILLS_PER_RUN = 8
FLIP_SHARE = 0.15
TERM_SHARE = 1 / 6
NEAR_A_WRITE = 0.5
FLOW_START_S = 4.0
LOG_CHARACTERS = 2000
STOPPED_UNDER_PREFECT = (STOPPED, -signal.SIGTERM, -signal.SIGKILL)  # the last is how a worker's life says Crashed


@dataclass(frozen=True)
class Setting:
    """What all runs of a campaign share."""

    scratch: Path
    seed: int
    flow_share: float = 0.0
    worker_share: float = 0.0
    deployment: str | None = None
    prepare: Callable[[], None] | None = None
    reference: dict[str, str] = field(default_factory=dict)
    life_s: float = 0.0

    @property
    def log(self) -> Path:
        """What the processes say."""
        return self.scratch / "children.log"


def faulted_run(setting: Setting, number: int) -> Counts:
    """End up to KILLS_PER_RUN processes of a run, let the last one finish, and compare with the undisturbed run."""
    return _Run(setting, number).live()


@dataclass
class _Run:
    setting: Setting
    number: int
    counts: Counts = field(default_factory=lambda: Counts(runs=1))
    processes: list[str] = field(default_factory=list)
    flipped: set[str] = field(default_factory=set)
    completed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.setting.seed}/{self.number}")
        self.run = RunDir.of(self.setting.scratch / f"run{self.number}", Path("checkpoints"))
        self.run.root.mkdir()
        self.log = self.setting.scratch / f"run{self.number}.log"

    def live(self) -> Counts:
        for _ in range(KILLS_PER_RUN):
            finished = self._one_life()
            if self.counts.trouble:
                return self._told()  # what comes after damage says nothing
            if finished:
                break
            self._maybe_flip()
        self.counts.resumes += 1
        code = finish(Forked(LONG, self.run.root, self.log, prepare=self.setting.prepare))
        if code:
            self._trouble(f"the last resume ended with exit code {code}")
        wrong = violations(self.run, finished=True)
        different = differences(self.setting.reference, outcome(self.run))
        for text in [*wrong, *(f"{name} differs from the undisturbed run" for name in different)]:
            self._trouble(text)
        if not self.counts.trouble:
            self.counts.identical += 1
            shutil.rmtree(self.run.root)
        return self._told()

    def _one_life(self) -> bool:
        """Start or resume, end it somewhere, look at what is left; True when it finished before that."""
        self.counts.resumes += self.run.status.exists()
        kind, aimed = self._kind(), None
        number = signal.SIGTERM if self.rng.random() < TERM_SHARE else signal.SIGKILL
        longest = 0.6 * self.setting.life_s + (0 if kind == "forked" else FLOW_START_S)
        delay_s = self.rng.uniform(0 if number == signal.SIGKILL else 0.2, longest)
        if kind == "forked" and number == signal.SIGKILL and self.rng.random() < NEAR_A_WRITE:
            aimed, delay_s = self._aimed(), 10 * self.setting.life_s
        life = self._start(kind, aimed)
        self.processes.append(f"{kind} {aimed or number.name + f' after {delay_s:.3f} s'}")
        ending = end(life, delay_s, number, self.run.history)
        if ending.first_step_s is not None:
            getattr(self.counts, f"restart_{kind}_s").append(ending.first_step_s)
        if ending.code == 0:
            return True
        self._count(kind, number, ending)
        saves = number == signal.SIGTERM and ending.first_step_s is not None
        self._look(saves=saves)
        return False

    def _kind(self) -> str:
        chance = self.rng.random()
        if self.setting.deployment is not None and chance < self.setting.worker_share:
            return "worker"
        return "flow" if chance < self.setting.worker_share + self.setting.flow_share else "forked"

    def _start(self, kind: str, aimed: Aim | None) -> RunProcess:
        if kind == "worker":
            return WorkerRun(LONG, self.run.root, str(self.setting.deployment))
        if kind == "flow":
            return Command(LONG, self.run.root, self.log)
        hook = aimed.hook() if aimed is not None else None
        return Forked(LONG, self.run.root, self.log, hook=hook, prepare=self.setting.prepare)

    def _count(self, kind: str, number: signal.Signals, ending: Ending) -> None:
        counts = self.counts
        if number == signal.SIGTERM:
            counts.terms += 1
            counts.terms_of_flows += kind != "forked"
            expected = (STOPPED,) if kind == "forked" else STOPPED_UNDER_PREFECT
            if ending.code not in expected:
                self._trouble(f"SIGTERM ended with exit code {ending.code}, expected {expected[0]}")
            return
        counts.kills += 1
        counts.kills_of_flows += kind != "forked"
        counts.kills_under_a_worker += kind == "worker"
        if ending.code != -signal.SIGKILL:
            self._trouble(f"ended with exit code {ending.code} before it was killed")

    def _look(self, *, saves: bool) -> None:
        """Nothing damaged, nothing stray, no completed stage lost or run twice, no more steps lost than allowed.

        A life that was asked to stop while it trained `saves`; one that had not begun leaves what the kill before left.
        """
        wrong = violations(self.run, finished=False, excused=self.flipped)
        if wrong:
            for text in wrong:
                self._trouble(text)
            return
        now = position(self.run)
        allowed = 0 if saves else LONG.save_every_steps
        (self.counts.term_steps_lost if saves else self.counts.steps_lost).append(now.steps_lost)
        if now.steps_lost > allowed:
            self._trouble(f"{now.steps_lost} steps lost, more than {allowed}")
        for stage, completed_at in self.completed.items():
            if stage not in self.flipped and now.completed.get(stage) != completed_at:
                self._trouble(f"completed stage {stage} was lost or run twice")
        self.completed = now.completed

    def _aimed(self) -> Aim:
        """Die at a write of what the run will write next: a saved state, the status, a stage's files, a report."""
        status = read_status(self.run.status)
        stage = next((name for name in SPECS if status.stage(name).status != "completed"), None)
        if stage is None:
            targets = [f"{name}.{ending}" for name in EVALUATIONS for ending in ("npz", "md", "json")]
            targets += ["report.html", "stage_status.json"]
        else:
            targets = [f"{stage}.pt", *SPECS[stage].files, *SPECS[stage].files, "stage_status.json"]
        name = self.rng.choice(targets)
        point = self.rng.randrange(30 if name == "stage_status.json" else 6)
        return Aim(name, point, self.rng.random() * 2e-3)

    def _maybe_flip(self) -> None:
        """Damage one bit of a completed checkpoint; it and the stages that depend on it must then run again.

        Raw weights are not made again, as nothing needs them: a flip in those is tried in a finished run.
        """
        if not self.completed or self.rng.random() >= FLIP_SHARE:
            return
        stage = self.rng.choice(sorted(self.completed))
        path = self.run.checkpoint(SPECS[stage].checkpoint)
        flip_bit(path, self.rng)
        self.processes.append(f"a bit of {path.name} flipped")
        self.counts.flips += 1
        self.flipped |= {stage, *(name for name, spec in SPECS.items() if stage in spec.needs)}

    def _trouble(self, text: str) -> None:
        self.counts.trouble.append(f"run {self.number}: {text}")

    def _told(self) -> Counts:
        if self.counts.trouble:
            said = self.log.read_text("utf-8", "replace")[-LOG_CHARACTERS:] if self.log.exists() else ""
            self.counts.trouble.append(
                f"run {self.number}, its processes: {'; '.join(self.processes)}; it said last:\n{said}"
            )
        else:
            self.log.unlink(missing_ok=True)
        return self.counts


@dataclass(frozen=True)
class Aim:
    """A kill at the `point`-th crash point of the files that are named like this, and a moment later."""

    name: str
    point: int
    delay_s: float

    def __str__(self) -> str:
        return f"SIGKILL at crash point {self.point} of {self.name} + {self.delay_s * 1e3:.2f} ms"

    def hook(self) -> CrashHook:
        """What counts the points and kills; lines of the loss history do not count."""
        left = [self.point]

        def at(point: str, path: Path) -> None:
            if point == "line appended" or not path.name.lstrip(".").startswith(self.name):
                return
            left[0] -= 1
            if left[0] < 0:
                time.sleep(self.delay_s)
                os.kill(os.getpid(), signal.SIGKILL)

        return at


def flip_bit(path: Path, rng: random.Random) -> None:
    """Flip one random bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))
