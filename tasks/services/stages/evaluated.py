"""What is evaluated: the networks of a run or of files, and rows of data that they have not seen."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from tasks.services.data.datasets import load_data, load_steady_data, read_trajectories, require_size
from tasks.services.run.paths import RunDir
from tasks.services.stages.inputs import load_stage
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.layouts.pdebench import load_steady
from ups_models.data.layouts.reading import problem_in
from ups_models.data.partly_known import as_known
from ups_models.data.split import Split, split_rows
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluation.inputs import EvalData, Models
from ups_models.problems.registry import DARCY
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import load_network

logger = logging.getLogger(__name__)


def models_of(cfg: PipelineConfig, run: RunDir, reasons: Mapping[str, str | None], device: torch.device) -> Models:
    """The networks whose checkpoints may be used; what is outdated is left out, with a warning."""
    for name, reason in reasons.items():
        if reason is not None:
            logger.warning("%s: left out of the evaluation: %s", name, reason)
    trained = {name: load_stage(name, cfg, run, device) for name, reason in reasons.items() if reason is None}
    if "operator" not in trained and (cfg.stages.operator.epochs or not trained):
        raise CheckpointError(
            f"{run.checkpoint(SPECS['operator'].checkpoint)}: there is no completed operator to evaluate; train it "
            "first (without --skip-training)"
        )
    return Models.of(trained)


def models_from(cfg: PipelineConfig, files: Mapping[str, Path], device: torch.device, *, same_data: bool) -> Models:
    """The networks in files, by stage. Raises CheckpointError."""
    nets: dict[str, torch.nn.Module] = {}
    for stage, path in files.items():
        spec, net = SPECS[stage], STAGES[stage].build(cfg)
        is_recipe = partial(spec.is_data_recipe, cfg=cfg) if same_data else None
        load_network(path, net, stage=stage, arch=spec.arch(cfg), is_data_recipe=is_recipe)
        nets[stage] = net.to(device).requires_grad_(False).eval()
    return Models.of(nets)


def data_of(cfg: PipelineConfig, settings: EvalConfig, run: RunDir, models: Models) -> EvalData:
    """The rows of the run's data that are evaluated. Raises DataError."""
    trajectories = steady = steady_train = None
    if models.operator is not None:
        data = load_data(cfg, run)
        trajectories = data.select(_rows(split_rows(data.row, val=cfg.data.val, test=cfg.data.test), settings))
    if models.steady_prior is not None:
        fields = load_steady_data(cfg, run)
        split = split_rows(fields.row, val=cfg.steady_data.val, test=cfg.steady_data.test)
        steady, steady_train = fields.select(_rows(split, settings)), fields.select(split.train)
    return EvalData(trajectories, steady, steady_train)


def data_from(cfg: PipelineConfig, path: Path, models: Models) -> EvalData:
    """Every row of one file, of whichever family it is. Raises DataError, BadInput."""
    if cfg.data.layout is None and problem_in(path) == DARCY.name:
        if models.steady_prior is None:
            raise BadInput(
                f"{path}: holds Darcy flow, which only a steady prior is evaluated on; give one with --prior"
            )
        fields = load_steady([path], reduced_resolution=cfg.steady_data.reduced_resolution)
        fields = as_known(fields, cfg.steady_data.known)
        require_size("steady_data.size", (cfg.steady_data.size,), fields.a.shape[-1:], path)
        return EvalData(steady=fields)
    if models.operator is None:
        raise BadInput(f"{path}: holds trajectories, which an operator is evaluated on; give one with --operator")
    data = read_trajectories(cfg.data, [path])
    require_size("data.points", cfg.data.grid, data.grid, path)
    return EvalData(data)


def _rows(split: Split, settings: EvalConfig) -> torch.Tensor:
    return split.val if settings.split == "val" else split.test
