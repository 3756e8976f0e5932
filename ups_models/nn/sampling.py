"""Samplers: from noise to a sample, given a network's denoiser, consistency function or velocity."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), sigma (B,)) -> (B, ...)."""
Draw = Callable[[tuple[int, ...]], Tensor]
"""Standard normal numbers of a shape."""


def noise(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Standard normal numbers on the generator's device."""
    return torch.randn(shape, generator=rng, device=rng.device)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """`steps` noise levels falling from sigma_max to sigma_min, (steps,). Karras et al. 2022, eq. 5."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas: Tensor = (high + ramp * (low - high)) ** rho
    return sigmas.float()


def heun_step(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One second-order step of dx/dsigma = (x - D(x; sigma)) / sigma. Karras et al. 2022, algorithm 1.

    x (B, ...), sigma and sigma_next (B,) with sigma_next > 0.
    """
    shape = (-1,) + (1,) * (x.dim() - 1)
    slope = (x - denoise(x, sigma)) / sigma.view(shape)
    guess = x + (sigma_next - sigma).view(shape) * slope
    slope_next = (guess - denoise(guess, sigma_next)) / sigma_next.view(shape)
    return x + (sigma_next - sigma).view(shape) * (slope + slope_next) / 2


def sample_edm(denoise: Denoise, start: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's sampler from standard normal `start` (B, ...): 2 n - 1 evaluations for n noise levels.

    The last step goes to sigma = 0, where the denoiser itself is the answer. Karras et al. 2022, algorithm 1.
    """
    levels = sigmas.to(start.device)
    x = start * levels[0]
    for sigma, sigma_next in pairwise(levels):
        x = heun_step(denoise, x, sigma.expand(len(x)), sigma_next.expand(len(x)))
    return denoise(x, levels[-1].expand(len(x)))


def sample_consistency(consistency: Denoise, start: Tensor, sigmas: Tensor, sigma_min: float, draw: Draw) -> Tensor:
    """Multistep consistency sampling: one evaluation for each of `sigmas`. Song et al. 2023, algorithm 1.

    `sigmas` (n,) fall from sigma_max; between evaluations the sample, which is at sigma_min, is noised again.
    """
    levels = sigmas.to(start.device)
    x = consistency(start * levels[0], levels[0].expand(len(start)))
    for sigma in levels[1:]:
        added = (sigma**2 - sigma_min**2).clamp_min(0).sqrt()
        x = consistency(x + added * draw(tuple(x.shape)), sigma.expand(len(x)))
    return x


def sample_flow(velocity: Denoise, start: Tensor, steps: int) -> Tensor:
    """Euler steps of dx/dt = v(x, t) from noise at t = 0 to data at t = 1. Lipman et al. 2023, eq. 1."""
    x = start
    for step in range(steps):
        t = torch.full((len(x),), step / steps, device=x.device)
        x = x + velocity(x, t) / steps
    return x
