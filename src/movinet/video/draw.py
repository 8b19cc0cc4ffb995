"""Predictions drawn on frames, in sizes that fit the picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from movinet.errors import UsageError
from movinet.video.text import clock, font, shorten

_PANEL = (12, 14, 18)
_PANEL_OPACITY = 0.66
_TRACK = (255, 255, 255)
_TRACK_OPACITY = 0.16
_BAR = (86, 180, 233)  # Okabe and Ito's sky blue: seen by all eyes on dark
_BAR_REST = (150, 160, 172)
_TEXT = (255, 255, 255)
_TEXT_REST = (205, 210, 216)


def draw_predictions(
    image: NDArray[np.uint8], predictions: Sequence[tuple[str, float]], time: float | None = None, *, top: int = 5
) -> NDArray[np.uint8]:
    """A copy of `image` with the first `top` predictions as bars at the bottom left, and `time` at the top left.

    `image` is uint8 (height, width, 3) RGB of any size, `predictions` are (label, probability from 0 to 1), the best
    first, `time` is in seconds. The text grows with the picture; rows that have no room are left out (the last ones
    first), and a picture below some 40 pixels comes back as it was. Raises `UsageError` for an array of another kind.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UsageError("predictions are drawn on a uint8 array (height, width, 3)")
    canvas = Image.fromarray(np.ascontiguousarray(image))
    height, width = image.shape[:2]
    # Per 26 pixels of the short side one pixel of text, and no more than wide pictures can carry in a line.
    size = max(9, round(min(height, width * 0.8) / 26))
    margin = max(3, round(size * 0.7))
    pad = max(3, round(size * 0.65))
    row = round(size * 1.85)
    panel_width = min(width - 2 * margin, round(size * 21))
    space = height * 0.62 - 2 * margin - 2 * pad
    rows = min(len(predictions), top, int(space // row))
    if rows >= 1 and panel_width >= size * 6:
        panel_height = rows * row + 2 * pad - round(size * 0.3)
        y = height - margin - panel_height
        _fill(canvas, (margin, y, panel_width, panel_height), round(size * 0.6), _PANEL, _PANEL_OPACITY)
        for index, (label, probability) in enumerate(predictions[:rows]):
            box = (margin + pad, y + pad + index * row, panel_width - 2 * pad)
            _draw_row(canvas, box, size, label, probability, index == 0)
    if time is not None and rows >= 1:
        _draw_time(canvas, clock(time), size, margin)
    return np.asarray(canvas).copy()


def _draw_row(
    canvas: Image.Image, box: tuple[int, int, int], size: int, label: str, probability: float, first: bool
) -> None:
    x, y, width = box
    share = min(1.0, max(0.0, float(probability))) if np.isfinite(probability) else 0.0
    face = font(size)
    draw = ImageDraw.Draw(canvas)
    percent = f"{share:.0%}" if share >= 0.0995 or share == 0 else f"{share:.1%}"
    colour = _TEXT if first else _TEXT_REST
    gap = size * 0.6
    room = width - face.getlength("100%") - gap
    draw.text((x, y + size), shorten(label, size, room), fill=colour, font=face, anchor="ls")
    draw.text((x + width, y + size), percent, fill=colour, font=face, anchor="rs")
    thick = max(2, round(size * 0.22))
    top = y + round(size * 1.36)
    _fill(canvas, (x, top, width, thick), thick // 2, _TRACK, _TRACK_OPACITY)
    filled = round(width * share)
    if filled:
        _fill(canvas, (x, top, filled, thick), thick // 2, _BAR if first else _BAR_REST, 1.0)


def _draw_time(canvas: Image.Image, text: str, size: int, margin: int) -> None:
    face = font(size)
    width = round(face.getlength(text) + size * 0.9)
    height = round(size * 1.5)
    if width + 2 * margin > canvas.width:
        return
    _fill(canvas, (margin, margin, width, height), round(size * 0.45), _PANEL, _PANEL_OPACITY)
    place = (margin + width / 2, margin + height / 2 + size * 0.35)
    ImageDraw.Draw(canvas).text(place, text, fill=_TEXT, font=face, anchor="ms")


def _fill(
    canvas: Image.Image,
    box: tuple[int, int, int, int],
    radius: int,
    colour: tuple[int, int, int],
    opacity: float,
) -> None:
    """A rounded box (x, y, width, height), smooth at the corners."""
    x, y, width, height = box
    canvas.paste(colour, (x, y, x + width, y + height), _rounded(width, height, radius, round(255 * opacity)))


@lru_cache(maxsize=64)
def _rounded(width: int, height: int, radius: int, value: int) -> Image.Image:
    radius = min(radius, width // 2, height // 2)
    mask = Image.new("L", (width, height), value)
    if radius < 1:
        return mask
    corner = Image.new("L", (8 * radius, 8 * radius))
    ImageDraw.Draw(corner).ellipse((0, 0, 8 * radius - 1, 8 * radius - 1), fill=value)
    disc = corner.reduce(4)  # drawn four times as large, then averaged: smooth
    for x, y, part in (
        (0, 0, (0, 0, radius, radius)),
        (width - radius, 0, (radius, 0, 2 * radius, radius)),
        (0, height - radius, (0, radius, radius, 2 * radius)),
        (width - radius, height - radius, (radius, radius, 2 * radius, 2 * radius)),
    ):
        mask.paste(disc.crop(part), (x, y))
    return mask
