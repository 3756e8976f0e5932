"""What the Prefect server is told to do by itself when a run ends, goes silent or needs a person."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from flows.prefect.automations import (
    ENDS,
    RESTART_POLICIES,
    SUSPENDED,
    heartbeat_automation,
    notify_automation,
    restart_automation,
)
from flows.prefect.wishes import PROCESS_ENDED

BLOCK = UUID(int=2)
TRAIN, VAST = RESTART_POLICIES


def flow_of(automation):
    """The flow whose runs it is about, if they are of any of its deployments."""
    flow, deployment = (one.model_dump() for one in automation.trigger.match_related)
    assert deployment == {"prefect.resource.id": "prefect.deployment.*"}
    return flow["prefect.resource.name"] if flow["prefect.resource.role"] == "flow" else None


@pytest.mark.parametrize(("policy", "ends"), [(TRAIN, {"Crashed", "Failed"}), (VAST, {"Crashed"})])
def test_a_run_that_died_is_restarted_with_the_parameters_of_the_next(policy, ends):
    automation: Any = restart_automation(policy, 10.0)

    [action] = automation.actions
    assert automation.trigger.expect == {f"prefect.flow-run.{end}" for end in ends}
    assert flow_of(automation) == policy.flow
    assert (action.source, action.deployment_id) == ("inferred", None)
    assert action.schedule_after == timedelta(seconds=10)
    assert {name: value["value"]["template"] for name, value in action.parameters.items()} == policy.parameters


def test_no_end_that_a_person_must_cure_is_restarted():
    restarted = set().union(*(policy.after for policy in RESTART_POLICIES))

    assert restarted < set(ENDS)
    assert restarted & {"GaveUp", "BadInput", "Duplicate", "Completed", "Cancelled"} == set()


def test_a_run_without_heartbeats_is_called_crashed_unless_it_has_ended():
    automation: Any = heartbeat_automation(TRAIN, 90.0)

    [action] = automation.actions
    assert automation.trigger.within == timedelta(seconds=90)
    assert automation.trigger.after == {"prefect.flow-run.heartbeat"}
    silent = {f"prefect.flow-run.{state}" for state in (*ENDS, *SUSPENDED)}
    assert automation.trigger.expect == {"prefect.flow-run.heartbeat", PROCESS_ENDED} | silent
    assert automation.trigger.for_each == {"prefect.resource.id"}
    assert flow_of(automation) == TRAIN.flow
    assert (action.state, action.message) == ("CRASHED", "no heartbeat for 90 s")


def test_a_person_is_told_of_what_is_not_restarted_and_of_failures():
    automation: Any = notify_automation(TRAIN, BLOCK)

    [action] = automation.actions
    assert automation.trigger.expect == {f"prefect.flow-run.{end}" for end in ("GaveUp", "BadInput", "Failed")}
    assert action.block_document_id == BLOCK


def test_each_automation_has_a_name_of_its_own():
    names = [
        name for policy in RESTART_POLICIES for name in (policy.restart_name, policy.heartbeat_name, policy.notify_name)
    ]

    assert len(set(names)) == len(names) == 6
