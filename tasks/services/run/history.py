"""reports/metrics.jsonl: what training measured, one line a step, kept whatever else fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ups_models.files import append_line, write_text

Row = dict[str, Any]


class History:
    """Appends rows to one file; a step that is done again after a resume is written again, and the last row counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, stage: str, row: Row) -> None:
        """Add one row; rows are small enough that a kill loses the last one at most."""
        append_line(self.path, json.dumps({"stage": stage, **row}))

    def forget(self, stage: str) -> None:
        """Drop the rows of a stage that starts from nothing: they belong to other weights."""
        if not self.path.exists():
            return
        lines = self.path.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if (row := _parsed(line)) is not None and row["stage"] != stage]
        if len(kept) < len(lines):
            write_text(self.path, "".join(kept))

    def read(self) -> dict[str, list[Row]]:
        """Rows by stage, by rising step."""
        by_stage: dict[str, dict[float, Row]] = {}
        if self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                row = _parsed(line)
                if row is not None:
                    by_stage.setdefault(str(row.pop("stage")), {})[row["step"]] = row
        return {stage: [rows[step] for step in sorted(rows)] for stage, rows in by_stage.items()}


def _parsed(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None  # half a line: the writer was killed in it
    return row if isinstance(row, dict) and "stage" in row and "step" in row else None
