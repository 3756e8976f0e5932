"""What each stage and evaluation needs: to run, to go on, or nothing at all; and why."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.services.data.datasets import data_fingerprint, steady_files, trajectory_files
from tasks.services.run.paths import RunDir
from tasks.services.run.status import StageRecord, Status, StatusStore
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import BadInput, CheckpointError
from ups_models.files import archive_damage, digest_of
from ups_models.stages.spec import SPECS, StageSpec, check_architecture

logger = logging.getLogger(__name__)

Action = Literal["skip", "adopt", "train", "resume", "disabled"]

STATUS_NOT_FOUND = (
    "Stage status file not found: {path} is missing, but {names} exist from before stage tracking. Two options: "
    "(1) start fresh with a new training run (another --run-dir, or --force-train to replace these files); "
    "(2) create {path} by hand from the checkpoints that exist"
)


@dataclass(frozen=True)
class Decision:
    """What happens to a stage, and the reason a person is told."""

    stage: str
    action: Action
    reason: str
    warn: bool = False

    @property
    def runs(self) -> bool:
        """Whether the stage trains."""
        return self.action in ("train", "resume")


@dataclass(frozen=True)
class EvaluationDecision:
    """Whether an evaluation runs, with what settings, and the reason a person is told."""

    name: str
    run: bool
    reason: str
    settings: EvalConfig


@dataclass(frozen=True)
class Policy:
    """What the user allowed."""

    stage: str = "all"
    auto_resume: bool = False
    force_train: bool = False

    def selects(self, stage: str) -> bool:
        """Whether this stage was asked for."""
        return self.stage in ("all", stage)


def plan(cfg: PipelineConfig, run: RunDir, policy: Policy) -> list[Decision]:
    """Decide for every selected stage, in order. Writes nothing; raises BadInput, ArchitectureMismatch, StatusError.

    A stage runs again when it must, and then so does every stage that depends on it.
    """
    status = StatusStore(run.status).read()
    _require_permission(run, status, policy)
    moved: set[str] = set()
    decisions: list[Decision] = []
    for name, spec in SPECS.items():
        if not policy.selects(name):
            continue
        decision = _decide(spec, cfg, run, status.stage(name), policy, moved)
        if decision.runs:
            _require_inputs(spec, cfg, run, status, decisions)
            moved.add(name)
        decisions.append(decision)
    return decisions


def announce(decisions: list[Decision]) -> None:
    """Tell a person what will happen, before it does."""
    for decision in decisions:
        level = logging.WARNING if decision.warn else logging.INFO
        logger.log(level, "%s: %s: %s", decision.stage, decision.action, decision.reason)


def current_stages(cfg: PipelineConfig, run: RunDir, status: Status) -> dict[str, str | None]:
    """Every completed stage, and why its checkpoint must not be used: None when it may.

    A checkpoint may be used when its files are what was saved, it learned from what the config and the run hold now,
    and so did everything it needs. Raises ArchitectureMismatch.
    """
    reasons: dict[str, str | None] = {}
    for name, spec in SPECS.items():
        record = status.stage(name)
        if record.status != "completed":
            continue
        if record.arch is not None:
            check_architecture(run.checkpoint(spec.checkpoint), record.arch, spec.arch(cfg))
        stale = {other for other in spec.needs if reasons.get(other, "not completed")}
        reasons[name] = _damaged(run, spec, record) or _moved_input(spec, cfg, run, record, stale)
    return reasons


def require_operator(cfg: PipelineConfig, run: RunDir) -> None:
    """Raise CheckpointError, ArchitectureMismatch when --skip-training finds no operator to evaluate."""
    reasons = current_stages(cfg, run, StatusStore(run.status).read())
    path = run.checkpoint(SPECS["operator"].checkpoint)
    if "operator" not in reasons:
        raise CheckpointError(
            f"{path}: --skip-training finds no completed operator to evaluate; train first, or name the right --run-dir"
        )
    damage = archive_damage(path) if path.is_file() else f"{path} is missing"
    reason = reasons["operator"] or damage
    if reason is not None:
        raise CheckpointError(f"{path}: --skip-training cannot evaluate this operator: {reason}; train it again")


def plan_evaluation(
    name: str, settings: EvalConfig, cfg: PipelineConfig, run: RunDir, *, redo: bool
) -> EvaluationDecision:
    """Decide for one evaluation, once training is done: it is skipped while nothing it depends on has changed."""
    status = StatusStore(run.status).read()
    record = status.evaluation(name)
    if redo:
        return EvaluationDecision(name, True, f"--redo-{name.replace('_', '-')}", settings)
    if record.status != "completed" or record.inputs is None:
        return EvaluationDecision(name, True, record.status.replace("_", " "), settings)
    for path in (run.result(name), run.result(name, ".npz")):
        if not path.is_file():
            return EvaluationDecision(name, True, f"{path} is missing", settings)
    inputs = evaluation_inputs(cfg, settings, run, status)
    if inputs != record.inputs:
        moved = sorted(key for key in inputs.keys() | record.inputs if inputs.get(key) != record.inputs.get(key))
        return EvaluationDecision(name, True, f"{', '.join(moved)} changed since it ran", settings)
    return EvaluationDecision(name, False, f"completed at {record.completed_at}, nothing changed since", settings)


def evaluation_inputs(cfg: PipelineConfig, settings: EvalConfig, run: RunDir, status: Status) -> dict[str, str]:
    """What an evaluation's figures depend on: every checkpoint in use, the data it was trained on, and both configs."""
    inputs = {}
    for name, reason in current_stages(cfg, run, status).items():
        path = run.checkpoint(SPECS[name].checkpoint)
        if reason is None and path.is_file():
            inputs[path.name] = digest_of(path).sha256
            inputs |= {f"{name} {key}": value for key, value in (status.stage(name).inputs or {}).items()}
    relevant = [
        settings.model_dump(mode="json"),
        cfg.model_dump(mode="json", exclude={"runtime", "checkpoint", "tracking"}),
    ]
    inputs["config"] = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
    return inputs


def inputs_of(spec: StageSpec, cfg: PipelineConfig, run: RunDir) -> dict[str, str]:
    """What a stage learns from: the seed, the data and its split, and the sha256 of each checkpoint it needs.

    The content of data files is in it as far as they are there: a finished run needs no data.
    """
    inputs = {"seed": str(cfg.seed), "data recipe": spec.data_recipe(cfg)}
    for name in spec.needs:
        path = run.checkpoint(SPECS[name].checkpoint)
        if path.is_file():
            inputs[path.name] = digest_of(path).sha256
    files = steady_files(cfg, run) if spec.steady else trajectory_files(cfg, run)
    fingerprint = data_fingerprint(list(files))
    if fingerprint is not None:
        inputs["data"] = fingerprint
    return inputs


def _decide(
    spec: StageSpec, cfg: PipelineConfig, run: RunDir, record: StageRecord, policy: Policy, moved: set[str]
) -> Decision:
    if policy.force_train and spec.settings(cfg).epochs:
        return Decision(spec.name, "train", "--force-train")
    if record.status == "completed":
        decision = _decide_completed(spec, cfg, run, record, moved)
    elif spec.settings(cfg).epochs == 0:
        return Decision(spec.name, "disabled", f"stages.{spec.name}.epochs is 0")
    elif record.status == "not_started":
        decision = Decision(spec.name, "train", "not started yet")
    else:
        decision = _decide_unfinished(spec, cfg, run, record, moved)
    if decision.action == "train" and spec.settings(cfg).epochs == 0:
        raise BadInput(
            f"stage {spec.name} must run again ({decision.reason}), but stages.{spec.name}.epochs is 0; give it epochs"
        )
    return decision


def _decide_completed(
    spec: StageSpec, cfg: PipelineConfig, run: RunDir, record: StageRecord, moved: set[str]
) -> Decision:
    if record.arch is not None:
        check_architecture(run.checkpoint(spec.checkpoint), record.arch, spec.arch(cfg))
    cause = _damaged(run, spec, record) or _moved_input(spec, cfg, run, record, moved)
    if cause is not None:
        return Decision(spec.name, "train", cause, warn=True)
    if record.files is None:
        return Decision(spec.name, "adopt", "completed, but its record names no digests: the file itself is checked")
    if record.config_hash not in (None, spec.config_hash(cfg)) and spec.settings(cfg).epochs:
        return Decision(
            spec.name,
            "skip",
            "completed under other settings that shape no tensor (such as epochs or lr); "
            "--force-train trains it with the new ones",
            warn=True,
        )
    return Decision(spec.name, "skip", f"completed at {record.completed_at}, files unchanged")


def _decide_unfinished(
    spec: StageSpec, cfg: PipelineConfig, run: RunDir, record: StageRecord, moved: set[str]
) -> Decision:
    before = f"{record.status} at step {record.step or 0}"
    if record.error_message:
        before += f" ({record.error_message})"
    path, damage = saved_state(run, spec.name)
    if path is not None and record.arch is not None:
        check_architecture(path, record.arch, spec.arch(cfg))
    cause = (damage if path is None else None) or _moved_input(spec, cfg, run, record, moved)
    if cause is not None:
        return Decision(spec.name, "train", f"{before}; starts from the beginning: {cause}", warn=True)
    if record.config_hash not in (None, spec.config_hash(cfg)):
        raise BadInput(
            f"{path}: stage {spec.name} was interrupted under other settings; "
            "go on with the same config, or start it again with --force-train"
        )
    if damage is not None:
        return Decision(spec.name, "resume", f"{before}; {damage}: goes on from the one before", warn=True)
    return Decision(spec.name, "resume", before)


def saved_state(run: RunDir, stage: str) -> tuple[Path | None, str | None]:
    """The newest saved state of a stage that can be read, and what is wrong with the newer one, or with all."""
    damage = None
    for path in run.saved_states(stage):
        if not path.is_file():
            continue
        found = archive_damage(path)
        if found is None:
            return path, damage
        damage = f"{path.name} is damaged ({found})"
    return None, damage or "there is no saved state"


def _moved_input(spec: StageSpec, cfg: PipelineConfig, run: RunDir, record: StageRecord, moved: set[str]) -> str | None:
    """Which of the things a stage learns from is not what its record names, in words."""
    upstream = next((name for name in spec.needs if name in moved), None)
    if upstream is not None:
        return f"{upstream}, which it depends on, runs again"
    known, inputs = record.inputs or {}, inputs_of(spec, cfg, run)
    changed = next((name for name, value in inputs.items() if name in known and known[name] != value), None)
    return None if changed is None else f"{changed} is not what it was trained from any more"


def _damaged(run: RunDir, spec: StageSpec, record: StageRecord) -> str | None:
    known = record.files or {}
    for name in {record.checkpoint or spec.checkpoint: None, **known}:
        if name not in spec.files:
            return f"{name} is no file of this stage (its files are {', '.join(spec.files)})"
        path = run.checkpoint(name)
        if not path.is_file():
            return f"{path} is missing"
        if name in known and digest_of(path) != known[name].digest:
            return f"{path} is not what was saved (its sha256 differs)"
    if not run.checkpoint(spec.checkpoint).is_file():
        return f"{run.checkpoint(spec.checkpoint)}, the averaged weights, is missing"
    return None


def _require_inputs(
    spec: StageSpec, cfg: PipelineConfig, run: RunDir, status: Status, decisions: list[Decision]
) -> None:
    coming = {decision.stage for decision in decisions if decision.action != "disabled"}
    missing = [name for name in spec.needs if name not in coming]
    current = current_stages(cfg, run, status) if missing else {}
    for name in missing:
        path = run.checkpoint(SPECS[name].checkpoint)
        reason = current.get(name, f"{path} is not there")
        if reason is not None:
            raise BadInput(
                f"stage {spec.name} needs {path}, but {reason}: train stage {name} first "
                f"(--stage {name}, or --stage all), or set stages.{spec.name}.epochs to 0"
            )


def _require_permission(run: RunDir, status: Status, policy: Policy) -> None:
    if policy.force_train:
        return
    if not run.status.exists():
        paths = [run.checkpoint(name) for spec in SPECS.values() for name in spec.files]
        saved = [path for stage in SPECS for path in run.saved_states(stage)]
        existing = [path.name for path in [*paths, *saved] if path.exists()]
        if existing:
            raise BadInput(STATUS_NOT_FOUND.format(path=run.status, names=", ".join(existing)))
        return
    started = [name for name, record in status.stages.items() if record.status != "not_started"]
    if started and not policy.auto_resume:
        held = ", ".join(f"{name} ({status.stage(name).status})" for name in started)
        raise BadInput(
            f"{run.checkpoints}: already holds {held}; go on with --auto-resume, or train again with --force-train"
        )
