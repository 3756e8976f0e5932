"""Fixtures of the unit tier: everything in this process, without a server and without a child process."""

import logging
import os
import shutil
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
from tasks.services.stages.reporting import report_of, report_payload
from tasks.services.tracking.protocols import ReportPayload
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.result import EvaluationResult
from ups_models.report.model import ReportInput

SMOKE = Path("configs/smoke.yaml")
Own = Callable[[RunDir], OwnedRun]


@pytest.fixture(scope="session", autouse=True)
def _untracked() -> Iterator[None]:
    """Whatever key the machine has: a unit test asks nobody."""
    with patch.dict(os.environ, UNTRACKED):
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished smoke run. Tests must copy it before they change it."""
    directory = tmp_path_factory.mktemp("finished")
    run_job(parse(TrainRequest(config=SMOKE, run_dir=directory)))
    return directory


@pytest.fixture(scope="session")
def smoke_report(finished_run: Path, smoke: PipelineConfig) -> ReportInput:
    """All that a report shows of the finished smoke run."""
    return report_of(RunDir.of(finished_run, smoke.checkpoint.dir))


@pytest.fixture(scope="session")
def smoke_result(smoke_report: ReportInput) -> EvaluationResult:
    """What the full evaluation of the finished smoke run found."""
    assert smoke_report.full is not None
    return smoke_report.full


@pytest.fixture(scope="session")
def smoke_payload(finished_run: Path, smoke: PipelineConfig) -> ReportPayload:
    """What a tracker is handed of the finished smoke run: its pictures are drawn once."""
    return report_payload(RunDir.of(finished_run, smoke.checkpoint.dir))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_dir(here: Path, finished_run: Path) -> Path:
    """The working directory, which holds a copy of a finished run."""
    shutil.copytree(finished_run, here, dirs_exist_ok=True)
    return here


@pytest.fixture
def train(here: Path) -> Callable[..., Path]:
    """Train and evaluate as `ups train` does, without Prefect, in the working directory; returns the report's path."""
    return lambda **fields: run_job(parse(TrainRequest.model_validate({"config": SMOKE, **fields})))


@pytest.fixture
def own() -> Iterator[Own]:
    """Own a run until the test ends."""
    with ExitStack() as held:
        yield lambda run: held.enter_context(owned(run))


@pytest.fixture
def ups(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`ups ARGUMENTS` in this process; what a command sets for its process is as before afterwards."""

    def run(*arguments: str, cwd: Path | None = None) -> CompletedProcess[str]:
        with chdir(cwd or Path()), patch.dict(os.environ), _restored():
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
