"""Evaluating what a run has trained: networks and data in, JSON, Markdown, arrays and the HTML report out."""

from __future__ import annotations

import io
import json
import logging
import platform
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tasks.services.data.datasets import load_data, load_steady_data, require_size, trajectory_files
from tasks.services.run.clock import utc_now
from tasks.services.run.history import History
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.signals import redeliver_pending
from tasks.services.run.status import EVALUATIONS, EvaluationRecord, StageRecord, Status, StatusStore, read_status
from tasks.services.stages.plan import evaluation_inputs, usable_stages
from tasks.services.stages.snapshot import read_snapshot
from tasks.services.stages.training import load_stage, select_device
from tasks.services.tracking.protocols import ReportPayload
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.layouts.pdebench import load_steady, load_trajectories, problem_of
from ups_models.data.split import Split, split_rows
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluation.evaluate import EvalData, Figures, Models, evaluate
from ups_models.files import known_digest, write_atomically, write_text
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.nn.prior import SteadyPrior
from ups_models.report.figures import pictures
from ups_models.report.html import ReportInput, render_html, render_markdown
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import load_network

logger = logging.getLogger(__name__)

ROLLOUT_SECTION = "horizon"


def evaluate_run(name: str, cfg: PipelineConfig, settings: EvalConfig, run: OwnedRun) -> Figures:
    """Evaluate a run's completed stages on `settings.split` and record it in the status.

    Writes reports/<name>.json, .md and .npz. Raises CheckpointError when there is no operator.
    """
    redeliver_pending()
    status = StatusStore(run)
    started = time.monotonic()
    status.record_evaluation(name, status="in_progress", completed_at=None)
    try:
        device = select_device(cfg)
        snapshot = read_snapshot(cfg, run)
        usable = usable_stages(cfg, run.checkpoints, snapshot)
        models = _models_of(cfg, run, usable, device)
        figures, arrays = evaluate(cfg, settings, models, _data_of(cfg, settings, run, models), device=device)
        inputs = evaluation_inputs(cfg, settings, snapshot, usable)
    except Exception as error:
        status.record_evaluation(name, status="failed", error_message=str(error) or type(error).__name__)
        raise
    checkpoints = {
        stage: {"file": spec.checkpoint, "sha256": inputs[spec.checkpoint]}
        for stage, spec in SPECS.items()
        if spec.checkpoint in inputs
    }
    files = [path.name for path in trajectory_files(cfg, run)]
    figures = described(name, cfg, figures, checkpoints, files)
    run.check()
    write_evaluation(run.reports / name, figures, arrays)
    status.record_evaluation(
        name,
        status="completed",
        completed_at=utc_now(),
        report=f"{name}.json",
        inputs=inputs,
        error_message=None,
        seconds=round(time.monotonic() - started, 1),
    )
    logger.info("%s: %s -> %s", name, headline(figures), run.result(name, ".md"))
    return figures


def write_evaluation(prefix: Path, figures: Figures, arrays: Mapping[str, Any]) -> None:
    """Write <prefix>.npz, .md and, last, .json."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_atomically(prefix.with_name(prefix.name + ".npz"), lambda file: file.write(packed.getvalue()))
    write_text(prefix.with_name(prefix.name + ".md"), render_markdown(figures))
    text = json.dumps(_finite(figures), indent=1, allow_nan=False) + "\n"
    write_text(prefix.with_name(prefix.name + ".json"), text)


def described(
    name: str, cfg: PipelineConfig, figures: Figures, checkpoints: Mapping[str, Mapping[str, str]], files: list[str]
) -> Figures:
    """Figures with what a reader must know of them: when, of which weights, under which config, on which files."""
    if "data" in figures:
        figures = {**figures, "data": {**figures["data"], "files": files}}
    return {
        "schema_version": 1,
        "name": name,
        "created_at": utc_now(),
        **figures,
        "checkpoints": checkpoints,
        "config_yaml": yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False),
    }


def headline(figures: Figures) -> str:
    """An evaluation in one line."""
    if "rollout" not in figures:
        prior = figures["darcy"]["steady_prior"]
        return f"steady prior: member nRMSE {prior['member_nrmse']:.4f}, {figures['darcy']['samples']} samples"
    summary = figures["rollout"]["summary"]
    return (
        f"rollout nRMSE {summary['operator']['mean']:.4f} (persistence {summary['persistence']['mean']:.3f}, "
        f"constant mean {summary['constant_mean']['mean']:.3f}), "
        f"one-step {figures['one_step']['operator']['nrmse']:.4f}, {figures['trajectories']} trajectories"
    )


def evaluate_files(
    cfg: PipelineConfig,
    settings: EvalConfig,
    files: Mapping[str, Path],
    *,
    data_path: Path | None,
    run_dir: Path,
    prefix: Path,
) -> Figures:
    """Evaluate checkpoint files by name of stage, on the config's data or on every row of one data file.

    Writes <prefix>.json, .md, .npz and .html. Raises CheckpointError where the config's split is not the one that a
    checkpoint was trained with: then only a file of its own can be evaluated on.
    """
    device = select_device(cfg)
    models = _models_from(cfg, files, device, same_data=data_path is None)
    run = RunDir.of(run_dir, cfg.checkpoint.dir)
    if data_path is None:
        data, names = _data_of(cfg, settings, run, models), [path.name for path in trajectory_files(cfg, run)]
    else:
        data, names = _data_from(cfg, data_path, models), [data_path.name]
    figures, arrays = evaluate(cfg, settings, models, data, device=device)
    if data_path is not None:
        figures["split"] = "file"
    checkpoints = {stage: {"file": path.name, "sha256": known_digest(path).sha256} for stage, path in files.items()}
    figures = described(prefix.name, cfg, figures, checkpoints, names)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_evaluation(prefix, figures, arrays)
    report = ReportInput(prefix.name, None, figures, arrays, {}, figures["config_yaml"], environment(device), [])
    write_text(prefix.with_name(prefix.name + ".html"), render_html(report))
    return figures


def write_report(run: RunDir) -> Path:
    """Render reports/report.html from what lies in the run, and return its path.

    An evaluation of other weights than the status names is left out, with a warning. Raises BadInput when the run
    holds nothing to report.
    """
    path = run.report
    write_text(path, render_html(report_of(run)))
    return path


def reported(run: RunDir) -> ReportPayload:
    """What was evaluated, for a tracker."""
    report = report_of(run)
    results = {str(result["name"]): result for result in (report.small, report.full) if result is not None}
    return ReportPayload(results, _images(report), (run.report).read_text("utf-8"))


def rollout_picture(run: RunDir) -> bytes | None:
    """The error of the rollout over time, as PNG; None where no operator was evaluated."""
    return _images(report_of(run), only=[ROLLOUT_SECTION]).get(ROLLOUT_SECTION)


def _images(report: ReportInput, only: Collection[str] | None = None) -> dict[str, bytes]:
    drawn = pictures(report.full or report.small or {}, report.arrays, report.history, "png", only)
    return {
        f"{section}{number or ''}": picture.image
        for section, found in drawn.items()
        for number, picture in enumerate(found)
    }


def report_of(run: RunDir) -> ReportInput:
    """What lies in the run, for a report. Raises BadInput when the run holds nothing to report."""
    status = read_status(run.status)
    results = {name: _current_result(name, run, status) for name in EVALUATIONS}
    history = History(run).read()
    if not history and not any(results.values()):
        raise BadInput(f"{run.root}: holds no run to report; name its folder with --run-dir")
    newest = results["full_eval"] or results["small_eval"]
    return ReportInput(
        title=f"UPS pipeline: {run.root.resolve().name}",
        small=results["small_eval"],
        full=results["full_eval"],
        arrays=_read_arrays(run.result(str(newest["name"]), ".npz")) if newest else {},
        history=history,
        config_yaml=newest["config_yaml"] if newest else "not evaluated: the config is stored with an evaluation",
        environment=environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        timings=[*_timings(status.stages), *_timings(status.evaluations)],
    )


def _timings(records: Mapping[str, StageRecord] | Mapping[str, EvaluationRecord]) -> list[dict[str, Any]]:
    return [
        {"stage": name, "status": record.status, "seconds": record.seconds, "steps": getattr(record, "step", None)}
        for name, record in records.items()
    ]


def _current_result(name: str, run: RunDir, status: Status) -> dict[str, Any] | None:
    path = run.result(name)
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    for stage, checkpoint in result.get("checkpoints", {}).items():
        known = (status.stage(stage).files or {}).get(checkpoint["file"])
        if known is None or known.sha256 != checkpoint["sha256"]:
            logger.warning("%s: is of other weights of %s than there are now; the report leaves it out", path, stage)
            return None
    return result


def environment(device: torch.device) -> dict[str, str]:
    """Where the figures were made: exactness is promised on the same kind of machine only."""
    facts = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "torch threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _models_of(cfg: PipelineConfig, run: RunDir, reasons: Mapping[str, str | None], device: torch.device) -> Models:
    """The networks whose checkpoints may be used; what is outdated is left out, with a warning."""
    for name, reason in reasons.items():
        if reason is not None:
            logger.warning("%s: left out of the evaluation: %s", name, reason)
    trained = {name: load_stage(name, cfg, run, device) for name, reason in reasons.items() if reason is None}
    if "operator" not in trained:
        raise CheckpointError(
            f"{run.checkpoint(SPECS['operator'].checkpoint)}: there is no completed operator to evaluate; train it "
            "first (without --skip-training)"
        )
    return _as_models(trained)


def _models_from(cfg: PipelineConfig, files: Mapping[str, Path], device: torch.device, *, same_data: bool) -> Models:
    nets: dict[str, torch.nn.Module] = {}
    for stage, path in files.items():
        spec, net = SPECS[stage], STAGES[stage].build(cfg)
        is_recipe = partial(spec.is_data_recipe, cfg=cfg) if same_data else None
        load_network(path, net, stage=stage, arch=spec.arch(cfg), is_data_recipe=is_recipe)
        nets[stage] = net.to(device).requires_grad_(False).eval()
    return _as_models(nets)


def _as_models(nets: Mapping[str, torch.nn.Module]) -> Models:
    operator, teacher = nets.get("operator"), nets.get("diff_residual")
    student, prior = nets.get("consistency_distill"), nets.get("steady_prior")
    return Models(
        operator if isinstance(operator, LatentOperator) else None,
        teacher if isinstance(teacher, ResidualDiffusion) else None,
        student if isinstance(student, ResidualDiffusion) else None,
        prior if isinstance(prior, SteadyPrior) else None,
    )


def _data_of(cfg: PipelineConfig, settings: EvalConfig, run: RunDir, models: Models) -> EvalData:
    trajectories = steady = steady_train = None
    if models.operator is not None:
        data = load_data(cfg, run)
        trajectories = data.select(_rows(split_rows(data.row, val=cfg.data.val, test=cfg.data.test), settings))
    if models.steady_prior is not None:
        fields = load_steady_data(cfg, run)
        split = split_rows(fields.row, val=cfg.steady_data.val, test=cfg.steady_data.test)
        steady, steady_train = fields.select(_rows(split, settings)), fields.select(split.train)
    return EvalData(trajectories, steady, steady_train)


def _data_from(cfg: PipelineConfig, path: Path, models: Models) -> EvalData:
    """Every row of one file, of whichever family it is. Raises DataError, BadInput."""
    if problem_of(path).steady:
        if models.steady_prior is None:
            raise BadInput(
                f"{path}: holds Darcy flow, which only a steady prior is evaluated on; give one with --prior"
            )
        fields = load_steady([path], reduced_resolution=cfg.steady_data.reduced_resolution)
        require_size("steady_data.size", cfg.steady_data.size, fields.a.shape[-1], path)
        return EvalData(steady=fields)
    if models.operator is None:
        raise BadInput(f"{path}: holds trajectories, which an operator is evaluated on; give one with --operator")
    data = load_trajectories(
        [path],
        family=cfg.data.family,
        reduced_resolution=cfg.data.reduced_resolution,
        reduced_resolution_t=cfg.data.reduced_resolution_t,
    )
    require_size("data.points", cfg.data.points, data.u.shape[-1], path)
    return EvalData(data)


def _rows(split: Split, settings: EvalConfig) -> torch.Tensor:
    return split.val if settings.split == "val" else split.test


def _read_arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _finite(value: Any) -> Any:
    """NaN and infinity are no JSON: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
