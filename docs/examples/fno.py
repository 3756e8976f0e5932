"""The Fourier neural operator of the neuraloperator library as the operator of a run (pip install ups-pipeline[fno]).

operator:
  network: docs/examples/fno.py:Net
  options: {modes: 12, width: 32, layers: 4}
"""

import torch
from neuralop.models import FNO
from torch import Tensor

from ups_models import OneStep, Shapes


class Net(OneStep):
    """u_{t+1} = u_t + FNO(u_t, parameters); Li et al. 2021."""

    def __init__(self, shapes: Shapes, modes: int = 12, width: int = 32, layers: int = 4) -> None:
        super().__init__(shapes)
        channels, *space = shapes.fields
        self.net = FNO((modes,) * len(space), channels + shapes.parameters, channels, width, n_layers=layers)

    def step(self, u: Tensor, parameters: Tensor) -> Tensor:
        known = parameters.view(*parameters.shape, *[1] * (u.ndim - 2)).expand(-1, -1, *u.shape[2:])
        return u + self.net(torch.cat([u, known], 1))
