"""The Prefect task that trains a stage, or says why there is nothing to do."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.services.run.lock import OwnedRun
from tasks.services.stages.execution import run_stage
from tasks.services.stages.plan import Decision
from tasks.services.tracking.tracker import Tracker
from ups_models.config.schema import PipelineConfig

SKIPPED, RESUMED = "Skipped", "Resumed"


@task(name="train-stage", task_run_name="{decision.stage}", cache_policy=NO_CACHE, persist_result=False)
def train_stage(decision: Decision, cfg: PipelineConfig, run: OwnedRun, tracker: Tracker) -> State | None:
    """Train one stage, or end as Skipped with the reason; one that was interrupted before ends as Resumed."""
    if run_stage(decision, cfg, run, tracker):
        if decision.action != "resume":
            return None
        return Completed(name=RESUMED, message=f"{decision.stage}: {decision.reason}")
    return Completed(name=SKIPPED, message=f"{decision.stage}: {decision.reason}")
