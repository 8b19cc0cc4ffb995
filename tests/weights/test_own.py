"""Our own file: what goes in comes out, equal bytes for equal weights, and nothing damaged is ever taken."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from movinet.config import BlockConfig, ModelConfig, Preprocessing, family_config
from movinet.errors import WeightsError
from movinet.weights import own
from movinet.weights.names import Weights, parameter_shapes

CONFIG = ModelConfig(
    stages=((BlockConfig(8, 8, (1, 3), 2),), (BlockConfig(16, 8, (3, 3)), BlockConfig(8, 8, (1, 5)))),
    stem=8,
    head=8,
    hidden=8,
    num_classes=3,
    causal=True,
    convolution="2plus1d",
    squeeze_excitation="2plus3d",
    positional_encoding=True,
)


def weights_of(config: ModelConfig, seed: int = 0, dtype: Any = np.float32) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(
        config=config,
        tensors={name: rng.random(shape).astype(dtype) for name, shape in parameter_shapes(config).items()},
        name="movinet_t0_stream",
        preprocessing=Preprocessing((64, 96), 72, 12.5, 10, (-1.0, 1.0)),
        labels=tuple(f'class "{index}" \N{GREEK SMALL LETTER ALPHA}' for index in range(config.num_classes)),
        provenance={"file": "x.tar.gz", "gate": config.gate, "gate_source": "test", "nested": {"a": [1, 2.5, None]}},
    )


def assert_equal(found: Weights, expected: Weights) -> None:
    assert list(found.tensors) == list(parameter_shapes(expected.config))
    for name, array in expected.tensors.items():
        assert found.tensors[name].dtype == np.float32
        assert found.tensors[name].shape == array.shape
        assert np.array_equal(found.tensors[name], array.astype(np.float32)), name
    for field in ("config", "name", "preprocessing", "labels", "provenance"):
        assert getattr(found, field) == getattr(expected, field)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    own.write(tmp_path / "model.safetensors", weights_of(CONFIG))
    return tmp_path / "model.safetensors"


# --- the right numbers ---


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ">f4"])
def test_what_goes_in_comes_out(dtype: Any, tmp_path: Path) -> None:
    weights = weights_of(CONFIG, dtype=dtype)
    path = tmp_path / "model.safetensors"
    own.write(path, weights)
    assert_equal(own.read(path), weights)
    stored = {array.dtype for array in load_file(path).values()}
    assert stored == {np.dtype(np.float16 if dtype is np.float16 else np.float32)}


def test_without_optional_records(tmp_path: Path) -> None:
    weights = Weights(CONFIG, weights_of(CONFIG).tensors)
    own.write(tmp_path / "model.safetensors", weights)
    assert_equal(own.read(tmp_path / "model.safetensors"), weights)


def test_equal_weights_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    weights = weights_of(CONFIG)
    shuffled = dict(sorted(weights.tensors.items(), key=lambda item: hash(item[0])))
    strided = {name: np.array(array, order="F") for name, array in shuffled.items()}
    provenance = dict(reversed(weights.provenance.items()))
    own.write(tmp_path / "again", dataclasses.replace(weights, tensors=strided, provenance=provenance))
    own.write(tmp_path / "reread", own.read(path))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert (tmp_path / "reread").read_bytes() == path.read_bytes()
    own.write(tmp_path / "other", weights_of(CONFIG, seed=1))
    assert (tmp_path / "other").read_bytes() != path.read_bytes()


def test_other_readers_of_safetensors_open_it(path: Path) -> None:
    expected = weights_of(CONFIG).tensors
    found = load_file(path)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert (8 + struct.unpack("<Q", path.read_bytes()[:8])[0]) % 8 == 0


def test_reading_needs_no_torch(path: Path) -> None:
    code = f"import sys; from movinet.weights import own; own.read({str(path)!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_given_configuration_is_taken_and_checked(path: Path) -> None:
    other = dataclasses.replace(CONFIG, gate="keras")
    assert own.read(path, config=other).config == other
    with pytest.raises(WeightsError, match=r"model\.safetensors: classifier\.output\.weight is 3x8"):
        own.read(path, config=dataclasses.replace(CONFIG, num_classes=4))


def test_a_large_file_is_read_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    own.write(path, weights_of(family_config("a5", "stream")))
    assert path.stat().st_size > 60_000_000
    start = time.process_time()
    own.read(path)
    assert time.process_time() - start < 3  # a fifth of that alone; the machine may be busy


# --- writing that fails ---


def test_an_older_file_survives_a_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be written: No space left"):
        own.write(path, weights_of(CONFIG, seed=1))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_weights_that_do_not_fit_are_not_written(path: Path) -> None:
    before = path.read_bytes()
    good = weights_of(CONFIG)
    short = dict(list(good.tensors.items())[1:])
    nan = {**good.tensors, "blocks.0.scale": np.float32(np.nan) * np.ones(())}
    large = {**good.tensors, "blocks.0.scale": np.array(1e300)}
    for change, message in [
        ({"tensors": short}, "lacks the tensor"),
        ({"tensors": nan}, "not finite"),
        ({"tensors": large}, "not finite"),
        ({"labels": ("a", "b")}, "2 labels for 3 classes"),
        ({"provenance": {"x": object()}}, "no JSON"),
        ({"provenance": {"x": "y" * own.MAX_HEADER}}, "too long"),
    ]:
        with pytest.raises(WeightsError, match=message):
            own.write(path, dataclasses.replace(good, **change))
    with pytest.raises(WeightsError, match="cannot be written"):
        own.write(path.parent / "absent" / "x.safetensors", good)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# --- files that do not fit; each has a right checksum, so that it is the record that is refused ---


def forge(
    path: Path, change: Mapping[str, str | None], tensors: Callable[[dict[str, np.ndarray]], object] = lambda _: None
) -> None:
    """Rewrite the file with other records (None takes one away) and tensors, and sign it anew."""
    arrays = load_file(path)
    arrays = {name: arrays[name] for name in parameter_shapes(CONFIG)}
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    tensors(arrays)
    for key, value in change.items():
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    if "sha256" not in change:
        metadata["sha256"] = own._digest(metadata, arrays)
    save_file(arrays, path, metadata)


def config_with(**change: Any) -> dict[str, str]:
    return {"config": json.dumps({**CONFIG.to_dict(), **change})}


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": None}, "without movinet metadata.*configuration is not known"),
        ({"format": "pt"}, "without movinet metadata"),
        ({"format": "movinet/2"}, r"format 'movinet/2'; this version reads 'movinet/1'"),
        ({"config": None}, "lacks the record 'config'"),
        ({"sha256": None}, "lacks the record 'sha256'"),
        ({"labels": None}, "lacks the record 'labels'"),
        ({"config": "{"}, "record 'config' is malformed"),
        ({"config": DEEP}, "record 'config' is malformed"),
        ({"config": "9" * 100_000}, "record 'config' is malformed"),
        ({"config": "7"}, "'config' does not hold: it is no JSON object"),
        ({"config": "{}"}, "'config' does not hold: the configuration lacks the field"),
        (config_with(extra=1), "unknown configuration field 'extra'"),
        (config_with(gate="none"), "'gate' is 'none'"),
        (config_with(hidden=10**300), "'hidden' is 1000"),
        (config_with(hidden=65_536), r"classifier\.hidden\.weight is 8x8 where this model has 65536x8"),
        (config_with(num_classes=4), r"classifier\.output\.weight is 3x8 where this model has 4x8"),
        (config_with(stages=[CONFIG.to_dict()["stages"][0] * 100_000]), "more blocks than the file has tensors"),
        (config_with(stages=7), "'stages' is malformed"),
        (config_with(stages=[[7]]), "'stages' is malformed"),
        (config_with(dropout=float("nan")), "'config' is malformed"),
        ({"preprocessing": "[]"}, "'preprocessing' does not hold"),
        ({"preprocessing": '{"size": [1, 1]}'}, "'preprocessing' does not hold"),
        (
            {"preprocessing": '{"size":[9,9],"resize":9,"fps":1' + "0" * 400 + ',"frames":9,"value_range":[0,1]}'},
            "'preprocessing' does not hold",
        ),
        (
            {"preprocessing": '{"size":[9,9],"resize":9,"fps":5,"frames":9,"value_range":[-1e999,1]}'},
            "'preprocessing' does not hold: preprocessing has fps 5 and range -inf",
        ),
        ({"labels": '["a", "b"]'}, "'labels' has 2 names for 3 classes"),
        ({"labels": '["a", "b", 3]'}, "'labels' is no list of names"),
        ({"labels": '{"a": 1}'}, "'labels' is no list of names"),
        ({"labels": json.dumps(["a" * 5000, "b", "c"])}, "'labels' is no list of names"),
        ({"name": "7"}, "'name' is no name"),
        ({"provenance": "[]"}, "'provenance' is no JSON object"),
        ({"sha256": "0" * 64}, "does not have its sha256"),
    ],
    ids=range(31),
)
def test_records_that_do_not_hold(change: dict[str, str | None], message: str, path: Path) -> None:
    forge(path, {})
    own.read(path)  # what is refused below is the change
    forge(path, change)
    start = time.process_time()
    with pytest.raises(WeightsError, match=rf"model\.safetensors.*{message}") as caught:
        own.read(path)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("blocks.1.scale", None, r"lacks the tensor blocks\.1\.scale"),
        ("surplus", np.zeros(3, np.float32), "holds surplus"),
        ("blocks.1.scale", np.zeros(1, np.float32), r"blocks\.1\.scale is 1 where"),
        ("blocks.1.scale", np.array(np.inf, np.float32), r"blocks\.1\.scale holds values that are not finite"),
        ("stem.norm.running_var", -np.ones(8, np.float32), "negative variance"),
        ("blocks.1.scale", np.array(1, np.int32), r"blocks\.1\.scale is stored as I32; save it as float32"),
        ("blocks.1.scale", np.array(1, np.float64), "is stored as F64"),
    ],
)
def test_tensors_that_do_not_fit(name: str, array: np.ndarray | None, message: str, path: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        if array is None:
            del arrays[name]
        else:
            arrays[name] = array

    forge(path, {}, change)
    with pytest.raises(WeightsError, match=rf"model\.safetensors.*{message}"):
        own.read(path)


def test_bfloat16_is_refused_by_name(path: Path) -> None:
    own.write(path, weights_of(CONFIG, dtype=np.float16))
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = content[8:end].replace(b'"dtype":"F16"', b'"dtype":"BF16"')
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[end:])
    with pytest.raises(WeightsError, match=r"\.weight is stored as BF16; save it as float32 or float16"):
        own.read(path)


def test_other_files(path: Path, tmp_path: Path) -> None:
    for name, content, message in [
        ("empty", b"", "has 0 bytes"),
        ("page", b"<html>not found</html>", "truncated, or no safetensors"),
        ("bomb", struct.pack("<Q", 1 << 62) + b"{}", "declares a header"),
        ("zeros", bytes(100), "not a whole safetensors file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name}.*{message}"):
            own.read(tmp_path / name)
    with pytest.raises(WeightsError, match="absent cannot be read: No such file"):
        own.read(tmp_path / "absent")
    with pytest.raises(WeightsError, match="cannot be read"):
        own.read(tmp_path)


def test_mutations_are_refused_or_harmless(path: Path) -> None:
    expected = own.read(path)
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    rng = random.Random(3)

    def truncate() -> bytes:
        return content[: rng.randrange(len(content))]

    def flip(low: int, high: int) -> bytes:
        mutated = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 8))):
            mutated[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
        return bytes(mutated)

    def splice() -> bytes:
        start, length, to = rng.randrange(len(content)), rng.randrange(1, 64), rng.randrange(len(content))
        piece = content[start : start + length]
        end = to + (len(piece) if rng.random() < 0.5 else 0)
        return content[:to] + piece + content[end:]

    kinds = [truncate, lambda: flip(0, 8), lambda: flip(8, header), lambda: flip(header, len(content)), splice]
    refused = [0] * len(kinds)
    for index in range(400):
        kind = index % len(kinds)
        mutated = kinds[kind]()
        path.write_bytes(mutated)
        try:
            found = own.read(path)
        except WeightsError:
            refused[kind] += 1
        else:
            assert_equal(found, expected)
    assert refused[0] == refused[3] == 80
    assert min(refused) > 60
