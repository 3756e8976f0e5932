"""Stage consistency_distill: a student that samples the residual in few evaluations, learned from the diffusion.

The last part of its training tunes whole rollouts of the student by their CRPS, and may tune a copy of the operator
with it: what a sample is worth shows only once the forecast goes on from it.
"""

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ups_models.config.constants import PSEUDO_HUBER
from ups_models.config.schema import PipelineConfig
from ups_models.nn.codec import means_of
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.own import as_operator, unit_of
from ups_models.nn.sampling import heun_step, karras_sigmas, noise
from ups_models.nn.weights import weights_of
from ups_models.stages import diff_residual, operator
from ups_models.stages.crps import almost_fair_crps
from ups_models.stages.diff_residual import sample_pairs, whitened_residual
from ups_models.stages.operator import sample_windows
from ups_models.stages.spec import SPECS
from ups_models.stages.stage import Batch, Data, Loss, LossInput, Stage, expect, part_at

SPEC = SPECS["consistency_distill"]
SMALLEST_SQUARE = 1e-8
"""Of a field that has decayed, whose size is a unit of its error."""


def build(cfg: PipelineConfig) -> ResidualDiffusion:
    """The teacher's network, and where it is tuned too, an operator."""
    tuned = cfg.stages.consistency_distill.tunes_operator
    return diff_residual.build(cfg, operator.build(cfg) if tuned else None)


def start_from_teacher(cfg: PipelineConfig, net: nn.Module, frozen: Mapping[str, nn.Module]) -> None:
    """What is distilled starts as the teacher; what is not takes the teacher's scale alone."""
    student, teacher = expect(net, ResidualDiffusion), expect(frozen["diff_residual"], ResidualDiffusion)
    student.scale.load_state_dict(weights_of(teacher.scale))
    if cfg.stages.consistency_distill.tuned_share < 1:
        student.denoiser.load_state_dict(weights_of(teacher.denoiser))
    if student.operator is not None:
        student.operator.load_state_dict(weights_of(frozen["operator"]))


def build_loss(cfg: PipelineConfig) -> Loss:
    """`distillation_loss` on the config's grid of noise levels, then `forecast_loss`."""
    settings, net = cfg.stages.consistency_distill, cfg.denoiser
    distil = partial(distillation_loss, grid=settings.grid, sigma_max=net.sigma_max, rho=net.rho)
    tune = partial(forecast_loss, members=settings.tuned_members, sigma_max=net.sigma_max, alpha=settings.crps_alpha)
    return lambda step: (distil if _tuned(cfg, step.progress) < 0 else tune)(step)


def sample_batch(cfg: PipelineConfig, data: Data, progress: float, rng: torch.Generator) -> Batch:
    """Pairs while it distils, then windows of a growing number of steps."""
    settings, tuned = cfg.stages.consistency_distill, _tuned(cfg, progress)
    if tuned < 0:
        return sample_pairs(SPEC, cfg, data, progress, rng)
    return sample_windows(settings, data, part_at(settings.tuned_unroll, tuned), rng)


def _tuned(cfg: PipelineConfig, progress: float) -> float:
    """How much of the tuning is done, in [0, 1); negative before it begins."""
    share = cfg.stages.consistency_distill.tuned_share
    return (progress - (1 - share)) / share if share else -1.0


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


def forecast_loss(step: LossInput, *, members: int, sigma_max: float, alpha: float) -> Tensor:
    """Almost fair CRPS of rollouts of an ensemble, averaged over the unroll.

    Each member goes on from its own sample, by one evaluation of the student in each step: the gradient passes through
    all of them. The unit of an error is the geometric mean of the size of its field and of those of the batch: neither
    strong fields nor weak ones hide the others. Batch: u (B, K + 1, C, *space), parameters (B, P + 1).
    """
    student = expect(step.net, ResidualDiffusion)
    net = as_operator(student.operator if student.operator is not None else step.frozen["operator"])
    targets, scale = step.batch["u"][:, 1:], unit_of(net)
    u, parameters = (_each(members, one) for one in (step.batch["u"][:, 0], step.batch["parameters"]))
    mean, loss = means_of(u), torch.zeros((), device=u.device)
    sigma = torch.full((len(u),), sigma_max, device=u.device)

    def sample(scale: Tensor, context: Tensor) -> Tensor:
        """By one evaluation, from the highest noise level."""
        return student.consistency(sigma_max * noise(tuple(scale.shape), step.rng), sigma, context)

    for target in targets.unbind(1):
        z = net.encode(u)
        u = student.corrected(net, u, z, net.advance(z, parameters), mean, sample)
        truth = target / scale
        size = truth.flatten(1).square().mean(-1).clamp_min(SMALLEST_SQUARE).sqrt()
        error = almost_fair_crps(u.unflatten(0, (members, -1)) / scale, truth, alpha).flatten(1).mean(-1)
        loss = loss + (error / (size * size.mean()).sqrt()).mean() / targets.shape[1]
    return loss


def _each(members: int, one: Tensor) -> Tensor:
    """(B, ...) -> (M * B, ...)."""
    return one.repeat(members, *[1] * (one.ndim - 1))


STAGE = Stage(SPEC, build, build_loss, sample_batch, init_from_frozen=start_from_teacher)
