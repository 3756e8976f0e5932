"""The sub-flow that brings checkpoints from W&B to this machine."""

from prefect import flow

from flows.requests.train import TrainRequest, resolve
from tasks.restore import download, find_run, install, verify
from tasks.services.run.paths import owned
from tasks.services.tracking.wandb_tracking import ResumeTarget


@flow(name="restore-checkpoints", validate_parameters=True)
def restore_checkpoints(request: TrainRequest) -> ResumeTarget:
    """Bring the checkpoints of the W&B run that the request names here; returns which run training goes on with."""
    job = resolve(request)
    if job.source is None:
        return ResumeTarget()
    found = find_run(job.source, request.resume_mode, job.cfg)
    if found is None:
        return ResumeTarget(path=job.source)
    with owned(job.run):
        fetched = download(found, request.resume_mode, job.cfg, job.run)
        if fetched is not None:
            restored = verify(*fetched, job.cfg)
            install(restored, found, request.resume_mode, job.run, force=request.force)
    if request.resume_mode == "never":
        return ResumeTarget(source=str(found.path))
    return ResumeTarget(found.path, found)
