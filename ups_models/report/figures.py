"""The plots of a report by section, each an SVG (or PNG) without an external resource."""

from collections.abc import Callable
from typing import Literal

import matplotlib as mpl

from ups_models.evaluation.result import EvaluationResult
from ups_models.report.canvas import STYLE, Picture
from ups_models.report.curve_figures import (
    error_by_horizon,
    loss_curves,
    rank_histograms,
    ranks_by_horizon,
    reliability,
)
from ups_models.report.field_figures import (
    darcy_samples,
    ensemble_example,
    ensemble_maps,
    snapshots,
    space_time,
    spectra,
)
from ups_models.report.film import film
from ups_models.report.model import Arrays, History


def pictures(
    result: EvaluationResult,
    arrays: Arrays,
    history: History,
    image_format: Literal["svg", "png"] = "svg",
) -> dict[str, tuple[Picture, ...]]:
    """Every plot that the input allows, by section."""
    makers: dict[str, Callable[[], list[Picture | None]]] = {
        "panels": lambda: [space_time(arrays), snapshots(arrays)],
        "horizon": lambda: [error_by_horizon(result)],
        "spectrum": lambda: [spectra(arrays)],
        "ensemble": lambda: [rank_histograms(result), reliability(result), ranks_by_horizon(result)],
        "members": lambda: [ensemble_example(arrays), ensemble_maps(arrays)],
        "motion": lambda: [film(arrays)] if image_format == "svg" else [],
        "darcy": lambda: [darcy_samples(arrays)],
        "training": lambda: [loss_curves(history)],
    }
    with mpl.rc_context({**STYLE, "savefig.format": image_format}):
        return {
            section: tuple(picture for picture in make() if picture is not None) for section, make in makers.items()
        }
