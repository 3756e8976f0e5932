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
        rows = self.read().get(stage, [])
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def of_these_weights(self, status: Status) -> dict[str, list[Row]]:
        """The rows, without those of a completed stage that are not the ones it was completed with."""
        by_stage = self.read()
        for stage in [*by_stage]:
            known = status.stage(stage).history
            if known is not None and known != self.digest(stage):
                logger.warning("%s: its rows of %s are not those of these weights, and are left out", self.path, stage)
                del by_stage[stage]
        return by_stage


def _is_row(row: Row) -> bool:
    """Whether it names its stage and its step, and holds nothing but numbers beside them."""
    numbers = [value for name, value in row.items() if name != "stage"]
    is_step = isinstance(row.get("step"), int | float) and math.isfinite(row["step"])
    return isinstance(row.get("stage"), str) and is_step and all(isinstance(one, int | float) for one in numbers)
