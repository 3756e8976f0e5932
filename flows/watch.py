"""`ups watch`: does what an automation should have done, had its event not been lost (docs/adr/0007)."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.automations import RETRIED, Retried
from flows.control import NoAnswer, asked, automation_named

LOOK_BACK = timedelta(days=1)
STARTING = 10
"""A run that a worker took and that does not begin for so many times the patience will never begin."""
PAGE = 200


def watch(say: Callable[[str], None], *, every_s: float, patience_s: float, once: bool) -> None:
    """Look after the runs again and again. Raises BadInput without a server, UPSError."""
    while True:
        try:
            with asked() as client:
                for line in look_after(client, timedelta(seconds=patience_s)):
                    say(line)
        except NoAnswer as error:
            if once:
                raise
            say(f"{error}; asking again in {every_s:g} s")
        if once:
            return
        time.sleep(every_s)


def look_after(client: SyncPrefectClient, patience: timedelta) -> Iterator[str]:
    """Call crashed what vanished, and begin again what died, where its automation is on and late; says what it did."""
    for retried in RETRIED:
        try:
            deployment = client.read_deployment_by_name(retried.deployment).id
        except ObjectNotFound:
            continue
        rule = automation_named(client, retried.vanished)
        if rule is not None and rule["enabled"]:
            yield from _call_crashed(client, deployment, timedelta(seconds=rule["trigger"]["within"]), patience)
        rule = automation_named(client, retried.again)
        if rule is not None and rule["enabled"]:
            yield from _begin_again(client, retried, deployment, patience)


def unanswered(
    retried: Retried, ended: Iterable[FlowRun], others: Iterable[FlowRun]
) -> Iterator[tuple[FlowRun, dict[str, Any]]]:
    """Those of the ended runs that no other run follows, each with the parameters of the one that should."""
    known = list(others)
    for run in ended:
        wanted = retried.next_after(run)
        if not any(_starts(run) < _starts(other) and _agree(other.parameters, wanted) for other in known):
            yield run, wanted


def _call_crashed(
    client: SyncPrefectClient, deployment: UUID, silent_for: timedelta, patience: timedelta
) -> Iterator[str]:
    limits: dict[StateType | None, timedelta]
    limits = {StateType.RUNNING: silent_for + patience, StateType.PENDING: STARTING * patience}
    for run in _runs(client, deployment, state={"type": {"any_": list(limits)}}):
        seen = _last_seen(client, run)
        if seen is not None and (silence := datetime.now(UTC) - seen) > limits[run.state_type]:
            message = f"no sign of life for {silence.total_seconds():.0f} s"
            client.set_flow_run_state(run.id, Crashed(message=message))
            yield f"{run.name}: {message}: crashed"


def _begin_again(client: SyncPrefectClient, retried: Retried, deployment: UUID, patience: timedelta) -> Iterator[str]:
    now = datetime.now(UTC)
    ended = _runs(
        client,
        deployment,
        state={"name": {"any_": retried.after}},
        end_time={"after_": now - LOOK_BACK, "before_": now - patience},
    )
    if not ended:
        return
    later = _runs(client, deployment, expected_start_time={"after_": min(map(_starts, ended))})
    for run, parameters in unanswered(retried, ended, later):
        # The key makes two watchers one. An automation that answers after all makes a run that ends as `Duplicate`.
        made = client.create_flow_run_from_deployment(
            deployment, parameters=parameters, idempotency_key=f"after {run.id}"
        )
        yield f"{run.name}: {run.state_name}, and nothing followed: made {made.name}"


def _runs(client: SyncPrefectClient, deployment: UUID, **conditions: Any) -> list[FlowRun]:
    """All runs of the deployment that meet Prefect's conditions, page by page."""
    found: list[FlowRun] = []
    wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, **conditions})
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found)):
        found += page
    return found


def _last_seen(client: SyncPrefectClient, run: FlowRun) -> datetime | None:
    """When a run gave its last heartbeat, or was taken by a worker; None for one that never had a heartbeat."""
    if run.state_type == StateType.PENDING:
        return run.state.timestamp if run.state is not None else None
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1}).raise_for_status()
    beats = answer.json()["events"]
    return datetime.fromisoformat(beats[0]["occurred"]) if beats else None


def _starts(run: FlowRun) -> datetime:
    if run.expected_start_time is None:
        raise ValueError(f"flow run {run.id} was never to start")
    return run.expected_start_time


def _agree(parameters: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(name in parameters and parameters[name] == value for name, value in wanted.items())
