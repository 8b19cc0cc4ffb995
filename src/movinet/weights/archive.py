"""Archives from strangers: a tar is unpacked into a private folder that is gone afterwards, or refused."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from movinet.errors import WeightsError

MAX_BYTES = 2 << 30  # the largest official archive unpacks to 0.4 GB with its optimizer's slots
MAX_MEMBERS = 10_000

# What a reader may want of an archive; everything else is passed over.
_WANTED = ("checkpoint", "*.index", "*.data-?????-of-?????", "saved_model.pb", "*.tflite")


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder with the readable files of a tar (compressed or not), removed at the end.

    Raises `WeightsError` for an archive that is damaged, that unpacks to absurd sizes, or with a member that is
    absolute, leads outside, or is neither a file nor a folder.
    """
    with tempfile.TemporaryDirectory(prefix="movinet-") as folder:
        try:
            with tarfile.open(path, "r|*") as tar:
                _unpack(tar, Path(folder), path)
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, UnicodeError, ValueError) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{path} is a damaged archive ({error}); download it again") from None
        except OSError as error:  # a wrong checksum of gzip is one of these
            raise WeightsError(f"{path} cannot be unpacked: {error.strerror or error}") from None
        yield Path(folder)


def _unpack(tar: tarfile.TarFile, folder: Path, path: Path) -> None:
    total = 0
    for count, member in enumerate(tar):
        name = PurePosixPath(member.name)
        if count >= MAX_MEMBERS:
            raise WeightsError(f"{path} has more than {MAX_MEMBERS} members; that is no checkpoint")
        if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
            raise WeightsError(
                f"{path} holds {member.name!r}, which leads outside the archive; it is not to be trusted"
            )
        if not (member.isfile() or member.isdir()) or member.issparse():
            raise WeightsError(f"{path} holds {member.name!r}, which is a link or a device; it is not to be trusted")
        total += member.size
        if total > MAX_BYTES:
            raise WeightsError(f"{path} unpacks to more than {MAX_BYTES >> 30} GB; that is no checkpoint")
        if not member.isfile() or not any(name.match(pattern) for pattern in _WANTED):
            continue
        target = folder.joinpath(*name.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None
        _copy(content, target, member.size, path)


def _copy(content: IO[bytes], target: Path, size: int, path: Path) -> None:
    with target.open("xb") as out:
        shutil.copyfileobj(content, out)
    if target.stat().st_size != size:
        raise WeightsError(f"{path} is cut off within {target.name}; download it again")
