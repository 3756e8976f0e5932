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
from tasks.services.run.lock import is_owned, owner_message
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
    """Train until nothing is left; returns why not, or nothing.

    A trainer that a killed sweep left behind owns its run only some seconds after it started, so that the one of here
    may be refused in favour of it: then that one is waited for, as if it had been seen at once.
    """
    while True:
        _wait_for_owner(trial)
        if not require_feasible(trial.job()):
            logger.info("%s: done", trial.name)
            return ""
        logger.info("%s: trains; its log is %s", trial.name, trial.request.run_dir / LOG)
        code, said = _train(trial, root)
        if code == Preempted.exit_code:
            raise Preempted("stopped, and what was done is kept; the same command goes on with the sweep")
        if code == 0:
            return ""
        if not is_owned(trial.job().run) and require_feasible(trial.job()):
            return f"exit code {code}: {said}"


def _wait_for_owner(trial: Trial) -> None:
    run = trial.job().run
    if is_owned(run):
        logger.info("%s: %s", trial.name, owner_message(run))
    while is_owned(run):
        time.sleep(LOOK_S)


def _train(trial: Trial, root: Path) -> tuple[int, str]:
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
