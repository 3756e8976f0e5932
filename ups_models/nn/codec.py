"""Encoder and decoder between fields on a grid and their latent tokens."""

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ups_models.nn.blocks import Mlp, NeighbourConv, TokenGrid
from ups_models.problems.spectral import dct

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class FieldGrid:
    """What fields a codec takes: (B, C, *points), and the tokens that they become, which divide the points."""

    channels: int
    points: tuple[int, ...]
    tokens: TokenGrid

    @property
    def patch(self) -> tuple[int, ...]:
        """Points of one token along each axis."""
        return tuple(points // tokens for points, tokens in zip(self.points, self.tokens.shape, strict=True))

    @property
    def values(self) -> int:
        """Numbers in a patch, of all channels."""
        return self.channels * math.prod(self.patch)

    def to_patches(self, u: Tensor) -> Tensor:
        """(B, C, *points) -> (B, S, values)."""
        for axis, size in enumerate(self.tokens.shape):
            u = u.unflatten(2 + 2 * axis, (size, -1))
        dimensions = len(self.points)
        tokens, inside = range(2, 2 + 2 * dimensions, 2), range(3, 3 + 2 * dimensions, 2)
        return u.permute(0, *tokens, 1, *inside).reshape(u.shape[0], self.tokens.size, self.values)

    def to_fields(self, patches: Tensor) -> Tensor:
        """The inverse."""
        dimensions = len(self.points)
        u = patches.reshape(patches.shape[0], *self.tokens.shape, self.channels, *self.patch)
        order = [
            axis
            for pair in zip(range(1, 1 + dimensions), range(2 + dimensions, 2 + 2 * dimensions), strict=True)
            for axis in pair
        ]
        return u.permute(0, 1 + dimensions, *order).reshape(patches.shape[0], self.channels, *self.points)


class LocalBlock(nn.Module):
    """Convolution over neighbouring tokens and a channel MLP, residual."""

    def __init__(self, width: int, grid: TokenGrid) -> None:
        super().__init__()
        self.conv = NeighbourConv(width, width, grid)
        self.mlp = Mlp(width, 2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        x = x + nn.functional.gelu(self.conv(x))
        out: Tensor = x + self.mlp(x)
        return out


class Encoder(nn.Module):
    """u (B, C, *points) -> z (B, S, D): each token sees its own patch and its neighbours'.

    It starts as the lowest cosines of each patch, and the decoder as their sum: D(E(u)) = u from the first step on
    where dim reaches the patch's size, so that what is left to learn is the dynamics.
    """

    def __init__(self, grid: FieldGrid, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.grid = grid
        self.lift = NeighbourConv(grid.values, width, grid.tokens)
        self.blocks = nn.Sequential(*(LocalBlock(width, grid.tokens) for _ in range(blocks)))
        self.project = zeroed(nn.Linear(width, dim))
        self.skip = zeroed(nn.Linear(grid.values, dim))
        with torch.no_grad():
            self.skip.weight.copy_(cosines(grid, dim))

    def forward(self, u: Tensor) -> Tensor:
        """(B, C, *points) -> (B, S, D)."""
        patches = self.grid.to_patches(u)
        out: Tensor = self.project(self.blocks(self.lift(patches))) + in_float32(self.skip, patches)
        return out


class Decoder(nn.Module):
    """z (B, S, D) -> u (B, C, *points), with given means of the conserved channels: they cannot drift."""

    conserved: Tensor

    def __init__(self, grid: FieldGrid, dim: int, width: int, blocks: int, *, conserved: tuple[bool, ...]) -> None:
        super().__init__()
        self.grid = grid
        self.lift = NeighbourConv(dim, width, grid.tokens)
        self.blocks = nn.Sequential(*(LocalBlock(width, grid.tokens) for _ in range(blocks)))
        self.project = zeroed(nn.Linear(width, grid.values))
        self.skip = NeighbourConv(dim, grid.values, grid.tokens)
        zeroed(self.skip.linear)
        self.register_buffer("conserved", torch.tensor(conserved), persistent=False)
        own = 3 ** len(grid.points) // 2
        with torch.no_grad():
            self.skip.linear.weight[:, own * dim : (own + 1) * dim] = cosines(grid, dim).T

    def forward(self, z: Tensor, mean: Tensor) -> Tensor:
        """(B, S, D), mean (B, C) -> (B, C, *points)."""
        u = self.grid.to_fields(self.project(self.blocks(self.lift(z))) + in_float32(self.skip, z)).float()
        return with_means(u, mean, self.conserved)


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer without autocast: bfloat16 keeps three digits, and the skip path carries the field itself."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = layer(x.float() if x.dtype == torch.bfloat16 else x)
        return out


def means_of(u: Tensor) -> Tensor:
    """The mean over space of every channel: (B, C, *points) -> (B, C)."""
    return u.flatten(2).mean(-1)


def with_means(u: Tensor, mean: Tensor | float, conserved: Tensor) -> Tensor:
    """u (B, C, *points) moved to the means (B, C) in the channels that are `conserved` (C,)."""
    missing = torch.where(conserved, mean - means_of(u), 0.0)
    moved: Tensor = u + missing.view(*missing.shape, *[1] * (u.ndim - missing.ndim))
    return moved


def cosines(grid: FieldGrid, dim: int) -> Tensor:
    """The `dim` smoothest functions of a patch, orthonormal: (dim, values); zero rows beyond their number.

    Products of cosines (DCT-II), by the sum of their squared frequencies; those of one frequency channel by channel.
    """
    rows, roughness = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for size in grid.patch:
        rows = torch.kron(rows, dct(size))
        roughness = (roughness[:, None] + torch.arange(size, dtype=torch.float64).square()).flatten()
    order = roughness.argsort(stable=True)
    each = torch.einsum("kp,cd->kcdp", rows[order], torch.eye(grid.channels, dtype=torch.float64))
    functions = each.reshape(-1, grid.values)[:dim]
    padded = torch.zeros(dim, grid.values, dtype=torch.float64)
    padded[: len(functions)] = functions
    return padded.float()


def zeroed(layer: Layer) -> Layer:
    """The same layer, starting at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
