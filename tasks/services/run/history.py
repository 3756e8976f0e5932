"""reports/metrics.jsonl: what training measured, one line a step, kept whatever else fails."""

import hashlib
import json
import logging
import math
from typing import Any

from tasks.services.run import jsonl
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Status
from ups_models.files import write_text

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class History:
    """The rows of a run; a step that is done again after a resume is written again, and the last row counts."""

    def __init__(self, run: RunDir) -> None:
        self.path = run.history

    def append(self, stage: str, row: Row) -> None:
        """Add one row; rows are small enough that a kill loses the last one at most."""
        jsonl.append(self.path, {"stage": stage, **row})

    def forget(self, stage: str) -> None:
        """Drop the rows of a stage that starts from nothing: they belong to other weights."""
        rows = jsonl.read(self.path)
        kept = [row for row in rows if _is_row(row) and row["stage"] != stage]
        if len(kept) < len(rows):
            write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in kept))

    def read(self) -> dict[str, list[Row]]:
        """Rows by stage, by rising step."""
        by_stage: dict[str, dict[float, Row]] = {}
        rows = jsonl.read(self.path)
        good = [row for row in rows if _is_row(row)]
        if len(good) < len(rows):
            logger.warning("%s: %d rows are none of ours and left out", self.path, len(rows) - len(good))
        for row in good:
            by_stage.setdefault(str(row.pop("stage")), {})[row["step"]] = row
        return {stage: [rows[step] for step in sorted(rows)] for stage, rows in by_stage.items()}

    def digest(self, stage: str) -> str:
        """The sha256 of a stage's rows."""
        return _digest(self.read().get(stage, []))

    def of_these_weights(self, status: Status) -> dict[str, list[Row]]:
        """The rows, without those of the completed stages that are `strange`."""
        strange = self.strange(status)
        return {stage: rows for stage, rows in self.read().items() if stage not in strange}

    def strange(self, status: Status) -> tuple[str, ...]:
        """The completed stages of which the file holds other rows than they were completed with."""
        by_stage = self.read()
        known = {name: record.history for name, record in status.stages.items() if record.status == "completed"}
        return tuple(name for name, rows in known.items() if rows not in (None, _digest(by_stage.get(name, []))))

    def warn_of_strange(self, status: Status) -> None:
        """Warn of the stages that are `strange`."""
        if strange := self.strange(status):
            logger.warning(
                "%s: does not hold what was measured in %s: reports leave it out", self.path, ", ".join(strange)
            )


def _digest(rows: list[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _is_row(row: Row) -> bool:
    """Whether it names its stage and its step, and holds nothing but numbers beside them."""
    numbers = [value for name, value in row.items() if name != "stage"]
    is_step = isinstance(row.get("step"), int | float) and math.isfinite(row["step"])
    return isinstance(row.get("stage"), str) and is_step and all(isinstance(one, int | float) for one in numbers)
