"""The four losses: pure functions of a StepInput, each with the source of its formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.nn.prior import SteadyPrior
from ups_models.nn.sampling import heun_step, karras_sigmas, noise

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class LossInput:
    """All that a loss may depend on."""

    net: nn.Module
    target_ema: nn.Module
    frozen: Mapping[str, nn.Module]
    batch: Batch
    progress: float
    rng: torch.Generator


Loss = Callable[[LossInput], Tensor]


def relative_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """|prediction - target| / |target| over the last axis, averaged over the rest."""
    error = (prediction - target).square().mean(-1)
    return (error / target.square().mean(-1).clamp_min(1e-8)).sqrt().mean()


def operator_loss(step: LossInput, *, reencode_every: int, reconstruction: float, consistency: float) -> Tensor:
    """Mean over the unroll of |D(P^k E(u_t)) - u_{t+k}|, relative, with two regularisers of the latent space.

    The inverse encoding |D(E(u)) - u| is UPT's (Alkin et al. 2024, sec. 3.2); the latent consistency
    |P^k E(u_t) - sg E(u_{t+k})|^2 / var is LE-PDE's (Wu et al. 2022, eq. 5), its target without gradient so that
    the latent space cannot collapse. The unroll encodes its own prediction again as a rollout will.
    Batch: u (B, K + 1, X), parameters (B, 2).
    """
    net = _is(step.net, LatentOperator)
    u, parameters = step.batch["u"], step.batch["parameters"]
    mean, unroll = u[:, 0].mean(-1), u.shape[1] - 1
    z = net.encode(u[:, 0])
    loss = reconstruction * relative_l2(net.decode(z, mean), u[:, 0])
    with torch.no_grad():
        targets = net.encode(u[:, 1:].flatten(0, 1)).unflatten(0, (-1, unroll))
        variance = targets.var() + 1e-6
    for k in range(unroll):
        z = net.advance(z, parameters)
        u_hat = net.decode(z, mean)
        drift = (z - targets[:, k]).square().mean() / variance
        loss = loss + (relative_l2(u_hat, u[:, k + 1]) + consistency * drift) / unroll
        if reencode_every and (k + 1) % reencode_every == 0:
            z = net.encode(u_hat)
    return loss


def whitened_residual(
    operator: LatentOperator, diffusion: ResidualDiffusion, batch: Batch
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, z_hat = P(z), scale s and x_0 = r / s with r = E(u_{t+1}) - E(D(z_hat)), all (B, S, D).

    The prediction is decoded and encoded before it is compared, so that r holds the error of the prediction and not
    that of the encoding, which is the same on both sides (docs/adr/0002).
    """
    now, target = batch["u"][:, 0], batch["u"][:, 1]
    # a difference of near neighbours: bfloat16 would keep three digits of each side and none of their difference
    with torch.no_grad(), torch.autocast(now.device.type, enabled=False):
        z = operator.encode(now)
        z_hat = operator.advance(z, batch["parameters"])
        residual = operator.encode(target) - operator.encode(operator.decode(z_hat, now.mean(-1)))
    scale = diffusion.scale(z, z_hat)
    return z, z_hat, scale, residual / scale


def diffusion_loss(step: LossInput, *, log_mean: float, log_std: float, scale_warmup: float) -> Tensor:
    """Gaussian likelihood for the scale, then EDM's denoising error of the whitened residual beside it.

    (sigma^2 + 1) / sigma^2 |D(x_0 + sigma n; sigma) - x_0|^2 with ln sigma ~ N(log_mean, log_std^2):
    Karras et al. 2022, eq. 108 and table 1 with sigma_data = 1. The denoiser never moves the scale.
    Batch: u (B, 2, X), parameters (B, 2).
    """
    net = _is(step.net, ResidualDiffusion)
    z, z_hat, scale, x0 = whitened_residual(_is(step.frozen["operator"], LatentOperator), net, step.batch)
    likelihood = (0.5 * x0.square() + scale.log()).mean()
    if step.progress < scale_warmup:
        return likelihood
    clean = x0.detach()
    sigma = (log_mean + log_std * noise((len(clean),), step.rng)).exp()
    noisy = clean + sigma[:, None, None] * noise(tuple(clean.shape), step.rng)
    error = (net.denoise(noisy, sigma, net.context(z, z_hat)) - clean).square().mean((1, 2))
    return likelihood + ((sigma**2 + 1) / sigma**2 * error).mean()


def distillation_loss(step: LossInput, *, grid: int, sigma_max: float, rho: float) -> Tensor:
    """Consistency distillation: f(x_i, sigma_i) against f_EMA one teacher's Heun step closer to the data.

    Song et al. 2023, eq. 7 and algorithm 2, on Karras' grid of `grid` levels; the distance is the pseudo-Huber one,
    sqrt(|d|^2 + c^2) - c with c = 0.00054 sqrt(dim), of Song & Dhariwal 2024, eq. 7.
    Batch: u (B, 2, X), parameters (B, 2).
    """
    student, target = _is(step.net, ResidualDiffusion), _is(step.target_ema, ResidualDiffusion)
    teacher = _is(step.frozen["diff_residual"], ResidualDiffusion)
    with torch.no_grad():
        z, z_hat, _, x0 = whitened_residual(_is(step.frozen["operator"], LatentOperator), teacher, step.batch)
        context = teacher.context(z, z_hat)
        sigmas = karras_sigmas(grid, student.sigma_min, sigma_max, rho).to(x0.device)
        level = torch.randint(grid - 1, (len(x0),), generator=step.rng, device=x0.device)
        sigma, sigma_next = sigmas[level], sigmas[level + 1]
        x = x0 + sigma[:, None, None] * noise(tuple(x0.shape), step.rng)
        closer = heun_step(lambda y, s: teacher.denoise(y, s, context), x, sigma, sigma_next)
        answer = target.consistency(closer, sigma_next, context)
    distance = (student.consistency(x, sigma, context) - answer).square().flatten(1).sum(-1)
    c = 0.00054 * math.sqrt(x0[0].numel())
    return ((distance + c**2).sqrt() - c).mean()


def flow_matching_loss(step: LossInput, *, hide_coefficient: float) -> Tensor:
    """|v(x_t, t; a) - (u - n)|^2 on x_t = (1 - t) n + t u. Lipman et al. 2023, eq. 23 with sigma_min = 0.

    The coefficient is hidden from a share of the samples (classifier-free training, Ho & Salimans 2022), which
    leaves the unconditional prior available. Batch: a (B, H, W), u (B, H, W), beta (B,).
    """
    net = _is(step.net, SteadyPrior)
    u = step.batch["u"] / (net.unit * step.batch["beta"][:, None, None])
    t = torch.rand(len(u), generator=step.rng, device=u.device)
    start = noise(tuple(u.shape), step.rng)
    x = torch.lerp(start, u, t[:, None, None])
    known = (torch.rand(len(u), generator=step.rng, device=u.device) >= hide_coefficient).float()
    velocity: Tensor = net(x, t, step.batch["a"], known)
    return (velocity - (u - start)).square().mean()


N = TypeVar("N", bound=nn.Module)


def _is(net: nn.Module, kind: type[N]) -> N:
    if not isinstance(net, kind):
        raise TypeError(f"this loss needs a {kind.__name__}, got a {type(net).__name__}")
    return net
