"""Fixtures of the unit tier: everything in this process, without a server and without a child process."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import pytest

from flows import PACKAGES
from flows.cli.main import main
from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from harness.commands import UNTRACKED, Cli
from tasks.services.run.lock import OwnedRun, owned
from tasks.services.run.paths import RunDir

Own = Callable[[RunDir], OwnedRun]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished smoke run. Tests must copy it before they change it."""
    directory = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        run_job(parse(TrainRequest(config=Path("configs/smoke.yaml"), run_dir=directory)))
    return directory


@pytest.fixture
def own() -> Iterator[Own]:
    """Own a run until the test ends."""
    with ExitStack() as held:
        yield lambda run: held.enter_context(owned(run))


@pytest.fixture
def ups(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`ups ARGUMENTS` in this process; what a command sets for its process is as before afterwards."""

    def run(*arguments: str, cwd: Path) -> CompletedProcess[str]:
        with chdir(cwd), patch.dict(os.environ, UNTRACKED), _restored():
            try:
                code = main(arguments)
            except SystemExit as end:  # --help
                code = int(end.code or 0)
        output = capsys.readouterr()
        return CompletedProcess(arguments, code, output.out, output.err)

    return run


@contextmanager
def _restored() -> Iterator[None]:
    """Signal handlers and loggers are as before afterwards."""
    handler = signal.getsignal(signal.SIGTERM)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers
