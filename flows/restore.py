"""The sub-flow that brings checkpoints from a W&B run to this machine."""

from prefect import flow

from tasks.restore import download, find_run, install, verify
from tasks.services.run.lock import owned
from tasks.services.stages.job import Job
from tasks.services.tracking.run_path import ResumeTarget


@flow(name="restore-checkpoints", validate_parameters=False)
def restore_checkpoints(job: Job) -> ResumeTarget:
    """Bring the checkpoints of the W&B run that the job names here; returns which run training resumes."""
    source = job.source
    if source is None:
        return ResumeTarget()
    found = find_run(source.path, source.mode, job.cfg)
    if found is None:
        return ResumeTarget(path=source.path)
    with owned(job.run) as run:
        fetched = download(found, source.mode, job.cfg, run)
        if fetched is not None:
            restored = verify(*fetched, job.cfg)
            install(restored, found, source.mode, run, force=source.force)
    if source.mode == "never":
        return ResumeTarget(source=str(found.path))
    return ResumeTarget(found.path, found)
