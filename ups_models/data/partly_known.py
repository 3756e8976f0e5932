"""Coefficients of which only a part is known: the state that follows is then a distribution, not a point."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ups_models.config.data import KnownConfig
from ups_models.data.fields import SteadyFields

NOTHING = 10**-0.5
"""What a square has of which nothing is known: the middle of the logarithms, where no coefficient lies."""


def as_known(fields: SteadyFields, known: KnownConfig) -> SteadyFields:
    """The same states with coefficients as far as they are known; what is drawn depends on the row alone."""
    if known.is_whole:
        return fields
    shown = [_shown(a, known, int(row)) for a, row in zip(fields.a, fields.row, strict=True)]
    return replace(fields, a=torch.stack(shown))


def _shown(a: Tensor, known: KnownConfig, row: int) -> Tensor:
    """(H, W) -> (H, W): means of squares, some of them wrong by a factor, some hidden."""
    rng = torch.Generator().manual_seed(row)
    squares = functional.avg_pool2d(a[None, None], known.coarse)[0, 0]
    squares = squares * (known.noise * torch.randn(squares.shape, generator=rng)).exp()
    hidden = torch.rand(squares.shape, generator=rng) < known.hidden
    squares = torch.where(hidden, NOTHING, squares)
    return squares.repeat_interleave(known.coarse, 0).repeat_interleave(known.coarse, 1)
