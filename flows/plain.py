"""A training without Prefect: the checkpoints of a W&B run first, where the request names one, then the DAG."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from tasks.services.run.lock import owned
from tasks.services.run.retry import retrying
from tasks.services.stages.job import Job
from tasks.services.tracking import restoring
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.run_path import ResumeTarget

PAUSES_S = (5.0, 5.0)
"""Before a download is tried again."""


def _fetch(*arguments: Any) -> tuple[Path, str] | None:
    return retrying(PAUSES_S, TrackingUnavailable)(restoring.fetch, *arguments)


@dataclass(frozen=True)
class RestoreSteps:
    """What restoring is made of: plain functions here, tasks under Prefect."""

    find: Callable[..., Any] = restoring.look_up
    download: Callable[..., Any] = _fetch
    verify: Callable[..., Any] = restoring.check
    install: Callable[..., Any] = restoring.put_in_place


def restored(job: Job, steps: RestoreSteps = RestoreSteps(), *, patience_s: float = 0.0) -> ResumeTarget:
    """Bring the checkpoints of the W&B run that the job names here; returns which run training resumes."""
    source = job.source
    if source is None:
        return ResumeTarget()
    found = steps.find(source.path, source.mode, job.cfg)
    if found is None:
        return ResumeTarget(path=source.path)
    with owned(job.run, patience_s=patience_s) as run:
        fetched = steps.download(found, source.mode, job.cfg, run)
        if fetched is not None:
            steps.install(steps.verify(*fetched, job.cfg), found, source.mode, run, force=source.force)
    if source.mode == "never":
        return ResumeTarget(source=str(found.path))
    return ResumeTarget(found.path, found)


def train_plainly(request: TrainRequest) -> str:
    """Train what is missing, evaluate what changed; returns the path of the HTML report."""
    job = parse(request)
    return str(run_job(job, resume=restored(job) if job.source is not None else None))
