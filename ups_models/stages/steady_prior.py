"""Stage steady_prior: steady states from noise, given a coefficient field or not: by a flow, or in one evaluation."""

from functools import partial

import torch
from torch import Tensor, nn

from ups_models.config.schema import PipelineConfig
from ups_models.data.batches import steady_batch
from ups_models.data.fields import SteadyFields
from ups_models.nn.own import own_prior
from ups_models.nn.prior import OwnPrior, Prior, SteadyPrior, at_start
from ups_models.nn.sampling import noise
from ups_models.stages.crps import almost_fair_crps
from ups_models.stages.spec import SPECS
from ups_models.stages.stage import Batch, Data, Loss, LossInput, Stage, expect


def build(cfg: PipelineConfig) -> Prior:
    """The steady prior of a config: ours, or the user's."""
    net, size = cfg.prior, cfg.steady_data.size
    if net.network is not None:
        return OwnPrior(own_prior(net.network, net.options, size))
    prior = SteadyPrior(size=size, channels=net.channels, levels=net.levels)
    if cfg.stages.steady_prior.objective == "crps":
        prior.ignore_noise()
    return prior


def build_loss(cfg: PipelineConfig) -> Loss:
    """What the config's objective lowers; the coefficient is hidden from a part of the samples of a prior.

    With objective crps the median is learned first, as a regression does, and then tuned: from there the samples have
    only their spread to learn.
    """
    settings = cfg.stages.steady_prior
    match settings.objective:
        case "regression":
            return regression_loss
        case "crps":
            tune = partial(crps_loss, members=settings.members, coefficient_dropout=settings.hide_coefficient)
            return lambda step: (tune if settings.is_tuned(step.progress) else regression_loss)(step)
        case "flow":
            return partial(flow_matching_loss, coefficient_dropout=settings.hide_coefficient)


def sample_batch(cfg: PipelineConfig, data: Data, progress: float, rng: torch.Generator) -> Batch:
    """Pairs of coefficient and state, as many as the network is evaluated on at all progress."""
    settings = cfg.stages.steady_prior
    learns_median = settings.objective == "crps" and not settings.is_tuned(progress)
    size = settings.batch_size * (settings.members if learns_median else 1)
    return steady_batch(expect(data, SteadyFields), rng, size=size)


def flow_matching_loss(step: LossInput, *, coefficient_dropout: float) -> Tensor:
    """|v(x_t, t; a) - (u - n)|^2 on x_t = (1 - t) n + t u. Lipman et al. 2023, eq. 23 with sigma_min = 0.

    The coefficient is hidden from a fraction `coefficient_dropout` of the samples (classifier-free training, Ho &
    Salimans 2022), which leaves the unconditional prior available. Batch: a (B, H, W), u (B, H, W), beta (B,).
    """
    net = expect(step.net, Prior)
    u = step.batch["u"] / (net.unit * step.batch["beta"][:, None, None])
    t = torch.rand(len(u), generator=step.rng, device=u.device)
    start = noise(tuple(u.shape), step.rng)
    x = torch.lerp(start, u, t[:, None, None])
    known = (torch.rand(len(u), generator=step.rng, device=u.device) >= coefficient_dropout).float()
    velocity: Tensor = net(x, t, step.batch["a"], known)
    return (velocity - (u - start)).square().mean()


def crps_loss(step: LossInput, *, members: int, coefficient_dropout: float) -> Tensor:
    """Fair CRPS, point by point, of samples v(n, 0; a) of one evaluation each. Batch as above.

    A network of noise trained by a scoring rule, as in Pacchiardi et al. 2024 (JMLR 25).
    """
    net, batch = expect(step.net, Prior), step.batch
    u = batch["u"] / (net.unit * batch["beta"][:, None, None])
    known = (torch.rand(len(u), generator=step.rng, device=u.device) >= coefficient_dropout).float()
    start = noise((members * len(u), *u.shape[1:]), step.rng)
    a, is_known = batch["a"].repeat(members, 1, 1), known.repeat(members)
    samples: Tensor = net(start, is_known.new_zeros(len(start)), a, is_known)
    return almost_fair_crps(samples.unflatten(0, (members, -1)), u, 1.0).mean()


def regression_loss(step: LossInput) -> Tensor:
    """|v(0, 0; a) - u|, whose least is the median of u given what is known of a. Batch as above."""
    net = expect(step.net, Prior)
    u = step.batch["u"] / (net.unit * step.batch["beta"][:, None, None])
    found: Tensor = net(*at_start(step.batch["a"]))
    return (found - u).abs().mean()


def fit_normaliser(net: nn.Module, data: Data) -> None:
    """Set the network's unit to the standard deviation of u / beta over the training fields."""
    steady = expect(data, SteadyFields)
    expect(net, Prior).unit.copy_((steady.u / steady.beta[:, None, None]).std())


STAGE = Stage(SPECS["steady_prior"], build, build_loss, sample_batch, init_from_data=fit_normaliser)
