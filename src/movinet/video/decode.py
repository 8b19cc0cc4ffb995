"""Open anything that moves and read it frame by frame, as upright RGB with honest times."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from movinet.errors import UsageError, VideoError
from movinet.video.pictures import Convert, PictureReader, open_picture, pictures_in
from movinet.video.source import Source, find_source
from movinet.video.timing import DEFAULT_RATE, resample

MAX_PIXELS = 16384 * 16384  # per frame
TIMEOUT = 10.0  # seconds that an address may keep silent


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video: uint8 (height, width, 3) RGB, upright; seconds from the first frame; number from 0."""

    image: NDArray[np.uint8]
    time: float
    index: int


@dataclass(frozen=True)
class Damage:
    """What could not be decoded: how many parts, and a short text (empty where all is well). False if nothing."""

    count: int = 0
    text: str = ""

    def __bool__(self) -> bool:
        return self.count > 0


@dataclass(frozen=True)
class VideoInfo:
    """What a source says about itself. Sizes in pixels, as shown (after rotation), of the first frame."""

    name: str
    width: int
    height: int
    duration: float | None  # seconds, as the header declares them
    rate: float | None  # average frames per second of the source
    live: bool  # a camera or an address: no end in sight
    frame_count: int | None  # an estimate of how many frames reading will give
    codec: str  # FFmpeg's name, e.g. "h264"; "png" and the like for pictures


class _Reader(Protocol):
    codec: str
    live: bool
    rate: float | None
    frames: int | None
    duration: float | None

    def __iter__(self) -> Iterator[tuple[float, Convert]]: ...
    def last_duration(self) -> float: ...
    def damage(self) -> tuple[int, list[str]]: ...
    def nothing(self) -> str: ...
    def close(self) -> None: ...


class Video:
    """An open video: a context manager, and an iterator over its `Frame`s (one pass). Made by `open_video`.

    Frames that do not decode are skipped and counted in `damage`, which is complete once all frames are read. Reading
    raises `VideoError` when a camera or an address stops answering, and `UsageError` when the video is closed.
    """

    def __init__(self, name: str, reader: _Reader, fps: float | None) -> None:
        self._reader = reader
        self._fps = fps
        self._closed = False
        self._frames = self._read()
        # Decoding the first frame here makes errors appear where the source is named, and the size true.
        self._first = next(self._frames, None)
        if self._first is None:
            raise VideoError(reader.nothing())
        height, width = self._first.image.shape[:2]
        self.info = VideoInfo(
            name=name,
            width=width,
            height=height,
            duration=reader.duration,
            rate=reader.rate,
            live=reader.live,
            frame_count=self._count(),
            codec=reader.codec,
        )

    @property
    def name(self) -> str:
        """The source as messages call it (addresses without password)."""
        return self.info.name

    @property
    def width(self) -> int:
        """Pixels of the first frame, upright."""
        return self.info.width

    @property
    def height(self) -> int:
        """Pixels of the first frame, upright."""
        return self.info.height

    @property
    def duration(self) -> float | None:
        """Seconds as declared; None if unknown."""
        return self.info.duration

    @property
    def rate(self) -> float | None:
        """Average frames per second of the source; None if unknown."""
        return self.info.rate

    @property
    def live(self) -> bool:
        """Whether the source is a camera or an address."""
        return self.info.live

    @property
    def frame_count(self) -> int | None:
        """About how many frames iteration gives, for progress bars; None if unknown."""
        return self.info.frame_count

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec; `"png"` and the like for pictures."""
        return self.info.codec

    @property
    def damage(self) -> Damage:
        """What could not be decoded so far; whether the file was cut short is known after the last frame."""
        count, phrases = self._damage
        return Damage(count, "; ".join(phrases))

    _damage: tuple[int, list[str]] = (0, [])

    def __iter__(self) -> Video:
        return self

    def __next__(self) -> Frame:
        if self._closed:
            raise UsageError(f"{self.name!r} is closed; open it again to read it")
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        return next(self._frames)

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the file and the decoder; what `damage` and the properties say stays."""
        if not self._closed:
            self._closed = True
            self._frames.close()
            self._reader.close()

    def _read(self) -> Iterator[Frame]:
        raise NotImplementedError

    def _count(self) -> int | None:
        reader = self._reader
        if reader.duration is None:
            return reader.frames if self._fps is None or reader.frames == 1 else None
        if self._fps is not None:
            return max(1, math.ceil(reader.duration * self._fps - 1e-3))
        # The header's own number comes last: in AVI it counts empty packets too.
        return max(1, round(reader.duration * reader.rate)) if reader.rate else reader.frames
