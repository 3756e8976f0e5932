"""The operator's forecasts, beside the trivial ones that it must beat: one step, and whole rollouts."""

import time
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ups_models.data.fields import Fields
from ups_models.evaluation import metrics
from ups_models.evaluation.inputs import Arrays, OperatorCase, evenly_spaced, row_arrays
from ups_models.evaluation.parts import CORRELATION, HORIZON, ONE_STEP, PARAMETER, PDEBENCH, ROLLOUT, SCALED, Part
from ups_models.evaluation.registry import measure
from ups_models.evaluation.result import Curve, DataFacts, NetworkFacts, Rollout, Scores, Summary
from ups_models.evaluation.rollout import in_batches, rollout
from ups_models.evaluation.samples import Forecast
from ups_models.nn.codec import means_of

HORIZONS = (1, 5, 10, 20, 40)
PANELS, MOMENTS = 3, 4
TIMED = 64
"""Trajectories of which the time of a step is taken."""


def data_facts(data: Fields, given_frames: int = 1) -> DataFacts:
    """What kind of trajectories they are, of which `data` begin with the last frame that is given."""
    values = [tuple(sorted({float(f"{value:.6g}") for value in column.tolist()})) for column in data.parameters.T]
    names = [one.name for one in data.problem.parameters]
    return DataFacts(
        family=data.problem.name,
        nx=data.shape[-1],
        nt=data.shape[1] + given_frames - 1,
        dt=round(data.dt, 9),
        parameter=values[0] if values else (),
        parameters=dict(zip(names, values, strict=True)) if len(names) > 1 else None,
        grid=data.grid if len(data.grid) > 1 else None,
        channels=data.problem.channels if len(data.problem.channels) > 1 else None,
    )


def network_facts(case: OperatorCase) -> NetworkFacts:
    """How large the operator is, how much its latent state compresses and loses, and how long a step takes."""
    u = case.u.flatten(0, 1)
    latent = case.operator.encode(u[:1])[0].numel()

    def error(part: Tensor) -> Tensor:
        """Of D(E(u))."""
        again = case.operator.decode(case.operator.encode(part), means_of(part))
        return metrics.nrmse(again.flatten(1), part.flatten(1))

    some = slice(TIMED)
    began = time.perf_counter()
    rollout(case.operator, case.u[some, 0], case.parameters[some], steps=case.steps, reencode_every=case.reencode_every)
    return NetworkFacts(
        parameters=sum(value.numel() for value in cast("nn.Module", case.operator).parameters()),
        latent=latent,
        compression=u[0].numel() / latent,
        reconstruction=in_batches(error, u).mean().item(),
        seconds=(time.perf_counter() - began) / (len(case.u[some]) * case.steps),
    )


def one_step_errors(case: OperatorCase, predicted: Tensor) -> dict[str, Scores]:
    """On every pair (u_t, u_{t+1}) of every trajectory, with u_{t+1} as the operator has it (N, T, C, *space)."""
    u, dimensions = case.u, case.data.problem.dimensions
    now, target = u[:, :-1], u[:, 1:]
    guesses = {"operator": predicted, **_trivial(now, target, dimensions)}
    return {name: measure(ONE_STEP, Forecast.of(guess, target, dimensions)) for name, guess in guesses.items()}


def rollout_errors(case: OperatorCase, predicted: Tensor, seed: int) -> tuple[Rollout, Arrays]:
    """From u0 of every trajectory, with the operator's rollouts (N, steps, C, *space); `seed` draws the bootstrap."""
    u, data, dimensions = case.u[:, : case.steps + 1], case.data, case.data.problem.dimensions
    u, predicted = u.cpu(), predicted.cpu()
    target, times = u[:, 1:], data.t[1 : case.steps + 1]
    guesses = {"operator": predicted, **_trivial(u[:, :1], target, dimensions)}
    forecasts = {name: Forecast.of(guess, target, dimensions, times) for name, guess in guesses.items()}
    errors = {name: metrics.nrmse(it.prediction, it.target).mean(-1) for name, it in forecasts.items()}
    own = errors["operator"]
    correlation = measure(CORRELATION, forecasts["operator"])
    found = Rollout(
        by_parameter=_by_parameter(own.mean(1), data, seed),
        times=tuple(times.tolist()),
        summary={name: _summary(ROLLOUT, error.mean(1), seed) for name, error in errors.items()},
        by_horizon={name: _curve(error, seed) for name, error in errors.items()},
        horizons={str(h): _summary(HORIZON, own[:, h - 1], seed) for h in HORIZONS if h <= case.steps},
        pdebench={name: measure(PDEBENCH, it) for name, it in forecasts.items()},
        vrmse={name: measure(SCALED, it)["vrmse"] for name, it in forecasts.items()},
        correlation_time={key.partition("/")[2]: time for key, time in correlation.items()},
    )
    drawn = _panels(data, u, predicted, own) | _spectra(forecasts["operator"])
    return found, drawn | row_arrays(own.mean(1), u)


def _trivial(now: Tensor, target: Tensor, dimensions: int) -> dict[str, Tensor]:
    """Persistence, the mean of each channel over space, and zero: (B, ..., C, *space) -> like the target."""
    mean = now.flatten(-dimensions).mean(-1)
    return {
        "persistence": now.expand_as(target),
        "constant_mean": mean.view(*mean.shape, *[1] * dimensions).expand_as(target),
        "zero": target.new_zeros(()).expand_as(target),
    }


def _summary(part: Part, errors: Tensor, seed: int) -> Summary:
    scores = measure(part, errors)
    return Summary.model_validate({**scores, "ci95": metrics.bootstrap_ci(errors, seed=seed)})


def _by_parameter(error: Tensor, data: Fields, seed: int) -> dict[str, Summary]:
    """The operator's rollout error for each value of the parameters in the data."""
    names = [one.name for one in data.problem.parameters]
    if not names:
        return {}
    found = {}
    for values in data.parameters.unique(dim=0):
        named = zip(names, values.tolist(), strict=True)
        key = ", ".join(f"{value:g}" if len(names) == 1 else f"{name}={value:g}" for name, value in named)
        found[key] = _summary(PARAMETER, error[(data.parameters == values).all(1)], seed)
    return found


def _curve(error: Tensor, seed: int) -> Curve:
    return Curve(
        mean=tuple(error.mean(0).tolist()),
        median=tuple(error.quantile(0.5, dim=0).tolist()),
        ci95=tuple(metrics.bootstrap_ci(column, seed=seed, draws=400) for column in error.T),
    )


def _panels(data: Fields, u: Tensor, predicted: Tensor, error: Tensor) -> Arrays:
    """The trajectories of the smallest, the median and the largest error, u0 included; of several channels the first.

    In two dimensions a few moments of each.
    """
    order = error.mean(1).argsort()
    which = torch.stack([order[0], order[len(order) // 2], order[-1]])[:PANELS]
    truth = u[which]
    full = torch.cat([truth[:, :1], predicted[which]], 1)[:, :, 0]
    truth = truth[:, :, 0]
    times = data.t[: u.shape[1]]
    if len(data.grid) > 1:
        moments = evenly_spaced(MOMENTS, len(times))
        truth, full, times = truth[:, moments], full[:, moments], times[moments]
    names = [f"{name}, nRMSE {error[i].mean():.4f}" for name, i in zip(("best", "median", "worst"), which, strict=True)]
    axes = {axis.name: values.numpy() for axis, values in zip(data.problem.axes, data.axes, strict=True)}
    return {
        **axes,
        "t": times.numpy(),
        "truth": truth.numpy(),
        "prediction": full.numpy(),
        "panel_names": np.array(names),
    }


def _spectra(forecast: Forecast) -> Arrays:
    """Mean energy of each wave number at the last time, |u_k|^2 / X^2, over trajectories and channels."""
    points = forecast.target.shape[-1]
    fields = (forecast.target[:, -1], forecast.prediction[:, -1])
    energies = [(metrics.energy(u, forecast.grid).mean(0) / points**2).mean(0) for u in fields]
    return {
        "spectrum_k": np.arange(len(energies[0])),
        "spectrum_truth": energies[0].numpy(),
        "spectrum_prediction": energies[1].numpy(),
    }
