"""Automations of the Prefect server: restart a run that died, mark a run without heartbeats as crashed, notify."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from jinja2 import Template, TemplateError
from prefect.automations import Automation, EventTrigger, Posture
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification

from flows.prefect.chain import BAD_INPUT, DUPLICATE, GAVE_UP, ID_LENGTH, launch_name, training_name
from flows.prefect.wishes import PROCESS_ENDED
from flows.requests.attempts import GROUP, Attempts, TrainingAttempts
from ups_models.errors import BadInput

REQUEST = "{{ flow_run.parameters['request'] | tojson }}"
"""Prefect adds `| tojson` to a plain string alone, not inside a structure of its own kinds such as ours."""
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", GAVE_UP, BAD_INPUT, DUPLICATE)
"""Events carry the name of a state, not its type."""
SUSPENDED = ("Suspended", "Paused")
"""In these states no process runs, and none sends a heartbeat."""
SUBJECT = "{{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run | ui_url }}"


def next_attempts(schema: type[Attempts]) -> str:
    """The group of attempts of the next run, as a template that the server renders to JSON."""
    limits = {name: schema.model_fields[name].default for name in schema.model_fields if name.startswith("max_")}
    known = "".join(f", '{name}': given.get('{name}') or {default}" for name, default in limits.items())
    return (
        f"{{% set given = flow_run.parameters.get('{GROUP}') or flow_run.parameters %}}"  # of earlier schedules
        "{{ {'attempt': (given.get('attempt') or 1) + 1, "
        f"'chain': given.get('chain') or (flow_run.id | string)[:{ID_LENGTH}]{known}}} | tojson }}}}"
    )


@dataclass(frozen=True)
class RestartPolicy:
    """A flow whose deployments' runs are restarted automatically: after which final states, with which parameters.

    The names of its automations stand on the users' servers, where `ups deploy` finds what it made before by them.
    """

    flow: str
    after: tuple[str, ...]
    parameters: Mapping[str, str]
    run_name: Callable[[Mapping[str, Any]], str]
    """The name of a run with these parameters."""

    @property
    def restart_name(self) -> str:
        """Name of the automation that starts the next run."""
        return f"ups: {self.flow} again after a crash"

    @property
    def heartbeat_name(self) -> str:
        """Name of the automation that marks a run without heartbeats as crashed."""
        return f"ups: {self.flow} without a heartbeat has crashed"

    @property
    def notify_name(self) -> str:
        """Name of the automation that notifies a person."""
        return f"ups: tell when {self.flow} fails or gives up"

    def next_parameters(self, run: FlowRun) -> dict[str, Any]:
        """Parameters of the run that follows this one, as the server renders them. Raises BadInput."""
        try:
            return {name: json.loads(Template(text).render(flow_run=run)) for name, text in self.parameters.items()}
        except (TemplateError, TypeError, json.JSONDecodeError) as error:
            raise BadInput(f"its parameters are not those of {self.flow} ({error}); start it again by hand") from error


RESTART_POLICIES = (
    RestartPolicy(
        "train-pipeline",
        ("Crashed", "Failed"),
        {"request": REQUEST, GROUP: next_attempts(TrainingAttempts)},
        training_name,
    ),
    RestartPolicy(
        "train-on-vast",
        ("Crashed",),
        {"request": REQUEST, GROUP: next_attempts(Attempts)},
        launch_name,
    ),
)


def restart_automation(policy: RestartPolicy, after_s: float) -> Automation:
    """Start a new run of the same deployment, after a pause, when one died: Prefect's own retries do not see a crash.

    The new run decides whether that makes sense: it knows the outcome of the runs before it.
    """
    parameters = {
        name: {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}
        for name, template in policy.parameters.items()
    }
    action = RunDeployment(source="inferred", parameters=parameters, schedule_after=timedelta(seconds=after_s))
    return Automation(name=policy.restart_name, trigger=_when(policy.after, policy), actions=[action])


def heartbeat_automation(policy: RestartPolicy, after_s: float) -> Automation:
    """Mark a run as crashed when its heartbeats stop, as when its machine or worker is lost: nothing else would."""
    return Automation(
        name=policy.heartbeat_name,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *_events((*ENDS, *SUSPENDED)), PROCESS_ENDED},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_of(policy),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=after_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {after_s:g} s")],
    )


def notify_automation(policy: RestartPolicy, block: UUID) -> Automation:
    """Notify a person, through a notification block, of a run that needs one."""
    return Automation(
        name=policy.notify_name,
        trigger=_when((GAVE_UP, BAD_INPUT, "Failed"), policy),
        actions=[SendNotification(block_document_id=block, subject=SUBJECT, body=BODY)],
    )


def _when(ends: tuple[str, ...], policy: RestartPolicy) -> EventTrigger:
    """Each time a run of a deployment of the flow ends in one of these states."""
    return EventTrigger(expect=_events(ends), match_related=_of(policy), posture=Posture.Reactive, threshold=1)


def _events(states: tuple[str, ...]) -> set[str]:
    return {f"prefect.flow-run.{state}" for state in states}


def _of(policy: RestartPolicy) -> list[Any]:
    """Any deployment of the flow, under whatever name: a heartbeat names the flow, and of the deployment the id."""
    return [
        {"prefect.resource.role": "flow", "prefect.resource.name": policy.flow},
        {"prefect.resource.id": "prefect.deployment.*"},
    ]
