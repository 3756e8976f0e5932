"""JSON lines: the one writer and reader of files to which a process that may be killed appends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ups_models.files import append_line


def append(path: Path, entry: Mapping[str, Any], *, flush: bool = False) -> None:
    """Add one entry; `flush` has it on the disk before the call returns. Half a line before it costs no other."""
    append_line(path, json.dumps(entry), flush=flush)


def read(path: Path) -> list[dict[str, Any]]:
    """All entries, oldest first; none where there is no file. Half a line of a killed writer is left out."""
    if not path.is_file():
        return []
    entries = (_parsed(line) for line in path.read_text("utf-8").splitlines())
    return [entry for entry in entries if entry is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None
