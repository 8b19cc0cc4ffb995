"""A picture of what was seen when: the leading classes' probabilities over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from movinet.errors import UsageError
from movinet.video.text import clock, font, shorten

Colour = tuple[int, int, int]

# Okabe and Ito's palette, in an order that keeps neighbours apart for colour-blind eyes; yellow is left out on white.
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
_INK = (40, 44, 52)
_FAINT = (112, 118, 128)
_GRID = (228, 231, 235)
_AXIS = (160, 166, 175)
_SMOOTH = 3  # lines are drawn this many times as large and averaged


def timeline(
    times: ArrayLike,
    probabilities: ArrayLike,
    labels: Sequence[str],
    *,
    top: int = 5,
    size: tuple[int, int] = (480, 1080),
    title: str = "",
) -> Image.Image:
    """Draw the `top` classes with the highest mean probability over time: percent over seconds, each line labelled.

    `times` are seconds (n,), rising; `probabilities` (n, classes) from 0 to 1; `labels` one per class; `size` is
    (height, width) in pixels, at least 200 x 320; `top` goes up to 6. Works for one point and for millions: where a
    pixel column holds many points, their lowest and highest are drawn. Raises `UsageError` where shapes disagree.
    """
    x = np.asarray(times, np.float64).reshape(-1)
    y = np.nan_to_num(np.asarray(probabilities, np.float64))
    if y.ndim != 2 or len(y) != len(x) or y.shape[1] != len(labels) or not y.size:
        raise UsageError(
            f"a timeline needs times (n,), probabilities (n, classes) and as many labels, not {x.shape}, {y.shape}"
            f" and {len(labels)} labels"
        )
    if min(size) < 1 or size[0] < 200 or size[1] < 320 or not 1 <= top <= len(COLOURS):
        raise UsageError(f"a timeline has at least 200 x 320 pixels and 1 to {len(COLOURS)} classes")
    best = np.argsort(-y.mean(0), kind="stable")[:top]
    return _Figure(x, y[:, best], [labels[index] for index in best], size, title).draw()


class _Figure:
    def __init__(
        self, x: NDArray[np.float64], y: NDArray[np.float64], labels: list[str], size: tuple[int, int], title: str
    ) -> None:
        self.x, self.y, self.labels, self.title = x, y, labels, title
        self.height, self.width = size
        self.text = max(11, round(min(self.height / 30, self.width / 60)))
        self.left = round(self.text * 4)
        self.right = self.width - round(self.width * 0.27)
        self.top = round(self.text * (3.2 if title else 1.6))
        self.bottom = self.height - round(self.text * 3.2)
        start, end = float(x[0]), float(x[-1])
        if end - start < 1e-9:
            start, end = start - 0.5, start + 0.5
        self.start, self.end = start, end
        peak = float(y.max())
        self.ceiling = next((level for level in (0.1, 0.25, 0.5, 1.0) if peak <= level), 1.0)
        self.image = Image.new("RGB", (self.width, self.height), "white")
        self.pen = ImageDraw.Draw(self.image)

    def draw(self) -> Image.Image:
        self._axes()
        for index in reversed(range(len(self.labels))):  # the leading class on top
            self._line(index)
        self._names()
        return self.image

    def _at(self, seconds: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels (n, 2) of points."""
        x = self.left + (seconds - self.start) / (self.end - self.start) * (self.right - self.left)
        y = self.bottom - np.clip(share / self.ceiling, 0, 1) * (self.bottom - self.top)
        return np.stack([x, y], axis=1)

    def _axes(self) -> None:
        pen, face = self.pen, font(self.text)
        if self.title:
            room = self.width - self.left - self.text
            name = shorten(self.title, round(self.text * 1.2), room)
            pen.text(
                (self.left, self.top - self.text * 1.3), name, fill=_INK, font=font(round(self.text * 1.2)), anchor="ls"
            )
        for part in range(6 if self.ceiling in (0.1, 0.25) else 5):
            parts = 5 if self.ceiling in (0.1, 0.25) else 4
            level = self.ceiling * part / parts
            y = round(self.bottom - (self.bottom - self.top) * part / parts)
            pen.line((self.left, y, self.right, y), fill=_GRID if part else _AXIS)
            pen.text((self.left - self.text * 0.6, y), f"{level * 100:g}%", fill=_FAINT, font=face, anchor="rm")
        long = self.end - self.start > 180
        wanted = max(2, (self.right - self.left) / (self.text * 6))
        step = _nice_step((self.end - self.start) / wanted)
        first, last = math.ceil(self.start / step - 1e-9), math.floor(self.end / step + 1e-6)
        ticks = [tick * step for tick in range(first, last + 1)] if self.x[-1] > self.x[0] else [float(self.x[0])]
        for seconds in ticks:
            x = round(float(self._at(np.array([seconds]), np.zeros(1))[0, 0]))
            pen.line((x, self.top, x, self.bottom), fill=_GRID)
            name = clock(seconds, 0) if long and seconds >= 0 else f"{round(seconds, 6):g}"
            pen.text((x, self.bottom + self.text * 0.5), name, fill=_FAINT, font=face, anchor="ma")
        pen.line((self.left, self.bottom, self.right, self.bottom), fill=_AXIS)
        unit = "time (h:mm:ss)" if long and self.end >= 3600 else "time (m:ss)" if long else "time (seconds)"
        middle = (self.left + self.right) / 2
        pen.text((middle, self.bottom + self.text * 1.8), unit, fill=_FAINT, font=face, anchor="ma")

    def _line(self, index: int) -> None:
        points = _thin(self._at(self.x, self.y[:, index]))
        mask = Image.new("L", (self.width * _SMOOTH, self.height * _SMOOTH))
        pen = ImageDraw.Draw(mask)
        scaled = [tuple(point) for point in ((points + 0.5) * _SMOOTH).tolist()]
        stroke = self.text * (0.2 if index == 0 else 0.15)
        if len(scaled) > 1:
            pen.line(scaled, fill=255, width=max(2, round(stroke * _SMOOTH)), joint="curve")
        if len(scaled) <= 24:  # few points are shown as such
            radius = stroke * 1.5 * _SMOOTH
            for x, y in scaled:
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        self.image.paste(COLOURS[index], (0, 0), mask.reduce(_SMOOTH))

    def _names(self) -> None:
        """Labels at the line ends, moved apart where they would touch, each tied to its line."""
        face, small = font(self.text), round(self.text * 0.9)
        pen = self.pen
        ends = self._at(self.x[-1:].repeat(len(self.labels)), self.y[-1])
        x_end = float(ends[0, 0])
        lane = self.text * 2.5
        low, high = self.top + lane / 2, self.bottom - lane / 2
        order = np.argsort(ends[:, 1], kind="stable")
        places = _spread(ends[order, 1], lane, low, high)
        x_text = self.right + self.text * 1.6
        room = self.width - x_text - self.text * 0.5
        for index, place in zip(order, places, strict=True):
            colour = COLOURS[index]
            y_end = float(ends[index, 1])
            pen.line((x_end + 3, y_end, x_text - 4, place), fill=_lighter(colour), width=1)
            name = shorten(self.labels[index], self.text, room)
            pen.text((x_text, place - self.text * 0.1), name, fill=_darker(colour), font=face, anchor="ls")
            last, peak = self.y[-1, index], self.y[:, index].max()
            note = f"{last:.0%}, peak {peak:.0%}" if len(self.x) > 1 else f"{last:.0%}"
            place_note = (x_text, place + self.text * 0.95)
            pen.text(place_note, shorten(note, small, room), fill=_FAINT, font=font(small), anchor="ls")


def _nice_step(least: float) -> float:
    """The smallest step of a readable scale that is at least `least` seconds."""
    if least > 15:
        for step in (20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400):
            if step >= least:
                return float(step)
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def _thin(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most four points per pixel column: first, lowest, highest, last. What is drawn stays the same."""
    column = np.floor(points[:, 0]).astype(np.int64)
    starts = np.flatnonzero(np.r_[True, np.diff(column) != 0])
    if len(points) <= 4 * len(starts):
        return points
    ends = np.r_[starts[1:], len(points)]
    keep: set[int] = set()
    for start, end in zip(starts, ends, strict=True):
        y = points[start:end, 1]
        keep |= {int(start), int(start + y.argmin()), int(start + y.argmax()), int(end - 1)}
    return points[sorted(keep)]


def _spread(wanted: NDArray[np.float64], lane: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones (rising) that keep `lane` apart, between `low` and `high` as far as there is room."""
    lane = min(lane, (high - low) / max(1, len(wanted) - 1))
    places: list[float] = []
    for value in wanted:
        places.append(max(float(value), low, places[-1] + lane if places else low))
    limit = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - lane
    return places


def _lighter(colour: Colour) -> Colour:
    return tuple(round(255 - (255 - value) * 0.45) for value in colour)  # type: ignore[return-value]


def _darker(colour: Colour) -> Colour:
    return tuple(round(value * 0.82) for value in colour)  # type: ignore[return-value]
