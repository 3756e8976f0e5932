"""The Prefect tasks that bring checkpoints from a W&B run to this machine."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from tasks.services.checkpoints.sets import RestoredSet
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.tracking import restoring as restore
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.restoring import ResumeMode
from tasks.services.tracking.run_path import ExistingRun, RunPath
from ups_models.config.schema import PipelineConfig

RETRIES, RETRY_AFTER_S = 2, 5


async def _is_unavailable(_task: Any, _run: Any, state: State) -> bool:
    """Whether another try may help: what the user must correct does not correct itself."""
    return isinstance(await state.aresult(raise_on_failure=False), TrackingUnavailable)


@task(name="find-run", cache_policy=NO_CACHE, persist_result=False)
def find_run(path: RunPath, mode: ResumeMode, cfg: PipelineConfig) -> ExistingRun | None:
    """The W&B run, if it exists."""
    return restore.look_up(path, mode, cfg)


@task(
    name="download",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=RETRY_AFTER_S,
    retry_condition_fn=_is_unavailable,
)
def download(found: ExistingRun, mode: ResumeMode, cfg: PipelineConfig, run: RunDir) -> tuple[Path, str] | None:
    """Its newest set, in a staging folder."""
    return restore.fetch(found, mode, cfg.tracking, run)


@task(name="verify", cache_policy=NO_CACHE, persist_result=False)
def verify(folder: Path, origin: str, cfg: PipelineConfig) -> RestoredSet:
    """Every digest and the architecture."""
    return restore.check(folder, origin, cfg)


@task(name="install", cache_policy=NO_CACHE, persist_result=False)
def install(restored: RestoredSet, found: ExistingRun, mode: ResumeMode, run: OwnedRun, *, force: bool) -> bool:
    """Into place, the status last."""
    return restore.put_in_place(restored, found, mode, run, force=force)
