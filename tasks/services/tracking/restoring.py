"""Restoring the checkpoints of a W&B run to this machine: find, download, verify, install."""

import logging
import shutil
from pathlib import Path
from typing import Literal

from tasks.services.checkpoints.sets import (
    WEIGHTS,
    RestoredSet,
    install_set,
    is_newer,
    require_no_links,
    verify_set,
)
from tasks.services.run import environment
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import HISTORY, MANIFEST, STATUS, RunDir
from tasks.services.run.phase import announce
from tasks.services.run.status import StageRecord, Status, StatusError, read_status
from tasks.services.tracking.coordination import find_run
from tasks.services.tracking.protocols import CheckpointStore
from tasks.services.tracking.run_path import KEY, ExistingRun, RunPath, base_url
from tasks.services.tracking.store import WandbStore
from tasks.services.tracking.wandb_client import CLIENT, Client
from ups_models.config.schema import PipelineConfig, TrackingConfig
from ups_models.errors import ArchitectureMismatch, BadInput, CheckpointError
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)

ResumeMode = Literal["allow", "must", "never"]


class RunNotFound(BadInput):
    """There is no such run in W&B, or not for this key."""


def look_up(path: RunPath, mode: ResumeMode, cfg: PipelineConfig, client: Client = CLIENT) -> ExistingRun | None:
    """The run to restore from. Raises RunNotFound where the mode insists on it, TrackingUnavailable."""
    found = find_run(path, cfg.tracking, client)
    if found is None and mode != "allow":
        raise not_found(path, ". With --resume-mode allow a new run with this id begins")
    if found is None:
        logger.warning("WandB run not found: %s; a new run with this id begins", path)
    return found


def not_found(path: RunPath, advice: str = "") -> RunNotFound:
    """The error for a run that W&B does not have, and what to check."""
    key = "set" if environment.is_set(KEY) else "not set (a key in ~/.netrc is used if there is one)"
    return RunNotFound(
        f"WandB run not found: {path} at {base_url()}. Check the id on the dashboard, that your key has access to "
        f"the project, and the entity (WANDB_ENTITY, or write entity/project/id); {KEY} is {key}{advice}"
    )


def fetch(
    found: ExistingRun, mode: ResumeMode, tracking: TrackingConfig, run: RunDir, store: CheckpointStore | None = None
) -> tuple[Path, str] | None:
    """Download the newest set, or an old run's files, into a staging folder; None when the run holds neither.

    Raises BadInput under `must`: training would begin anew, which that mode forbids.
    """
    announce("downloading")
    folder = run.staging / "restore"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store = store or WandbStore(found.path, tracking)
    origin = store.download_set(folder)
    if origin is not None:
        return folder, origin
    if store.download_files(folder):
        logger.warning(
            "%s: holds no set of checkpoints, but files of an old version; they are checked one by one", found.path
        )
        return folder, f"files of {found.path}"
    shutil.rmtree(folder)
    if mode == "must":
        raise BadInput(
            f"{found.path}: exists, but holds no checkpoints, so training would begin anew; "
            "use --resume-mode allow if that is meant"
        )
    logger.warning("%s: holds no checkpoints yet", found.path)
    return None


def check(folder: Path, origin: str, cfg: PipelineConfig) -> RestoredSet:
    """Verify what was downloaded. Raises CheckpointError, ArchitectureMismatch, StatusError."""
    if (folder / MANIFEST).is_file():
        return verify_set(folder, cfg, origin)
    return _check_files(folder, origin, cfg)


def put_in_place(restored: RestoredSet, found: ExistingRun, mode: ResumeMode, run: OwnedRun, *, force: bool) -> bool:
    """Install a verified set, unless the run here is as far or further; whether it was. Raises BadInput."""
    if not is_newer(restored, run, force=force):
        logger.info("%s: no further than the run in %s, which is kept", restored.origin, run.checkpoints)
        shutil.rmtree(restored.folder)
        return False
    install_set(restored, run, None if mode == "never" else found.record())
    logger.info("%s: restored to %s", restored.origin, run.checkpoints)
    return True


def _check_files(folder: Path, origin: str, cfg: PipelineConfig) -> RestoredSet:
    """What an old run left: a stage counts only if its status says so and its file loads and fits."""
    require_no_links(folder, origin)
    try:
        old = read_status(folder / STATUS)
    except StatusError as error:
        logger.warning("%s: its status cannot be used (%s)", origin, error)
        old = Status()
    stages = {}
    for stage, spec in SPECS.items():
        record = old.stage(stage)
        if record.status == "completed" and _fits(folder, stage, origin, cfg):
            stages[stage] = StageRecord(
                status="completed", checkpoint=spec.checkpoint, completed_at=record.completed_at, step=record.step
            )
        elif any((folder / name).is_file() for name in spec.files):
            logger.warning("%s: nothing says that its %s is the final one: it will be trained", origin, spec.checkpoint)
    for name, stage in WEIGHTS.items():
        if stage not in stages:
            (folder / name).unlink(missing_ok=True)
    (folder / HISTORY).unlink(missing_ok=True)
    return RestoredSet(folder, Status(created_at=old.created_at, stages=stages), origin)


def _fits(folder: Path, stage: str, origin: str, cfg: PipelineConfig) -> bool:
    import torch

    from ups_models.stages.registry import STAGES
    from ups_models.training.checkpoint import load_network

    spec = SPECS[stage]
    with torch.random.fork_rng(devices=[]):
        net = STAGES[stage].build(cfg)
    for name in spec.files:
        try:
            if (folder / name).is_file() or name == spec.checkpoint:
                load_network(folder / name, net, stage=stage, arch=spec.arch(cfg))
        except ArchitectureMismatch:
            raise
        except CheckpointError as error:
            logger.warning("%s: %s will be trained: %s", origin, stage, error)
            return False
    return True
