"""Open anything that moves and read it frame by frame, as upright RGB with honest times."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from movinet.errors import UsageError, VideoError
from movinet.video.pictures import Convert, PictureReader, pictures_in
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
        self._first: Frame | None = next(self._frames, None)
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
        count, phrases = self._reader.damage()
        return Damage(count, "; ".join(phrases))

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

    def _read(self) -> Generator[Frame]:
        reader, fps = self._reader, self._fps
        if fps is None:
            index = 0
            for time, convert in reader:
                image = convert()
                if image is not None:
                    yield Frame(image, time, index)
                    index += 1
            return
        # Only frames that are shown are converted to RGB. One that is shown again is converted again, so that no two
        # frames share memory that a caller may draw on.
        good: Convert | None = None
        for index, convert in resample(reader, fps, reader.last_duration):
            image = convert()
            if image is not None:
                good = convert
            elif good is not None:
                image = good()
            if image is not None:
                yield Frame(image, index / fps, index)

    def _count(self) -> int | None:
        reader = self._reader
        if reader.duration is None:
            return reader.frames if self._fps is None or reader.frames == 1 else None
        if self._fps is not None:
            return max(1, math.ceil(reader.duration * self._fps - 1e-3))
        # The header's own number comes last: in AVI it counts empty packets too.
        return max(1, round(reader.duration * reader.rate)) if reader.rate else reader.frames


def open_video(
    source: str | int | os.PathLike[str],
    *,
    fps: float | None = None,
    pictures_fps: float = DEFAULT_RATE,
    max_pixels: int = MAX_PIXELS,
    timeout: float = TIMEOUT,
) -> Video:
    """Open a source and decode its first frame.

    `source` is a file that FFmpeg reads (animated GIF included), a picture, a folder of pictures (in natural order,
    `pictures_fps` of them per second), a camera number (`0` or `"0"`), or an address (`http(s)://`, `rtsp(s)://`,
    `rtmp(s)://`). Rotation is honoured; transparent parts are black (VP8 and VP9 hide their alpha: theirs show the
    colour beneath); the pixel aspect ratio is not applied; sound and subtitles are ignored; frame sizes may change in
    the middle. `Frame.time` starts at 0 and rises; `movinet.video.timing.Clock` tells how bad timestamps are repaired.

    With `fps` the video is sampled by time, as converting it to a constant rate does: frame n is the one shown at
    n / fps seconds (the last one that began before or at that time), repeated where the source is slower, and
    `Frame.time` is n / fps. Without it every frame comes.

    `max_pixels` limits the size of a frame; an address that is silent for `timeout` seconds is given up.
    Raises `VideoError` with one sentence that names the source, and `UsageError` for an `fps` that makes no sense.
    """
    for name, rate in (("fps", fps), ("pictures_fps", pictures_fps)):
        if rate is not None and not 0 < rate <= 1000:
            raise UsageError(f"{name} is {rate}; it must be above 0 and at most 1000 frames per second")
    found = find_source(source)
    if found.kind == "folder":
        assert found.path is not None
        return Video(found.name, PictureReader(found.name, pictures_in(found.path), pictures_fps, max_pixels), fps)
    if found.kind == "picture":
        return _open_picture(found, fps, max_pixels, timeout)
    return _open_ffmpeg(found, fps, max_pixels, timeout)


def _open_picture(found: Source, fps: float | None, max_pixels: int, timeout: float) -> Video:
    assert found.path is not None
    try:
        return Video(found.name, PictureReader(found.name, [found.path], None, max_pixels), fps)
    except VideoError as error:
        # FFmpeg goes by content, not by name, and shows what there is of a picture that was cut.
        try:
            return _open_ffmpeg(found, fps, max_pixels, timeout)
        except VideoError:
            raise error from None


def _open_ffmpeg(found: Source, fps: float | None, max_pixels: int, timeout: float) -> Video:
    from movinet.video.ffmpeg import FFmpegReader  # PyAV takes a tenth of a second to import

    reader = FFmpegReader(found, max_pixels, timeout)
    try:
        return Video(found.name, reader, fps)
    except BaseException:
        reader.close()
        raise


def probe(source: str | int | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, timeout: float = TIMEOUT) -> VideoInfo:
    """What a source says about itself, and that its first frame decodes; nothing more is read.

    Raises `VideoError` like `open_video`.
    """
    with open_video(source, max_pixels=max_pixels, timeout=timeout) as video:
        return video.info
