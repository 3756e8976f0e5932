"""Tables for people and JSON for machines, on standard output."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.services.checkpoints.sets import signature_of
from tasks.services.run.lock import is_owned
from tasks.services.run.paths import STATUS, RunDir
from tasks.services.run.status import EVALUATIONS, StageRecord, Status, read_status
from tasks.services.stages.plan import Plan
from ups_models.files import digest_of
from ups_models.stages.spec import SPECS

if TYPE_CHECKING:
    from ups_models.data.inspect import FileInfo

WIDTH = 80
MARKS = {"completed": "✅", "in_progress": "🔄", "failed": "❌", "not_started": "⏸️ "}
MEGABYTE = 1_000_000


def echo(text: str) -> None:
    """Write to standard output, at once: it may be a log that somebody follows."""
    print(text, flush=True)  # noqa: T201 - this module is the CLI's printer


def status_table(checkpoints: Path, *, verify: bool = False) -> str:
    """The guide's table as text; `verify` reads every file and compares its digest. Raises StatusError."""
    status = read_status(checkpoints / STATUS)
    rule, line = "=" * WIDTH, "-" * WIDTH
    parts = [
        rule,
        "TRAINING PIPELINE STATUS",
        rule,
        f"Checkpoint Directory: {checkpoints.absolute()}",
        "",
        "Training Stages:",
        line,
        f"{'Stage':<25} {'Status':<15} {'Checkpoint':<25} Completed",
        line,
        *(_stage_row(name, status.stage(name)) for name in SPECS),
        *_remarks(status, RunDir(checkpoints.parent, checkpoints)),
        "",
        "Pipeline Status:",
        line,
        f"{'Training Complete:':<25} {'✅ Yes' if status.training_complete else '❌ No'}",
        *(f"{_title(name):<25} {_evaluation(status, name)}" for name in EVALUATIONS),
        *_wandb(status),
        "",
        "Checkpoint Files:",
        line,
        *(
            _file_row(checkpoints / name, status.stage(stage), verify=verify)
            for stage, spec in SPECS.items()
            for name in spec.files
        ),
        rule,
    ]
    return "\n".join(parts)


def status_json(checkpoints: Path) -> str:
    """Every stage and evaluation, those that have not started included, as JSON."""
    status = read_status(checkpoints / STATUS)
    stages = {name: status.stage(name).model_dump(mode="json", exclude_none=True) for name in SPECS}
    evaluations = {name: status.evaluation(name).model_dump(mode="json", exclude_none=True) for name in EVALUATIONS}
    content = status.model_dump(mode="json", exclude_none=True) | {
        "checkpoint_dir": str(checkpoints.absolute()),
        "stages": stages,
        "evaluations": evaluations,
        "training_complete": status.training_complete,
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def plan_table(plan: Plan) -> str:
    """What --auto-resume would do next, and why."""
    stages = [f"  {item.stage:<22} {item.action:<9} {item.reason}" for item in plan.stages]
    evaluations = [f"  {item.name:<22} {'run' if item.run else 'skip':<9} {item.reason}" for item in plan.evaluations]
    return "\n".join(["", "What --auto-resume would do:", "-" * WIDTH, *stages, *evaluations])


def print_file_info(info: "FileInfo") -> None:
    """What `ups data info` shows."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if os.isatty(1) else 100, highlight=False)
    console.print(f"{info.path}: {info.family}, {info.n_samples} samples, parameter {info.parameter:g}", markup=False)
    dt = f", dt {info.dt:g}" if info.dt is not None else ""
    console.print(f"{info.size_bytes / MEGABYTE:.1f} MB, grid {' x '.join(map(str, info.grid))}{dt}", markup=False)
    table = Table("dataset", "shape", "dtype", "min", "max", "mean", "NaN", "Inf")
    for dataset in info.datasets:
        numbers = [f"{value:.4g}" for value in (dataset.min, dataset.max, dataset.mean)]
        shape = " x ".join(map(str, dataset.shape))
        table.add_row(dataset.name, shape, dataset.dtype, *numbers, str(dataset.n_nan), str(dataset.n_inf))
    console.print(table)
    console.print(f"duplicate trajectories: {info.n_duplicates}, NaN: {info.n_nan}, Inf: {info.n_inf}")


def _stage_row(name: str, record: StageRecord) -> str:
    checkpoint = (record.checkpoint or "N/A") if record.status == "completed" else "N/A"
    return f"{name:<25} {MARKS[record.status]} {record.status:<12} {checkpoint:<25} {_when(record.completed_at)}"


def _remarks(status: Status, run: RunDir) -> list[str]:
    """Where a stage in progress stands and who works on it; the last error of a stage that has not completed."""
    remarks = []
    for name in SPECS:
        record = status.stage(name)
        if record.status == "in_progress":
            remarks.append(f"  {name}: {_position(record)}; {_owner(record, run)}")
        if record.error_message:
            remarks.append(f"  {name}: last error: {record.error_message}")
    return remarks


def _position(record: StageRecord) -> str:
    epochs = f" of {record.total_epochs}" if record.total_epochs else ""
    return f"saved at step {record.step or 0}, epoch {record.epoch or 0}{epochs}"


def _owner(record: StageRecord, run: RunDir) -> str:
    if record.owner is None:
        return "its owner is not recorded"
    who = f"process {record.owner.pid} on {record.owner.host}, started {record.owner.started_at}"
    return f"owned by {who}, {'alive' if is_owned(run) else 'dead: --auto-resume takes over'}"


def _at(timestamp: str | None) -> str:
    return f", {_when(timestamp)}" if timestamp else ""


def _title(name: str) -> str:
    return name.replace("_", " ").title() + ":"


def _evaluation(status: Status, name: str) -> str:
    record = status.evaluation(name)
    if record.status == "completed":
        return f"✅ {_when(record.completed_at)}"
    return "❌ Not run" if record.status == "not_started" else f"❌ {record.error_message or record.status}"


def _wandb(status: Status) -> list[str]:
    run = status.wandb
    if run is None:
        return []
    project = "/".join(part for part in (run.entity, run.project) if part)
    rows = [("Run ID:", run.id), ("Run Name:", run.name), ("Project:", project), ("URL:", run.url)]
    rows += [("Restored from:", run.source)] if run.source else []
    rows += [("Uploaded:", _upload(status))]
    return ["", "WandB Run:", "-" * WIDTH, *(f"{label:<25} {value or 'N/A'}" for label, value in rows)]


def _upload(status: Status) -> str:
    """Whether what lies here would survive this machine."""
    upload = status.upload
    if upload is None or upload.version is None:
        state = "❌ nothing yet"
    elif upload.signature == signature_of(status):
        state = f"✅ {upload.version}{_at(upload.uploaded_at)}: all of it"
    else:
        state = f"🔄 {upload.version}{_at(upload.uploaded_at)}: older than what lies here"
    return state + (f"; last error: {upload.error_message}" if upload is not None and upload.error_message else "")


def _file_row(path: Path, record: StageRecord, *, verify: bool) -> str:
    if not path.is_file():
        return f"  ❌ {path.name:<30} (not found)"
    size = f"({path.stat().st_size / MEGABYTE:.1f} MB)"
    known = (record.files or {}).get(path.name)
    if not verify:
        return f"  ✅ {path.name:<30} {size}"
    if known is None:
        return f"  ❔ {path.name:<30} {size} no digest recorded"
    good = digest_of(path) == known.digest
    return (
        f"  {'✅' if good else '❌'} {path.name:<30} {size} digest {'good' if good else 'differs: damaged or replaced'}"
    )


def _when(timestamp: str | None) -> str:
    if timestamp is None:
        return "N/A"
    try:
        return datetime.fromisoformat(timestamp).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return timestamp
