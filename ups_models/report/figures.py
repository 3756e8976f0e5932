"""The figures of a report, each an SVG (or PNG) without a date, a random id or an external resource."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ups_models.report.tables import MODELS, SAMPLERS, Result, get_path

Array = NDArray[Any]
Arrays = Mapping[str, Array]
History = Mapping[str, Sequence[Mapping[str, float]]]

WIDTH = 9.6
MAX_PANELS = 3
MAX_CURVE_POINTS = 600
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ups",
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "text.parse_math": False,
}
INK = "#222222"
COLOURS: Mapping[str, str] = {
    "operator": "#0b5fa5",
    "diffusion": "#c2410c",
    "consistency_1": "#d9a5e0",
    "consistency_2": "#8e3b9c",
    "consistency_3": "#6b2c78",
    "consistency_4": "#4f1a5c",
    "gaussian": "#4d7c0f",
    "persistence": "#6b6b6b",
    "constant_mean": "#9a7b2f",
    "zero": "#b0b0b0",
}
DASHES: Mapping[str, str] = {"persistence": "--", "constant_mean": "-.", "zero": ":"}
NAMELESS: Mapping[str, dict[str, None]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
MIME: Mapping[str, str] = {"svg": "svg+xml", "png": "png"}
FIELD_MAP, ERROR_MAP, COEFFICIENT_MAP = "viridis", "RdBu_r", "Greys"


@dataclass(frozen=True)
class Picture:
    """An inline figure: a data URI, words for those who cannot see it, a caption."""

    uri: str
    alt: str
    caption: str

    @property
    def image(self) -> bytes:
        """The image file itself."""
        return base64.b64decode(self.uri.partition(",")[2])


def pictures(
    result: Result,
    arrays: Arrays,
    history: History,
    image_format: Literal["svg", "png"] = "svg",
    only: Collection[str] | None = None,
) -> dict[str, tuple[Picture, ...]]:
    """All figures that the input allows, by section; or those of the sections in `only`."""
    makers: dict[str, Callable[[], list[Picture | None]]] = {
        "panels": lambda: [space_time(arrays)],
        "horizon": lambda: [error_by_horizon(result)],
        "spectrum": lambda: [spectra(arrays)],
        "ensemble": lambda: [rank_histograms(result), reliability(result)],
        "members": lambda: [ensemble_example(arrays)],
        "darcy": lambda: [darcy_samples(arrays)],
        "training": lambda: [loss_curves(history)],
    }
    with mpl.rc_context({**STYLE, "savefig.format": image_format}):
        return {
            section: tuple(picture for picture in make() if picture is not None)
            for section, make in makers.items()
            if only is None or section in only
        }


def space_time(arrays: Arrays) -> Picture | None:
    """Truth, prediction and error over space and time, one row per trajectory."""
    if not _has(arrays, "x", "t", "truth", "prediction"):
        return None
    truth, prediction = arrays["truth"][:MAX_PANELS], arrays["prediction"][:MAX_PANELS]
    names = [str(name) for name in arrays.get("panel_names", np.array([], dtype=str))]
    rows = len(truth)
    figure, axes = _grid(
        rows, 3, height=2.1 * rows + 0.5, margins=(0.55, 0.85, 0.3, 0.45), gaps=(0.24, 0.3), share="xy"
    )
    extent = (*_edges(arrays["x"]), *_edges(arrays["t"]))
    for row in range(rows):
        error = prediction[row] - truth[row]
        low, high = float(np.nanmin(truth[row])), float(np.nanmax(truth[row]))
        reach = float(np.nanmax(np.abs(error))) or 1.0
        name = names[row] if row < len(names) else f"Trajectory {row + 1}"
        looks = (("truth", truth[row], FIELD_MAP, low, high), ("prediction", prediction[row], FIELD_MAP, low, high))
        for column, (title, field, colours, vmin, vmax) in enumerate(
            (*looks, ("error", error, ERROR_MAP, -reach, reach))
        ):
            ax = axes[row, column]
            image = ax.imshow(
                field, origin="lower", aspect="auto", extent=extent, cmap=colours, vmin=vmin, vmax=vmax,
                interpolation="nearest",
            )  # fmt: skip
            ax.set_title(f"{name}: {title}" if column == 0 else title)
            if column > 0:
                _colour_bar(figure, ax, image)
        axes[row, 0].set_ylabel("time t")
    for ax in axes[-1]:
        ax.set_xlabel("position x")
    return _picture(
        figure,
        f"Space-time maps of truth, prediction and error for {rows} test trajectories.",
        "Truth and prediction share one colour scale; the error (prediction less truth) has its own, white at zero. "
        "All quantities are dimensionless.",
    )


def error_by_horizon(result: Result) -> Picture | None:
    """nRMSE against time on a logarithmic axis, with baselines and the interval of the mean."""
    times, curves = get_path(result, "rollout/times"), get_path(result, "rollout/by_horizon") or {}
    if not times or not curves:
        return None
    figure, axes = _grid(1, 1, height=3.6, margins=(0.65, 2.0, 0.15, 0.5))
    ax = axes[0, 0]
    for model in (model for model in MODELS if model in curves):
        _horizon_curve(ax, np.asarray(times, dtype=float), model, curves[model])
    _log_axis(ax, "y")
    ax.set_xlabel("time t (dimensionless)")
    ax.set_ylabel("nRMSE")
    ax.grid(True, which="major", axis="y")
    ax.margins(x=0.01)
    _legend_beside(ax)
    return _picture(
        figure,
        "Rollout error against time for the operator and the trivial baselines, logarithmic.",
        "Mean over test trajectories, thick; the band is its 95 % bootstrap interval; the median is thin. "
        "Persistence repeats the first frame; the constant mean is the spatial mean of the first frame; zero is 1.",
    )


def spectra(arrays: Arrays) -> Picture | None:
    """Power spectra of truth and prediction, with their ratio below."""
    if not _has(arrays, "spectrum_k", "spectrum_truth", "spectrum_prediction"):
        return None
    positive = arrays["spectrum_k"] > 0
    k, truth, prediction = (arrays[f"spectrum_{name}"][positive] for name in ("k", "truth", "prediction"))
    figure, axes = _grid(1, 2, height=3.1, margins=(0.75, 0.15, 0.15, 0.5), gaps=(0, 0.25))
    spectrum, ratio = axes[0]
    spectrum.plot(k, truth, color=INK, label="truth", linewidth=2.2)
    spectrum.plot(k, prediction, color=COLOURS["operator"], label="prediction", linestyle="--")
    spectrum.set_ylabel("spectral power")
    spectrum.legend()
    ratio.axhline(1, color=INK, linewidth=0.8)
    ratio.plot(k, prediction / np.maximum(truth, np.finfo(float).tiny), color=COLOURS["operator"])
    ratio.set_ylim(_ratio_limits(prediction / np.maximum(truth, np.finfo(float).tiny)))
    ratio.set_ylabel("prediction / truth (1 is ideal)")
    for ax in (spectrum, ratio):
        ax.set_xlabel("wave number k (waves per domain)")
        _log_axis(ax, "x")
        _log_axis(ax, "y")
        ax.grid(True, which="major")
    return _picture(
        figure,
        "Spectra of truth and prediction, and their ratio.",
        "Left: power by wave number. Right: the ratio; below 1 the prediction is too smooth at that scale, above 1 it "
        "is too rough.",
    )


def rank_histograms(result: Result) -> Picture | None:
    """One small histogram per sampler, flat when calibrated."""
    shown = [model for model in SAMPLERS if get_path(result, f"probabilistic/{model}/rank_histogram")]
    if not shown:
        return None
    figure, axes = _grid(1, len(shown), height=2.2, gaps=(0, 0.12), share="y")
    for ax, model in zip(axes[0], shown, strict=True):
        frequencies = np.asarray(get_path(result, f"probabilistic/{model}/rank_histogram"), dtype=float)
        ax.bar(np.arange(len(frequencies)), 100 * frequencies, width=0.9, color=COLOURS[model])
        ax.axhline(100 / len(frequencies), color=INK, linewidth=0.9, linestyle="--")
        ax.set_title(MODELS[model])
        ax.set_xticks([0, len(frequencies) - 1])
        ax.set_xlabel("rank")
    axes[0, 0].set_ylabel("share of points (%)")
    return _picture(
        figure,
        "Rank histograms of the truth among the members, one per sampler.",
        "How many members lie under the truth, one step ahead. Dashed: a calibrated ensemble. A valley (high ends) "
        "means too little spread, a hill too much, a slope a bias.",
    )


def reliability(result: Result) -> Picture | None:
    """Observed against nominal coverage of central intervals."""
    shown = [model for model in SAMPLERS if get_path(result, f"probabilistic/{model}/coverage")]
    prior = get_path(result, "darcy/steady_prior/coverage")
    if not shown and not prior:
        return None
    figure, axes = _grid(1, 1, height=3.5, width=WIDTH, margins=(2.2, 4.5, 0.15, 0.5))
    ax = axes[0, 0]
    ax.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle="--", label="calibrated")
    for model in shown:
        _coverage_curve(ax, get_path(result, f"probabilistic/{model}/coverage"), COLOURS[model], MODELS[model])
    if prior:
        _coverage_curve(ax, prior, "#0f766e", "Steady prior (Darcy)")
    ax.set_xlabel("nominal coverage (%)")
    ax.set_ylabel("observed coverage (%)")
    ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    ax.grid(True)
    _legend_beside(ax)
    return _picture(
        figure,
        "Observed against nominal coverage for each sampler.",
        "Share of points inside the central interval, from ranks. Under the diagonal an ensemble is too narrow.",
    )


def ensemble_example(arrays: Arrays) -> Picture | None:
    """One ensemble: the fields, and below them what they differ by."""
    if not _has(arrays, "x", "member_truth", "member_samples"):
        return None
    x, truth, samples = arrays["x"], arrays["member_truth"], arrays["member_samples"]
    centre = arrays.get("member_prediction", samples.mean(0))
    named = "operator" if "member_prediction" in arrays else "ensemble mean"
    figure, axes = _grid(2, 1, height=4.4, margins=(0.75, 0.15, 0.35, 0.5), gaps=(0.12, 0), share="x")
    for ax, origin in zip(axes[:, 0], (np.zeros_like(centre), centre), strict=True):
        ax.plot(x, (samples - origin).T, color=COLOURS["diffusion"], linewidth=0.6, alpha=0.55)
        ax.plot(x, centre - origin, color=COLOURS["operator"], linestyle="--", label=named)
        ax.plot(x, truth - origin, color=INK, linewidth=1.3, label="truth")
        ax.grid(True, axis="y")
        ax.margins(x=0.01)
    axes[0, 0].plot([], [], color=COLOURS["diffusion"], linewidth=1, label=f"{len(samples)} members")
    axes[0, 0].set_ylabel("u")
    axes[1, 0].set_ylabel(f"u less {named}")
    axes[1, 0].set_xlabel("position x")
    axes[0, 0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return _picture(
        figure,
        "One ensemble forecast over x with its truth, above as fields and below as deviations.",
        f"One test case. Below, the {named} is subtracted: a calibrated ensemble treats the truth as one "
        "more member. Dimensionless.",
    )


def darcy_samples(arrays: Arrays) -> Picture | None:
    """Coefficient, true steady state and samples of it."""
    if not _has(arrays, "darcy_a", "darcy_truth", "darcy_samples"):
        return None
    a, truth, samples = (arrays[name][:MAX_PANELS] for name in ("darcy_a", "darcy_truth", "darcy_samples"))
    rows, shown = len(a), min(samples.shape[1], 3)
    titles = ("coefficient a", "truth u", *(f"sample {i + 1}" for i in range(shown)), "std of samples")
    figure, axes = _grid(rows, len(titles), height=1.45 * rows + 0.4, margins=(0.1, 0.65, 0.3, 0.1), gaps=(0.12, 0.55))
    for row in range(rows):
        fields = (a[row], truth[row], *samples[row, :shown], samples[row].std(0))
        top, low = float(np.nanmax(truth[row])), float(min(0.0, np.nanmin(truth[row])))
        for column, (ax, field) in enumerate(zip(axes[row], fields, strict=True)):
            scaled = {"vmin": low, "vmax": top} if 0 < column <= shown + 1 else {}
            colours = COEFFICIENT_MAP if column == 0 else "magma" if column == len(titles) - 1 else FIELD_MAP
            image = ax.imshow(field, origin="lower", cmap=colours, interpolation="nearest", **scaled)
            ax.set(xticks=[], yticks=[])
            if row == 0:
                ax.set_title(titles[column])
            if column in (0, shown + 1, len(titles) - 1):
                _colour_bar(figure, ax, image, ticks=3)
    return _picture(
        figure,
        f"Coefficient, true solution, {shown} samples and their standard deviation for {rows} Darcy problems.",
        "Steady states drawn from the prior, given the coefficient. Truth and samples of a row share one scale. "
        "Dimensionless.",
    )


def loss_curves(history: History) -> Picture | None:
    """The training loss of each stage."""
    stages = {stage: rows for stage, rows in history.items() if any("loss" in row for row in rows)}
    if not stages:
        return None
    columns = min(len(stages), 2)
    rows = math.ceil(len(stages) / columns)
    figure, axes = _grid(rows, columns, height=2.2 * rows + 0.3, gaps=(0.5, 0.2))
    for ax, (stage, entries) in zip(axes.flat, stages.items(), strict=False):
        _loss_curve(ax, [entry for entry in entries if "loss" in entry])
        ax.set_title(stage)
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
    for ax in list(axes.flat)[len(stages) :]:
        ax.set_axis_off()
    return _picture(
        figure,
        f"Training loss against step for {', '.join(stages)}.",
        "Thin: as recorded. Thick: running mean. Losses of different stages are not comparable; an axis is "
        "logarithmic where the loss is positive throughout.",
    )


def _horizon_curve(ax: Axes, times: Array, model: str, curve: Mapping[str, Any]) -> None:
    colour, dash = COLOURS.get(model, INK), DASHES.get(model, "-")
    mean = np.asarray(curve["mean"], dtype=float)
    times = times[: len(mean)]
    ax.plot(times, mean, color=colour, linestyle=dash, linewidth=2 if dash == "-" else 1.4, label=MODELS[model])
    if dash != "-":
        return
    if curve.get("ci95"):
        low, high = np.asarray(curve["ci95"], dtype=float).T
        ax.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0, label="95 % interval")
    if curve.get("median"):
        ax.plot(times, curve["median"], color=colour, linewidth=0.9, label=f"{MODELS[model]}, median")


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
        _log_axis(ax, "y")
    elif len(finite) > 1:
        low, high = np.quantile(finite, [0, 0.98])
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) or None)
    ax.grid(True, axis="y")


def _grid(
    rows: int,
    columns: int,
    *,
    height: float,
    width: float = WIDTH,
    margins: tuple[float, float, float, float] = (0.65, 0.15, 0.25, 0.5),
    gaps: tuple[float, float] = (0.3, 0.2),
    share: str = "",
) -> tuple[Figure, Any]:
    """Axes (rows, columns) in a figure of `width` x `height` inches, `margins` left, right, top, bottom in inches.

    Fixed margins, since matplotlib's layout engines take as long as drawing does.
    """
    left, right, top, bottom = margins
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    place = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        sharex="x" in share,
        sharey="y" in share,
        gridspec_kw={**place, "hspace": gaps[0], "wspace": gaps[1]},
    )
    return figure, axes


def _colour_bar(figure: Figure, ax: Axes, image: AxesImage, ticks: int = 5) -> None:
    bar = figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.045, 1)), ticks=MaxNLocator(ticks))
    bar.outline.set_visible(False)


def _log_axis(ax: Axes, which: Literal["x", "y"]) -> None:
    """Logarithmic, with plain labels at decades, or at 1, 2 and 5 where there are few decades."""
    axis = {"x": ax.xaxis, "y": ax.yaxis}[which]
    ax.set(**{f"{which}scale": "log"})
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < 50 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _legend_beside(ax: Axes) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _picture(figure: Figure, alt: str, caption: str) -> Picture:
    buffer, image_format = io.BytesIO(), mpl.rcParams["savefig.format"]
    figure.savefig(buffer, format=image_format, metadata=NAMELESS[image_format])
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{MIME[image_format]};base64,{encoded}", alt, caption)


def _has(arrays: Arrays, *names: str) -> bool:
    return all(name in arrays and arrays[name].size for name in names)


def _edges(centres: Array) -> tuple[float, float]:
    half = float(centres[1] - centres[0]) / 2 if len(centres) > 1 else 0.5
    return float(centres[0]) - half, float(centres[-1]) + half


def _ratio_limits(ratio: Array) -> tuple[float, float]:
    finite = ratio[np.isfinite(ratio) & (ratio > 0)]
    reach = min(max(2.0, *(float(r) for r in (1 / finite.min(), finite.max()))), 1e3) if len(finite) else 2.0
    return 1 / (1.1 * reach), 1.1 * reach
