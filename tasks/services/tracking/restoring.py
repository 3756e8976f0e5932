"""Bringing the checkpoints of a W&B run to this machine: found, downloaded, verified, put in place."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Literal

from tasks.services.checkpoints.sets import (
    WEIGHTS,
    RestoredSet,
    install_set,
    is_newer,
    verify_set,
)
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import HISTORY, MANIFEST, STATUS, RunDir
from tasks.services.run.status import StageRecord, Status, StatusError, parse_status
from tasks.services.tracking.wandb_tracking import (
    ExistingRun,
    RunPath,
    download_run_files,
    download_set,
    find_run,
    not_found,
)
from ups_models.config.schema import PipelineConfig
from ups_models.errors import ArchitectureMismatch, BadInput, CheckpointError
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)

ResumeMode = Literal["allow", "must", "never"]


def look_up(path: RunPath, mode: ResumeMode, cfg: PipelineConfig) -> ExistingRun | None:
    """The run to restore from. Raises RunNotFound where the mode insists on it, TrackingUnavailable."""
    found = find_run(path, cfg.tracking)
    if found is None and mode != "allow":
        raise not_found(path)
    if found is None:
        logger.warning("WandB run not found: %s; a new run with this id begins", path)
    return found


def fetch(found: ExistingRun, mode: ResumeMode, cfg: PipelineConfig, run: RunDir) -> tuple[Path, str] | None:
    """Download the newest set, or an old run's files, into a staging folder; None when the run holds neither.

    Raises BadInput under `must`: training would begin anew, which that mode forbids.
    """
    folder = run.staging / "restore"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    origin = download_set(found, folder, cfg.tracking)
    if origin is not None:
        return folder, origin
    if download_run_files(found, folder, cfg.tracking):
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
        logger.info("%s: no further than what lies in %s, which is kept", restored.origin, run.checkpoints)
        shutil.rmtree(restored.folder)
        return False
    install_set(restored, run, None if mode == "never" else found.record())
    logger.info("%s: restored to %s", restored.origin, run.checkpoints)
    return True


def _check_files(folder: Path, origin: str, cfg: PipelineConfig) -> RestoredSet:
    """What an old run left: a stage counts only if its status says so and its file loads and fits."""
    try:
        text = (folder / STATUS).read_text("utf-8") if (folder / STATUS).is_file() else ""
        old = parse_status(text, folder / STATUS) if text else Status()
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
