"""JSON lines: the one writer and reader of files to which a process that may be killed appends."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ups_models.files import append_line, set_aside
from ups_models.reading import Unparsable, Unreadable, parse_json, read_lines

logger = logging.getLogger(__name__)


def append(path: Path, entry: Mapping[str, Any], *, flush: bool = False) -> None:
    """Add one entry; `flush` has it on the disk before the call returns. Half a line before it costs no other.

    What is no regular file and stands in its place, such as a link to somebody else's, is moved aside and told.
    """
    set_aside(path)
    append_line(path, json.dumps(entry), flush=flush)


def read(path: Path, *, optional: bool = True, tolerated: int = 1) -> list[dict[str, Any]]:
    """All entries, oldest first; none where there is no file.

    A line that is no entry costs itself: half a line of a killed writer is left out, and so is a damaged one; more of
    them than `tolerated` are logged. A file
    that cannot be read is told and costs itself too; raises Unreadable where it is not `optional`.
    """
    entries, damaged = [], 0
    try:
        for line in read_lines(path, follow_links=False):
            entry = _parsed(line)
            if entry is not None:
                entries.append(entry)
            damaged += entry is None and bool(line.strip())
    except FileNotFoundError:
        return []
    except Unreadable as error:
        if not optional:
            raise
        logger.warning("%s; the run goes on without what it held", error)
    if damaged > tolerated:  # one is what a killed writer leaves
        logger.warning("%s: %s damaged and left out", path, "1 line is" if damaged == 1 else f"{damaged} lines are")
    return entries


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = parse_json(line)
    except Unparsable:
        return None
    return entry if isinstance(entry, dict) else None
