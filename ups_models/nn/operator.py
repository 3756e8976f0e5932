"""The latent operator: encode a field, advance its latent state by one time step, decode it."""

import torch
from torch import Tensor, nn

from ups_models.config.constants import OPERATOR_COND_WIDTH, OPERATOR_OCTAVES
from ups_models.nn.blocks import LogFourierFeatures, MixingBlock, Mlp, TokenGrid
from ups_models.nn.codec import Decoder, Encoder, FieldGrid


class Propagator(nn.Module):
    """z_t -> z_{t+1} = z_t + f(z_t; parameters), conditioned by FiLM."""

    def __init__(self, grid: TokenGrid, dim: int, width: int, blocks: int, modes: int, cond_width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(MixingBlock(width, grid, modes, cond_width) for _ in range(blocks))
        self.project = nn.Linear(width, dim)
        nn.init.zeros_(self.project.bias)
        with torch.no_grad():
            self.project.weight.mul_(0.1)

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        """(B, S, D), (B, C) -> (B, S, D)."""
        x = self.lift(z)
        for block in self.blocks:
            x = block(x, cond)
        out: Tensor = z + self.project(x).float()
        return out


class LatentOperator(nn.Module):
    """Encoder E, propagator P and decoder D, trained together.

    `parameters` are (B, P + 1): the equation's parameters as its problem has networks see them, and ln dt.
    """

    def __init__(
        self,
        *,
        grid: FieldGrid,
        parameters: int,
        conserved: tuple[bool, ...],
        dim: int,
        width: int,
        blocks: int,
        modes: int,
        codec_blocks: int,
    ) -> None:
        super().__init__()
        self.features = LogFourierFeatures(OPERATOR_OCTAVES)
        cond_width = OPERATOR_COND_WIDTH
        self.condition = Mlp(self.features.width(parameters + 1), 2 * cond_width, cond_width)
        self.encoder = Encoder(grid, dim, width, codec_blocks)
        self.propagator = Propagator(grid.tokens, dim, width, blocks, modes, cond_width)
        self.decoder = Decoder(grid, dim, width, codec_blocks, conserved=conserved)

    def encode(self, u: Tensor) -> Tensor:
        """u (B, C, *space) -> z (B, S, D)."""
        z: Tensor = self.encoder(u)
        return z.float()

    def advance(self, z: Tensor, parameters: Tensor) -> Tensor:
        """z_t (B, S, D) -> z_hat_{t+1} (B, S, D)."""
        z_hat: Tensor = self.propagator(z, self.condition(self.features(parameters)))
        return z_hat

    def decode(self, z: Tensor, mean: Tensor) -> Tensor:
        """z (B, S, D), means over space (B, C) of which some are conserved -> u (B, C, *space)."""
        u: Tensor = self.decoder(z, mean)
        return u
