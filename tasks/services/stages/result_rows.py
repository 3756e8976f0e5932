"""Rows of a committed table of results: what made each, and whether a run that was made again is the same."""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from tasks.services.run.code_version import code_version
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Record, read_status
from tasks.services.stages.inputs import select_device
from tasks.services.stages.leaderboard import student_t
from ups_models.config.faults import reason_of
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.evaluation.registry import numbers_of
from ups_models.evaluation.result import read_result
from ups_models.files import write_text
from ups_models.nn.weights import digest_of
from ups_models.reading import Unparsable, parse_json, read_text
from ups_models.training.checkpoint import load_payload
from ups_models.training.conditions import exactness

CONFIG, EVALUATION = "config.yaml", "full_eval"
ROUNDING = 1e-9
FACTS = ("schema_version", "seed", "members", "trajectories", "steps", "data/", "network/")
"""Beginnings of the names of numbers that measure no network."""


class ResultRow(Record):
    """The figures of one run; what made it, and what identifies its weights."""

    command: str
    commit: str
    machine: str
    figures: dict[str, float]
    config: str = ""
    """The whole config as YAML, its seed included; empty in rows of earlier versions."""
    exactness: dict[str, str] = Field(default_factory=dict)
    """What the bits depend on beside config, seed and data."""
    digests: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the weights in each checkpoint, by file; the file itself also names the commit that wrote it."""
    numbers: dict[str, float] = Field(default_factory=dict)
    """What the full evaluation measured, by name."""


@dataclass(frozen=True)
class Comparison:
    """A run beside the row that it reproduces: line by line, and whether it is the same."""

    lines: tuple[str, ...]
    is_same: bool


def row_of(run: RunDir, figures: Mapping[str, float], *, command: str, machine: str) -> ResultRow:
    """The row of a finished run."""
    cfg = load_config(run.root / CONFIG, schema=PipelineConfig)
    return ResultRow(
        command=command,
        commit=code_version(),
        machine=machine,
        figures=dict(figures),
        config=_without_comments(read_text(run.root / CONFIG)),
        exactness=_exactness(cfg, run),
        digests=_digests(run),
        numbers=numbers_of(read_result(run.result(EVALUATION, ".json"))),
    )


def read_row(path: Path) -> ResultRow:
    """A row, also one that does not hold its config. Raises BadInput for what is none."""
    try:
        return ResultRow.model_validate(parse_json(read_text(path)))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; name a row, as docs/results/quickstart/quickstart-seed0.json") from None
    except (ValidationError, Unparsable) as error:
        raise BadInput(
            f"{path}: is no row of results ({reason_of(error)}); name a file below docs/results, or one that a "
            "benchmark wrote"
        ) from None


def reproducible_row(path: Path) -> ResultRow:
    """A row that can be made again and compared. Raises BadInput for one that does not hold what that takes."""
    row = read_row(path)
    if not row.config:
        raise BadInput(f"{path}: was made before rows held their config; make it again: {row.command}")
    if not row.digests and not _measured(row):
        raise BadInput(f"{path}: holds neither digests nor numbers to compare; make it again: {row.command}")
    return row


def write_row(path: Path, row: ResultRow) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(row.model_dump(mode="json"), indent=1) + "\n")


def compare(row: ResultRow, run: RunDir, path: Path) -> Comparison:
    """By digests where the machine computes alike; elsewhere by figures, within what other seeds of the row spread."""
    cfg = load_config(run.root / CONFIG, schema=PipelineConfig)
    here = _exactness(cfg, run)
    differences = [name for name in here if row.exactness.get(name) != here[name]]
    numbers = numbers_of(read_result(run.result(EVALUATION, ".json")))
    if not differences:
        return _by_digests(row, _digests(run)) if row.digests else _by_numbers(row, numbers)
    other = ", ".join(f"{name}: {row.exactness.get(name, '-')}, here {here[name]}" for name in differences)
    why = f"not the machine of the row ({other}): figures are compared, not bits"
    lines, is_same = _by_figures(row, numbers, _siblings(path))
    return Comparison((why, *lines), is_same)


def _exactness(cfg: PipelineConfig, run: RunDir) -> dict[str, str]:
    """What the bits of a run depend on: this machine, with the threads that the run was trained with."""
    return exactness(cfg, select_device(cfg, read_status(run.status).threads))


def _without_comments(text: str) -> str:
    """A config without its head, which names folders of the machine."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def _by_digests(row: ResultRow, found: Mapping[str, str]) -> Comparison:
    names = sorted(row.digests.keys() | found.keys())
    other = [name for name in names if row.digests.get(name) != found.get(name)]
    lines = tuple(f"{name}: {'DIFFERS' if name in other else 'the same bits'}" for name in names)
    return Comparison(lines, not other and bool(names))


def _by_numbers(row: ResultRow, found: Mapping[str, float]) -> Comparison:
    """Where a row has no digests: what the same weights must measure, to the bit."""
    measured = _measured(row)
    other = [
        f"{name}: {found.get(name)}, in the row {value}" for name, value in measured.items() if found.get(name) != value
    ]
    return Comparison((*other, f"{len(measured) - len(other)} of {len(measured)} numbers are the same"), not other)


def _measured(row: ResultRow) -> dict[str, float]:
    return {name: value for name, value in row.numbers.items() if not name.startswith(FACTS)}


def _by_figures(
    row: ResultRow, found: Mapping[str, float], siblings: Mapping[Path, ResultRow]
) -> tuple[list[str], bool]:
    """Every number within the interval in which 95 % of further seeds lie, as far as seeds can tell."""
    if len(siblings) < 2:
        return [f"no spread is known: {len(siblings)} seed of this row is kept; make others, and compare again"], False
    lines, is_same, compared = [], True, 0
    for name in sorted(_measured(row)):
        values = [one.numbers[name] for one in siblings.values() if name in one.numbers]
        if len(values) < 2:
            continue
        compared += 1
        if name not in found:
            is_same = False
            lines.append(f"{name}: was not measured here, or is not finite; {row.numbers[name]:.4g} in the row")
            continue
        mean = statistics.fmean(values)
        half = student_t(len(values) - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / len(values))
        if abs(found[name] - mean) > half + ROUNDING * abs(mean):
            is_same = False
            lines.append(f"{name}: {found[name]:.4g} is outside {mean - half:.4g} to {mean + half:.4g}")
    if not compared:
        return ["no number is that of other seeds too; make others, and compare again"], False
    return lines or [f"all {compared} numbers lie within the spread of the seeds"], is_same


def _siblings(path: Path) -> dict[Path, ResultRow]:
    """The row, and those of other seeds beside it that hold their numbers."""
    stem = path.stem.rpartition("-seed")[0]
    rows = {other: read_row(other) for other in path.parent.glob(f"{stem}-seed*.json")}
    return {other: row for other, row in rows.items() if row.numbers}


def _digests(run: RunDir) -> dict[str, str]:
    """Of the weights of every completed stage."""
    records = read_status(run.status).stages.values()
    names = [name for record in records if record.status == "completed" for name in record.files or {}]
    return {name: digest_of(load_payload(run.checkpoint(name))["state_dict"]) for name in sorted(names)}
