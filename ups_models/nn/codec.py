"""Encoder and decoder between a periodic 1D field and its latent tokens."""

import math

import torch
from torch import Tensor, nn

from ups_models.nn.blocks import CircularConv, Mlp


class LocalBlock(nn.Module):
    """Convolution over neighbouring tokens and a channel MLP, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = CircularConv(width, width)
        self.mlp = Mlp(width, 2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        x = x + nn.functional.gelu(self.conv(x))
        out: Tensor = x + self.mlp(x)
        return out


class Encoder(nn.Module):
    """u (B, X) -> z (B, S, D): each token sees its own patch and its neighbours'.

    It starts as the lowest cosines of each patch, and the decoder as their sum: D(E(u)) = u from the first step on
    where dim reaches the patch's size, so that what is left to learn is the dynamics.
    """

    def __init__(self, points: int, tokens: int, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.lift = CircularConv(points // tokens, width)
        self.blocks = nn.Sequential(*(LocalBlock(width) for _ in range(blocks)))
        self.project = zeroed(nn.Linear(width, dim))
        self.skip = zeroed(nn.Linear(points // tokens, dim))
        with torch.no_grad():
            self.skip.weight.copy_(cosines(points // tokens, dim))

    def forward(self, u: Tensor) -> Tensor:
        """(B, X) -> (B, S, D)."""
        patches = u.unflatten(-1, (self.tokens, -1))
        out: Tensor = self.project(self.blocks(self.lift(patches))) + self.skip(patches)
        return out


class Decoder(nn.Module):
    """z (B, S, D) -> u (B, X), with a given spatial mean: the conserved quantity cannot drift."""

    def __init__(self, points: int, tokens: int, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.lift = CircularConv(dim, width)
        self.blocks = nn.Sequential(*(LocalBlock(width) for _ in range(blocks)))
        self.project = zeroed(nn.Linear(width, points // tokens))
        self.skip = CircularConv(dim, points // tokens)
        zeroed(self.skip.linear)
        with torch.no_grad():
            self.skip.linear.weight[:, dim : 2 * dim] = cosines(points // tokens, dim).T

    def forward(self, z: Tensor, mean: Tensor) -> Tensor:
        """(B, S, D), mean (B,) -> (B, X)."""
        u = (self.project(self.blocks(self.lift(z))) + self.skip(z)).flatten(-2).float()
        out: Tensor = u + (mean - u.mean(-1))[:, None]
        return out


def cosines(patch: int, dim: int) -> Tensor:
    """The `dim` lowest rows of the orthonormal DCT-II of `patch` points, (dim, patch); zero rows beyond its size."""
    k = torch.arange(dim, dtype=torch.float64)[:, None]
    rows = torch.cos(math.pi * k * (torch.arange(patch, dtype=torch.float64) + 0.5) / patch) * math.sqrt(2 / patch)
    rows[0] /= math.sqrt(2)
    rows[patch:] = 0
    return rows.float()


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The same layer, starting at zero."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
