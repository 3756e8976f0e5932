"""Ensembles of the samplers, beside the operator alone: one step, and whole rollouts."""

from collections.abc import Mapping

from torch import Tensor

from ups_models.evaluation import metrics
from ups_models.evaluation.forecasts import Ask, Forecasts, Question
from ups_models.evaluation.inputs import Arrays, OperatorCase, evenly_spaced
from ups_models.evaluation.parts import (
    ENSEMBLE_HORIZON,
    ENSEMBLES,
    HORIZONS,
    ROLLOUT_ENSEMBLES,
    Part,
    default_sampler,
)
from ups_models.evaluation.registry import measure
from ups_models.evaluation.result import Ensembles, EnsembleScores
from ups_models.evaluation.rollout import rollout
from ups_models.evaluation.samples import Ensemble, Forecast

FRAMES, FILMED_POINTS, LINES = 20, 64, 4
"""Of a film; and the axes of trajectories (rows, times, channels, points) on a line."""


def one_step_ensembles(case: OperatorCase, forecasts: Forecasts, ask: Ask | None) -> tuple[Ensembles, Arrays]:
    """On evenly spread pairs (u_t, u_{t+1})."""
    now, target, known = forecasts.pairs
    prediction = rollout(case.operator, now, known, steps=1, reencode_every=0)[:, 0]
    found: dict[str, EnsembleScores] = {}
    arrays: Arrays = {}
    drawn = default_sampler(forecasts.samplers)
    for name, sampler in forecasts.samplers.items():
        members = forecasts.all(Question("pairs", name), ask)
        found[name] = ensemble_scores(ENSEMBLES, _ensemble(case, members, target, sampler.nfe, forecasts.seed))
        if name == drawn:
            middle = len(now) // 2  # of several channels the first is drawn
            arrays = {
                "member_truth": target[middle, 0].cpu().numpy(),
                "member_samples": members[:, middle, 0].cpu().numpy(),
                "member_prediction": prediction[middle, 0].cpu().numpy(),
            }
    alone = measure(ENSEMBLES, Forecast.of(prediction, target, case.data.problem.dimensions))
    return Ensembles.model_validate({"operator": alone, **found}), arrays


def rollout_ensembles(case: OperatorCase, forecasts: Forecasts, ask: Ask | None) -> tuple[Ensembles, Arrays]:
    """From u0 of `ensemble_trajectories` trajectories, over the whole rollout and after a few numbers of steps."""
    chosen = forecasts.ensemble_rows
    u, parameters = case.u[:, : case.steps + 1][chosen], case.parameters[chosen]
    target = u[:, 1:]
    plain = rollout(case.operator, u[:, 0], parameters, steps=case.steps, reencode_every=case.reencode_every)
    found: dict[str, EnsembleScores] = {}
    arrays: Arrays = {}
    drawn = default_sampler(forecasts.samplers)
    for name, sampler in forecasts.samplers.items():
        if name == "diffusion" and name != drawn and not forecasts.settings.teacher_rollouts:
            continue
        members = forecasts.all(Question("ensemble", name), ask)
        whole = _ensemble(case, members, target, sampler.nfe, forecasts.seed)
        found[name] = ensemble_scores(ROLLOUT_ENSEMBLES, whole, _by_horizon(whole, case.steps))
        if name == drawn:
            arrays = _film(case, members, target)
    alone = measure(ROLLOUT_ENSEMBLES, Forecast.of(plain, target, case.data.problem.dimensions))
    return Ensembles.model_validate({"operator": alone, "trajectories": len(u), **found}), arrays


def _by_horizon(whole: Ensemble, steps: int) -> dict[str, EnsembleScores]:
    """The same ensemble after each number of steps."""
    return {str(count): ensemble_scores(ENSEMBLE_HORIZON, whole.after(count)) for count in HORIZONS if count <= steps}


def _film(case: OperatorCase, members: Tensor, target: Tensor) -> Arrays:
    """One trajectory at evenly spread times: truth, ensemble mean, one member and spread, (F, *space).

    Of several channels the first; of fine grids in two dimensions every few points.
    """
    middle, moments = len(target) // 2, evenly_spaced(FRAMES, case.steps)
    every = max(1, -(-max(target.shape[3:]) // FILMED_POINTS)) if target.ndim > LINES else 1
    thin = tuple(slice(None, None, every) for _ in target.shape[3:])
    shown = members[:, middle, moments.to(members.device), 0]
    fields = {
        "truth": target[middle, moments.to(target.device), 0],
        "mean": shown.mean(0),
        "member": shown[0],
        "spread": shown.std(0),
    }
    pictures = {f"film_{name}": field[(slice(None), *thin)].cpu().numpy() for name, field in fields.items()}
    return {"film_t": case.data.t[1 + moments].numpy(), **pictures}


def _ensemble(case: OperatorCase, members: Tensor, target: Tensor, nfe: int, seed: int) -> Ensemble:
    """Of members (M, N, ..., C, *space) and targets (N, ..., C, *space), with space as one axis."""
    dimensions = case.data.problem.dimensions
    flat = target.flatten(-dimensions)
    return Ensemble(members.flatten(-dimensions), flat, flat.square().mean(-1).sqrt(), nfe, seed)


def ensemble_scores(
    part: Part, ensemble: Ensemble, horizons: Mapping[str, EnsembleScores] | None = None
) -> EnsembleScores:
    """Every metric of ensembles that applies to the part, and the rank histogram."""
    histogram = metrics.rank_frequencies(ensemble.rank, len(ensemble.members)).tolist()
    return EnsembleScores.of(measure(part, ensemble), histogram, horizons)
