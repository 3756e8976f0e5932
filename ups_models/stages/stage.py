"""What a stage of training is: a network, a loss and batches, each made from the config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import Fields, SteadyFields
from ups_models.nn.blocks import TokenGrid
from ups_models.nn.codec import FieldGrid
from ups_models.nn.own import Shapes
from ups_models.stages.spec import StageSpec

Data = Fields | SteadyFields
Batch = Mapping[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class LossInput:
    """All that a loss may depend on."""

    net: nn.Module
    target_ema: nn.Module
    frozen: Mapping[str, nn.Module]
    batch: Batch
    progress: float
    rng: torch.Generator


Loss = Callable[[LossInput], Tensor]


@dataclass(frozen=True)
class Stage:
    """One stage of training: its spec, and how its network, loss and batches are made."""

    spec: StageSpec
    build: Callable[[PipelineConfig], nn.Module]
    loss: Callable[[PipelineConfig], Loss]
    sample_batch: Callable[[PipelineConfig, Data, float, torch.Generator], Batch]
    init_from_data: Callable[[nn.Module, Data], None] | None = None
    init_from_frozen: Callable[[PipelineConfig, nn.Module, Mapping[str, nn.Module]], None] | None = None
    """Takes what it starts from of the stages that it needs."""

    @property
    def name(self) -> str:
        """The stage's name, as in the status file."""
        return self.spec.name


def part_at(parts: Sequence[int], progress: float) -> int:
    """The one of equally long parts of a curriculum that is due at this progress in [0, 1)."""
    return parts[min(int(progress * len(parts)), len(parts) - 1)]


def token_grid(cfg: PipelineConfig) -> TokenGrid:
    """The latent tokens of a config."""
    return TokenGrid(cfg.tokens, cfg.data.problem.periodic)


def field_grid(cfg: PipelineConfig) -> FieldGrid:
    """The fields of a config, and the tokens that they become."""
    return FieldGrid(len(cfg.data.problem.channels), cfg.data.grid, token_grid(cfg))


def shapes_of(cfg: PipelineConfig) -> Shapes:
    """What a network of the user's is told."""
    problem = cfg.data.problem
    conserved = tuple(channel in problem.conserved for channel in problem.channels)
    return Shapes(field_grid(cfg), cfg.latent.dim, len(problem.parameters) + 1, conserved)


def expect(value: object, kind: type[T]) -> T:
    """The value, which must be of this kind: a stage's own network, or the data that it learns from."""
    if not isinstance(value, kind):
        raise TypeError(f"this stage needs {kind.__name__}, got {type(value).__name__}")
    return value
