"""Fixtures of the unit tier: everything in this process, without a server and without a child process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from tasks.services.run.lock import OwnedRun, owned
from tasks.services.run.paths import RunDir
from tasks.services.stages.reporting import report_of
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.result import EvaluationResult
from ups_models.report.model import ReportInput

Own = Callable[[RunDir], OwnedRun]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished smoke run. Tests must copy it before they change it."""
    directory = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        run_job(parse(TrainRequest(config=Path("configs/smoke.yaml"), run_dir=directory)))
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


@pytest.fixture
def own() -> Iterator[Own]:
    """Own a run until the test ends."""
    with ExitStack() as held:
        yield lambda run: held.enter_context(owned(run))
