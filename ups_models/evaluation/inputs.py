"""What is evaluated: the trained networks, and the rows of data that they have not seen."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ups_models.data.fields import Fields, SteadyFields
from ups_models.errors import BadInput
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.own import METHODS, Operator
from ups_models.nn.prior import Prior

Arrays = dict[str, np.ndarray[Any, Any]]
"""What plots are drawn from."""
ROW_ERRORS, ROW_DIGESTS, DIGITS = "row_errors", "row_digests", 16
"""Arrays of the main error by row, and the digits of a row's digest that are kept."""
NETWORKS: Mapping[str, type[nn.Module]] = {
    "operator": nn.Module,
    "diff_residual": ResidualDiffusion,
    "consistency_distill": ResidualDiffusion,
    "steady_prior": Prior,
}
"""An operator is known by its methods."""


@dataclass(frozen=True)
class Models:
    """The trained networks that there are; an evaluation leaves out what is absent."""

    operator: Operator | None = None
    diff_residual: ResidualDiffusion | None = None
    consistency_distill: ResidualDiffusion | None = None
    steady_prior: Prior | None = None

    def networks(self) -> dict[str, nn.Module]:
        """Those that there are, by stage."""
        found: dict[str, Any] = {stage: getattr(self, stage) for stage in NETWORKS}
        return {stage: net for stage, net in found.items() if net is not None}

    @classmethod
    def of(cls, nets: Mapping[str, Any]) -> Self:
        """Networks by stage. Raises BadInput for one that cannot be evaluated, rather than leave it out."""
        for stage, net in nets.items():
            if not isinstance(net, NETWORKS[stage]) or (stage == "operator" and not _is_operator(net)):
                wanted = f"network with {', '.join(METHODS)}" if stage == "operator" else NETWORKS[stage].__name__
                raise BadInput(
                    f"stage {stage}: its network is a {type(net).__name__}, but an evaluation needs a {wanted}"
                )
        return cls(**nets)


def _is_operator(net: object) -> bool:
    return all(callable(getattr(net, name, None)) for name in METHODS)


@dataclass(frozen=True)
class EvalData:
    """The split to evaluate on, and the training fields of which a baseline takes the mean."""

    trajectories: Fields | None = None
    steady: SteadyFields | None = None
    steady_train: SteadyFields | None = None


@dataclass(frozen=True)
class OperatorCase:
    """An operator and the trajectories that it is evaluated on."""

    operator: Operator
    data: Fields
    u: Tensor
    parameters: Tensor
    """The fields (N, T, C, *space), and what networks are told of each trajectory (N, P + 1), on its device."""
    steps: int
    reencode_every: int


def row_arrays(errors: Tensor, rows: Tensor) -> Arrays:
    """The error of each row (N,), and what identifies its content, so that two models can be compared row by row."""
    whole = rows.detach().cpu().numpy()
    digests = [hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()[:DIGITS] for row in whole]
    return {ROW_ERRORS: errors.detach().cpu().numpy(), ROW_DIGESTS: np.array(digests)}


def evenly_spaced(count: int, total: int) -> Tensor:
    """At most `count` of `total` indices, evenly spread: files with different parameters all have their share."""
    return torch.linspace(0, total - 1, min(count, total)).long()
