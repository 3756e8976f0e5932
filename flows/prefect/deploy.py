"""Create or update our work pool, deployments and automations on a Prefect server; idempotent."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows import ROOT
from flows.prefect.automations import RESTART_POLICIES, heartbeat_automation, notify_automation, restart_automation
from flows.prefect.client import find_automation, server_client
from ups_models.errors import BadInput, UPSError

POOL = "ups"
FILE = ROOT / "deployments" / "prefect.yaml"
DRY_RUN_ID = UUID(int=0)
"""In the place of a deployment that a dry run does not create."""


def deploy(
    echo: Callable[[str], None],
    *,
    dry_run: bool,
    retry_after_s: float,
    heartbeat_timeout_s: float,
    notify: str | None,
) -> None:
    """Create or update everything, or say what would be created. Raises BadInput, UPSError."""
    deployments = yaml.safe_load(FILE.read_text("utf-8"))["deployments"]
    _require_several_heartbeats(deployments[0], heartbeat_timeout_s)
    with server_client() as client:
        block = _block(client, notify) if notify is not None else None
        pool = any(one.name == POOL for one in client.read_work_pools())
        existing = {one.name for one in client.read_deployments()}
        if not dry_run:
            _create_pool(client)
            _create_deployments()
        echo(f"{_verb(dry_run, pool)}: work pool {POOL} (type process)")
        for deployment in deployments:
            echo(f"{_verb(dry_run, deployment['name'] in existing)}: deployment {deployment['name']}")
        for policy in RESTART_POLICIES:
            deployment_id = DRY_RUN_ID if dry_run else client.read_deployment_by_name(policy.deployment).id
            automations = [
                restart_automation(policy, deployment_id, retry_after_s),
                heartbeat_automation(policy, deployment_id, heartbeat_timeout_s),
            ]
            automations += [notify_automation(policy, deployment_id, block)] if block is not None else []
            for automation in automations:
                known = find_automation(client, automation.name)
                if not dry_run:
                    _put(client, automation, known)
                echo(f"{_verb(dry_run, known is not None)}: automation {automation.name!r}")


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


def _create_deployments() -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(FILE), "--all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UPSError(f"{FILE}: could not be deployed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


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


def _put(client: SyncPrefectClient, automation: Automation, known: dict[str, Any] | None) -> None:
    """Create or update it; one that somebody switched off stays off."""
    content = automation.model_dump(mode="json", exclude_unset=False, exclude={"id", "owner_resource"})
    if known is None:
        client.request("POST", "/automations/", json=content).raise_for_status()
    else:
        content["enabled"] = known["enabled"]
        client.request("PUT", "/automations/{id}", path_params={"id": known["id"]}, json=content).raise_for_status()
