"""The four stages, each a row of one table: what it builds, learns from, needs and leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ups_models.config.schema import PipelineConfig
from ups_models.data.batches import steady_batch, window_batch
from ups_models.data.fields import SteadyFields, Trajectories
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.nn.prior import SteadyPrior
from ups_models.stages.losses import Batch, Loss, diffusion_loss, distillation_loss, flow_matching_loss, operator_loss
from ups_models.stages.spec import SPECS, StageSpec

Data = Trajectories | SteadyFields


@dataclass(frozen=True)
class Stage:
    """One stage of training: its spec, and how its network, loss and batches are made."""

    spec: StageSpec
    build: Callable[[PipelineConfig], nn.Module]
    loss: Callable[[PipelineConfig], Loss]
    batch: Callable[[PipelineConfig, Data, float, torch.Generator], Batch]
    init_from_data: Callable[[nn.Module, Data], None] | None = None

    @property
    def name(self) -> str:
        """The stage's name, as in the status file."""
        return self.spec.name


def build_operator(cfg: PipelineConfig) -> LatentOperator:
    """The latent operator of a config."""
    net = cfg.operator
    return LatentOperator(
        points=cfg.data.points,
        tokens=cfg.latent.tokens,
        dim=cfg.latent.dim,
        width=net.width,
        blocks=net.blocks,
        modes=net.modes,
        codec_blocks=net.codec_blocks,
    )


def build_diffusion(cfg: PipelineConfig) -> ResidualDiffusion:
    """The residual's scale and denoiser: teacher and student alike."""
    net = cfg.denoiser
    return ResidualDiffusion(
        tokens=cfg.latent.tokens,
        dim=cfg.latent.dim,
        width=net.width,
        blocks=net.blocks,
        modes=net.modes,
        scale_groups=net.scale_groups,
        sigma_min=net.sigma_min,
    )


def build_prior(cfg: PipelineConfig) -> SteadyPrior:
    """The steady prior of a config."""
    return SteadyPrior(size=cfg.steady_data.size, channels=cfg.prior.channels, levels=cfg.prior.levels)


def unroll_at(cfg: PipelineConfig, progress: float) -> int:
    """Unrolled steps K at this progress in [0, 1): the parts of the curriculum are equally long."""
    unroll = cfg.stages.operator.unroll
    return unroll[min(int(progress * len(unroll)), len(unroll) - 1)]


def _operator_batch(cfg: PipelineConfig, data: Data, progress: float, rng: torch.Generator) -> Batch:
    settings, unroll = cfg.stages.operator, unroll_at(cfg, progress)
    size = max(settings.batch_size // unroll, min(settings.min_batch_size, settings.batch_size))
    return window_batch(_trajectories(data), rng, size=size, length=unroll + 1, initial_fraction=settings.initial_share)


def _pair_batch(name: str, cfg: PipelineConfig, data: Data, progress: float, rng: torch.Generator) -> Batch:
    size = SPECS[name].settings(cfg).batch_size
    return window_batch(_trajectories(data), rng, size=size, length=2)


def _steady_batch(cfg: PipelineConfig, data: Data, progress: float, rng: torch.Generator) -> Batch:
    return steady_batch(_steady(data), rng, size=cfg.stages.steady_prior.batch_size)


def _operator_loss(cfg: PipelineConfig) -> Loss:
    settings = cfg.stages.operator
    return partial(
        operator_loss,
        reencode_every=cfg.operator.reencode_every,
        reconstruction=settings.reconstruction_weight,
        consistency=settings.consistency_weight,
    )


def _diffusion_loss(cfg: PipelineConfig) -> Loss:
    settings = cfg.stages.diff_residual
    return partial(
        diffusion_loss,
        log_mean=settings.sigma_log_mean,
        log_std=settings.sigma_log_std,
        scale_warmup=settings.scale_warmup,
    )


def _distillation_loss(cfg: PipelineConfig) -> Loss:
    return partial(
        distillation_loss,
        grid=cfg.stages.consistency_distill.grid,
        sigma_max=cfg.denoiser.sigma_max,
        rho=cfg.denoiser.rho,
    )


def _flow_matching_loss(cfg: PipelineConfig) -> Loss:
    return partial(flow_matching_loss, hide_coefficient=cfg.stages.steady_prior.hide_coefficient)


def _fit_normaliser(net: nn.Module, data: Data) -> None:
    steady = _steady(data)
    unit = net.get_buffer("unit")
    unit.copy_((steady.u / steady.beta[:, None, None]).std())


def _trajectories(data: Data) -> Trajectories:
    if not isinstance(data, Trajectories):
        raise TypeError("this stage learns from trajectories, not from steady states")
    return data


def _steady(data: Data) -> SteadyFields:
    if not isinstance(data, SteadyFields):
        raise TypeError("this stage learns from steady states, not from trajectories")
    return data


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(SPECS["operator"], build_operator, _operator_loss, _operator_batch),
        Stage(SPECS["diff_residual"], build_diffusion, _diffusion_loss, partial(_pair_batch, "diff_residual")),
        Stage(
            SPECS["consistency_distill"],
            build_diffusion,
            _distillation_loss,
            partial(_pair_batch, "consistency_distill"),
        ),
        Stage(SPECS["steady_prior"], build_prior, _flow_matching_loss, _steady_batch, init_from_data=_fit_normaliser),
    )
}
