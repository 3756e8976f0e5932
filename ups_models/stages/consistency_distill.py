"""Stage consistency_distill: a student that samples the residual in few evaluations, learned from the diffusion."""

import math
from functools import partial

import torch
from torch import Tensor

from ups_models.config.constants import PSEUDO_HUBER
from ups_models.config.schema import PipelineConfig
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.own import as_operator
from ups_models.nn.sampling import heun_step, karras_sigmas, noise
from ups_models.stages.diff_residual import build, sample_pairs, whitened_residual
from ups_models.stages.spec import SPECS
from ups_models.stages.stage import Loss, LossInput, Stage, expect

SPEC = SPECS["consistency_distill"]


def build_loss(cfg: PipelineConfig) -> Loss:
    """`distillation_loss` on the config's grid of noise levels."""
    return partial(
        distillation_loss,
        grid=cfg.stages.consistency_distill.grid,
        sigma_max=cfg.denoiser.sigma_max,
        rho=cfg.denoiser.rho,
    )


def distillation_loss(step: LossInput, *, grid: int, sigma_max: float, rho: float) -> Tensor:
    """Consistency distillation: f(x_i, sigma_i) against f_EMA one teacher's Heun step closer to the data.

    Song et al. 2023, eq. 7 and algorithm 2, on Karras' grid of `grid` levels; the distance is the pseudo-Huber one,
    sqrt(|d|^2 + c^2) - c with c = PSEUDO_HUBER sqrt(dim), of Song & Dhariwal 2024, eq. 7.
    Batch: u (B, 2, C, *space), parameters (B, P + 1).
    """
    student, target = expect(step.net, ResidualDiffusion), expect(step.target_ema, ResidualDiffusion)
    teacher = expect(step.frozen["diff_residual"], ResidualDiffusion)
    with torch.no_grad():
        known, _, x0 = whitened_residual(as_operator(step.frozen["operator"]), teacher, step.batch)
        context = teacher.context(*known)
        sigmas = karras_sigmas(grid, student.sigma_min, sigma_max, rho).to(x0.device)
        level = torch.randint(grid - 1, (len(x0),), generator=step.rng, device=x0.device)
        sigma, sigma_next = sigmas[level], sigmas[level + 1]
        x = x0 + sigma[:, None, None] * noise(tuple(x0.shape), step.rng)
        closer = heun_step(lambda y, s: teacher.denoise(y, s, context), x, sigma, sigma_next)
        answer = target.consistency(closer, sigma_next, context)
    distance = (student.consistency(x, sigma, context) - answer).square().flatten(1).sum(-1)
    c = PSEUDO_HUBER * math.sqrt(x0[0].numel())
    return ((distance + c**2).sqrt() - c).mean()


STAGE = Stage(SPEC, build, build_loss, partial(sample_pairs, SPEC))
