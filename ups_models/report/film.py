"""One rollout in motion: an animated image of truth, ensemble mean, one member and spread."""

import base64
import io
from functools import cache

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from ups_models.report.canvas import COLOURS, INK, Picture
from ups_models.report.model import Array, Arrays

FIELDS = ("truth", "mean", "member", "spread")
TITLES = ("truth", "ensemble mean", "one member", "spread (std)")
LINES = 2
"""Axes of the frames (F, points) of a line."""
FRAME_MS, LAST_MS = 180, 900
PANEL, GAP, TITLE, BAR = 128, 10, 16, 6
"""Sizes in pixels: a map at least so wide, the space between two, a line of text, the bar that shows the time."""
LINE_WIDTH, LINE_HEIGHT, MARGIN = 760, 260, 12
SHADES = 120
"""Colours of a map; with those of the spread and the plain ones below a palette of 256 holds them."""
PLAIN = ("#ffffff", INK, COLOURS["operator"], COLOURS["diffusion"], "#f3d9c9", "#b0b0b0")
WHITE, BLACK, BLUE, ORANGE, PALE, GREY = range(2 * SHADES, 2 * SHADES + len(PLAIN))


def film(arrays: Arrays) -> Picture | None:
    """The rollout that an evaluation stored, as an animated GIF; None where there is none."""
    if "film_t" not in arrays:
        return None
    fields = {name: arrays[f"film_{name}"].astype(np.float64) for name in FIELDS}
    times = arrays["film_t"]
    draw = _line_frame if fields["truth"].ndim == LINES else _map_frame
    last = float(times[-1])
    frames = [_image(draw(fields, frame), float(time), last) for frame, time in enumerate(times)]
    motion = (
        "The shaded band is one standard deviation of the members around their mean."
        if draw is _line_frame
        else "Truth, mean and member share one colour scale; the spread has its own."
    )
    return Picture(
        f"data:image/gif;base64,{base64.b64encode(_encoded(frames)).decode('ascii')}",
        f"An animated rollout of one test trajectory: {', '.join(TITLES)}, until t = {last:g}.",
        f"One test trajectory in motion, until t = {last:g}. {motion} Dimensionless.",
    )


def _image(pixels: Array, time: float, last: float) -> Image.Image:
    """Numbers of colours as an image that says which field is which, and what time it is."""
    image = Image.fromarray(pixels)
    image.putpalette(_palette())
    _show_time(image, time, last)
    return image


def _map_frame(fields: dict[str, Array], frame: int) -> Array:
    """Four maps beside each other, as numbers of colours."""
    low, high = float(fields["truth"].min()), float(fields["truth"].max())
    top = float(fields["spread"].max())
    maps = [_shades(fields[name][frame], low, high, 0) for name in FIELDS[:-1]]
    maps.append(_shades(fields["spread"][frame], 0.0, top, SHADES))
    factor = max(1, PANEL // max(maps[0].shape))
    maps = [np.kron(one.T[::-1], np.ones((factor, factor), np.uint8)) for one in maps]
    height, width = maps[0].shape
    sheet = np.full((TITLE + height + GAP + BAR, len(maps) * (width + GAP) - GAP), WHITE, np.uint8)
    for place, one in enumerate(maps):
        sheet[TITLE : TITLE + height, place * (width + GAP) : place * (width + GAP) + width] = one
    return sheet


def _line_frame(fields: dict[str, Array], frame: int) -> Array:
    """Truth, mean, one member and a band of the spread over x, as numbers of colours."""
    truth, mean, member, spread = (fields[name][frame] for name in FIELDS)
    low, high = float(fields["truth"].min()), float(fields["truth"].max())
    image = Image.new("P", (LINE_WIDTH, TITLE + LINE_HEIGHT + GAP + BAR), WHITE)
    pen = ImageDraw.Draw(image)
    x = np.linspace(MARGIN, LINE_WIDTH - MARGIN, len(truth))

    def points(values: Array) -> list[tuple[float, float]]:
        share = (values - low) / ((high - low) or 1.0)
        y = TITLE + MARGIN + (1 - share.clip(-0.05, 1.05)) * (LINE_HEIGHT - 2 * MARGIN)
        return list(zip(x.tolist(), y.tolist(), strict=True))

    pen.polygon([*points(mean + spread), *points(mean - spread)[::-1]], fill=PALE)
    for values, colour, width in ((member, ORANGE, 1), (truth, BLACK, 2), (mean, BLUE, 1)):
        pen.line(points(values), fill=colour, width=width)
    return np.asarray(image)


def _show_time(image: Image.Image, time: float, last: float) -> None:
    """The titles above, the time as text, and how much of it has passed as a bar below."""
    pen = ImageDraw.Draw(image)
    pen.fontmode = "1"
    font = ImageFont.load_default_imagefont()
    width, height = image.size
    step = (width + GAP) / len(TITLES)
    colours = (BLACK, BLUE, ORANGE, GREY)
    for place, title in enumerate(TITLES):
        text = f"{title}, t = {time:.3g}" if place == 0 else title
        pen.text((place * step + 2, 2), text, fill=colours[place], font=font)
    pen.rectangle((0, height - BAR, width * time / last, height), fill=GREY)


def _shades(field: Array, low: float, high: float, first: int) -> Array:
    share = (field - low) / ((high - low) or 1.0)
    shades: Array = (first + (share.clip(0, 1) * (SHADES - 1)).round()).astype(np.uint8)
    return shades


@cache
def _palette() -> list[int]:
    maps = [colormaps[name](np.linspace(0, 1, SHADES))[:, :3] for name in ("viridis", "magma")]
    plain = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in PLAIN]
    colours: list[int] = (255 * np.concatenate([*maps, plain])).round().astype(int).flatten().tolist()
    return colours


def _encoded(frames: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()
