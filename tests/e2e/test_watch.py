"""`ups watch`: a restart that an automation missed is made up for from the state of the runs."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from flows.prefect.automations import RESTART_POLICIES
from flows.requests.attempts import number_in
from harness.chaos.prefect_stack import prefect_stack

TRAIN = RESTART_POLICIES[0]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A server with everything deployed, and nobody who works."""
    with prefect_stack(tmp_path_factory.mktemp("watched")) as room:
        assert room.deploy().returncode == 0
        yield room


def look_once(room, *arguments):
    command = [sys.executable, "-m", "flows.cli", "watch", "--once", *arguments]
    return subprocess.run(command, env=room.environment, cwd=room.home, capture_output=True, text=True, check=False)


def switch(room, name, *, on):
    [automation] = [one for one in room.ask("POST", "/automations/filter", json={}) if one["name"] == name]
    room.ask("PATCH", f"/automations/{automation['id']}", json={"enabled": on})


def put_into(room, flow_run, state):
    """Put it there, and wait until the event of it has been seen: no automation is switched on before."""
    room.ask("POST", f"/flow_runs/{flow_run}/set_state", json={"state": {"type": state}, "force": True})
    event = {"name": [f"prefect.flow-run.{state.title()}"]}
    wanted = {"filter": {"event": event, "resource": {"id": [f"prefect.flow-run.{flow_run}"]}}}
    room.wait_for(lambda: room.ask("POST", "/events/filter", json=wanted)["total"] > 0, f"{state} as an event")


def test_a_crash_whose_event_was_lost_is_followed_by_one_restart(room, tmp_path):
    switch(room, TRAIN.restart_name, on=False)
    first = room.run({"config": "configs/smoke.yaml", "run_dir": str(tmp_path)})
    put_into(room, first, "RUNNING")
    put_into(room, first, "CRASHED")
    off = look_once(room, "--patience", "0.1")
    switch(room, TRAIN.restart_name, on=True)

    early = look_once(room, "--patience", "600")
    late = look_once(room, "--patience", "0.1")
    again = look_once(room, "--patience", "0.1")

    assert (off.stdout, early.stdout, again.stdout) == ("", "", "")
    assert late.stdout.count("Crashed, and no run followed: created ") == 1, late.stderr
    _, second = room.runs(root=tmp_path)
    assert (second["parameters"]["attempts"]["chain"], second["parameters"]["attempts"]["attempt"]) == (first[:8], 2)
    assert second["state"]["name"] == "Scheduled"


def test_a_crash_that_cannot_be_restarted_is_reported_and_the_others_are_restarted(room, tmp_path):
    switch(room, TRAIN.restart_name, on=False)
    for attempt in (500, 1):
        dead = room.run({"config": "configs/smoke.yaml", "run_dir": str(tmp_path)}, attempt=attempt)
        put_into(room, dead, "RUNNING")
        put_into(room, dead, "CRASHED")
    switch(room, TRAIN.restart_name, on=True)

    done = look_once(room, "--patience", "0.1")

    assert done.returncode == 0, done.stderr
    assert "cannot be restarted" in done.stdout
    assert "501 is greater than the maximum of 500" in done.stdout
    assert [number_in(one["parameters"]) for one in room.runs(root=tmp_path)].count(2) == 1


def test_a_run_that_went_silent_is_ended_although_no_automation_did(room, tmp_path):
    switch(room, TRAIN.heartbeat_name, on=False)
    request = {"config": "configs/smoke.yaml", "run_dir": str(tmp_path)}
    silent, mute, taken, unwanted = runs = [room.run(request) for _ in range(4)]
    beat = {
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{silent}"},
        "occurred": datetime.now(UTC).isoformat(),
        "id": str(uuid4()),
    }
    room.ask("POST", "/events", json=[beat])
    for flow_run, state in ((silent, "RUNNING"), (mute, "RUNNING"), (taken, "PENDING")):
        put_into(room, flow_run, state)
    for state in ("RUNNING", "CANCELLING"):
        put_into(room, unwanted, state)
    began = time.monotonic()
    wanted = {"filter": {"event": {"name": [beat["event"]]}}}
    room.wait_for(lambda: room.ask("POST", "/events/filter", json=wanted)["total"] == 1)

    def looked(*patience):
        done = look_once(room, *patience)
        assert done.returncode == 0, done.stderr
        said = done.stdout.count("no heartbeat for ")
        return said, [room.ask("GET", f"/flow_runs/{one}")["state"]["name"] for one in runs]

    assert looked("--patience", "0.01") == (0, ["Running", "Running", "Pending", "Cancelling"])
    switch(room, TRAIN.heartbeat_name, on=True)
    assert looked() == (0, ["Running", "Running", "Pending", "Cancelling"])
    [rule] = [one for one in room.ask("POST", "/automations/filter", json={}) if one["name"] == TRAIN.heartbeat_name]
    shorter = {name: rule[name] for name in ("name", "description", "enabled", "trigger", "actions")}
    shorter["trigger"]["within"] = 10  # the least that Prefect takes
    room.ask("PUT", f"/automations/{rule['id']}", json=shorter)
    time.sleep(max(0.0, 10.5 - (time.monotonic() - began)))
    assert looked("--patience", "0.01") == (3, ["Crashed", "Running", "Crashed", "Cancelled"])
    assert looked("--patience", "0.01") == (0, ["Crashed", "Running", "Crashed", "Cancelled"])


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
