"""The trials of a sweep as runs of a deployment: named, tagged, made once however often they are asked for."""

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse

from flows.prefect.chain import BAD_INPUT, ID_LENGTH
from flows.prefect.client import deployments_of, server_client
from flows.requests.job import require_feasible
from flows.requests.sweep import Trial
from tasks.services.run.lock import RunOwned
from tasks.services.run.uninterrupted import pause_unless_stopped
from tasks.services.stages.leaderboard import LeaderboardRow, table_of
from ups_models.errors import BadInput, UPSError

logger = logging.getLogger(__name__)

FLOW = "train-pipeline"
LOOK_EVERY_S, NEXT_ATTEMPT_S = 2.0, 1800.0
"""Between two looks at the server; and so long a run that died may wait for its next attempt."""


@dataclass
class Chain:
    """A trial, and the runs that try to complete it: the first, and the attempts that follow one that dies."""

    trial: Trial
    first: FlowRun
    dead_since: float | None = None

    def runs(self, client: SyncPrefectClient) -> list[FlowRun]:
        """All of them, the newest last."""
        tagged = FlowRunFilter.model_validate({"tags": {"all_": [f"chain:{str(self.first.id)[:ID_LENGTH]}"]}})
        known = {run.id: run for run in client.read_flow_runs(flow_run_filter=tagged)}
        known[self.first.id] = client.read_flow_run(self.first.id)
        return sorted(known.values(), key=lambda run: str(run.created))

    def ending(self, client: SyncPrefectClient) -> str | None:
        """None while there is hope; else in words how it ended, empty where well."""
        runs = self.runs(client)
        states = [run.state for run in runs if run.state is not None]
        if any(state.type is StateType.COMPLETED for state in states):
            return ""
        if not states or any(not state.is_final() for state in states):
            self.dead_since = None
            return None
        if states[-1].type is StateType.CANCELLED or states[-1].name == BAD_INPUT:  # by a person, or nobody tries again
            return f"{states[-1].name}: {states[-1].message or 'no reason is given'}"
        self.dead_since = self.dead_since or time.monotonic()
        if time.monotonic() - self.dead_since < NEXT_ATTEMPT_S:
            return None
        waited = f"{NEXT_ATTEMPT_S / 60:g} minutes"
        return f"{states[-1].name}, and no attempt followed within {waited}; `ups deploy` and `ups watch` see to that"


def train_by_workers(trials: Iterable[Trial], root: Path, pool: str) -> dict[str, str]:
    """Have the workers of a pool train what is not done, and wait for it; in words, what ended in vain.

    A trial whose run waits, runs or is about to be tried again gets no second one. Raises BadInput, UPSError where the
    server does not answer; what was asked of it goes on, and the same command waits for it again.
    """
    failed: dict[str, str] = {}
    with server_client() as client:
        chains = list(_chains(client, pool, trials, root, failed))
        while chains:
            for chain in list(chains):
                ended = chain.ending(client)
                if ended is None:
                    continue
                chains.remove(chain)
                if ended:
                    failed[chain.trial.name] = ended
                logger.info("%s: %s", chain.trial.name, ended or "done")
            if chains:
                pause_unless_stopped(LOOK_EVERY_S, "the sweep")
    return failed


def show_leaderboard(root: Path, rows: Sequence[LeaderboardRow]) -> None:
    """As an artifact of the server, whose versions are kept. Raises UPSError where it does not answer."""
    table = table_of(rows)
    cells = [dict(zip(("rank", *table.columns[1:]), row, strict=True)) for row in table.rows]
    key = f"sweep-{re.sub('[^a-z0-9]+', '-', root.name.lower()).strip('-')}"
    with server_client() as client:
        description = f"Leaderboard of the sweep in {root.absolute()}. {table.note}"
        client.create_artifact(ArtifactCreate(key=key, type="table", data=json.dumps(cells), description=description))


def deployment_in(client: SyncPrefectClient, pool: str) -> DeploymentResponse:
    """The deployment of train-pipeline for this pool. Raises BadInput where there is none."""
    known = deployments_of(client, FLOW)
    own = sorted(known, key=lambda one: one.name != FLOW)  # ours before those of configs and copies
    found = next((one for one in own if one.work_pool_name == pool), None)
    if found is None:
        pools = sorted({one.work_pool_name for one in known if one.work_pool_name}) or ["none"]
        raise BadInput(f"--workers {pool}: no deployment of {FLOW} is for this pool ({', '.join(pools)}); ups deploy")
    return found


def _chains(
    client: SyncPrefectClient, pool: str, trials: Iterable[Trial], root: Path, failed: dict[str, str]
) -> Iterator[Chain]:
    """Of what is to be trained, and of what is being trained, since its run is waited for as well."""
    deployment = deployment_in(client, pool)
    for trial in trials:
        try:
            run = _run_of(client, deployment, trial, root) if _is_undone(trial) else None
        except UPSError as error:
            failed[trial.name] = str(error)
            logger.warning("%s: %s", trial.name, error)
            continue
        if run is None:
            logger.info("%s: done", trial.name)
        else:
            yield Chain(trial, run)


def _is_undone(trial: Trial) -> bool:
    trial.require_same_settings()
    try:
        return require_feasible(trial.job())
    except RunOwned:
        return True


def _run_of(client: SyncPrefectClient, deployment: DeploymentResponse, trial: Trial, root: Path) -> FlowRun | None:
    """The run that tries it: one that was made before and goes on, or a new one; None if the trial is done by now."""
    absolute = {"run_dir": trial.request.run_dir.absolute(), "config": trial.request.config.absolute()}
    request = trial.request.model_copy(update=absolute)
    given = {"request": request.model_dump(mode="json", exclude_unset=True)}
    for number in range(1000):
        found = client.create_flow_run_from_deployment(
            deployment.id,
            parameters=given,
            name=f"{root.name} · {trial.name}",
            tags=[f"sweep:{root.name}"],
            idempotency_key=f"sweep:{root.absolute()}:{trial.name}:{number}",
        )
        if any(run.state is None or not run.state.is_final() for run in Chain(trial, found).runs(client)):
            return found
        if not _is_undone(trial):
            return None
    raise UPSError(f"{trial.name}: ended in vain 1000 times; look at its runs on the server")
