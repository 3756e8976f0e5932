"""The one DAG, with steps that only note what they are asked for: order, what is decided again, who owns the run."""

import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.dag import run_job, run_pipeline
from flows.requests.job import parse, plan_of
from flows.requests.train import TrainRequest
from tasks.services.run.attempts import ChainRun, Duplicate
from tasks.services.run.lock import OwnedRun, is_owned, owned
from tasks.services.stages.snapshot import read_snapshot
from tasks.services.tracking.protocols import MetricLogger
from ups_models.errors import BadInput, DataError, TrainingDiverged
from ups_models.stages.spec import SPECS

CONFIG = "configs/smoke.yaml"


def job_of(**fields):
    return parse(TrainRequest.model_validate({"config": CONFIG, **fields}))


@dataclass
class Noted:
    """Steps that do nothing but say so; those named in `changing` claim to have changed something."""

    cfg: Any
    run: Any
    tracker: Any = None
    changing: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)
    looks: int = 0

    def train(self, decision):
        self.asked.append(f"{decision.action} {decision.stage}")
        return decision.stage in self.changing

    def evaluate(self, decision):
        self.asked.append(f"{'run' if decision.run else 'skip'} {decision.name}")
        return decision.name in self.changing

    def report(self, *, changed):
        self.asked.append(f"report {changed=}")
        return Path("report.html")

    def snapshot(self):
        self.looks += 1
        return read_snapshot(self.cfg, self.run)


def noted(job, *changing):
    return Noted(job.cfg, job.run, changing=frozenset(changing))


SKIPS = [f"skip {name}" for name in SPECS]


def test_stages_come_in_order_then_evaluations_then_the_report(here):
    job = job_of()
    steps = noted(job)

    path = run_pipeline(plan_of(job), steps)

    assert steps.asked == [
        *(f"train {name}" for name in SPECS),
        "run small_eval",
        "run full_eval",
        "report changed=False",
    ]
    assert path == Path("report.html")


def test_where_nothing_changes_the_plan_stands_and_the_run_is_not_read_again(run_dir):
    job = job_of(auto_resume=True)
    steps = noted(job)

    run_pipeline(plan_of(job), steps)

    assert steps.asked == [*SKIPS, "skip small_eval", "skip full_eval", "report changed=False"]
    assert steps.looks == 0


def test_evaluations_are_decided_again_once_something_was_trained(run_dir):
    job = job_of(force_train=True)
    steps = noted(job, "operator")
    planned = plan_of(job)

    run_pipeline(planned, steps)

    assert [item.reason for item in planned.evaluations] == ["after training"] * 2
    assert steps.asked[-3:] == ["skip small_eval", "skip full_eval", "report changed=True"]
    assert steps.looks == 1


def test_an_evaluation_that_ran_changes_the_report(run_dir):
    job = job_of(auto_resume=True, redo_small_eval=True)
    steps = noted(job, "small_eval")

    run_pipeline(plan_of(job), steps)

    assert steps.asked[-3:] == ["run small_eval", "skip full_eval", "report changed=True"]
    assert steps.looks == 0


def test_nothing_follows_a_stage_that_fails(here):
    job = job_of()
    steps = noted(job)

    def fail(decision):
        raise TrainingDiverged(decision.stage)

    steps.train = fail

    with pytest.raises(TrainingDiverged, match="operator"):
        run_pipeline(plan_of(job), steps)

    assert steps.asked == []


class Factory:
    """Makes steps that note, and keeps what they were made with."""

    def __init__(self, fails=None):
        self.made, self.fails = [], fails

    def __call__(self, cfg, run, tracker):
        if self.fails is not None:
            raise self.fails
        self.made.append(Noted(cfg, run, tracker))
        self.owned = is_owned(run)
        run.check()
        return self.made[-1]


def test_the_run_is_owned_while_its_steps_are_done_and_no_longer(here):
    factory = Factory()
    job = job_of()

    run_job(job, factory)

    [steps] = factory.made
    assert isinstance(steps.run, OwnedRun)
    assert steps.cfg is job.cfg
    assert factory.owned
    assert not is_owned(job.run)


def test_the_run_of_another_process_is_refused_before_a_step_is_made(here):
    factory, job = Factory(), job_of()

    with owned(job.run), pytest.raises(BadInput, match="is working on this run"):
        run_job(job, factory)

    assert factory.made == []


def test_a_person_is_told_what_will_happen(here, caplog):
    caplog.set_level(logging.INFO)

    run_job(job_of(), Factory())

    assert [line for line in caplog.messages if ": train: not started yet" in line] == [
        f"{name}: train: not started yet" for name in SPECS
    ]


def test_files_that_are_named_are_read_before_a_step_is_made(here):
    factory = Factory()

    with pytest.raises(DataError, match=r"gone\.hdf5: no such file"):
        run_job(job_of(set=("data.files=[gone.hdf5]",)), factory)

    assert factory.made == []


class Closed(MetricLogger):
    """Notes that it was closed."""

    def __init__(self):
        self.failed: list[bool] = []

    def close(self, *, failed):
        self.failed.append(failed)


@pytest.mark.parametrize("fails", [None, TrainingDiverged("the loss is nan")])
def test_a_logger_of_whoever_runs_the_dag_gets_what_is_measured_to_the_end(here, fails):
    mine, factory = Closed(), Factory(fails)

    with suppress(TrainingDiverged):
        run_job(job_of(), factory, loggers={"mine": lambda cfg, run: mine})

    assert [steps.tracker.loggers["mine"] for steps in factory.made] == ([] if fails else [mine])
    assert mine.failed == [fails is not None]


def chain_run(number=1, run_id="first"):
    return ChainRun("chain", run_id, number, most=100, most_per_day=30)


def events(job):
    return [json.loads(line)["event"] for line in job.run.chain_runs.read_text("utf-8").splitlines()]


def test_a_run_of_a_chain_is_recorded_with_its_error(here):
    job = job_of()

    with pytest.raises(TrainingDiverged):
        run_job(job, Factory(fails=TrainingDiverged("the loss is nan")), chain_run=chain_run())

    assert events(job) == ["began", "failed"]


def test_a_run_that_its_chain_made_already_does_nothing(here):
    job, factory = job_of(), Factory()
    run_job(job, factory, chain_run=chain_run())

    with pytest.raises(Duplicate):
        run_job(job, factory, chain_run=chain_run(run_id="its double"))

    assert len(factory.made) == 1


def test_a_run_after_one_that_came_no_further_waits_first(here, monkeypatch, caplog):
    waited: list[float] = []
    job = job_of()
    run_job(job, Factory(), chain_run=chain_run())
    monkeypatch.setattr(time, "sleep", waited.append)

    run_job(job, Factory(), chain_run=chain_run(2, "second"))

    assert [pause for pause in waited if pause >= 1] == [10.0]
    assert "came no further: waiting 10 s" in caplog.text


@dataclass
class Failing(Noted):
    """Steps of which one stage fails."""

    fails: str = ""

    def train(self, decision):
        if decision.stage == self.fails:
            raise TrainingDiverged(f"{decision.stage}: the loss is nan")
        return super().train(decision)


def test_a_failing_optional_stage_takes_nothing_else_with_it_and_is_raised_at_the_end(here):
    job = job_of()
    steps = Failing(job.cfg, job.run, fails="steady_prior")

    with pytest.raises(TrainingDiverged, match="steady_prior"):
        run_pipeline(plan_of(job), steps)

    assert steps.asked[3:] == ["run small_eval", "run full_eval", "report changed=True"]
    assert steps.looks == 1


def test_a_failing_stage_that_is_needed_ends_the_run(here):
    job = job_of()
    steps = Failing(job.cfg, job.run, fails="diff_residual")

    with pytest.raises(TrainingDiverged, match="diff_residual"):
        run_pipeline(plan_of(job), steps)

    assert steps.asked == ["train operator"]
