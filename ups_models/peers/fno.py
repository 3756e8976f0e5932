"""The Fourier neural operator of the neuraloperator library, from one field to the next. Li et al. 2021."""

import torch
from neuralop.models import FNO
from torch import Tensor

from ups_models import OneStep, Shapes


class Net(OneStep):
    """u_{t+1} = u_t + FNO(u_t, parameters)."""

    def __init__(self, shapes: Shapes, modes: int, width: int, layers: int) -> None:
        super().__init__(shapes)
        channels, *space = shapes.fields
        kept = tuple(min(modes, size // 2) for size in space)
        self.net = FNO(kept, channels + shapes.parameters, channels, width, n_layers=layers)

    def step(self, u: Tensor, parameters: Tensor) -> Tensor:
        """(B, C, *space), (B, P + 1) -> (B, C, *space)."""
        known = parameters.view(*parameters.shape, *[1] * (u.ndim - 2)).expand(-1, -1, *u.shape[2:])
        found: Tensor = self.net(torch.cat([u, known], 1))
        return u + found
