"""500 mutated files through `movinet predict`: an answer or one sentence, never a traceback, a crash or a hang."""

from __future__ import annotations

import contextlib
import gzip
import io
import multiprocessing
import queue
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shared import SHARED, needs_shared

pytestmark = [needs_shared, pytest.mark.slow]

VIDEOS = ("odd_very_small_16x10.mp4", "cctv_short.mp4", "odd_no_duration.webm", "codec_h265.mp4", "codec_av1.mkv")
VIDEOS += (
    "odd_latin1_metadata.avi",
    "cctv_short.gif",
    "odd_rotation_90.mov",
    "codec_old_phone.3gp",
    "odd_one_frame.mp4",
)
FILES = {
    "video": [SHARED / "clips" / name for name in VIDEOS],
    "checkpoint": [SHARED / "golden/files/trainer_t0_stream_10_classes.tar.gz"],
    "tflite": [
        SHARED / "golden/files/t0_stream_10_classes_float16.tflite",
        SHARED / "weights/movinet_a0_stream_k600_int8.tflite",
    ],
}
COUNTS = {"video": 200, "checkpoint": 120, "tflite": 180}
LIMIT = 30.0  # seconds for one file, on a machine that does other things too


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Cut, flip bits, or overwrite a stretch; more often near the start, where the structure is."""
    changed = bytearray(data)
    reach = len(changed) if rng.random() < 0.5 else min(len(changed), 4096)
    kind = rng.choice(("cut", "flip", "flip", "stretch"))
    if kind == "cut":
        return bytes(changed[: rng.randrange(reach)])
    if kind == "flip":
        for _ in range(rng.choice((1, 3, 30))):
            changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    else:
        start = rng.randrange(reach)
        length = rng.randrange(1, 64)
        changed[start : start + length] = rng.choice((b"\xff", b"\0", rng.randbytes(1))) * length
    return bytes(changed)


def _predict(
    kind: str, seeds: list[int], folder: str, results: multiprocessing.Queue[tuple[int, int, str, float]]
) -> None:
    """In a process of its own, so that a crash of native code is seen as one."""
    import torch

    from movinet.cli import main

    torch.set_num_threads(1)
    still = str(SHARED / "clips/odd_one_frame.mp4")
    weights = str(SHARED / "weights/movinet_a0_stream_cow7_dynamic.tflite")
    for seed in seeds:
        rng = random.Random(seed)
        source = FILES[kind][seed % len(FILES[kind])]
        data, suffix = source.read_bytes(), "".join(source.suffixes[-2:])
        if kind == "checkpoint" and seed % 2:  # past gzip's own checksum
            data, suffix = gzip.decompress(data), ".tar"
        path = Path(folder) / f"{seed}{suffix}"
        path.write_bytes(mutate(data, rng))
        arguments = [str(path), "--weights", weights] if kind == "video" else [still, "--weights", str(path)]
        begun, err = time.monotonic(), io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            try:
                code = main(["predict", *arguments])
            except BaseException as error:
                code, text = -1, f"{type(error).__name__}: {error}"
            else:
                text = err.getvalue()
        results.put((seed, code, text, time.monotonic() - begun))
        path.unlink()


def run(
    kind: str, seeds: list[int], folder: Path, target: Callable[..., None] = _predict
) -> list[tuple[int, int, str, float]]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=target, args=(kind, seeds, str(folder), results))
    process.start()
    done: list[tuple[int, int, str, float]] = []
    waited = 0
    while len(done) < len(seeds):
        try:
            done.append(results.get(timeout=1))
            waited = 0
        except queue.Empty:
            waited += 1
            # The first answer also waits for torch to be imported.
            if not process.is_alive() or waited > LIMIT + (60 if not done else 0):
                process.kill()
                missing = min(set(seeds) - {seed for seed, *_ in done})
                raise AssertionError(f"{kind} seed {missing}: no result, exit code {process.exitcode}") from None
    process.join()
    return done


@pytest.mark.parametrize("kind", COUNTS)
def test_mutated_files(kind: str, tmp_path: Path) -> None:
    refused = 0
    allowed = {"video": (0, 3), "checkpoint": (0, 4), "tflite": (0, 4)}[kind]
    for seed, code, text, seconds in run(kind, list(range(COUNTS[kind])), tmp_path):
        assert code in allowed, f"{kind} seed {seed}: exit code {code}, {text}"
        assert "Traceback" not in text
        assert seconds < LIMIT, f"{kind} seed {seed} took {seconds:.1f} s"
        if code:
            refused += 1
            assert text.startswith("movinet predict: "), f"{kind} seed {seed}: {text}"
    print(f"{kind}: {COUNTS[kind]} mutated files, {refused} refused")
    assert refused > COUNTS[kind] // 10, "the mutations change nothing"


def _crash(kind: str, seeds: list[int], folder: str, results: object) -> None:
    import os

    os.abort()


def test_a_crash_would_be_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no result"):
        run("video", [0], tmp_path, _crash)
