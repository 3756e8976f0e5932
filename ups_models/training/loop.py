"""The one training loop: every stage is fitted here, step by step, from a seed and nothing else."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ups_models.config.schema import PipelineConfig
from ups_models.errors import Preempted, TrainingDiverged
from ups_models.stages.lineage import Lineage
from ups_models.stages.stage import Data, Stage
from ups_models.training.parallel import World
from ups_models.training.saving import Saver, copied
from ups_models.training.state import TrainState, find_state, moving_parts, put_back, share_state, start_state
from ups_models.training.steps import ALONE, Step, Steps

READ_EVERY = 50
"""Steps whose numbers are read together, on a GPU."""


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
    read_every: int | None = None,
) -> TrainState:
    """Train one stage to the end of its budget and return its final state.

    Resumes from `resume_path`, or from the state before it, where that is a state of this very `lineage`. Saves there
    at the config's interval, beside the steps that follow, and when `hooks.should_stop` says so in any process of the
    `world`. The numbers of so many steps are read at once; the default is one step, and more on a GPU. Raises Preempted
    after such a stop, and TrainingDiverged when a loss or gradient is not finite.
    """
    on_gpu = device.type == "cuda"
    settings = cfg.stages.of(stage.spec.name)
    start = partial(start_state, stage, cfg, data, frozen, device)
    state = find_state(resume_path, start, stage, cfg, lineage) if world.rank == 0 else start()
    share_state(state, world)
    hooks.on_start(state.step)
    steps, saved_at = Steps(stage, cfg, data, frozen, device, world, ahead=on_gpu), time.monotonic()
    reader = Reader(steps, state, hooks, read_every or (READ_EVERY if on_gpu else 1))
    with Saver[Progress](resume_path, lineage, with_previous=cfg.checkpoint.keep_previous) as saver:
        if world.rank == 0:
            saver.make_room(state)
        while state.step < settings.total_steps:
            reader.take()
            by_number = _is_due_by_number(cfg, state.step)
            due = world.rank == 0 and time.monotonic() - saved_at >= cfg.checkpoint.save_every_s
            stop, save = world.any_of(hooks.should_stop(), due or by_number)
            if stop or save:
                saved_at, progress = time.monotonic(), reader.read()  # in every process: it may take steps again
                if world.rank == 0:
                    _report(saver, hooks, wait=True)
                    saver.save(state, progress)
            _report(saver, hooks, wait=stop or by_number)
            if stop and state.step < settings.total_steps:
                raise Preempted(
                    f"{stage.spec.name}: stopped at step {state.step} of {settings.total_steps} and saved; "
                    "the same command with --auto-resume resumes from there"
                )
        reader.read()
    return state


def _report(saver: Saver[Progress], hooks: Hooks, *, wait: bool) -> None:
    """Say that a state has reached the disk. Raises StorageError where it could not."""
    if saved := saver.written(wait=wait):
        hooks.on_save(saved)


class Reader:
    """Takes steps, and reads their numbers `every` so many steps: on a GPU, to read is to wait.

    Where one of them was not finite, the state goes back to where it was read last, and those steps are taken again one
    by one, up to that one.
    """

    def __init__(self, steps: Steps, state: TrainState, hooks: Hooks, every: int) -> None:
        self.steps, self.state, self.hooks, self.every = steps, state, hooks, every
        self.unread: list[Step] = []
        self.kept: dict[str, Any] = {}
        self.last = self._progress(state.step, math.nan, math.nan, math.nan)

    def take(self) -> None:
        """The next step. Raises TrainingDiverged."""
        if self.every > 1 and not self.unread:
            self.kept = copied(moving_parts(self.state), self.kept, to_cpu=False)
        self.unread.append(self.steps.take(self.state, check=self.every == 1))
        if len(self.unread) >= self.every:
            self.read()

    def read(self) -> Progress:
        """Report the steps since the last reading, and return what is known of the newest. Raises TrainingDiverged."""
        pairs = [torch.stack([one.loss.float(), one.grad_norm.float()]) for one in self.unread]
        numbers: list[tuple[float, float]] = torch.stack(pairs).tolist() if pairs else []
        first = self.state.step - len(numbers)
        if not all(math.isfinite(loss) and math.isfinite(norm) for loss, norm in numbers):
            self._take_again(first)
        for step, found, (loss, grad_norm) in zip(count(first + 1), self.unread, numbers, strict=False):
            self.last = self._progress(step, loss, grad_norm, found.lr)
            self.hooks.on_step(self.last)
            if step % self.steps.settings.steps_per_epoch == 0:
                self.hooks.on_epoch(self.last)
        self.unread = []
        return self.last

    def _take_again(self, first: int) -> None:
        """From the last reading to the step that was not finite."""
        state, last = self.state, self.state.step
        put_back(state, self.kept)
        state.step = first
        while state.step < last:
            self.steps.take(state)
        raise TrainingDiverged(
            f"{self.steps.stage.name}: a number was not finite between steps {first + 1} and {last}, and is when these "
            "are taken again: this machine does not compute the same twice"
        )

    def _progress(self, step: int, loss: float, grad_norm: float, lr: float) -> Progress:
        settings = self.steps.settings
        epoch = math.ceil(step / settings.steps_per_epoch)
        name = self.steps.stage.spec.name
        return Progress(name, step, settings.total_steps, epoch, settings.epochs, loss, grad_norm, lr)


def _is_due_by_number(cfg: PipelineConfig, step: int) -> bool:
    """Whether this step is saved because of its number: then no more than so many steps are ever lost."""
    every = cfg.checkpoint.save_every_steps
    return every > 0 and step % every == 0
