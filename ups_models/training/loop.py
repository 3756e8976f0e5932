"""The one training loop: every stage is fitted here, step by step, from a seed and nothing else."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig, StageConfig
from ups_models.errors import CheckpointError, ConfigError, Preempted, TrainingDiverged
from ups_models.files import keep_previous
from ups_models.stages.spec import check_architecture
from ups_models.stages.stage import Data, Loss, LossInput, Stage
from ups_models.training.checkpoint import FORMAT, load_payload, save_payload
from ups_models.training.ema import ema_copy, ema_update
from ups_models.training.parallel import exactness, world

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a stage stands after an optimiser step."""

    stage: str
    step: int
    total_steps: int
    epoch: int
    total_epochs: int
    loss: float
    grad_norm: float
    lr: float


@dataclass
class TrainState:
    """All that a step changes; everything random is derived from the step itself."""

    net: nn.Module
    ema: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0


OnProgress = Callable[[Progress], None]


def fit(
    stage: Stage,
    cfg: PipelineConfig,
    data: Data,
    frozen: Mapping[str, nn.Module],
    *,
    device: torch.device,
    resume_path: Path,
    on_step: OnProgress,
    on_epoch: OnProgress,
    on_save: OnProgress,
    should_stop: Callable[[], bool],
) -> TrainState:
    """Train one stage to the end of its budget and return its final state.

    Goes on from `resume_path` where that file holds this very run, and saves there at the config's interval and when
    `should_stop` says so. Raises Preempted after such a save, TrainingDiverged when a loss or gradient is not finite.
    """
    _require_one_process()
    settings = stage.spec.settings(cfg)
    state = start_state(stage, cfg, data, frozen, device)
    if resume_path.exists():
        load_state(resume_path, state, stage, cfg)
    loss, saved_at = stage.loss(cfg), time.monotonic()
    while state.step < settings.total_steps:
        progress = train_step(stage, cfg, data, frozen, state, loss, device)
        on_step(progress)
        stop = should_stop()
        if stop or _save_is_due(cfg, state.step, saved_at):
            save_state(resume_path, state, stage, cfg)
            saved_at = time.monotonic()
            on_save(progress)
        if state.step % settings.steps_per_epoch == 0:
            on_epoch(progress)
        if stop and state.step < settings.total_steps:
            raise Preempted(
                f"{stage.name}: stopped at step {state.step} of {settings.total_steps} and saved; "
                "the same command with --auto-resume goes on from there"
            )
    return state


def start_state(
    stage: Stage, cfg: PipelineConfig, data: Data, frozen: Mapping[str, nn.Module], device: torch.device
) -> TrainState:
    """Networks and optimiser before the first step, from the seed or from the stage that warms this one."""
    settings = stage.spec.settings(cfg)
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
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    return TrainState(net, ema, optimiser)


def train_step(
    stage: Stage,
    cfg: PipelineConfig,
    data: Data,
    frozen: Mapping[str, nn.Module],
    state: TrainState,
    loss_of: Loss,
    device: torch.device,
) -> Progress:
    """One optimiser step, a function of (seed, stage, step) and the state alone."""
    settings = stage.spec.settings(cfg)
    done = state.step / settings.total_steps
    lr = learning_rate(settings, state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    batch_rng = torch.Generator().manual_seed(derive_seed(cfg.seed, stage.name, "batch", state.step))
    noise_rng = torch.Generator(device).manual_seed(derive_seed(cfg.seed, stage.name, "noise", state.step))
    batch = {name: value.to(device) for name, value in stage.sample_batch(cfg, data, done, batch_rng).items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(cfg, device)):
        loss = loss_of(LossInput(state.net, state.ema, frozen, batch, done, noise_rng))
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(state.net.parameters(), settings.grad_clip)
    _require_finite(stage, state.step, loss, grad_norm)
    state.optimiser.step()
    state.step += 1
    ema_update(state.ema, state.net, settings.ema_decay, state.step)
    epoch = math.ceil(state.step / settings.steps_per_epoch)
    return Progress(
        stage.name, state.step, settings.total_steps, epoch, settings.epochs, loss.item(), grad_norm.item(), lr
    )


def learning_rate(settings: StageConfig, step: int) -> float:
    """Linear warm-up, then a cosine that reaches zero after the last step."""
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.total_steps))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of its parts alone, such as (seed, stage, purpose, step)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def uses_bfloat16(cfg: PipelineConfig, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16 here."""
    precision = cfg.runtime.precision
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


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
            "exactness": exactness(_device_of(state)),
            "step": state.step,
            "state_dict": state.net.state_dict(),
            "ema": state.ema.state_dict(),
            "optimiser": state.optimiser.state_dict(),
        },
    )


def load_state(path: Path, state: TrainState, stage: Stage, cfg: PipelineConfig) -> None:
    """Put a saved state into `state`. Raises CheckpointError when the file belongs to another run.

    A state saved under other conditions is used all the same, and it is told that the bits may differ.
    """
    saved = load_payload(path)
    if saved.get("stage") != stage.name:
        raise CheckpointError(f"{path}: is no saved state of stage {stage.name}; delete it to start the stage again")
    check_architecture(path, saved["arch"], stage.spec.arch(cfg))
    if not stage.spec.is_config_hash(saved["config_hash"], cfg):
        raise CheckpointError(
            f"{path}: was saved under another configuration of stage {stage.name}; go on with that one, "
            "or start the stage again with --force-train"
        )
    for name, now in exactness(_device_of(state)).items():
        before = saved["exactness"].get(name)
        if before != now:
            logger.warning(
                "%s: %s was %s when the state was saved and is %s now: training goes on, but not to the same bits",
                stage.name,
                name,
                before,
                now,
            )
    state.net.load_state_dict(saved["state_dict"])
    state.ema.load_state_dict(saved["ema"])
    state.optimiser.load_state_dict(saved["optimiser"])
    state.step = saved["step"]


def _device_of(state: TrainState) -> torch.device:
    return next(state.net.parameters()).device


def _save_is_due(cfg: PipelineConfig, step: int, saved_at: float) -> bool:
    every = cfg.checkpoint.save_every_steps
    return (every > 0 and step % every == 0) or time.monotonic() - saved_at >= cfg.checkpoint.save_every_s


def _require_finite(stage: Stage, step: int, loss: Tensor, grad_norm: Tensor) -> None:
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not torch.isfinite(value):
            raise TrainingDiverged(
                f"{stage.name}: the {name} is {value.item()} at step {step + 1}; the weights were not touched by it. "
                f"Lower stages.{stage.name}.lr, or look for unusual values with `ups data info`"
            )


def _require_one_process() -> None:
    if world().world_size != 1:
        raise ConfigError(
            f"WORLD_SIZE={world().world_size}: training on several processes is not supported yet; start one"
        )
