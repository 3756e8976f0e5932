"""A flow run as one run of a chain: its name, its parameters, its number in the chain, its final state."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled
from pydantic import BaseModel, ValidationError

from flows import PACKAGES
from flows.prefect.client import why_away
from flows.prefect.earlier import host_label
from flows.prefect.outcome import give_up_sending
from flows.prefect.wishes import Unwanted, end_if_cancelling
from flows.requests.attempts import Attempts, number_in
from flows.requests.train import first_fault
from tasks.services.run import environment
from tasks.services.run.attempts import ChainRun, Duplicate, GaveUp
from ups_models.errors import BadInput
from ups_models.wording import first_line

logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=BaseModel)

ID_LENGTH = 8
SERVER_PATIENCE_S, SERVER_PAUSE_S = 3600.0, 5.0
GAVE_UP, BAD_INPUT, DUPLICATE = "GaveUp", "BadInput", "Duplicate"
"""Names of final states after which no automation starts another run."""


def checked(schema: type[Request], given: Request | Mapping[str, Any], name: str = "request") -> Request:
    """A parameter of a flow, validated. Prefect does not: what it refuses is Failed, and a failed run is restarted."""
    if isinstance(given, schema):
        return given
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"{name}: {first_fault(error)}") from None


def log_to_prefect() -> None:
    """Send our log lines to the flow run as well: under a worker nothing else sets their level."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def run_name() -> str:
    """`burgers_32dim · attempt 2 · vast:12345`, with the run directory after the config where one is given.

    Prefect asks for the name before it begins the run, which makes this the last moment to end one that never will.
    """
    end_if_cancelling()
    return f"{training_name(flow_run.parameters)} · {host_label()}"


def remote_name() -> str:
    """`burgers_32dim on vast · attempt 2`; the same holds."""
    end_if_cancelling()
    return launch_name(flow_run.parameters)


def training_name(parameters: Mapping[str, Any]) -> str:
    """The name of a run of train-pipeline with these parameters, as far as it is known before a worker has it."""
    values = _request(parameters)
    config, folder = Path(str(values.get("config", "quickstart"))).stem, Path(str(values.get("run_dir", ""))).name
    where = f" in {folder}" if folder else ""
    return f"{config}{where} · attempt {number_in(parameters)}"


def launch_name(parameters: Mapping[str, Any]) -> str:
    """The name of a run of train-on-vast with these parameters."""
    values = _request(parameters)
    where = f"{Path(str(values.get('config', 'burgers_32dim'))).stem} on {values.get('provider', 'vast')}"
    return f"{where} · attempt {number_in(parameters)}"


def is_deployed() -> bool:
    """Whether a deployment made this flow run; read from the run, because Prefect's runtime may ask the server."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        return context.flow_run.deployment_id is not None
    return deployment.id is not None


def chain_run_of(attempts: Attempts) -> ChainRun | None:
    """This flow run as a run of a chain; None where no deployment made it: such a run is not restarted."""
    if not is_deployed():
        return None
    identity = str(flow_run.id)
    again = (flow_run.run_count or 1) > 1
    chain_run = ChainRun(
        attempts.chain or identity[:ID_LENGTH],
        identity,
        attempts.attempt,
        attempts.max_attempts,
        attempts.most_per_day,
        again,
    )
    _tag(f"chain:{chain_run.chain}")
    return chain_run


def ended(error: GaveUp | Duplicate | Unwanted) -> State:
    """The final state of a run that the chain, or a person, does not need."""
    names = {GaveUp: GAVE_UP, Duplicate: DUPLICATE, Unwanted: "Cancelled"}
    return Cancelled(name=names[type(error)], message=str(error))


def _request(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The flow's `request`, validated or as given; empty where it is none."""
    given = parameters.get("request")
    return given.model_dump() if isinstance(given, BaseModel) else given if isinstance(given, Mapping) else {}


def below_runs(run_dir: Path, deployment_id: UUID | None = None) -> Path:
    """Where a run directory lies under a worker: a relative one below UPS_RUNS, if that is set.

    The deployment is named where no flow run is at hand whose it is.
    """
    runs = environment.get(environment.RUNS)
    return Path(runs).expanduser() / run_dir if runs and (deployment_id or is_deployed()) else run_dir


@contextmanager
def reported_when_back() -> Iterator[None]:
    """Under a worker: once the work has ended, well or not, wait for a server that is away, so that it hears of it."""
    try:
        yield
    except Exception:
        _wait_for_server()
        raise
    _wait_for_server()


def _wait_for_server() -> None:
    """Does nothing for a run from a terminal."""
    if not is_deployed():
        return
    away, until = why_away(), time.monotonic() + SERVER_PATIENCE_S
    if away:
        logger.warning("%s; this run has ended, and waits up to %.0f s to report that", away, SERVER_PATIENCE_S)
    while away and time.monotonic() < until:
        time.sleep(SERVER_PAUSE_S)
        away = why_away()
    if away:
        give_up_sending()


def _tag(tag: str) -> None:
    """Tag this run: the UI's list of runs finds all runs of a chain by it."""
    try:
        with get_client(sync_client=True) as client:
            tags = sorted({*flow_run.tags, tag})
            client.request("PATCH", "/flow_runs/{id}", path_params={"id": flow_run.id}, json={"tags": tags})
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("the run is not tagged as one of %s: %s", tag, first_line(error))
