"""An equation of one's own: diffusion on a periodic line, solved exactly in Fourier modes.

data:
  problem: docs/examples/heat.py:HEAT
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ups_models import Axis, Parameter, Problem, Sampling, Solver


def initial(n: int, points: tuple[int, ...], parameters: dict[str, float], rng: np.random.Generator) -> Tensor:
    """Random waves, (N, 1, X) float64; the i-th depends on the generator's seed and on i alone."""
    x = torch.arange(points[0], dtype=torch.float64) / points[0]
    waves = [child.standard_normal((2, 4)) for child in rng.spawn(n)]
    k = 2 * math.pi * torch.arange(1, 5)[:, None] * x
    return torch.stack([torch.from_numpy(a) @ k.sin() + torch.from_numpy(b) @ k.cos() for a, b in waves])[:, None]


def solve(u0: Tensor, parameters: dict[str, float], times: Sequence[float], on_progress: object = None) -> Tensor:
    """u_t = kappa u_xx: (N, 1, X) -> (N, T, 1, X)."""
    k = 2 * math.pi * torch.arange(u0.shape[-1] // 2 + 1)
    modes = torch.fft.rfft(u0)
    return torch.stack(
        [torch.fft.irfft(modes * torch.exp(-parameters["kappa"] * k**2 * t), u0.shape[-1]) for t in times], 1
    )


HEAT = Problem(
    name="heat1d",
    channels=("u",),
    parameters=(Parameter("kappa", 0.01, low=0.0, logarithmic=True),),
    axes=(Axis("x", length=1.0),),
    sampling=Sampling(points=64, nt=11, t_end=1.0),
    solver=Solver(initial, solve),
    order=16,
    conserved=("u",),
    pattern="heat1d_kappa{}_{}.h5",
)
