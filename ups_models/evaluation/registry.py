"""The metrics, a row each: what it is called, where it applies, which value is ideal, how it is computed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from torch import Tensor

from ups_models.evaluation import metrics
from ups_models.evaluation.parts import (
    CORRELATION,
    DARCY,
    ENSEMBLE_HORIZON,
    ENSEMBLES,
    HORIZON,
    ONE_STEP,
    PARAMETER,
    PARTS,
    PDEBENCH,
    PEERS,
    ROLLOUT,
    ROLLOUT_ENSEMBLES,
    SCALED,
    Part,
)
from ups_models.evaluation.result import COVERAGE, EvaluationResult, Scores
from ups_models.evaluation.samples import Ensemble, Forecast

LEVELS = (0.5, 0.8, 0.9)
CORRELATION_THRESHOLDS = (0.8, 0.9)
SUMMARIES, SAMPLED = (ROLLOUT, HORIZON, PARAMETER, PEERS), (ENSEMBLES, ROLLOUT_ENSEMBLES, DARCY)
ALSO_BY_HORIZON = (*SAMPLED, ENSEMBLE_HORIZON)
S = TypeVar("S")


@dataclass(frozen=True)
class Metric(Generic[S]):
    """One row. `function` computes the number from a sample of the class `of`, in each of the `parts`."""

    of: type[S]
    key: str
    label: str
    function: Callable[[S], float]
    parts: tuple[Part, ...]
    unit: str = "1"
    ideal: float = 0.0
    headline: tuple[Part, ...] = ()
    """The parts in which it is among the numbers to read first."""
    interval: bool = False
    """Whether it is the number around which the part has an interval."""
    fallback: str = ""
    """In a headline, the key of what stands in its place for a model that has no such number."""


ERRORS: tuple[Metric[Any], ...] = (
    Metric(
        Forecast,
        "nrmse",
        "nRMSE",
        lambda it: metrics.nrmse(it.prediction, it.target, it.dim).mean().item(),
        (ONE_STEP, DARCY, ENSEMBLES, ROLLOUT_ENSEMBLES),
        "RMS of u",
        headline=(ONE_STEP, DARCY),
        fallback="member_nrmse",
    ),
    Metric(
        Forecast,
        "mae",
        "mean absolute error",
        lambda it: metrics.mae(it.prediction, it.target, it.dim).mean().item(),
        (ONE_STEP, ENSEMBLES, ROLLOUT_ENSEMBLES, DARCY),
        "u",
        headline=(ONE_STEP,),
    ),
    Metric(
        Forecast,
        "nmae",
        "mean absolute error (in units of the field)",
        lambda it: (metrics.mae(it.prediction, it.target) / it.target.square().mean(-1).sqrt()).mean().item(),
        (ENSEMBLES,),
        "RMS of u",
    ),
    Metric(
        Tensor,
        "mean",
        "nRMSE, mean",
        lambda it: it.mean().item(),
        SUMMARIES,
        "RMS of u",
        headline=(ROLLOUT,),
        interval=True,
    ),
    Metric(
        Tensor,
        "median",
        "nRMSE, median",
        lambda it: it.quantile(0.5).item(),
        SUMMARIES,
        "RMS of u",
        headline=(ROLLOUT,),
    ),
    Metric(
        Tensor,
        "p90",
        "nRMSE, 90 % of trajectories are below",
        lambda it: it.quantile(0.9).item(),
        SUMMARIES,
        "RMS of u",
        headline=(ROLLOUT,),
    ),
    Metric(
        Forecast,
        "vrmse",
        "VRMSE, median (1 = spatial mean)",
        lambda it: metrics.vrmse(it.prediction, it.target).quantile(0.5).item(),
        (SCALED,),
        "standard deviation of u",
        headline=(SCALED,),
    ),
    *(
        Metric(
            Forecast,
            f"correlation_time/{threshold}",
            f"correlation time, threshold {threshold}",
            partial(Forecast.correlation_time, threshold=threshold),
            (CORRELATION,),
            "t",
            ideal=math.inf,
        )
        for threshold in CORRELATION_THRESHOLDS
    ),
)
OF_PDEBENCH: tuple[Metric[Any], ...] = (
    Metric(Forecast, "rmse", "RMSE", lambda it: it.pdebench.rmse, (PDEBENCH,), "u"),
    Metric(Forecast, "nrmse", "nRMSE", lambda it: it.pdebench.nrmse, (PDEBENCH,), "RMS of u"),
    Metric(Forecast, "crmse", "cRMSE (conserved mean)", lambda it: it.pdebench.crmse, (PDEBENCH,), "u"),
    Metric(Forecast, "max_error", "largest error", lambda it: it.pdebench.max_error, (PDEBENCH,), "u"),
    Metric(
        Forecast,
        "brmse",
        "bRMSE (boundary: no meaning if periodic)",
        lambda it: it.pdebench.brmse,
        (PDEBENCH,),
        "u",
    ),
    Metric(Forecast, "frmse_low", "fRMSE, k < 4", lambda it: it.pdebench.frmse_low, (PDEBENCH,), "u"),
    Metric(Forecast, "frmse_mid", "fRMSE, 4 ≤ k < 12", lambda it: it.pdebench.frmse_mid, (PDEBENCH,), "u"),
    Metric(Forecast, "frmse_high", "fRMSE, k ≥ 12", lambda it: it.pdebench.frmse_high, (PDEBENCH,), "u"),
)
OF_ENSEMBLES: tuple[Metric[Any], ...] = (
    Metric(Ensemble, "nfe", "network evaluations per sample", lambda it: it.nfe, ALSO_BY_HORIZON, "evaluations"),
    Metric(
        Ensemble,
        "crps",
        "CRPS",
        lambda it: it.crps.mean().item(),
        ALSO_BY_HORIZON,
        "u",
        headline=(ENSEMBLES, ROLLOUT_ENSEMBLES),
        fallback="mae",
    ),
    *(
        Metric(
            Ensemble,
            f"crps_{name}",
            f"CRPS, {words}",
            partial(Ensemble.crps_quantile, share=share),
            (ROLLOUT_ENSEMBLES,),
            "u",
        )
        for name, words, share in (("median", "median", 0.5), ("p90", "90 % of trajectories are below", 0.9))
    ),
    Metric(
        Ensemble,
        "ncrps",
        "nCRPS (in units of the field)",
        lambda it: (it.crps.mean(-1) / it.scale).mean().item(),
        SAMPLED,
        "RMS of u",
        headline=(ENSEMBLES,),
        fallback="nmae",
    ),
    Metric(
        Ensemble,
        "spread_skill",
        "spread / skill",
        lambda it: metrics.spread_skill(it.members, it.target),
        ALSO_BY_HORIZON,
        ideal=1.0,
        headline=(ENSEMBLES, ROLLOUT_ENSEMBLES),
    ),
    Metric(
        Ensemble,
        "spread_skill_normalised",
        "spread / skill, normalised",
        lambda it: metrics.spread_skill(it.members, it.target, it.scale),
        SAMPLED,
        ideal=1.0,
    ),
    *(
        Metric(
            Ensemble,
            f"{COVERAGE}{level * 100:.0f}",
            f"coverage, {level * 100:.0f} %",
            partial(Ensemble.coverage, level=level),
            ALSO_BY_HORIZON,
            ideal=level,
        )
        for level in LEVELS
    ),
    Metric(Ensemble, "ece", "calibration error", lambda it: metrics.ece(it.rank, len(it.members)), SAMPLED),
    Metric(
        Ensemble,
        "ensemble_mean_nrmse",
        "nRMSE of the ensemble mean",
        lambda it: metrics.nrmse(it.mean, it.target).mean().item(),
        ALSO_BY_HORIZON,
        "RMS of u",
        headline=(DARCY,),
    ),
    Metric(
        Ensemble,
        "mae_of_mean",
        "mean absolute error of the ensemble mean",
        lambda it: (it.mean - it.target).abs().mean().item(),
        SAMPLED,
        "u",
    ),
    Metric(Ensemble, "sample_std", "sample std", lambda it: it.members.std(0).mean().item(), SAMPLED, "u"),
    Metric(Ensemble, "member_nrmse", "nRMSE of one member", Ensemble.member_nrmse, (DARCY,), "RMS of u"),
)
METRICS: tuple[Metric[Any], ...] = (*ERRORS, *OF_PDEBENCH, *OF_ENSEMBLES)


def metrics_in(part: Part) -> tuple[Metric[Any], ...]:
    """The rows that apply to a part."""
    return tuple(metric for metric in METRICS if part in metric.parts)


def measure(part: Part, sample: Forecast | Ensemble | Tensor) -> Scores:
    """Every number of the part that can be computed from the sample."""
    return {metric.key: metric.function(sample) for metric in metrics_in(part) if isinstance(sample, metric.of)}


def numbers_of(result: EvaluationResult) -> dict[str, float]:
    """Every finite number by its name, such as rollout/summary/operator/mean: metrics, and the facts beside them."""
    found = _facts(result)
    for part in PARTS:
        keys = [metric.key for metric in metrics_in(part)]
        for model, scores in part.scores(result).items():
            found |= {
                part.name.format(part=part.key, model=model, key=key): scores[key] for key in keys if key in scores
            }
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def _facts(result: EvaluationResult) -> dict[str, float | None]:
    data, ensembles, darcy = result.data, result.probabilistic_rollout, result.darcy
    return {
        **{name: getattr(result, name) for name in ("schema_version", "seed", "members", "trajectories", "steps")},
        **({f"data/{name}": getattr(data, name) for name in ("nx", "nt", "dt")} if data else {}),
        **({f"network/{name}": value for name, value in result.network if value is not None} if result.network else {}),
        **({"probabilistic_rollout/trajectories": ensembles.trajectories} if ensembles else {}),
        **({"darcy/samples": darcy.samples} if darcy else {}),
    }
