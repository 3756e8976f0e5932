"""What the server knows of a chain's runs before this one, whatever machine they were on: how far, where, what end."""

import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectException
from prefect.runtime import deployment

from flows.requests.attempts import as_given, number_in
from flows.requests.job import require_tracking
from tasks.services.run import environment
from tasks.services.run.attempts import ChainRun, progress_marker
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Status, read_status
from tasks.services.stages.job import Job, Source
from tasks.services.tracking.run_path import RunPath, path_of
from ups_models.config.schema import PipelineConfig
from ups_models.errors import UPSError

logger = logging.getLogger(__name__)

BEGAN, PLACE, WHERE, WANDB = "ups.began", "ups.place", "ups.where", "ups.wandb"
"""Labels of a flow run: how far the training was when it began and is now, on which machine, in which W&B run."""
NEWEST_RUNS = 200
NEVER_WORKED = ("Duplicate", "GaveUp", "BadInput", "Cancelled")
"""Names of final states of runs that count as no attempt."""
DIED = (StateType.CRASHED, StateType.FAILED)
UNREACHABLE = (httpx.HTTPError, PrefectException)


class Elsewhere(UPSError):
    """The files that an earlier run of the chain left are not on this machine."""


@dataclass(frozen=True)
class EarlierRun:
    """A run of the chain before this one."""

    run_id: str
    number: int
    time: float
    labels: Mapping[str, Any]
    error: str | None = None

    @property
    def trained(self) -> bool:
        """Whether it left anything."""
        return bool(self.labels.get(PLACE))

    def notes(self, chain: str) -> list[dict[str, Any]]:
        """The same as what it would have noted in the run; without a place where it died before it could say one."""
        entry = {"chain": chain, "attempt": self.number, "run": self.run_id, "time": self.time}
        began = {"event": "began"} | ({"place": self.labels[BEGAN]} if BEGAN in self.labels else {})
        notes = [{**entry, **began}]
        if self.error is not None and PLACE in self.labels:
            notes.append({**entry, "event": "failed", "place": self.labels[PLACE], "error": self.error})
        return notes


def host_label() -> str:
    """Where this process runs: `vast:12345` on a rented machine, else the host's name."""
    rented = environment.get("CONTAINER_ID")
    return f"vast:{rented}" if rented else socket.gethostname()


def labels_of(status: Status, where: str, cfg: PipelineConfig, began: str) -> dict[str, str]:
    """What a run tells the server of itself."""
    labels = {BEGAN: began, PLACE: progress_marker(status), WHERE: where}
    known = status.wandb
    return labels if known is None else labels | {WANDB: str(path_of(known, cfg.tracking))}


def with_earlier_runs(attempt: ChainRun | None) -> tuple[ChainRun | None, list[EarlierRun]]:
    """The attempt with what the server knows of those before it; as it is where nobody can be asked."""
    if attempt is None or not attempt.follows_another:
        return attempt, []
    try:
        with get_client(sync_client=True) as client:
            earlier = _before(attempt, runs_of_chain(client, attempt))
    except UNREACHABLE as error:
        logger.warning("the server does not say which attempts were before this one (%s)", type(error).__name__)
        return attempt, []
    notes = [note for run in earlier for note in run.notes(attempt.chain)]
    return replace(attempt, elsewhere=tuple(notes)), earlier


def runs_of_chain(client: SyncPrefectClient, attempt: ChainRun) -> list[FlowRun]:
    """The other runs of the attempt's chain, newest first; one that died early carries no tag of its chain."""
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=NEWEST_RUNS,
    )
    return [run for run in runs if str(run.id) != attempt.run_id and _is_of(run, attempt)]


def with_files(job: Job, earlier: Iterable[EarlierRun]) -> Job:
    """The job, which goes on from W&B where the files that earlier runs left are not on this machine.

    Raises Elsewhere where they are in no W&B run either: training from nothing would throw away what they hold.
    """
    trained = [run for run in earlier if run.trained]
    if not trained or job.source is not None or _holds_something(job.run):
        return job
    newest = max(trained, key=lambda run: run.time).labels
    left = f"{job.run.root}: holds nothing of what was trained before ({newest[PLACE]}, on {newest.get(WHERE, '?')})"
    if WANDB not in newest:
        raise Elsewhere(f"{left}; this run waits for a worker on that machine; cancel it to give that work up")
    require_tracking(job.cfg.tracking)
    logger.warning("%s; going on with what is in the W&B run %s", left, newest[WANDB])
    return replace(job, source=Source(RunPath.parse(newest[WANDB], job.cfg.tracking), "must"))


def _holds_something(run: RunDir) -> bool:
    return bool(read_status(run.status).stages)


def _before(attempt: ChainRun, runs: Iterable[FlowRun]) -> list[EarlierRun]:
    """Those with a lower number that were at work, or died before they could be, oldest first."""
    found = [one for run in runs if (one := _earlier_run(run)) is not None and one.number < attempt.number]
    return sorted(found, key=lambda run: run.time)


def _earlier_run(run: FlowRun) -> EarlierRun | None:
    number = number_in(run.parameters)
    began = run.start_time or (run.expected_start_time if run.state_type in DIED else None)
    if began is None or run.state is None or run.state_name in NEVER_WORKED or not isinstance(number, int):
        return None
    error = run.state.message if run.state_type == StateType.FAILED else None
    return EarlierRun(str(run.id), number, began.timestamp(), run.labels, error)


def _is_of(run: FlowRun, attempt: ChainRun) -> bool:
    return as_given(run.parameters).get("chain") == attempt.chain or str(run.id).startswith(attempt.chain)
