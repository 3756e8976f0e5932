"""What must hold after every kill, and at the end: nothing damaged, nothing stray, nothing different."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.run.history import History
from tasks.services.run.lock import is_owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS, Status, read_status
from ups_models.errors import UPSError
from ups_models.files import TEMPORARY_SUFFIX, digest_of
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import load_payload

VOLATILE = re.compile(r'"(created_at|seconds|\w+_s)": [^,\n]+')


@dataclass(frozen=True)
class Position:
    """Where a dead run stands: completed stages with their times, and the steps that must be done again."""

    completed: dict[str, str]
    steps_lost: int


def position(run: RunDir) -> Position:
    """Read from the files alone: the last step that was logged, less the step of the saved state."""
    completed = {
        name: record.completed_at or ""
        for name, record in read_status(run.status).stages.items()
        if record.status == "completed"
    }
    stage, step = _last_step(run)
    if not stage or stage in completed:
        return Position(completed, 0)
    newest = next((path for path in run.saved_states(stage) if path.is_file()), None)
    saved = int(load_payload(newest)["step"]) if newest is not None else 0
    return Position(completed, max(0, step - saved))


def _last_step(run: RunDir) -> tuple[str, int]:
    path = run.history
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # half a line of a killed writer
        return str(row["stage"]), int(row["step"])
    return "", 0


def violations(run: RunDir, *, finished: bool, excused: Collection[str] = ()) -> list[str]:
    """What is wrong with a run whose process is dead, in words; an empty list is the only good answer.

    The files of `excused` stages were damaged on purpose and may wait for their repair.
    """
    try:
        status = read_status(run.status)
    except UPSError as error:
        return [f"status: {error}"]
    found = _damaged(run, status, excused) + _stray(run, finished=finished)
    found += _locked(run)
    if finished:
        found += [
            f"{name} is {status.stage(name).status}" for name in SPECS if status.stage(name).status != "completed"
        ]
        found += [
            f"{name} is {status.evaluation(name).status}"
            for name in EVALUATIONS
            if status.evaluation(name).status != "completed"
        ]
    return found


def outcome(run: RunDir) -> dict[str, str]:
    """Everything that two runs must share: weights byte for byte, figures without their times, the loss history."""
    result = {
        name: digest_of(run.checkpoint(name)).sha256 if run.checkpoint(name).is_file() else "missing"
        for spec in SPECS.values()
        for name in spec.files
    }
    for name in EVALUATIONS:
        path = run.result(name)
        result[path.name] = VOLATILE.sub("", path.read_text("utf-8")) if path.is_file() else "missing"
    result["metrics.jsonl"] = json.dumps(History(run).read(), sort_keys=True)
    return result


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs between two outcomes."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _damaged(run: RunDir, status: Status, excused: Collection[str]) -> list[str]:
    found = []
    for name, record in status.stages.items():
        if name in excused:
            continue
        for file, known in (record.files or {}).items():
            path = run.checkpoint(file)
            if not path.is_file() or digest_of(path) != known.digest:
                found.append(f"{name} is {record.status}, but {file} is missing or damaged")
    found += [text for stage in SPECS for path in run.saved_states(stage) for text in _unreadable(path)]
    for name, evaluation in status.evaluations.items():
        if evaluation.status == "completed" and not _is_json(run.result(name)):
            found.append(f"{name} is completed, but its report cannot be read")
    return found


def _unreadable(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        load_payload(path)
    except UPSError as error:
        return [str(error)]
    return []


def _locked(run: RunDir) -> list[str]:
    try:
        return [f"{run.lock} is still locked"] if run.lock.exists() and is_owned(run) else []
    except UPSError as error:
        return [str(error)]


def _stray(run: RunDir, *, finished: bool) -> list[str]:
    expected = {run.status.name, run.lock.name, "resume", *(name for spec in SPECS.values() for name in spec.files)}
    found = [f"stray {path}" for path in run.checkpoints.glob("*") if not _known(path, expected)]
    found += [
        f"stray {path}"
        for path in (run.checkpoints / "resume").glob("*")
        if not _known(path, {state.name for stage in SPECS for state in run.saved_states(stage)})
    ]
    if finished:
        found += [f"left behind: {path}" for path in run.root.rglob(f"*{TEMPORARY_SUFFIX}")]
        found += [f"left behind: {path}" for path in (run.checkpoints / "resume").glob("*.pt")]
    return found


def _known(path: Path, expected: set[str]) -> bool:
    return path.name in expected or path.name.endswith(TEMPORARY_SUFFIX)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True
