from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from movinet.errors import UsageError
from movinet.video import draw_predictions, timeline
from movinet.video.chart import COLOURS, _spread, _thin
from movinet.video.text import clock, font, printable, shorten

TOP = [
    ("playing drums", 0.9),
    ("tapping guitar " * 9, 0.05),
    ("日本語 наряд café", 0.03),
    ("\x00\n\ud800", 0.01),
    ("", 0),
]


@pytest.mark.parametrize(
    "size", [(1, 1), (10, 16), (16, 10), (300, 34), (34, 300), (120, 160), (720, 1280), (2160, 3840)]
)
def test_any_size(size):
    image = np.full((*size, 3), 90, np.uint8)
    drawn = draw_predictions(image, TOP, 75.25)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 90).all()
    changed = (drawn != image).any(2)
    if min(size) >= 120:
        assert changed.mean() > 0.05
        rows, columns = np.nonzero(changed[size[0] // 4 :])  # the panel: bottom left, inside the picture
        assert columns.min() > 0
        assert rows.max() < size[0] - size[0] // 4 - 1
        assert columns.max() < size[1] - 1


def test_bars_follow_probabilities():
    image = np.zeros((480, 640, 3), np.uint8)

    def blue(probability):
        drawn = draw_predictions(image, [("a", probability)]).astype(int)
        return ((drawn[..., 2] > 200) & (drawn[..., 0] < 120)).sum()

    none, half, full = blue(0.0), blue(0.5), blue(1.0)
    assert none == 0
    assert half == pytest.approx(full / 2, rel=0.05)
    assert blue(7.0) == full
    assert blue(float("nan")) == 0


def test_nothing_to_draw():
    image = np.full((200, 200, 3), 7, np.uint8)
    np.testing.assert_array_equal(draw_predictions(image, []), image)
    with pytest.raises(UsageError):
        draw_predictions(image.astype(np.float32), TOP)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.integers(8, 60), st.integers(0, 400))
def test_text_never_overflows(text, size, width):
    short = shorten(text, size, width)
    assert font(size).getlength(short) <= width
    assert "\n" not in short


def test_printable():
    assert printable("a\tb\nc") == "a b c"
    assert printable("cafe\u0301") in ("café", "cafe")
    assert len(printable("日本")) == 2
    assert printable("\ud800").strip() != "\ud800"


def test_clock():
    assert clock(0) == "0:00.0"
    assert clock(59.96) == "1:00.0"
    assert clock(3725.3) == "1:02:05.3"
    assert clock(61, 0) == "1:01"


def has(image, colour, tolerance=30):
    pixels = np.asarray(image).astype(int)
    return (np.abs(pixels - colour).max(2) < tolerance).any()


@pytest.mark.parametrize("count", [1, 2, 50, 10_000])
def test_timeline(count):
    rng = np.random.default_rng(0)
    values = rng.random((count, 8)) * np.array([0.9, 0.5, 0.4, 0.3, 0.2, 0.01, 0.01, 0.01])
    labels = [f"a very long name for class number {index} " * 4 for index in range(8)]
    picture = timeline(np.arange(count) / 5, values, labels, title="x" * 500)
    assert isinstance(picture, Image.Image)
    assert picture.size == (1080, 480)
    for colour in COLOURS[:5]:
        assert has(picture, colour)
    pixels = np.asarray(picture)
    assert (pixels[:, -2:] == 255).all()  # nothing runs over the edge
    assert (pixels[-2:] == 255).all()


@pytest.mark.parametrize(
    "values", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), 1.5), np.ones((5, 2)) * 1e-9]
)
def test_timeline_of_strange_values(values):
    timeline(np.arange(5.0), values, ["a", "b"], size=(200, 320))
    timeline(np.zeros(5), values, ["a", "b"])
    timeline(np.arange(5.0) * 86400, values, ["日本", ""])
    timeline(np.arange(5.0) * 1e-4 - 3, values, ["a", "b"])


def test_timeline_refuses():
    for times, values, labels, options in (
        ([0.0], np.zeros((2, 1)), ["a"], {}),
        ([0.0], np.zeros((1, 2)), ["a"], {}),
        ([], np.zeros((0, 2)), ["a", "b"], {}),
        ([0.0], np.zeros((1, 1)), ["a"], {"size": (10, 10)}),
        ([0.0], np.zeros((1, 1)), ["a"], {"top": 0}),
    ):
        with pytest.raises(UsageError):
            timeline(times, values, labels, **options)


def test_thinning_keeps_extremes():
    y = np.zeros(100_000)
    y[54_321] = 9
    thin = _thin(np.stack([np.linspace(0, 100, len(y)), y], 1))
    assert len(thin) < 500
    assert thin[:, 1].max() == 9


def test_names_keep_apart():
    places = _spread(np.array([5.0, 5.0, 6.0, 90.0]), 10, 0, 100)
    assert np.diff(places).min() >= 10
    assert places[-1] <= 100
