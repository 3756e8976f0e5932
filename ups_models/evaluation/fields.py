"""The operator's forecasts, beside the trivial ones that it must beat: one step, and whole rollouts."""

import numpy as np
import torch
from torch import Tensor

from ups_models.data.fields import Trajectories
from ups_models.evaluation import metrics
from ups_models.evaluation.inputs import Arrays, OperatorCase
from ups_models.evaluation.parts import CORRELATION, HORIZON, ONE_STEP, PARAMETER, PDEBENCH, ROLLOUT, SCALED, Part
from ups_models.evaluation.registry import measure
from ups_models.evaluation.result import Curve, DataFacts, Rollout, Scores, Summary
from ups_models.evaluation.rollout import rollout
from ups_models.evaluation.samples import Forecast

HORIZONS = (1, 5, 10, 20, 40)
CHUNK = 4096
PANELS = 3


def data_facts(data: Trajectories) -> DataFacts:
    """What kind of trajectories they are."""
    return DataFacts(
        family=data.family,
        nx=data.u.shape[-1],
        nt=data.u.shape[1],
        dt=round(data.dt, 9),
        parameter=tuple(sorted({float(f"{value:.6g}") for value in data.parameter.tolist()})),
    )


def one_step_errors(case: OperatorCase) -> dict[str, Scores]:
    """On every pair (u_t, u_{t+1}) of every trajectory."""
    u = case.u
    now, target = u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)
    repeated = case.parameters.repeat_interleave(u.shape[1] - 1, 0)
    prediction = torch.cat(
        [
            rollout(case.operator, part, known, steps=1, reencode_every=0)[:, 0]
            for part, known in zip(now.split(CHUNK), repeated.split(CHUNK), strict=True)
        ]
    )
    guesses = {"operator": prediction, **_trivial(now, target)}
    return {name: measure(ONE_STEP, Forecast(guess, target)) for name, guess in guesses.items()}


def rollout_errors(case: OperatorCase, seed: int) -> tuple[Rollout, Arrays]:
    """From u0 of every trajectory; `seed` draws the bootstrap."""
    u, data = case.u[:, : case.steps + 1], case.data
    predicted = rollout(
        case.operator, u[:, 0], case.parameters, steps=case.steps, reencode_every=case.reencode_every
    ).cpu()
    u = u.cpu()
    target, times = u[:, 1:], data.t[1 : case.steps + 1]
    guesses = {"operator": predicted, **_trivial(u[:, :1], target)}
    forecasts = {name: Forecast(guess, target, times=times) for name, guess in guesses.items()}
    errors = {name: metrics.nrmse(guess, target) for name, guess in guesses.items()}
    own = errors["operator"]
    correlation = measure(CORRELATION, forecasts["operator"])
    found = Rollout(
        by_parameter=_by_parameter(own.mean(1), data.parameter, seed),
        times=tuple(times.tolist()),
        summary={name: _summary(ROLLOUT, error.mean(1), seed) for name, error in errors.items()},
        by_horizon={name: _curve(error, seed) for name, error in errors.items()},
        horizons={str(h): _summary(HORIZON, own[:, h - 1], seed) for h in HORIZONS if h <= case.steps},
        pdebench={name: measure(PDEBENCH, it) for name, it in forecasts.items()},
        vrmse={name: measure(SCALED, it)["vrmse"] for name, it in forecasts.items()},
        correlation_time={key.partition("/")[2]: time for key, time in correlation.items()},
    )
    return found, _panels(data, u, predicted, own) | _spectra(target, predicted)


def _trivial(now: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Persistence, the conserved mean, and zero: (B, X) and (..., X) -> predictions like the target."""
    return {
        "persistence": now.expand_as(target),
        "constant_mean": now.mean(-1, keepdim=True).expand_as(target),
        "zero": torch.zeros_like(target),
    }


def _summary(part: Part, errors: Tensor, seed: int) -> Summary:
    scores = measure(part, errors)
    return Summary.model_validate({**scores, "ci95": metrics.bootstrap_ci(errors, seed=seed)})


def _by_parameter(error: Tensor, parameter: Tensor, seed: int) -> dict[str, Summary]:
    """The operator's rollout error for each nu or beta in the data."""
    values = parameter.unique().tolist()
    return {f"{value:g}": _summary(PARAMETER, error[parameter == value], seed) for value in values}


def _curve(error: Tensor, seed: int) -> Curve:
    return Curve(
        mean=tuple(error.mean(0).tolist()),
        median=tuple(error.quantile(0.5, dim=0).tolist()),
        ci95=tuple(metrics.bootstrap_ci(column, seed=seed, draws=400) for column in error.T),
    )


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
