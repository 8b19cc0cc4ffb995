from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from movinet.video.timing import Clock, resample, sane_rate


def times(stamps, step=0.1, duration=None):
    clock = Clock(step, duration)
    return [round(clock(stamp), 6) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 0.1, 0.2], [0, 0.1, 0.2]),
        ([-5, -4.5, -4.4], [0, 0.5, 0.6]),  # negative
        ([95443.7, 95443.8], [0, 0.1]),  # a stream that was joined late
        ([None, None, None], [0, 0.1, 0.2]),
        ([0, None, 0.2], [0, 0.1, 0.2]),
        ([None, None, 7.0, 7.5], [0, 0.1, 0.2, 0.7]),
        ([0, 0, 0], [0, 0.1, 0.2]),  # all the same
        ([0.1, 0.2, 0.4, 0.3, 0.6], [0, 0.1, 0.3, 0.4, 0.5]),  # an AVI with B-frames
        ([26.5 * 3600, 0, 0.5], [0, 0.1, 0.6]),  # the clock of a transport stream wraps
        ([0, 1e6, 1e6 + 0.5], [0, 0.1, 0.6]),
        ([0, float("nan"), float("inf")], [0, 0.1, 0.2]),
        ([0, 9.5], [0, 9.5]),  # a slow source
    ],
)
def test_timestamps_are_repaired(stamps, expected):
    assert times(stamps) == pytest.approx(expected)


def test_long_gap_needs_the_header():
    assert times([0, 30.0]) == [0, 0.1]
    assert times([0, 30.0], duration=31) == [0, 30.0]
    assert times([0, 5000.0], duration=6000) == [0, 0.1]  # above an hour nothing is believed
    assert times([0, 60.0, 120.0], step=60) == [0, 60, 120]  # a time lapse


@given(st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=40), st.floats(0.001, 60))
def test_times_always_rise(stamps, step):
    clock = Clock(step)
    result = [clock(stamp) for stamp in stamps]
    assert all(math.isfinite(time) for time in result)
    assert all(later > earlier for earlier, later in itertools.pairwise(result))


def shown(stamps, fps, last=0.1):
    return [item for _, item in resample(((t, i) for i, t in enumerate(stamps)), fps, lambda: last)]


def test_sampling_shows_what_is_on_screen():
    stamps = [0, 0.05, 0.31, 0.33, 0.9, 1.0]
    for fps in (1, 3, 5, 7.5, 25):
        expected = []
        n = 0
        while n / fps < 1.1 - 1e-3:
            expected.append(max(i for i, t in enumerate(stamps) if t <= n / fps + 1e-3))
            n += 1
        assert shown(stamps, fps) == expected


def test_sampling_tolerates_milliseconds():
    stamps = [round(i / 24, 3) for i in range(48)]  # as Matroska writes them
    assert shown(stamps, 6, 1 / 24) == list(range(0, 48, 4))


def test_a_wanted_frame_is_given_at_once():
    pulled = []

    def source():
        for index in range(10):
            pulled.append(index)
            yield index * 0.1, index

    stream = resample(source(), 5, lambda: 0.1)
    assert next(stream) == (0, 0)
    assert pulled == [0]
    assert next(stream) == (1, 2)
    assert pulled == [0, 1, 2]


def test_sane_rate():
    assert sane_rate(1000.0, 30.0) == 30
    assert sane_rate(None, 0.0, -1.0, float("nan"), 90000.0) is None
