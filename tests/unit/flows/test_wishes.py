"""What a person wishes of a run and its chain: who may begin, and when a process stops."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect._flow_run_suspension import FlowRunSuspensionRequest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause

from flows.pipeline import train_pipeline
from flows.prefect import wishes
from flows.prefect.wishes import Unwanted, end_if_cancelling, is_to_stop, obeyed, refusal
from flows.requests.train import TrainRequest
from tasks.services.run.attempts import ChainRun
from tasks.services.run.uninterrupted import uninterrupted
from ups_models.errors import Preempted

THEN = "2026-01-01T00:00:00Z"
BEGUN = ("Scheduled", "Pending", "Running")


@pytest.fixture(autouse=True)
def announced(monkeypatch):
    """The runs whose end was announced; the event itself is tried by test_cancels.py, with a real server."""
    ended: list[UUID] = []
    monkeypatch.setattr(wishes, "announce_end", ended.append)
    return ended


def attempt_of(own_run, number=1, chain="abc"):
    return ChainRun(chain, own_run, number, most=100, most_per_day=30)


@pytest.mark.parametrize(
    ("states", "refused"),
    [
        (BEGUN, False),
        (("Scheduled", "Pending", "Cancelled", "Running"), True),
        (("Scheduled", "Pending", "Cancelling", "Running"), True),
        (("Scheduled", "Pending", "GaveUp", "AwaitingRetry", "Running"), False),
        ((*BEGUN, "Cancelling", "Cancelled", "AwaitingRetry", "Pending", "Running"), False),
        ((*BEGUN, "Suspended", "AwaitingRetry", "Pending", "Running"), False),
    ],
)
def test_a_run_that_was_cancelled_before_it_began_does_not_train(prefect_api, own_run, states, refused):
    prefect_api.add_states(own_run, *states)

    assert (refusal(attempt_of(own_run)) is not None) == refused


@pytest.mark.parametrize(
    ("before", "mine", "refused"),
    [
        ((*BEGUN, "Crashed"), BEGUN, False),
        ((*BEGUN, "Cancelling", "Crashed", "Cancelled"), BEGUN, True),
        (("Scheduled", "Pending", "Cancelling", "Crashed"), BEGUN, True),
        ((*BEGUN, "GaveUp"), BEGUN, False),
        ((*BEGUN, "Cancelling", "Cancelled", "AwaitingRetry", "Running", "Crashed"), BEGUN, False),
        ((*BEGUN, "Cancelled"), (*BEGUN, "Cancelled", "AwaitingRetry", "Running"), False),
    ],
    ids=["died", "cancelled", "cancelled early", "gave up", "cancelled, then retried", "this one retried"],
)
def test_an_attempt_after_a_cancelled_run_does_not_train_until_a_person_starts_it(
    prefect_api, own_run, before, mine, refused
):
    first = prefect_api.add_run(before[-1], timestamp=THEN, chain="abc", attempt=1)
    prefect_api.add_states(first, *before)
    prefect_api.add_states(own_run, *mine)

    assert (refusal(attempt_of(own_run, 2)) is not None) == refused


def test_a_run_of_another_chain_is_nothing_to_this_one(prefect_api, own_run):
    other = prefect_api.add_run("Cancelled", timestamp=THEN, chain="other", attempt=1)
    prefect_api.add_states(other, *BEGUN, "Cancelled")
    prefect_api.add_states(own_run, *BEGUN)

    assert refusal(attempt_of(own_run, 2)) is None


def test_the_first_run_of_a_chain_is_known_by_its_id(prefect_api, own_run):
    first = prefect_api.add_run("Cancelled", timestamp=THEN)
    prefect_api.add_states(first, *BEGUN, "Cancelling", "Crashed", "Cancelled")
    prefect_api.add_states(own_run, *BEGUN)

    assert "was cancelled" in str(refusal(attempt_of(own_run, 2, chain=first[:8])))


def test_a_server_that_does_not_answer_stops_nobody(prefect_api, own_run):
    prefect_api.refusals["flow_run_states"] = httpx.ConnectError("no route")

    assert refusal(attempt_of(own_run, 2)) is None
    assert refusal(None) is None


@pytest.mark.parametrize(("state", "ends"), [("Cancelling", True), ("Pending", False), ("Cancelled", False)])
def test_a_run_that_is_being_cancelled_before_it_begins_is_ended(prefect_api, own_run, state, ends):
    prefect_api.add_states(own_run, "Scheduled", state)

    known: dict[str, Any] = {"flow_run": FlowRun(id=UUID(own_run), flow_id=uuid4(), deployment_id=uuid4())}
    with FlowRunContext.model_construct(**known):
        end_if_cancelling()

    told = [body["state"]["type"] for path, body in prefect_api.told if path.endswith("set_state")]
    assert told == (["CANCELLED"] if ends else [])


def save(stop):
    """Work that has saved its state."""
    stop.look()
    if stop():
        raise Preempted("operator: stopped at step 7")
    return "trained"


def test_a_cancelled_run_stops_where_it_has_saved(prefect_api, own_run):
    prefect_api.add_states(own_run, *BEGUN, "Cancelling")

    with pytest.raises(Unwanted, match="cancelled; operator: stopped at step 7"), obeyed():
        uninterrupted(save)


def test_a_suspended_run_stops_where_it_has_saved_and_stays_suspended(prefect_api, own_run, announced):
    prefect_api.add_states(own_run, *BEGUN, "Suspended")

    with pytest.raises(Pause) as raised, obeyed():
        uninterrupted(save)

    assert raised.value.state is not None
    assert raised.value.state.name == "Suspended"
    assert announced == [UUID(own_run)]


def test_a_suspension_that_prefect_has_heard_of_stops_the_step(prefect_api, own_run):
    prefect_api.refusals[own_run] = httpx.ConnectError("down")
    heard = FlowRunSuspensionRequest()
    known: dict[str, Any] = {"flow_run": FlowRun(flow_id=uuid4()), "flow_run_suspension_request": heard}

    def step(stop):
        assert not stop()
        heard.mark_requested(State(type=StateType.PAUSED, name="Suspended"))
        return save(stop)

    with FlowRunContext.model_construct(**known), pytest.raises(Pause), obeyed():
        uninterrupted(step)


@pytest.mark.parametrize("fault", [httpx.ConnectError("down"), httpx.Response(500), httpx.Response(401)])
def test_training_does_not_need_the_server_to_say_anything(prefect_api, own_run, fault):
    prefect_api.refusals[own_run] = fault

    with obeyed():
        assert uninterrupted(save) == "trained"


def test_the_server_is_not_asked_more_often_than_is_reasonable(prefect_api, own_run, monkeypatch):
    prefect_api.add_states(own_run, *BEGUN)
    asked = []

    def note(run, count):
        asked.append(run.id)
        return False

    monkeypatch.setattr(wishes, "is_to_stop", note)

    with obeyed():
        uninterrupted(lambda stop: [save(stop) for _ in range(50)])

    assert asked == [UUID(own_run)]


def test_another_reason_to_stop_stays_that_reason(prefect_api, own_run):
    prefect_api.add_states(own_run, *BEGUN)

    with pytest.raises(Preempted), obeyed():
        raise Preempted("stopped by a signal")


@pytest.mark.parametrize(("kind", "count", "stops"), [("RUNNING", 1, False), ("RUNNING", 2, True), ("PAUSED", 1, True)])
def test_a_process_stops_when_a_later_one_has_the_run(kind, count, stops):
    run = FlowRun(flow_id=uuid4(), state=State(type=StateType[kind]), run_count=count)

    assert is_to_stop(run, 1) == stops


def test_a_flow_that_is_cancelled_before_it_began_ends_as_cancelled_and_trains_nothing(prefect_api, own_run, tmp_path):
    prefect_api.add_states(own_run, "Scheduled", "Pending", "Cancelled", "Running")

    state: Any = train_pipeline.fn(TrainRequest(config=Path("configs/smoke.yaml"), run_dir=tmp_path))

    assert (state.type, state.name) == (StateType.CANCELLED, "Cancelled")
    assert list(tmp_path.iterdir()) == []
