"""A run at a glance, for whoever shows it: rows of plain values, and its report as Markdown."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.services.checkpoints.sets import signature_of
from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS, Owner, StageRecord, Status, read_status
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.parts import main_error
from ups_models.evaluation.result import read_result
from ups_models.files import write_atomically
from ups_models.stages.spec import SPECS

MAX_IMAGE_BYTES = 200_000
PICTURE = "rollout_error.png"


@dataclass(frozen=True)
class StageRow:
    """What is known of one stage. `status` is as recorded, or disabled; totals are known with the config."""

    name: str
    status: str
    checkpoint: str | None
    completed_at: str | None
    step: int
    total_steps: int | None
    epoch: int | None
    total_epochs: int | None
    seconds: float | None
    loss: float | None
    error: str | None
    owner: Owner | None

    @property
    def started(self) -> bool:
        """Whether there is anything of it."""
        return self.status not in ("not_started", "disabled")


@dataclass(frozen=True)
class EvaluationRow:
    """What is known of one evaluation; `nrmse` of the rollout, or of the steady prior, once it is completed."""

    name: str
    status: str
    completed_at: str | None
    seconds: float | None
    nrmse: float | None
    error: str | None


@dataclass(frozen=True)
class Upload:
    """The newest set of checkpoints that is safe in W&B; `current` if it holds all that lies here."""

    version: str | None
    current: bool
    uploaded_at: str | None
    error: str | None


@dataclass(frozen=True)
class Overview:
    """Every stage, every evaluation, and the last upload."""

    stages: tuple[StageRow, ...]
    evaluations: tuple[EvaluationRow, ...]
    upload: Upload


def overview(
    status: Status,
    cfg: PipelineConfig | None = None,
    losses: Mapping[str, float] | None = None,
    errors: Mapping[str, float] | None = None,
) -> Overview:
    """From a status; `losses` of stages and `errors` of evaluations are shown where they are given."""
    stages = [_stage_row(name, status.stage(name), cfg, (losses or {}).get(name)) for name in SPECS]
    evaluations = [_evaluation_row(name, status, (errors or {}).get(name)) for name in EVALUATIONS]
    return Overview(tuple(stages), tuple(evaluations), _upload(status))


def overview_of(run: RunDir, cfg: PipelineConfig) -> Overview:
    """Of a run on this machine, with the last loss of each stage and the error of each evaluation."""
    losses = {name: float(rows[-1]["loss"]) for name, rows in History(run).read().items() if rows}
    results = {name: run.result(name) for name in EVALUATIONS}
    errors = {name: main_error(read_result(path)) for name, path in results.items() if path.is_file()}
    return overview(read_status(run.status), cfg, losses, errors)


def keep_picture(run: RunDir, picture: bytes) -> None:
    """Keep the picture that `report_in` shows."""
    write_atomically(run.reports / PICTURE, lambda file: file.write(picture))


def report_in(run: RunDir) -> str:
    """Where everything is, one picture, and the newest evaluation in full."""
    path = run.reports / PICTURE
    picture = path.read_bytes() if path.is_file() else None
    status = read_status(run.status)
    wandb = status.wandb.url if status.wandb is not None else None
    lines = [f"HTML report: `{run.report.absolute()}`", ""]
    lines += [f"W&B run: [{wandb}]({wandb})", ""] if wandb else []
    if picture is not None and len(picture) <= MAX_IMAGE_BYTES:
        lines += [f"![Rollout error](data:image/png;base64,{base64.b64encode(picture).decode()})", ""]
    for name in reversed(EVALUATIONS):
        path = run.result(name, ".md")
        if status.evaluation(name).status == "completed" and path.is_file():
            return "\n".join([*lines, path.read_text("utf-8")])
    return "\n".join([*lines, "Nothing is evaluated yet."])


def _stage_row(name: str, record: StageRecord, cfg: PipelineConfig | None, loss: float | None) -> StageRow:
    settings = cfg.stages.of(name) if cfg is not None else None
    done = record.status == "completed"
    disabled = settings is not None and not settings.total_steps and not done
    return StageRow(
        name=name,
        status="disabled" if disabled else record.status,
        checkpoint=record.checkpoint if done else None,
        completed_at=record.completed_at,
        step=record.step or 0,
        total_steps=settings.total_steps if settings is not None else None,
        epoch=record.epoch or 0,
        total_epochs=record.total_epochs or (settings.epochs if settings is not None else None),
        seconds=record.seconds,
        loss=loss if record.status != "not_started" else None,
        error=record.error_message,
        owner=record.owner,
    )


def _evaluation_row(name: str, status: Status, error: float | None) -> EvaluationRow:
    record = status.evaluation(name)
    return EvaluationRow(
        name=name,
        status=record.status,
        completed_at=record.completed_at,
        seconds=record.seconds,
        nrmse=error if record.status == "completed" else None,
        error=record.error_message,
    )


def _upload(status: Status) -> Upload:
    record = status.upload
    if record is None:
        return Upload(None, False, None, None)
    current = record.version is not None and record.signature == signature_of(status)
    return Upload(record.version, current, record.uploaded_at, record.error_message)
