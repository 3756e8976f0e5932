"""What metrics are computed from: a forecast, or an ensemble of them, beside its targets."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from ups_models.evaluation import metrics

NO_TIMES = torch.empty(0)


@dataclass(frozen=True)
class Forecast:
    """One prediction for each target, both (N, ..., C, X), or with all axes of space that `dim` names.

    `grid` are the axes that X flattens.
    """

    prediction: Tensor
    target: Tensor
    dim: metrics.Dims = -1
    times: Tensor = NO_TIMES
    grid: tuple[int, ...] = ()

    @classmethod
    def of(cls, prediction: Tensor, target: Tensor, dimensions: int, times: Tensor = NO_TIMES) -> Self:
        """Of fields with so many axes of space."""
        grid = tuple(target.shape[-dimensions:])
        return cls(prediction.flatten(-dimensions), target.flatten(-dimensions), times=times, grid=grid)

    @cached_property
    def pdebench(self) -> metrics.PDEBenchMetrics:
        """PDEBench's eight numbers, which share their work."""
        return metrics.pdebench(self.prediction, self.target, self.grid)

    def correlation_time(self, threshold: float) -> float:
        """First time under the threshold."""
        return metrics.correlation_time(self.prediction, self.target, self.times, threshold)


@dataclass(frozen=True)
class Ensemble:
    """Members (M, N, ..., X), targets (N, ..., X) and their RMS (N, ...); `grid` are the axes that X flattens."""

    members: Tensor
    target: Tensor
    scale: Tensor
    nfe: int
    seed: int
    grid: tuple[int, ...] = ()

    def after(self, steps: int) -> Self:
        """Of rollouts (M, N, T, C, X), the fields after so many steps."""
        return replace(
            self,
            members=self.members[:, :, steps - 1],
            target=self.target[:, steps - 1],
            scale=self.scale[:, steps - 1],
        )

    @cached_property
    def crps(self) -> Tensor:
        """(N, ..., X)."""
        return metrics.fair_crps(self.members, self.target)

    def crps_quantile(self, share: float) -> float:
        """What this share of the trajectories stay below."""
        return self.crps.flatten(1).mean(1).quantile(share).item()

    @cached_property
    def mean(self) -> Tensor:
        """(N, ..., X)."""
        return self.members.mean(0)

    @cached_property
    def rank(self) -> Tensor:
        """Of the target among the members, (N, ..., X)."""
        rng = torch.Generator(self.target.device).manual_seed(self.seed)
        return metrics.ranks(self.members, self.target, rng).cpu()

    def coverage(self, level: float) -> float:
        """Of the central interval."""
        return metrics.coverage(self.rank, len(self.members), level)

    def member_nrmse(self) -> float:
        """Mean over members."""
        return self.member_errors.mean().item()

    @cached_property
    def member_errors(self) -> Tensor:
        """nRMSE of each member over all axes of space, (M, N)."""
        target, dim = self.target.unflatten(-1, self.grid), tuple(range(-len(self.grid), 0))
        members = self.members.unflatten(-1, self.grid)
        return torch.stack([metrics.nrmse(member, target, dim) for member in members])
