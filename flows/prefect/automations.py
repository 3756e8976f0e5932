"""What the Prefect server does by itself: run again what died, notice what vanished, tell a person."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from jinja2 import Template, TemplateError
from prefect.automations import Automation, EventTrigger, Posture
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification

from flows.prefect.chain import BAD_INPUT, DUPLICATE, GAVE_UP
from ups_models.errors import BadInput

REQUEST = "{{ flow_run.parameters['request'] | tojson }}"
"""Prefect adds `| tojson` to a plain string alone, not inside a structure of its own kinds such as ours."""
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", GAVE_UP, BAD_INPUT, DUPLICATE)
"""Events carry the name of a state, not its type."""
SUBJECT = "{{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run | ui_url }}"


CHAIN = {
    "request": REQUEST,
    "attempt": "{{ flow_run.parameters.get('attempt', 1) + 1 }}",
    "max_attempts": "{{ flow_run.parameters.get('max_attempts', 100) }}",
    "chain": "{{ (flow_run.parameters.get('chain') or (flow_run.id | string)[:8]) | tojson }}",
}
"""Parameters of the next run, as templates of the server that give JSON."""
PER_DAY = {"max_attempts_per_day": "{{ flow_run.parameters.get('max_attempts_per_day', 30) }}"}


@dataclass(frozen=True)
class RestartPolicy:
    """A deployment whose runs begin again by themselves: after which ends, with which parameters."""

    deployment: str
    after: tuple[str, ...]
    parameters: Mapping[str, str]

    @property
    def flow(self) -> str:
        """The flow's name."""
        return self.deployment.partition("/")[0]

    @property
    def again(self) -> str:
        """Name of the automation that begins the next run."""
        return f"ups: {self.flow} again after a crash"

    @property
    def vanished(self) -> str:
        """Name of the automation that calls a run crashed."""
        return f"ups: {self.flow} without a heartbeat has crashed"

    def next_parameters(self, run: FlowRun) -> dict[str, Any]:
        """Parameters of the run that follows this one, as the server renders them. Raises BadInput."""
        try:
            return {name: json.loads(Template(text).render(flow_run=run)) for name, text in self.parameters.items()}
        except (TemplateError, TypeError, json.JSONDecodeError) as error:
            raise BadInput(f"its parameters are none of {self.flow} ({error}); start it again by hand") from error


RESTART_POLICIES = (
    RestartPolicy("train-pipeline/train-pipeline", ("Crashed", "Failed"), {**CHAIN, **PER_DAY}),
    RestartPolicy("train-on-vast/train-on-vast", ("Crashed",), CHAIN),
)


def again(retried: RestartPolicy, deployment: UUID, after_s: float) -> Automation:
    """A run that died is run again, as a new flow run, after a pause: Prefect's own retries do not see a crash.

    Whether that makes sense the new run decides, which knows what the ones before it came to.
    """
    parameters = {
        name: {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}
        for name, template in retried.parameters.items()
    }
    return Automation(
        name=retried.again,
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{end}" for end in retried.after},
            match_related=_of(deployment),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                parameters=parameters,
                schedule_after=timedelta(seconds=after_s),
            )
        ],
    )


def vanished(retried: RestartPolicy, deployment: UUID, after_s: float) -> Automation:
    """A run whose heartbeats stop, with its machine or its worker, is called crashed: nobody else would say so."""
    return Automation(
        name=retried.vanished,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_of(deployment),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=after_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {after_s:g} s")],
    )


def notify_automation(retried: RestartPolicy, deployment: UUID, block: UUID) -> Automation:
    """A person hears, through a notification block, of what nothing will cure by itself."""
    ends = {GAVE_UP, BAD_INPUT, "Failed"}
    return Automation(
        name=f"ups: tell when {retried.flow} fails or gives up",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{end}" for end in ends},
            match_related=_of(deployment),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[SendNotification(block_document_id=block, subject=SUBJECT, body=BODY)],
    )


def _of(deployment: UUID) -> dict[str, Any]:
    """By id: heartbeats carry no name of the deployment."""
    return {"prefect.resource.id": f"prefect.deployment.{deployment}"}
