"""The state of a stage in training: how it starts, how it is saved, and how it is found again."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ups_models.config.schema import PipelineConfig
from ups_models.errors import CheckpointError
from ups_models.files import keep_previous
from ups_models.stages.spec import check_architecture
from ups_models.stages.stage import Data, Stage
from ups_models.training.checkpoint import FORMAT, load_payload, save_payload
from ups_models.training.ema import ema_copy
from ups_models.training.optim import adamw
from ups_models.training.parallel import exactness
from ups_models.training.seeds import derive_seed

logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """All that a step changes; everything random is derived from the step itself."""

    net: nn.Module
    ema: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device


def start_state(
    stage: Stage, cfg: PipelineConfig, data: Data, frozen: Mapping[str, nn.Module], device: torch.device
) -> TrainState:
    """Networks and optimiser before the first step, from the seed or from the stage that warms this one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(cfg.seed, stage.name, "init"))
        net = stage.build(cfg)
    if stage.init_from_data is not None:
        stage.init_from_data(net, data)
    net.to(device)
    if stage.spec.warm_start is not None:
        net.load_state_dict(frozen[stage.spec.warm_start].state_dict())
    ema = ema_copy(net)
    if cfg.runtime.compile and device.type == "cuda":
        for part in [net] if type(net).forward is not nn.Module.forward else net.children():
            part.compile()
    return TrainState(net, ema, adamw(net, stage.spec.settings(cfg)))


def save_state(path: Path, state: TrainState, stage: Stage, cfg: PipelineConfig) -> None:
    """Write the state of a stage in progress, atomically; the one before it is kept where the config says so."""
    if cfg.checkpoint.keep_previous:
        keep_previous(path)
    save_payload(
        path,
        {
            "format": FORMAT,
            "stage": stage.name,
            "arch": dict(stage.spec.arch(cfg)),
            "config_hash": stage.spec.config_hash(cfg),
            "exactness": exactness(state.device),
            "step": state.step,
            "state_dict": state.net.state_dict(),
            "ema": state.ema.state_dict(),
            "optimiser": state.optimiser.state_dict(),
        },
    )


def load_state(path: Path, state: TrainState, stage: Stage, cfg: PipelineConfig) -> None:
    """Put a saved state into `state`. Raises CheckpointError when the file belongs to another run.

    A state saved under other conditions is used all the same, with a warning that the bits may differ.
    """
    saved = load_payload(path)
    if saved.get("stage") != stage.name:
        raise CheckpointError(f"{path}: is no saved state of stage {stage.name}; delete it to start the stage again")
    check_architecture(path, saved["arch"], stage.spec.arch(cfg))
    if not stage.spec.is_config_hash(saved["config_hash"], cfg):
        raise CheckpointError(
            f"{path}: was saved under another configuration of stage {stage.name}; resume it with that one, "
            "or start the stage again with --force-train"
        )
    for name, now in exactness(state.device).items():
        before = saved["exactness"].get(name)
        if before != now:
            logger.warning(
                "%s: %s was %s when the state was saved and is %s now: training resumes, but not to the same bits",
                stage.name,
                name,
                before,
                now,
            )
    state.net.load_state_dict(saved["state_dict"])
    state.ema.load_state_dict(saved["ema"])
    state.optimiser.load_state_dict(saved["optimiser"])
    state.step = saved["step"]
