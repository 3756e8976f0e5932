"""Plots of numbers: error over time, calibration of ensembles, training losses."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ups_models.evaluation.parts import MODELS, SAMPLERS
from ups_models.evaluation.result import Curve, EnsembleScores, EvaluationResult
from ups_models.report.canvas import COLOURS, INK, WIDTH, Picture, grid, legend_beside, log_axis, picture_of
from ups_models.report.model import Array, History

MAX_CURVE_POINTS = 600
CELL = 0.88
"""Of a cell that has the width and height 1: what is drawn in."""
DASHES: Mapping[str, str] = {"persistence": "--", "constant_mean": "-.", "zero": ":"}


def error_by_horizon(result: EvaluationResult) -> Picture | None:
    """nRMSE against time on a logarithmic axis, with baselines and the interval of the mean."""
    rollout = result.rollout
    if rollout is None or not rollout.times or not rollout.by_horizon:
        return None
    times, curves = np.asarray(rollout.times), rollout.by_horizon
    figure, axes = grid(1, 1, height=3.6, margins=(0.65, 2.0, 0.15, 0.5))
    ax = axes[0, 0]
    for model in (model for model in MODELS if model in curves):
        _horizon_curve(ax, times, model, curves[model])
    log_axis(ax, "y")
    ax.set_xlabel("time t (dimensionless)")
    ax.set_ylabel("nRMSE")
    ax.grid(True, which="major", axis="y")
    ax.margins(x=0.01)
    legend_beside(ax)
    return picture_of(
        figure,
        "Rollout error against time for the operator and the trivial baselines, logarithmic.",
        "Mean over test trajectories, thick; the band is its 95 % bootstrap interval; the median is thin. "
        "Persistence repeats the first frame; the constant mean is the spatial mean of the first frame; zero is 1.",
    )


def rank_histograms(result: EvaluationResult) -> Picture | None:
    """One small histogram per sampler, flat when calibrated."""
    histograms = {model: it.rank_histogram for model, it in _samplers(result).items() if it.rank_histogram}
    if not histograms:
        return None
    figure, axes = grid(1, len(histograms), height=2.2, gaps=(0, 0.12), share="y")
    for ax, (model, histogram) in zip(axes[0], histograms.items(), strict=True):
        frequencies = np.asarray(histogram)
        ax.bar(np.arange(len(frequencies)), 100 * frequencies, width=0.9, color=COLOURS[model])
        ax.axhline(100 / len(frequencies), color=INK, linewidth=0.9, linestyle="--")
        ax.set_title(MODELS[model])
        ax.set_xticks([0, len(frequencies) - 1])
        ax.set_xlabel("rank")
    axes[0, 0].set_ylabel("share of points (%)")
    return picture_of(
        figure,
        "Rank histograms of the truth among the members, one per sampler.",
        "How many members lie under the truth, one step ahead. Dashed: a calibrated ensemble. A valley (high ends) "
        "means too little spread, a hill too much, a slope a bias.",
    )


def ranks_by_horizon(result: EvaluationResult) -> Picture | None:
    """Rank histograms along a rollout: a row for each sampler, a column for each number of steps."""
    known = result.probabilistic_rollout.samplers if result.probabilistic_rollout else {}
    shown = {model: known[model].horizons for model in SAMPLERS if model in known and known[model].horizons}
    if not shown:
        return None
    steps = list(next(iter(shown.values())))
    figure, axes = grid(1, 1, height=1.25 * len(shown) + 0.4, margins=(1.5, 0.15, 0.3, 0.1))
    ax = axes[0, 0]
    for row, (model, horizons) in enumerate(shown.items()):
        for column, step in enumerate(steps):
            _histogram_in(ax, column, -row, np.asarray(horizons[step].rank_histogram), COLOURS[model])
    ax.set_xticks([column + CELL / 2 for column in range(len(steps))])
    ax.set_xticklabels([f"after {step} step{'s' if step != '1' else ''}" for step in steps])
    ax.set_yticks([CELL / 2 - row for row in range(len(shown))], [MODELS[model] for model in shown])
    ax.set(xlim=(-0.02, len(steps)), ylim=(1 - len(shown) - 0.02, 1))
    ax.xaxis.set_ticks_position("top")
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    return picture_of(
        figure,
        "Rank histograms of the truth among the members of ensemble rollouts, by sampler and number of steps.",
        "How many members lie under the truth, from none at the left to all at the right, along a rollout. Dashed: a "
        "calibrated ensemble. A valley means that members are too alike by then, a hill that they differ too much.",
    )


def reliability(result: EvaluationResult) -> Picture | None:
    """Observed against nominal coverage of central intervals."""
    shown = {model: it.coverage for model, it in _samplers(result).items() if it.coverage}
    prior = result.darcy.steady_prior if result.darcy else None
    if not shown and not (prior and prior.coverage):
        return None
    figure, axes = grid(1, 1, height=3.5, width=WIDTH, margins=(2.2, 4.5, 0.15, 0.5))
    ax = axes[0, 0]
    ax.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle="--", label="calibrated")
    for model, covered in shown.items():
        _coverage_curve(ax, covered, COLOURS[model], MODELS[model])
    if prior and prior.coverage:
        _coverage_curve(ax, prior.coverage, "#0f766e", "Steady prior (Darcy)")
    ax.set_xlabel("nominal coverage (%)")
    ax.set_ylabel("observed coverage (%)")
    ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    ax.grid(True)
    legend_beside(ax)
    return picture_of(
        figure,
        "Observed against nominal coverage for each sampler.",
        "Share of points inside the central interval, from ranks. Under the diagonal an ensemble is too narrow.",
    )


def loss_curves(history: History) -> Picture | None:
    """The training loss of each stage."""
    stages = {stage: rows for stage, rows in history.items() if any("loss" in row for row in rows)}
    if not stages:
        return None
    columns = min(len(stages), 2)
    rows = math.ceil(len(stages) / columns)
    figure, axes = grid(rows, columns, height=2.2 * rows + 0.3, gaps=(0.5, 0.2))
    for ax, (stage, entries) in zip(axes.flat, stages.items(), strict=False):
        _loss_curve(ax, [entry for entry in entries if "loss" in entry])
        ax.set_title(stage)
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
    for ax in list(axes.flat)[len(stages) :]:
        ax.set_axis_off()
    return picture_of(
        figure,
        f"Training loss against step for {', '.join(stages)}.",
        "Thin: as recorded. Thick: running mean. Losses of different stages are not comparable; an axis is "
        "logarithmic where the loss is positive throughout.",
    )


def _histogram_in(ax: Axes, left: float, bottom: float, frequencies: Array, colour: str) -> None:
    """A histogram in a cell of axes that hold several: to make axes takes longer than all that is drawn in them."""
    flat, width = 1 / len(frequencies), CELL / len(frequencies)
    scale = CELL / max(float(frequencies.max()), 3 * flat)
    edges = left + width * np.arange(len(frequencies) + 1)
    ax.stairs(bottom + scale * frequencies, edges, baseline=bottom, fill=True, color=colour)
    ax.plot(edges[[0, -1]], [bottom + scale * flat] * 2, color=INK, linewidth=0.9, linestyle="--")
    ax.plot(edges[[0, -1]], [bottom] * 2, color=INK, linewidth=0.7)


def _samplers(result: EvaluationResult) -> dict[str, EnsembleScores]:
    """Of one step ahead, in the order in which they are shown."""
    known = result.probabilistic.samplers if result.probabilistic else {}
    return {model: known[model] for model in SAMPLERS if model in known}


def _horizon_curve(ax: Axes, times: Array, model: str, curve: Curve) -> None:
    colour, dash = COLOURS.get(model, INK), DASHES.get(model, "-")
    mean = np.asarray(curve.mean)
    times = times[: len(mean)]
    ax.plot(times, mean, color=colour, linestyle=dash, linewidth=2 if dash == "-" else 1.4, label=MODELS[model])
    if dash != "-":
        return
    if curve.ci95:
        low, high = np.asarray(curve.ci95).T
        ax.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0, label="95 % interval")
    if curve.median:
        ax.plot(times, curve.median, color=colour, linewidth=0.9, label=f"{MODELS[model]}, median")


def _coverage_curve(ax: Axes, covered: Mapping[str, float], colour: str, label: str) -> None:
    levels = sorted(covered, key=float)
    x = [0.0, *(float(level) for level in levels), 100.0]
    y = [0.0, *(100 * covered[level] for level in levels), 100.0]
    ax.plot(x, y, color=colour, label=label, marker="o", markersize=4, markevery=slice(1, -1), linewidth=1.2)


def _loss_curve(ax: Axes, entries: Sequence[Mapping[str, float]]) -> None:
    step = np.array([entry.get("step", i) for i, entry in enumerate(entries)], dtype=float)
    loss = np.array([entry["loss"] for entry in entries], dtype=float)
    window = max(1, len(loss) // 40)
    smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
    late = step[window - 1 :]
    few, few_smooth = (slice(None, None, max(1, n // MAX_CURVE_POINTS)) for n in (len(loss), len(smooth)))
    ax.plot(step[few], loss[few], color=COLOURS["operator"], linewidth=0.6, alpha=0.4)
    ax.plot(late[few_smooth], smooth[few_smooth], color=COLOURS["operator"])
    finite = loss[np.isfinite(loss)]
    if len(finite) and finite.min() > 0:
        log_axis(ax, "y")
    elif len(finite) > 1:
        low, high = np.quantile(finite, [0, 0.98])
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) or None)
    ax.grid(True, axis="y")
