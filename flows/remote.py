"""The sub-flows that reach beyond this machine."""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from flows.prefect.artifacts import RemoteStages, artifact_sender
from flows.prefect.chain import MAX_ATTEMPTS, chain_run_of, checked, ended, log_to_prefect, remote_name
from flows.prefect.server import is_temporary
from flows.requests.launch import LaunchRequest, run_launch
from flows.requests.train import TrainRequest, resolve
from tasks.restore import download, find_run, install, verify
from tasks.services.run.attempts import Duplicate, GaveUp
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


@flow(name="train-on-vast", flow_run_name=remote_name, validate_parameters=False)
def train_on_vast(
    request: LaunchRequest,
    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 1,
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 100,
    chain: str | None = None,
) -> str | State:
    """Train on rented machines to the end, whatever becomes of them; returns the W&B run.

    Args:
        request: What to train, on which machines, for how much.
        attempt: Counts the controllers of a chain, each begun by itself after the one before died.
        max_attempts: Give up after so many controllers of a chain.
        chain: Names the chain; empty: this run begins one.
    """
    log_to_prefect()
    this = chain_run_of(chain, attempt, max_attempts)
    request = checked(LaunchRequest, request)
    try:
        if is_temporary():
            return str(run_launch(request, attempt=this).path)
        with artifact_sender() as sender:
            return str(run_launch(request, lambda job, cfg: RemoteStages(sender, cfg, job.status), this).path)
    except (GaveUp, Duplicate) as error:
        return ended(error)
