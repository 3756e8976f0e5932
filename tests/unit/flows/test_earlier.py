"""What the server knows of earlier attempts: they count, and what they left is not trained again from nothing."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.exceptions import Pause

from flows.pipeline import train_pipeline
from flows.prefect import wishes
from flows.prefect.earlier import PLACE, WANDB, WHERE, Elsewhere, labels_of, with_earlier_runs, with_files
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from tasks.services.run.attempts import ChainRun
from tasks.services.run.status import StageRecord, Status, WandbRecord

THEN = "2026-01-01T00:00:00Z"
SMOKE = Path("configs/smoke.yaml")
TRAINED = {PLACE: "operator:20", WHERE: "box:/runs/a"}


@pytest.fixture
def earlier(prefect_api):
    """Adds an earlier run of the chain."""

    def add(number, state="Crashed", **labels):
        run_id = prefect_api.add_run(state, timestamp=THEN, chain="abc", attempt=number)
        prefect_api.runs[-1]["labels"] = {f"ups.{name}": value for name, value in labels.items()}
        return run_id

    return add


def attempt_of(own_run, number):
    return ChainRun("abc", own_run, number, most=100, most_per_day=30)


def job_in(folder):
    return parse(TrainRequest(config=SMOKE, run_dir=folder, auto_resume=True))


def test_a_run_tells_how_far_it_is_where_and_in_which_wandb_run(smoke):
    status = Status(
        stages={"operator": StageRecord(status="in_progress", step=20)}, wandb=WandbRecord(id="r", project="p")
    )

    assert labels_of(status, "box:/runs/a", smoke, began="") == {
        "ups.began": "",
        "ups.place": "operator:20",
        "ups.where": "box:/runs/a",
        "ups.wandb": "p/r",
    }


def test_every_attempt_that_was_at_work_or_died_before_it_could_counts(prefect_api, own_run, earlier):
    earlier(1, began="", place="operator:20")
    earlier(2)
    earlier(3, state="GaveUp")
    earlier(4, state="Duplicate")
    earlier(5)

    attempt, runs = with_earlier_runs(attempt_of(own_run, 5))

    assert attempt is not None
    assert [run.number for run in runs] == [1, 2]
    assert [note.get("place") for note in attempt.elsewhere] == ["", None]


def test_a_server_that_does_not_answer_leaves_what_is_noted_here(prefect_api, own_run, caplog):
    prefect_api.refusals["filter"] = httpx.ConnectError("nobody listens")

    assert with_earlier_runs(attempt_of(own_run, 2)) == (attempt_of(own_run, 2), [])
    assert "does not say which attempts" in caplog.text


def test_an_attempt_goes_on_from_wandb_where_the_files_are_elsewhere(
    prefect_api, own_run, earlier, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    earlier(1, wandb="p/r", **{name.removeprefix("ups."): value for name, value in TRAINED.items()})

    job = with_files(job_in(tmp_path), with_earlier_runs(attempt_of(own_run, 2))[1])

    assert job.source is not None
    assert (str(job.source.path), job.source.mode) == ("p/r", "must")


def test_an_attempt_never_begins_from_nothing_what_lies_on_another_machine(prefect_api, own_run, earlier, tmp_path):
    earlier(1, **{name.removeprefix("ups."): value for name, value in TRAINED.items()})
    runs = with_earlier_runs(attempt_of(own_run, 2))[1]

    with pytest.raises(Elsewhere, match=r"operator:20, on box:/runs/a.*waits for a worker on that machine"):
        with_files(job_in(tmp_path), runs)

    assert WANDB not in runs[0].labels
    assert list(tmp_path.iterdir()) == []


def test_its_flow_run_is_scheduled_again(prefect_api, own_run, earlier, tmp_path, monkeypatch):
    ended: list[Any] = []
    monkeypatch.setattr(wishes, "announce_end", ended.append)
    earlier(1, **{name.removeprefix("ups."): value for name, value in TRAINED.items()})
    prefect_api.add_states(own_run, "Scheduled", "Pending", "Running")

    with pytest.raises(Pause, match="operator:20"):
        train_pipeline.fn(TrainRequest(config=SMOKE, run_dir=tmp_path), attempt=2, chain="abc")

    [state] = [body["state"] for path, body in prefect_api.told if path.endswith("/set_state")]
    assert (state["type"], state["name"]) == ("SCHEDULED", "AwaitingFiles")
    assert [str(run_id) for run_id in ended] == [own_run]


def test_an_attempt_that_finds_its_files_or_whose_predecessor_left_none_just_begins(
    prefect_api, own_run, earlier, run_dir, tmp_path
):
    earlier(1, place="")
    assert with_files(job_in(tmp_path), with_earlier_runs(attempt_of(own_run, 2))[1]).source is None

    earlier(1, place="operator:20")
    assert with_files(job_in(run_dir), with_earlier_runs(attempt_of(own_run, 2))[1]).source is None
