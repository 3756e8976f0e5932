"""The exponential moving average of a network's weights."""

import copy

import torch
from torch import nn

from ups_models.config.constants import EMA_WARMUP


def ema_copy(net: nn.Module) -> nn.Module:
    """A frozen copy of `net` that will follow it."""
    average = copy.deepcopy(net)
    return average.requires_grad_(False).eval()


@torch.no_grad()
def ema_update(average: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `net`; the decay is shorter at the start, so that early noise is forgotten.

    decay_t = min(decay, (1 + t) / (EMA_WARMUP + t)), the warm-up of tf.train.ExponentialMovingAverage.
    """
    weight = 1 - min(decay, (1 + step) / (EMA_WARMUP + step))
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), weight)
    for kept, current in zip(average.buffers(), net.buffers(), strict=True):
        kept.copy_(current)
