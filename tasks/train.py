"""The Prefect task that trains a stage, or says why there is nothing to do."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.services.planning import Decision
from tasks.services.run_dir import RunDir
from ups_models.config import PipelineConfig
from ups_models.files import remove

SKIPPED = "Skipped"


@task(name="train-stage", task_run_name="{decision.stage}", cache_policy=NO_CACHE, persist_result=False)
def train_stage(decision: Decision, cfg: PipelineConfig, run: RunDir) -> State | None:
    """Train one stage, or end as Skipped with the reason."""
    if decision.action not in ("skip", "disabled"):
        from tasks.services import training
    if decision.action == "adopt":
        training.adopt_stage_files(decision.stage, cfg, run)
    if decision.action in ("skip", "adopt"):
        remove(run.resume(decision.stage))  # a crash may have come between completion and this
    if decision.action in ("skip", "adopt", "disabled"):
        return Completed(name=SKIPPED, message=f"{decision.stage}: {decision.reason}")
    training.train_stage_files(decision.stage, cfg, run, fresh=decision.action == "train")
    return None
