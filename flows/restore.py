"""The sub-flow that brings checkpoints from a W&B run to this machine."""

from prefect import flow

from flows.plain import RestoreSteps, restored
from tasks.restore import download, find_run, install, verify
from tasks.services.stages.job import Job
from tasks.services.tracking.run_path import ResumeTarget

STEPS = RestoreSteps(find_run, download, verify, install)


@flow(name="restore-checkpoints", validate_parameters=False)
def restore_checkpoints(job: Job, patience_s: float = 0.0) -> ResumeTarget:
    """Bring the checkpoints of the W&B run that the job names here; returns which run training resumes."""
    return restored(job, STEPS, patience_s=patience_s)
