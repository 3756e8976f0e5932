"""`ups watch`: does what an automation should have done, had its event not been lost (docs/adr/0007)."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Crashed

from flows.prefect.automations import RESTART_POLICIES, RestartPolicy
from flows.prefect.client import address, asked, automation_named
from ups_models.errors import BadInput, UPSError

LOOK_BACK = timedelta(days=1)
STARTING = 10
"""A run that a worker took and that does not begin for so many times the patience will never begin."""
HEARD = (StateType.RUNNING, StateType.CANCELLING)
"""States in which a run sends heartbeats."""
PAGE = 200
REFUSALS = (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY)
"""What the server answers to parameters that its deployment does not take."""


def watch(echo: Callable[[str], None], *, every_s: float, patience_s: float, once: bool) -> None:
    """Look after the runs again and again, whatever the server says to it. Raises BadInput without its address.

    With `once`, raises also what else `flows.prefect.client.asked` does.
    """
    address()
    answers_since = -math.inf if once else time.monotonic()
    while True:
        try:
            with asked() as client:
                for line in look_after(client, patience_s, time.monotonic() - answers_since):
                    echo(line)
        except UPSError as error:
            if once:
                raise
            echo(f"{error}; asking again in {every_s:g} s")
            answers_since = time.monotonic() + every_s
        if once:
            return
        time.sleep(every_s)


def look_after(client: SyncPrefectClient, patience_s: float, answers_for_s: float) -> Iterator[str]:
    """End what vanished, and begin again what died, where its automation is on and late; says what it did.

    Heartbeats are not heard while the server is down: it must have answered for as long as a run may be silent.
    """
    for retried in RESTART_POLICIES:
        try:
            deployment = client.read_deployment_by_name(retried.deployment).id
        except ObjectNotFound:
            continue
        silent_s = _enabled(client, retried.vanished).get("trigger", {}).get("within")
        if silent_s is not None and answers_for_s > silent_s + patience_s:
            silent_s += patience_s
            limits = {StateType.PENDING: STARTING * patience_s, **dict.fromkeys(HEARD, silent_s)}
            yield from _end_silent(client, deployment, limits)
        if _enabled(client, retried.again):
            yield from _begin_again(client, retried, deployment, timedelta(seconds=patience_s))


def is_answered(wanted: Mapping[str, Any], runs: Iterable[FlowRun]) -> bool:
    """Whether one of the runs is the one that is wanted, or a later attempt of its chain."""
    attempts = (run.parameters.get("attempt") for run in runs if run.parameters.get("chain") == wanted["chain"])
    return any(isinstance(attempt, int) and attempt >= wanted["attempt"] for attempt in attempts)


def last_seen(run: FlowRun, heartbeat: datetime | None) -> datetime | None:
    """When a run gave its last sign of life; None for one that runs and never had a heartbeat.

    A run that a person retried has old heartbeats and a new state.
    """
    if run.state is None or (heartbeat is None and run.state_type == StateType.RUNNING):
        return None
    return max(run.state.timestamp, heartbeat or run.state.timestamp)


def _enabled(client: SyncPrefectClient, name: str) -> dict[str, Any]:
    """The automation of this name if it is on, or nothing."""
    automation = automation_named(client, name)
    return automation if automation is not None and automation["enabled"] else {}


def _end_silent(client: SyncPrefectClient, deployment: UUID, limits: Mapping[StateType, float]) -> Iterator[str]:
    for kind, limit_s in limits.items():
        for run in _runs(client, deployment, state={"type": {"any_": [kind]}}):
            seen = last_seen(run, _heartbeat(client, run) if kind in HEARD else None)
            silent_s = (datetime.now(UTC) - seen).total_seconds() if seen is not None else 0.0
            said = f"no sign of life for {silent_s:.0f} s"
            # One that a person cancelled must not be tried again; its worker, which should have ended it, is gone.
            end: State[Any] = (Cancelled if kind == StateType.CANCELLING else Crashed)(message=said)
            if silent_s > limit_s and _taken(client, run, end):
                yield f"{run.name}: {said}: {str(end.name).lower()}"


def _taken(client: SyncPrefectClient, run: FlowRun, end: State) -> bool:
    """Whether the server takes it: the run may have ended, or be gone, by now."""
    try:
        return client.set_flow_run_state(run.id, end).status == SetStateStatus.ACCEPT
    except ObjectNotFound:
        return False


def _begin_again(
    client: SyncPrefectClient, retried: RestartPolicy, deployment: UUID, patience: timedelta
) -> Iterator[str]:
    now = datetime.now(UTC)
    ended = {"after_": now - LOOK_BACK, "before_": now - patience}
    died = _runs(client, deployment, state={"name": {"any_": retried.after}}, end_time=ended)
    others = _runs(client, deployment, expected_start_time={"after_": now - LOOK_BACK}) if died else []
    for run in died:
        try:
            wanted = retried.next_parameters(run)
            if is_answered(wanted, [*died, *others]):
                continue
            # The key makes two watches one. An automation that answers after all makes a run that ends as `Duplicate`.
            made = client.create_flow_run_from_deployment(
                deployment, parameters=wanted, idempotency_key=f"after {run.id}"
            )
        except BadInput as error:
            yield f"{run.name}: {run.state_name}, and cannot be begun again: {error}"
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in REFUSALS:
                raise
            yield f"{run.name}: {run.state_name}, and cannot be begun again: {error.response.text[:200]}"
        else:
            yield f"{run.name}: {run.state_name}, and nothing followed: made {made.name}"


def _runs(client: SyncPrefectClient, deployment: UUID, **conditions: Any) -> list[FlowRun]:
    """All runs of the deployment that meet Prefect's conditions, page by page."""
    found: list[FlowRun] = []
    wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, **conditions})
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found)):
        found += page
    return found


def _heartbeat(client: SyncPrefectClient, run: FlowRun) -> datetime | None:
    """When the server received the last one, by its own clock."""
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    beats = answer.json()["events"]
    return datetime.fromisoformat(beats[0]["received"]) if beats else None
