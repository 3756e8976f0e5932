"""Evaluations: every figure beside the trivial predictions that it must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ups_models.config.schema import DenoiserConfig, EvalConfig, PipelineConfig
from ups_models.data.batches import parameters_of
from ups_models.data.fields import SteadyFields, Trajectories
from ups_models.evaluation import metrics
from ups_models.evaluation.rollout import SampleResidual, one_step_members, rollout, rollout_members
from ups_models.nn.denoiser import ResidualDiffusion
from ups_models.nn.operator import LatentOperator
from ups_models.nn.prior import SteadyPrior
from ups_models.nn.sampling import karras_sigmas, noise, sample_consistency, sample_edm, sample_flow

Figures = dict[str, Any]
Arrays = dict[str, np.ndarray[Any, Any]]

HORIZONS = (1, 5, 10, 20, 40)
LEVELS = (0.5, 0.8, 0.9)
CORRELATION_THRESHOLDS = (0.8, 0.9)
CHUNK = 4096
PANELS = 3
PANEL_SAMPLES = 3


@dataclass(frozen=True)
class Models:
    """The trained networks that there are; an evaluation leaves out what is absent."""

    operator: LatentOperator | None = None
    diff_residual: ResidualDiffusion | None = None
    consistency_distill: ResidualDiffusion | None = None
    steady_prior: SteadyPrior | None = None


@dataclass(frozen=True)
class EvalData:
    """The split to evaluate on, and the training fields of which a baseline takes the mean."""

    trajectories: Trajectories | None = None
    steady: SteadyFields | None = None
    steady_train: SteadyFields | None = None


@dataclass(frozen=True)
class Gate:
    """A bar that a finished quickstart is expected to reach; printed, never a reason to hide a figure."""

    name: str
    value: float
    bound: float
    goal: float | None = None

    def as_figures(self) -> Figures:
        """For the JSON report."""
        return {**asdict(self), "sense": "<=", "reached": self.value <= self.bound}


@torch.no_grad()
def evaluate(
    cfg: PipelineConfig, settings: EvalConfig, models: Models, data: EvalData, *, device: torch.device
) -> tuple[Figures, Arrays]:
    """All figures of one evaluation, for JSON, and the arrays that its figures are drawn from.

    Trajectories (N, T, X) are evaluated from u0 for `rollout_steps`; ensembles on pairs and, if asked for, in rollouts.
    """
    figures: Figures = {"split": settings.split, "seed": settings.seed, "members": settings.members}
    arrays: Arrays = {}
    if models.operator is not None and data.trajectories is not None:
        chosen = data.trajectories.select(evenly_spaced(settings.trajectories, len(data.trajectories.u)))
        more_figures, arrays = _field_figures(cfg, settings, models, models.operator, chosen, device)
        figures |= more_figures
    if models.steady_prior is not None and data.steady is not None:
        figures["darcy"], more = _darcy(cfg, settings, models.steady_prior, data.steady, data.steady_train, device)
        arrays |= more
    figures["gates"] = [gate.as_figures() for gate in gates(figures)]
    return figures, arrays


def evenly_spaced(count: int, total: int) -> Tensor:
    """At most `count` of `total` indices, evenly spread: files with different parameters all have their share."""
    return torch.linspace(0, total - 1, min(count, total)).long()


def _field_figures(
    cfg: PipelineConfig,
    settings: EvalConfig,
    models: Models,
    operator: LatentOperator,
    trajectories: Trajectories,
    device: torch.device,
) -> tuple[Figures, Arrays]:
    """Everything that is said about fields: one step, rollouts, and ensembles where there is a sampler."""
    u = trajectories.u.to(device)
    parameters = parameters_of(trajectories).to(device)
    steps = min(settings.rollout_steps, u.shape[1] - 1)
    figures: Figures = {"trajectories": len(u), "steps": steps, "data": _data_facts(trajectories)}
    figures["one_step"] = _one_step(operator, u, parameters)
    figures["rollout"], arrays = _rollout(cfg, settings, operator, trajectories, steps, device)
    samplers = residual_samplers(cfg.denoiser, settings, models, device)
    if samplers:
        figures["probabilistic"], more = _one_step_ensembles(settings, operator, samplers, u, parameters)
        arrays |= more
    if samplers and settings.ensemble_trajectories:
        figures["probabilistic_rollout"] = _rollout_ensembles(
            cfg, settings, operator, samplers, u[:, : steps + 1], parameters
        )
    return figures, arrays


def gates(figures: Figures) -> list[Gate]:
    """The bars of the README, as far as this evaluation has their figures."""
    found = []
    if "rollout" in figures:
        found += [
            Gate("rollout nRMSE, mean", figures["rollout"]["summary"]["operator"]["mean"], 0.030, 0.015),
            Gate("one-step nRMSE", figures["one_step"]["operator"]["nrmse"], 0.015),
        ]
    ensembles = figures.get("probabilistic", {})
    teacher, student = ensembles.get("diffusion"), ensembles.get("consistency_2")
    if teacher:
        found += [
            Gate("diffusion CRPS / operator MAE", teacher["crps"] / ensembles["operator"]["mae"], 1.0),
            Gate("diffusion nCRPS / same-scale Gaussian nCRPS", teacher["ncrps"] / ensembles["gaussian"]["ncrps"], 1.0),
        ]
    if teacher and student:
        found += [
            Gate("2-evaluation student CRPS / teacher CRPS", student["crps"] / teacher["crps"], 1.15),
            Gate("student evaluations / teacher evaluations", student["nfe"] / teacher["nfe"], 0.2),
            Gate("teacher sample std / student sample std", teacher["sample_std"] / student["sample_std"], 2.0),
        ]
    if "darcy" in figures:
        prior = figures["darcy"]["steady_prior"]
        found += [
            Gate("steady prior member nRMSE", prior["member_nrmse"], 0.25),
            Gate("steady prior CRPS / MAE of its mean", prior["crps"] / prior["mae_of_mean"], 1.0),
        ]
    return found


@dataclass(frozen=True)
class Sampler:
    """A way to sample the residual, and its network evaluations per sample."""

    sample: Callable[[torch.Generator], SampleResidual]
    nfe: int


def residual_samplers(
    net: DenoiserConfig, settings: EvalConfig, models: Models, device: torch.device
) -> dict[str, Sampler]:
    """Teacher, student and the Gaussian of the teacher's scale, as far as they are trained."""
    samplers: dict[str, Sampler] = {}
    teacher, student = models.diff_residual, models.consistency_distill
    if teacher is not None:
        sigmas = karras_sigmas(net.sampler_steps, net.sigma_min, net.sigma_max, net.rho)
        samplers["diffusion"] = Sampler(partial(teacher_sampler, teacher, sigmas), 2 * net.sampler_steps - 1)
        samplers["gaussian"] = Sampler(partial(gaussian_sampler, teacher), 0)
    if student is not None:
        for count in settings.student_steps:
            sigmas = karras_sigmas(count + 1, net.sigma_min, net.sigma_max, net.rho)[:-1]
            samplers[f"consistency_{count}"] = Sampler(partial(student_sampler, student, sigmas), count)
    return samplers


def teacher_sampler(teacher: ResidualDiffusion, sigmas: Tensor, rng: torch.Generator) -> SampleResidual:
    """Residuals by Heun's sampler on the diffusion."""

    def sample(z: Tensor, z_hat: Tensor) -> Tensor:
        context = teacher.context(z, z_hat)
        start = noise(tuple(z.shape), rng)
        scale: Tensor = teacher.scale(z, z_hat)
        return scale * sample_edm(lambda x, s: teacher.denoise(x, s, context), start, sigmas)

    return sample


def student_sampler(student: ResidualDiffusion, sigmas: Tensor, rng: torch.Generator) -> SampleResidual:
    """Residuals by the consistency student, one evaluation for each noise level."""

    def sample(z: Tensor, z_hat: Tensor) -> Tensor:
        context = student.context(z, z_hat)
        start = noise(tuple(z.shape), rng)
        x0 = sample_consistency(lambda x, s: student.consistency(x, s, context), start, sigmas, student.sigma_min, rng)
        scale: Tensor = student.scale(z, z_hat)
        return scale * x0

    return sample


def gaussian_sampler(teacher: ResidualDiffusion, rng: torch.Generator) -> SampleResidual:
    """Independent normal residuals of the learned scale: what the diffusion must improve upon."""

    def sample(z: Tensor, z_hat: Tensor) -> Tensor:
        scale: Tensor = teacher.scale(z, z_hat)
        return scale * noise(tuple(z.shape), rng)

    return sample


def _data_facts(data: Trajectories) -> Figures:
    return {
        "family": data.family,
        "nx": data.u.shape[-1],
        "nt": data.u.shape[1],
        "dt": round(data.dt, 9),
        "parameter": sorted({float(f"{value:.6g}") for value in data.parameter.tolist()}),
    }


def _one_step(operator: LatentOperator, u: Tensor, parameters: Tensor) -> Figures:
    """Every pair (u_t, u_{t+1}) of every trajectory."""
    now, target = u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)
    repeated = parameters.repeat_interleave(u.shape[1] - 1, 0)
    prediction = torch.cat(
        [
            rollout(operator, part, known, steps=1, reencode_every=0)[:, 0]
            for part, known in zip(now.split(CHUNK), repeated.split(CHUNK), strict=True)
        ]
    )
    return {
        name: {
            "nrmse": metrics.nrmse(guess, target).mean().item(),
            "mae": metrics.mae(guess, target).mean().item(),
        }
        for name, guess in {"operator": prediction, **_trivial(now, target)}.items()
    }


def _trivial(now: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Persistence, the conserved mean, and zero: (B, X) and (..., X) -> predictions like the target."""
    return {
        "persistence": now.expand_as(target),
        "constant_mean": now.mean(-1, keepdim=True).expand_as(target),
        "zero": torch.zeros_like(target),
    }


def _rollout(
    cfg: PipelineConfig,
    settings: EvalConfig,
    operator: LatentOperator,
    data: Trajectories,
    steps: int,
    device: torch.device,
) -> tuple[Figures, Arrays]:
    u = data.u[:, : steps + 1].to(device)
    predicted = rollout(
        operator,
        u[:, 0],
        parameters_of(data).to(device),
        steps=steps,
        reencode_every=cfg.operator.reencode_every,
    )
    u, predicted = u.cpu(), predicted.cpu()
    target, times = u[:, 1:], data.t[1 : steps + 1]
    predictions = {"operator": predicted, **_trivial(u[:, :1], target)}
    errors = {name: metrics.nrmse(guess, target) for name, guess in predictions.items()}
    own = errors["operator"]
    figures: Figures = {
        "by_parameter": _by_parameter(own.mean(1), data.parameter, settings.seed),
        "times": times.tolist(),
        "summary": {name: _summary(error.mean(1), settings.seed) for name, error in errors.items()},
        "by_horizon": {name: _by_horizon(error, settings.seed) for name, error in errors.items()},
        "horizons": {str(h): _summary(own[:, h - 1], settings.seed) for h in HORIZONS if h <= steps},
        "pdebench": {name: asdict(metrics.pdebench(guess, target)) for name, guess in predictions.items()},
        "vrmse": {name: metrics.vrmse(guess, target).quantile(0.5).item() for name, guess in predictions.items()},
        "correlation_time": {
            str(threshold): metrics.correlation_time(predicted, target, times, threshold)
            for threshold in CORRELATION_THRESHOLDS
        },
    }
    return figures, _panels(data, u, predicted, own) | _spectra(target, predicted)


def _summary(values: Tensor, seed: int) -> Figures:
    low, high = metrics.bootstrap_ci(values, seed=seed)
    return {"mean": values.mean().item(), "median": values.quantile(0.5).item(), "ci95": [low, high]}


def _by_parameter(error: Tensor, parameter: Tensor, seed: int) -> Figures:
    """The operator's rollout error for each nu or beta in the data."""
    return {f"{value:g}": _summary(error[parameter == value], seed) for value in parameter.unique().tolist()}


def _by_horizon(error: Tensor, seed: int) -> Figures:
    intervals = [list(metrics.bootstrap_ci(column, seed=seed, draws=400)) for column in error.T]
    return {"mean": error.mean(0).tolist(), "median": error.quantile(0.5, dim=0).tolist(), "ci95": intervals}


def _panels(data: Trajectories, u: Tensor, predicted: Tensor, error: Tensor) -> Arrays:
    """The trajectories of the smallest, the median and the largest error, u0 included."""
    order = error.mean(1).argsort()
    which = torch.stack([order[0], order[len(order) // 2], order[-1]])[:PANELS]
    full = torch.cat([u[:, :1], predicted], 1)
    names = [f"{name}, nRMSE {error[i].mean():.4f}" for name, i in zip(("best", "median", "worst"), which, strict=True)]
    return {
        "x": data.x.numpy(),
        "t": data.t[: u.shape[1]].numpy(),
        "truth": u[which].numpy(),
        "prediction": full[which].numpy(),
        "panel_names": np.array(names),
    }


def _spectra(target: Tensor, predicted: Tensor) -> Arrays:
    """Mean energy of each wavenumber at the last time, |rfft(u)|^2 / X^2."""
    points = target.shape[-1]
    energy = [(torch.fft.rfft(u[:, -1]).abs() ** 2).mean(0) / points**2 for u in (target, predicted)]
    return {
        "spectrum_k": np.arange(len(energy[0])),
        "spectrum_truth": energy[0].numpy(),
        "spectrum_prediction": energy[1].numpy(),
    }


def _one_step_ensembles(
    settings: EvalConfig, operator: LatentOperator, samplers: Mapping[str, Sampler], u: Tensor, parameters: Tensor
) -> tuple[Figures, Arrays]:
    pairs = u.shape[0] * (u.shape[1] - 1)
    which = torch.linspace(0, pairs - 1, min(settings.one_step_pairs, pairs)).long().to(u.device)
    trajectory, time = which // (u.shape[1] - 1), which % (u.shape[1] - 1)
    now, target, known = u[trajectory, time], u[trajectory, time + 1], parameters[trajectory]
    scale = target.square().mean(-1).sqrt()
    prediction = rollout(operator, now, known, steps=1, reencode_every=0)[:, 0]
    error = metrics.mae(prediction, target)
    figures: Figures = {"operator": {"mae": error.mean().item(), "nmae": (error / scale).mean().item()}}
    shown: Arrays = {}
    for name, sampler in samplers.items():
        rng = torch.Generator(u.device).manual_seed(settings.seed)
        members = one_step_members(operator, sampler.sample(rng), now, known, members=settings.members)
        figures[name] = {"nfe": sampler.nfe, **_ensemble_figures(members, target, scale, settings.seed)}
        if name == "diffusion":
            middle = len(now) // 2
            shown = {
                "member_truth": target[middle].cpu().numpy(),
                "member_samples": members[:, middle].cpu().numpy(),
                "member_prediction": prediction[middle].cpu().numpy(),
            }
    return figures, shown


def _ensemble_figures(members: Tensor, target: Tensor, scale: Tensor, seed: int) -> Figures:
    """Members (M, N, ..., X), target (N, ..., X), scale (N, ...) the target's RMS."""
    crps = metrics.fair_crps(members, target)
    count = len(members)
    rank = metrics.ranks(members, target, torch.Generator(target.device).manual_seed(seed)).cpu()
    mean = members.mean(0)
    return {
        "crps": crps.mean().item(),
        "ncrps": (crps.mean(-1) / scale).mean().item(),
        "spread_skill": metrics.spread_skill(members, target),
        "spread_skill_normalised": metrics.spread_skill(members, target, scale),
        "coverage": {f"{level * 100:.0f}": metrics.coverage(rank, count, level) for level in LEVELS},
        "rank_histogram": metrics.rank_frequencies(rank, count).tolist(),
        "ece": metrics.ece(rank, count),
        "ensemble_mean_nrmse": metrics.nrmse(mean, target).mean().item(),
        "mae_of_mean": (mean - target).abs().mean().item(),
        "sample_std": members.std(0).mean().item(),
    }


def _rollout_ensembles(
    cfg: PipelineConfig,
    settings: EvalConfig,
    operator: LatentOperator,
    samplers: Mapping[str, Sampler],
    u: Tensor,
    parameters: Tensor,
) -> Figures:
    chosen = evenly_spaced(settings.ensemble_trajectories, len(u)).to(u.device)
    u, parameters = u[chosen], parameters[chosen]
    steps, target = u.shape[1] - 1, u[:, 1:]
    scale = target.square().mean(-1).sqrt()
    plain = rollout(operator, u[:, 0], parameters, steps=steps, reencode_every=cfg.operator.reencode_every)
    figures: Figures = {"operator": {"mae": metrics.mae(plain, target).mean().item()}, "trajectories": len(u)}
    for name, sampler in samplers.items():
        rng = torch.Generator(u.device).manual_seed(settings.seed)
        members = rollout_members(
            operator, sampler.sample(rng), u[:, 0], parameters, members=settings.ensemble_members, steps=steps
        )
        figures[name] = {"nfe": sampler.nfe, **_ensemble_figures(members, target, scale, settings.seed)}
    return figures


def _darcy(
    cfg: PipelineConfig,
    settings: EvalConfig,
    prior: SteadyPrior,
    data: SteadyFields,
    train: SteadyFields | None,
    device: torch.device,
) -> tuple[Figures, Arrays]:
    data = data.select(evenly_spaced(settings.steady_samples, len(data.a)))
    rng = torch.Generator(device).manual_seed(settings.seed)
    members = sample_steady(prior, data, members=settings.members, steps=cfg.prior.sampler_steps, rng=rng).cpu()
    target = data.u
    ensemble = _ensemble_figures(
        members.flatten(2), target.flatten(1), target.square().mean((1, 2)).sqrt(), settings.seed
    )
    member_nrmse = torch.stack([metrics.nrmse(member, target, dim=(-2, -1)) for member in members]).mean().item()
    figures: Figures = {
        "samples": len(target),
        "steady_prior": {"nfe": cfg.prior.sampler_steps, "member_nrmse": member_nrmse, **ensemble},
    }
    if train is not None:
        figures |= {
            name: {"nrmse": metrics.nrmse(guess, target, dim=(-2, -1)).mean().item()}
            for name, guess in _steady_baselines(data, train).items()
        }
    arrays: Arrays = {
        "darcy_a": data.a[:PANELS].numpy(),
        "darcy_truth": target[:PANELS].numpy(),
        "darcy_samples": members[:PANEL_SAMPLES, :PANELS].transpose(0, 1).numpy(),
    }
    return figures, arrays


def sample_steady(prior: SteadyPrior, data: SteadyFields, *, members: int, steps: int, rng: torch.Generator) -> Tensor:
    """Samples of the steady state for each coefficient: (M, N, H, W)."""
    a, beta = data.a.to(rng.device), data.beta.to(rng.device)
    known = torch.ones(len(a), device=rng.device)
    samples = []
    for _ in range(members):
        start = noise(tuple(a.shape), rng)
        samples.append(sample_flow(lambda x, t: prior(x, t, a, known), start, steps))
    return torch.stack(samples) * prior.unit * beta[:, None, None]


def _steady_baselines(data: SteadyFields, train: SteadyFields) -> dict[str, Tensor]:
    """The mean training field, and the same scaled by how conducting a sample is: u ~ shape / mean(a)."""
    unit = train.u / train.beta[:, None, None]
    conducting = train.a.mean((1, 2))[:, None, None]
    force = data.beta[:, None, None]
    return {
        "mean_field": unit.mean(0) * force,
        "inverse_coefficient": (unit * conducting).mean(0) * force / data.a.mean((1, 2))[:, None, None],
    }
