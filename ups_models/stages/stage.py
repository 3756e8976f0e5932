"""What a stage of training is: a network, a loss and batches, each made from the config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig
from ups_models.data.fields import SteadyFields, Trajectories
from ups_models.stages.spec import StageSpec

Data = Trajectories | SteadyFields
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


def expect(value: object, kind: type[T]) -> T:
    """The value, which must be of this kind: a stage's own network, or the data that it learns from."""
    if not isinstance(value, kind):
        raise TypeError(f"this stage needs {kind.__name__}, got {type(value).__name__}")
    return value
