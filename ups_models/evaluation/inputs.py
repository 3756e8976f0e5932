"""What is evaluated: the trained networks, and the rows of data that they have not seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ups_models.data.fields import Fields, SteadyFields
from ups_models.errors import BadInput
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.nn.prior import SteadyPrior

Arrays = dict[str, np.ndarray[Any, Any]]
"""What plots are drawn from."""
NETWORKS: Mapping[str, type[nn.Module]] = {
    "operator": LatentOperator,
    "diff_residual": ResidualDiffusion,
    "consistency_distill": ResidualDiffusion,
    "steady_prior": SteadyPrior,
}


@dataclass(frozen=True)
class Models:
    """The trained networks that there are; an evaluation leaves out what is absent."""

    operator: LatentOperator | None = None
    diff_residual: ResidualDiffusion | None = None
    consistency_distill: ResidualDiffusion | None = None
    steady_prior: SteadyPrior | None = None

    @classmethod
    def of(cls, nets: Mapping[str, Any]) -> Self:
        """Networks by stage. Raises BadInput for one that cannot be evaluated, rather than leave it out."""
        for stage, net in nets.items():
            if not isinstance(net, NETWORKS[stage]):
                raise BadInput(
                    f"stage {stage}: its network is a {type(net).__name__}, but an evaluation needs a "
                    f"{NETWORKS[stage].__name__}"
                )
        return cls(**nets)


@dataclass(frozen=True)
class EvalData:
    """The split to evaluate on, and the training fields of which a baseline takes the mean."""

    trajectories: Fields | None = None
    steady: SteadyFields | None = None
    steady_train: SteadyFields | None = None


@dataclass(frozen=True)
class OperatorCase:
    """An operator and the trajectories that it is evaluated on."""

    operator: LatentOperator
    data: Fields
    u: Tensor
    parameters: Tensor
    """The fields (N, T, C, *space), and what networks are told of each trajectory (N, P + 1), on its device."""
    steps: int
    reencode_every: int


def evenly_spaced(count: int, total: int) -> Tensor:
    """At most `count` of `total` indices, evenly spread: files with different parameters all have their share."""
    return torch.linspace(0, total - 1, min(count, total)).long()
