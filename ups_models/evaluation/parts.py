"""The parts of a result, and the models in them: where numbers stand, and what they are called."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ups_models.evaluation.result import Darcy, Ensembles, EvaluationResult, Interval, PeerResult, Rollout

ByModel = Mapping[str, Mapping[str, float]]

MODELS: Mapping[str, str] = {
    "operator": "Operator",
    "diffusion": "Diffusion",
    "consistency_1": "Consistency, 1 step",
    **{f"consistency_{steps}": f"Consistency, {steps} steps" for steps in (2, 3, 4)},
    "gaussian": "Gaussian, same scale",
    "persistence": "Persistence",
    "constant_mean": "Constant mean",
    "zero": "Zero",
    "steady_prior": "Steady prior",
    "mean_field": "Mean field",
    "inverse_coefficient": "1 / mean(a)",
    "regression": "Regression",
}
"""Every model and baseline by its key in a result, in the order in which they are shown."""
DETERMINISTIC = ("operator", "persistence", "constant_mean", "zero")
STUDENTS = tuple(f"consistency_{steps}" for steps in (1, 2, 3, 4))
SAMPLERS = ("diffusion", *STUDENTS, "gaussian")
DEFAULT_SAMPLERS = ("consistency_1", "diffusion")
"""Of the samplers that there are, the first of these is used where nobody chooses, and drawn."""
HORIZONS = (1, 4, 10, 20, 40)
"""Numbers of steps after which ensembles of rollouts are looked at."""
STEADY = ("steady_prior", "regression", "mean_field", "inverse_coefficient")


@dataclass(frozen=True)
class Part:
    """A part of a result in which models (or horizons, parameters) are measured by the same metrics."""

    key: str
    title: str
    scores: Callable[[EvaluationResult], ByModel]
    name: str = "{part}/{model}/{key}"
    """Of a number, wherever it needs one name: its path in the JSON file, and its name in W&B."""
    intervals: Callable[[EvaluationResult], Mapping[str, Interval]] = lambda result: {}
    """Around the metric that has one."""


ONE_STEP = Part("one_step", "One-step", lambda result: result.one_step)
ROLLOUT = Part(
    "rollout/summary",
    "Rollout",
    lambda result: {model: it.scores for model, it in _rollout(result).summary.items()},
    intervals=lambda result: {model: it.ci95 for model, it in _rollout(result).summary.items()},
)
HORIZON = Part("rollout/horizons", "", lambda result: {h: it.scores for h, it in _rollout(result).horizons.items()})
PARAMETER = Part(
    "rollout/by_parameter", "", lambda result: {p: it.scores for p, it in _rollout(result).by_parameter.items()}
)
PDEBENCH = Part("rollout/pdebench", "", lambda result: _rollout(result).pdebench)
SCALED = Part(
    "rollout",
    "Rollout",
    lambda result: {model: {"vrmse": value} for model, value in _rollout(result).vrmse.items()},
    name="{part}/{key}/{model}",
)
CORRELATION = Part(
    "rollout",
    "Rollout",
    lambda result: {"operator": {f"correlation_time/{t}": it for t, it in _rollout(result).correlation_time.items()}},
    name="{part}/{key}",
)
ENSEMBLES = Part("probabilistic", "One-step", lambda result: _samplers(result.probabilistic))
ROLLOUT_ENSEMBLES = Part("probabilistic_rollout", "Rollout", lambda result: _samplers(result.probabilistic_rollout))
ENSEMBLE_HORIZON = Part(
    "probabilistic_rollout/horizons",
    "",
    lambda result: _by_horizon(result.probabilistic_rollout),
    name="probabilistic_rollout/{model}/{key}",
)
PEERS = Part("peers", "Rollout", lambda result: _peers(result.peers))
DARCY = Part("darcy", "", lambda result: _steady(result.darcy))
PARTS = (
    ONE_STEP, ROLLOUT, HORIZON, PARAMETER, PDEBENCH, SCALED, CORRELATION,
    ENSEMBLES, ROLLOUT_ENSEMBLES, ENSEMBLE_HORIZON, PEERS, DARCY,
)  # fmt: skip


def default_sampler(names: Collection[str]) -> str | None:
    """The one of these that is used where nobody chooses."""
    return next((name for name in DEFAULT_SAMPLERS if name in names), None)


def score(result: EvaluationResult, part: Part, model: str, metric: str) -> float | None:
    """One number, None where it was not measured."""
    return part.scores(result).get(model, {}).get(metric)


def main_error(result: EvaluationResult) -> float:
    """The operator's rollout error, or the steady prior's where there is no operator; NaN without either."""
    for place in ((ROLLOUT, "operator", "mean"), (DARCY, "steady_prior", "member_nrmse")):
        value = score(result, *place)
        if value is not None:
            return value
    return math.nan


def _rollout(result: EvaluationResult) -> Rollout:
    return result.rollout or Rollout()


def _samplers(ensembles: Ensembles | None) -> ByModel:
    if ensembles is None:
        return {}
    return {"operator": ensembles.operator, **{name: it.scores for name, it in ensembles.samplers.items()}}


def _by_horizon(ensembles: Ensembles | None) -> ByModel:
    if ensembles is None:
        return {}
    samplers = ensembles.samplers
    return {f"{name}/horizons/{steps}": it.scores for name in samplers for steps, it in samplers[name].horizons.items()}


def _peers(peers: Mapping[str, PeerResult]) -> ByModel:
    """Each, and the best of them; one that diverged is not."""
    found = {name: {"mean": it.mean, "median": it.median, "p90": it.p90} for name, it in peers.items()}
    sound = [scores for scores in found.values() if math.isfinite(scores["mean"])]
    best = min(sound, key=lambda scores: scores["mean"], default=None)
    return {**found, "best": best} if best is not None else {}


def _steady(darcy: Darcy | None) -> ByModel:
    if darcy is None:
        return {}
    return {**({"steady_prior": darcy.steady_prior.scores} if darcy.steady_prior else {}), **darcy.guesses}
