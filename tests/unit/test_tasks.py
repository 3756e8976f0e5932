"""The Prefect tasks as plain functions: each does what it is named after, and says so when there is nothing to do."""

import asyncio
import shutil
from typing import Any

import pytest
from prefect.states import Failed

from tasks.evaluate import evaluate
from tasks.report import report
from tasks.restore import _is_unavailable
from tasks.services.run.paths import RunDir
from tasks.services.stages.plan import Decision, EvaluationDecision
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.tracker import Tracker
from tasks.train import train_stage
from ups_models.config.schema import EvalConfig
from ups_models.errors import BadInput

SETTINGS = EvalConfig(trajectories=2, members=2, one_step_pairs=4, steady_samples=2, student_steps=(2,))


@pytest.fixture
def run(tmp_path, finished_run, smoke, own):
    shutil.copytree(finished_run, tmp_path / "run")
    return own(RunDir.of(tmp_path / "run", smoke.checkpoint.dir))


def test_a_stage_that_need_not_train_ends_as_skipped_with_the_reason(run, smoke):
    state: Any = train_stage.fn(Decision("operator", "skip", "files unchanged"), smoke, run, Tracker())

    assert (state.type, state.name, state.message) == ("COMPLETED", "Skipped", "operator: files unchanged")


def test_a_stage_that_trained_has_no_state_of_its_own(run, smoke):
    before = run.checkpoint("steady_prior_ema.pt").stat().st_mtime_ns

    assert train_stage.fn(Decision("steady_prior", "train", "--force-train"), smoke, run, Tracker()) is None
    assert run.checkpoint("steady_prior_ema.pt").stat().st_mtime_ns > before


def test_a_stage_that_was_interrupted_before_ends_as_resumed_with_the_step(run, smoke):
    decision = Decision("steady_prior", "resume", "in_progress at step 7")

    state: Any = train_stage.fn(decision, smoke, run, Tracker())

    assert (state.type, state.name, state.message) == ("COMPLETED", "Resumed", "steady_prior: in_progress at step 7")


@pytest.mark.parametrize("run_it", [True, False])
def test_an_evaluation_runs_or_ends_as_skipped(run, smoke, run_it):
    before = run.result("small_eval").read_bytes()

    state: Any = evaluate.fn(EvaluationDecision("small_eval", run_it, "so it was decided", SETTINGS), smoke, run)

    assert (run.result("small_eval").read_bytes() == before) == (not run_it)
    if run_it:
        assert state is None
    else:
        assert (state.name, state.message) == ("Skipped", "small_eval: so it was decided")


def test_a_report_is_written_again(run):
    run.report.unlink()

    report.fn(run, Tracker())

    assert run.report.is_file()


@pytest.mark.parametrize(
    ("error", "again"), [(TrackingUnavailable("W&B does not answer"), True), (BadInput("no such run"), False)]
)
def test_a_download_is_tried_again_where_that_may_help(error, again):
    assert asyncio.run(_is_unavailable(None, None, Failed(data=error))) is again
