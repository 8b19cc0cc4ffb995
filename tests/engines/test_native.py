"""The native engine: the laws, torch's numbers, every instruction set, and the memory it touches."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from movinet.engines import native
from movinet.errors import UsageError
from movinet.model import MoViNet
from movinet.registry import list_models
from movinet.state import State
from tests.engines.native import NativeEngine, native_is_built
from tests.laws import laws
from tests.models import small_clip, small_copy, small_model

pytestmark = pytest.mark.skipif(not native_is_built(), reason="the native engine was not built: no C++ compiler")

MODELS = [*list_models("*_stream"), *list_models("*_mobile")]
TOLERANCE = 2e-5  # float32


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def engine_of(name: str) -> NativeEngine:
    model = small_model(name, torch.float32)
    assert isinstance(model, MoViNet)
    return NativeEngine(model)


def clip_of(batch: int = 2, time: int = 5, size: tuple[int, int] = (19, 26)) -> torch.Tensor:
    return small_clip(batch, time, size, torch.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(19, 26), (40, 33), (1, 1)])
def test_numbers_and_state_are_torchs(name: str, size: tuple[int, int]) -> None:
    engine, clip = engine_of(name), clip_of(1, 5, size)
    answers, state = laws.run(engine, clip, [1] * 5)
    expected, expected_state = laws.run(engine.torch, clip, [1] * 5)
    for found, wanted in zip(answers, expected, strict=True):
        laws.same(found, wanted, f"{name} against torch", TOLERANCE)
    laws.same_state(state, State({n: a.numpy() for n, a in expected_state.items()}), "state", TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_laws(name: str, tmp_path: Path) -> None:
    engine = engine_of(name)
    laws.stream_equals_clip(engine, clip_of(2, 3), TOLERANCE)
    laws.any_cut(engine, clip_of(1, 5), [[5], [2, 3], [1, 4]], TOLERANCE)
    laws.rows_are_strangers(engine, clip_of(3, 3), TOLERANCE)
    laws.state_is_a_value(engine, engine_of(name), clip_of(2, 4), tmp_path, TOLERANCE)


def test_law_6_one_stream_grows_by_nothing() -> None:
    class InPlace(NativeEngine):
        """One stream for good, as `Stream` uses it."""

        stream: native.NativeStream | None = None

        def step(self, frames: torch.Tensor, state: Any) -> tuple[torch.Tensor, State]:
            if self.stream is None:
                self.stream = native.NativeStream(self.model, (frames.shape[3], frames.shape[4]))
            answer = self.stream.step(np.ascontiguousarray(frames[0, 0].permute(1, 2, 0).numpy()))
            return torch.from_numpy(np.asarray(answer))[None], state

    grown = laws.constant_memory(
        InPlace(small_copy("movinet_a0_stream", torch.float32)), clip_of(1, 2), 10_000, 5_000_000
    )
    print(f"10,000 frames: {grown / 1e6:.2f} MB")


def test_a_state_in_the_wrong_order_is_seen() -> None:
    class Reversed(NativeEngine):
        def step(self, frames: torch.Tensor, state: Any) -> tuple[torch.Tensor, State]:
            logits, later = super().step(frames, state)
            return logits, State({n: a[:, ::-1].copy() if n.endswith("buffer") else a for n, a in later.items()})

    engine = Reversed(small_copy("movinet_a0_stream", torch.float32))
    with pytest.raises(AssertionError, match="cut"):
        laws.any_cut(engine, clip_of(1, 5), [[5]], TOLERANCE)


@pytest.mark.parametrize("gate", ["relu6", "keras"])
def test_gates(gate: str) -> None:
    model = small_copy("movinet_t0_stream", torch.float32)
    other = MoViNet(dataclasses.replace(model.config, gate=gate)).eval().requires_grad_(False)
    other.load_state_dict(model.state_dict())
    clip = clip_of(1, 3)
    laws.same(NativeEngine(other)(clip), other(clip), gate, TOLERANCE)
    changed = dataclasses.replace(model.config, gate="keras" if gate == "relu6" else "relu6")
    arrays = {n: t.numpy() for n, t in model.state_dict().items()}
    wrong = NativeEngine(other)
    wrong.model = native.NativeModel(changed, arrays)
    with pytest.raises(AssertionError):
        laws.same(wrong(clip), other(clip), gate, TOLERANCE)


def test_uint8_is_float_over_255_and_answers_may_be_left_out() -> None:
    engine = engine_of("movinet_t0_stream")
    frames = np.random.default_rng(0).integers(0, 256, (4, 19, 26, 3)).astype(np.uint8)
    one, other = native.NativeStream(engine.model, (19, 26)), native.NativeStream(engine.model, (19, 26))
    for index, frame in enumerate(frames):
        answer = one.step(frame, answer=index == 3)
        expected = other.step((frame / np.float32(255)).astype(np.float32))
    assert np.allclose(answer, expected, atol=1e-5)
    assert one.step(frames[0], answer=False) is None
    one.reset()
    assert not any(np.any(array) for array in one.state.values())


def test_what_it_cannot_run_is_refused() -> None:
    model = small_copy("movinet_t0_base", torch.float32)
    with pytest.raises(UsageError, match="use engine='torch'"):
        NativeEngine(model)
    stream = native.NativeStream(engine_of("movinet_t0_stream").model, (19, 26))
    for frame in (np.zeros((19, 26, 4), np.uint8), np.zeros((19, 26, 3)), np.zeros((26, 19, 3), np.uint8)):
        with pytest.raises(UsageError, match="a frame must be"):
            stream.step(frame)
    with pytest.raises(UsageError, match=r"lacks blocks\.0\.pool"):
        stream.state = State({})


# --- every instruction set, and memory checked by the compiler ---

_CHECK = """
import sys, numpy as np
from movinet.engines import native
from movinet.config import family_config
from movinet.weights.names import parameter_shapes
import dataclasses
print(native.instructions())
out = {}
cases = [("t0", "stream", (19, 26)), ("a0", "mobile", (33, 40)), ("a3", "stream", (35, 18)), ("t0", "stream", (1, 1))]
for variant, form, size in cases:
    config = dataclasses.replace(family_config(variant, form), num_classes=7)
    rng = np.random.default_rng(1)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith("scale"):
            low, high = 0.1, 0.3
        elif "running_var" in name or "norm.weight" in name:
            low, high = 0.7, 1.3
        else:
            high = (6 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.2
            low = -high
        tensors[name] = rng.uniform(low, high, shape)
    stream = native.NativeStream(native.NativeModel(config, tensors), size)
    for frame in rng.integers(0, 256, (7, *size, 3)).astype(np.uint8):
        answer = stream.step(frame)
    stream.state = stream.state
    out[f"{variant}{form}{size}"] = stream.step(frame)
np.savez(sys.argv[1], **out)
"""


def check(path: Path, **environment: str) -> tuple[str, dict[str, np.ndarray]]:
    result = subprocess.run(
        [sys.executable, "-c", _CHECK, str(path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    with np.load(path) as file:
        return result.stdout.strip(), dict(file)


def test_every_instruction_set_gives_the_same_numbers(tmp_path: Path) -> None:
    best, expected = check(tmp_path / "best.npz")
    seen = {best}
    for wish in ("avx512", "avx2", "portable"):
        used, found = check(tmp_path / f"{wish}.npz", MOVINET_INSTRUCTIONS=wish)
        seen.add(used)
        for name, logits in expected.items():
            assert np.abs(found[name] - logits).max() <= TOLERANCE * max(1.0, float(np.abs(logits).max())), (used, name)
    print("instruction sets:", ", ".join(sorted(seen)))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("g++"), reason="needs g++ on Linux")
def test_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    folder = Path(native.__file__).parent
    package = tmp_path / "movinet"
    shutil.copytree(folder.parents[1], package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    suffix = subprocess.run(
        [sys.executable, "-c", "import importlib.machinery as m; print(m.EXTENSION_SUFFIXES[0])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    sources = sorted(map(str, folder.glob("*.cpp")))
    flags = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-Wno-psabi", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=all"]
    target = package / "engines" / "native" / f"_core{suffix}"
    subprocess.run(["g++", *flags, *sources, "-o", str(target)], check=True, capture_output=True)
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {"PYTHONPATH": str(tmp_path), "LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    for wish in ("avx512", "avx2", "portable"):
        used, _ = check(tmp_path / "out.npz", MOVINET_INSTRUCTIONS=wish, **environment)
        print(f"{used}: no error found")
