"""Opening the tracker of a run: online where W&B answers, else offline, with every other logger beside it."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from tasks.services.checkpoints.sets import is_behind
from tasks.services.checkpoints.uploads import Uploads
from tasks.services.run.code_version import code_version
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.status import StatusStore, WandbRecord, read_status
from tasks.services.tracking.coordination import find_run, generation, received
from tasks.services.tracking.protocols import CheckpointStore, TrackingUnavailable
from tasks.services.tracking.run_path import Received, ResumeTarget, path_of, record_of, tracking_mode
from tasks.services.tracking.store import WandbStore
from tasks.services.tracking.tracker import LoggerFactory, Tracker
from tasks.services.tracking.wandb_client import CLIENT, Client, open_session
from tasks.services.tracking.wandb_loggers import OfflineLogger, OnlineLogger
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)


@contextmanager
def tracked(
    cfg: PipelineConfig,
    run: OwnedRun,
    resume: ResumeTarget,
    loggers: Mapping[str, LoggerFactory] | None = None,
    client: Client = CLIENT,
) -> Iterator[Tracker]:
    """The tracker of a run that is owned, open until the block ends: W&B, these loggers, and those installed."""
    tracker = _open(cfg, run, resume, client)
    try:
        tracker.add_loggers(loggers or {}, cfg, run)
        yield tracker
    except Exception:
        tracker.close(failed=True)
        raise
    except BaseException:  # a signal: there are seconds, not minutes
        tracker.preempted()
        raise
    tracker.close(failed=False)


def open_online(cfg: PipelineConfig, run: OwnedRun, resume: ResumeTarget, client: Client = CLIENT) -> Tracker:
    """The tracker of a run that is owned, or TrackingUnavailable after a bounded wait."""
    started, known, found = time.monotonic(), read_status(run.status).wandb, resume.found
    path = resume.path or path_of(known, cfg.tracking)
    if found is None and resume.path is None:  # with a path, somebody has looked already, or the id is new
        found = find_run(path, cfg.tracking, client)
    if found is not None and not resume.allow_older:
        require_newest(run, str(found.path), WandbStore(found.path, cfg.tracking, client))
    config = {**cfg.model_dump(mode="json"), "code": code_version()}
    session = open_session(path, exists=found is not None, config=config, run=run, cfg=cfg.tracking, client=client)
    source = _source(resume, known)
    StatusStore(run).record_wandb(record_of(session.path, name=str(session.run.name), url=session.url, source=source))
    logger.info("W&B: %s (%.1f s)", session.url, time.monotonic() - started)
    store, every_s = WandbStore(session.path, cfg.tracking, client, session), cfg.tracking.upload_every_s
    uploads = Uploads(run, store.publish, every_s=every_s, timeout_s=cfg.tracking.upload_timeout_s)
    known_rows = received(found, cfg.tracking, client) if found is not None else Received()
    tracker = Tracker({"W&B": OnlineLogger(run, session, known_rows, _starts(cfg), store.publish_report)}, uploads)
    tracker.catch_up()
    return tracker


def _starts(cfg: PipelineConfig) -> dict[str, int]:
    """The global step at which each stage begins: the steps of all stages before it."""
    totals = [cfg.stages.of(stage).total_steps for stage in SPECS]
    return {stage: sum(totals[:number]) for number, stage in enumerate(SPECS)}


def require_newest(run: RunDir, name: str, store: CheckpointStore) -> None:
    """Raise BadInput when the store holds a set that is further than the run here: an upload would hide it."""
    remote = store.status()
    if remote is not None and is_behind(read_status(run.status), remote):
        raise BadInput(
            f"{run.checkpoints}: W&B holds checkpoints of {name} that are further than these, trained elsewhere; "
            f"get them with --resume-from-wandb {name}, or choose another --run-dir"
        )


def _open(cfg: PipelineConfig, run: OwnedRun, resume: ResumeTarget, client: Client) -> Tracker:
    mode = tracking_mode(cfg.tracking)
    if mode == "disabled":
        return Tracker()
    store = StatusStore(run)
    known = store.read().wandb
    if known is None or resume.path not in (None, path_of(known, cfg.tracking)):
        path = resume.path or path_of(None, cfg.tracking)
        resume = replace(resume, path=path)
        store.record_wandb(record_of(path, source=_source(resume, known)))
    if mode == "online":
        try:
            return open_online(cfg, run, resume, client)
        except TrackingUnavailable as error:
            if generation() is not None:
                raise  # on a rented machine what is kept here is lost
            logger.warning("%s: training continues without it, and everything is kept on this machine", error)
    return Tracker({"W&B": OfflineLogger(run)})


def _source(resume: ResumeTarget, known: WandbRecord | None) -> str | None:
    return resume.source or (known.source if known is not None else None)
