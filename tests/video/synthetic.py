"""Small videos whose every frame tells its own number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def picture(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """uint8 (height, width, 3): eight vertical bars, black or white, are the bits of `number`; a red corner."""
    height, width = size
    bits = [(number >> bit) & 1 for bit in range(8)]
    columns = np.repeat(bits, -(-width // 8))[:width]
    image = np.repeat((columns * 200 + 28).astype(np.uint8)[None, :, None], height, 0).repeat(3, 2)
    image[: height // 4, : width // 4] = (220, 20, 20)
    return np.ascontiguousarray(image)


def number_of(image: np.ndarray) -> int:
    """The number that `picture` wrote."""
    row = image[-max(1, image.shape[0] // 3) :].mean((0, 2))
    step = image.shape[1] / 8
    return sum(int(row[int((bit + 0.5) * step)] > 128) << bit for bit in range(8))


def make_video(
    path: Path,
    frames: int = 20,
    fps: float = 10,
    *,
    times: Sequence[float] | None = None,
    size: tuple[int, int] = (48, 64),
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    rotation: float | None = None,
    metadata: dict[str, str] | None = None,
    offset: float = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Frames 0, 1, ... at `times` (seconds) or at constant `fps`, `offset` seconds from zero."""
    container: Any = av.open(str(path), "w", options=options or {})
    with container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        if codec != "mpeg2video":  # it knows the rates of broadcasting only
            stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "mpeg4":
            stream.codec_context.qmin = stream.codec_context.qmax = 2
            stream.codec_context.gop_size = 5
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            frame: Any = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24").reformat(format=pix_fmt)
            seconds = times[index] if times is not None else index / fps
            frame.pts = round((seconds + offset) * 1000)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
