"""`ups deploy`: work pool, deployments and automations on the Prefect server of PREFECT_API_URL; may be repeated."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.exceptions import ObjectAlreadyExists

from flows import ROOT
from flows.chain import BAD_INPUT, GAVE_UP
from ups_models.errors import BadInput, UPSError

POOL = "ups"
FILE = ROOT / "deployments" / "prefect.yaml"
RETRIED = "train-pipeline/train-pipeline"
RETRY, VANISHED = "ups: train-pipeline again after a crash", "ups: train-pipeline without a heartbeat has crashed"
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", GAVE_UP, BAD_INPUT)
"""Events carry the name of a state, not its type."""
RETRY_AFTER_S, VANISHED_AFTER_S = 10.0, 90.0
NEXT_ATTEMPT = {
    # Prefect adds `| tojson` to a plain string alone, not inside a structure of its own kinds such as ours.
    "request": "{{ flow_run.parameters['request'] | tojson }}",
    "attempt": "{{ flow_run.parameters.get('attempt', 1) + 1 }}",
    "max_attempts": "{{ flow_run.parameters.get('max_attempts', 100) }}",
    "max_attempts_per_day": "{{ flow_run.parameters.get('max_attempts_per_day', 30) }}",
    "chain": "{{ (flow_run.parameters.get('chain') or (flow_run.id | string)[:8]) | tojson }}",
}


def deploy(
    say: Callable[[str], None],
    *,
    dry_run: bool,
    retry_after_s: float = RETRY_AFTER_S,
    vanished_after_s: float = VANISHED_AFTER_S,
) -> None:
    """Make everything that a new user needs, or say what would be made. Raises BadInput without a server."""
    if not os.environ.get("PREFECT_API_URL"):
        raise BadInput("PREFECT_API_URL is not set: start a server (`make server`) and name its address there")
    steps: list[tuple[str, Callable[[], object]]] = [
        (f"work pool {POOL} (type process)", _work_pool),
        (f"deployments of {FILE.relative_to(ROOT)}", _deployments),
        (f"automation {RETRY!r}, after {retry_after_s:g} s", lambda: _upsert(_retry(_deployment(), retry_after_s))),
        (
            f"automation {VANISHED!r}, after {vanished_after_s:g} s",
            lambda: _upsert(_vanished(_deployment(), vanished_after_s)),
        ),
    ]
    for what, make in steps:
        if not dry_run:
            make()
        say(f"{'would make' if dry_run else 'made'}: {what}")


def _work_pool() -> None:
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        except ObjectAlreadyExists:
            return


def _deployments() -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(FILE), "--all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UPSError(f"{FILE}: could not be deployed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


def _deployment() -> UUID:
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(RETRIED).id


def _retry(deployment: UUID, retry_after_s: float) -> Automation:
    """A run that crashed or failed is run again, as a new flow run, after a pause: Prefect's retries see no crash.

    Whether that makes sense the new run decides, which knows what the ones before it came to.
    """
    parameters = {
        name: {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}
        for name, template in NEXT_ATTEMPT.items()
    }
    return Automation(
        name=RETRY,
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed", "prefect.flow-run.Failed"},
            match_related={"prefect.resource.id": f"prefect.deployment.{deployment}"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                parameters=parameters,
                schedule_after=timedelta(seconds=retry_after_s),
            )
        ],
    )


def _vanished(deployment: UUID, after_s: float) -> Automation:
    """A run whose heartbeats stop, with its machine or its worker, is called crashed: nobody else would say so."""
    return Automation(
        name=VANISHED,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{end}" for end in ENDS),
            },
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.deployment.{deployment}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=after_s),
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {after_s:g} s"),
        ],
    )


def _upsert(automation: Automation) -> None:
    """Replace what has this name: its id means nothing to anybody."""
    with get_client(sync_client=True) as client:
        known = client.request(
            "POST", "/automations/filter", json={"automations": {"name": {"any_": [automation.name]}}}
        )
        for found in known.raise_for_status().json():
            client.request("DELETE", "/automations/{id}", path_params={"id": found["id"]}).raise_for_status()
        content = automation.model_dump(mode="json", exclude_unset=False, exclude={"id", "owner_resource"})
        client.request("POST", "/automations/", json=content).raise_for_status()
