"""A run at a glance: rows of its stages and evaluations, and its report as Markdown, for whoever shows them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from tasks.services.checkpoints.sets import signature_of
from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS, EvaluationRecord, StageRecord, Status, read_status
from ups_models.config.schema import PipelineConfig
from ups_models.files import write_atomically
from ups_models.stages.spec import SPECS

DASH = "\N{EN DASH}"
MAX_IMAGE_BYTES = 200_000
PICTURE = "rollout_error.png"

Cells = dict[str, str]


def rows_of(
    cfg: PipelineConfig, status: Status, losses: Mapping[str, float], figures: Mapping[str, str]
) -> list[Cells]:
    """One row for each stage and evaluation: what a person wants to know of it, as text."""
    uploaded = _uploaded(status)
    stages = [_stage_row(cfg, name, status.stage(name), losses.get(name), uploaded) for name in SPECS]
    return stages + [_evaluation_row(name, status.evaluation(name), figures.get(name)) for name in EVALUATIONS]


def rows_in(cfg: PipelineConfig, run: RunDir) -> list[Cells]:
    """The same, of a run on this machine."""
    history = History(run).read()
    losses = {name: float(rows[-1]["loss"]) for name, rows in history.items() if rows}
    figures = {name: line for name in EVALUATIONS if (line := _nrmse(run.result(name))) is not None}
    return rows_of(cfg, read_status(run.status), losses, figures)


def keep_picture(run: RunDir, picture: bytes) -> None:
    """Keep the picture that `report_in` shows."""
    write_atomically(run.reports / PICTURE, lambda file: file.write(picture))


def report_in(run: RunDir) -> str:
    """Where everything is, one picture, and the newest evaluation in full."""
    path = run.reports / PICTURE
    picture = path.read_bytes() if path.is_file() else None
    status = read_status(run.status)
    wandb = status.wandb.url if status.wandb is not None else None
    lines = [f"HTML report: `{(run.report).absolute()}`", ""]
    lines += [f"W&B run: [{wandb}]({wandb})", ""] if wandb else []
    if picture is not None and len(picture) <= MAX_IMAGE_BYTES:
        lines += [f"![Rollout error](data:image/png;base64,{base64.b64encode(picture).decode()})", ""]
    for name in reversed(EVALUATIONS):
        path = run.result(name, ".md")
        if status.evaluation(name).status == "completed" and path.is_file():
            return "\n".join([*lines, path.read_text("utf-8")])
    return "\n".join([*lines, "Nothing is evaluated yet."])


def _stage_row(cfg: PipelineConfig, name: str, record: StageRecord, loss: float | None, uploaded: str) -> Cells:
    total = SPECS[name].settings(cfg).total_steps
    done = record.status == "completed"
    epochs = record.total_epochs or SPECS[name].settings(cfg).epochs
    return {
        "stage": name,
        "status": record.status if total or done else "disabled",
        "checkpoint": record.checkpoint or DASH if done else DASH,
        "figure": f"loss {loss:.4g}" if loss is not None and record.status != "not_started" else DASH,
        "step": f"{record.step or 0} of {total}, epoch {record.epoch or 0} of {epochs}",
        "seconds": _seconds(record.seconds),
        "uploaded": uploaded if record.status != "not_started" else DASH,
    }


def _evaluation_row(name: str, record: EvaluationRecord, figure: str | None) -> Cells:
    return {
        "stage": name,
        "status": record.status,
        "checkpoint": DASH,
        "figure": figure if figure is not None and record.status == "completed" else DASH,
        "step": DASH,
        "seconds": _seconds(record.seconds),
        "uploaded": DASH,
    }


def _uploaded(status: Status) -> str:
    upload = status.upload
    if upload is None or upload.version is None:
        return DASH
    return upload.version if upload.signature == signature_of(status) else f"{upload.version}, older"


def _seconds(seconds: float | None) -> str:
    return DASH if seconds is None else f"{seconds:.0f}"


def _nrmse(path: Path) -> str | None:
    """The rollout error of an evaluation, or the steady prior's where there is no operator."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text("utf-8"))
    if "rollout" in result:
        return f"nRMSE {result['rollout']['summary']['operator']['mean']:.4f}"
    return f"nRMSE {result['darcy']['steady_prior']['member_nrmse']:.4f}"
