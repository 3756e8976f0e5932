"""The optimiser steps of a stage: functions of (seed, stage, step) and the state, however many processes take them."""

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig
from ups_models.config.stages import BATCH_SIZES, StageConfig
from ups_models.errors import TrainingDiverged
from ups_models.stages.stage import Batch, Data, Loss, LossInput, Stage
from ups_models.training.conditions import uses_bfloat16
from ups_models.training.ema import ema_update
from ups_models.training.optim import gradient, learning_rate, set_learning_rate
from ups_models.training.overlap import GradientSum
from ups_models.training.parallel import World
from ups_models.training.seeds import derive_seed
from ups_models.training.state import TrainState

ALONE = World()


class Step(NamedTuple):
    """What a step has found, where it was computed: to read a number from a GPU is to wait for it."""

    loss: Tensor
    grad_norm: Tensor
    lr: float


@dataclass(frozen=True)
class Steps:
    """All that a step is made of besides the state. `ahead`: batches are made while the step before runs."""

    stage: Stage
    cfg: PipelineConfig
    data: Data
    frozen: Mapping[str, nn.Module]
    device: torch.device
    world: World = ALONE
    ahead: bool = False
    _made: dict[tuple[int, ...], Future[Batch]] = field(default_factory=dict)
    _sums: dict[nn.Module, GradientSum] = field(default_factory=dict)

    def take(self, state: TrainState, *, check: bool = True) -> Step:
        """Take one. With `check`, raise TrainingDiverged where it is not finite, before it has touched the weights."""
        settings, shards = self.settings, self.cfg.training.shards
        lr = learning_rate(settings, state.step)
        set_learning_rate(state.optimiser, lr)
        if shards == 1:
            loss = self._loss(state)
            gradient(loss, state.net)
        else:
            gradients = self._sums.setdefault(state.net, GradientSum(state.net, self.world, shards))
            loss = gradients.set_mean(self._loss(state, shard) for shard in self.world.shards(shards))
        grad_norm = nn.utils.clip_grad_norm_(state.net.parameters(), settings.grad_clip)
        if check:
            require_finite(self.stage.name, state.step, loss.item(), grad_norm.item())
        state.optimiser.step()
        state.step += 1
        ema_update(state.ema, state.net, settings.ema_decay, state.step)
        return Step(loss.detach(), grad_norm.detach(), lr)

    @property
    def settings(self) -> StageConfig:
        """The stage's own."""
        return self.cfg.stages.of(self.stage.name)

    def _loss(self, state: TrainState, *shard: int) -> Tensor:
        """Of one shard; of the whole step where it is not divided and there is no number."""
        noise_rng = torch.Generator(self.device).manual_seed(self._seed("noise", state.step, *shard))
        torch.manual_seed(self._seed("network", state.step, *shard))  # our networks draw nothing
        batch = self.sample_batch(state.step, *shard)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bfloat16(self.cfg, self.device)):
            done = self._done(state.step)
            return self.loss_of(LossInput(state.net, state.ema, self.frozen, batch, done, noise_rng))

    def sample_batch(self, step: int, *shard: int) -> Batch:
        """Made here, or already made; then the same shard of the next step is begun."""
        if not self.ahead:
            return self._make_batch(step, *shard)
        made = self._made.pop((step, *shard), None)
        if step + 1 < self.settings.total_steps:
            self._made[step + 1, *shard] = self._maker.submit(self._make_batch, step + 1, *shard)
        return self._make_batch(step, *shard) if made is None else made.result()

    def _make_batch(self, step: int, *shard: int) -> Batch:
        rng = torch.Generator().manual_seed(self._seed("batch", step, *shard))
        found = self.stage.sample_batch(self._part, self.data, self._done(step), rng)
        if self.device.type == "cuda":  # from pinned memory a copy runs beside the kernels
            return {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in found.items()}
        return {name: value.to(self.device) for name, value in found.items()}

    def _done(self, step: int) -> float:
        return step / self.settings.total_steps

    def _seed(self, purpose: str, step: int, *shard: int) -> int:
        return derive_seed(self.cfg.seed, self.stage.name, purpose, step, *shard)

    @cached_property
    def loss_of(self) -> Loss:
        """The stage's loss, with the config's settings."""
        return self.stage.loss(self.cfg)

    @cached_property
    def _maker(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="batches")

    @cached_property
    def _part(self) -> PipelineConfig:
        """The config with the stage's batch divided by the number of shards."""
        shards, settings = self.cfg.training.shards, self.settings
        if shards == 1:
            return self.cfg
        sizes = {key: getattr(settings, key) // shards for key in BATCH_SIZES if hasattr(settings, key)}
        stages = self.cfg.stages.model_copy(update={self.stage.name: settings.model_copy(update=sizes)})
        return self.cfg.model_copy(update={"stages": stages})


def require_finite(stage: str, step: int, loss: float, grad_norm: float) -> None:
    """Raise TrainingDiverged where a step, counted from 0, has found no finite number."""
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"{stage}: the {name} is {value} at step {step + 1}; the weights were not touched by it. "
                f"Lower stages.{stage}.lr, or look for unusual values with `ups data info`"
            )
