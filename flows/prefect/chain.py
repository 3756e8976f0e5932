"""A flow run as one attempt of a chain: what it is called, which chain it belongs to, and how to find the others."""

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled
from pydantic import BaseModel, ValidationError

from flows.prefect.server import LOGGERS
from flows.requests.train import first_fault
from tasks.services.run.attempts import ChainRun, Duplicate, GaveUp
from ups_models.errors import BadInput

Request = TypeVar("Request", bound=BaseModel)

ID_LENGTH = 8
MAX_ATTEMPTS = 500
"""Attempts of a chain that the server itself refuses to exceed, should a run die before it can count."""
GAVE_UP, BAD_INPUT, DUPLICATE = "GaveUp", "BadInput", "Duplicate"
"""Names of final states that no automation answers with another attempt."""


def checked(schema: type[Request], given: Request | Mapping[str, Any]) -> Request:
    """A flow's `request`, which Prefect leaves to us: what it refuses itself fails, and a failure is tried again."""
    if isinstance(given, schema):
        return given
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"request: {first_fault(error)}") from None


def log_to_prefect() -> None:
    """Let the log of a flow run hold our lines too: under a worker nobody else sets their level."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def host_label() -> str:
    """Where this process runs, as a person would say it: `vast:12345`, or the name of the machine."""
    rented = os.environ.get("CONTAINER_ID")
    return f"vast:{rented}" if rented else socket.gethostname()


def run_name() -> str:
    """`burgers_32dim · attempt 2 · vast:12345`; a run directory that was named stands behind the config."""
    values = _request()
    config, folder = Path(str(values.get("config", "quickstart"))).stem, Path(str(values.get("run_dir", ""))).name
    where = f" in {folder}" if folder else ""
    return f"{config}{where} · attempt {flow_run.parameters.get('attempt', 1)} · {host_label()}"


def remote_name() -> str:
    """`burgers_32dim on vast · attempt 2`."""
    values = _request()
    where = f"{Path(str(values.get('config', 'burgers_32dim'))).stem} on {values.get('provider', 'vast')}"
    return f"{where} · attempt {flow_run.parameters.get('attempt', 1)}"


def chain_run_of(chain: str | None, number: int, most: int, most_per_day: int = MAX_ATTEMPTS) -> ChainRun | None:
    """The attempt that this flow run is; None for one that no deployment made: nothing begins that again by itself."""
    if deployment.id is None:
        return None
    identity = str(flow_run.id)
    attempt = ChainRun(chain or identity[:ID_LENGTH], identity, number, most, most_per_day)
    _tag(f"chain:{attempt.chain}")
    return attempt


def ended(error: GaveUp | Duplicate) -> State:
    """The final state of an attempt that made no sense."""
    return Cancelled(name=GAVE_UP if isinstance(error, GaveUp) else DUPLICATE, message=str(error))


def _request() -> Mapping[str, Any]:
    """The flow's `request`, checked or as it came."""
    given = flow_run.parameters.get("request") or {}
    return dict(given) if isinstance(given, BaseModel) else given


def _tag(tag: str) -> None:
    """All runs of a chain carry one tag, by which the UI's list of runs finds them."""
    with get_client(sync_client=True) as client:
        tags = sorted({*flow_run.tags, tag})
        client.request("PATCH", "/flow_runs/{id}", path_params={"id": flow_run.id}, json={"tags": tags})
