"""A flow run as one attempt of a chain: what it is called, which chain it belongs to, and how to find the others."""

import os
import socket
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run

from tasks.services.attempts import Attempt

ID_LENGTH = 8
GAVE_UP, BAD_INPUT, DUPLICATE = "GaveUp", "BadInput", "Duplicate"
"""Names of final states that no automation answers with another attempt."""


def place() -> str:
    """Where this process runs, as a person would say it: `vast:12345`, or the name of the machine."""
    rented = os.environ.get("CONTAINER_ID")
    return f"vast:{rented}" if rented else socket.gethostname()


def run_name() -> str:
    """`burgers_32dim · attempt 2 · vast:12345`."""
    given = flow_run.parameters
    config = Path(getattr(given["request"], "config", "")).stem
    return f"{config} · attempt {given.get('attempt', 1)} · {place()}"


def attempt_of(chain: str | None, number: int, most: int, most_per_day: int) -> Attempt | None:
    """The attempt that this flow run is; None for one that no deployment made: nothing begins that again by itself."""
    if deployment.id is None:
        return None
    identity = str(flow_run.id)
    attempt = Attempt(chain or identity[:ID_LENGTH], identity, number, most, most_per_day)
    _tag(f"chain:{attempt.chain}")
    return attempt


def _tag(tag: str) -> None:
    """All runs of a chain carry one tag, by which the UI's list of runs finds them."""
    with get_client(sync_client=True) as client:
        tags = sorted({*flow_run.tags, tag})
        client.request("PATCH", "/flow_runs/{id}", path_params={"id": flow_run.id}, json={"tags": tags})
