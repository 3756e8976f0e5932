"""Stage diff_residual: the scale of the operator's residual, and a diffusion of the whitened residual."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig
from ups_models.data.batches import window_batch
from ups_models.data.fields import Fields
from ups_models.nn.codec import means_of
from ups_models.nn.denoiser import ResidualDiffusion, context_width
from ups_models.nn.own import Operator, as_operator, own_denoiser
from ups_models.nn.residual import FieldResidual, LatentResidual
from ups_models.nn.sampling import noise
from ups_models.stages.spec import SPECS, StageSpec
from ups_models.stages.stage import Batch, Data, Loss, LossInput, Stage, expect, shapes_of, token_grid

SPEC = SPECS["diff_residual"]


def build(cfg: PipelineConfig, operator: nn.Module | None = None) -> ResidualDiffusion:
    """The residual's scale and denoiser: teacher and student alike, and what operator of its own it has."""
    net, shapes = cfg.denoiser, shapes_of(cfg)
    space = FieldResidual(shapes.grid, shapes.conserved) if net.residual == "field" else LatentResidual(shapes.dim)
    seen = context_width(shapes.dim, space)
    own = None
    if net.network is not None:
        own = own_denoiser(net.network, net.options, shapes, residual=space.dim, seen=seen)
    return ResidualDiffusion(
        denoiser=own,
        space=space,
        grid=token_grid(cfg),
        dim=cfg.latent.dim,
        width=net.width,
        blocks=net.blocks,
        modes=net.modes,
        scale_groups=net.scale_groups,
        sigma_min=net.sigma_min,
        operator=operator,
    )


def build_loss(cfg: PipelineConfig) -> Loss:
    """`diff_residual_loss` with the config's noise levels."""
    settings = cfg.stages.diff_residual
    return partial(
        diff_residual_loss,
        log_mean=settings.sigma_log_mean,
        log_std=settings.sigma_log_std,
        scale_warmup=settings.scale_warmup,
    )


def sample_pairs(spec: StageSpec, cfg: PipelineConfig, data: Data, progress: float, rng: torch.Generator) -> Batch:
    """Pairs (u_t, u_{t+1}), as many as the stage's batch size: the same at all progress."""
    return window_batch(expect(data, Fields), rng, size=cfg.stages.of(spec.name).batch_size, length=2)


def diff_residual_loss(step: LossInput, *, log_mean: float, log_std: float, scale_warmup: float) -> Tensor:
    """Gaussian likelihood for the scale, then EDM's denoising error of the whitened residual beside it.

    (sigma^2 + 1) / sigma^2 |D(x_0 + sigma n; sigma) - x_0|^2 with ln sigma ~ N(log_mean, log_std^2):
    Karras et al. 2022, eq. 108 and table 1 with sigma_data = 1. The denoiser never moves the scale.
    Batch: u (B, 2, C, *space), parameters (B, P + 1).
    """
    net = expect(step.net, ResidualDiffusion)
    known, scale, x0 = whitened_residual(as_operator(step.frozen["operator"]), net, step.batch)
    likelihood = (0.5 * x0.square() + scale.log()).mean()
    if step.progress < scale_warmup:
        return likelihood
    clean = x0.detach()
    sigma = (log_mean + log_std * noise((len(clean),), step.rng)).exp()
    noisy = clean + sigma[:, None, None] * noise(tuple(clean.shape), step.rng)
    error = (net.denoise(noisy, sigma, net.context(*known)) - clean).square().mean((1, 2))
    return likelihood + ((sigma**2 + 1) / sigma**2 * error).mean()


class Known(NamedTuple):
    """What a step begins from: z and z_hat = P(z) (B, S, D), and what of u_t they do not hold (B, S, unseen)."""

    z: Tensor
    z_hat: Tensor
    lost: Tensor


def whitened_residual(operator: Operator, diffusion: ResidualDiffusion, batch: Batch) -> tuple[Known, Tensor, Tensor]:
    """What is known, the scale s, and x_0 = r / s (B, S, R) with r as its space has it."""
    now, target = batch["u"][:, 0], batch["u"][:, 1]
    mean = means_of(now)
    # a difference of near neighbours: bfloat16 would keep three digits of each side and none of their difference
    with torch.no_grad(), torch.autocast(now.device.type, enabled=False):
        z = operator.encode(now)
        z_hat = operator.advance(z, batch["parameters"])
        residual = diffusion.space.residual(operator, z_hat, target, mean)
        lost = diffusion.space.lost(operator, now, z, mean)
    scale = diffusion.scale(z, z_hat)
    return Known(z, z_hat, lost), scale, residual / scale


STAGE = Stage(SPEC, build, build_loss, partial(sample_pairs, SPEC))
