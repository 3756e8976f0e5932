"""The Prefect task that evaluates a run, or says why there is nothing to do."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.services.run.lock import OwnedRun
from tasks.services.stages.execution import evaluate_if_needed
from tasks.services.stages.plan import EvaluationDecision
from tasks.train import SKIPPED, stopped
from ups_models.config.schema import PipelineConfig
from ups_models.errors import Preempted


@task(name="evaluate", task_run_name="{decision.name}", cache_policy=NO_CACHE, persist_result=False)
def evaluate(decision: EvaluationDecision, cfg: PipelineConfig, run: OwnedRun) -> State | None:
    """Run one evaluation, or end as Skipped with the reason, or as Stopped."""
    try:
        if evaluate_if_needed(decision, cfg, run):
            return None
    except Preempted as error:
        return stopped(error)
    return Completed(name=SKIPPED, message=f"{decision.name}: {decision.reason}")
