"""Reading TensorFlow bundles byte by byte: real indexes, built ones in every form, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from movinet.errors import WeightsError
from movinet.weights import bundle
from movinet.weights.bundle import Bundle, DamagedError, Entry, Folder, crc32c, masked_crc32c, read_index, unsnappy
from movinet.weights.tensorflow import open_bundle
from tests.shared import SHARED, needs_shared
from tests.weights import bundle_writer as writer

INDEXES = ("movinet_a0_stream/ckpt-1", "movinet_a1_stream/ckpt-1", "hub_a2_base_k600/variables")


def tensors() -> dict[str, np.ndarray | bytes]:
    """One of each type, in keys that share their fronts."""
    generator = np.random.default_rng(0)
    return {
        "a/float32": generator.random((3, 5, 7), np.float32),
        "a/float16": generator.random((4,), np.float32).astype(np.float16),
        "a/float64": generator.random((2, 2)),
        "a/int32": np.arange(5, dtype=np.int32),
        "a/int64": np.array(-7, np.int64),
        "b/empty": np.zeros((0, 3), np.float32),
        "b/large": generator.random((300, 77), np.float32),
        "b/text": b"\x00\xff" * 100,
    }


def opened(prefix: Path) -> Bundle:
    return Bundle(Folder(prefix.parent), prefix.name, None)


def read_all(found: Bundle) -> None:
    for key, entry in found.entries.items():
        found.read_strings(key) if entry.dtype == bundle.STRING else found.read(key)


def refused(prefix: Path, *words: str) -> None:
    """Whole files, then each tensor: some step must refuse, naming the file and `words`."""
    with pytest.raises(WeightsError) as error:
        read_all(opened(prefix))
    for word in (prefix.name, *words):
        assert word in str(error.value)


# --- checksums ---


def slow_crc32c(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_crc32c_of_published_vectors() -> None:
    """RFC 3720, B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"\0" * 32) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


def test_crc32c_of_every_length_is_that_of_the_bitwise_rule() -> None:
    data = np.random.default_rng(1).bytes(3000)
    for length in [*range(140), 1023, 1024, 1025, 3000]:
        assert crc32c(data[-length:] if length else b"") == slow_crc32c(data[-length:] if length else b"")


def test_crc32c_is_fast() -> None:
    """A5 has 130 MB; one step per byte takes minutes."""
    data = np.random.default_rng(1).integers(0, 256, 1 << 24, np.uint8)
    crc32c(data)  # makes the tables
    start = time.perf_counter()
    crc32c(data)
    assert time.perf_counter() - start < 1


# --- snappy ---


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),
        (b"\x0a\x04ab\x11\x02", b"ab" * 5),  # copy with one byte of offset, overlapping: 8 bytes, 2 back
        (b"\x07\x08abc\x0e\x03\x00", b"abcabca"),  # two bytes of offset
        (b"\x07\x08abc\x0f\x03\x00\x00\x00", b"abcabca"),  # four
        (b"\x46\xf0\x45" + b"x" * 70, b"x" * 70),  # literal with its length in one byte more
        (b"\x46\xf4\x45\x00" + b"x" * 70, b"x" * 70),  # in two
    ],
)
def test_snappy_elements(packed: bytes, plain: bytes) -> None:
    assert unsnappy(memoryview(packed)) == plain


def test_snappy_of_the_writer_comes_back() -> None:
    generator = np.random.default_rng(2)
    for size in (0, 1, 59, 60, 61, 5000):
        data = generator.integers(0, 4, size, np.uint8).tobytes()
        assert unsnappy(memoryview(writer.snappy(data))) == data


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xff\xff\xff\xff\x0f",  # claims 4 GiB
        b"\x80" * 12,
        b"\x05\x08abc",  # too short
        b"\x02\x08abc",  # too long
        b"\x05\x10ab",  # a literal beyond the end
        b"\x05\xf4\x45",  # its length is cut off
        b"\x07\x08abc\x0e\x04\x00",  # a copy from before the start
        b"\x07\x08abc\x0e\x00\x00",  # from itself
        b"\x07\x08abc\x0e\x03",  # its offset is cut off
    ],
)
def test_damaged_snappy_is_refused(packed: bytes) -> None:
    with pytest.raises(DamagedError):
        unsnappy(memoryview(packed))


# --- the index ---


@needs_shared
@pytest.mark.parametrize("name", INDEXES)
def test_real_indexes_hold_what_tensorflow_says(name: str) -> None:
    path = SHARED / "reference" / "official_index" / f"{name}.index"
    lines = path.with_name(path.name + ".txt").read_text().splitlines()
    types = {"float32": 1, "int32": 3, "string": 7, "int64": 9}
    expected = {}
    for line in lines[2:]:
        key, kind, rest = line.split(" ", 2)
        shape, offset, size, crc = re.fullmatch(r"\[(.*)\] (\d+) (\d+) 0x([0-9a-f]+)", rest).groups()  # type: ignore[union-attr]
        extents = tuple(int(extent) for extent in shape.split(", ") if extent)
        expected[key] = Entry(types[kind], extents, 0, int(offset), int(size), int(crc, 16))
    shards, found = read_index(path.read_bytes())
    assert shards == 1
    assert found == expected
    assert len(found) == int(re.search(r"(\d+) entries", lines[0])[1])  # type: ignore[index]
    assert max(e.offset + e.size for e in found.values()) == int(lines[1].removeprefix("total bytes "))


@needs_shared
def test_every_checksum_of_the_golden_files_is_right() -> None:
    for path in sorted((SHARED / "golden" / "files").glob("*.tar.gz")):
        with open_bundle(path) as found:
            for key, entry in found.entries.items():
                if entry.dtype == bundle.STRING:
                    assert len(found.read_strings(key)) == 1
                else:
                    assert found.read(key).shape == entry.shape


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("per_block", [1, 3, 100])
@pytest.mark.parametrize("shards", [1, 3])
def test_what_was_written_is_read(tmp_path: Path, packed: bool, per_block: int, shards: int) -> None:
    wanted = tensors()
    found = opened(writer.write_bundle(tmp_path / "ckpt-1", wanted, shards, packed, per_block))
    assert list(found.entries) == sorted(wanted)
    for key, value in wanted.items():
        if isinstance(value, bytes):
            assert found.read_strings(key) == [value]
        else:
            read = found.read(key)
            assert read.dtype == value.dtype
            assert read.flags.writeable
            np.testing.assert_array_equal(read, value)


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [0.15625, 3e38]], np.float32)
    rounded = (values.view(np.uint32) >> 16).astype(np.uint16)
    found = opened(writer.write_bundle(tmp_path / "ckpt-1", {"x": rounded}))
    np.testing.assert_array_equal(found.read("x"), (rounded.astype(np.uint32) << 16).view(np.float32))


def test_a_tensor_of_several_strings(tmp_path: Path) -> None:
    values = [b"", b"one", b"two" * 100]
    content, crc = writer.strings(values)
    prefix = one_entry(tmp_path, writer.entry(7, (3,), 0, 0, len(content), crc), content)
    assert opened(prefix).read_strings("x") == values


def test_the_lengths_of_strings_have_a_checksum_of_their_own(tmp_path: Path) -> None:
    plain, wrong, text = (3).to_bytes(4, "little"), bytes(4), b"abc"
    content = b"\x03" + wrong + text
    crc = masked_crc32c(plain + wrong + text)
    refused(one_entry(tmp_path, writer.entry(7, (), 0, 0, len(content), crc), content), "checksum")


def one_entry(folder: Path, entry: bytes, data: bytes = bytes(16), header: bytes | None = None) -> Path:
    """A bundle with the single key "x"."""
    pairs = [(b"", writer.header() if header is None else header), (b"x", entry)]
    (folder / "ckpt-1.index").write_bytes(writer.table(pairs))
    (folder / "ckpt-1.data-00000-of-00001").write_bytes(data)
    return folder / "ckpt-1"


ZEROS = masked_crc32c(bytes(16))


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (writer.entry(1, (4,), 0, 0, 16, ZEROS ^ 1), "checksum"),
        (writer.entry(1, (5,), 0, 0, 16, ZEROS), "x has 16 bytes"),
        (writer.entry(1, (1 << 30, 1 << 30), 0, 0, 16, ZEROS), "x has 16 bytes"),
        (writer.entry(1, (1 << 40, 0), 0, 0, 0, 0), "x has no sensible shape"),
        (writer.entry(1, (1,) * 9, 0, 0, 4, ZEROS), "x has no sensible shape"),
        (writer.entry(1, ((1 << 64) - 1,), 0, 0, 4, ZEROS), "x has no sensible shape"),
        (writer.entry(1, (4,), 0, 1, 16, ZEROS), "cannot hold x"),
        (writer.entry(1, (1 << 20,), 0, 0, 1 << 22, ZEROS), "cannot hold x"),
        (writer.entry(1, (4,), 0, 1 << 63, 16, ZEROS), "cannot hold x"),
        (writer.entry(1, (4,), 1, 0, 16, ZEROS), "data file 1 of 1"),
        (writer.entry(1, (4,), 0, 0, 16, ZEROS, writer.field(7, b"")), "slices"),
        (writer.entry(21, (4,), 0, 0, 16, ZEROS), "type 21"),
        (writer.entry(7, (20,), 0, 0, 16, ZEROS), "20 strings"),
        (writer.entry(7, (2,), 0, 0, 16, ZEROS), "checksum"),
        (writer.field(1, b"float"), "not a number"),
        (writer.field(2, 5), "a number where bytes belong"),
        (b"\x0c", "of no known type"),
        (b"\x12\x7f", "beyond the end of its record"),
        (b"\x08" + b"\xff" * 11, "64 bits"),
    ],
)
def test_bad_entries_are_refused(tmp_path: Path, entry: bytes, word: str) -> None:
    refused(one_entry(tmp_path, entry), word)


def test_a_good_entry_is_read(tmp_path: Path) -> None:
    assert opened(one_entry(tmp_path, writer.entry(1, (4,), 0, 0, 16, ZEROS))).read("x").tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (writer.header(big_endian=1), "big-endian"),
        (writer.header(shards=0), "0 data files"),
        (writer.header(shards=1 << 40), "data files"),
        (writer.header(shards=2), "ckpt-1.data-00000-of-00002 is missing"),
        (b"\x0a", "beyond the end"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, header: bytes, word: str) -> None:
    refused(one_entry(tmp_path, writer.entry(1, (4,), 0, 0, 16, ZEROS), header=header), word)


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Or a small file could make a hundred thousand large tensors."""
    same = writer.entry(1, (4,), 0, 0, 16, ZEROS)
    pairs = [(b"", writer.header()), (b"x", same), (b"y", same)]
    (tmp_path / "ckpt-1.index").write_bytes(writer.table(pairs))
    (tmp_path / "ckpt-1.data-00000-of-00001").write_bytes(bytes(16))
    refused(tmp_path / "ckpt-1", "cannot hold y")


def built(*blocks: bytes, index: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """A table of sealed blocks, by default with an index that lists them."""
    out, handles = bytearray(), []
    for content in blocks:
        handles.append((b"k%d" % len(handles), writer.varint(len(out)) + writer.varint(len(content) - 5)))
        out += content
    footer = b""
    for content in (writer.block([]), writer.block(handles if index is None else index)):
        footer += writer.varint(len(out)) + writer.varint(len(content))
        out += writer.sealed(content)
    return bytes(out) + footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


GOOD = writer.sealed(writer.block([(b"", writer.header())]))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "does not end as"),
        (bytes(48), "does not end as"),
        (built(GOOD)[:-1] + b"\x00", "does not end as"),
        (built(GOOD[:-1] + bytes([GOOD[-1] ^ 1])), "byte 0 fails its checksum"),
        (built(writer.sealed(writer.block([(b"", writer.header())]), kind=2)), "compression 2"),
        (built(GOOD, index=[(b"k", writer.varint(1 << 50) + writer.varint(5))]), "beyond the end"),
        (built(GOOD, index=[(b"k", b"\x00")]), "beyond the end of its record"),
        (built(GOOD, index=[(b"k", writer.varint(0) + writer.varint(len(GOOD) - 5))] * 2), "overlap"),
        (built(GOOD, GOOD), "not in order"),
        (built(GOOD, writer.sealed(writer.block([]))), "is empty"),
        (built(writer.sealed(writer.block([(b"a", b"")]))), "no header"),
        (built(writer.sealed(b"\x05\x00\x00" + bytes(4) + b"\x01\0\0\0")), "beyond its block"),
        (built(writer.sealed(b"\x00\x7f\x00" + bytes(4) + b"\x01\0\0\0")), "beyond its block"),
        (built(writer.sealed(b"\xff\xff\xff\x7f")), "no room for its own table"),
        (built(writer.sealed(b"")), "no room for its own table"),
        (built(writer.sealed(writer.block([(b"", writer.header()), (b"\0x", b"")]))), "slices"),
        (built(writer.sealed(writer.block([(b"", writer.header()), (b"\xff", b"")]))), "not UTF-8"),
        (built(writer.sealed(writer.block([(b"", writer.header()), (b"a\nb", b"")]))), "is no name"),
        (built(writer.sealed(writer.block([(b"k" * 2000, b"")]))), "beyond its block"),
        (bytes(bundle.MAX_INDEX + 1), "more than that of any"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, data: bytes, word: str) -> None:
    (tmp_path / "ckpt-1.index").write_bytes(data)
    refused(tmp_path / "ckpt-1", word)


def test_each_checksum_of_blocks_is_compared(tmp_path: Path) -> None:
    """Every byte before the footer lies under one."""
    data = writer.write_bundle(tmp_path / "ckpt-1", {"x": np.zeros(4, np.float32)}).with_suffix(".index").read_bytes()
    for at in range(len(data) - 48):
        changed = bytearray(data)
        changed[at] ^= 0x10
        with pytest.raises(DamagedError):
            read_index(bytes(changed))


def test_each_checksum_of_tensors_is_compared(tmp_path: Path) -> None:
    wanted = tensors()
    prefix = writer.write_bundle(tmp_path / "ckpt-1", wanted)
    path = tmp_path / "ckpt-1.data-00000-of-00001"
    data = path.read_bytes()
    for key, entry in opened(prefix).entries.items():
        for at in {0, entry.size // 2, entry.size - 1} if entry.size else ():
            changed = bytearray(data)
            changed[entry.offset + at] ^= 0x04
            path.write_bytes(changed)
            found = opened(prefix)
            with pytest.raises(WeightsError, match=f"ckpt-1: {key}: "):
                found.read_strings(key) if entry.dtype == bundle.STRING else found.read(key)


def test_too_many_entries_are_refused() -> None:
    pairs = [(b"", writer.header())] + [(b"%08d" % number, b"") for number in range(bundle.MAX_ENTRIES)]
    with pytest.raises(DamagedError, match="entries"):
        read_index(writer.table(pairs, per_block=10_000))


# --- folders and tar files ---


def pack(
    folder: Path, path: Path, change: Callable[[tarfile.TarFile], object] | None = None, mode: str = "w:gz"
) -> Path:
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        archive.add(folder, folder.name)
        if change is not None:
            change(archive)
    return path


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = len(data), kind, link
        archive.addfile(info, io.BytesIO(data))

    return add


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with one checkpoint and the file that names it."""
    folder = writer.write_bundle(tmp_path / "saved" / "ckpt-1", tensors()).parent
    (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\nall_model_checkpoint_paths: "ckpt-1"\n')
    return folder


def read_one(path: Path) -> float:
    with open_bundle(path) as found:
        return float(found.read("b/large")[0, 0])


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_files_of_all_styles(saved: Path, tmp_path: Path, mode: str, style: int) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, mode, format=style) as archive:  # type: ignore[call-overload]
        archive.add(saved, "./" + "long" * 12 + "/" + "name" * 20)
    value = tensors()["b/large"]
    assert isinstance(value, np.ndarray)
    assert read_one(path) == value[0, 0]


def test_every_way_to_name_a_checkpoint(saved: Path, tmp_path: Path) -> None:
    ways = [saved, tmp_path, saved / "ckpt-1", saved / "ckpt-1.index", pack(saved, tmp_path / "y.tgz")]
    assert len({read_one(way) for way in ways}) == 1
    (saved / "checkpoint").unlink()
    assert read_one(saved) == read_one(saved / "ckpt-1")


def test_the_checkpoint_file_decides(saved: Path) -> None:
    writer.write_bundle(saved / "ckpt-2", {"b/large": np.full((1, 1), 5, np.float32)})
    assert read_one(saved) != 5
    (saved / "checkpoint").write_text('model_checkpoint_path: "ckpt-2"\n')
    assert read_one(saved) == 5
    (saved / "checkpoint").unlink()
    with pytest.raises(WeightsError, match=r"several checkpoints \(ckpt-1, ckpt-2\)"):
        read_one(saved)


def test_an_absolute_path_from_another_machine_means_its_last_part(saved: Path) -> None:
    (saved / "checkpoint").write_text('model_checkpoint_path: "/somewhere/else/ckpt-1"')
    with open_bundle(saved) as bundle:
        assert bundle.entries


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('model_checkpoint_path: "../secret/ckpt-1"', "outside"),
        ('model_checkpoint_path: "a/../../ckpt-1"', "outside"),
        ('model_checkpoint_path: "ckpt-9"', "ckpt-9.index is missing"),
        ("", "names no"),
        ("\xff", "names no"),
    ],
)
def test_bad_checkpoint_files_are_refused(saved: Path, text: str, word: str) -> None:
    (saved / "checkpoint").write_text(text)
    with pytest.raises(WeightsError, match=word):
        read_one(saved)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar.gz").write_bytes(b"not a tar file at all" * 100)
    (tmp_path / "empty.tar.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "other.tar.gz").write_bytes(gzip.compress(b"x" * 2000))
    for name in ("empty", "text.tar.gz", "empty.tar.gz", "other.tar.gz", "missing", "nul\0"):
        with pytest.raises(WeightsError, match=name.removesuffix("\0")):
            read_one(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (member("../outside", b"x"), "outside"),
        (member("saved/../../outside", b"x"), "outside"),
        (member("/etc/passwd", b"x"), "outside"),
        (member("saved\\..\\x", b"x"), "outside"),
        (member("saved/link", kind=tarfile.SYMTYPE, link="/etc/passwd"), "link or device"),
        (member("saved/ckpt-2.index", kind=tarfile.LNKTYPE, link="saved/ckpt-1.index"), "link or device"),
        (member("saved/device", kind=tarfile.CHRTYPE), "link or device"),
        (member("saved/pipe", kind=tarfile.FIFOTYPE), "link or device"),
        (member("saved/holes", kind=tarfile.GNUTYPE_SPARSE), "link or device"),
        (member("saved/ckpt-1.index", b"x"), "twice"),
        (lambda archive: [member(f"saved/{number}")(archive) for number in range(10_001)], "members"),
    ],
)
def test_hostile_tar_files_are_refused(
    saved: Path, tmp_path: Path, change: Callable[[tarfile.TarFile], object], word: str
) -> None:
    path = pack(saved, tmp_path / "hostile.tar", change, "w")
    with pytest.raises(WeightsError, match=f"hostile.tar.*{word}"):
        read_one(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hostile.tar", "saved"]


@pytest.mark.parametrize(
    ("size", "word"),
    [
        (b"77777777777\0", "runs beyond its end"),
        (b"\x80" + b"\xff" * 11, "damaged header"),
        (b"-1         \0", "damaged header"),
        (b"0x10       \0", "damaged header"),
    ],
)
def test_absurd_sizes_in_tar_files_are_refused(saved: Path, tmp_path: Path, size: bytes, word: str) -> None:
    data = bytearray(pack(saved, tmp_path / "x.tar", mode="w").read_bytes())
    data[512 + 124 : 512 + 136] = size
    total = sum(data[512 : 512 + 148]) + 8 * 32 + sum(data[512 + 156 : 1024])
    data[512 + 148 : 512 + 156] = b"%06o\0 " % total
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(WeightsError, match=rf"x\.tar: .*{word}"):
        read_one(tmp_path / "x.tar")


def test_a_damaged_tar_header_is_refused(saved: Path, tmp_path: Path) -> None:
    data = bytearray(pack(saved, tmp_path / "x.tar", mode="w").read_bytes())
    data[512 + 100] ^= 1  # of the mode, which means nothing here
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(WeightsError, match=r"x\.tar: .*damaged header"):
        read_one(tmp_path / "x.tar")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(160):
            file.write(bytes(1 << 20))
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="unpacks to more"):
        read_one(path)
    assert time.perf_counter() - start < 5


def test_hidden_files_of_other_systems_are_left_out(saved: Path, tmp_path: Path) -> None:
    (saved / "checkpoint").unlink()
    path = pack(saved, tmp_path / "x.tar", member("saved/._ckpt-1.index", b"Mac OS X"), "w")
    assert read_one(path) == read_one(saved)


def test_an_error_of_the_caller_stays_its_own(saved: Path) -> None:
    with pytest.raises(ValueError, match="mine"), open_bundle(saved):
        raise ValueError("mine")


# --- fuzzing ---


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut off, flip bits, or put a part of the data over another."""
    kind = generator.integers(4)
    if kind == 0:
        return data[: generator.integers(len(data))]
    out = bytearray(data)
    if kind == 3:
        start, to, size = (int(generator.integers(len(data))) for _ in range(3))
        out[to : to + size % 200] = data[start : start + size % 200]
        return bytes(out)
    for _ in range(1 if kind == 1 else 8):
        out[generator.integers(len(data))] ^= 1 << generator.integers(8)
    return bytes(out)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("file", ["ckpt-1.index", "ckpt-1.data-00000-of-00001", "checkpoint", "x.tar", "x.tar.gz"])
def test_mutated_bundles_are_refused_or_read_exactly(saved: Path, tmp_path: Path, file: str, packed: bool) -> None:
    generator = np.random.default_rng([len(file), packed])
    wanted = tensors()
    writer.write_bundle(saved / "ckpt-1", wanted, packed=packed)
    tar = file.startswith("x")
    path = pack(saved, tmp_path / file, mode="w:gz" if file.endswith("gz") else "w") if tar else saved / file
    whole = path.read_bytes()
    outcomes = {"refused": 0, "read": 0}
    for _ in range(60):
        path.write_bytes(mutate(whole, generator))
        start = time.perf_counter()
        outcome = "refused"
        with contextlib.suppress(WeightsError), open_bundle(path if tar else saved) as found:
            for key, value in wanted.items():
                if isinstance(value, bytes):
                    assert found.read_strings(key) == [value]
                else:
                    np.testing.assert_array_equal(found.read(key), value)
            outcome = "read"
        outcomes[outcome] += 1
        assert time.perf_counter() - start < 3
    assert outcomes["refused"] >= 10
