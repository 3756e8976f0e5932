"""The latent operator: encode a field, advance its latent state by one time step, decode it."""

import torch
from torch import Tensor, nn

from ups_models.config.constants import OPERATOR_COND_WIDTH, OPERATOR_OCTAVES
from ups_models.nn.blocks import LogFourierFeatures, MixingBlock, Mlp
from ups_models.nn.codec import Decoder, Encoder


class Propagator(nn.Module):
    """z_t -> z_{t+1} = z_t + f(z_t; parameters), conditioned by FiLM."""

    def __init__(self, tokens: int, dim: int, width: int, blocks: int, modes: int, cond_width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(MixingBlock(width, tokens, modes, cond_width) for _ in range(blocks))
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

    `parameters` are (B, 2): the natural logarithms of the equation's coefficient (nu or beta) and of the time step.
    """

    def __init__(
        self, *, points: int, tokens: int, dim: int, width: int, blocks: int, modes: int, codec_blocks: int
    ) -> None:
        super().__init__()
        self.points = points
        self.features = LogFourierFeatures(OPERATOR_OCTAVES)
        cond_width = OPERATOR_COND_WIDTH
        self.condition = Mlp(self.features.width(2), 2 * cond_width, cond_width)
        self.encoder = Encoder(points, tokens, dim, width, codec_blocks)
        self.propagator = Propagator(tokens, dim, width, blocks, modes, cond_width)
        self.decoder = Decoder(points, tokens, dim, width, codec_blocks)

    def encode(self, u: Tensor) -> Tensor:
        """u (B, X) -> z (B, S, D)."""
        z: Tensor = self.encoder(u)
        return z.float()

    def advance(self, z: Tensor, parameters: Tensor) -> Tensor:
        """z_t (B, S, D) -> z_hat_{t+1} (B, S, D)."""
        z_hat: Tensor = self.propagator(z, self.condition(self.features(parameters)))
        return z_hat

    def decode(self, z: Tensor, mean: Tensor) -> Tensor:
        """z (B, S, D), conserved spatial mean (B,) -> u (B, X)."""
        u: Tensor = self.decoder(z, mean)
        return u
