"""The flow that trains on rented machines."""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from flows.prefect.artifacts import RemoteStages, artifact_sender
from flows.prefect.chain import MAX_ATTEMPTS, chain_run_of, checked, ended, log_to_prefect, remote_name
from flows.prefect.server import is_temporary
from flows.requests.launch import LaunchRequest, run_launch
from tasks.services.run.attempts import Duplicate, GaveUp


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
