"""The Prefect tasks that evaluate a run and render its report."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.services.run.paths import RunDir
from tasks.services.stages.plan import EvaluationDecision
from tasks.services.tracking.wandb_tracking import Tracker
from tasks.train import SKIPPED
from ups_models.config.schema import PipelineConfig


@task(name="evaluate", task_run_name="{decision.name}", cache_policy=NO_CACHE, persist_result=False)
def evaluate(decision: EvaluationDecision, cfg: PipelineConfig, run: RunDir) -> State | None:
    """Run one evaluation, or end as Skipped with the reason."""
    if not decision.run:
        return Completed(name=SKIPPED, message=f"{decision.name}: {decision.reason}")
    from tasks.services.stages.evaluating import evaluate_run

    evaluate_run(decision.name, cfg, decision.settings, run)
    return None


def newest_report(run: RunDir, tracker: Tracker, *, changed: bool) -> Path:
    """The run's HTML report, rendered again when something changed."""
    path = run.report
    if changed or not path.exists():
        render_report(run, tracker)
    return path


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
def render_report(run: RunDir, tracker: Tracker) -> None:
    """Write the report, and tell the tracker."""
    from tasks.services.stages.evaluating import reported, write_report

    write_report(run)
    tracker.report(lambda: reported(run))
