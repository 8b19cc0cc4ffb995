"""TensorFlow checkpoint bundles as bytes: `NAME.index` and `NAME.data-0000i-of-0000n`, in folders and in tar files.

`Folder` and `Tar` hold files, `Bundle.read` gives one tensor with its checksum compared. Nothing is believed before it
is checked: every size is bounded by the bytes that are there, tar members are never extracted to the names that they
carry, and each damaged or hostile file ends in one `WeightsError`. NumPy only.

Sources: TensorFlow's `tensor_bundle.{proto,cc}` and `lib/io/format.cc` (an SSTable as in LevelDB), google/snappy's
`format_description.txt`, POSIX `pax` for the tar headers.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import itertools
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from movinet.errors import WeightsError

MAX_INDEX = 1 << 24  # bytes of an index file, and of its blocks unpacked; A5 with optimizer slots has below 1 MB
MAX_ENTRIES = 50_000
MAX_KEY = 1024
MAX_FIELDS = 500_000  # of one record
MAX_GRAPH = 1 << 27  # bytes of saved_model.pb; T0 has 17 MB
MAX_MEMBERS = 10_000  # of a tar file
MAX_UNPACKED = 1 << 32  # bytes of a tar file; A5 with optimizer slots has 400 MB
MAX_RATIO = 50  # of a compressed tar file beyond the first 64 MiB: trained weights hardly compress
STRING = 7  # TensorFlow's number of this type
_BFLOAT16 = 14
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", _BFLOAT16: "<u2", 19: "<f2"}
_MAGIC = 0xDB4775248B80FB57


class DamagedError(Exception):
    """Bytes that are not what their format says; `naming` turns it into a `WeightsError` with the file's name."""

    def __init__(self, text: str, advice: str = "the file is damaged, copy or download it again") -> None:
        super().__init__(text)
        self.advice = advice


@contextlib.contextmanager
def naming(file: str) -> Iterator[None]:
    """Turn `DamagedError` and errors of the operating system inside into a `WeightsError` that names `file`."""
    try:
        yield
    except DamagedError as error:
        raise WeightsError(f"{file}: {error}; {error.advice}") from None
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror or error}") from None


# --- protocol buffers ---


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of up to 64 bits and the position after it. Raises `DamagedError`."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise DamagedError("a number runs beyond the end of its record")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise DamagedError("a number has more than 64 bits")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one message: numbers as int, strings and messages as bytes. Raises `DamagedError`."""
    at, end = 0, len(data)
    while at < end:
        tag, at = varint(data, at)
        kind = tag & 7
        number = 0
        if kind in (0, 2):
            number, at = varint(data, at)
        if kind == 0:
            yield tag >> 3, number
            continue
        size = number if kind == 2 else {1: 8, 5: 4}.get(kind, -1)
        if not 0 <= size <= end - at:
            raise DamagedError("a field runs beyond the end of its record, or is of no known type")
        part = data[at : at + size]
        yield tag >> 3, part if kind == 2 else int.from_bytes(part, "little")
        at += size


class Message:
    """The fields of one message by number. Asked for as the wrong kind, they raise `DamagedError`."""

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        for count, (number, value) in enumerate(fields(data)):
            if count > MAX_FIELDS:
                raise DamagedError(f"a record has more than {MAX_FIELDS:,} fields")
            self._fields.setdefault(number, []).append(value)

    def integer(self, number: int, default: int = 0) -> int:
        """The last value of a number field."""
        value = self._fields.get(number, [default])[-1]
        if not isinstance(value, int):
            raise DamagedError(f"field {number} of a record is not a number")
        return value

    def parts(self, number: int) -> list[memoryview]:
        """All values of a field of strings or messages."""
        found = []
        for value in self._fields.get(number, []):
            if isinstance(value, int):
                raise DamagedError(f"field {number} of a record is a number where bytes belong")
            found.append(value)
        return found

    def part(self, number: int) -> memoryview:
        """The last value of a field of strings or messages, empty if it is not there."""
        return (self.parts(number) or [memoryview(b"")])[-1]


def utf8(data: bytes | memoryview) -> str:
    """Decode a name. Raises `DamagedError`."""
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        raise DamagedError("a name is not UTF-8") from None


# --- checksums ---


@functools.cache
def _crc_bytes() -> np.ndarray:
    """What one zero byte makes of the low byte of a state, (256,)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


@functools.cache
def _crc_shift(level: int) -> np.ndarray:
    """What 4 * 2^level zero bytes make of a state, a 32 x 32 matrix over GF(2): a table for each half, (2, 65536)."""
    states = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    for _ in range(2 if level else 4):
        states = _shifted(states, level - 1) if level else _crc_bytes()[states & 255] ^ (states >> 8)
    tables = np.zeros((2, 65536), np.uint32)
    for half in range(2):
        for bit in range(16):
            tables[half, 1 << bit : 2 << bit] = tables[half, : 1 << bit] ^ states[16 * half + bit]
    return tables


def _shifted(states: np.ndarray | np.uint32, level: int) -> np.ndarray:
    low, high = _crc_shift(level)
    return np.asarray(low[states & 0xFFFF] ^ high[states >> 16])


def crc32c(data: bytes | memoryview | np.ndarray) -> int:
    """CRC-32C (Castagnoli) of contiguous bytes.

    The checksum is linear over GF(2), so neighbours are joined pairwise, all pairs of a level at once: the words
    themselves at first, then halves of half as many joined states, each the left one moved past the right one.
    """
    octets = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    count = octets.size // 4
    state: np.uint32 | np.ndarray = np.uint32(0xFFFF_FFFF)
    if count:
        states = octets[: 4 * count].view("<u4")
        level = 0
        while states.size > 1:
            low, high = _crc_shift(level)
            odd = states.size & 1
            joined = np.empty((states.size + 1) // 2, np.uint32)
            joined[:odd] = states[:odd]  # alone, as if zeros were before it
            halves = states[odd:].view("<u2").reshape(-1, 4)
            for at in range(0, len(halves), 1 << 16):  # pieces that stay in the cache
                pair = halves[at : at + (1 << 16)]
                piece = joined[odd + at : odd + at + len(pair)]
                np.bitwise_xor(low[pair[:, 0]], high[pair[:, 1]], out=piece)
                piece ^= states[odd + 1 + 2 * at : odd + 1 + 2 * (at + len(pair)) : 2]
            if level == 0:  # the initial state goes into the first word
                joined[0] ^= state if odd else _shifted(state, 0)
                state = np.uint32(0)
            states, level = joined, level + 1
        state = _shifted(states[0] ^ state, 0)
    for octet in octets[4 * count :]:
        state = _crc_bytes()[(state ^ octet) & 255] ^ (state >> 8)
    return int(state) ^ 0xFFFF_FFFF


def masked_crc32c(data: bytes | memoryview | np.ndarray) -> int:
    """The form in which TensorFlow and LevelDB store a CRC-32C."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF


# --- the index: an SSTable ---


def unsnappy(data: memoryview) -> bytes:
    """Unpack a raw snappy block. Raises `DamagedError`."""
    size, at = varint(data, 0)
    if size > min(MAX_INDEX, 32 * len(data)):  # the densest element makes 64 bytes out of 3
        raise DamagedError(f"a block of {len(data):,} bytes claims to unpack to {size:,}")
    out = bytearray()
    while at < len(data) and len(out) <= size:
        tag, at = data[at], at + 1
        extra = max(0, (tag >> 2) - 59) if tag & 3 == 0 else (1, 2, 4)[(tag & 3) - 1]
        number = int.from_bytes(data[at : at + extra], "little")
        at += extra
        if tag & 3 == 0:
            length = 1 + (number if extra else tag >> 2)
            if length > len(data) - at:
                raise DamagedError("a compressed block ends too early")
            out += data[at : at + length]
            at += length
            continue
        length, offset = 1 + (tag >> 2), number
        if tag & 3 == 1:
            length, offset = 4 + (tag >> 2 & 7), (tag >> 5) << 8 | number
        if not 0 < offset <= len(out):
            raise DamagedError("a compressed block refers to what is before its start")
        start = len(out) - offset
        for at_copy in range(start, start + length, offset):  # a copy may overlap what it writes
            out += out[at_copy : min(at_copy + offset, start + length)]
    if len(out) != size or at > len(data):
        raise DamagedError("a compressed block does not unpack to the length that it claims")
    return bytes(out)


def _block(data: memoryview, offset: int, size: int) -> memoryview:
    if offset + size + 5 > len(data) - 48:
        raise DamagedError("a block of the index lies beyond the end of the file")
    block, kind = data[offset : offset + size], data[offset + size]
    crc = int.from_bytes(data[offset + size + 1 : offset + size + 5], "little")
    if crc != masked_crc32c(data[offset : offset + size + 1]):
        raise DamagedError(f"the block of the index at byte {offset} fails its checksum")
    if kind not in (0, 1):
        raise DamagedError(f"a block of the index has compression {kind}, not none or snappy")
    return memoryview(unsnappy(block)) if kind else block


def _pairs(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a block; a key's first bytes are those of the key before."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise DamagedError("a block of the index has no room for its own table")
    at, key, block = 0, b"", block[:end]
    while at < end:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or fresh + size > end - at or shared + fresh > MAX_KEY:
            raise DamagedError("an entry of the index runs beyond its block")
        key = key[:shared] + bytes(block[at : at + fresh])
        at += fresh
        yield key, block[at : at + size]
        at += size


def _table(data: memoryview) -> dict[bytes, memoryview]:
    if len(data) < 48 or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise DamagedError("it does not end as an index of a TensorFlow checkpoint does")
    handles, at = [], 0
    for _ in range(4):
        number, at = varint(data[-48:-8], at)
        handles.append(number)
    _block(data, *handles[:2])  # holds nothing that is needed, but its checksum must be right
    found: dict[bytes, memoryview] = {}
    last, free, unpacked = b"", 0, 0
    for _, handle in _pairs(_block(data, *handles[2:])):
        offset, at = varint(handle, 0)
        size, _ = varint(handle, at)
        if offset < free:
            raise DamagedError("blocks of the index overlap")
        free = offset + size + 5
        block = _block(data, offset, size)
        unpacked, before = unpacked + len(block), len(found)
        for key, value in _pairs(block):
            if found and key <= last:
                raise DamagedError("the keys of the index are not in order")
            found[key], last = value, key
            if len(found) > MAX_ENTRIES or unpacked > MAX_INDEX:
                raise DamagedError(f"the index has more than {MAX_ENTRIES:,} entries")
        if len(found) == before:
            raise DamagedError("a block of the index is empty")
    return found


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies and what it must be; `dtype` is TensorFlow's number."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_index(data: bytes) -> tuple[int, dict[str, Entry]]:
    """Number of shards, and all tensors by key in the order of the keys. Raises `DamagedError`."""
    if len(data) > MAX_INDEX:
        raise DamagedError(f"the index has {len(data):,} bytes, more than any MoViNet's")
    table = _table(memoryview(data))
    if b"" not in table:
        raise DamagedError("the index has no header")
    header = Message(table.pop(b""))
    shards = header.integer(1)
    if header.integer(2) != 0:
        raise DamagedError("its tensors are big-endian", "save it on a little-endian machine")
    if not 1 <= shards <= 1000:
        raise DamagedError(f"the header tells of {shards} data files")
    return shards, {_key(key): _entry(key, Message(value), shards) for key, value in table.items()}


def _key(key: bytes) -> str:
    if key[0] == 0:
        raise DamagedError("it holds variables in slices", "save them whole")
    text = utf8(key)
    if not text.isprintable():
        raise DamagedError(f"the key {text[:100]!a} is no name")
    return text


def _entry(key: bytes, message: Message, shards: int) -> Entry:
    name = repr(bytes(key[:100]))[2:-1]
    if message.parts(7):
        raise DamagedError(f"{name} is stored in slices", "save it whole")
    shape = Message(message.part(2))
    extents = tuple(Message(part).integer(1) for part in shape.parts(2))
    entry = Entry(message.integer(1), extents, message.integer(3), *(message.integer(i) for i in (4, 5, 6)))
    if shape.integer(3) or len(extents) > 8 or max(extents, default=0) >= 1 << 31:
        raise DamagedError(f"{name} has no sensible shape")
    if entry.shard >= shards:
        raise DamagedError(f"{name} lies in data file {entry.shard} of {shards}")
    count = math.prod(extents)
    if entry.dtype in _DTYPES and count * np.dtype(_DTYPES[entry.dtype]).itemsize != entry.size:
        raise DamagedError(f"{name} has {entry.size:,} bytes, which is not what its shape {list(extents)} takes")
    if entry.dtype == STRING and count + 4 > entry.size:
        raise DamagedError(f"{name} has {entry.size:,} bytes, too few for {count:,} strings")
    return entry


# --- folders and tar files ---


def _fill(file: IO[bytes], offset: int, size: int) -> np.ndarray:
    found = np.empty(size, np.uint8)
    file.seek(offset)
    if file.readinto(found) != size:  # type: ignore[attr-defined]
        raise DamagedError("it ends too early")
    return found


class Folder:
    """Files in a folder of the file system, by relative names with `/`; every method may raise `WeightsError`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def label(self, name: str) -> str:
        """How messages call a file."""
        return str(self.path / name)

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the files and folders in a folder ("" or ending in "/"), sorted, hidden ones left out."""
        with naming(self.label(folder)):
            found = sorted(p for p in (self.path / folder).iterdir() if not p.name.startswith("."))
            return [p.name for p in found if not p.is_dir()], [p.name for p in found if p.is_dir()]

    def size(self, name: str) -> int:
        """Bytes of a file that must be there."""
        with naming(self.label(name)):
            if not (self.path / name).is_file():
                raise WeightsError(f"{self.label(name)} is missing; copy or download the whole checkpoint again")
            return (self.path / name).stat().st_size

    def read(self, name: str, offset: int, size: int) -> np.ndarray:
        """A part that lies within the file, as writable uint8."""
        with naming(self.label(name)), (self.path / name).open("rb") as file:
            return _fill(file, offset, size)


class Tar:
    """Files in a tar file, read in place: nothing is ever written under the names that it carries.

    Python's own `tarfile` believes sizes and nests headers without a bound, so headers are read here.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        self._members: dict[str, tuple[int, int]] = {}  # position and size
        end = file.seek(0, os.SEEK_END)
        at, name, folders = 0, "", 0
        while at + 512 <= end and any(header := _fill(file, at, 512).tobytes()):
            size, kind = _tar_header(header)
            at += 512
            if size > end - at:
                raise DamagedError("a member of the tar file runs beyond its end")
            if kind in "Lxg":  # a name too long for the header, or properties of the next member or of all
                if size > 1 << 16:
                    raise DamagedError(f"a header of the tar file has {size:,} bytes")
                extra = _fill(file, at, size).tobytes()
                name = utf8(extra.partition(b"\0")[0]) if kind == "L" else _pax_path(extra) or name
            else:
                found, name = inside(name or _tar_name(header)), ""
                if kind not in "\x0005":
                    raise DamagedError(f"the tar file holds {found}, a link or device, which no checkpoint has")
                if found in self._members:
                    raise DamagedError(f"the tar file holds {found} twice")
                if kind == "5":
                    folders += 1
                else:
                    self._members[found] = (at, size)
                if len(self._members) + folders > MAX_MEMBERS:
                    raise DamagedError(f"the tar file has more than {MAX_MEMBERS:,} members")
            at += -(-size // 512) * 512
        if not self._members:
            raise DamagedError("it is no tar file, or an empty one")

    def label(self, name: str) -> str:
        """How messages call a member."""
        return f"{self.path} ({name})" if name else str(self.path)

    def children(self, folder: str) -> tuple[list[str], list[str]]:
        """See `Folder`."""
        inside = [name[len(folder) :] for name in self._members if name.startswith(folder)]
        files = {name for name in inside if "/" not in name and not name.startswith(".")}
        folders = {name.partition("/")[0] for name in inside if "/" in name and not name.startswith(".")}
        return sorted(files), sorted(folders)

    def size(self, name: str) -> int:
        """See `Folder`."""
        if name not in self._members:
            raise WeightsError(f"{self.path} lacks {name}; copy or download it again")
        return self._members[name][1]

    def read(self, name: str, offset: int, size: int) -> np.ndarray:
        """See `Folder`."""
        with naming(self.label(name)):
            return _fill(self._file, self._members[name][0] + offset, size)


Tree = Folder | Tar


def _tar_header(header: bytes) -> tuple[int, str]:
    """Size and kind of a member."""
    numbers = [re.fullmatch(rb"[ \0]*([0-7]*)[ \0]*", header[a:b]) for a, b in ((124, 136), (148, 156))]
    size, checksum = (int(match[1] or b"0", 8) if match else -1 for match in numbers)
    if size < 0 or checksum != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
        raise DamagedError("it is no tar file, or one with a damaged header")
    return size, chr(header[156])


def _tar_name(header: bytes) -> str:
    name, prefix = (utf8(header[a:b].partition(b"\0")[0]) for a, b in ((0, 100), (345, 500)))
    # GNU's own variant keeps times where POSIX has the first part of a long name.
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _pax_path(data: bytes) -> str | None:
    """The name that a list of properties ("<length> <name>=<value>\\n") gives to the next member."""
    path = None
    while data:
        match = re.match(rb"(\d{1,6}) ([^=\n]+)=", data)
        if match is None or not match.end() < int(match[1]) <= len(data):
            raise DamagedError("the tar file has a malformed header")
        value, data = data[match.end() : int(match[1]) - 1], data[int(match[1]) :]
        if match[2] == b"path":
            path = utf8(value)
        elif match[2] == b"size" or match[2].startswith(b"GNU.sparse"):
            raise DamagedError("the tar file has sparse or huge members, which no checkpoint has")
    return path


def inside(name: str) -> str:
    """A member's or prefix's name without `./`; refuses one that leads out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DamagedError(f"it names {name[:100]!a}, which leads outside of its folder", "give the checkpoint itself")
    return str(path)


def open_tar(path: Path, stack: contextlib.ExitStack) -> Tar:
    """A tar file; a compressed one is unpacked into one private file without a name."""
    file: IO[bytes] = stack.enter_context(path.open("rb"))
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not packed:
        return Tar(path, file)
    limit = min(MAX_UNPACKED, (1 << 26) + MAX_RATIO * path.stat().st_size)
    out = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while chunk := unpacked.read(1 << 20):
                if out.tell() + len(chunk) > limit:
                    raise DamagedError(f"it unpacks to more than {limit:,} bytes, which no checkpoint of its size does")
                out.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedError(f"it cannot be unpacked ({error})") from None
    return Tar(path, out)


# --- the checkpoint ---


class Bundle:
    """A checkpoint: `entries` by key, whole tensors by `read`.

    `prefix` is its name in `tree` without `.index`, `graph` that of its `saved_model.pb`. Raises `WeightsError`.
    """

    def __init__(self, tree: Tree, prefix: str, graph: str | None) -> None:
        self.tree, self.graph = tree, graph
        self.label = tree.label(prefix)
        index = self._whole(f"{prefix}.index", MAX_INDEX)
        self.index_sha256 = hashlib.sha256(index).hexdigest()
        with naming(tree.label(f"{prefix}.index")):
            shards, self.entries = read_index(index)
        self._shards = {n: f"{prefix}.data-{n:05d}-of-{shards:05d}" for n in {e.shard for e in self.entries.values()}}
        room = {shard: tree.size(name) for shard, name in self._shards.items()}
        free = dict(room)
        for key, entry in self.entries.items():
            # Tensors share no bytes, so all together cannot claim more than there is.
            free[entry.shard] -= entry.size
            if entry.offset + entry.size > room[entry.shard] or free[entry.shard] < 0:
                raise WeightsError(
                    f"{tree.label(self._shards[entry.shard])} has {room[entry.shard]:,} bytes and cannot hold {key};"
                    " it is truncated, copy or download it again"
                )

    def read(self, key: str) -> np.ndarray:
        """A tensor of numbers as stored, (of bfloat16 as float32), writable and owned by the caller.

        Raises `WeightsError` for a checksum that does not match, or a type that no weight has.
        """
        entry = self.entries[key]
        if entry.dtype not in _DTYPES:
            raise WeightsError(f"{self.label}: {key} is of TensorFlow's type {entry.dtype}, which no weight has")
        with naming(f"{self.label}: {key}"):
            data = self.tree.read(self._shards[entry.shard], entry.offset, entry.size)
            if masked_crc32c(data) != entry.crc:
                raise DamagedError("it fails its checksum")
        tensor = data.view(_DTYPES[entry.dtype])
        if entry.dtype == _BFLOAT16:
            tensor = np.left_shift(tensor.astype(np.uint32), 16).view(np.float32)
        return tensor.reshape(entry.shape)

    def read_strings(self, key: str) -> list[bytes]:
        """The elements of a tensor of strings, flattened. Raises `WeightsError`."""
        entry = self.entries[key]
        if entry.dtype != STRING:
            raise WeightsError(f"{self.label}: {key} is of TensorFlow's type {entry.dtype}, not a string")
        data = memoryview(self.tree.read(self._shards[entry.shard], entry.offset, entry.size).data)
        lengths, at = [], 0
        with naming(f"{self.label}: {key}"):
            for _ in range(math.prod(entry.shape)):
                length, at = varint(data, at)
                lengths.append(length)
            # The checksum is not over the bytes as they lie: over the lengths as uint32 (uint64 where one needs it),
            # their own masked checksum, then the strings.
            plain = b"".join(length.to_bytes(4 if length < 1 << 32 else 8, "little") for length in lengths)
            own, content = bytes(data[at : at + 4]), data[at + 4 :]
            if (
                own != masked_crc32c(plain).to_bytes(4, "little")
                or masked_crc32c(plain + own + content) != entry.crc
                or sum(lengths) != len(content)
            ):
                raise DamagedError("it fails its checksum")
        ends = itertools.accumulate(lengths)
        return [bytes(content[end - length : end]) for end, length in zip(ends, lengths, strict=True)]

    def read_graph(self) -> bytes:
        """The whole `saved_model.pb`, where `graph` is not None."""
        assert self.graph is not None
        return self._whole(self.graph, MAX_GRAPH)

    def _whole(self, name: str, limit: int) -> bytes:
        size = self.tree.size(name)
        if size > limit:
            raise WeightsError(f"{self.tree.label(name)} has {size:,} bytes, more than that of any MoViNet")
        return self.tree.read(name, 0, size).tobytes()
