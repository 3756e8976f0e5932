"""The runs below a folder: how far each is, and how good."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.services.run.config_file import checkpoint_dir_of, disabled_stages
from tasks.services.run.paths import CONFIG, STATUS, RunDir
from tasks.services.run.status import EVALUATIONS, Status, read_status
from ups_models.errors import BadInput, UPSError
from ups_models.evaluation.parts import main_error
from ups_models.evaluation.result import EvaluationResult, read_result
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)

DEPTH = 3
"""Folders below the one that is named in which a run may lie."""
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunSummary:
    """One run, and what is known of it without PyTorch."""

    root: Path
    status: Status
    results: Mapping[str, EvaluationResult | None]
    """Of the evaluations that are completed; None for one that cannot be used."""
    touched_at: float
    """When anything was recorded last, in seconds since 1970."""
    disabled: frozenset[str] = frozenset()
    """Stages that its config has no epochs for."""

    @property
    def result(self) -> EvaluationResult | None:
        """The full evaluation; the small one where that is not there, or cannot be used."""
        return next((found for name in reversed(EVALUATIONS) if (found := self.results.get(name)) is not None), None)

    @property
    def state(self) -> str:
        """How far it is: `complete`, or the stage or evaluation that is next or at fault."""
        for name, record in self.status.records().items():
            if record.status == "completed" and record.retrain is not None:
                return f"{name} to be trained again"
            left_out = name in self.disabled or (SPECS[name].optional and record.status == "not_started")
            if record.status != "completed" and not left_out:
                step = f" at step {record.step}" if record.step else ""
                return f"{name} {record.status.replace('_', ' ')}{step}"
        for name in EVALUATIONS:
            if (status := self.status.evaluation(name).status) not in ("completed", "not_started"):
                return f"{name} {status.replace('_', ' ')}"
            if name in self.results and self.results[name] is None:
                return f"{name} to be made again"
        return "complete" if self.result is not None else "trained, not evaluated"

    @property
    def error(self) -> float | None:
        """The main metric of `result`: the rollout's nRMSE, or the prior's where there is no operator."""
        return None if self.result is None else main_error(self.result)


def runs_below(folder: Path) -> list[RunSummary]:
    """Every run in the folder and below it, by path. Raises BadInput where there is none."""
    found = [run for root in _roots(folder) if (run := _found(root)) is not None]
    if not found:
        raise BadInput(f"{folder}: no run lies here or up to {DEPTH} folders below; begin one: ups train --run-dir DIR")
    return found


def evaluated_run(root: Path) -> RunSummary:
    """One run that was evaluated, by its directory or that of its checkpoints. Raises BadInput where it was not."""
    root = root.parent if root.name == CHECKPOINTS and (root / STATUS).exists() else root
    run = _found(root) if run_of(root).status.exists() else None
    if run is None or run.result is None:
        raise BadInput(f"{root}: holds no run that was evaluated; name a run's directory, as `ups runs` lists them")
    return run


def run_of(root: Path) -> RunDir:
    """The run in a folder, wherever its config has its checkpoints."""
    try:
        return RunDir.of(root, checkpoint_dir_of(root))
    except UPSError:  # the error is reported where the run is read
        return RunDir.of(root, Path(CHECKPOINTS))


def _roots(folder: Path) -> Iterator[Path]:
    for depth in range(DEPTH + 1):
        pattern = "*/" * depth
        found = {path.parent.parent for path in folder.glob(f"{pattern}{CHECKPOINTS}/{STATUS}")}
        found |= {path.parent for path in folder.glob(f"{pattern}{CONFIG}") if run_of(path.parent).status.exists()}
        yield from sorted(found)


def _found(root: Path) -> RunSummary | None:
    run = run_of(root)
    try:
        status = read_status(run.status)
    except UPSError as error:
        logger.warning("%s", error)
        return None
    done = [name for name in EVALUATIONS if status.evaluation(name).status == "completed"]
    results = {name: _result(run, name, status) for name in done}
    return RunSummary(root, status, results, run.status.stat().st_mtime, disabled_stages(run.root))


def _result(run: RunDir, name: str, status: Status) -> EvaluationResult | None:
    try:
        result = read_result(run.result(name, ".json"))
    except UPSError as error:
        logger.warning("%s", error)
        return None
    if (stage := replaced_since(result, status)) is not None:
        logger.warning("%s: is of other weights of %s than there are now", run.result(name, ".json"), stage)
        return None
    return result


def replaced_since(result: EvaluationResult, status: Status) -> str | None:
    """A stage whose weights are not those that were evaluated; None where all are."""
    for stage, checkpoint in result.checkpoints.items():
        known = (status.stage(stage).files or {}).get(checkpoint.file)
        if known is None or known.sha256 != checkpoint.sha256:
            return stage
    return None
