"""Pictures as video: one file, an animated file, or a folder of them, read by Pillow."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from movinet.errors import VideoError
from movinet.video.source import PICTURE_SUFFIXES
from movinet.video.timing import DEFAULT_RATE

Rgb = NDArray[np.uint8]
Convert = Callable[[], Rgb | None]  # None: this frame turns out to be damaged

FOLDER_SUFFIXES = PICTURE_SUFFIXES | {".gif"}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises on bad bytes


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts `frame2` before `frame10`, without regard to case."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", name.lower())
    ]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order. Raises `VideoError` where there is none or it cannot be read."""
    try:
        names = [
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in FOLDER_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        ]
    except OSError as error:
        raise VideoError(f"cannot read the folder '{folder}': {error.strerror}; check its permissions") from None
    if not names:
        raise VideoError(f"the folder '{folder}' holds no pictures; give a folder of pictures or one video file")
    return sorted(names, key=lambda path: natural_key(path.name))


def open_picture(path: Path, max_pixels: int) -> Image.Image | None:
    """The picture with its header read; None if Pillow cannot read it. Raises `VideoError` above `max_pixels`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit warns from 89 million pixels on; ours is below
            picture = Image.open(path)
    except Image.DecompressionBombError:
        raise VideoError(too_large(str(path), "more", max_pixels)) from None
    except _BROKEN:
        return None
    if picture.width * picture.height > max_pixels:
        picture.close()
        raise VideoError(too_large(str(path), f"{picture.width} x {picture.height}", max_pixels))
    return picture


def too_large(name: str, pixels: str, max_pixels: int) -> str:
    """The message about a picture above the limit."""
    return f"{name!r} has pictures of {pixels} pixels, above the limit of {max_pixels:,}; make it smaller first"


def to_rgb(picture: Image.Image) -> Rgb | None:
    """Upright uint8 (height, width, 3), transparent parts over black; None if the bytes are damaged."""
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16"):  # 16-bit grey: Pillow would clip it at 255 instead of scaling
            grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.has_transparency_data:
            return over_black(np.asarray(upright.convert("RGBA")))
        return np.array(upright.convert("RGB"))
    except _BROKEN:
        return None


def over_black(rgba: Rgb) -> Rgb:
    """uint8 (height, width, 4) to (height, width, 3): what shines through is black, as video players show it."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    return ((colour.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


class PictureReader:
    """Frames of one picture (`rate` None) or of a folder of them: `(seconds, convert)` in order.

    Broken files of a folder are skipped and counted.
    """

    codec = "picture"
    live = False

    def __init__(self, name: str, paths: list[Path], rate: float | None, max_pixels: int) -> None:
        self.name = name
        self.paths = paths
        self.max_pixels = max_pixels
        self.broken = 0
        self.rate = rate
        self.frames: int | None = len(paths)
        self.duration = None if rate is None else len(paths) / rate
        self._last = 1 / (rate or DEFAULT_RATE)

    def __iter__(self) -> Iterator[tuple[float, Convert]]:
        for index, path in enumerate(self.paths):
            picture = open_picture(path, self.max_pixels)
            if picture is None:
                self.broken += 1
                continue
            with picture:
                if self.rate is None:
                    self.codec = (picture.format or "picture").lower()
                    if picture.format in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) > 1:
                        yield from self._animation(picture)
                        return
            yield index * self._last, functools.partial(self._load, path)

    def _load(self, path: Path) -> Rgb | None:
        picture = open_picture(path, self.max_pixels)
        image = None
        if picture is not None:
            with picture:
                image = to_rgb(picture)
        if image is None:
            self.broken += 1
        return image

    def _animation(self, picture: Image.Image) -> Iterator[tuple[float, Convert]]:
        """Frames of an animated PNG or WebP, each decoded at once: Pillow builds every frame on the one before."""
        time = 0.0
        self.frames = int(getattr(picture, "n_frames", 1))
        for index in range(self.frames):
            try:
                picture.seek(index)
                picture.load()
                image = to_rgb(picture)
            except _BROKEN:
                image = None
            if image is None:
                self.broken += 1
                return
            self._last = (float(picture.info.get("duration", 0)) or 100.0) / 1000  # browsers take 0 for 100 ms
            yield time, image.copy
            time += self._last

    def last_duration(self) -> float:
        """Seconds that the last frame stays."""
        return self._last

    def damage(self) -> tuple[int, list[str]]:
        """How many parts were damaged, and sentences about them."""
        return self.broken, [f"{self.broken} pictures could not be decoded"] if self.broken else []

    def nothing(self) -> str:
        """Why no frame came out."""
        if self.rate is None:
            return f"{self.name!r} is not a picture or video that can be decoded; check it in a viewer"
        return f"none of the pictures in {self.name!r} can be decoded; check one of them in a viewer"

    def close(self) -> None:
        """Nothing stays open between frames."""
