"""Reading TensorFlow's weights: the reference's own files, every model in every spelling, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from movinet.config import ModelConfig, family_config
from movinet.errors import WeightsError
from movinet.registry import REGISTRY
from movinet.weights import tensorflow
from movinet.weights.bundle import masked_crc32c
from movinet.weights.names import Weights, parameter_shapes
from movinet.weights.tensorflow import read
from tests.golden.reference import deterministic, key_table
from tests.shared import SHARED, needs_shared
from tests.weights import bundle_writer as writer
from tests.weights.bundle_writer import SMALL, VALUE, as_saved_model, as_trainer, in_keys, numbers, write_bundle
from tests.weights.test_bundle import mutate

GOLDEN = SHARED / "golden"
ASSUMED = "assumed: the file carries no graph"


def exactly(found: Weights, tensors: dict[str, np.ndarray]) -> None:
    assert set(found.tensors) == set(tensors)
    for name, tensor in tensors.items():
        read = found.tensors[name]
        assert read.dtype == np.float32
        assert read.flags.c_contiguous
        assert read.flags.writeable
        assert read.shape == tensor.shape
        assert np.array_equal(read, tensor), name


# --- against the reference ---


@needs_shared
@pytest.mark.parametrize(
    ("file", "table", "config", "form", "kind", "gate_source"),
    [
        ("movinet_a0_base", "models/movinet_a0_base", "a0 base", "base", "tensorflow checkpoint", "base models"),
        ("movinet_a0_stream", "models/movinet_a0_stream", "a0 stream", "stream", "tensorflow checkpoint", ASSUMED),
        ("trainer_t0_stream_10_classes", "train_t0_stream", "t0 stream", "training", "trainer checkpoint", ASSUMED),
        (
            "saved_model_t0_stream_10_classes",
            "models/movinet_t0_stream",
            "t0 stream",
            "stream",
            "SavedModel",
            "the graph",
        ),
    ],
)
def test_files_of_the_reference(file: str, table: str, config: str, form: str, kind: str, gate_source: str) -> None:
    found = read(GOLDEN / "files" / f"{file}.tar.gz")
    variant, shape = config.split()
    assert found.name == f"movinet_{variant}_{shape}"
    classes = 10 if "10_classes" in file else 600
    assert found.config == dataclasses.replace(family_config(variant, shape), num_classes=classes)  # type: ignore[arg-type]
    assert found.provenance["kind"] == kind
    assert found.provenance["file"] == f"{file}.tar.gz"
    assert found.provenance["form"] == ("training" if form == "training" else "inference")
    assert found.provenance["gate"] == found.config.gate
    assert found.provenance["gate_source"].startswith(gate_source)
    keys = key_table(GOLDEN / f"{table}.keys.txt")
    assert len(found.tensors) == len(keys)
    for name, tensor in found.tensors.items():
        key = writer.spelled(name, found.config, form)
        extents = keys.pop(key)
        if key.startswith("model/layer_with_weights-1/_classifier"):
            extents = (*extents[:-1], classes)
        wanted = deterministic().weight(key, extents)
        assert np.array_equal(writer.official(name, tensor, form), wanted), name
    assert not keys


@needs_shared
@pytest.mark.parametrize("path", sorted((GOLDEN / "models").glob("*.keys.txt")), ids=lambda path: path.name[8:-9])
def test_key_tables_of_the_reference_are_what_is_written_here(path: Path) -> None:
    """The other tests write files in these keys; here they are the reference's, with its shapes."""
    _, variant, form = path.name.removesuffix(".keys.txt").split("_")
    form = form.replace("legacy", "base")
    config = family_config(variant, form)  # type: ignore[arg-type]
    form = form.replace("mobile", "stream")
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in parameter_shapes(config).items()}
    written = {key.removesuffix(VALUE): tensor.shape for key, tensor in in_keys(zeros, config, form).items()}
    assert written == key_table(path)


@needs_shared
def test_published_checkpoints_are_recognised() -> None:
    for variant in ("a0", "a1"):
        path = SHARED / "reference" / "official_index" / f"movinet_{variant}_stream" / "ckpt-1.index"
        assert tensorflow.PUBLISHED[hashlib.sha256(path.read_bytes()).hexdigest()] == f"movinet_{variant}_stream"


# --- every model and spelling, without the reference ---


@pytest.mark.parametrize("name", [name for name, info in REGISTRY.items() if not info.members])
def test_every_model_is_identified_and_read_exactly(tmp_path: Path, name: str) -> None:
    config = REGISTRY[name].config
    tensors = numbers(config)
    form = "stream" if config.causal else "base"
    path = write_bundle(tmp_path / "ckpt-1", in_keys(tensors, config, form), packed=name.endswith("a0_stream"))
    found = read(path)
    assert found.name == name
    assert found.config == config
    exactly(found, tensors)


@functools.cache
def small(convolution: str = "2plus1d") -> tuple[ModelConfig, dict[str, np.ndarray]]:
    config = SMALL
    if convolution == "3d":
        config = dataclasses.replace(SMALL, convolution="3d", squeeze_excitation="3d", positional_encoding=False)
    return config, numbers(config)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("form", ["stream", "training"])
@pytest.mark.parametrize("spelling", ["model", "trainer", "saved model"])
def test_every_spelling_and_form(tmp_path: Path, form: str, spelling: str, shards: int) -> None:
    config, tensors = small()
    keys: dict[str, np.ndarray | bytes] = dict(in_keys(tensors, config, form))
    if spelling == "trainer":
        keys = as_trainer(keys)  # type: ignore[arg-type, assignment]
    elif spelling == "saved model":
        keys = as_saved_model(keys)  # type: ignore[arg-type]
    found = read(write_bundle(tmp_path / "ckpt-1", keys, shards, packed=True), config=config)
    exactly(found, tensors)
    kind = {"model": "tensorflow checkpoint", "trainer": "trainer checkpoint", "saved model": "SavedModel"}[spelling]
    assert found.provenance["kind"] == kind
    assert found.provenance["form"] == ("training" if form == "training" else "inference")


def test_causal_three_dimensional_models_of_the_first_release(tmp_path: Path) -> None:
    config = dataclasses.replace(family_config("a0", "base"), causal=True)
    tensors = numbers(config)
    path = write_bundle(tmp_path / "ckpt-1", in_keys(tensors, config, "base"))
    found = read(path, config=config)
    assert found.config == config
    assert found.provenance["gate_source"] == "the caller's configuration"
    exactly(found, tensors)
    assert read(path).name == "movinet_a0_base"


def test_numbered_variables_are_never_resolved_by_order(tmp_path: Path) -> None:
    config, tensors = small()
    keys = in_keys(tensors, config, "stream")
    for seed in range(3):
        path = write_bundle(tmp_path / f"{seed}" / "ckpt-1", as_saved_model(keys, seed))
        exactly(read(path, config=config), tensors)
    without = as_saved_model(keys)
    del without[writer.GRAPH]
    with pytest.raises(WeightsError, match=r"holds variables/0/.*belongs to no MoViNet"):
        read(write_bundle(tmp_path / "without" / "ckpt-1", without), config=config)


@pytest.mark.parametrize(("kind", "bound"), [("f2", 1e-3), ("f8", 0.0), ("bfloat16", 4e-3)])
def test_other_precisions_become_float32(tmp_path: Path, kind: str, bound: float) -> None:
    config, tensors = small()
    keys = in_keys(tensors, config, "stream")
    for key, tensor in keys.items():
        keys[key] = (tensor.view(np.uint32) >> 16).astype(np.uint16) if kind == "bfloat16" else tensor.astype(kind)
    found = read(write_bundle(tmp_path / "ckpt-1", keys), config=config)
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == np.float32
        np.testing.assert_allclose(found.tensors[name], tensor, rtol=2 * bound, atol=0)


# --- gates ---


def as_folder(path: Path, graph: bytes, variant: str = "t0") -> Path:
    config = family_config(variant, "stream")  # type: ignore[arg-type]
    write_bundle(path / "variables" / "variables", as_saved_model(in_keys(numbers(config), config, "stream")))
    (path / "saved_model.pb").write_bytes(graph)
    return path


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_folder(tmp_path_factory.mktemp("saved_model"), b"")


def far(nodes: list[bytes]) -> list[bytes]:
    """Dropouts and scales of 0.2 and 0.5 that are no gate, before what is meant."""
    rate = writer.node("rate", "Const", value=0.2)
    half = writer.node("one_half", "Const", value=0.5)
    others = [
        writer.node("dropped", "Mul", ["y", "rate"]),
        writer.node("shifted", "AddV2", ["dropped", "rate"]),
        writer.node("halved", "Mul", ["y", "one_half"]),
        writer.node("biased", "AddV2", ["halved", "one_half"]),
    ]
    return [rate, half, *others, *nodes]


@pytest.mark.parametrize(
    ("graph", "gate", "source"),
    [
        (writer.saved_graph(far(writer.relu6_gate())), "relu6", "the graph"),
        (writer.saved_graph(writer.relu6_gate(as_bytes=True), in_function=False), "relu6", "the graph"),
        (writer.saved_graph(far(writer.keras_gate())), "keras", "the graph"),
        (writer.saved_graph(writer.keras_gate(), in_function=False), "keras", "the graph"),
        (writer.saved_graph(far([])), "relu6", "assumed: the graph shows no gate"),
        (writer.saved_graph(writer.keras_gate() + writer.relu6_gate()), "relu6", "assumed: the graph shows several"),
    ],
)
def test_the_graph_of_a_saved_model_decides_the_gate(saved_model: Path, graph: bytes, gate: str, source: str) -> None:
    (saved_model / "saved_model.pb").write_bytes(graph)
    for path in (saved_model, saved_model / "variables", saved_model / "variables" / "variables"):
        found = read(path)
        assert found.config.gate == found.provenance["gate"] == gate
        assert found.provenance["gate_source"].startswith(source)
        assert found.provenance["kind"] == "SavedModel"


@pytest.mark.parametrize("graph", [b"\x12\xff\x7f", b"\x12\x02\x12\x05", b"\x12\x80" * 9])
def test_a_damaged_graph_is_refused(saved_model: Path, graph: bytes) -> None:
    (saved_model / "saved_model.pb").write_bytes(graph)
    with pytest.raises(WeightsError, match=r"saved_model\.pb: .*damaged"):
        read(saved_model)


def test_a_published_checkpoint_has_the_gate_of_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = family_config("t0", "stream")
    path = write_bundle(tmp_path / "ckpt-1", in_keys(numbers(config), config, "stream"))
    before = read(path)
    assert before.config.gate == "relu6"
    assert before.provenance["gate_source"].startswith(ASSUMED)
    digest = hashlib.sha256((tmp_path / "ckpt-1.index").read_bytes()).hexdigest()
    monkeypatch.setitem(tensorflow.PUBLISHED, digest, "movinet_t0_stream")
    after = read(path)
    assert after.config == dataclasses.replace(before.config, gate="keras")
    assert after.provenance["gate"] == "keras"
    assert after.provenance["gate_source"] == "recognised as the published checkpoint of 2021"


# --- what is refused ---

B1 = "model/layer_with_weights-0/layer_with_weights-1"
Keys = dict[str, np.ndarray]


def put(key: str, value: np.ndarray) -> Callable[[Keys], object]:
    return lambda keys: keys.update({key + VALUE: value})


def drop(key: str) -> Callable[[Keys], object]:
    return lambda keys: keys.pop(key + VALUE)


def spoil(key: str, value: float) -> Callable[[Keys], object]:
    def change(keys: Keys) -> None:
        keys[key + VALUE] = np.array(keys[key + VALUE])
        keys[key + VALUE].flat[0] = value

    return change


def move(old: str, new: str) -> Callable[[Keys], object]:
    def change(keys: Keys) -> None:
        for key in [key for key in keys if key.startswith(old)]:
            keys[key.replace(old, new, 1)] = keys.pop(key)

    return change


ZERO = np.zeros((), np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop(f"{B1}/_projection/_batch_norm/beta"), "blocks.0.project.norm.bias"),
        (drop(f"{B1}/_mobile_bottleneck/_rezero/scale"), "blocks.0.scale"),
        (drop("model/layer_with_weights-1/_head/_conv/_conv/bias"), "classifier.hidden.bias"),
        (put("model/layer_with_weights-2/kernel", ZERO), "model/layer_with_weights-2/kernel"),
        (put(f"{B1}/_expansion/_conv/_conv/bias", ZERO), f"{B1}/_expansion/_conv/_conv/bias"),
        (put(f"{B1}/_expansion/_conv/_conv/depthwise_kernel", ZERO), "depthwise_kernel"),
        (put(f"{B1}/_expansion/_batch_norm_temporal/beta", ZERO), "_expansion/_batch_norm_temporal/beta"),
        (put("model/layer_with_weights-0/layer_with_weights-0/_mobile_bottleneck/_rezero/scale", ZERO), "-0/_mobile"),
        (put("ema/decay", ZERO), "ema/decay"),
        (put("save_counter_of_mine", ZERO), "save_counter_of_mine"),
        (lambda keys: keys.update({"stray": ZERO}), "stray"),
        (put("backbone/layer_with_weights-1/_mobile_bottleneck/_rezero/scale", ZERO), "are both blocks.0.scale"),
        (put(f"{B1}/_expansion/_conv/_conv/kernel", np.zeros((1, 1, 9, 8), np.float32)), "blocks.0.expand.conv.weight"),
        (
            put(f"{B1}/_expansion/_conv/_conv/kernel", np.zeros((8, 8), np.float32)),
            f"{B1}/_expansion/_conv/_conv/kernel",
        ),
        (put(f"{B1}/_expansion/_conv/_conv/kernel", np.zeros((2, 1, 1, 8, 8), np.float32)), "_expansion/_conv"),
        (put(f"{B1}/_mobile_bottleneck/_rezero/scale", np.zeros((1, 1), np.float32)), "_rezero/scale"),
        (put(f"{B1}/_mobile_bottleneck/_rezero/scale", np.zeros((2,), np.float32)), "blocks.0.scale"),
        (put(f"{B1}/_mobile_bottleneck/_rezero/scale", np.zeros((), np.int32)), "_rezero/scale"),
        (put(f"{B1}/_mobile_bottleneck/_rezero/scale", np.array(1e300)), "blocks.0.scale"),
        (put(f"{B1}/_feature/_conv/_conv/depthwise_kernel", np.zeros((1, 5, 5, 1, 8), np.float32)), "_feature/_conv"),
        (spoil(f"{B1}/_projection/_batch_norm/gamma", np.nan), "blocks.0.project.norm.weight"),
        (spoil(f"{B1}/_projection/_conv/_conv/kernel", np.inf), "blocks.0.project.conv.weight"),
        (spoil(f"{B1}/_projection/_batch_norm/moving_variance", -1), "blocks.0.project.norm.running_var"),
        (move(f"{B1}/", "model/layer_with_weights-0/layer_with_weights-9/"), "head in layer 4"),
        (
            move(
                "model/layer_with_weights-0/layer_with_weights-4/", "model/layer_with_weights-0/layer_with_weights-5/"
            ),
            "5",
        ),
        (
            move(
                "model/layer_with_weights-0/layer_with_weights-0/", "model/layer_with_weights-0/layer_with_weights-7/"
            ),
            "7",
        ),
    ],
)
def test_no_key_is_missing_left_over_or_misshapen(tmp_path: Path, change: Callable[[Keys], object], words: str) -> None:
    config, tensors = small()
    keys = in_keys(tensors, config, "stream")
    change(keys)
    write_bundle(tmp_path / "ckpt-1", keys)
    with pytest.raises(WeightsError) as error:
        read(tmp_path / "ckpt-1", config=config)
    assert "ckpt-1" in str(error.value)
    assert words in str(error.value)


def test_without_a_configuration_the_nearest_model_says_what_is_wrong(tmp_path: Path) -> None:
    config = family_config("t0", "stream")
    keys = in_keys(numbers(config), config, "stream")
    del keys[f"{B1}/_projection/_batch_norm/beta{VALUE}"]
    with pytest.raises(
        WeightsError, match=r"ckpt-1 \(read as movinet_t0_stream\) lacks .*blocks\.0\.project\.norm\.bias"
    ):
        read(write_bundle(tmp_path / "ckpt-1", keys))
    config, tensors = small()
    with pytest.raises(WeightsError, match="no MoViNet of the family"):
        read(write_bundle(tmp_path / "ckpt-2", in_keys(tensors, config, "stream")))


LINK = writer.field(1, writer.field(1, 0) + writer.field(2, "_conv"))


@pytest.mark.parametrize(
    "graph",
    [
        b"",
        b"\x0a",
        b"\xff" * 20,
        writer.field(1, writer.field(1, writer.field(1, 77) + writer.field(2, "model"))),  # to no object
        writer.field(1, LINK * 3),  # to itself: ever longer paths
        writer.field(1, LINK * 300_000),
        writer.field(1, b"") * 300_000,
        writer.field(1, writer.field(1, writer.field(2, b"\xff"))),
        bytes(9 << 20),
    ],
)
def test_hostile_object_graphs_are_refused(tmp_path: Path, graph: bytes) -> None:
    config, tensors = small()
    keys = as_saved_model(in_keys(tensors, config, "stream"))
    keys[writer.GRAPH] = graph
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="ckpt-1"):
        read(write_bundle(tmp_path / "ckpt-1", keys), config=config)
    assert time.perf_counter() - start < 5


def test_a_variable_with_two_names_is_refused(tmp_path: Path) -> None:
    config, tensors = small()
    keys = as_saved_model(in_keys(tensors, config, "stream"))
    front = "layer_with_weights-0/layer_with_weights-1/_projection/_batch_norm"
    keys[writer.GRAPH] = writer.object_graph(
        {f"{front}/beta": "variables/0" + VALUE, f"{front}/gamma": "variables/0" + VALUE}
    )
    with pytest.raises(WeightsError, match=r"variables/0/.* is both blocks\.0\.project\.norm"):
        read(write_bundle(tmp_path / "ckpt-1", keys), config=config)


# --- fuzzing ---


def first_block(data: bytes) -> int:
    """Where the checksum of an index's first block lies."""
    ends = range(20, len(data) - 48)
    return next(at for at in ends if masked_crc32c(data[:at]).to_bytes(4, "little") == data[at : at + 4])


def resealed(data: bytes, end: int, generator: np.random.Generator) -> bytes:
    """Change bytes of the first block and give it the right checksum again: what an attacker would do."""
    out = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        out[generator.integers(end - 9)] = generator.integers(256)
    out[end : end + 4] = masked_crc32c(out[:end]).to_bytes(4, "little")
    return bytes(out)


@pytest.mark.parametrize("spelling", ["model", "saved model"])
@pytest.mark.parametrize("target", ["index", "data", "tar", "resealed"])
def test_mutated_files_are_refused_or_read_exactly(tmp_path: Path, target: str, spelling: str) -> None:
    config, tensors = small()
    keys: dict[str, np.ndarray | bytes] = dict(in_keys(tensors, config, "stream"))
    if spelling == "saved model":
        keys = as_saved_model(keys)  # type: ignore[arg-type]
    prefix = write_bundle(tmp_path / "in" / "ckpt-1", keys, per_block=20)
    path, opened = prefix.with_name("ckpt-1.data-00000-of-00001" if target == "data" else "ckpt-1.index"), prefix
    if target == "tar":
        path = opened = tmp_path / "x.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(prefix.parent, "in")
    whole = path.read_bytes()
    generator = np.random.default_rng([len(target), len(spelling)])
    end = first_block(whole) if target == "resealed" else 0
    messages = []
    for _ in range(60):
        path.write_bytes(resealed(whole, end, generator) if target == "resealed" else mutate(whole, generator))
        start = time.perf_counter()
        try:
            found = read(opened, config=config)
        except WeightsError as error:
            messages.append(str(error))
        else:
            exactly(found, tensors)
        assert time.perf_counter() - start < 3
    assert len(messages) >= 10
    assert all(message.isprintable() for message in messages)
