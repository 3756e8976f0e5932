"""A U-Net, from one field to the next. Ronneberger et al. 2015; residual blocks as in Gupta & Brandstetter 2022."""

import torch
from torch import Tensor, nn

from ups_models import OneStep, Shapes
from ups_models.nn.codec import zeroed
from ups_models.nn.padding import PaddedConv


class Net(OneStep):
    """u_{t+1} = u_t + U(u_t, parameters), with channels that double as the grid is halved."""

    def __init__(self, shapes: Shapes, width: int, levels: int) -> None:
        super().__init__(shapes)
        channels, *space = shapes.fields
        self.periodic = shapes.grid.tokens.periodic
        dimensions, widths = len(space), [width * 2**level for level in range(levels)]
        self.lift = PaddedConv(channels + shapes.parameters, width, self.periodic)
        self.down = nn.ModuleList(_Block(one, self.periodic) for one in widths)
        self.shrink = nn.ModuleList(_conv(dimensions)(one, 2 * one, 2, stride=2) for one in widths[:-1])
        self.grow = nn.ModuleList(
            _conv(dimensions, transposed=True)(2 * one, one, 2, stride=2) for one in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(_conv(dimensions)(2 * one, one, 1) for one in reversed(widths[:-1]))
        self.up = nn.ModuleList(_Block(one, self.periodic) for one in reversed(widths[:-1]))
        self.project = zeroed(_conv(dimensions)(width, channels, 1))

    def step(self, u: Tensor, parameters: Tensor) -> Tensor:
        """(B, C, *space), (B, P + 1) -> (B, C, *space)."""
        known = parameters.view(*parameters.shape, *[1] * (u.ndim - 2)).expand(-1, -1, *u.shape[2:])
        x, kept = self.lift(torch.cat([u, known], 1)), []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.shrink):
                kept.append(x)
                x = self.shrink[level](x)
        for grow, merge, block in zip(self.grow, self.merge, self.up, strict=True):
            x = block(merge(torch.cat([grow(x), kept.pop()], 1)))
        found: Tensor = self.project(x)
        return u + found


class _Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.first, self.second = PaddedConv(width, width, periodic), PaddedConv(width, width, periodic)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(nn.functional.gelu(self.first(nn.functional.gelu(x))))
        return x + found


def _conv(dimensions: int, *, transposed: bool = False) -> type[nn.Module]:
    kinds: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d)
    turned: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d)
    return (turned if transposed else kinds)[dimensions - 1]
