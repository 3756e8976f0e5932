"""The one training loop: every stage is fitted here, step by step, from a seed and nothing else."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ups_models.config.schema import BATCH_SIZES, PipelineConfig
from ups_models.errors import Preempted, TrainingDiverged
from ups_models.stages.lineage import Lineage
from ups_models.stages.stage import Data, Loss, LossInput, Stage
from ups_models.training.ema import ema_update
from ups_models.training.optim import flat_gradient, gradient, learning_rate, put_gradient, set_learning_rate
from ups_models.training.parallel import World
from ups_models.training.saving import Saver
from ups_models.training.seeds import derive_seed
from ups_models.training.state import TrainState, find_state, share_state, start_state

ALONE = World()


@dataclass(frozen=True)
class Progress:
    """What a stage has reached after an optimiser step."""

    stage: str
    step: int
    total_steps: int
    epoch: int
    total_epochs: int
    loss: float
    grad_norm: float
    lr: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: with the step it begins at, after each step, epoch and save, and to know when to stop."""

    on_start: Callable[[int], None] = lambda step: None
    on_step: OnProgress = lambda progress: None
    on_epoch: OnProgress = lambda progress: None
    on_save: OnProgress = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False


def fit(
    stage: Stage,
    cfg: PipelineConfig,
    data: Data,
    frozen: Mapping[str, nn.Module],
    *,
    device: torch.device,
    resume_path: Path,
    lineage: Lineage,
    hooks: Hooks,
    world: World = ALONE,
) -> TrainState:
    """Train one stage to the end of its budget and return its final state.

    Resumes from `resume_path`, or from the state before it, where that is a state of this very `lineage`. Saves there
    at the config's interval and when `hooks.should_stop` says so in any process of the `world`. Raises Preempted after
    such a save, TrainingDiverged when a loss or gradient is not finite.
    """
    settings = cfg.stages.of(stage.spec.name)
    start = partial(start_state, stage, cfg, data, frozen, device)
    state = find_state(resume_path, start, stage, cfg, lineage) if world.rank == 0 else start()
    share_state(state, world)
    hooks.on_start(state.step)
    loss, saved_at = stage.loss(cfg), time.monotonic()
    with Saver[Progress](resume_path, lineage, with_previous=cfg.checkpoint.keep_previous) as saver:
        while state.step < settings.total_steps:
            progress = train_step(stage, cfg, data, frozen, state, loss, device, world)
            hooks.on_step(progress)
            due = world.rank == 0 and _save_is_due(cfg, state.step, saved_at)
            stop, save = world.any_of(hooks.should_stop(), due)
            if stop or save:
                saved_at = time.monotonic()
                if world.rank == 0:
                    _report(saver, hooks, wait=True)
                    saver.save(state, progress)
            _report(saver, hooks, wait=stop)
            if state.step % settings.steps_per_epoch == 0:
                hooks.on_epoch(progress)
            if stop and state.step < settings.total_steps:
                raise Preempted(
                    f"{stage.spec.name}: stopped at step {state.step} of {settings.total_steps} and saved; "
                    "the same command with --auto-resume resumes from there"
                )
    return state


def _report(saver: Saver[Progress], hooks: Hooks, *, wait: bool) -> None:
    """Say that a state has reached the disk. Raises StorageError where it could not."""
    if saved := saver.written(wait=wait):
        hooks.on_save(saved)


def train_step(
    stage: Stage,
    cfg: PipelineConfig,
    data: Data,
    frozen: Mapping[str, nn.Module],
    state: TrainState,
    loss_of: Loss,
    device: torch.device,
    world: World = ALONE,
) -> Progress:
    """One optimiser step, a function of (seed, stage, step) and the state alone, however many processes compute it."""
    settings, shards = cfg.stages.of(stage.spec.name), cfg.training.shards
    lr = learning_rate(settings, state.step)
    set_learning_rate(state.optimiser, lr)
    done, part = state.step / settings.total_steps, _for_one_shard(stage, cfg)

    def loss_of_shard(*shard: int) -> Tensor:
        """Of one shard; of the whole step where it is not divided and there is no number."""
        batch_seed, noise_seed, network_seed = (
            derive_seed(cfg.seed, stage.spec.name, purpose, state.step, *shard)
            for purpose in ("batch", "noise", "network")
        )
        batch_rng = torch.Generator().manual_seed(batch_seed)
        noise_rng = torch.Generator(device).manual_seed(noise_seed)
        torch.manual_seed(network_seed)  # our networks draw nothing
        batch = {name: value.to(device) for name, value in stage.sample_batch(part, data, done, batch_rng).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(cfg, device)):
            return loss_of(LossInput(state.net, state.ema, frozen, batch, done, noise_rng))

    if shards == 1:
        loss = loss_of_shard()
        gradient(loss, state.net)
    else:
        own = [flat_gradient(loss_of_shard(shard), state.net) for shard in world.shards(shards)]
        loss = put_gradient(world.sum_over_shards(own, shards) / shards, state.net)
    grad_norm = nn.utils.clip_grad_norm_(state.net.parameters(), settings.grad_clip)
    _require_finite(stage, state.step, loss, grad_norm)
    state.optimiser.step()
    state.step += 1
    ema_update(state.ema, state.net, settings.ema_decay, state.step)
    epoch = math.ceil(state.step / settings.steps_per_epoch)
    return Progress(
        stage.spec.name, state.step, settings.total_steps, epoch, settings.epochs, loss.item(), grad_norm.item(), lr
    )


def _for_one_shard(stage: Stage, cfg: PipelineConfig) -> PipelineConfig:
    """The config with the stage's batch divided by the number of shards."""
    shards, name = cfg.training.shards, stage.spec.name
    if shards == 1:
        return cfg
    settings = cfg.stages.of(name)
    sizes = {key: getattr(settings, key) // shards for key in BATCH_SIZES if hasattr(settings, key)}
    stages = cfg.stages.model_copy(update={name: settings.model_copy(update=sizes)})
    return cfg.model_copy(update={"stages": stages})


def uses_bfloat16(cfg: PipelineConfig, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16 here."""
    precision = cfg.runtime.precision
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


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
