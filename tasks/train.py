"""The Prefect task that trains a stage, or says why there is nothing to do."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from tasks.services.run.lock import OwnedRun
from tasks.services.stages.execution import run_stage
from tasks.services.stages.plan import Decision
from tasks.services.tracking.tracker import Tracker
from ups_models.config.schema import PipelineConfig
from ups_models.errors import Preempted

SKIPPED, RESUMED, STOPPED = "Skipped", "Resumed", "Stopped"


@task(name="train-stage", task_run_name="{decision.stage}", cache_policy=NO_CACHE, persist_result=False)
def train_stage(decision: Decision, cfg: PipelineConfig, run: OwnedRun, tracker: Tracker) -> State | None:
    """Train one stage, or end as Skipped with the reason.

    One that was interrupted before ends as Resumed, and one that is interrupted now as Stopped: it has not failed.
    """
    try:
        trained = run_stage(decision, cfg, run, tracker)
    except Preempted as error:
        return stopped(error)
    if trained and decision.action != "resume":
        return None
    return Completed(name=RESUMED if trained else SKIPPED, message=f"{decision.stage}: {decision.reason}")


def stopped(error: Preempted) -> State:
    """The state of a task whose work was stopped and is safe; it holds the error."""
    return Cancelled(name=STOPPED, message=str(error), data=error)
