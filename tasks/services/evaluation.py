"""Evaluating what a run has trained: networks and data in, JSON, Markdown, arrays and the HTML report out."""

from __future__ import annotations

import io
import json
import logging
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tasks.services.datasets import load_data, load_steady_data
from tasks.services.history import History
from tasks.services.planning import evaluation_inputs
from tasks.services.run_dir import RunDir, utc_now
from tasks.services.status import EVALUATIONS, Status, StatusStore
from tasks.services.training import load_stage, select_device
from ups_models.checkpoint import load_network
from ups_models.config import EvalConfig, PipelineConfig
from ups_models.data.pdebench import Split, SteadyFields, Trajectories, load_trajectories, split_rows
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluate import EvalData, Figures, Models, evaluate
from ups_models.files import digest_of, write_atomically, write_text
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.nn.prior import SteadyPrior
from ups_models.report import ReportInput, render_html, render_markdown
from ups_models.specs import SPECS
from ups_models.stages import build_diffusion, build_operator, build_prior

logger = logging.getLogger(__name__)


def evaluate_run(name: str, cfg: PipelineConfig, settings: EvalConfig, run: RunDir) -> Figures:
    """Evaluate a run's completed stages on `settings.split` and record it in the status.

    Writes reports/<name>.json, .md and .npz. Raises CheckpointError when there is no operator.
    """
    status = StatusStore(run.status)
    started = time.monotonic()
    status.record_evaluation(name, status="in_progress", completed_at=None)
    try:
        device = select_device(cfg)
        models = _models_of(cfg, run, status.read(), device)
        figures, arrays = evaluate(cfg, settings, models, _data_of(cfg, settings, run, models), device=device)
    except Exception as error:
        status.record_evaluation(name, status="failed", error_message=str(error) or type(error).__name__)
        raise
    inputs = evaluation_inputs(cfg, settings, run, status.read())
    figures = {
        "schema_version": 1,
        "name": name,
        "created_at": utc_now(),
        **figures,
        "checkpoints": {
            stage: {"file": SPECS[stage].checkpoint, "sha256": inputs[SPECS[stage].checkpoint]}
            for stage in SPECS
            if SPECS[stage].checkpoint in inputs
        },
    }
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
    logger.info("%s: %s -> %s", name, headline(figures), run.reports / f"{name}.md")
    return figures


def write_evaluation(prefix: Path, figures: Figures, arrays: Mapping[str, Any]) -> None:
    """Write <prefix>.npz, .md and, last, .json."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_atomically(prefix.with_name(prefix.name + ".npz"), lambda file: file.write(packed.getvalue()))
    write_text(prefix.with_name(prefix.name + ".md"), render_markdown(figures))
    text = json.dumps(_finite(figures), indent=1, allow_nan=False) + "\n"
    write_text(prefix.with_name(prefix.name + ".json"), text)


def headline(figures: Figures) -> str:
    """An evaluation in one line."""
    summary = figures["rollout"]["summary"]
    return (
        f"rollout nRMSE {summary['operator']['mean']:.4f} (persistence {summary['persistence']['mean']:.3f}, "
        f"constant mean {summary['constant_mean']['mean']:.3f}), "
        f"one-step {figures['one_step']['operator']['nrmse']:.4f}, {figures['trajectories']} trajectories"
    )


def evaluate_files(
    cfg: PipelineConfig, settings: EvalConfig, files: Mapping[str, Path], data_path: Path | None, prefix: Path
) -> Figures:
    """Evaluate checkpoint files by name of stage, on the config's data or on every row of one data file.

    Writes <prefix>.json, .md, .npz and .html.
    """
    device = select_device(cfg)
    models = _models_from(cfg, files, device)
    run = RunDir.of(Path(), cfg.checkpoint.dir)
    if data_path is None:
        data = _data_of(cfg, settings, run, models)
    else:
        data = EvalData(
            load_trajectories(
                [data_path],
                family=cfg.data.family,
                reduced_resolution=cfg.data.reduced_resolution,
                reduced_resolution_t=cfg.data.reduced_resolution_t,
                limit=settings.trajectories,
            )
        )
        _require_points(cfg, data.trajectories, data_path)
    figures, arrays = evaluate(cfg, settings, models, data, device=device)
    checkpoints = {stage: {"file": path.name, "sha256": digest_of(path).sha256} for stage, path in files.items()}
    figures = {"schema_version": 1, "name": prefix.name, "created_at": utc_now(), **figures, "checkpoints": checkpoints}
    write_evaluation(prefix, figures, arrays)
    report = ReportInput(prefix.name, None, figures, arrays, {}, _yaml(cfg), environment(device), [])
    write_text(prefix.with_name(prefix.name + ".html"), render_html(report))
    return figures


def write_report(cfg: PipelineConfig, run: RunDir) -> Path:
    """Render reports/report.html from what lies in the run, and return its path."""
    status = StatusStore(run.status).read()
    results = {name: _read_json(run.reports / f"{name}.json") for name in EVALUATIONS}
    newest = next((name for name in reversed(EVALUATIONS) if results[name] is not None), None)
    timings = [
        {"stage": name, "status": record.status, "seconds": record.seconds, "steps": record.step}
        for name, record in ((name, status.stage(name)) for name in SPECS)
    ]
    timings += [
        {"stage": name, "status": record.status, "seconds": record.seconds, "steps": None}
        for name, record in ((name, status.evaluation(name)) for name in EVALUATIONS)
    ]
    report = ReportInput(
        title=f"UPS pipeline: {run.root.resolve().name}",
        small=results["small_eval"],
        full=results["full_eval"],
        arrays=_read_arrays(run.reports / f"{newest}.npz") if newest else {},
        history=History(run.reports / "metrics.jsonl").read(),
        config_yaml=_yaml(cfg),
        environment=environment(select_device(cfg)),
        timings=timings,
    )
    path = run.reports / "report.html"
    write_text(path, render_html(report))
    return path


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


def _models_of(cfg: PipelineConfig, run: RunDir, status: Status, device: torch.device) -> Models:
    trained = {name: load_stage(name, cfg, run, device) for name in SPECS if status.stage(name).status == "completed"}
    if "operator" not in trained:
        raise CheckpointError(
            f"{run.checkpoint(SPECS['operator'].checkpoint)}: there is no completed operator to evaluate; train it "
            "first (without --skip-training)"
        )
    return _as_models(trained)


def _models_from(cfg: PipelineConfig, files: Mapping[str, Path], device: torch.device) -> Models:
    builders = {
        "operator": build_operator,
        "diff_residual": build_diffusion,
        "consistency_distill": build_diffusion,
        "steady_prior": build_prior,
    }
    nets: dict[str, torch.nn.Module] = {}
    for stage, path in files.items():
        net: torch.nn.Module = builders[stage](cfg)
        load_network(path, net, stage=stage, arch=SPECS[stage].arch(cfg))
        nets[stage] = net.to(device).requires_grad_(False).eval()
    return _as_models(nets)


def _as_models(nets: Mapping[str, torch.nn.Module]) -> Models:
    operator, teacher = nets["operator"], nets.get("diff_residual")
    student, prior = nets.get("consistency_distill"), nets.get("steady_prior")
    if not isinstance(operator, LatentOperator):
        raise TypeError("the operator's file holds another network")
    return Models(
        operator,
        teacher if isinstance(teacher, ResidualDiffusion) else None,
        student if isinstance(student, ResidualDiffusion) else None,
        prior if isinstance(prior, SteadyPrior) else None,
    )


def _data_of(cfg: PipelineConfig, settings: EvalConfig, run: RunDir, models: Models) -> EvalData:
    data = load_data(cfg, run)
    rows = _rows(split_rows(data.row, val=cfg.data.val, test=cfg.data.test), settings)
    if models.steady_prior is None:
        return EvalData(data.select(rows))
    steady = load_steady_data(cfg, run)
    split = split_rows(steady.row, val=cfg.steady_data.val, test=cfg.steady_data.test)
    return EvalData(data.select(rows), _part(steady, _rows(split, settings)), _part(steady, split.train))


def _part(steady: SteadyFields, rows: torch.Tensor) -> SteadyFields:
    return steady.select(rows)


def _rows(split: Split, settings: EvalConfig) -> torch.Tensor:
    return split.val if settings.split == "val" else split.test


def _require_points(cfg: PipelineConfig, data: Trajectories, path: Path) -> None:
    if data.u.shape[-1] != cfg.data.points:
        raise BadInput(
            f"{path}: has {data.u.shape[-1]} grid points after the reduction, but the operator was trained on "
            f"{cfg.data.points}; set data.reduced_resolution with --set"
        )


def _yaml(cfg: PipelineConfig) -> str:
    return yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False)


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


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
