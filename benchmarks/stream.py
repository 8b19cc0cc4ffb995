"""Milliseconds per frame of a stream, native engine against torch, interleaved in one run on one core.

    python benchmarks/stream.py [--models movinet_a0_stream ...] [--frames 100] [--out benchmarks/stream.json]

Weights are random: they do not change the time. One frame per call at the published size, uint8 in, logits out; the
engines take turns frame by frame, so that what else the machine does hits all of them. Medians; ratios are what counts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import movinet
from movinet.engines import native

MODELS = [*movinet.list_models("*_stream"), *movinet.list_models("*_mobile")]


def measure(name: str, frames: int) -> dict[str, Any]:
    """Median and tenth percentile in milliseconds of each engine."""
    model = movinet.create_model(name)
    assert isinstance(model, movinet.MoViNet)
    size = movinet.model_info(name).preprocessing.size
    rng = np.random.default_rng(0)
    pictures = [torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8)) for _ in range(8)]
    streams = {engine: movinet.Stream(model, engine=engine) for engine in ("native", "torch")}  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = {engine: [] for engine in streams}
    for index in range(frames + 5):
        for engine, stream in streams.items():
            begun = time.perf_counter()
            stream(pictures[index % len(pictures)])
            if index >= 5:
                seconds[engine].append(time.perf_counter() - begun)
    row: dict[str, Any] = {"model": name, "size": list(size)}
    for engine, times in seconds.items():
        row[engine] = {
            "median_ms": round(1e3 * statistics.median(times), 3),
            "p10_ms": round(1e3 * float(np.percentile(times, 10)), 3),
        }
    row["ratio"] = round(row["torch"]["median_ms"] / row["native"]["median_ms"], 2)
    return row


def processor() -> str:
    """The processor's name, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.models:
        rows.append(measure(name, options.frames))
        row = rows[-1]
        print(
            f"{name:<19} native {row['native']['median_ms']:7.2f} ms   torch {row['torch']['median_ms']:7.2f} ms"
            f"   {row['ratio']:.1f} times",
            flush=True,
        )
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "instructions": native.instructions(),
        "threads": 1,
        "frames": options.frames,
        "versions": {"movinet": movinet.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
