"""Create or update our work pool, deployments and automations on a Prefect server; idempotent."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import load_flow_from_entrypoint

from flows import shipped
from flows.prefect.automations import RESTART_POLICIES, heartbeat_automation, notify_automation, restart_automation
from flows.prefect.carried import carried
from flows.prefect.client import deployments_of, find_automation, server_client
from flows.requests.attempts import without_earlier
from ups_models.errors import BadInput

POOL = "ups"
FILE = "deployments/prefect.yaml"


def deploy(
    echo: Callable[[str], None],
    *,
    dry_run: bool,
    retry_after_s: float,
    heartbeat_timeout_s: float,
    notify: str | None,
    config: Path | None = None,
    name: str | None = None,
) -> None:
    """Create or update everything, or say what would be created. Raises BadInput, UPSError.

    `config` is one of the user's own that gets a deployment beside ours, called `name` or like the file.
    """
    deployments = yaml.safe_load(shipped(FILE).read_text("utf-8"))["deployments"]
    if config is not None:
        deployments.append(_own(config, name or config.stem, deployments))
    _require_several_heartbeats(deployments[0], heartbeat_timeout_s)
    with server_client() as client:
        block = _block(client, notify) if notify is not None else None
        pool = any(one.name == POOL for one in client.read_work_pools())
        known = {one.name: one for one in deployments_of(client, *(policy.flow for policy in RESTART_POLICIES))}
        if not dry_run:
            _create_pool(client)
        echo(f"{_verb(dry_run, pool)}: work pool {POOL} (type process)")
        for deployment in deployments:
            made = known.get(deployment["name"])
            if not dry_run:
                _put_deployment(client, deployment, made)
            echo(f"{_verb(dry_run, made is not None)}: deployment {_flow_name(deployment)}/{deployment['name']}")
        for line in _limited(known.values(), {deployment["name"] for deployment in deployments}):
            echo(line)
        for policy in RESTART_POLICIES:
            automations = [restart_automation(policy, retry_after_s), heartbeat_automation(policy, heartbeat_timeout_s)]
            automations += [notify_automation(policy, block)] if block is not None else []
            for automation in automations:
                echo(_put(client, automation, dry_run=dry_run))


def _own(config: Path, name: str, ours: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A deployment of train-pipeline that carries a config and its code. Raises BadInput."""
    if name in {one["name"] for one in ours}:
        raise BadInput(f"--name {name}: is a deployment of ours; choose another name")
    files = carried(config)
    request = {"config": files.config.as_posix(), "mode": "resume", "run_dir": name}
    return {
        **ours[0],
        "name": name,
        "description": f"Train {config.name}, which this deployment carries, and evaluate it.",
        "parameters": {"request": request},
        "pull_steps": [files.pull_step],
        "schedules": (),
    }


def _require_several_heartbeats(deployment: Mapping[str, Any], timeout_s: float) -> None:
    every_s = float(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    if timeout_s <= every_s:
        raise BadInput(
            f"--vanished-after {timeout_s:g}: a run sends a heartbeat every {every_s:g} s; take {3 * every_s:g}"
        )


def _verb(dry_run: bool, known: bool) -> str:
    return {
        (True, True): "would update",
        (True, False): "would create",
        (False, True): "updated",
        (False, False): "created",
    }[dry_run, known]


def _create_pool(client: SyncPrefectClient) -> None:
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        return


def _flow_name(deployment: Mapping[str, Any]) -> str:
    """`flows.pipeline.train_pipeline` is the flow train-pipeline."""
    return str(deployment["entrypoint"]).rpartition(".")[2].replace("_", "-")


def _put_deployment(client: SyncPrefectClient, deployment: Mapping[str, Any], known: DeploymentResponse | None) -> None:
    """Create or update it: a module to import, no path of this machine; schedules that people made or switched stay."""
    flow: Any = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    schedules = _schedules(known.schedules if known is not None else [], deployment.get("schedules", ()))
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=deployment["name"],
        entrypoint=deployment["entrypoint"],
        pull_steps=deployment.get("pull_steps", []),
        description=deployment["description"],
        tags=deployment["tags"],
        parameters=deployment["parameters"],
        parameter_openapi_schema=without_earlier(flow.parameters.model_dump_for_openapi()),
        enforce_parameter_schema=True,
        work_pool_name=deployment["work_pool"]["name"],
        work_queue_name=deployment["work_pool"].get("work_queue_name"),
        job_variables=deployment["work_pool"]["job_variables"],
        schedules=schedules,
        concurrency_limit=None,  # that of an older deployment is removed
    )


def _schedules(
    known: Iterable[DeploymentSchedule], ours: Iterable[Mapping[str, Any]]
) -> list[DeploymentScheduleCreate]:
    """What is on the server, as it is, and those of ours that are not there."""
    kept = [
        DeploymentScheduleCreate(
            schedule=one.schedule, active=one.active, parameters=one.parameters, slug=one.slug,
            max_scheduled_runs=one.max_scheduled_runs,
        )
        for one in known
    ]  # fmt: skip
    slugs = {one.slug for one in kept}
    made = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=one["cron"], timezone=one["timezone"]), active=one["active"], slug=one["slug"]
        )
        for one in ours
        if one["slug"] not in slugs
    ]
    return kept + made


def _limited(known: Iterable[DeploymentResponse], ours: set[str]) -> list[str]:
    """Copies that still have a concurrency limit, in words."""
    return [
        f"note: deployment {one.name} has a concurrency limit: when the server is away for 5 minutes, it ends training"
        for one in known
        if one.name not in ours and one.global_concurrency_limit is not None
    ]


def _block(client: SyncPrefectClient, name: str) -> UUID:
    """The notification block `type/name`. Raises BadInput."""
    kind, _, short = name.partition("/")
    try:
        return client.read_block_document_by_name(name=short, block_type_slug=kind).id
    except ObjectNotFound:
        raise BadInput(
            f"--notify {name}: there is no such block on the server; make one in the UI (Blocks, for example "
            "slack-webhook), and name it as type/name"
        ) from None


def _put(client: SyncPrefectClient, automation: Automation, *, dry_run: bool) -> str:
    """Create or update it, or only say so; one that somebody switched off stays off."""
    known = find_automation(client, automation.name)
    verdict = f"{_verb(dry_run, known is not None)}: automation {automation.name!r}"
    if dry_run:
        return verdict
    content = automation.model_dump(mode="json", exclude_unset=False, exclude={"id", "owner_resource"})
    if known is None:
        client.request("POST", "/automations/", json=content).raise_for_status()
    else:
        content["enabled"] = known["enabled"]
        client.request("PUT", "/automations/{id}", path_params={"id": known["id"]}, json=content).raise_for_status()
    return verdict
