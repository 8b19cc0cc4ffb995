"""Mutated files give frames or a `VideoError`, in a process of their own: a crash of a decoder is a failed test."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.video.synthetic import make_video

SUFFIXES = ("mp4", "mkv", "gif", "webm", "avi")
PER_SUFFIX = 36
SLOWEST = 8.0  # seconds per file, on a busy machine


def seeds(folder: Path) -> dict[str, bytes]:
    codecs = {"gif": ("gif", "rgb8"), "webm": ("libvpx", "yuv420p"), "mp4": ("libx264", "yuv420p")}
    result = {}
    for suffix in SUFFIXES:
        codec, pix_fmt = codecs.get(suffix, ("mpeg4", "yuv420p"))
        path = make_video(folder / f"seed.{suffix}", 20, 10, codec=codec, pix_fmt=pix_fmt)
        result[suffix] = path.read_bytes()
    return result


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    kind = rng.randrange(5)
    changed = bytearray(data)
    if kind == 0:
        return bytes(changed[: rng.randrange(1, len(data))])
    if kind == 1:  # bits anywhere
        for _ in range(rng.choice((1, 4, 30, 200))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 2:  # bytes of the header, where sizes and counts stand
        for _ in range(rng.choice((1, 3, 10))):
            changed[rng.randrange(min(400, len(changed)))] = rng.choice((0, 1, 127, 128, 255))
        for _ in range(rng.choice((0, 3))):
            changed[-rng.randrange(1, min(900, len(changed)))] = rng.choice((0, 255))
    elif kind == 3:  # a piece moved, doubled or left out
        start, stop = sorted(rng.sample(range(len(changed)), 2))
        piece = changed[start:stop]
        place = rng.randrange(len(changed))
        if rng.random() < 0.5:
            del changed[start:stop]
        changed[place:place] = piece
    else:  # a piece of another file
        start = rng.randrange(len(other))
        place = rng.randrange(len(changed))
        changed[place : place + rng.randrange(1, 2000)] = other[start : start + rng.randrange(1, 2000)]
    return bytes(changed)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mutated_files(tmp_path, suffix):
    rng = random.Random(f"movinet {suffix}")
    files = seeds(tmp_path)
    names = []
    for number in range(PER_SUFFIX):
        other = files[rng.choice(SUFFIXES)]
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(mutate(files[suffix], rng, other))
        names.append(str(path))
    names.append(str(tmp_path / f"seed.{suffix}"))
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("fuzz.py")), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"crashed with {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
    ends = [line.split() for line in lines if line.startswith("end")]
    assert [end[1] for end in ends] == names
    assert not [end for end in ends if "wrong:" in end], done.stderr
    assert done.stderr == ""
    assert max(float(end[-1]) for end in ends) < SLOWEST
    outcomes = [end[3] for end in ends]
    assert outcomes[-1] == "frames"  # the unharmed one
    assert outcomes.count("frames") > PER_SUFFIX // 4  # the mutations are not all fatal
