"""What every plot of a report shares: colours, axes, and how it becomes an image without date or random id."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ups_models.report.model import Array

WIDTH = 9.6
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
NAMELESS: Mapping[str, dict[str, None]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
MIME: Mapping[str, str] = {"svg": "svg+xml", "png": "png"}


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


def grid(
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


def colour_bar(figure: Figure, ax: Axes, image: AxesImage, ticks: int = 5) -> None:
    """The scale of an image, beside it."""
    bar = figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.045, 1)), ticks=MaxNLocator(ticks))
    bar.outline.set_visible(False)


class Tiles:
    """Square fields in rows and columns of one pair of axes: to make axes takes longer than to draw a field."""

    SIZE, BAR, APART = 0.74, 0.03, 0.02
    """Of a tile that has the width and height 1: the field, its scale, and what lies between the two."""

    def __init__(self, ax: Axes, titles: Sequence[str], rows: int) -> None:
        self.ax = ax
        ax.set(xlim=(0, len(titles)), ylim=(rows, 0), aspect="equal", yticks=[])
        ax.set_xticks([column + self.SIZE / 2 for column in range(len(titles))], titles)
        ax.xaxis.set_ticks_position("top")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)

    def draw(self, row: int, column: int, field: Array, colours: str, low: float, high: float, *, scale: bool) -> None:
        """A field (x, y), and where asked for its scale beside it."""
        box = (column, column + self.SIZE, row + self.SIZE, row)
        self._image(field, colours, low, high, box)
        if scale:
            left = column + self.SIZE + self.APART
            self._image(np.linspace(low, high, 64)[:, None], colours, low, high, (left, left + self.BAR, *box[2:]))
            for value, y, anchor in ((low, box[2], "bottom"), (high, box[3], "top")):
                self.ax.text(left + self.BAR + self.APART, y, f"{value:.2g}", va=anchor, fontsize="small")

    def _image(self, field: Array, colours: str, low: float, high: float, box: tuple[float, ...]) -> None:
        limits = self.ax.get_xlim(), self.ax.get_ylim()
        left, right, bottom, top = box
        self.ax.imshow(
            field, origin="lower", aspect="equal", extent=(left, right, bottom, top), cmap=colours, vmin=low, vmax=high,
            interpolation="nearest",
        )  # fmt: skip
        self.ax.set(xlim=limits[0], ylim=limits[1])


def log_axis(ax: Axes, which: Literal["x", "y"]) -> None:
    """Logarithmic, with plain labels at decades, or at 1, 2 and 5 where there are few decades."""
    axis = {"x": ax.xaxis, "y": ax.yaxis}[which]
    ax.set(**{f"{which}scale": "log"})
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < 50 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def legend_beside(ax: Axes) -> None:
    """The legend, right of the axes."""
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def picture_of(figure: Figure, alt: str, caption: str) -> Picture:
    """The figure as an inline image."""
    buffer, image_format = io.BytesIO(), mpl.rcParams["savefig.format"]
    figure.savefig(buffer, format=image_format, metadata=NAMELESS[image_format])
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{MIME[image_format]};base64,{encoded}", alt, caption)
