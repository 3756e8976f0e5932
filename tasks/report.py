"""The Prefect task that renders the report of a run."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.services.run.lock import OwnedRun
from tasks.services.stages.execution import report_if_changed
from tasks.services.tracking.tracker import Tracker


@task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
def report(run: OwnedRun, tracker: Tracker) -> None:
    """Write the report, and tell the tracker."""
    report_if_changed(run, tracker, changed=True)
