"""Bringing what a W&B run holds into a run directory, for a reader: checkpoints, history, evaluations, report."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.services.checkpoints.report_sets import install_report, verify_report, why_kept
from tasks.services.run.config_file import is_kept, kept_config, require_own_folder, write_config
from tasks.services.run.lock import OwnedRun, owned
from tasks.services.run.own_files import trust_code
from tasks.services.run.paths import CODE, STATUS, RunDir
from tasks.services.tracking.coordination import find_run
from tasks.services.tracking.restoring import check, fetch, not_found, put_in_place
from tasks.services.tracking.run_path import ExistingRun, RunPath
from tasks.services.tracking.store import WandbStore
from tasks.services.tracking.wandb_client import CLIENT, Client, unavailable
from ups_models.config.faults import fault_of
from ups_models.config.schema import PipelineConfig, TrackingConfig
from ups_models.errors import BadInput
from ups_models.wording import shortened

logger = logging.getLogger(__name__)

CHECKPOINTS = Path("checkpoints")
"""Where they go, whatever folder the run's own config names on the machine that it ran on."""
RUN = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+")
"""How a W&B run is named where a directory could be meant: entity/project/id."""
LAUNCHED = "launched"
"""Where the run's config holds ours until a rented machine has begun."""


@dataclass(frozen=True)
class Pulled:
    """What was brought: each part's origin in W&B, or why it was not."""

    run: RunDir
    checkpoints: str | None
    report: str | None
    kept: str
    """Why the report was not brought; empty where it was."""


def pull(
    path: RunPath,
    root: Path,
    tracking: TrackingConfig,
    *,
    given: PipelineConfig | None = None,
    force: bool = False,
    trusted: Collection[str] = (),
    client: Client = CLIENT,
) -> Pulled:
    """Bring the newest verified checkpoints, the history, evaluations and report of a run into `root`.

    What is as far or further there is kept, unless `force`. `given` is the config that the run was trained with; else
    it is the one that W&B keeps. `trusted` are files of code that came with it and may be executed. Raises
    RunNotFound, BadInput, CheckpointError, TrackingUnavailable.
    """
    found = find_run(path, tracking, client)
    if found is None:
        raise not_found(path)
    run = RunDir.of(root, CHECKPOINTS)
    run.require_writable()
    store = WandbStore(found.path, tracking, client)

    def config() -> PipelineConfig:
        return _local(given if given is not None else config_in(found, tracking, client))

    cfg = None if trusted else config()  # trusted code comes with the checkpoints
    with owned(run) as own:
        fetched = _fetched(found, tracking, own, store)
        trust_code(fetched[0] / CODE, fetched[0] / STATUS, trusted)
        cfg = cfg or config()
        require_own_folder(run, cfg)
        restored = check(*fetched, cfg)
        origin = restored.origin if put_in_place(restored, found, "allow", own, force=force) else None
        report, kept = _pull_report(own, store, force=force)
        if kept_config(own) is None or (origin is not None and not is_kept(own, cfg)):
            write_config(own, cfg)
    return Pulled(run, origin, report, kept)


def bring(run: str, trusted: Collection[str] = ()) -> Path | None:
    """A W&B run, in a temporary directory of this user's that is used again; None for what names no such run.

    Raises what `pull` raises.
    """
    if not RUN.fullmatch(run) or Path(run).exists():
        return None
    path = RunPath.parse(run, TrackingConfig(), "")
    folder = Path(tempfile.gettempdir()) / f"ups-runs-{os.getuid()}" / f"{path.entity}-{path.project}-{path.id}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return pull(path, folder, TrackingConfig(), trusted=trusted).run.root


def config_in(found: ExistingRun, tracking: TrackingConfig, client: Client = CLIENT) -> PipelineConfig:
    """The config that W&B keeps of a run. Raises BadInput where it is none of ours, TrackingUnavailable."""
    with unavailable(f"the config of run {found.path} could not be read"):
        kept = dict(client.api(tracking).run(str(found.path)).config)
    ours: Any = {name: kept[name] for name in PipelineConfig.model_fields if name in kept} or kept.get(LAUNCHED)
    try:
        return PipelineConfig.model_validate(ours)
    except ValidationError as error:
        fault = fault_of(error)
        where = ".".join(map(shortened, fault.location)) or "it"
        raise BadInput(
            f"{found.path}: the config that W&B keeps of it is none that this version reads ({where}: "
            f"{shortened(fault.message)}); name the one it was trained with: --config FILE"
        ) from None


def _local(cfg: PipelineConfig) -> PipelineConfig:
    return cfg.model_copy(update={"checkpoint": cfg.checkpoint.model_copy(update={"dir": CHECKPOINTS})})


def _fetched(found: ExistingRun, tracking: TrackingConfig, run: OwnedRun, store: WandbStore) -> tuple[Path, str]:
    """The newest set, downloaded and not looked at yet, and its name."""
    fetched = fetch(found, "allow", tracking, run, store)
    if fetched is None:
        raise BadInput(f"{found.path}: holds no checkpoints yet; pull again when its first stage has saved some")
    return fetched


def _pull_report(run: OwnedRun, store: WandbStore, *, force: bool) -> tuple[str | None, str]:
    folder = run.staging / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    origin = store.download_report(folder)
    if origin is None:
        shutil.rmtree(folder)
        return None, "W&B holds none"
    restored = verify_report(folder, origin)
    if (reason := why_kept(restored, run)) is not None and not force:
        shutil.rmtree(folder)
        return None, reason
    install_report(restored, run)
    return origin, ""
