"""A sweep: its trials trained one after the other here, or as runs of a deployment by the workers of a pool."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from flows.requests.job import require_feasible
from flows.requests.sweep import Trial
from tasks.services.run import environment
from tasks.services.run.lock import RunOwned, is_owned
from tasks.services.run.turns import turn
from tasks.services.stages.leaderboard import LeaderboardRow, leaderboard
from tasks.services.stages.runs import RunSummary, evaluated_run
from ups_models.errors import BadInput, Preempted, UPSError
from ups_models.reading import last_line
from ups_models.wording import plain

logger = logging.getLogger(__name__)

LOG, LOOK_S = "train.log", 1.0
Failures = Mapping[str, str]
"""By name of a trial, in words, why it has no result."""


def train_here(trials: Iterable[Trial], root: Path) -> Failures:
    """Train what is not done, each in a process of its own; one that fails does not stop the others.

    One that is being trained already, as after a kill of this process, is waited for. Raises Preempted where one was
    stopped, and so was this.
    """
    failed = {}
    for trial in trials:
        try:
            reason = _trained(trial, root)
        except Preempted:
            raise
        except UPSError as error:
            reason = str(error)
        if reason:
            failed[trial.name] = reason
            logger.warning("%s: %s", trial.name, reason)
    return failed


def _trained(trial: Trial, root: Path) -> str:
    """Train what is left of a trial; returns why in vain, or nothing.

    A trainer that a killed sweep left behind has its turn until it ends.
    """
    with turn(trial.request.run_dir, trial.name) as lock:
        if not _has_work(trial):
            logger.info("%s: done", trial.name)
            return ""
        logger.info("%s: trains; its log is %s", trial.name, trial.request.run_dir / LOG)
        code, said = _train(trial, root, lock)
    if code == Preempted.exit_code:
        raise Preempted("stopped, and what was done is kept; the same command goes on with the sweep")
    return f"exit code {code}: {said}" if code else ""


def _has_work(trial: Trial) -> bool:
    """Whether anything is left to do, once nobody else works on it."""
    while True:
        job = trial.job()
        trial.require_same_settings()
        try:
            return require_feasible(job)
        except RunOwned as owner:
            logger.info("%s: %s", trial.name, owner)
        while is_owned(job.run):
            time.sleep(LOOK_S)


def _train(trial: Trial, root: Path, lock: int) -> tuple[int, str]:
    """The exit code, and the last line that it said. A signal that ends this process is passed on, and waited for."""
    folder = trial.request.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "train", *trial.arguments],
            env=environment.child(**shared_data(root)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes on one signal and waits
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return code, plain(last_line(folder / LOG))


def shared_data(root: Path) -> dict[str, str]:
    """Where the trials of a sweep keep the data that they solve for: in one folder, unless UPS_DATA names another."""
    return {environment.DATA: environment.get(environment.DATA) or str((root / "data").absolute())}


def leaderboard_of(trials: Iterable[Trial], failures: Failures) -> list[LeaderboardRow]:
    """The leaderboard of what is there now."""
    return leaderboard({(trial.point, trial.seed): _result(trial, failures) for trial in trials})


def _result(trial: Trial, failures: Failures) -> RunSummary | str:
    try:
        return failures.get(trial.name) or evaluated_run(trial.request.run_dir)
    except BadInput:
        return "not evaluated"
