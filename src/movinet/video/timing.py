"""Time: a steady clock out of the timestamps that files really carry, and sampling by that clock.

Timestamps are missing, repeated, negative, out of order or leap by hours in files that play well everywhere, so that
no caller should see them raw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

DEFAULT_RATE = 25.0  # frames per second where nothing tells: FFmpeg's own default for pictures
HIGHEST_RATE = 240.0  # a header that says more is believed to count clock ticks, not frames
TOLERANCE = 1e-3  # seconds; Matroska and FLV round timestamps to milliseconds
LONGEST_GAP = 10.0  # seconds between frames that are believed without the header's word
LONGEST_DECLARED_GAP = 3600.0  # seconds, where the header's duration agrees


def sane_rate(*candidates: float | None) -> float | None:
    """The first of the candidates (frames per second) that a camera can have: above 0 and up to 240; else None."""
    for rate in candidates:
        if rate is not None and 0 < rate <= HIGHEST_RATE:
            return float(rate)
    return None


class Clock:
    """Turns raw timestamps (seconds, or None) into times that start at 0 and strictly rise.

    `step` is the nominal time between frames, `duration` what the header declares (both in seconds). The rule:

    - the first frame is at 0, whatever its timestamp;
    - a missing timestamp, and one that does not rise (a repetition, a slight disorder), gives the last time + step;
    - a leap is not believed and gives the last time + step, from where later timestamps count on. Forward, a leap is
      more than 10 s (or 10 steps), unless the header's duration covers it and it is below an hour; backward, it is
      more than 1 s (or 16 steps, the widest reordering of H.264): a stream that wrapped or started anew.
    """

    def __init__(self, step: float, duration: float | None = None) -> None:
        self.step = step
        self.duration = duration
        self._time: float | None = None
        self._offset: float | None = None  # raw timestamp of time 0; None until a frame brings one

    def __call__(self, timestamp: float | None) -> float:
        """The time of the next frame, in seconds from the first."""
        if timestamp is not None and not math.isfinite(timestamp):
            timestamp = None
        last = self._time
        if last is None:
            self._time, self._offset = 0.0, timestamp
            return 0.0
        expected = last + self.step
        if timestamp is None:
            self._time = expected
        elif self._offset is None:
            self._time, self._offset = expected, timestamp - expected
        else:
            gap = timestamp - self._offset - last
            if not -max(1.0, 16 * self.step) <= gap <= self._longest_gap(last):
                self._offset = timestamp - expected
                self._time = expected
            else:
                self._time = last + gap if gap > 0 else expected
        return self._time

    def _longest_gap(self, last: float) -> float:
        believed = max(LONGEST_GAP, 10 * self.step)
        if self.duration is None:
            return believed
        return max(believed, min(self.duration - last, LONGEST_DECLARED_GAP))


def resample(
    timed: Iterable[tuple[float, Item]], fps: float, last_duration: Callable[[], float]
) -> Iterator[tuple[int, Item]]:
    """Sample items by time: (n, the item shown at n / fps seconds), n = 0, 1, ... until the last item's time is over.

    `timed` holds (seconds, item) with rising times from 0; an item is shown from its time (less a millisecond, for
    containers that round) until the next one's, so that a slow source repeats items and a fast one skips some. This is
    what resampling a video to constant `fps` before an evaluation amounts to. An item that falls on a wanted time is
    given at once, which keeps live sources prompt. `last_duration()` is asked at the end: seconds the last one stays.
    """
    wanted = 0
    held: tuple[float, Item] | None = None
    for time, item in timed:
        while held is not None and wanted / fps < time - TOLERANCE:
            yield wanted, held[1]
            wanted += 1
        held = time, item
        if wanted / fps <= time + TOLERANCE:
            yield wanted, item
            wanted += 1
    if held is not None:
        end = held[0] + last_duration()
        while wanted / fps < end - TOLERANCE:
            yield wanted, held[1]
            wanted += 1
