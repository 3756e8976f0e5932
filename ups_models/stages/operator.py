"""Stage operator: encoder, propagator and decoder, trained on unrolls that grow."""

from functools import partial

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig
from ups_models.config.stages import UnrolledStageConfig
from ups_models.data.batches import window_batch
from ups_models.data.fields import Fields
from ups_models.nn.codec import means_of
from ups_models.nn.operator import LatentOperator
from ups_models.nn.own import as_operator, own_operator, unit_of
from ups_models.stages.spec import SPECS
from ups_models.stages.stage import Batch, Data, Loss, LossInput, Stage, expect, part_at, shapes_of

SMALLEST_RATIO = 1e-20
UNITS_FROM = 256
"""So many trajectories, evenly spread, tell the mean and the standard deviation of a channel."""


def build(cfg: PipelineConfig) -> nn.Module:
    """The operator of a config: ours, or the user's."""
    net, shapes = cfg.operator, shapes_of(cfg)
    if net.network is not None:
        return own_operator(net.network, net.options, shapes)
    return LatentOperator(
        grid=shapes.grid,
        parameters=shapes.parameters - 1,
        conserved=shapes.conserved,
        dim=cfg.latent.dim,
        width=net.width,
        blocks=net.blocks,
        modes=net.modes,
        codec_blocks=net.codec_blocks,
        normalise=net.normalise,
        shift=net.shift,
    )


def build_loss(cfg: PipelineConfig) -> Loss:
    """`operator_loss` with the config's weights."""
    settings = cfg.stages.operator
    return partial(
        operator_loss,
        reencode_every=cfg.operator.reencode_every,
        reconstruction=settings.reconstruction_weight,
        consistency=settings.consistency_weight,
    )


def sample_batch(cfg: PipelineConfig, data: Data, progress: float, rng: torch.Generator) -> Batch:
    """Windows of K + 1 times; the more steps K are unrolled, the fewer of them."""
    return sample_windows(cfg.stages.operator, data, part_at(cfg.stages.operator.unroll, progress), rng)


def sample_windows(settings: UnrolledStageConfig, data: Data, unroll: int, rng: torch.Generator) -> Batch:
    """Windows of so many steps, as many as the stage wants."""
    size = max(settings.batch_size // unroll, min(settings.min_batch_size, settings.batch_size))
    return window_batch(
        expect(data, Fields), rng, size=size, length=unroll + 1, initial_fraction=settings.initial_share
    )


def operator_loss(step: LossInput, *, reencode_every: int, reconstruction: float, consistency: float) -> Tensor:
    """Mean over the unroll of |D(P^k E(u_t)) - u_{t+k}|, relative, with two regularisers of the latent space.

    The inverse encoding |D(E(u)) - u| is UPT's (Alkin et al. 2024, sec. 3.2); the latent consistency
    |P^k E(u_t) - sg E(u_{t+k})|^2 / var is LE-PDE's (Wu et al. 2022, eq. 5), its target without gradient so that
    the latent space cannot collapse. The unroll encodes its own prediction again as a rollout will.
    Batch: u (B, K + 1, C, *space), parameters (B, P + 1).
    """
    net = as_operator(step.net)
    u, parameters = step.batch["u"], step.batch["parameters"]
    scale = unit_of(net)
    mean, unroll = means_of(u[:, 0]), u.shape[1] - 1
    z = net.encode(u[:, 0])
    loss = reconstruction * relative_l2(net.decode(z, mean), u[:, 0], scale)
    with torch.no_grad():
        targets = net.encode(u[:, 1:].flatten(0, 1)).unflatten(0, (-1, unroll))
        variance = targets.var() + 1e-6
    for k in range(unroll):
        z = net.advance(z, parameters)
        u_hat = net.decode(z, mean)
        drift = (z - targets[:, k]).square().mean() / variance
        loss = loss + (relative_l2(u_hat, u[:, k + 1], scale) + consistency * drift) / unroll
        if reencode_every and (k + 1) % reencode_every == 0:
            z = net.encode(u_hat)
    return loss


def relative_l2(prediction: Tensor, target: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """|prediction - target| / |target| of (B, C, *space), over all but the first axis, averaged over that.

    Channels count in units of `scale`, so that none of them hides the others.

    The floor is far below what float32 can tell from zero: where both agree to the bit, the root has no gradient.
    """
    if isinstance(scale, Tensor):
        prediction, target = prediction / scale, target / scale
    error = (prediction - target).flatten(1).square().mean(-1)
    ratio = error / target.flatten(1).square().mean(-1).clamp_min(1e-8)
    return ratio.clamp_min(SMALLEST_RATIO).sqrt().mean()


def fit_units(net: nn.Module, data: Data) -> None:
    """Set the units of the channels, where the operator has any, to those of the training fields."""
    units = getattr(net, "units", None)
    if units is not None:
        fields = expect(data, Fields)
        rows = torch.linspace(0, len(fields.row) - 1, min(len(fields.row), UNITS_FROM)).long()
        units.fit(fields.select(rows).u)


STAGE = Stage(SPECS["operator"], build, build_loss, sample_batch, init_from_data=fit_units)
