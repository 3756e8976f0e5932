"""Where the operator's error is described, so that it can be sampled: among latent states, or among fields."""

from typing import Protocol

import torch
from torch import Tensor

from ups_models.nn.codec import FieldGrid, with_means
from ups_models.nn.own import Operator, unit_of


class ResidualSpace(Protocol):
    """One of both: what the error is, how many numbers a token of it has, and how it is made good."""

    @property
    def dim(self) -> int:
        """Numbers of a token, R."""
        ...

    @property
    def unseen(self) -> int:
        """Numbers of a token of `lost`."""
        ...

    def lost(self, operator: Operator, u: Tensor, z: Tensor, mean: Tensor) -> Tensor:
        """u_t (B, C, *space), z (B, S, D), means (B, C) -> what of u_t the state does not hold, (B, S, unseen)."""
        ...

    def residual(self, operator: Operator, z_hat: Tensor, target: Tensor, mean: Tensor) -> Tensor:
        """z_hat (B, S, D), u_{t+1} (B, C, *space), means of u_t (B, C) -> r (B, S, R)."""
        ...

    def corrected(self, operator: Operator, z_hat: Tensor, residual: Tensor, mean: Tensor) -> Tensor:
        """z_hat (B, S, D), r (B, S, R), means (B, C) -> fields (B, C, *space)."""
        ...


class LatentResidual:
    """r = E(u_{t+1}) - E(D(z_hat)), R = D: what the prediction gets wrong, without what the codec does.

    Both sides pass through the same encoder, whose error cancels (docs/adr/0002).
    """

    unseen = 0

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def lost(self, operator: Operator, u: Tensor, z: Tensor, mean: Tensor) -> Tensor:
        """Nothing: what the codec loses is no part of this residual."""
        return z[..., :0]

    def residual(self, operator: Operator, z_hat: Tensor, target: Tensor, mean: Tensor) -> Tensor:
        """As in ResidualSpace."""
        return operator.encode(target) - operator.encode(operator.decode(z_hat, mean))

    def corrected(self, operator: Operator, z_hat: Tensor, residual: Tensor, mean: Tensor) -> Tensor:
        """D(z_hat + r)."""
        return operator.decode(z_hat + residual, mean)


class FieldResidual:
    """r = u_{t+1} - D(z_hat), a token for each patch: all that is wrong, what a lossy codec loses included.

    In units of the channels, where the operator has any; means that are conserved stay.
    """

    def __init__(self, grid: FieldGrid, conserved: tuple[bool, ...]) -> None:
        self.grid, self.dim, self.unseen = grid, grid.values, grid.values
        self.conserved = torch.tensor(conserved)

    def lost(self, operator: Operator, u: Tensor, z: Tensor, mean: Tensor) -> Tensor:
        """u_t - D(z): most of what the next state loses has only moved on from here."""
        return self.grid.to_patches((u - operator.decode(z, mean)) / unit_of(operator))

    def residual(self, operator: Operator, z_hat: Tensor, target: Tensor, mean: Tensor) -> Tensor:
        """As in ResidualSpace."""
        return self.grid.to_patches((target - operator.decode(z_hat, mean)) / unit_of(operator))

    def corrected(self, operator: Operator, z_hat: Tensor, residual: Tensor, mean: Tensor) -> Tensor:
        """D(z_hat) + r."""
        added = with_means(self.grid.to_fields(residual), 0.0, self.conserved.to(residual.device))
        return operator.decode(z_hat, mean) + added * unit_of(operator)
