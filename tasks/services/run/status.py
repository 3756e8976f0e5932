"""checkpoints/stage_status.json: the one record of which stages ran, run or failed."""

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.services.run.clock import utc_now
from tasks.services.run.lock import OwnedRun, current_owner
from ups_models.config.faults import fault_of
from ups_models.errors import BadInput
from ups_models.files import FileDigest, write_text
from ups_models.reading import Unparsable, Unreadable, parse_json, read_text
from ups_models.stages.spec import SPECS, Arch
from ups_models.wording import shortened, shown

StageState = Literal["not_started", "in_progress", "completed", "failed"]
STATES: tuple[StageState, ...] = ("not_started", "in_progress", "completed", "failed")
EVALUATIONS = ("small_eval", "full_eval")
_writing = threading.RLock()  # uploads are recorded beside training: one reads and writes at a time
SCHEMA_VERSION: Literal[1] = 1

LEGAL: dict[StageState, tuple[StageState, ...]] = {
    "not_started": ("in_progress",),
    "in_progress": ("in_progress", "completed", "failed"),
    "completed": ("in_progress",),
    "failed": ("in_progress",),
}
"""From which state to which a stage may go."""


class StatusError(BadInput):
    """A status file that is not what it must be; it is left untouched."""


class IllegalTransition(StatusError):
    """A step that no stage may take."""


class Record(BaseModel):
    """A part of the file; keys that a later version added are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class FileRecord(Record):
    """What identifies a file's content."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)

    @property
    def digest(self) -> FileDigest:
        """The same as a FileDigest."""
        return FileDigest(self.sha256, self.bytes)


class Owner(Record):
    """The process that works on a stage."""

    pid: int
    host: str
    started_at: str


class StageRecord(Record):
    """What is known of one stage."""

    status: StageState = "not_started"
    checkpoint: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    epoch: int | None = Field(None, ge=0)
    total_epochs: int | None = Field(None, ge=0)
    step: int | None = Field(None, ge=0)
    error_message: str | None = None
    files: dict[str, FileRecord] | None = None
    inputs: dict[str, str] | None = None
    arch: dict[str, int | float | str] | None = None
    config_hash: str | None = None
    seed: int | None = None
    history: str | None = None
    """The sha256 of what it measured, as `History.digest` has it."""
    retrain: str | None = None
    """Why the stage, completed or not, has to start again; kept until it does."""
    attempts: int | None = Field(None, ge=0)
    seconds: float | None = Field(None, ge=0)
    owner: Owner | None = None


class EvaluationRecord(Record):
    """What is known of one evaluation: the report it left, and what it was made from."""

    status: StageState = "not_started"
    completed_at: str | None = None
    report: str | None = None
    files: dict[str, FileRecord] | None = None
    inputs: dict[str, str] | None = None
    error_message: str | None = None
    seconds: float | None = Field(None, ge=0)


class WandbRecord(Record):
    """The W&B run that this training belongs to."""

    id: str | None = None
    name: str | None = None
    project: str | None = None
    entity: str | None = None
    url: str | None = None
    source: str | None = None


class UploadRecord(Record):
    """The last set of checkpoints that is safe in W&B, and what went wrong since."""

    version: str | None = None
    uploaded_at: str | None = None
    signature: str | None = None
    error_message: str | None = None


class ReportRecord(FileRecord):
    """The HTML report, and what it was made from."""

    made_from: str


class Status(Record):
    """The whole file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created_at: str = Field(default_factory=utc_now)
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    evaluations: dict[str, EvaluationRecord] = Field(default_factory=dict)
    wandb: WandbRecord | None = None
    upload: UploadRecord | None = None
    report: ReportRecord | None = None
    threads: int | None = Field(None, ge=1)
    """CPU threads of PyTorch in this run: its bits depend on them."""
    forced_by: str | None = None
    """The chain of flow runs whose --force-train has been noted in the stages' `retrain`."""

    def stage(self, name: str) -> StageRecord:
        """A stage's record; one that the file does not name has not started."""
        return self.stages.get(name, StageRecord())

    def records(self) -> dict[str, StageRecord]:
        """The record of every stage, in order."""
        return {name: self.stages.get(name) or StageRecord() for name in SPECS}

    def evaluation(self, name: str) -> EvaluationRecord:
        """An evaluation's record."""
        return self.evaluations.get(name, EvaluationRecord())

    def is_trained(self, disabled: Collection[str] = ()) -> bool:
        """Whether every stage that is neither optional nor disabled is completed, and none is to be trained again."""
        return all(
            record.retrain is None and (record.status == "completed" or SPECS[name].optional)
            for name, record in self.records().items()
            if name not in disabled
        )


class StatusStore:
    """The only writer of a run's status file, for the process that owns the run: every write raises RunLost else."""

    def __init__(self, run: OwnedRun) -> None:
        self.run, self.path = run, run.status

    def read(self) -> Status:
        """The file's content. Raises StatusError."""
        return read_status(self.path)

    def start(
        self,
        stage: str,
        *,
        fresh: bool,
        total_epochs: int,
        arch: Arch,
        config_hash: str,
        seed: int,
        inputs: dict[str, str],
    ) -> StageRecord:
        """A stage begins from nothing (`fresh`) or resumes; an old error stays visible until it has come further."""
        record = self.read().stage(stage)
        unfinished = record.status in ("in_progress", "failed")
        return self._move(
            stage,
            "in_progress",
            started_at=utc_now() if fresh else record.started_at or utc_now(),
            completed_at=None,
            checkpoint=None,
            files=None,
            history=None,
            inputs=inputs,
            epoch=0 if fresh else record.epoch or 0,
            step=0 if fresh else record.step or 0,
            total_epochs=total_epochs,
            arch=dict(arch),
            config_hash=config_hash,
            seed=seed,
            retrain=None if fresh else record.retrain,
            attempts=(record.attempts or 0) + 1 if unfinished else 1,
            seconds=None if fresh else record.seconds,
            owner=current_owner(),
        )

    def progress(self, stage: str, *, epoch: int, step: int, seconds: float) -> None:
        """A stage in progress has saved its state at this step, after so many seconds in all its attempts."""
        self._move(stage, "in_progress", epoch=epoch, step=step, seconds=round(seconds, 1), error_message=None)

    def complete(
        self,
        stage: str,
        *,
        checkpoint: str,
        files: dict[str, FileDigest],
        step: int,
        seconds: float,
        history: str | None = None,
    ) -> None:
        """A stage's files are in place: only now are they named here."""
        record = self.read().stage(stage)
        self._move(
            stage,
            "completed",
            checkpoint=checkpoint,
            completed_at=utc_now(),
            files=file_records(files),
            history=history,
            epoch=record.total_epochs,
            step=step,
            error_message=None,
            owner=None,
            seconds=round(seconds, 1),
        )

    def fail(self, stage: str, message: str) -> None:
        """A stage ended with an error."""
        self._move(stage, "failed", error_message=message, owner=None)

    def adopt(self, stage: str, files: dict[str, FileDigest], **values: Any) -> None:
        """Note what a completed stage's hand-written record left out, once its files were checked."""
        with _writing:
            self._write_stage(self.read(), stage, {"files": file_records(files), **values})

    def order_retraining(self, reasons: Mapping[str, str], forced_by: str | None) -> None:
        """Note, before anything is replaced, which stages have to start again, so that a kill changes nothing of it."""
        if not reasons and forced_by is None:
            return
        with _writing:
            status = self.read()
            marked = {name: status.stage(name).model_copy(update={"retrain": why}) for name, why in reasons.items()}
            stages = {**status.stages, **marked}
            self._write(status.model_copy(update={"stages": stages, "forced_by": forced_by or status.forced_by}))

    def record_threads(self, n_threads: int) -> None:
        """Note how many CPU threads the run has."""
        with _writing:
            self._write(self.read().model_copy(update={"threads": n_threads}))

    def record_report(self, digest: FileDigest, made_from: str) -> None:
        """Note the HTML report that lies in the run."""
        with _writing:
            report = ReportRecord(sha256=digest.sha256, bytes=digest.bytes, made_from=made_from)
            self._write(self.read().model_copy(update={"report": report}))

    def record_evaluation(self, name: str, **values: Any) -> None:
        """Note how an evaluation stands."""
        with _writing:
            status = self.read()
            record = EvaluationRecord.model_validate({**status.evaluation(name).model_dump(), **values})
            self._write(status.model_copy(update={"evaluations": {**status.evaluations, name: record}}))

    def record_wandb(self, record: WandbRecord) -> None:
        """Note the W&B run that this training belongs to."""
        with _writing:
            self._write(self.read().model_copy(update={"wandb": record}))

    def record_upload(self, **values: Any) -> None:
        """Note how an upload went; what is not given stays."""
        with _writing:
            status = self.read()
            before = (status.upload or UploadRecord()).model_dump()
            self._write(status.model_copy(update={"upload": UploadRecord.model_validate({**before, **values})}))

    def replace(self, status: Status) -> None:
        """Put a whole status in place, such as one that was restored."""
        with _writing:
            self._write(status)

    def _move(self, stage: str, state: StageState, **values: Any) -> StageRecord:
        with _writing:
            self.run.check()
            status = self.read()
            record = status.stage(stage)
            if state not in LEGAL[record.status]:
                raise IllegalTransition(
                    f"{self.path}: stage {stage} cannot go from {record.status} to {state}; "
                    f"from {record.status} it may go to {', '.join(LEGAL[record.status])}"
                )
            return self._write_stage(status, stage, {"status": state, **values})

    def _write_stage(self, status: Status, stage: str, values: dict[str, Any]) -> StageRecord:
        changed = StageRecord.model_validate({**status.stage(stage).model_dump(), **values})
        self._write(status.model_copy(update={"stages": {**status.stages, stage: changed}}))
        return changed

    def _write(self, status: Status) -> None:
        self.run.check()
        write_text(self.path, text_of(status))


def read_status(path: Path) -> Status:
    """A status file, or an empty status where there is no file. Raises StatusError."""
    try:
        text = read_text(path, follow_links=False)
    except FileNotFoundError:
        return Status()
    except Unreadable as error:
        raise StatusError(f"{error}; restore it from a copy") from None
    return parse_status(text, path)


def text_of(status: Status) -> str:
    """The file's text: what is not known is left out."""
    content = status.model_dump(mode="json", exclude_none=True, exclude_unset=False)
    if not content.get("evaluations"):
        content.pop("evaluations", None)
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_status(text: str, path: Path) -> Status:
    """Check a status file's text. Raises StatusError with file, line and the valid values."""
    try:
        raw = parse_json(text, allow_nan=False)
    except Unparsable as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise StatusError(f"{where}: invalid JSON ({error.reason}); correct it or restore a copy") from None
    if not isinstance(raw, dict):
        raise StatusError(f"{path}: holds a {type(raw).__name__}, not an object with schema_version and stages")
    _check_version(raw, text, path)
    _check_names(raw, "stages", "stage", tuple(SPECS), text, path)
    _check_names(raw, "evaluations", "evaluation", EVALUATIONS, text, path)
    try:
        return Status.model_validate(raw)
    except ValidationError as error:
        fault = fault_of(error)
        valid = f"; valid: {', '.join(STATES)}" if fault.location[-1] == "status" else ""
        where = ".".join(map(shortened, fault.location))
        message = f"{where}: {fault.message.lower()} (given: {shown(fault.given)}){valid}"
        raise StatusError(f"{path}:{_line_of(text, fault.location)}: {message}") from None


def file_records(files: Mapping[str, FileDigest]) -> dict[str, dict[str, Any]]:
    """Digests by file name, as a record keeps them."""
    return {name: {"sha256": digest.sha256, "bytes": digest.bytes} for name, digest in files.items()}


def _check_version(raw: dict[str, Any], text: str, path: Path) -> None:
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise StatusError(
            f"{path}:{_line_of(text, ['schema_version'])}: schema_version is {shown(version)}; this program reads "
            f"{SCHEMA_VERSION}. Use the version of the program that wrote the file"
        )


def _check_names(raw: dict[str, Any], key: str, kind: str, valid: tuple[str, ...], text: str, path: Path) -> None:
    section = raw.get(key, {})
    unknown = next((name for name in section if name not in valid), None) if isinstance(section, dict) else None
    if unknown is not None:
        raise StatusError(
            f"{path}:{_line_of(text, [key, unknown])}: unknown {kind} {shown(unknown)}; valid: {', '.join(valid)}"
        )


def _line_of(text: str, keys: Sequence[str]) -> int:
    position = 0
    for key in keys:
        found = text.find(json.dumps(key), position)
        position = found if found >= 0 else position
    return text.count("\n", 0, position) + 1
