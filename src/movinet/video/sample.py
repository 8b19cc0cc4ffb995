"""Which frames of a video make up a clip, by index, as the official evaluation chooses them.

Source: `official/vision/ops/preprocess_ops_3d.py` of the Model Garden (`sample_sequence`, `sample_linspace_sequence`,
`sample_segment_sequence`). Indices run modulo the length: a video that is too short repeats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from movinet.errors import UsageError


def _check(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")


def _indices(offset: int, length: int, steps: int, stride: int) -> NDArray[np.int64]:
    return (offset + np.arange(steps, dtype=np.int64) * stride) % length


def middle_indices(length: int, steps: int, stride: int = 1) -> NDArray[np.int64]:
    """Indices, shape (steps,), of the clip in the middle of a video of `length` frames, every `stride`-th frame.

    Raises `UsageError` for a number below 1.
    """
    _check(length=length, steps=steps, stride=stride)
    return _indices(max(0, (length - steps * stride) // 2), length, steps, stride)


def clip_indices(length: int, steps: int, stride: int = 1, clips: int = 1) -> NDArray[np.int64]:
    """Indices, shape (clips, steps), of `clips` clips spread evenly from the start of the video to its end.

    Raises `UsageError` for a number below 1.
    """
    _check(length=length, steps=steps, stride=stride, clips=clips)
    # In float32 and truncated, as the reference does it; float64 lands on other frames.
    offsets = _linspace(float(max(0, length - steps * stride)), clips).astype(np.int64)
    return np.stack([_indices(int(offset), length, steps, stride) for offset in offsets])


def _linspace(last: float, count: int) -> NDArray[np.float32]:
    """0 to `last` in `count` values, in float32 as TensorFlow computes them: step times index, the last one exact."""
    if count == 1:
        return np.zeros(1, np.float32)
    step = np.float32(last) / np.float32(count - 1)
    values = np.arange(count, dtype=np.float32) * step
    values[-1] = last
    return values.astype(np.float32)


def segment_indices(length: int, segments: int) -> NDArray[np.int64]:
    """Indices, shape (segments,), of the middle frame of each of `segments` equal parts of the video.

    A video with fewer frames than segments repeats some. Raises `UsageError` for a number below 1.
    """
    _check(length=length, segments=segments)
    starts = _linspace(float(length), segments + 1)[:-1].astype(np.int64)
    return starts + length // segments // 2
