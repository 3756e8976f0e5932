"""The optimiser: AdamW, its learning rate over the steps, and the bound on the gradient."""

import math

import torch
from torch import Tensor, nn

from ups_models.config.constants import ADAMW_BETAS
from ups_models.config.schema import StageConfig


def adamw(net: nn.Module, settings: StageConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters of a network. Loshchilov & Hutter 2019."""
    return torch.optim.AdamW(net.parameters(), lr=settings.lr, betas=ADAMW_BETAS, weight_decay=settings.weight_decay)


def learning_rate(settings: StageConfig, step: int) -> float:
    """Linear warm-up, then a cosine that reaches zero after the last step."""
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.total_steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step, the same for every parameter."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def backpropagate(loss: Tensor, net: nn.Module, optimiser: torch.optim.Optimizer, *, largest_norm: float) -> Tensor:
    """Gradients of the loss, scaled down to the largest norm; returns their norm before, ()."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    return nn.utils.clip_grad_norm_(net.parameters(), largest_norm)
