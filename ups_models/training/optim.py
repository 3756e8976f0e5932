"""The optimiser: AdamW, its learning rate over the steps, and the bound on the gradient."""

import math

import torch
from torch import Tensor, nn

from ups_models.config.constants import ADAMW_BETAS
from ups_models.config.stages import StageConfig


def adamw(net: nn.Module, settings: StageConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters of a network, on a GPU in few kernels. Loshchilov & Hutter 2019."""
    on_gpu = all(parameter.is_cuda for parameter in net.parameters())
    return torch.optim.AdamW(
        net.parameters(), lr=settings.lr, betas=ADAMW_BETAS, weight_decay=settings.weight_decay, fused=on_gpu or None
    )


def learning_rate(settings: StageConfig, step: int) -> float:
    """Linear warm-up, then a cosine that reaches zero after the last step."""
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.total_steps))


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step, the same for every parameter."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def gradient(loss: Tensor, net: nn.Module) -> None:
    """Set the gradients of the loss."""
    net.zero_grad(set_to_none=True)
    loss.backward()


def flat_gradient(loss: Tensor, net: nn.Module) -> Tensor:
    """The gradients as one vector of real numbers, and the loss behind them, (P + 1,)."""
    gradient(loss, net)
    parts = [_real(parameter.grad).flatten() for parameter in net.parameters() if parameter.grad is not None]
    return torch.cat([*parts, loss.detach().float().view(1)])


def put_gradient(flat: Tensor, net: nn.Module) -> Tensor:
    """The inverse, into the parameters that have a gradient; returns the loss, ()."""
    owners = [parameter for parameter in net.parameters() if parameter.grad is not None]
    *parts, loss = flat.split([_real(parameter).numel() for parameter in owners] + [1])
    for parameter, part in zip(owners, parts, strict=True):
        found = part.view_as(_real(parameter))
        parameter.grad = (torch.view_as_complex(found.clone()) if parameter.is_complex() else found).to(parameter.dtype)
    total: Tensor = loss[0]
    return total


def _real(numbers: Tensor) -> Tensor:
    """Complex ones as pairs, which is how those of spectral layers are summed and sent."""
    return torch.view_as_real(numbers) if numbers.is_complex() else numbers
