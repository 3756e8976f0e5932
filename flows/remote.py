"""The sub-flows that reach beyond this machine."""

from prefect import flow

from flows.chain import checked, log_to_prefect, remote_name
from flows.launch import LaunchRequest, carry_out
from flows.request import TrainRequest, resolve
from flows.server import is_temporary
from tasks.artifacts import RemoteStages, board
from tasks.checkpoints import download, find_run, install, verify
from tasks.services.run_dir import owned
from tasks.services.tracking import Continuation


@flow(name="restore-checkpoints", validate_parameters=True)
def restore_checkpoints(request: TrainRequest) -> Continuation:
    """Bring the checkpoints of the W&B run that the request names here; returns which run training goes on with."""
    job = resolve(request)
    if job.source is None:
        return Continuation()
    found = find_run(job.source, request.resume_mode, job.cfg)
    if found is None:
        return Continuation(path=job.source)
    with owned(job.run):
        fetched = download(found, request.resume_mode, job.cfg, job.run)
        if fetched is not None:
            restored = verify(*fetched, job.cfg)
            install(restored, found, request.resume_mode, job.run, force=request.force)
    if request.resume_mode == "never":
        return Continuation(source=str(found.path))
    return Continuation(found.path, found)


@flow(name="train-on-vast", flow_run_name=remote_name, validate_parameters=False)
def train_on_vast(request: LaunchRequest) -> str:
    """Train on rented machines to the end, whatever becomes of them; returns the W&B run.

    Args:
        request: What to train, on which machines, for how much.
    """
    log_to_prefect()
    request = checked(LaunchRequest, request)
    if is_temporary():
        return str(carry_out(request).path)
    with board() as shown:
        return str(carry_out(request, lambda job, cfg: RemoteStages(shown, cfg, job.status)).path)
