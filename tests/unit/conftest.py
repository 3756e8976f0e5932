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
