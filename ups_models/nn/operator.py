"""The latent operator: encode a field, advance its latent state by one time step, decode it."""

import torch
from torch import Tensor, nn

from ups_models.config.constants import OPERATOR_COND_WIDTH, OPERATOR_OCTAVES
from ups_models.nn.blocks import Film, LogFourierFeatures, MixingBlock, Mlp, TokenGrid, spectral_mix
from ups_models.nn.codec import Decoder, Encoder, FieldGrid

SMALLEST_STD = 1e-6


class Propagator(nn.Module):
    """z_t -> z_{t+1} = z_t + f(z_t; parameters), conditioned by FiLM."""

    def __init__(
        self, grid: TokenGrid, dim: int, width: int, blocks: int, modes: int, cond_width: int, *, shift: bool = False
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(MixingBlock(width, grid, modes, cond_width) for _ in range(blocks))
        self.project = nn.Linear(width, dim)
        nn.init.zeros_(self.project.bias)
        with torch.no_grad():
            self.project.weight.mul_(0.1)
        self.shift = Shift(grid, dim, cond_width) if shift else None

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        """(B, S, D), (B, C) -> (B, S, D)."""
        x = self.lift(z)
        for block in self.blocks:
            x = block(x, cond)
        out: Tensor = z + self.project(x).float()
        return out if self.shift is None else out + self.shift(z, cond)


class Shift(nn.Module):
    """What a step changes linearly, every mode of the tokens by a matrix of its own; nothing at the start.

    To move a field by any distance is linear, and mixes the modes of no two wave numbers: a network that must find it
    through its nonlinearities needs far longer.
    """

    def __init__(self, grid: TokenGrid, dim: int, cond_width: int) -> None:
        super().__init__()
        self.linear = spectral_mix(dim, grid, max(grid.shape) // 2 + 1 if all(grid.periodic) else max(grid.shape))
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)
        self.film = Film(dim, cond_width)

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        """(B, S, D), (B, C) -> (B, S, D)."""
        out: Tensor = self.film(self.linear(z), cond)
        return out


class Units(nn.Module):
    """Mean and standard deviation of every channel over the training data; learned once, stored with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        shape = (channels, *[1] * dimensions)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, u: Tensor) -> None:
        """Take them from fields (N, T, C, *space)."""
        by_channel = u.transpose(0, 2).flatten(1)
        self.mean.copy_(by_channel.mean(1).view(self.mean.shape))
        self.std.copy_(by_channel.std(1).clamp_min(SMALLEST_STD).view(self.std.shape))

    def normalised(self, u: Tensor) -> Tensor:
        """(B, C, *space), without unit."""
        return (u - self.mean) / self.std

    def normalised_means(self, mean: Tensor) -> Tensor:
        """The same of means over space (B, C)."""
        return (mean - self.mean.flatten()) / self.std.flatten()

    def physical(self, u: Tensor) -> Tensor:
        """The inverse of `normalised`."""
        return u * self.std + self.mean


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
        normalise: bool = False,
        shift: bool = False,
    ) -> None:
        super().__init__()
        self.units = Units(grid.channels, len(grid.points)) if normalise else None
        self.features = LogFourierFeatures(OPERATOR_OCTAVES)
        cond_width = OPERATOR_COND_WIDTH
        self.condition = Mlp(self.features.width(parameters + 1), 2 * cond_width, cond_width)
        self.encoder = Encoder(grid, dim, width, codec_blocks)
        self.propagator = Propagator(grid.tokens, dim, width, blocks, modes, cond_width, shift=shift)
        self.decoder = Decoder(grid, dim, width, codec_blocks, conserved=conserved)

    def encode(self, u: Tensor) -> Tensor:
        """u (B, C, *space) -> z (B, S, D)."""
        z: Tensor = self.encoder(u if self.units is None else self.units.normalised(u))
        return z.float()

    def advance(self, z: Tensor, parameters: Tensor) -> Tensor:
        """z_t (B, S, D) -> z_hat_{t+1} (B, S, D)."""
        z_hat: Tensor = self.propagator(z, self.condition(self.features(parameters)))
        return z_hat

    def decode(self, z: Tensor, mean: Tensor) -> Tensor:
        """z (B, S, D), means over space (B, C) of which some are conserved -> u (B, C, *space)."""
        if self.units is None:
            u: Tensor = self.decoder(z, mean)
            return u
        return self.units.physical(self.decoder(z, self.units.normalised_means(mean)))
