"""What a stage of training is: a network, a loss and batches, each made from the config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import Fields, SteadyFields
from ups_models.nn.blocks import TokenGrid
from ups_models.nn.codec import FieldGrid
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

    @property
    def name(self) -> str:
        """The stage's name, as in the status file."""
        return self.spec.name


def token_grid(cfg: PipelineConfig) -> TokenGrid:
    """The latent tokens of a config."""
    problem = cfg.data.problem
    return TokenGrid((cfg.latent.tokens,) * problem.dimensions, problem.periodic)


def field_grid(cfg: PipelineConfig) -> FieldGrid:
    """The fields of a config, and the tokens that they become."""
    problem = cfg.data.problem
    return FieldGrid(len(problem.channels), (cfg.data.points,) * problem.dimensions, token_grid(cfg))


def expect(value: object, kind: type[T]) -> T:
    """The value, which must be of this kind: a stage's own network, or the data that it learns from."""
    if not isinstance(value, kind):
        raise TypeError(f"this stage needs {kind.__name__}, got {type(value).__name__}")
    return value
