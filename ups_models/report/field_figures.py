"""Plots of fields: trajectories over space and time, their spectra, one ensemble, steady states."""

import numpy as np

from ups_models.report.canvas import COLOURS, INK, Picture, Tiles, colour_bar, grid, log_axis, picture_of
from ups_models.report.model import Array, Arrays

MAX_PANELS = 3
LINES = 3
"""Axes of trajectories (rows, times, points) on a line."""
FIELD_MAP, ERROR_MAP, COEFFICIENT_MAP = "viridis", "RdBu_r", "Greys"


def space_time(arrays: Arrays) -> Picture | None:
    """Truth, prediction and error over space and time, one row per trajectory."""
    if not _has(arrays, "x", "t", "truth", "prediction") or arrays["truth"].ndim > LINES:
        return None
    truth, prediction = arrays["truth"][:MAX_PANELS], arrays["prediction"][:MAX_PANELS]
    names = [str(name) for name in arrays.get("panel_names", np.array([], dtype=str))]
    rows = len(truth)
    figure, axes = grid(rows, 3, height=2.1 * rows + 0.5, margins=(0.55, 0.85, 0.3, 0.45), gaps=(0.24, 0.3), share="xy")
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
                colour_bar(figure, ax, image)
        axes[row, 0].set_ylabel("time t")
    for ax in axes[-1]:
        ax.set_xlabel("position x")
    return picture_of(
        figure,
        f"Space-time maps of truth, prediction and error for {rows} test trajectories.",
        "Truth and prediction share one colour scale; the error (prediction less truth) has its own, white at zero. "
        "All quantities are dimensionless.",
    )


def snapshots(arrays: Arrays) -> Picture | None:
    """Truth, prediction and error of the middle trajectory at a few times, one row per time."""
    if not _has(arrays, "t", "truth", "prediction") or arrays["truth"].ndim == LINES:
        return None
    middle = len(arrays["truth"]) // 2
    truth, prediction, times = arrays["truth"][middle], arrays["prediction"][middle], arrays["t"]
    names = [str(name) for name in arrays.get("panel_names", np.array([], dtype=str))]
    titles = ("truth", "prediction", "error")
    figure, axes = grid(len(times), 3, height=2.3 * len(times) + 0.4, margins=(0.6, 0.85, 0.3, 0.1), gaps=(0.1, 0.3))
    for row, time in enumerate(times):
        error = prediction[row] - truth[row]
        low, high = float(np.nanmin(truth[row])), float(np.nanmax(truth[row]))
        reach = float(np.nanmax(np.abs(error))) or 1.0
        looks = (
            (truth[row], FIELD_MAP, low, high),
            (prediction[row], FIELD_MAP, low, high),
            (error, ERROR_MAP, -reach, reach),
        )
        for column, (field, colours, vmin, vmax) in enumerate(looks):
            ax = axes[row, column]
            image = ax.imshow(field.T, origin="lower", cmap=colours, vmin=vmin, vmax=vmax, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            if row == 0:
                ax.set_title(titles[column])
            if column > 0:
                colour_bar(figure, ax, image, ticks=3)
        axes[row, 0].set_ylabel(f"t = {time:g}")
    name = names[middle] if middle < len(names) else "one trajectory"
    return picture_of(
        figure,
        f"Maps of truth, prediction and error of {name} at {len(times)} times.",
        f"The trajectory of the {name.partition(',')[0]} error. Truth and prediction of a row share one scale; the "
        "error has its own, white at zero. Dimensionless.",
    )


def spectra(arrays: Arrays) -> Picture | None:
    """Power spectra of truth and prediction, with their ratio below."""
    if not _has(arrays, "spectrum_k", "spectrum_truth", "spectrum_prediction"):
        return None
    positive = arrays["spectrum_k"] > 0
    k, truth, prediction = (arrays[f"spectrum_{name}"][positive] for name in ("k", "truth", "prediction"))
    figure, axes = grid(1, 2, height=3.1, margins=(0.75, 0.15, 0.15, 0.5), gaps=(0, 0.25))
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
        log_axis(ax, "x")
        log_axis(ax, "y")
        ax.grid(True, which="major")
    return picture_of(
        figure,
        "Spectra of truth and prediction, and their ratio.",
        "Left: power by wave number. Right: the ratio; below 1 the prediction is too smooth at that scale, above 1 it "
        "is too rough.",
    )


def ensemble_example(arrays: Arrays) -> Picture | None:
    """One ensemble: the fields, and below them what they differ by."""
    if not _has(arrays, "x", "member_truth", "member_samples") or arrays["member_truth"].ndim > 1:
        return None
    x, truth, samples = arrays["x"], arrays["member_truth"], arrays["member_samples"]
    centre = arrays.get("member_prediction", samples.mean(0))
    named = "operator" if "member_prediction" in arrays else "ensemble mean"
    figure, axes = grid(2, 1, height=4.4, margins=(0.75, 0.15, 0.35, 0.5), gaps=(0.12, 0), share="x")
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
    return picture_of(
        figure,
        "One ensemble forecast over x with its truth, above as fields and below as deviations.",
        f"One test case. Below, the {named} is subtracted: a calibrated ensemble treats the truth as one "
        "more member. Dimensionless.",
    )


def ensemble_maps(arrays: Arrays) -> Picture | None:
    """One ensemble in two dimensions: truth, mean, a member, and the spread beside the error of the mean."""
    if not _has(arrays, "member_truth", "member_samples") or arrays["member_truth"].ndim == 1:
        return None
    truth, samples = arrays["member_truth"], arrays["member_samples"]
    mean, spread = samples.mean(0), samples.std(0)
    low, high, top = float(truth.min()), float(truth.max()), float(max(spread.max(), np.abs(mean - truth).max())) or 1.0
    maps = (
        ("truth", truth, low, high),
        ("ensemble mean", mean, low, high),
        ("one member", samples[0], low, high),
        ("spread (std)", spread, 0.0, top),
        ("|mean less truth|", np.abs(mean - truth), 0.0, top),
    )
    figure, axes = grid(1, len(maps), height=2.0, margins=(0.1, 0.65, 0.3, 0.1), gaps=(0, 0.6))
    for ax, (title, field, vmin, vmax) in zip(axes[0], maps, strict=True):
        colours = "magma" if vmin == 0.0 and title not in ("truth", "ensemble mean", "one member") else FIELD_MAP
        image = ax.imshow(field.T, origin="lower", cmap=colours, vmin=vmin, vmax=vmax, interpolation="nearest")
        ax.set(xticks=[], yticks=[], title=title)
        if title in ("one member", "|mean less truth|"):
            colour_bar(figure, ax, image, ticks=3)
    return picture_of(
        figure,
        "One ensemble forecast: truth, mean, one member, spread, and the error of the mean.",
        f"One test case, {len(samples)} members. A calibrated ensemble spreads where its mean errs. Dimensionless.",
    )


def darcy_samples(arrays: Arrays) -> Picture | None:
    """Coefficient, true steady state and samples of it."""
    if not _has(arrays, "darcy_a", "darcy_truth", "darcy_samples"):
        return None
    a, truth, samples = (arrays[name][:MAX_PANELS] for name in ("darcy_a", "darcy_truth", "darcy_samples"))
    rows, shown = len(a), min(samples.shape[1], 3)
    titles = ("coefficient a", "truth u", *(f"sample {i + 1}" for i in range(shown)), "std of samples")
    figure, axes = grid(1, 1, height=1.55 * rows + 0.1, margins=(0.1, 0.1, 0.3, 0.0))
    tiles = Tiles(axes[0, 0], titles, rows)
    for row in range(rows):
        fields = (a[row], truth[row], *samples[row, :shown], samples[row].std(0))
        top, low = float(np.nanmax(truth[row])), float(min(0.0, np.nanmin(truth[row])))
        for column, field in enumerate(fields):
            low_high = (low, top) if 0 < column <= shown + 1 else (float(np.nanmin(field)), float(np.nanmax(field)))
            colours = COEFFICIENT_MAP if column == 0 else "magma" if column == len(titles) - 1 else FIELD_MAP
            tiles.draw(row, column, field, colours, *low_high, scale=column in (0, shown + 1, len(titles) - 1))
    return picture_of(
        figure,
        f"Coefficient, true solution, {shown} samples and their standard deviation for {rows} Darcy problems.",
        "Steady states drawn from the prior, given the coefficient. Truth and samples of a row share one scale. "
        "Dimensionless.",
    )


def _has(arrays: Arrays, *names: str) -> bool:
    return all(name in arrays and arrays[name].size for name in names)


def _edges(centres: Array) -> tuple[float, float]:
    half = float(centres[1] - centres[0]) / 2 if len(centres) > 1 else 0.5
    return float(centres[0]) - half, float(centres[-1]) + half


def _ratio_limits(ratio: Array) -> tuple[float, float]:
    finite = ratio[np.isfinite(ratio) & (ratio > 0)]
    reach = min(max(2.0, *(float(r) for r in (1 / finite.min(), finite.max()))), 1e3) if len(finite) else 2.0
    return 1 / (1.1 * reach), 1.1 * reach
