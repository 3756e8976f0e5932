"""`ups status`: the guide's table for people, JSON for machines, and the plan of what would be done next."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.services.run.config_file import disabled_stages
from tasks.services.run.lock import is_owned, owner_in_words
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS, Owner, StageRecord, Status, WandbRecord, read_status
from tasks.services.stages.overview import StageRow, Upload, overview
from ups_models.files import digest_of
from ups_models.stages.spec import SPECS
from ups_models.wording import plain, shortened

if TYPE_CHECKING:
    from tasks.services.stages.plan import Plan

WIDTH = 80
MARKS = {"completed": "✅", "in_progress": "🔄", "failed": "❌", "not_started": "⏸️ ", "disabled": "⏸️ "}
MEGABYTE = 1_000_000
MISSING = "N/A"
LONGEST_TEXT = 300


def status_table(run: RunDir, *, verify: bool = False) -> str:
    """The guide's table as text; `verify` reads every file and compares its digest. Raises StatusError."""
    status = _in_plain_words(read_status(run.status))
    found = overview(status, disabled=disabled_stages(run.root))
    rule, line = "=" * WIDTH, "-" * WIDTH
    parts = [
        rule,
        "TRAINING PIPELINE STATUS",
        rule,
        f"Checkpoint Directory: {plain(run.checkpoints.absolute())}",
        "",
        "Training Stages:",
        line,
        f"{'Stage':<25} {'Status':<15} {'Checkpoint':<25} Completed",
        line,
        *(stage_line(row.name, row.status, row.checkpoint, row.completed_at) for row in found.stages),
        *(remark for row in found.stages for remark in _remarks(row, run)),
        "",
        "Pipeline Status:",
        line,
        f"{'Training Complete:':<25} {'✅ Yes' if found.trained else '❌ No'}",
        *(evaluation_line(row.name, row.status, row.completed_at, row.error) for row in found.evaluations),
        *_wandb(status.wandb, found.upload),
        "",
        "Checkpoint Files:",
        line,
        *(
            _file_line(run.checkpoint(name), record, verify=verify)
            for stage, record in status.records().items()
            for name in SPECS[stage].files
        ),
        rule,
    ]
    return "\n".join(parts)


def status_json(run: RunDir) -> str:
    """Every stage and evaluation, those that have not started included, as JSON."""
    status = read_status(run.status)
    content = status.model_dump(mode="json", exclude_none=True) | {
        "checkpoint_dir": str(run.checkpoints.absolute()),
        "stages": {name: row.model_dump(mode="json", exclude_none=True) for name, row in status.records().items()},
        "evaluations": {
            name: status.evaluation(name).model_dump(mode="json", exclude_none=True) for name in EVALUATIONS
        },
        "training_complete": status.is_trained(disabled_stages(run.root)),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def plan_table(plan: Plan) -> str:
    """What --auto-resume would do next, and why."""
    stages = [f"  {item.stage:<22} {item.action:<9} {plain(item.reason)}" for item in plan.stages]
    evaluations = [
        f"  {item.name:<22} {'run' if item.run else 'skip':<9} {plain(item.reason)}" for item in plan.evaluations
    ]
    return "\n".join(["", "What --auto-resume would do:", "-" * WIDTH, *stages, *evaluations])


def _in_plain_words(status: Status) -> Status:
    """The status with every text in it fit for one line of a table."""

    def fit(value: Any) -> Any:
        if isinstance(value, dict):
            return {plain(key): fit(item) for key, item in value.items()}
        if isinstance(value, list):
            return [fit(item) for item in value]
        return shortened(value, LONGEST_TEXT) if isinstance(value, str) else value

    return Status.model_validate(fit(status.model_dump()))


def stage_line(stage: str, status: str, checkpoint: str | None, completed_at: str | None) -> str:
    """A stage in the table."""
    file = checkpoint or MISSING if status == "completed" else MISSING
    return f"{stage:<25} {MARKS[status]} {status:<12} {file:<25} {_when(completed_at)}"


def evaluation_line(name: str, status: str, completed_at: str | None, error: str | None) -> str:
    """An evaluation in the table."""
    title = name.replace("_", " ").title() + ":"
    failure = "Not run" if status == "not_started" else error or status
    return f"{title:<25} {f'✅ {_when(completed_at)}' if status == 'completed' else f'❌ {failure}'}"


def _remarks(row: StageRow, run: RunDir) -> list[str]:
    """How far a stage in progress is and which process trains it; the last error of a stage that is not completed."""
    epochs = f" of {row.total_epochs}" if row.total_epochs else ""
    saved = f"saved at step {row.step}, epoch {row.epoch}{epochs}" if row.step else "nothing is saved yet"
    position = f"  {row.name}: {saved}; {_owner(row.owner, run)}"
    error = [f"  {row.name}: last error: {row.error}"] if row.error else []
    error += [f"  {row.name}: is to be trained again: {row.again}"] if row.again else []
    return [position, *error] if row.status == "in_progress" else error


def _owner(owner: Owner | None, run: RunDir) -> str:
    """Who trains it: whoever holds the run's lock, and else who did when the stage was recorded."""
    if is_owned(run):
        return f"owned by {owner_in_words(run.lock).rstrip(',')}, alive"
    if owner is None:
        return "its owner is not recorded"
    who = f"process {owner.pid} on {owner.host}, started {owner.started_at}"
    return f"owned by {who}, dead: --auto-resume takes over"


def _wandb(run: WandbRecord | None, upload: Upload) -> list[str]:
    if run is None:
        return []
    project = "/".join(part for part in (run.entity, run.project) if part)
    rows = [("Run ID:", run.id), ("Run Name:", run.name), ("Project:", project), ("URL:", run.url)]
    rows += [("Restored from:", run.source)] if run.source else []
    rows += [("Uploaded:", _upload(upload))]
    return ["", "WandB Run:", "-" * WIDTH, *(f"{label:<25} {value or MISSING}" for label, value in rows)]


def _upload(upload: Upload) -> str:
    """Whether the checkpoints here would survive the loss of this machine."""
    error = f"; last error: {upload.error}" if upload.error else ""
    if upload.version is None:
        return f"❌ nothing yet{error}"
    at = f", {_when(upload.uploaded_at)}" if upload.uploaded_at else ""
    mark, what = ("✅", "all of it") if upload.current else ("🔄", "older than the checkpoints here")
    return f"{mark} {upload.version}{at}: {what}{error}"


def _file_line(path: Path, record: StageRecord, *, verify: bool) -> str:
    if not path.is_file():
        return f"  ❌ {path.name:<30} (not found)"
    size = f"({path.stat().st_size / MEGABYTE:.1f} MB)"
    known = (record.files or {}).get(path.name)
    if not verify:
        return f"  ✅ {path.name:<30} {size}"
    if known is None:
        return f"  ❔ {path.name:<30} {size} no digest recorded"
    mark, verdict = ("✅", "good") if digest_of(path) == known.digest else ("❌", "differs: damaged or replaced")
    return f"  {mark} {path.name:<30} {size} digest {verdict}"


def _when(timestamp: str | None) -> str:
    if timestamp is None:
        return MISSING
    try:
        return datetime.fromisoformat(timestamp).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return timestamp
