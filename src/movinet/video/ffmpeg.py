"""Video through FFmpeg (PyAV): opening, choosing the stream, decoding what can be decoded, upright RGB.

FFmpeg's own log stays off: PyAV keeps it from the terminal unless a caller asks for it (`av.logging.set_level`), and
damage is told through `damage()`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from movinet.errors import VideoError
from movinet.video.pictures import Convert, Rgb, over_black, too_large
from movinet.video.source import Source
from movinet.video.timing import DEFAULT_RATE, Clock, sane_rate

# PyAV raises these from FFmpeg's errors, and from names and metadata that it cannot convert.
_ERRORS = (av.error.FFmpegError, OSError, ValueError, RuntimeError, MemoryError)
_TIMEOUTS = (av.error.TimeoutError, av.error.ExitError)
_NOT_VIDEO = frozenset({"tty", "bin", "xbin", "adf", "idf"})  # FFmpeg's animations of text files
_READ_ERRORS = 20  # after which reading is given up; FFmpeg often goes on after the first
_LONGEST = 366 * 86400.0  # seconds of a header's duration that is believed


class FFmpegReader:
    """Frames of a file, a camera or an address: `(seconds from the first frame, convert)` in display order."""

    def __init__(self, source: Source, max_pixels: int, timeout: float) -> None:
        self.source = source
        self.name = source.name
        self.live = source.live
        self.max_pixels = max_pixels
        self.timeout = timeout
        self.broken = self.corrupt = self.encrypted = 0
        self._reformatter = VideoReformatter()
        self._time = self._end = 0.0  # of the last frame, in seconds
        self._complete = False
        self._file: BinaryIO | None = None
        self.container: Any = None
        try:
            self.container = self._open()
            self.stream = self._choose()
            self._describe()
        except BaseException:
            self.close()
            raise

    # Opening

    def _open(self) -> Any:
        source = self.source
        options = {"max_pixels": str(self.max_pixels), "pattern_type": "none"}
        if source.kind == "address":
            options["rtsp_flags"] = "prefer_tcp"  # lost UDP packets are grey smears in the picture
        target: Any = source.target
        try:
            target.encode()
        except UnicodeEncodeError:  # a file name that is no UTF-8: FFmpeg gets the open file instead
            assert source.path is not None
            target = self._file = source.path.open("rb")
        try:
            container: Any = av.open(
                target,
                format=source.format,
                options=options,
                metadata_errors="replace",
                timeout=(self.timeout, self.timeout) if source.live else None,
            )
        except _ERRORS as error:
            raise VideoError(self._why(error)) from None
        if container.format.name in _NOT_VIDEO:
            container.close()
            raise VideoError(self._why(None))
        return container

    def _why(self, error: BaseException | None) -> str:
        """One sentence about a source that does not open."""
        name = self.name
        if isinstance(error, _TIMEOUTS):
            return f"{name!r} did not answer within {self.timeout:g} s; check the address and the network"
        if isinstance(error, av.error.HTTPError):
            return f"cannot open {name!r}: {error.strerror}; check the address"
        if isinstance(error, av.error.PermissionError):
            return f"cannot read {name!r}: permission denied; check its permissions"
        if error is None or isinstance(error, av.error.InvalidDataError):
            if self.source.kind == "address":
                return f"what {name!r} sends is no video; check the address"
            return f"{name!r} is not a video, or its header is damaged; check it in a player"
        if self.source.kind == "camera":
            format_missing = isinstance(error, ValueError) and "format" in str(error)
            reason = "this build of PyAV has no camera support" if format_missing else _text(error)
            return f"cannot open {name} ({self.source.target}): {reason}; close other programs that use it"
        return f"cannot open {name!r}: {_text(error)}"

    def _choose(self) -> Any:
        """The stream to show: FFmpeg's choice unless that is cover art, then the largest real video."""
        every = list(self.container.streams.video)
        videos = [stream for stream in every if not _is_picture(stream)]
        if not videos:
            what = "only a cover picture" if every else "only sound" if self.container.streams.audio else "no video"
            raise VideoError(f"{self.name!r} holds {what}; give a file with a video stream")
        known = [stream for stream in videos if stream.codec_context is not None]
        if not known:
            tag = _safe(lambda: videos[0].codec_tag) or "unknown"
            raise VideoError(
                f"the video in {self.name!r} has a codec ({tag}) that FFmpeg cannot decode; convert it first"
            )
        best = _safe(lambda: self.container.streams.best("video"))
        for stream in known:
            if best is not None and stream.index == best.index:
                return stream
        return max(known, key=lambda stream: stream.width * stream.height)

    def _describe(self) -> None:
        stream = self.stream
        context = stream.codec_context
        self._check_pixels(context.width, context.height)
        # Frame threads delay live pictures by one frame each.
        stream.thread_type = "SLICE" if self.live else "AUTO"
        self.codec: str = _safe(lambda: context.codec.canonical_name) or context.name
        self.rate = sane_rate(
            _safe(lambda: float(stream.average_rate)),
            _safe(lambda: float(stream.guessed_rate)),
        )
        self.duration = self._duration()
        self.frames: int | None = stream.frames or None
        self._clock = Clock(1 / (self.rate or DEFAULT_RATE), self.duration)

    def _duration(self) -> float | None:
        """Seconds of the video stream as the header tells them: its own, Matroska's tag, or the whole file's."""
        stream, container = self.stream, self.container
        candidates = (
            _safe(lambda: float(stream.duration * stream.time_base)),
            _safe(lambda: _clock_text(next(v for k, v in stream.metadata.items() if k.upper().startswith("DURATION")))),
            _safe(lambda: container.duration / av.time_base),
        )
        return next((value for value in candidates if value is not None and 0 < value < _LONGEST), None)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise VideoError(too_large(self.name, f"{width} x {height}", self.max_pixels))

    # Decoding

    def __iter__(self) -> Iterator[tuple[float, Convert]]:
        for frame in self._decoded():
            self._check_pixels(frame.width, frame.height)
            if frame.is_corrupt:
                self.corrupt += 1
            base = frame.time_base or self.stream.time_base
            stamp = None if frame.pts is None or base is None else float(frame.pts * base)
            time = self._clock(stamp)
            duration = float((getattr(frame, "duration", 0) or 0) * (base or 0))
            longest = max(10 * self._clock.step, 10.0)
            self._end = time + (duration if 0 < duration <= longest else self._clock.step)
            self._time = time
            yield time, functools.partial(self._convert, frame)
        self._complete = True

    def _decoded(self) -> Iterator[Any]:
        for packet in self._packets():
            if _is_encrypted(packet):
                self.encrypted += 1
                continue
            try:
                frames = packet.decode()
            except av.error.EOFError:
                continue
            except _ERRORS:
                self.broken += 1
                continue
            yield from frames

    def _packets(self) -> Iterator[Any]:
        """All packets of the stream; the last one is empty and makes the decoder give what it holds."""
        for _ in range(_READ_ERRORS):
            try:
                yield from self.container.demux(self.stream)
                return
            except _TIMEOUTS:
                raise VideoError(f"{self.name!r} sent nothing for {self.timeout:g} s; check the network") from None
            except _ERRORS as error:
                self.broken += 1
                if self.live:
                    raise VideoError(f"the connection to {self.name!r} broke: {_text(error)}") from None

    def _convert(self, frame: Any) -> Rgb | None:
        """Upright RGB of a decoded frame; None if FFmpeg cannot convert it."""
        try:
            alpha = any(component.is_alpha for component in frame.format.components)
            rgb: Any = self._reformatter.reformat(frame, format="rgba" if alpha else "rgb24")
            image: Rgb = rgb.to_ndarray()
        except _ERRORS:
            self.broken += 1
            return None
        if alpha:
            image = over_black(image)
        return upright(image, self._matrix(frame))

    def _matrix(self, frame: Any) -> tuple[int, int, int, int]:
        """The a, b, c, d of the display matrix: x' = a x + c y, y' = b x + d y, with y pointing down."""
        data = _safe(lambda: bytes(frame.side_data["DISPLAYMATRIX"]))
        if data is not None and len(data) >= 36:
            values = np.frombuffer(data, np.int32, 9)
            return int(values[0]), int(values[1]), int(values[3]), int(values[4])
        turn = _safe(lambda: round(float(self.stream.metadata["rotate"]) / 90) % 4) or 0  # clockwise; old FFmpeg
        return [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turn]

    def last_duration(self) -> float:
        """Seconds that the last frame stays."""
        return self._end - self._time

    def damage(self) -> tuple[int, list[str]]:
        """How many parts were damaged so far, and phrases about them."""
        phrases = []
        if self.broken:
            phrases.append(f"{self.broken} of its parts could not be decoded")
        if self.corrupt:
            phrases.append(f"{self.corrupt} frames are damaged")
        if self.encrypted:
            phrases.append(f"{self.encrypted} frames are encrypted")
        count = self.broken + self.corrupt + self.encrypted
        declared = self.duration
        if self._complete and not self.live and declared is not None and self._end < declared - max(1.0, declared / 10):
            phrases.append(f"the picture ends at {self._end:.1f} s of {declared:.1f} s")
            count += 1
        return count, phrases

    def nothing(self) -> str:
        """Why no frame came out."""
        if self.encrypted:
            return f"the video in {self.name!r} is encrypted; give a copy without protection"
        if self.live:
            return f"{self.name!r} sent no frame that can be decoded; check it in a player"
        return f"no frame of {self.name!r} can be decoded; the file is damaged or incomplete, copy or download it again"

    def close(self) -> None:
        """Free the decoder and the file."""
        if self.container is not None:
            self.container.close()
        if self._file is not None:
            self._file.close()


def upright(image: Rgb, matrix: tuple[int, int, int, int]) -> Rgb:
    """Turn and mirror an image as the display matrix (a, b, c, d) asks, rounded to quarter turns."""
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        mirror_x, mirror_y = a < 0, d < 0
    else:
        image = image.transpose(1, 0, 2)
        mirror_x, mirror_y = c < 0, b < 0
    if mirror_x:
        image = image[:, ::-1]
    if mirror_y:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _is_picture(stream: Any) -> bool:
    return bool(int(_safe(lambda: stream.disposition) or 0) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def _is_encrypted(packet: Any) -> bool:
    return bool(_safe(lambda: packet.has_sidedata("encryption_info")))


def _clock_text(text: str) -> float:
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _text(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return os.linesep.join(str(reason).splitlines()[:1]).rstrip(".")


def _safe(get: Any) -> Any:
    """The value of `get()`, or None: a header field that is missing or nonsense says nothing."""
    try:
        return get()
    except (*_ERRORS, TypeError, AttributeError, LookupError, ArithmeticError, StopIteration):
        return None
