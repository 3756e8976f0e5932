"""What a launch asks of the W&B run that it would go on with: who works on it, and whether anything is left to do."""

import pytest

from flows.requests.launch import LaunchRequest
from flows.requests.launch_checks import claim_on, complete_run
from tasks.services.rental.journal import Journal
from tasks.services.run.status import read_status
from tasks.services.tracking.coordination import OUTCOME, WandbCoordination
from tasks.services.tracking.opening import tracked
from tasks.services.tracking.protocols import ControllerRecord, TrackingUnavailable
from tasks.services.tracking.run_path import ResumeTarget, RunPath
from ups_models.errors import BadInput

RUN = RunPath("r1", "ups-pipeline", "researcher")
JOB = {"run": str(RUN), "artifact": "a", "digest": "d"}
FAR_AHEAD = 4e9


def request_of(**options):
    train = {"config": "configs/smoke.yaml", "resume_from_wandb": "r1"}
    return LaunchRequest.model_validate({**train, **options})


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "rented.jsonl")


@pytest.fixture
def trained(wandb, online, run):
    """A run that W&B has whole."""
    with tracked(online, run, ResumeTarget(path=RUN), client=wandb) as tracker:
        tracker.completed(*read_status(run.status).stages)
    wandb.runs[str(RUN)].state = "finished"
    return wandb


def works_on(wandb, cfg, seen_at=FAR_AHEAD):
    record = ControllerRecord(3, "first", "there", 77, "2026-11-28T12:00:00Z", seen_at, JOB)
    WandbCoordination(RUN, cfg.tracking, wandb).claim(record)
    return record


def test_a_run_of_which_nothing_is_left_to_do_is_complete(trained, online, journal):
    assert complete_run(request_of(), journal, online, trained) == RUN


@pytest.mark.parametrize(("outcome", "complete"), [("2:0", True), ("2:1", False)])
def test_how_its_last_machine_ended_counts_more_than_the_state_of_the_run(trained, online, journal, outcome, complete):
    trained.runs[str(RUN)].config[OUTCOME] = outcome

    assert (complete_run(request_of(), journal, online, trained) is not None) == complete


def test_a_run_that_is_still_at_work_is_not_complete(trained, online, journal):
    trained.runs[str(RUN)].state = "running"

    assert complete_run(request_of(), journal, online, trained) is None


def test_a_run_that_was_trained_with_another_config_is_not_complete(trained, online, journal):
    other = online.model_copy(update={"seed": online.seed + 1})

    assert complete_run(request_of(), journal, other, trained) is None


def test_a_run_that_is_only_a_source_or_is_not_there_is_not_complete(trained, online, journal, wandb):
    assert complete_run(request_of(resume_mode="never"), journal, online, trained) is None
    assert complete_run(request_of(resume_from_wandb="other"), journal, online, trained) is None
    assert complete_run(LaunchRequest.model_validate({"config": "configs/smoke.yaml"}), journal, online, wandb) is None


def test_an_unfinished_launch_is_not_complete_while_its_machine_may_run(trained, online, journal):
    journal.note("began", job=JOB)

    assert complete_run(request_of(), journal, online, trained) is None


def test_a_run_that_another_controller_works_on_is_refused_unless_it_is_taken_over(wandb, online, journal):
    wandb.add("r1")
    record = works_on(wandb, online)

    with pytest.raises(BadInput, match="process 77 on there"):
        claim_on(request_of(), journal, online, wandb)

    assert claim_on(request_of(takeover=True), journal, online, wandb) == record


def test_the_launch_of_this_journal_that_was_killed_is_no_other(wandb, online, journal):
    wandb.add("r1")
    record = works_on(wandb, online)
    journal.note("claims", controller="first")
    journal.note("began", job=JOB)

    assert claim_on(request_of(), journal, online, wandb) == record


@pytest.mark.parametrize("mode", ["allow", "never"])
def test_a_new_run_is_claimed_by_nobody(wandb, online, journal, mode):
    wandb.add("other")

    assert claim_on(request_of(resume_mode=mode), journal, online, wandb) is None


def test_an_unfinished_launch_goes_on_while_wandb_is_away_and_another_does_not_begin(wandb, online, journal, caplog):
    wandb.down = ConnectionError("connection refused")
    with pytest.raises(TrackingUnavailable):
        claim_on(request_of(), journal, online, wandb)
    journal.note("began", job=JOB)

    assert claim_on(request_of(), journal, online, wandb) is None
    assert "is not known" in caplog.text
