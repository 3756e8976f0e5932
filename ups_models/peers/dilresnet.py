"""A dilated residual network, from one field to the next. Stachenfeld et al. 2022."""

import torch
from torch import Tensor, nn

from ups_models import OneStep, Shapes
from ups_models.nn.codec import zeroed
from ups_models.nn.padding import PaddedConv

DILATIONS = (1, 2, 4, 8, 4, 2, 1)


class Net(OneStep):
    """u_{t+1} = u_t + R(u_t, parameters), in blocks of seven convolutions that reach further and further, and back."""

    def __init__(self, shapes: Shapes, width: int, blocks: int) -> None:
        super().__init__(shapes)
        channels, *space = shapes.fields
        periodic = shapes.grid.tokens.periodic
        self.lift = PaddedConv(channels + shapes.parameters, width, periodic)
        self.blocks = nn.ModuleList(
            nn.ModuleList(PaddedConv(width, width, periodic, dilation) for dilation in DILATIONS) for _ in range(blocks)
        )
        self.project = zeroed((nn.Conv1d, nn.Conv2d)[len(space) - 1](width, channels, 1))

    def step(self, u: Tensor, parameters: Tensor) -> Tensor:
        """(B, C, *space), (B, P + 1) -> (B, C, *space)."""
        known = parameters.view(*parameters.shape, *[1] * (u.ndim - 2)).expand(-1, -1, *u.shape[2:])
        x = self.lift(torch.cat([u, known], 1))
        for block in self.blocks:
            y = x
            for conv in block.children():
                y = conv(nn.functional.relu(y))
            x = x + y
        found: Tensor = self.project(x)
        return u + found
