"""Videos and pictures written so that a file is either whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from movinet.errors import UsageError, VideoError

if TYPE_CHECKING:
    from av.container import OutputContainer

VIDEO_SUFFIXES = (".mp4", ".webm", ".gif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

_GIF_SIDE = 400  # pixels of the long side: a GIF is for pages and messages
_GIF_FPS = 10


def check_output(path: str | os.PathLike[str], kind: Literal["video", "picture"]) -> Path:
    """The path, if a file of that kind can be written there; call it before any long work.

    Raises `UsageError` for a suffix that is not supported (naming those that are), a folder in the place of the file,
    and a folder that is missing or cannot be written to.
    """
    target = Path(path)
    suffixes = VIDEO_SUFFIXES if kind == "video" else PICTURE_SUFFIXES
    if target.suffix.lower() not in suffixes:
        what = f"ends in {target.suffix!r}" if target.suffix else "has no suffix"
        raise UsageError(f"cannot write '{target}': it {what}; a {kind} may end in {', '.join(suffixes)}")
    if target.is_dir():
        raise UsageError(f"cannot write '{target}': it is a folder; give a file name")
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"cannot write '{target}': there is no folder '{folder}'; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write '{target}': the folder '{folder}' is not writable; choose another")
    return target


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path in the same folder that replaces `target` when the block succeeds, and is removed when it does not."""
    partial = target.with_name(f".{secrets.token_hex(8)}.partial{target.suffix}")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise VideoError(
            f"cannot write '{target}': {error.strerror or error}; check the space and permissions"
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def save_picture(path: str | os.PathLike[str], image: NDArray[np.uint8] | Image.Image) -> None:
    """Write a picture (uint8 (height, width, 3) RGB, or a Pillow image); an existing file is replaced once it is whole.

    Raises `UsageError` as `check_output` does, `VideoError` where the disk refuses.
    """
    target = check_output(path, "picture")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    jpeg = target.suffix.lower() in (".jpg", ".jpeg")
    if jpeg and picture.mode != "RGB":
        picture = picture.convert("RGB")
    options: dict[str, Any] = {"quality": 92} if jpeg else {}
    with _beside(target) as partial:
        picture.save(partial, **options)


class VideoWriter:
    """Writes frames of one size (height, width) in pixels at a constant `fps` to `.mp4`, `.webm` or `.gif`.

    A context manager: the file appears, whole, when the block ends well; when it fails or is interrupted, nothing stays
    and an existing file is as it was. MP4 is H.264 (MPEG-4 Part 2 where FFmpeg lacks an encoder for it) that browsers
    play while it loads; odd sizes get their last row or column twice. A GIF is scaled down to 400 pixels and thinned
    out to at most 10 frames per second. Raises `UsageError` as `check_output` does, and for sizes and rates without
    sense, before any work; `VideoError` where encoding or the disk fails.
    """

    def __init__(self, path: str | os.PathLike[str], size: tuple[int, int], fps: float) -> None:
        self.path = check_output(path, "video")
        height, width = size
        if min(size) < 1 or max(size) > 16384:
            raise UsageError(f"a video of {width} x {height} pixels cannot be written; sides go from 1 to 16384")
        if not 0 < fps <= 1000:
            raise UsageError(f"fps is {fps}; it must be above 0 and at most 1000 frames per second")
        self.size = (height, width)
        self.fps = float(fps)
        self.frames = 0
        self._gif = self.path.suffix.lower() == ".gif"
        self._container: OutputContainer | None = None
        self._scope: Any = None

    def __enter__(self) -> VideoWriter:
        self._scope = _beside(self.path)
        partial = self._scope.__enter__()
        try:
            with _told(self.path):
                self._open(partial)
        except BaseException as error:
            self._abandon(error)
            raise
        return self

    def _open(self, partial: Path) -> None:
        import av

        height, width = self.size
        # The muxer is named, and `file:` keeps FFmpeg from reading protocols and patterns out of the name.
        suffix = self.path.suffix.lower()
        options = {".mp4": {"movflags": "+faststart"}}.get(suffix, {})
        container = av.open(f"file:{partial.absolute()}", "w", format=suffix[1:], options=options)
        self._container = container
        rate = Fraction(self.fps).limit_denominator(1001)
        if self._gif:
            self._graph = _gif_graph(self.size, rate)
            self._stream: Any = None  # made from the first filtered frame
            return
        codec, settings = _encoder(suffix)
        self._stream = container.add_stream(codec, rate=rate, options=settings)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        # HD players assume BT.709 and others BT.601 unless told: tell them.
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add a frame: uint8 (height, width, 3) RGB. Raises `UsageError` for another shape, `VideoError` on failure."""
        if self._container is None:
            raise UsageError("a VideoWriter writes inside its `with` block only")
        if image.dtype != np.uint8 or image.shape != (*self.size, 3):
            raise UsageError(f"frames of '{self.path}' are uint8 {(*self.size, 3)}, not {image.dtype} {image.shape}")
        with _told(self.path):
            self._encode(image)
        self.frames += 1

    def _encode(self, image: NDArray[np.uint8]) -> None:
        import av

        height, width = self.size
        if not self._gif and (height % 2 or width % 2):
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self.frames
        assert self._container is not None
        if self._gif:
            # Thinned out here: FFmpeg's own filter would drop a video of one short frame altogether.
            tick = max(1.0, self.fps / _GIF_FPS)
            if self.frames and int(self.frames / tick) == int((self.frames - 1) / tick):
                return
            frame.time_base = 1 / Fraction(self.fps).limit_denominator(1001)
            self._graph.push(frame)
            self._drain()
        else:
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            self._container.mux(self._stream.encode(frame))

    def _drain(self) -> None:
        """Move the frames that left the GIF's filters into the file."""
        import av
        import av.error

        assert self._container is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if self._stream is None:
                self._stream = self._container.add_stream("gif", rate=100)
                self._stream.width, self._stream.height = frame.width, frame.height
                self._stream.pix_fmt = "pal8"
                self._stream.codec_context.time_base = Fraction(1, 100)
            frame.pts = round(frame.pts * frame.time_base * 100)
            frame.time_base = Fraction(1, 100)
            self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and not self.frames:
            error = UsageError(f"no frame was written to '{self.path}', so there is no file")
            self._abandon(error)
            raise error
        if error is None:
            try:
                with _told(self.path):
                    self._finish()
            except BaseException as failure:
                self._abandon(failure)
                raise
            self._scope.__exit__(None, None, None)
        else:
            self._abandon(error)

    def _finish(self) -> None:
        container, self._container = self._container, None
        assert container is not None
        try:
            if self._gif:
                self._container = container
                self._graph.push(None)
                self._drain()
                self._container = None
            container.mux(self._stream.encode(None))
        finally:
            container.close()

    def _abandon(self, error: BaseException) -> None:
        container, self._container = self._container, None
        if container is not None:
            with suppress(Exception):  # the file is thrown away; the error that matters is on its way
                container.close()
        with suppress(BaseException):
            self._scope.__exit__(type(error), error, error.__traceback__)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """FFmpeg's errors as ours."""
    import av.error

    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"cannot write '{path}': {reason}; check the space and permissions") from None


def _encoder(suffix: str) -> tuple[str, dict[str, str]]:
    import av

    if suffix == ".webm":
        return "libvpx-vp9", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
    if "libx264" in av.codecs_available:
        return "libx264", {"crf": "20", "preset": "veryfast"}
    return "mpeg4", {"q": "4"}


def _gif_graph(size: tuple[int, int], rate: Fraction) -> Any:
    """Scale down and find the best 256 colours of every frame."""
    import av.filter

    height, width = size
    scale = min(1.0, _GIF_SIDE / max(size))
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / rate)
    nodes = [source]

    def then(name: str, arguments: str) -> None:
        nodes.append(graph.add(name, arguments))
        nodes[-2].link_to(nodes[-1])

    if scale < 1:
        then("scale", f"{max(1, round(width * scale))}:{max(1, round(height * scale))}:flags=area")
    split = graph.add("split", "2")
    palette = graph.add("palettegen", "stats_mode=single")
    use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=5")
    sink = graph.add("buffersink")
    nodes[-1].link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph
