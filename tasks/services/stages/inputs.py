"""What a stage is trained from: a device, its rows of the data, the networks that it needs, and its descent."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from tasks.services.data.datasets import load_data, load_steady_data
from tasks.services.run import environment
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.snapshot import read_inputs
from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import Fields
from ups_models.data.split import split_rows
from ups_models.errors import BadInput
from ups_models.stages.lineage import Lineage
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS, StageSpec
from ups_models.stages.stage import Data
from ups_models.training.checkpoint import load_network
from ups_models.training.conditions import CUBLAS_WORKSPACE, make_repeatable


@dataclass(frozen=True)
class StageInputs:
    """All that a stage needs besides its config."""

    device: torch.device
    data: Data
    frozen: Mapping[str, nn.Module]
    lineage: Lineage


def read_stage_inputs(name: str, cfg: PipelineConfig, run: RunDir, device: torch.device) -> StageInputs:
    """What stage `name` is trained from, on this device. Raises DataError, CheckpointError."""
    spec = SPECS[name]
    data = training_data(spec, cfg, run)
    frozen = {needed: load_stage(needed, cfg, run, device) for needed in spec.needs}
    facts = data.facts() if isinstance(data, Fields) else None
    return StageInputs(device, data, frozen, Lineage.of(spec, cfg, read_inputs(spec, cfg, run), facts))


def require_own_networks(cfg: PipelineConfig, stages: Collection[str]) -> None:
    """Make the networks of `stages` and try those of the user's own once each. Raises BadInput."""
    for name in stages:
        with torch.random.fork_rng(devices=()):
            STAGES[name].build(cfg)


def select_device(cfg: PipelineConfig, threads: int | None = None) -> torch.device:
    """The device that the config asks for, its threads, else those of the run. Raises BadInput without CUDA."""
    wanted = cfg.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch sees no CUDA device here; use --device cpu, or auto")
    if n_threads := cfg.runtime.threads or threads:
        torch.set_num_threads(n_threads)
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    prepare_cuda(tf32=cfg.runtime.tf32)
    return torch.device("cuda")


def prepare_cuda(*, tf32: bool) -> None:
    """Have a GPU repeat its bits, before its first product."""
    environment.put("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE, replace=False)
    make_repeatable(tf32=tf32)


def training_data(spec: StageSpec, cfg: PipelineConfig, run: RunDir) -> Data:
    """The training rows of what the stage learns from."""
    if spec.steady:
        steady = load_steady_data(cfg, run)
        return steady.select(split_rows(steady.row, val=cfg.steady_data.val, test=cfg.steady_data.test).train)
    data = load_data(cfg, run)
    return data.select(split_rows(data.row, val=cfg.data.val, test=cfg.data.test).train)


def load_stage(name: str, cfg: PipelineConfig, run: RunDir, device: torch.device) -> nn.Module:
    """A completed stage's averaged weights, fixed. Raises CheckpointError when they are not what the status names."""
    spec = SPECS[name]
    record = read_status(run.status).stage(name)
    path = run.checkpoint(record.checkpoint or spec.checkpoint)
    known = (record.files or {}).get(path.name)
    net = STAGES[name].build(cfg)
    load_network(
        path,
        net,
        stage=name,
        arch=spec.arch(cfg),
        expected=known.digest if known else None,
        is_data_recipe=partial(spec.is_data_recipe, cfg=cfg),
    )
    return net.to(device).requires_grad_(False).eval()
