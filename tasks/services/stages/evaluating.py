"""Evaluating what a run has trained: networks and data in; JSON, Markdown and arrays out."""

import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import yaml
from torch.nn.modules.module import register_module_forward_pre_hook

from tasks.services.data.datasets import (
    data_identities,
    trajectory_files,
)
from tasks.services.run.clock import utc_now
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.phase import announce
from tasks.services.run.status import StatusStore, file_records, read_status
from tasks.services.run.uninterrupted import leave_if_stopped
from tasks.services.stages.deciding import evaluation_inputs, usable_stages
from tasks.services.stages.descent import require_one_origin, trained_config
from tasks.services.stages.evaluated import data_from, data_of, models_from, models_of
from tasks.services.stages.evaluators import evaluators
from tasks.services.stages.inputs import select_device
from tasks.services.stages.peers import REGRESSION, evaluate_peers, evaluate_regression
from tasks.services.stages.processes import processes_for
from tasks.services.stages.snapshot import read_snapshot
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import Preempted
from ups_models.evaluation.checks import check
from ups_models.evaluation.evaluate import evaluate
from ups_models.evaluation.forecasts import case_of
from ups_models.evaluation.inputs import EvalData, OperatorCase
from ups_models.evaluation.parts import main_error
from ups_models.evaluation.result import CheckpointFile, Darcy, EvaluationResult
from ups_models.evaluation.speed import measure_speed, other_domain
from ups_models.files import FileDigest, known_digest, write_atomically, write_text
from ups_models.report.html import render_html
from ups_models.report.markdown import render_markdown
from ups_models.report.model import ReportInput
from ups_models.report.words import verdict
from ups_models.stages.lineage import Lineage, outside
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)


def evaluate_run(name: str, cfg: PipelineConfig, settings: EvalConfig, run: OwnedRun) -> EvaluationResult:
    """Evaluate a run's completed stages on `settings.split` and record it in the status.

    Writes reports/<name>.json, .md and .npz. Raises CheckpointError when there is no operator.
    """
    leave_if_stopped(name)
    announce("evaluation")
    status = StatusStore(run)
    started = time.monotonic()
    status.record_evaluation(name, status="in_progress", completed_at=None)
    try:
        device = select_device(cfg, status.read().threads)
        snapshot = read_snapshot(cfg, run)
        cfg = trained_config(cfg, snapshot.lineages)
        usable = usable_stages(cfg, run.checkpoints, snapshot)
        models = models_of(cfg, run, usable, device)
        data = data_of(cfg, settings, run, models)
        trained, n_processes = [*models.networks()], processes_for(cfg, device)
        with _left_if_stopped(name), evaluators(name, cfg, settings, run, trained, n_processes) as ask:
            result, arrays = evaluate(cfg, settings, models, data, device=device, ask=ask)
        result = _with_speed(
            _with_peers(result, cfg, settings, run, device),
            partial(case_of, cfg, settings, models, data, device), cfg, settings, run,
        )  # fmt: skip
        inputs = evaluation_inputs(cfg, settings, snapshot, usable)
    except Preempted:  # as after a kill: it is in progress, and runs again
        raise
    except Exception as error:
        status.record_evaluation(name, status="failed", error_message=str(error) or type(error).__name__)
        raise
    checkpoints = _checkpoints_in(inputs)
    unknown = [stage for stage in snapshot.unknown_descents if stage in checkpoints]
    result = with_origin(result, name, cfg, checkpoints, trajectory_files(cfg, run), unknown)
    run.check()
    files = write_evaluation(run.reports / name, result, arrays)
    status.record_evaluation(
        name,
        status="completed",
        completed_at=utc_now(),
        report=f"{name}.json",
        files=file_records(files),
        inputs=inputs,
        error_message=None,
        seconds=round(time.monotonic() - started, 1),
    )
    logger.info("%s: %s -> %s", name, headline(result), run.result(name, ".md"))
    judged = verdict(result)
    if judged.state == "fail":
        logger.warning("%s: %s", name, judged.text)
    return result


def _checkpoints_in(inputs: Mapping[str, str]) -> dict[str, CheckpointFile]:
    """What was evaluated of what an evaluation depends on, by stage."""
    return {
        stage: CheckpointFile(file=spec.checkpoint, sha256=inputs[spec.checkpoint])
        for stage, spec in SPECS.items()
        if spec.checkpoint in inputs
    }


def _with_peers(
    result: EvaluationResult, cfg: PipelineConfig, settings: EvalConfig, run: OwnedRun, device: torch.device
) -> EvaluationResult:
    """The result with those that were asked for, and what they are checked against."""
    more: dict[str, Any] = {}
    if settings.peers and result.rollout is not None:
        more["peers"] = evaluate_peers(cfg, settings, run, device)
    if REGRESSION in settings.peers and result.darcy is not None:
        found = {REGRESSION: evaluate_regression(cfg, settings, run, device)}
        more["darcy"] = Darcy.model_validate(result.darcy.model_dump() | found)
    result = result.model_copy(update=more)
    return result.model_copy(update={"checks": check(result)})


def _with_speed(
    result: EvaluationResult,
    case_of_it: Callable[[], OperatorCase | None],
    cfg: PipelineConfig,
    settings: EvalConfig,
    run: OwnedRun,
) -> EvaluationResult:
    """The result with the operator's seconds beside the solver's, where that was asked for."""
    case = case_of_it() if settings.solver_trajectories else None
    if case is None:
        return result
    if why := other_domain(case.data):
        logger.warning("the solver is not timed: %s", why)
        return result
    spent = read_status(run.status).stage("operator").seconds or 0.0
    with _left_if_stopped("speed"):
        found = measure_speed(
            case,
            settings.solver_trajectories,
            cfg.data,
            training_s=spent,
            on_progress=lambda _: leave_if_stopped("speed"),
        )
    return result.model_copy(update={"speed": found})


@contextmanager
def _left_if_stopped(name: str) -> Iterator[None]:
    """Within the block, leave where the next layer of a network begins: an evaluation has nothing to save."""
    hook = register_module_forward_pre_hook(lambda _module, _inputs: leave_if_stopped(name))
    try:
        yield
    finally:
        hook.remove()


def evaluate_files(
    cfg: PipelineConfig,
    settings: EvalConfig,
    files: Mapping[str, Path],
    *,
    data_path: Path | None,
    run_dir: Path,
    prefix: Path,
) -> EvaluationResult:
    """Evaluate checkpoint files by name of stage, on the config's data or on every row of one data file.

    Writes <prefix>.json, .md, .npz and .html. Raises CheckpointError where the config's split is not the one that a
    checkpoint was trained with: then only a file of its own can be evaluated on.
    """
    run = RunDir.of(run_dir, cfg.checkpoint.dir)
    device = select_device(cfg, read_status(run.status).threads)
    lineages = require_one_origin(cfg, files, data_identities(cfg, run) if data_path is None else None)
    cfg = trained_config(cfg, lineages)
    models = models_from(cfg, files, device, same_data=data_path is None)
    if data_path is None:
        data, names = data_of(cfg, settings, run, models), tuple(trajectory_files(cfg, run))
    else:
        data, names = data_from(cfg, data_path, models), (data_path,)
    _warn_of_strange_data(lineages.get("operator"), data)
    result, arrays = evaluate(cfg, settings, models, data, device=device)
    if data_path is not None:
        result = result.model_copy(update={"split": "file"})
    checkpoints = {
        stage: CheckpointFile(file=path.name, sha256=known_digest(path).sha256) for stage, path in files.items()
    }
    unknown = [stage for stage in files if stage not in lineages]
    result = with_origin(result, prefix.name, cfg, checkpoints, names, unknown)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_evaluation(prefix, result, arrays)
    report = ReportInput(prefix.name, None, result, arrays, {}, result.config_yaml, [])
    write_text(prefix.with_name(prefix.name + ".html"), render_html(report))
    return result


def _warn_of_strange_data(operator: Lineage | None, data: EvalData) -> None:
    if operator is not None and data.trajectories is not None:
        for strange in outside(operator.trained_on, data.trajectories.facts()):
            logger.warning("the data have %s: errors there say nothing of what it was trained for", strange)


def write_evaluation(prefix: Path, result: EvaluationResult, arrays: Mapping[str, Any]) -> dict[str, FileDigest]:
    """Write <prefix>.npz, .md and, last, .json; returns the digest of each by its name."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    content = {".npz": packed.getvalue(), ".md": render_markdown(result).encode(), ".json": result.to_json().encode()}
    paths = {prefix.with_name(prefix.name + suffix): text for suffix, text in content.items()}
    return {path.name: write_atomically(path, partial(_write, text)) for path, text in paths.items()}


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def with_origin(
    result: EvaluationResult,
    name: str,
    cfg: PipelineConfig,
    checkpoints: Mapping[str, CheckpointFile],
    files: Iterable[Path],
    unknown: Sequence[str],
) -> EvaluationResult:
    """The result with what a reader must know of it: when, of which weights, under which config, on which files.

    `unknown` are the stages whose checkpoints do not say what they were trained from.
    """
    data = result.data and result.data.model_copy(update={"files": tuple(path.name for path in files)})
    origin = {
        "name": name,
        "created_at": utc_now(),
        "data": data,
        "checkpoints": dict(checkpoints),
        "unknown_descents": tuple(unknown),
        "config_yaml": yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False),
    }
    return result.model_copy(update=origin)


def headline(result: EvaluationResult) -> str:
    """An evaluation in one line."""
    if result.rollout is not None:
        summary = result.rollout.summary
        return (
            f"rollout nRMSE {summary['operator'].mean:.4f} (persistence {summary['persistence'].mean:.3f}, "
            f"constant mean {summary['constant_mean'].mean:.3f}), "
            f"one-step {result.one_step['operator']['nrmse']:.4f}, {result.trajectories} trajectories"
        )
    samples = result.darcy.samples if result.darcy else 0
    return f"steady prior: member nRMSE {main_error(result):.4f}, {samples} samples"
