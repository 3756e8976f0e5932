"""Weights & Biases: the only place that talks to it, and the only one where a failure becomes a warning."""

from __future__ import annotations

import logging
import netrc
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from tasks.services.checkpoints.sets import NAMES, is_behind, signature_of
from tasks.services.checkpoints.uploads import UploadFailed, Uploads
from tasks.services.run.code_version import code_version
from tasks.services.run.history import History, Row
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import STATUS, RunDir
from tasks.services.run.status import Status, StatusStore, WandbRecord, parse_status, read_status
from ups_models.config.schema import PipelineConfig, TrackingConfig
from ups_models.errors import BadInput, DataError, RunLost, UPSError
from ups_models.stages.spec import SPECS

if TYPE_CHECKING:  # importing wandb takes a second: only a run that is tracked pays it
    import wandb

logger = logging.getLogger(__name__)

DEFAULT_PROJECT = "ups-pipeline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_ERRORS = 3
GRACE_UPLOAD_S, GRACE_FINISH_S = 2.0, 1.0
PREEMPTED = 143
GLOBAL_STEP = "global_step"
ABSENT = ("not found in", "does not contain artifact", "could not find artifact")
"""How W&B says that there is no such artifact; it has no class for that."""
GENERATION, OUTCOME = "ups_generation", "ups_outcome"


class TrackingUnavailable(UPSError):
    """W&B did not answer, or refused the key."""


class FencedOut(RunLost):
    """Another machine goes on with this run."""


class RunNotFound(BadInput):
    """There is no such run in W&B, or not for this key."""


@dataclass(frozen=True)
class RunPath:
    """Which W&B run is meant; what is None is W&B's or the environment's default."""

    id: str
    project: str
    entity: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    @classmethod
    def parse(cls, text: str, cfg: TrackingConfig) -> RunPath:
        """From `id`, `project/id`, `entity/project/id` or the address of a run's page. Raises BadInput."""
        path = urlparse(text).path if text.startswith(("https://", "http://")) else text
        parts = path.strip("/").split("/")
        if len(parts) == 4 and parts[2] == "runs":
            del parts[2]
        if not 1 <= len(parts) <= 3 or not RUN_ID.fullmatch(parts[-1]) or not all(map(NAME.fullmatch, parts[:-1])):
            raise BadInput(
                f"--resume-from-wandb {text!r}: is no W&B run; write id, project/id or entity/project/id "
                "(letters, digits, dot, dash and underscore, a letter or digit first)"
            )
        *outer, run_id = parts
        project = outer[-1] if outer else default_project(cfg)
        return cls(run_id, project, outer[0] if len(outer) == 2 else default_entity(cfg))


@dataclass(frozen=True)
class ExistingRun:
    """A run that exists: what of it matters, and nothing else of what the server said."""

    path: RunPath
    name: str
    url: str
    sent: Mapping[str, float | str]

    def record(self) -> WandbRecord:
        """For the status."""
        return WandbRecord(
            id=self.path.id, name=self.name, project=self.path.project, entity=self.path.entity, url=self.url
        )


@dataclass(frozen=True)
class ResumeTarget:
    """Which W&B run training goes on with: `path`, and `found` if it exists.

    Without a path it is the run that the status names, or a new one. `source` is another run that checkpoints were
    taken from.
    """

    path: RunPath | None = None
    found: ExistingRun | None = None
    source: str | None = None
    allow_older: bool = False


@dataclass(frozen=True)
class ReportPayload:
    """What was evaluated: numbers of each evaluation by name, pictures as PNG, and the HTML page."""

    metrics: Mapping[str, Mapping[str, float]]
    images: Mapping[str, bytes]
    html: str


class Tracker:
    """What training tells; nothing that it does can stop training.

    This one tracks nothing: reports/metrics.jsonl has every row all the same.
    """

    def begin(self, stage: str) -> None:
        """A stage starts or goes on: rows that only this machine has are sent first."""

    def row(self, stage: str, row: Row) -> None:
        """A step was measured."""

    def saved(self) -> None:
        """The state of the stage in progress was saved."""

    def completed(self, stage: str) -> None:
        """A stage's files are in place."""

    def report(self, gather: Callable[[], ReportPayload]) -> None:
        """Evaluations are done; `gather` is called only where somebody wants to see them."""

    def preempted(self) -> None:
        """The process ends in seconds: save what can be saved."""

    def close(self, *, failed: bool) -> None:
        """The run is over."""


class OfflineTracker(Tracker):
    """Keeps everything on this machine, where `ups sync` finds it: files of the run, not a second log of its own."""

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def close(self, *, failed: bool) -> None:
        """Say what to do later."""
        logger.warning(
            "W&B has not seen this run; when it can be reached, `ups sync %s --config CONFIG` sends it", self.run.root
        )


class OnlineTracker(Tracker):
    """Sends rows and sets of checkpoints while training goes on."""

    def __init__(self, run: OwnedRun, session: Session, found: ExistingRun | None, cfg: TrackingConfig) -> None:
        self.run, self.session, self.cfg = run, session, cfg
        self.sent: dict[str, float | str] = dict(found.sent) if found is not None else {}
        self.uploads = Uploads(run, session.publish, every_s=cfg.upload_every_s)
        self.errors = 0
        self.open = True

    def begin(self, stage: str) -> None:
        """Send the rows that W&B lacks: the file is the truth, and W&B gets each row of it once, in order."""
        record = read_status(self.run.status).stage(stage)
        if self.sent.get(f"{stage}/started_at") != record.started_at:
            self.sent[f"{stage}/step"] = 0
            self.sent[f"{stage}/started_at"] = record.started_at or ""
            self._guarded(lambda: self.session.summarise({f"{stage}/started_at": record.started_at}))
        for row in History(self.run.history).read().get(stage, []):
            self.row(stage, row)

    def row(self, stage: str, row: Row) -> None:
        """Send a row, unless W&B has it: a step that is done again after a resume gives the same numbers again.

        The axis of all charts, `global_step`, counts the optimiser steps of the run and so never goes back.
        """
        step, last = int(row["step"]), int(self.sent.get(f"{stage}/step", 0))
        if step <= last:
            return
        now = int(self.sent.get(GLOBAL_STEP, 0)) + step - last
        self.sent |= {f"{stage}/step": step, GLOBAL_STEP: now}
        self._guarded(
            lambda: self.session.log({GLOBAL_STEP: now, **{f"{stage}/{key}": value for key, value in row.items()}})
        )

    def saved(self) -> None:
        """Upload the set when the interval is over. Raises Superseded on a machine that was given up."""
        self._stop_if_fenced_out()
        self.uploads.saved()

    def completed(self, stage: str) -> None:
        """Upload the set under the stage's name. Raises Superseded."""
        self._stop_if_fenced_out()
        self.uploads.add(stage)

    def _stop_if_fenced_out(self) -> None:
        if isinstance(self.uploads.last_error, FencedOut):
            raise self.uploads.last_error

    def report(self, gather: Callable[[], ReportPayload]) -> None:
        """Figures as a table and in the summary, pictures, and the page."""
        self._guarded(lambda: self.session.report(gather(), self.run.staging / "media"))

    def preempted(self) -> None:
        """A last upload and the last rows, within seconds: whatever does not make it was saved on disk before."""
        if not self.open:
            return
        self.uploads.add()
        self.uploads.drain(GRACE_UPLOAD_S)
        self.uploads.close()
        self.open = False
        last = threading.Thread(target=self._guarded, args=(self.session.preempt,), daemon=True)
        last.start()
        last.join(GRACE_FINISH_S)

    def close(self, *, failed: bool) -> None:
        """Wait for uploads and for the last rows, each no longer than the config says."""
        if not self.open:
            return
        self.open = False
        if not self.uploads.drain(self.cfg.upload_timeout_s):
            logger.warning("an upload to W&B is not finished; `ups sync %s --config CONFIG` tries again", self.run.root)
        lost = None if failed or generation() is None else self._what_would_be_lost()
        self.uploads.close()
        self._guarded(lambda: self.session.finish(1 if failed or lost else 0))
        if lost:
            raise UploadFailed(f"{lost}; this machine is rented, and what is on it alone ends with it")

    def _what_would_be_lost(self) -> str | None:
        """On a rented machine an upload that failed is tried once more, and then is a failure of the run."""
        for _ in range(2):
            status = read_status(self.run.status)
            if status.upload is not None and status.upload.signature == signature_of(status):
                return None
            self.uploads.add()
            self.uploads.drain(self.cfg.upload_timeout_s)
        return (status.upload.error_message if status.upload else None) or "checkpoints were not uploaded to W&B"

    def _guarded(self, call: Callable[[], None]) -> None:
        if self.errors >= MAX_ERRORS:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever W&B's client does, training goes on
            self.errors += 1
            more = "; W&B gets nothing more of this run" if self.errors >= MAX_ERRORS else ""
            logger.warning("W&B: %s%s; reports/metrics.jsonl has every row", _reason(error), more)


class Session:
    """An open run of the real client."""

    def __init__(self, run: wandb.Run, path: RunPath, cfg: TrackingConfig) -> None:
        self.run, self.path, self.cfg = run, path, cfg
        run.define_metric(GLOBAL_STEP, hidden=True)
        for stage in SPECS:
            run.define_metric(f"{stage}/*", step_metric=GLOBAL_STEP)

    def log(self, row: Mapping[str, Any]) -> None:
        """One row. Never with step=: W&B drops rows whose step is not above the last one, without an error."""
        self.run.log(dict(row))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Values that stand for the whole run."""
        self.run.summary.update(dict(values))

    def publish(self, folder: Path, aliases: tuple[str, ...]) -> str:
        """Upload a set and wait until it is committed; its version. Raises UploadFailed, Superseded."""
        self._require_newest()
        name = self.publish_folder(folder, collection_of(self.path).rpartition("/")[2], "model", ("latest", *aliases))
        self._forget_old_sets()
        return name.rpartition(":")[2]

    def publish_folder(self, folder: Path, collection: str, kind: str, aliases: tuple[str, ...]) -> str:
        """Upload a folder as one version and wait until it is committed; its qualified name. Raises UploadFailed."""
        import wandb

        try:
            artifact = wandb.Artifact(collection, type=kind)
            for path in sorted(item for item in folder.rglob("*") if item.is_file()):
                name = path.relative_to(folder).as_posix()
                artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
            logged = self.run.log_artifact(artifact, aliases=list(aliases))
            logged.wait(timeout=int(self.cfg.upload_timeout_s))
            state, version = str(logged.state), str(logged.version)
        except Exception as error:
            raise UploadFailed(f"{collection} was not uploaded to W&B ({_reason(error)})") from error
        if state != "COMMITTED":
            raise UploadFailed(f"{collection} was not uploaded to W&B (the set is {state}, not COMMITTED)")
        return f"{self.path.entity}/{self.path.project}/{collection}:{version}"

    def _require_newest(self) -> None:
        """A machine that was given up, but lives, must not write over its successor."""
        own = generation()
        if own is not None and fetch_progress(self.path, self.cfg).generation > own:
            raise FencedOut(f"run {self.path}: a later machine has taken over; this one stops")

    def report(self, reported: ReportPayload, folder: Path) -> None:
        """Everything in one row."""
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        row: dict[str, Any] = {"report": wandb.Html(reported.html, inject=False)}
        for name, metrics in reported.metrics.items():
            table = [[key, value] for key, value in metrics.items()]
            row[f"{name}/metrics"] = wandb.Table(columns=["metric", "value"], data=table)
            self.run.summary.update({f"{name}/{key}": value for key, value in metrics.items()})
        for name, image in reported.images.items():
            path = folder / f"{name}.png"
            path.write_bytes(image)
            row[f"figures/{name}"] = wandb.Image(str(path))
        self.run.log(row)

    def preempt(self) -> None:
        """Tell W&B that the machine goes away, and send the last rows."""
        self.run.mark_preempting()
        self.run.finish(exit_code=PREEMPTED)

    def finish(self, code: int) -> None:
        """Send the last rows and end the run."""
        self.run.finish(exit_code=code)

    def _forget_old_sets(self) -> None:
        try:
            newest_first = _api(self.cfg).artifacts("model", collection_of(self.path))
            for number, artifact in enumerate(newest_first, start=1):
                if number > self.cfg.keep_versions and not artifact.aliases:
                    artifact.delete()
        except Exception as error:  # noqa: BLE001 - too many sets are no harm
            logger.warning("W&B: old sets of checkpoints could not be removed (%s)", _reason(error))


def tracking_mode(cfg: TrackingConfig) -> str:
    """`online`, `offline` or `disabled`: what config, environment and key come to."""
    if cfg.mode != "auto":
        return cfg.mode
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("online", "offline", "disabled"):
        return mode
    return "online" if has_key() else "disabled"


def has_key() -> bool:
    """Whether the environment or ~/.netrc holds a W&B key; it is not looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(urlparse(_base_url()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def default_project(cfg: TrackingConfig) -> str:
    """The config's project, else the environment's, else ours."""
    return cfg.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT


def default_entity(cfg: TrackingConfig) -> str | None:
    """The config's entity, else the environment's; None: the key's own."""
    return cfg.entity or os.environ.get("WANDB_ENTITY") or None


def new_run_id() -> str:
    """An id that says when the run began."""
    return f"train-{datetime.now(UTC):%Y%m%d_%H%M%S}-{secrets.token_hex(2)}"


def find_run(path: RunPath, cfg: TrackingConfig) -> ExistingRun | None:
    """The run, or None where W&B says that there is none. Raises TrackingUnavailable when it says nothing."""
    _client()
    from wandb.apis.public.runs import RunNotFoundError

    try:
        run = _api(cfg).run(str(path))
        return ExistingRun(
            RunPath(run.id, run.project, run.entity), str(run.name), run.url, _sent(dict(run.summary_metrics or {}))
        )
    except Exception as error:
        cause = getattr(error, "exc", error)
        if isinstance(cause, RunNotFoundError) or "could not find run" in str(error).lower():
            return None
        raise TrackingUnavailable(
            f"W&B at {_base_url()} could not be asked for run {path} ({_reason(error)}). If the address is right and "
            f"reachable, check the key: WANDB_API_KEY is {'set' if os.environ.get('WANDB_API_KEY') else 'not set'}"
        ) from error


def not_found(path: RunPath) -> RunNotFound:
    """The error for a run that must exist and does not."""
    key = "set" if os.environ.get("WANDB_API_KEY") else "not set (a key in ~/.netrc is used if there is one)"
    return RunNotFound(
        f"WandB run not found: {path} at {_base_url()}. Check the id on the dashboard, that your key has access to the "
        f"project, and the entity (WANDB_ENTITY, or write entity/project/id); WANDB_API_KEY is {key}. "
        "With --resume-mode allow a new run of this id begins"
    )


def collection_of(path: RunPath) -> str:
    """Where the sets of a run lie, as W&B names it."""
    return "/".join(part for part in (path.entity, path.project, f"ckpt-{path.id}") if part)


def generation() -> int | None:
    """Which attempt on rented machines this process is; None: it runs on a machine that nobody rents."""
    text = os.environ.get("UPS_GENERATION", "")
    return int(text) if text.isdecimal() else None


def acquire_fence(path: RunPath, number: int, cfg: TrackingConfig) -> None:
    """Say in the run that attempt `number` may write to it from now on, and no earlier one. TrackingUnavailable."""
    try:
        run = _api(cfg).run(str(path))
        run.config[GENERATION] = number
        run.config[OUTCOME] = ""  # how an earlier attempt ended says nothing of this one
        run.update()
    except Exception as error:
        raise TrackingUnavailable(f"run {path} could not be claimed for the next machine ({_reason(error)})") from error


def record_exit(path: RunPath, code: int, number: int, cfg: TrackingConfig) -> None:
    """Note how attempt `number` ended. Raises TrackingUnavailable."""
    try:
        run = _api(cfg).run(str(path))
        if int(run.config.get(GENERATION, 0)) > number:
            return  # another machine goes on with the run
        run.config[OUTCOME] = f"{number}:{code}"
        run.update()
    except Exception as error:
        raise TrackingUnavailable(f"run {path} could not be told how it ended ({_reason(error)})") from error


@dataclass(frozen=True)
class RemoteProgress:
    """What a run says of itself from far away."""

    generation: int
    outcome: tuple[int, int] | None
    stage: str
    step: int
    state: str


def fetch_progress(path: RunPath, cfg: TrackingConfig) -> RemoteProgress:
    """How far a run is, and whether its last attempt has ended (attempt, exit code). Raises TrackingUnavailable."""
    try:
        run = _api(cfg).run(str(path))
        config, summary = dict(run.config), _sent(dict(run.summary_metrics or {}))
        state = str(run.state)
        number, _, code = str(config.get(OUTCOME, "")).partition(":")
        stage = next((name for name in reversed(SPECS) if f"{name}/step" in summary), "")
        return RemoteProgress(
            int(config.get(GENERATION, 0)),
            (int(number), int(code)) if code else None,
            stage,
            int(summary.get(f"{stage}/step", 0)),
            state,
        )
    except Exception as error:
        raise TrackingUnavailable(f"run {path} could not be asked ({_reason(error)})") from error


def publish_job(session: Session, folder: Path) -> str:
    """Put what a rented machine needs into the run; the artifact's name. Raises UploadFailed."""
    return session.publish_folder(folder, f"job-{session.path.id}", "training-job", ("latest",))


def download_set(found: ExistingRun, folder: Path, cfg: TrackingConfig) -> str | None:
    """Download the newest committed set into `folder`; its name, or None when the run has none.

    Only names that a set may hold are fetched, whatever the server lists. Raises TrackingUnavailable.
    """
    name = f"{collection_of(found.path)}:latest"
    try:
        artifact = _newest_set(found, cfg)
        if artifact is None:
            return None
        for entry_name in artifact.manifest.entries:
            if entry_name in NAMES:
                artifact.get_entry(entry_name).download(root=str(folder), skip_cache=True)
            else:
                logger.warning("%s: %r is no file of ours and was not downloaded", name, entry_name)
    except Exception as error:
        raise TrackingUnavailable(f"{name} could not be downloaded ({_reason(error)}); try again") from error
    return f"ckpt-{found.path.id}:{artifact.version}"


def download_artifact_file(address: str, path: Path, cfg: TrackingConfig) -> None:
    """Download `entity/project/name:version/file` to `path`. Raises TrackingUnavailable, DataError where it is not."""
    name, _, file = address.rpartition("/")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            Path(_api(cfg).artifact(name).get_entry(file).download(root=folder, skip_cache=True)).replace(path)
        except Exception as error:
            if isinstance(error, KeyError) or any(words in str(error).lower() for words in ABSENT):
                raise DataError(f"{address}: is not in W&B at {_base_url()}; check the address") from error
            raise TrackingUnavailable(f"{address} could not be downloaded ({_reason(error)})") from error


def remote_status(found: ExistingRun, cfg: TrackingConfig) -> Status | None:
    """The status in the newest set of a run, or None when it has none. Raises TrackingUnavailable, StatusError."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            artifact = _newest_set(found, cfg)
            if artifact is None:
                return None
            path = Path(artifact.get_entry(STATUS).download(root=folder, skip_cache=True))
            text = path.read_text("utf-8")
        except Exception as error:
            raise TrackingUnavailable(f"the newest set of {found.path} could not be read ({_reason(error)})") from error
    return parse_status(text, Path(f"{collection_of(found.path)}:latest") / STATUS)


def _newest_set(found: ExistingRun, cfg: TrackingConfig) -> Any:
    """The artifact, or None where W&B says that there is none: an answer that says nothing else is an error."""
    try:
        return _api(cfg).artifact(f"{collection_of(found.path)}:latest", type="model")
    except Exception as error:
        if any(words in str(error).lower() for words in ABSENT):
            return None
        raise


def download_run_files(found: ExistingRun, folder: Path, cfg: TrackingConfig) -> list[str]:
    """Download the checkpoint files that a run of an old version left as run files; their names. Same errors."""
    try:
        run = _api(cfg).run(str(found.path))
        names = []
        for file in run.files():
            name = file.name.removeprefix("checkpoints/")
            if name in NAMES and name != file.name:
                file.download(root=str(folder / "files"), replace=True)
                (folder / "files" / file.name).replace(folder / name)
                names.append(name)
        shutil.rmtree(folder / "files", ignore_errors=True)
    except Exception as error:
        raise TrackingUnavailable(
            f"the files of run {found.path} could not be downloaded ({_reason(error)})"
        ) from error
    return names


def open_session(
    path: RunPath, *, exists: bool, config: Mapping[str, Any], run: RunDir, cfg: TrackingConfig
) -> Session:
    """Open the run for writing, or raise TrackingUnavailable after a bounded wait. One process writes to a run."""
    wandb = _client()
    run.root.mkdir(parents=True, exist_ok=True)
    try:
        opened = wandb.init(
            entity=path.entity,
            project=path.project,
            id=path.id,
            name=None if exists else path.id,
            resume="must" if exists else "never",
            dir=str(run.root),
            config=dict(config),
            mode="online",
            settings=_settings(cfg),
        )
    except Exception as error:
        wandb.teardown()
        raise TrackingUnavailable(f"W&B at {_base_url()} did not open run {path} ({_reason(error)})") from error
    finally:
        os.environ.pop("WANDB_SERVICE", None)  # a child that inherited it would die with our client
    return Session(opened, RunPath(str(opened.id), str(opened.project), str(opened.entity)), cfg)


def record_of(session: Session, source: str | None = None) -> WandbRecord:
    """An open run, for the status."""
    run, path = session.run, session.path
    return WandbRecord(
        id=path.id, name=str(run.name), project=path.project, entity=path.entity, url=run.url, source=source
    )


@contextmanager
def tracked(cfg: PipelineConfig, run: OwnedRun, resume: ResumeTarget) -> Iterator[Tracker]:
    """The tracker of a run that is owned, open until the block ends."""
    tracker = _open(cfg, run, resume)
    try:
        yield tracker
    except Exception:
        tracker.close(failed=True)
        raise
    except BaseException:  # a signal: there are seconds, not minutes
        tracker.preempted()
        raise
    tracker.close(failed=False)


def open_online(cfg: PipelineConfig, run: OwnedRun, resume: ResumeTarget) -> OnlineTracker:
    """The tracker of a run that is owned, or TrackingUnavailable after a bounded wait."""
    started, known, found = time.monotonic(), read_status(run.status).wandb, resume.found
    path = resume.path or path_of(known, cfg.tracking)
    if found is None and resume.path is None:  # with a path, somebody has looked already, or the id is new
        found = find_run(path, cfg.tracking)
    if found is not None and not resume.allow_older:
        _require_newest_here(run, found, cfg.tracking)
    session = open_session(path, exists=found is not None, config=_config(cfg), run=run, cfg=cfg.tracking)
    StatusStore(run).record_wandb(record_of(session, _source(resume, known)))
    logger.info("W&B: %s (%.1f s)", session.run.url, time.monotonic() - started)
    return OnlineTracker(run, session, found, cfg.tracking)


def _open(cfg: PipelineConfig, run: OwnedRun, resume: ResumeTarget) -> Tracker:
    wanted = tracking_mode(cfg.tracking)
    if wanted == "disabled":
        return Tracker()
    store = StatusStore(run)
    known = store.read().wandb
    if known is None or resume.path not in (None, path_of(known, cfg.tracking)):
        path = resume.path or path_of(None, cfg.tracking)
        known = WandbRecord(id=path.id, project=path.project, entity=path.entity, source=_source(resume, known))
        resume = replace(resume, path=path)
        store.record_wandb(known)
    if wanted == "online":
        try:
            return open_online(cfg, run, resume)
        except TrackingUnavailable as error:
            if generation() is not None:
                raise  # on a rented machine what is kept here is lost
            logger.warning("%s: training goes on without it, and everything is kept on this machine", error)
    return OfflineTracker(run)


def _require_newest_here(run: RunDir, found: ExistingRun, cfg: TrackingConfig) -> None:
    """Raise BadInput when W&B holds a set that is further than the run here: an upload would hide it."""
    remote = remote_status(found, cfg)
    if remote is not None and is_behind(read_status(run.status), remote):
        raise BadInput(
            f"{run.checkpoints}: W&B holds checkpoints of {found.path} that are further than these, trained elsewhere; "
            f"get them with --resume-from-wandb {found.path}, or choose another --run-dir"
        )


def _source(resume: ResumeTarget, known: WandbRecord | None) -> str | None:
    return resume.source or (known.source if known is not None else None)


def path_of(known: WandbRecord | None, cfg: TrackingConfig) -> RunPath:
    """The run that a status names, or a new one."""
    if known is None or known.id is None:
        return RunPath(new_run_id(), default_project(cfg), default_entity(cfg))
    return RunPath(known.id, known.project or default_project(cfg), known.entity or default_entity(cfg))


def _settings(cfg: TrackingConfig) -> wandb.Settings:
    """What keeps argv, printed text, the git remote and the host's name out of the run."""
    import wandb

    return wandb.Settings(
        console="off",
        save_code=False,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        silent=True,
        init_timeout=cfg.connect_timeout_s,
        finish_timeout=cfg.finish_timeout_s,
    )


def _config(cfg: PipelineConfig) -> dict[str, Any]:
    return {**cfg.model_dump(mode="json"), "code": code_version()}


def _api(cfg: TrackingConfig) -> wandb.Api:
    api: wandb.Api = _client().Api(timeout=int(cfg.connect_timeout_s))
    os.environ.pop("WANDB_SERVICE", None)
    return api


def _client() -> ModuleType:
    """The client, imported when it is needed: silent, since what there is to say we say, and without telemetry."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def _base_url() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _sent(summary: Mapping[str, Any]) -> dict[str, float | str]:
    kinds: dict[str, Any] = {GLOBAL_STEP: int | float}
    for stage in SPECS:
        kinds |= {f"{stage}/step": int | float, f"{stage}/started_at": str}
    return {key: summary[key] for key, kind in kinds.items() if isinstance(summary.get(key), kind)}


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
