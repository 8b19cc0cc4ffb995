"""What a user may name as a video, and what that name means: a file, a folder, a picture, a camera, an address."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from movinet.errors import VideoError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

_ADDRESS = re.compile(r"(rtsp|rtsps|rtmp|rtmps|http|https)://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True)
class Source:
    """A source with its kind decided; `name` is how messages call it, `target` is what FFmpeg opens."""

    kind: Literal["file", "picture", "folder", "camera", "address"]
    name: str
    target: str
    path: Path | None = None
    format: str | None = None  # FFmpeg's name of the input device; None: found out from the content

    @property
    def live(self) -> bool:
        """Whether frames come when they come: a camera or an address."""
        return self.kind in ("camera", "address")


def find_source(source: str | int | os.PathLike[str]) -> Source:
    """Decide what `source` names.

    An int or a string of digits is a camera (`./0` is the file), a string that starts with a known protocol and `://`
    an address, everything else a path: whatever characters it holds, it is never taken for an option, a protocol or a
    pattern. Raises `VideoError` for a path that does not exist, is empty, or is neither file nor folder.
    """
    if isinstance(source, int):
        return _camera(source)
    text = os.fspath(source)
    if isinstance(source, str) and text.isdecimal() and text.isascii():
        return _camera(int(text))
    if isinstance(source, str) and _ADDRESS.match(text):
        return Source("address", _PASSWORD.sub("", text), text)
    if text.startswith("/dev/video") and sys.platform == "linux":
        return _device(text)
    path = Path(text)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise VideoError(f"there is no file or folder {text!r}; check the path{_hint(text)}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise VideoError(f"cannot read {text!r}: {reason}; check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        return Source("folder", text, text, path)
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{text!r} is not a regular file; give a video file, a folder of pictures or a camera number")
    if status.st_size == 0:
        raise VideoError(f"{text!r} is empty (0 bytes); copy or download it again")
    # `file:` and an absolute path keep FFmpeg from reading protocols and options out of names like `-a.mp4`, `a:b.mp4`.
    target = f"file:{path.absolute()}"
    kind: Literal["picture", "file"] = "picture" if path.suffix.lower() in PICTURE_SUFFIXES else "file"
    return Source(kind, text, target, path)


def _hint(text: str) -> str:
    if "://" in text:
        return " (addresses may start with http://, https://, rtsp:// or rtmp://)"
    return ""


def _camera(number: int) -> Source:
    if number < 0:
        raise VideoError(f"{number} is no camera number; the first camera is 0")
    platform: str = sys.platform
    if platform == "linux":
        return _device(f"/dev/video{number}", f"camera {number}")
    if platform == "darwin":
        return Source("camera", f"camera {number}", f"{number}:none", format="avfoundation")
    if platform == "win32":
        return Source("camera", f"camera {number}", f"video={_windows_camera(number)}", format="dshow")
    raise VideoError(f"cameras are not supported on {platform}; give a file or an address")


def _device(path: str, name: str | None = None) -> Source:
    if not Path(path).exists():
        found = sorted(entry.name for entry in Path("/dev").glob("video*"))
        there = (
            f"this machine has {', '.join('/dev/' + entry for entry in found)}" if found else "no camera is connected"
        )
        raise VideoError(f"there is no {name or 'camera'} ({path}): {there}")
    return Source("camera", name or path, path, format="v4l2")


def _windows_camera(number: int) -> str:
    import av.device  # DirectShow knows cameras by name only

    names = [str(device.name) for device in av.device.enumerate_input_devices("dshow")]
    if number >= len(names):
        raise VideoError(f"there is no camera {number}: this machine has {len(names)}")
    return names[number]
