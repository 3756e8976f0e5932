"""What `ups watch` does about runs that ended, or went silent, without anybody's answer."""

import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from unit.flows.prefect_api import DEPLOYMENT

from flows.prefect.automations import RESTART_POLICIES
from flows.prefect.client import PAGE, server_client
from flows.prefect.watch import check_runs, has_successor, last_seen, watch
from ups_models.errors import BadInput, UPSError

TRAIN, VAST = RESTART_POLICIES
REQUEST = {"config": "configs/smoke.yaml", "run_dir": "/runs/a<b>'&"}
START = datetime(2026, 1, 1, tzinfo=UTC)


def run(state=None, age_s=0, **parameters):
    known = {"flow_id": uuid4(), "parameters": {"request": REQUEST, **parameters}}
    if state is not None:
        known["state"] = {"type": state, "timestamp": START - timedelta(seconds=age_s)}
        known["state_type"] = state
    return FlowRun.model_validate(known)


def test_the_next_run_of_a_chain_has_its_request_its_bounds_and_the_next_number():
    for first in (run(attempts={"max_attempts": 7}), run(max_attempts=7)):
        wanted = {"attempt": 2, "max_attempts": 7, "chain": str(first.id)[:8]}

        assert VAST.next_parameters(first) == {"request": REQUEST, "attempts": wanted}
        assert TRAIN.next_parameters(first) == {"request": REQUEST, "attempts": {**wanted, "max_attempts_per_day": 30}}


def test_parameters_of_something_else_are_bad_input():
    with pytest.raises(BadInput, match=r"parameters are not those of train-pipeline .*; start it again by hand"):
        TRAIN.next_parameters(run(attempt="x"))


def test_a_run_is_followed_by_the_next_attempt_of_its_chain_or_a_later_one_whatever_its_bounds():
    first = run()
    chain, wanted = str(first.id)[:8], TRAIN.next_parameters(first)

    assert not has_successor(wanted, [first])
    assert not has_successor(wanted, [first, run(attempt=2, chain="another"), run(attempt="x", chain=chain)])
    assert has_successor(wanted, [first, run(attempt=2, chain=chain, max_attempts=7)])
    assert has_successor(wanted, [first, run(attempt=3, chain=chain)])
    assert has_successor(wanted, [first, run(attempts={"attempt": 3, "chain": chain})])


def test_a_run_that_a_person_retried_is_alive_although_its_heartbeats_are_old():
    hour_ago = START - timedelta(hours=1)

    assert last_seen(run("RUNNING", age_s=5), hour_ago) == START - timedelta(seconds=5)
    assert last_seen(run("RUNNING", age_s=7200), hour_ago) == hour_ago
    assert last_seen(run("RUNNING", age_s=7200), None) is None
    assert last_seen(run("PENDING", age_s=7200), None) == START - timedelta(hours=2)


MINUTE_S, HOUR_S = 60.0, 3600.0


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def watched(prefect_api):
    """A server on which both automations of training are enabled."""
    prefect_api.automations = {
        TRAIN.restart_name: {"enabled": True},
        TRAIN.heartbeat_name: {"enabled": True, "trigger": {"within": 90.0}},
    }
    return prefect_api


def checked(patience_s=1.0, up_for_s=HOUR_S):
    with server_client() as client:
        return list(check_runs(client, patience_s, up_for_s))


def test_a_crash_that_nothing_followed_is_followed_by_one_run_with_the_next_number(watched):
    dead = watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST)

    said = checked()

    assert said == ["run-0: Crashed, and no run followed: created made"]
    [(path, body)] = watched.told
    assert path == f"/deployments/{DEPLOYMENT}/create_flow_run"
    attempts = body["parameters"]["attempts"]
    assert (attempts["chain"], attempts["attempt"]) == (dead[:8], 2)
    assert (body["name"], body["idempotency_key"]) == ("smoke in a<b>'& · attempt 2", f"after {dead}")


def test_a_run_that_waits_has_its_name_before_a_worker_begins_it_unless_a_person_gave_it_one(watched):
    waiting = watched.add_run("Scheduled", timestamp=ago(MINUTE_S), request=REQUEST)
    watched.add_run("Scheduled", timestamp=ago(MINUTE_S), request=REQUEST)
    watched.runs[0]["name"], watched.runs[1]["name"] = "cunning-otter", "the one for the paper"

    assert checked() == []
    assert watched.told == [(f"/flow_runs/{waiting}", {"name": "smoke in a<b>'& · attempt 1"})]


def test_a_crash_whose_chain_went_on_is_left_alone(watched):
    dead = watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST)
    watched.add_run("Running", timestamp=ago(MINUTE_S), request=REQUEST, chain=dead[:8], attempt=2)

    assert checked() == []
    assert watched.told == []


def test_an_automation_is_given_its_time(watched):
    watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST)

    assert checked(patience_s=600) == []


def test_what_its_automation_is_not_to_do_is_not_done(watched):
    watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST)
    watched.add_run("Pending", timestamp=ago(HOUR_S), request=REQUEST)
    for automation in watched.automations.values():
        automation["enabled"] = False

    assert checked() == []


def test_a_server_without_our_deployments_is_left_alone(watched):
    watched.deployments = set()

    assert checked() == []


def test_a_run_that_is_none_of_ours_is_told_and_the_others_are_restarted(watched):
    watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST, attempt="x")
    watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST)

    first, second = checked()

    assert first.startswith("run-0: Crashed, and cannot be restarted: its parameters are not those of train-pipeline")
    assert second == "run-1: Crashed, and no run followed: created made"


def test_parameters_that_the_server_refuses_are_told(watched):
    watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST, attempt=500)
    watched.refusals["create_flow_run"] = httpx.Response(409, text="501 is greater than the maximum of 500")

    assert checked() == ["run-0: Crashed, and cannot be restarted: 501 is greater than the maximum of 500"]


def test_what_else_a_server_refuses_is_an_error_of_the_server(watched):
    watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST)
    watched.refusals["create_flow_run"] = httpx.Response(500, text="out of order")

    with pytest.raises(UPSError, match=r"refused \(out of order\); see the server's log"):
        checked()


def test_a_run_whose_heartbeats_stopped_has_crashed_and_one_that_never_had_any_is_left_alone(watched):
    silent = watched.add_run("Running", timestamp=ago(HOUR_S))
    watched.add_run("Running", timestamp=ago(HOUR_S))
    watched.heartbeats[silent] = ago(HOUR_S)

    [said] = checked()

    assert re.fullmatch(r"run-0: no heartbeat for \d+ s: crashed", said)
    assert said.endswith(" s: crashed")
    [(path, body)] = watched.told
    assert (path, body["state"]["type"]) == (f"/flow_runs/{silent}/set_state", "CRASHED")


def test_a_run_that_a_person_cancelled_is_not_restarted(watched):
    silent = watched.add_run("Cancelling", timestamp=ago(HOUR_S))
    watched.heartbeats[silent] = ago(HOUR_S)

    assert [line.rpartition(": ")[2] for line in checked()] == ["cancelled"]


def test_a_worker_that_took_a_run_has_ten_patiences_to_start_it(watched):
    watched.add_run("Pending", timestamp=ago(HOUR_S))

    assert checked(patience_s=600.0) == []
    assert len(checked(patience_s=100.0)) == 1


def test_a_server_that_was_away_has_heard_no_heartbeats(watched):
    watched.heartbeats[watched.add_run("Running", timestamp=ago(HOUR_S))] = ago(HOUR_S)

    assert checked(up_for_s=60.0) == []


def test_a_run_that_has_ended_or_is_gone_by_now_is_left_alone(watched):
    watched.heartbeats[watched.add_run("Running", timestamp=ago(HOUR_S))] = ago(HOUR_S)
    watched.refusals["set_state"] = httpx.Response(404, json={"detail": "gone"})

    assert checked() == []


def test_every_page_of_runs_is_read(watched):
    for _ in range(PAGE + 1):
        watched.add_run("Pending", timestamp=ago(HOUR_S))

    assert len(checked()) == PAGE + 1


def test_looking_once_says_what_was_done(watched):
    watched.add_run("Crashed", timestamp=ago(MINUTE_S), request=REQUEST)
    said: list[str] = []

    watch(said.append, every_s=600, patience_s=1, once=True)

    assert said == ["run-0: Crashed, and no run followed: created made"]


class Enough(Exception):
    """What ends a watch that would go on."""


def test_a_server_that_does_not_answer_is_asked_again(watched, monkeypatch):
    said: list[str] = []
    watched.refusals = {"filter": httpx.Response(503, text="starting")}
    monkeypatch.setattr("time.sleep", lambda seconds: stop_after(3, said))

    with pytest.raises(Enough):
        watch(said.append, every_s=30, patience_s=1, once=False)

    assert len(said) == 3
    assert all("refused (starting)" in line and line.endswith("asking again in 30 s") for line in said)


def stop_after(number, said):
    if len(said) >= number:
        raise Enough
