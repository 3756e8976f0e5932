"""Many runs, killed and restarted in every way, side by side; each is a function of the seed and its number."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.requests.job import parse, plan_of
from harness.chaos.checks import differences, outcome, violations
from harness.chaos.counts import Counts
from harness.chaos.faulted_run import Setting, faulted_run, flip_bit
from harness.chaos.processes import Forked, finish
from harness.chaos.workload import LONG, REFUSED, run_plainly
from tasks.services.run.paths import RunDir
from ups_models.stages.spec import SPECS

MAX_TROUBLE = 20
TERMS_PER_KILL = 0.2


@dataclass
class Campaign:
    """One harness run in a scratch directory."""

    setting: Setting
    jobs: int = 1
    counts: Counts = field(default_factory=Counts)

    def undisturbed(self) -> None:
        """Run twice without a kill: here, which warms this process for its children, and in a child.

        The outcome is what every disturbed run must end with.
        """
        here, child = (RunDir.of(self.setting.scratch / name, Path("checkpoints")) for name in ("undisturbed", "warm"))
        here.root.mkdir()
        child.root.mkdir()
        run_plainly(LONG, here.root)
        started = time.monotonic()
        code = finish(Forked(LONG, child.root, self.setting.log))
        if code:
            raise SystemExit(f"the undisturbed run failed with exit code {code}; see {self.setting.log}")
        reference = outcome(here)
        self.setting = replace(self.setting, life_s=time.monotonic() - started, reference=reference)
        for name in differences(reference, outcome(child)):
            self.counts.trouble.append(f"{name} differs between two undisturbed runs")

    def kill(self, kills: int, *, first: int = 0) -> None:
        """Start run after run, numbered from `first`, until enough processes were killed, and enough asked to stop."""
        number, running = first, set[Future[Counts]]()
        with _workers(self.jobs) as pool:
            while running or not self._enough(kills):
                while len(running) < self.jobs and not self._enough(kills):
                    running.add(pool.submit(faulted_run, self.setting, number))
                    number += 1
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if error is None:
                        self.counts.add(future.result())
                    else:  # what was counted so far must not be lost with it
                        self.counts.trouble.append(f"the harness itself: {error!r}")

    def replay(self, number: int) -> None:
        """That one run again."""
        self.counts.add(faulted_run(self.setting, number))

    def pairs(self, count: int) -> None:
        """Start two processes at the same moment: exactly one may run."""
        for index in range(count):
            self.counts.add(_pair(self.setting, index))

    def flip_finished(self, count: int) -> None:
        """Flip bits of a finished run one at a time: the plan must notice each before any use."""
        rng = random.Random(f"{self.setting.seed}/flips")
        job = parse(LONG.request(self.setting.scratch / "undisturbed"))
        for _ in range(count):
            stage = rng.choice(list(SPECS))
            path = job.run.checkpoint(rng.choice(SPECS[stage].files))
            whole = path.read_bytes()
            flip_bit(path, rng)
            decision = next(found for found in plan_of(job).stages if found.stage == stage)
            self.counts.finished_flips += 1
            if decision.action == "train" or (decision.warn and path.name in decision.reason):
                self.counts.finished_flips_noticed += 1
            else:
                self.counts.trouble.append(f"a flipped bit in {path.name} was not noticed")
            path.write_bytes(whole)

    def _enough(self, kills: int) -> bool:
        counts = self.counts
        done = counts.kills >= kills and counts.terms >= int(kills * TERMS_PER_KILL)
        return done or len(counts.trouble) >= MAX_TROUBLE


def _pair(setting: Setting, index: int) -> Counts:
    counts, root = Counts(pairs=1), setting.scratch / f"pair{index}"
    root.mkdir()
    processes = [Forked(LONG, root, setting.log, prepare=setting.prepare) for _ in range(2)]
    codes = sorted(finish(life) for life in processes)
    if codes != [0, REFUSED]:
        counts.trouble.append(f"pair {index}: exit codes {codes}, expected one 0 and one {REFUSED}")
    run = RunDir.of(root, Path("checkpoints"))
    wrong = violations(run, finished=True)
    wrong += [f"{name} differs from the undisturbed run" for name in differences(setting.reference, outcome(run))]
    counts.trouble += [f"pair {index}: {text}" for text in wrong]
    counts.identical += not wrong
    return counts


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes forked from this one, which is warm; each forks the processes of its runs."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        yield pool
