"""A run at a glance, for whoever shows it: rows of plain values, and its report as Markdown."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tasks.services.checkpoints.sets import signature_of
from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS, Owner, StageRecord, Status, read_status
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.parts import main_error
from ups_models.evaluation.result import read_result
from ups_models.report.page import pictures_in
from ups_models.stages.spec import SPECS

MAX_PICTURES = 8_000_000
"""Most characters of pictures that a server is sent."""


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
    again: str | None
    """Why it is to be trained again, though it may be completed."""
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
    """Every stage, every evaluation, and the last upload. `trained`: no stage has anything left to do."""

    stages: tuple[StageRow, ...]
    trained: bool
    evaluations: tuple[EvaluationRow, ...]
    upload: Upload


def overview(
    status: Status,
    cfg: PipelineConfig | None = None,
    losses: Mapping[str, float] | None = None,
    errors: Mapping[str, float] | None = None,
    *,
    disabled: Collection[str] = (),
) -> Overview:
    """From a status; `losses` of stages and `errors` of evaluations are shown where they are given.

    Which stages are disabled is known by the config, or else given.
    """
    if cfg is not None:
        disabled = [name for name in SPECS if not cfg.stages.of(name).total_steps]
    stages = [_stage_row(name, status.stage(name), cfg, (losses or {}).get(name), disabled) for name in SPECS]
    evaluations = [_evaluation_row(name, status, (errors or {}).get(name)) for name in EVALUATIONS]
    return Overview(tuple(stages), status.is_trained(disabled), tuple(evaluations), _upload(status))


def overview_of(run: RunDir, cfg: PipelineConfig) -> Overview:
    """Of a run on this machine, with the last loss of each stage and the error of each evaluation."""
    losses = {name: float(rows[-1]["loss"]) for name, rows in History(run).read().items() if rows}
    results = {name: run.result(name) for name in EVALUATIONS}
    errors = {name: main_error(read_result(path)) for name, path in results.items() if path.is_file()}
    return overview(read_status(run.status), cfg, losses, errors)


def report_in(run: RunDir) -> str:
    """Where everything is, every evaluation in full, the newest first, and the pictures of the HTML report."""
    status = read_status(run.status)
    wandb = status.wandb.url if status.wandb is not None else None
    lines = [f"HTML report: `{run.report.absolute()}`", ""]
    lines += [f"W&B run: [{wandb}]({wandb})", ""] if wandb else []
    done = [name for name in reversed(EVALUATIONS) if status.evaluation(name).status == "completed"]
    texts = [path.read_text("utf-8") for name in done if (path := run.result(name, ".md")).is_file()]
    return "\n".join([*lines, *(texts or ["Nothing is evaluated yet."]), *_pictures(run)])


def _pictures(run: RunDir) -> list[str]:
    page = run.report.read_text("utf-8") if run.report.is_file() else ""
    found = pictures_in(page)
    if sum(len(address) for _, _, address in found) > MAX_PICTURES:
        return ["", "The pictures are too large to be shown here; open the HTML report."]
    lines: list[str] = []
    for number, (section, description, address) in enumerate(found):
        if number == 0 or section != found[number - 1][0]:
            lines += ["", f"## {section}"]
        lines += ["", f"![{description}]({address})"]
    return lines


def _stage_row(
    name: str, record: StageRecord, cfg: PipelineConfig | None, loss: float | None, disabled: Collection[str]
) -> StageRow:
    settings = cfg.stages.of(name) if cfg is not None else None
    done = record.status == "completed"
    return StageRow(
        name=name,
        status="disabled" if name in disabled and not done else record.status,
        checkpoint=record.checkpoint if done else None,
        completed_at=record.completed_at,
        step=record.step or 0,
        total_steps=settings.total_steps if settings is not None else None,
        epoch=record.epoch or 0,
        total_epochs=record.total_epochs or (settings.epochs if settings is not None else None),
        seconds=record.seconds,
        loss=loss if record.status != "not_started" else None,
        error=record.error_message,
        again=record.retrain if done else None,
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
