"""The parts of the harness that have to notice a protection that is switched off: what each finds, or nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flows import ROOT
from flows.dag import run_job
from flows.prefect.server import temporary_server
from flows.requests.job import parse
from harness.bench import comparison
from harness.chaos import ranks, retries
from harness.chaos.campaign import Campaign
from harness.chaos.checks import outcome as outcome_of_run
from harness.chaos.faulted_run import Setting
from harness.chaos.prefect_stack import TooSlow, prefect_stack
from harness.chaos.uploads import ENTITY
from harness.chaos.workload import BRIEF, STOPPED, run_plainly
from harness.emulators.wandb.server import WandbServer
from harness.trust import cancels, damage, mixed, rows
from harness.trust.away import away
from harness.trust.server import TEMPORARY, trial
from tasks.services.run.attempts import ChainRun
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS
from ups_models.errors import TrainingDiverged
from ups_models.stages.spec import SPECS

MOST_KILLS, MUTATED_WITHIN_S = 64, 120.0
EARLY = ("pending", "importing", "beginning")
"""Phases in which nobody but the run itself can hear that it is cancelled."""
MUTATED_PATH = (ROOT, ROOT / "tests", ROOT / "tests" / "harness" / "mutated")
DAMAGE = b"no database"
LONGER_THAN_LEASES_S = 420.0

Notice = Callable[[Path, int, Callable[[], None]], list[str]]
"""Runs part of the harness with a protection switched off: what it found, or nothing."""


@contextmanager
def mutated(switch_off: Callable[[], None]) -> Iterator[dict[str, str]]:
    """An environment in which our processes start with a protection switched off; it is also that of this process."""
    more = {"HARNESS_MUTATION": switch_off.__name__, "PYTHONPATH": os.pathsep.join(map(str, MUTATED_PATH))}
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield more
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def by_kills(scratch: Path, seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A pair, then kills until something is wrong, up to MOST_KILLS."""
    harness = Campaign(Setting(scratch, seed, prepare=switch_off))
    harness.undisturbed()
    harness.pairs(1)
    kills = 0
    while not harness.counts.trouble and kills < MOST_KILLS:
        harness.kill(kills + 8, first=harness.counts.runs)
        kills += 8
    return harness.counts.trouble


def _wrong_of(verdicts: Iterable[damage.Verdict | mixed.Verdict]) -> list[str]:
    return [f"{verdict.case}: {text}" for verdict in verdicts for text in verdict.wrong]


def by_damage(only: str) -> Notice:
    """The cases of `harness.trust.damage` that are named like this."""

    def notice(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
        verdicts = damage.damage_all(scratch, only=only, prepare=switch_off)
        return _wrong_of(verdicts)

    return notice


def by_mixing(only: str) -> Notice:
    """The cases of `harness.trust.mixed` that are named like this."""

    def notice(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
        verdicts = mixed.mix_all(scratch, mixed.pairs_of_runs(scratch), only=only, prepare=switch_off)
        return _wrong_of(verdicts)

    return notice


def by_evaluating(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """`ups evaluate` with checkpoints of two runs."""
    pairs, fork = mixed.pairs_of_runs(scratch), multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=fork, initializer=switch_off) as pool:
        found = [
            pool.submit(mixed.evaluations, pairs["this"][0], pairs[name][0], name).result() for name in mixed.OTHERS
        ]
    return [text for texts in found for text in texts]


def by_rows(scratch: Path, seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A tracked run that is killed after its first stage."""
    with temporary_server(), mutated(switch_off), WandbServer(entity=ENTITY) as server:
        return rows.chain(scratch, server, seed, 2)


def by_a_dying_server(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A run whose temporary server is killed in its first stage."""
    room = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    run_plainly(BRIEF, scratch / "undisturbed")
    expected = outcome_of_run(RunDir.of(scratch / "undisturbed", Path("checkpoints")))
    with mutated(switch_off) as more:
        row = trial(TEMPORARY, "in operator", scratch / "run", expected, {**room, **more}, 0)
    return [] if row.well else [str(row)]


def by_batch_signals(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A run that is told by SIGUSR1 that its time is over."""
    run = RunDir.of(scratch, Path("checkpoints"))
    command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), "--config", "configs/smoke.yaml", "--run-dir"]
    settings = ("--set", "stages.operator.steps_per_epoch=4000", "--set", "checkpoint.save_every_steps=50")
    with temporary_server(), mutated(switch_off):
        process = subprocess.Popen([*command, str(scratch), *settings])
        try:
            until = time.monotonic() + MUTATED_WITHIN_S
            while not run.resume("operator").is_file() and process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            process.send_signal(signal.SIGUSR1)
            code = process.wait(MUTATED_WITHIN_S)
        finally:
            process.kill()
    return [] if code == STOPPED else [f"SIGUSR1 ended it with {code}, not with {STOPPED}"]


def by_a_failing_stage(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A run whose last stage diverges."""
    more = ("lr=1", "grad_clip=1e30", "warmup_steps=0", "steps_per_epoch=60")
    workload = replace(BRIEF, more=tuple(f"stages.steady_prior.{setting}" for setting in more))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"), initializer=switch_off) as pool:
        error = pool.submit(run_plainly, workload, scratch).exception()
    run = RunDir.of(scratch, Path("checkpoints"))
    wrong = [] if isinstance(error, TrainingDiverged) else [f"it ended with {error!r}"]
    return wrong + [f"{name} was not done" for name in EVALUATIONS if not run.result(name).is_file()]


def by_ranks(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A run of three processes, beside one of a single process."""
    owners = [ranks.OwnerProcess(scratch / "alone", 1, scratch / "alone.log")]
    codes = [owners[0].end()]
    with mutated(switch_off):
        owners.append(ranks.OwnerProcess(scratch / "three", 3, scratch / "three.log"))
        codes.append(owners[1].end())
    if any(codes):
        return [f"exit codes {codes}"]
    return comparison.differences(*(comparison.contents(owner.root) for owner in owners))[:1]


def by_retries(scenario: Callable[[retries.Runs, int], retries.Row]) -> Notice:
    """A scenario of `harness.chaos.retries`, once."""

    def notice(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
        home = scratch / "home"
        home.mkdir()
        with mutated(switch_off) as more, prefect_stack(home, more, within_s=MUTATED_WITHIN_S) as room:
            room.deploy("--retry-after", "1", "--vanished-after", "300").check_returncode()
            room.start_worker()
            try:
                row = scenario(retries.Runs(room, scratch), 1)
            except TooSlow as error:
                return [str(error)]
        return [] if row.well else [str(row)]

    return notice


def by_cancels(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """Runs that are cancelled in two phases."""
    home = scratch / "home"
    home.mkdir()
    with mutated(switch_off) as more, prefect_stack(home, more, within_s=MUTATED_WITHIN_S) as room:
        room.deploy("--retry-after", "3", "--vanished-after", "40").check_returncode()
        room.start_worker()
        try:
            cases = cancels.cancel_all(cancels.Person(room, scratch), len(EARLY), EARLY)
        except TooSlow as error:
            return [str(error)]
    return [f"{case}" for case in cases if case.trouble]


def by_a_damaged_database(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A run beside a database of the user's that is none."""
    database = scratch / "home" / "prefect.db"
    database.parent.mkdir()
    database.write_bytes(DAMAGE)
    command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), "--config", "configs/smoke.yaml", "--run-dir"]
    settings = ("--stage", "operator", "--set", "stages.operator.steps_per_epoch=4")
    with mutated(switch_off) as more:
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment |= {**more, "PREFECT_HOME": str(database.parent)}
        done = subprocess.run(
            [*command, str(scratch / "run"), *settings], env=environment, capture_output=True, text=True, check=False
        )
    wrong = [] if done.returncode == 0 else [f"it ended with {done.returncode}"]
    wrong += [line for line in done.stderr.splitlines() if "WARNING" in line]
    return wrong + ([] if database.read_bytes() == DAMAGE else ["the user's database was written to"])


def by_a_chain(scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """Two runs of a chain that trains everything again."""
    run_plainly(BRIEF, scratch)
    job = parse(BRIEF.request(scratch).model_copy(update={"force_train": True, "auto_resume": False}))
    written = []
    for number in (1, 2):
        link = ChainRun("chain", f"run {number}", number, most=3, most_per_day=3)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"), initializer=switch_off) as pool:
            pool.submit(run_job, job, chain_run=link).result()
        written.append({name: job.run.checkpoint(spec.checkpoint).stat().st_mtime_ns for name, spec in SPECS.items()})
    return [f"{name} was trained twice" for name in SPECS if written[0][name] != written[1][name]]


def by_a_server_that_is_away(_scratch: Path, _seed: int, switch_off: Callable[[], None]) -> list[str]:
    """A run whose server is away for longer than Prefect's leases."""
    with mutated(switch_off):
        return ["it did not train on"] if away(LONGER_THAN_LEASES_S) else []
