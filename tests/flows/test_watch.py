"""`ups watch`: what an automation should have answered, and did not, is answered from the state of the runs."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from chaos.control_room import control_room
from flows.automations import RETRIED
from flows.watch import unanswered

TRAIN, VAST = RETRIED
REQUEST = {"config": "configs/smoke.yaml", "run_dir": "/runs/a<b>'&"}
START = datetime(2026, 1, 1, tzinfo=UTC)


def run(after_s=0, **parameters):
    start = START + timedelta(seconds=after_s)
    known = {"flow_id": uuid4(), "expected_start_time": start, "parameters": {"request": REQUEST, **parameters}}
    return FlowRun.model_validate(known)


def test_the_next_run_of_a_chain_has_its_request_its_bounds_and_the_next_number():
    first = run(max_attempts=7)

    [(ended, wanted)] = unanswered(TRAIN, [first], [first])

    assert ended is first
    assert wanted == {
        "request": REQUEST,
        "attempt": 2,
        "max_attempts": 7,
        "max_attempts_per_day": 30,
        "chain": str(first.id)[:8],
    }


def test_a_run_that_another_follows_is_answered_whatever_became_of_that():
    first = run()
    second = run(10, **{name: value for name, value in TRAIN.next_after(first).items() if name != "request"})

    assert list(unanswered(TRAIN, [first], [first, second])) == []
    assert [ended for ended, _ in unanswered(TRAIN, [first, second], [first, second])] == [second]


def test_a_run_of_another_chain_is_no_answer():
    first = run()

    assert [ended for ended, _ in unanswered(TRAIN, [first], [first, run(10, attempt=2, chain="another")])] == [first]


def test_a_controller_of_machines_is_answered_by_a_later_run_of_the_same_request_only():
    first, later = run(), run(10)

    assert [ended for ended, _ in unanswered(VAST, [first], [first])] == [first]
    assert list(unanswered(VAST, [first], [first, later])) == []
    assert [ended for ended, _ in unanswered(VAST, [later], [first, later])] == [later]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A server with everything deployed, and nobody who works."""
    with control_room(tmp_path_factory.mktemp("watched")) as room:
        assert room.deploy().returncode == 0
        yield room


def look_once(room, *arguments):
    command = [sys.executable, "-m", "flows.cli", "watch", "--once", *arguments]
    return subprocess.run(command, env=room.environment, cwd=room.home, capture_output=True, text=True, check=False)


def switch(room, name, *, on):
    [automation] = [one for one in room.ask("POST", "/automations/filter", json={}) if one["name"] == name]
    room.ask("PATCH", f"/automations/{automation['id']}", json={"enabled": on})


def put_into(room, flow_run, state):
    room.ask("POST", f"/flow_runs/{flow_run}/set_state", json={"state": {"type": state}, "force": True})


def test_a_crash_whose_event_was_lost_is_answered_once(room, tmp_path):
    switch(room, TRAIN.again, on=False)
    first = room.run({"config": "configs/smoke.yaml", "run_dir": str(tmp_path)})
    put_into(room, first, "RUNNING")
    put_into(room, first, "CRASHED")
    off = look_once(room, "--patience", "0.1")
    switch(room, TRAIN.again, on=True)

    early = look_once(room, "--patience", "600")
    late = look_once(room, "--patience", "0.1")
    again = look_once(room, "--patience", "0.1")

    assert (off.stdout, early.stdout, again.stdout) == ("", "", "")
    assert late.stdout.count("Crashed, and nothing followed: made ") == 1, late.stderr
    _, second = room.runs(root=tmp_path)
    assert (second["parameters"]["chain"], second["parameters"]["attempt"]) == (first[:8], 2)
    assert second["state"]["name"] == "Scheduled"


def test_a_run_that_went_silent_is_called_crashed_although_no_automation_did(room, tmp_path):
    switch(room, TRAIN.vanished, on=False)
    request = {"config": "configs/smoke.yaml", "run_dir": str(tmp_path)}
    silent, lively, mute, taken = [room.run(request) for _ in range(4)]
    for flow_run, age_s in ((silent, 200), (lively, 10)):
        beat = {
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run}"},
            "occurred": (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(),
            "id": str(uuid4()),
        }
        room.ask("POST", "/events", json=[beat])
    for flow_run in (silent, lively, mute):
        put_into(room, flow_run, "RUNNING")
    put_into(room, taken, "PENDING")
    room.wait_for(
        lambda: room.ask("POST", "/events/filter", json={"filter": {"event": {"name": [beat["event"]]}}})["total"] == 2
    )
    off = look_once(room)
    switch(room, TRAIN.vanished, on=True)

    def looked(*patience):
        said = look_once(room, *patience).stdout.count("no sign of life for ")
        runs = (silent, lively, mute, taken)
        return said, [room.ask("GET", f"/flow_runs/{flow_run}")["state"]["name"] for flow_run in runs]

    assert off.stdout == ""
    assert looked() == (1, ["Crashed", "Running", "Running", "Pending"])
    assert looked("--patience", "0.01") == (1, ["Crashed", "Running", "Running", "Crashed"])


def test_a_server_that_does_not_answer_is_named_and_asked_again_unless_once(room):
    nowhere = {**room.environment, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "flows.cli", "watch", "--every", "0.1"]

    once = subprocess.run([*command, "--once"], env=nowhere, capture_output=True, text=True, check=False)
    with subprocess.Popen(command, env=nowhere, stdout=subprocess.PIPE, text=True) as patient:
        assert patient.stdout is not None
        said = [patient.stdout.readline() for _ in range(2)]
        patient.terminate()

    assert once.returncode == 2
    assert "http://127.0.0.1:9/api: does not answer" in once.stderr
    assert all("does not answer" in line and "asking again in 0.1 s" in line for line in said)
