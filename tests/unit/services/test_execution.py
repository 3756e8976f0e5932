"""What is decided is done, and nothing else."""

import shutil
from typing import Any

import pytest

from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.execution import evaluate_if_needed, report_if_changed, run_stage
from tasks.services.stages.plan import Decision, EvaluationDecision
from ups_models.config.schema import EvalConfig


@pytest.fixture
def run(tmp_path, finished_run, smoke, own):
    shutil.copytree(finished_run, tmp_path / "run")
    return own(RunDir.of(tmp_path / "run", smoke.checkpoint.dir))


class Listener:
    """A tracker that counts reports."""

    def __init__(self):
        self.reports = []

    def report(self, gather):
        self.reports.append(gather)


@pytest.mark.parametrize(("action", "kept"), [("skip", False), ("adopt", False), ("disabled", True)])
def test_a_stage_that_is_not_trained_keeps_its_files_and_loses_what_a_crash_left(run, smoke, action, kept):
    before = run.checkpoint("operator.pt").read_bytes()
    run.resume("operator").parent.mkdir(exist_ok=True)
    run.resume("operator").write_bytes(b"a crash came between completion and this")

    trained = run_stage(Decision("operator", action, "so"), smoke, run)

    assert not trained
    assert run.checkpoint("operator.pt").read_bytes() == before
    assert run.resume("operator").exists() == kept


@pytest.mark.parametrize("action", ["train", "resume"])
def test_a_stage_that_runs_is_trained_to_the_same_files(run, smoke, action):
    before = run.checkpoint("steady_prior_ema.pt").read_bytes()
    started = read_status(run.status).stage("steady_prior").started_at

    assert run_stage(Decision("steady_prior", action, "so"), smoke, run)

    record = read_status(run.status).stage("steady_prior")
    assert record.status == "completed"
    assert record.started_at is not None
    assert started is not None
    assert record.started_at >= started
    assert run.checkpoint("steady_prior_ema.pt").read_bytes() == before


def test_an_evaluation_that_need_not_run_changes_nothing(run, smoke):
    before = run.result("small_eval").read_bytes()

    assert not evaluate_if_needed(EvaluationDecision("small_eval", False, "so", EvalConfig()), smoke, run)
    assert run.result("small_eval").read_bytes() == before


def test_an_evaluation_that_runs_writes_its_result(run, smoke):
    settings = EvalConfig(trajectories=2, members=2, one_step_pairs=4, steady_samples=2, student_steps=(2,))
    before = run.result("small_eval").read_bytes()

    assert evaluate_if_needed(EvaluationDecision("small_eval", True, "so", settings), smoke, run)
    assert run.result("small_eval").read_bytes() != before
    assert read_status(run.status).evaluation("small_eval").status == "completed"


def test_a_report_of_a_run_that_did_not_change_stays(run):
    tracker: Any = Listener()
    before = run.report.read_bytes()

    assert report_if_changed(run, tracker, changed=False) == run.report
    assert run.report.read_bytes() == before
    assert tracker.reports == []


@pytest.mark.parametrize("changed", [True, False])
def test_a_report_is_rendered_where_something_changed_or_there_is_none(run, changed):
    tracker: Any = Listener()
    if changed:
        run.report.write_text("an old one", encoding="utf-8")
    else:
        run.report.unlink()

    report_if_changed(run, tracker, changed=changed)

    assert run.report.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert len(tracker.reports) == 1
