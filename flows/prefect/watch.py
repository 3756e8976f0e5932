"""`ups watch`: do what an automation failed to do because its event was lost (docs/adr/0007)."""

import math
import re
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
from flows.prefect.client import PAGE, deployments_of, find_automation, require_api_url, server_client
from flows.requests.attempts import as_given
from ups_models.errors import BadInput, UPSError

LOOK_BACK = LOOK_AHEAD = timedelta(days=1)
MADE_UP = re.compile(r"[a-z]+-[a-z]+")
"""Names that the server gives to runs."""
PENDING_PATIENCES = 10
"""A run that a worker took will not start any more when it has been pending for so many times the patience."""
WITH_HEARTBEATS = (StateType.RUNNING, StateType.CANCELLING)
"""States in which a run sends heartbeats."""
REFUSALS = (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY)
"""The server's answers to parameters that the deployment does not take."""


def watch(echo: Callable[[str], None], *, every_s: float, patience_s: float, once: bool) -> None:
    """Check all runs every so many seconds, whatever the server answers. Raises BadInput without its address.

    With `once`, also raises whatever else `server_client` raises.
    """
    require_api_url()
    up_since = -math.inf if once else time.monotonic()
    while True:
        try:
            with server_client() as client:
                for line in check_runs(client, patience_s, time.monotonic() - up_since):
                    echo(line)
        except UPSError as error:
            if once:
                raise
            echo(f"{error}; asking again in {every_s:g} s")
            up_since = time.monotonic() + every_s
        if once:
            return
        time.sleep(every_s)


def check_runs(client: SyncPrefectClient, patience_s: float, up_for_s: float) -> Iterator[str]:
    """Name those that wait, end silent ones and restart dead ones; yields what was done.

    The last two where the automation is enabled and late. Heartbeats are lost while the server is down: it must have
    been up for as long as a run may be silent.
    """
    for policy in RESTART_POLICIES:
        deployments = [one.id for one in deployments_of(client, policy.flow)]
        for deployment in deployments:
            _name_waiting(client, policy, deployment)
        silent_s = _enabled(client, policy.heartbeat_name).get("trigger", {}).get("within") if deployments else None
        if silent_s is not None and up_for_s > silent_s + patience_s:
            silent_s += patience_s
            limits = {StateType.PENDING: PENDING_PATIENCES * patience_s, **dict.fromkeys(WITH_HEARTBEATS, silent_s)}
            for deployment in deployments:
                yield from _end_silent(client, deployment, limits)
        if deployments and _enabled(client, policy.restart_name):
            for deployment in deployments:
                yield from _restart_dead(client, policy, deployment, timedelta(seconds=patience_s))


def has_successor(parameters: Mapping[str, Any], runs: Iterable[FlowRun]) -> bool:
    """Whether one of the runs has these parameters of a next run, or comes later in the same chain."""
    wanted = as_given(parameters)
    others = [as_given(run.parameters) for run in runs]
    numbers = [given.get("attempt") for given in others if given.get("chain") == wanted["chain"]]
    return any(isinstance(number, int) and number >= wanted["attempt"] for number in numbers)


def last_seen(run: FlowRun, heartbeat: datetime | None) -> datetime | None:
    """Time of the last heartbeat of a run; None for one that is running and never sent a heartbeat.

    A run that a person retried has old heartbeats and a new state.
    """
    if run.state is None or (heartbeat is None and run.state_type == StateType.RUNNING):
        return None
    return max(run.state.timestamp, heartbeat or run.state.timestamp)


def _enabled(client: SyncPrefectClient, name: str) -> dict[str, Any]:
    """The automation of this name if it is enabled, else nothing."""
    automation = find_automation(client, name)
    return automation if automation is not None and automation["enabled"] else {}


def _name_waiting(client: SyncPrefectClient, policy: RestartPolicy, deployment: UUID) -> None:
    """Give those that a worker will begin soon the name that they will have, where the server has made one up."""
    soon = {"before_": datetime.now(UTC) + LOOK_AHEAD}
    for run in _runs(client, deployment, state={"type": {"any_": [StateType.SCHEDULED]}}, expected_start_time=soon):
        if MADE_UP.fullmatch(run.name):
            name = policy.run_name(run.parameters)
            client.request("PATCH", "/flow_runs/{id}", path_params={"id": run.id}, json={"name": name})


def _end_silent(client: SyncPrefectClient, deployment: UUID, limits: Mapping[StateType, float]) -> Iterator[str]:
    for kind, limit_s in limits.items():
        for run in _runs(client, deployment, state={"type": {"any_": [kind]}}):
            seen = last_seen(run, _heartbeat(client, run) if kind in WITH_HEARTBEATS else None)
            silent_s = (datetime.now(UTC) - seen).total_seconds() if seen is not None else 0.0
            message = f"no heartbeat for {silent_s:.0f} s"
            # A run that a person cancelled must not be restarted; the worker that should have ended it is lost.
            end: State[Any] = (Cancelled if kind == StateType.CANCELLING else Crashed)(message=message)
            if silent_s > limit_s and _is_accepted(client, run, end):
                yield f"{run.name}: {message}: {str(end.name).lower()}"


def _is_accepted(client: SyncPrefectClient, run: FlowRun, end: State) -> bool:
    """Whether the server accepts the state: the run may have ended, or be deleted, by now."""
    try:
        return client.set_flow_run_state(run.id, end).status == SetStateStatus.ACCEPT
    except ObjectNotFound:
        return False


def _restart_dead(
    client: SyncPrefectClient, policy: RestartPolicy, deployment: UUID, patience: timedelta
) -> Iterator[str]:
    now = datetime.now(UTC)
    ended = {"after_": now - LOOK_BACK, "before_": now - patience}
    dead = _runs(client, deployment, state={"name": {"any_": policy.after}}, end_time=ended)
    others = _runs(client, deployment, expected_start_time={"after_": now - LOOK_BACK}) if dead else []
    for run in dead:
        try:
            parameters = policy.next_parameters(run)
            if has_successor(parameters, [*dead, *others]):
                continue
            # The key is the same for two watches. If the automation acts after all, its run ends as `Duplicate`.
            created = client.create_flow_run_from_deployment(
                deployment,
                name=policy.run_name(parameters),
                parameters=parameters,
                idempotency_key=f"after {run.id}",
            )
        except BadInput as error:
            yield f"{run.name}: {run.state_name}, and cannot be restarted: {error}"
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in REFUSALS:
                raise
            yield f"{run.name}: {run.state_name}, and cannot be restarted: {error.response.text[:200]}"
        else:
            yield f"{run.name}: {run.state_name}, and no run followed: created {created.name}"


def _runs(client: SyncPrefectClient, deployment: UUID, **conditions: Any) -> list[FlowRun]:
    """All runs of the deployment that meet Prefect's conditions, page by page."""
    found: list[FlowRun] = []
    chosen = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, **conditions})
    while page := client.read_flow_runs(flow_run_filter=chosen, limit=PAGE, offset=len(found)):
        found += page
    return found


def _heartbeat(client: SyncPrefectClient, run: FlowRun) -> datetime | None:
    """When the server received the run's last heartbeat, by its own clock."""
    chosen = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": chosen, "limit": 1})
    beats = answer.json()["events"]
    return datetime.fromisoformat(beats[0]["received"]) if beats else None
