"""Reading TensorFlow Lite files: real ones against the reference, built ones in every form, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from movinet.config import ModelConfig
from movinet.errors import WeightsError
from movinet.model import MoViNet
from movinet.registry import REGISTRY
from movinet.weights import flatbuffer
from movinet.weights.flatbuffer import Model, Operator, parse
from movinet.weights.names import Weights
from movinet.weights.tflite import read
from tests.shared import SHARED, needs_shared
from tests.weights import tflite_network as network
from tests.weights.tflite_network import Builder, Forms, first, kernel_of, small
from tests.weights.tflite_writer import write

T0 = SHARED / "golden" / "files"
REAL = SHARED / "weights"
PRECISIONS = {"float32": "float32", "float16": "float16", "dynamic": "dynamic range", "int8": "int8"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Single frames are too small to share, and threads that wait for each other crawl on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def t0(precision: str) -> Path:
    return T0 / f"t0_stream_10_classes_{precision}.tflite"


def load(found: Weights) -> MoViNet:
    with torch.device("meta"):  # without the time that initialisation takes
        model = MoViNet(found.config).eval()
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in found.tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return model


def saved(model: Model, folder: Path) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(write(model))
    return path


# --- the reference's own files ---


@functools.lru_cache(maxsize=1)
def deterministic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deterministic", SHARED / "golden" / "deterministic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = {
    "stem": "_stem",
    "expand": "_expansion",
    "depthwise": "_feature",
    "temporal": "_feature",
    "project": "_projection",
    "skip": "_skip/_projection",
    "se": "_attention",
}


def folded_t0(config: ModelConfig) -> dict[str, np.ndarray]:
    """The deterministic weights of the ten-class T0 with its norms folded, under our names: straight from the keys."""
    det = deterministic()
    backbone = "model/layer_with_weights-0"
    head = f"{backbone}/layer_with_weights-{len(config.blocks) + 1}/_project"
    made: dict[str, np.ndarray] = {}

    def normed(ours: str, key: str, shape: tuple[int, ...], temporal: bool = False) -> None:
        depthwise = ours.endswith(("depthwise", "temporal"))
        conv = "_conv_temporal" if temporal else "_conv"
        kernel = det.weight(f"{key}/{conv}/_conv/{'depthwise_kernel' if depthwise else 'kernel'}", shape)
        channels = (shape[2] if depthwise else shape[3],)
        norm = f"{key}/_batch_norm{'_temporal' if temporal else ''}"
        gamma, beta, mean, variance = (
            det.weight(f"{norm}/{leaf}", channels).astype(np.float64)
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        factor = gamma / np.sqrt(variance + 1e-3)
        scaled = kernel * (factor[:, None] if depthwise else factor)
        scaled = scaled.transpose(2, 3, 0, 1) if depthwise else scaled.transpose(3, 2, 0, 1)
        made[f"{ours}.conv.weight"] = scaled[..., 0] if temporal else scaled
        made[f"{ours}.norm.bias"] = beta - mean * factor

    def dense(ours: str, key: str, out: int, inputs: int) -> None:
        made[f"{ours}.weight"] = det.weight(f"{key}/_conv/_conv/kernel", (1, 1, inputs, out))[0, 0].T
        made[f"{ours}.bias"] = det.weight(f"{key}/_conv/_conv/bias", (out,))

    normed("stem", f"{backbone}/layer_with_weights-0/_stem", (3, 3, 3, config.stem))
    for index, (block, width) in enumerate(zip(config.blocks, config.in_widths, strict=True)):
        ours, key = f"blocks.{index}", f"{backbone}/layer_with_weights-{index + 1}"
        kt, k = block.kernel
        normed(f"{ours}.expand", f"{key}/_expansion", (1, 1, width, block.expand))
        normed(f"{ours}.depthwise", f"{key}/_feature", (k, k, block.expand, 1))
        if kt > 1:
            normed(f"{ours}.temporal", f"{key}/_feature", (kt, 1, block.expand, 1), temporal=True)
        gate = config.gate_width(block)
        dense(f"{ours}.se.reduce", f"{key}/_attention/_se_reduce", gate, 2 * block.expand)
        dense(f"{ours}.se.expand", f"{key}/_attention/_se_expand", block.expand, gate)
        normed(f"{ours}.project", f"{key}/_projection", (1, 1, block.expand, block.out))
        if block.stride != 1 or block.out != width:
            normed(f"{ours}.skip", f"{key}/_skip/_projection", (1, 1, width, block.out))
        made[f"{ours}.scale"] = det.weight(f"{key}/_mobile_bottleneck/_rezero/scale", ())
    normed("head.project", head, (1, 1, config.blocks[-1].out, config.head))
    classifier = "model/layer_with_weights-1"
    dense("classifier.hidden", f"{classifier}/_head", config.hidden, config.head)
    dense("classifier.output", f"{classifier}/_classifier", config.num_classes, config.hidden)
    return made


@needs_shared
@pytest.mark.parametrize("precision", PRECISIONS)
def test_t0_holds_the_folded_weights(precision: str) -> None:
    """float32 to rounding, float16 to its eleven bits, int8 to half a step of its scale."""
    start = time.perf_counter()
    found = read(t0(precision))
    assert time.perf_counter() - start < 1
    assert found.name == "movinet_t0_stream"
    assert found.config == dataclasses.replace(REGISTRY["movinet_t0_stream"].config, num_classes=10)
    assert found.provenance["kind"] == f"TensorFlow Lite, {PRECISIONS[precision]}"
    assert (found.provenance["gate"], found.provenance["gate_source"]) == ("relu6", "the graph")
    assert found.provenance["input_size"] == (64, 64)
    expected = folded_t0(found.config)
    names = {name for name in found.tensors if not name.endswith(("norm.weight", "running_mean", "running_var"))}
    assert names == set(expected)
    worst = 0.0
    for name, wanted in expected.items():
        got = found.tensors[name]
        assert got.dtype == np.float32
        assert got.shape == wanted.shape
        size = np.abs(wanted).max()
        step = 4e-7 * max(size, 3.0 if name.endswith("se.expand.bias") else 0.0)  # stored with 3 added
        if precision == "float16":
            step = 2.0**-11 * max(size, 4.0 if name.endswith("se.expand.bias") else 0.0)
        elif precision != "float32" and name.endswith("weight"):
            axes = tuple(range(1, wanted.ndim))
            step = np.abs(wanted).max(axis=axes, keepdims=True) / 127 * 0.5 * 1.001 + 4e-7
        elif precision == "int8":
            step = 1e-3  # biases count in steps of the input's scale times the kernel's
        error = np.abs(got - wanted) / step
        assert error.max() <= 1, name
        worst = max(worst, float(error.max()))
    print(f"{precision}: largest error {worst:.3f} of what is allowed")


@needs_shared
def test_a_folded_norm_is_exactly_its_bias() -> None:
    """The variance 1 - epsilon makes the float32 norm add the bias and do nothing else."""
    found = read(t0("float32"))
    model = load(found)
    bias = found.tensors["stem.norm.bias"]
    x = torch.linspace(-3, 3, 8 * 16 * 16).reshape(1, 8, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.stem.norm(x), x + torch.from_numpy(bias.copy())[:, None, None])


@needs_shared
def test_t0_gives_the_reference_logits() -> None:
    wanted = np.load(T0 / "t0_stream_10_classes.logits.npy")
    clip = torch.from_numpy(deterministic().video("even", (1, 6, 64, 64, 3))).permute(0, 1, 4, 2, 3)
    limits = {"float32": 2e-5 * max(1.0, wanted.std()), "float16": 5e-3, "dynamic": 0.1, "int8": 0.1}
    for precision, limit in limits.items():
        with torch.no_grad():
            logits = load(read(t0(precision)))(clip).numpy()
        largest = np.abs(logits - wanted).max()
        print(f"{precision}: largest difference {largest:.2e}")
        assert largest < limit


# --- real weights on real clips ---

CLIPS = (
    "arm_wrestling",
    "carving_ice",
    "cleaning_pool",
    "flipping_pancake",
    "hitting_baseball",
    "juggling_soccer_ball",
    "playing_drums",
)


@needs_shared
@pytest.mark.parametrize(
    ("file", "key", "name", "kind"),
    [
        ("movinet_a0_stream_k600_int8.tflite", "k600_float", "movinet_a0_mobile", "int8"),
        ("movinet_a0_stream_cow7_dynamic.tflite", "cow7_float", "movinet_a0_stream", "dynamic range"),
    ],
)
def test_real_files_on_real_clips(file: str, key: str, name: str, kind: str) -> None:
    found = read(REAL / file)
    assert found.name == name
    assert found.provenance["kind"] == f"TensorFlow Lite, {kind}"
    assert found.provenance["recognised"].startswith("A0 stream")
    mobile = name.endswith("mobile")
    assert found.provenance["gate"] == ("none" if mobile else "relu6")
    assert found.provenance["activation"] == ("relu6" if mobile else "hard_swish")
    assert found.config.hidden_activation == ("relu6" if mobile else "swish")
    labels = (REAL / "kinetics_600_labels.txt").read_text().splitlines()
    model = load(found)
    with np.load(SHARED / "golden" / "real_clips_a0_stream.npz") as golden:
        clips = {clip: (golden[f"{clip}/frames"], golden[f"{clip}/{key}"]) for clip in CLIPS}
    for clip, (frames, wanted) in clips.items():
        state, answers = model.init_state(1, frames.shape[1:3]), []
        for frame in torch.from_numpy(frames).permute(0, 3, 1, 2):
            with torch.no_grad():
                logits, state = model.step(frame[None, None], state)
            answers.append(logits[0].numpy())
        got = np.stack(answers)
        agreement = np.corrcoef(got.ravel(), wanted.ravel())[0, 1]
        print(f"{clip}: correlation 1 - {1 - agreement:.1e}, largest difference {np.abs(got - wanted).max():.1e}")
        assert agreement > 0.9999
        assert np.abs(got - wanted).max() < 1e-3
        if mobile:
            assert labels[got[-1].argmax()] == clip.replace("_", " ")


@needs_shared
def test_the_bad_quantization_is_read_for_what_it_is() -> None:
    found = read(REAL / "movinet_a0_stream_cow7_int8.tflite")
    assert (found.name, found.provenance["gate"]) == ("movinet_a0_stream", "relu6")
    better = read(REAL / "movinet_a0_stream_cow7_dynamic.tflite").tensors
    for key, tensor in better.items():
        if tensor.ndim > 1:
            assert np.abs(found.tensors[key] - tensor).max() <= np.abs(tensor).max() / 64, key


# --- graphs in every form that a converter may choose ---

FORMS = {
    "as the converter of today": (Forms(), {}),
    "rezero spread over the picture": (Forms(rezero="spread"), {}),
    "rezero folded": (Forms(rezero="folded"), {}),
    "sum instead of mean": (Forms(mean="SUM"), {}),
    "dense layers": (Forms(dense="FULLY_CONNECTED"), {}),
    "gate with its three": (Forms(gate="relu6_explicit"), {}),
    "gate with 1/6": (Forms(gate_constant=1 / 6), {}),
    "keras gate": (Forms(gate="keras"), {"gate": "keras"}),
    "keras gate with its half": (Forms(gate="keras_shift", clip=("RELU", "MINIMUM")), {"gate": "keras"}),
    "keras gate, unfolded": (Forms(gate="keras_explicit", clip=("RELU_0_TO_1",)), {"gate": "keras"}),
    "sigmoid gate and swish": (Forms(gate="sigmoid"), {"gate": "sigmoid", "activation": "swish"}),
    "mobile": (
        Forms(),
        {"squeeze_excitation": "none", "activation": "relu6", "hidden_activation": "relu6", "gate": "sigmoid"},
    ),
    "hard swish in the hidden layer": (Forms(), {"hidden_activation": "hard_swish"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_built_graphs(form: str, tmp_path: Path) -> None:
    forms, changes = FORMS[form]
    config = network.config(**changes)
    given = network.weights(config)
    path = saved(Builder(config, given, forms).build(), tmp_path)
    found = read(path, config=dataclasses.replace(config, gate="relu6", hidden_activation="swish"))
    mobile = form == "mobile"
    assert found.provenance["gate"] == ("none" if mobile else config.gate)
    assert found.config == (dataclasses.replace(config, gate="relu6") if mobile else config)
    assert list(found.tensors) == list(given)
    for name, tensor in given.items():
        wanted = np.float32(1) if forms.rezero == "folded" and name.endswith(".scale") else tensor
        limit = 1e-6 if ".se.expand." in name else 0  # where the converter has shifted and scaled
        np.testing.assert_allclose(found.tensors[name], wanted, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("float16", "float16"), ("dynamic", "dynamic range"), ("per_tensor", "dynamic range"), ("int8", "int8")],
)
def test_built_precisions(precision: str, kind: str, tmp_path: Path) -> None:
    config = network.config()
    given = network.weights(config)
    path = saved(Builder(config, given, Forms(precision=precision)).build(), tmp_path)
    found = read(path, config=config)
    assert found.provenance["kind"] == f"TensorFlow Lite, {kind}"
    for name, tensor in given.items():
        # Weights lie within 0.5: half a step of 0.5 / 127, or float16's spacing below 0.5.
        limit = 1e-3 if precision == "int8" and name.endswith("bias") else 0.0
        if name.endswith("weight") and tensor.ndim > 1:
            limit = 0.25 / 127 * 1.001 if precision != "float16" else 2.0**-12
        if name.endswith("se.expand.bias"):
            limit = max(limit, 1e-6)
        np.testing.assert_allclose(found.tensors[name], tensor, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("name", ["movinet_a1_stream", "movinet_a1_mobile", "movinet_a2_stream"])
def test_members_of_the_family_are_recognised(name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(REGISTRY[name].config, num_classes=3)
    given = network.weights(config)
    found = read(saved(Builder(config, given, size=48).build(), tmp_path))
    assert (found.name, found.config) == (name, config)
    assert all(np.allclose(found.tensors[key], tensor, rtol=0, atol=1e-6) for key, tensor in given.items())


# --- negative controls ---


def with_operator(model: Model, index: int, **changes: object) -> Model:
    operators = list(model.operators)
    operators[index] = Operator(**{**vars(operators[index]), **changes})
    return dataclasses.replace(model, operators=tuple(operators))


def with_options(model: Model, index: int, **changes: int) -> Model:
    return with_operator(model, index, options={**model.operators[index].options, **changes})


def without(model: Model, index: int) -> Model:
    return dataclasses.replace(model, operators=model.operators[:index] + model.operators[index + 1 :])


def with_tensor(model: Model, index: int, **changes: object) -> Model:
    tensors = list(model.tensors)
    tensors[index] = dataclasses.replace(tensors[index], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(model, tensors=tuple(tensors))


def doubled(model: Model) -> Model:
    """The first convolution a second time, into a tensor of its own, with a kernel of its own."""
    op = model.operators[first(model, "CONV_2D")]
    kernel, out = len(model.tensors), len(model.tensors) + 1
    tensors = (*model.tensors, dataclasses.replace(model.tensors[op.inputs[1]], name="the copy"))
    tensors = (*tensors, dataclasses.replace(model.tensors[op.outputs[0]], name="the end of the copy"))
    more = Operator(op.code, (op.inputs[0], kernel, op.inputs[2]), (out,), op.options)
    return dataclasses.replace(model, tensors=tensors, operators=(*model.operators, more))


def swapped(model: Model) -> Model:
    """The gate's concatenation the other way round."""
    index = next(i for i, op in enumerate(model.operators) if op.code == "CONCATENATION" and op.options["axis"] == -1)
    return with_operator(model, index, inputs=model.operators[index].inputs[::-1])


def with_content(model: Model, tensor: int, content: np.ndarray) -> Model:
    buffers = list(model.buffers)
    buffers[model.tensors[tensor].buffer] = np.frombuffer(content.tobytes(), np.uint8)
    return dataclasses.replace(model, buffers=tuple(buffers))


def left_over(model: Model) -> Model:
    extra = dataclasses.replace(model.tensors[kernel_of(model)], name="nobody's kernel", buffer=len(model.buffers))
    content = model.buffers[model.tensors[kernel_of(model)].buffer]
    return dataclasses.replace(model, tensors=(*model.tensors, extra), buffers=(*model.buffers, content))


CONTROLS: dict[str, tuple[Callable[[], Model], str]] = {
    "gate constant": (lambda: small(Forms(gate_constant=0.2)), "gate at .* computes RELU6 0 MUL 0.2"),
    "keras clip": (lambda: small(Forms(gate="keras", clip=("MAXIMUM",))), "gate at .* computes MAXIMUM 0;"),
    "positional encoding": (lambda: small(Forms(position=True)), "adds a positional encoding"),
    "activation": (lambda: small(activation="swish"), "has swish at .* where the given configuration has hard_swish"),
    "operator removed": (lambda: without(small(), 9), "which nothing before it makes"),
    "activation removed": (lambda: without(small(), first(small(), "HARD_SWISH")), "which nothing before it makes"),
    "operator twice": (
        lambda: dataclasses.replace(small(), operators=(*small().operators, small().operators[5])),
        "makes tensor .* once more",
    ),
    "operators out of order": (
        lambda: dataclasses.replace(small(), operators=small().operators[::-1]),
        "which nothing before it makes",
    ),
    "convolution doubled": (lambda: doubled(small()), "comes CONV_2D, CONV_2D where one CONV_2D belongs"),
    "constant left over": (lambda: left_over(small()), "constant tensor .*nobody's kernel.* is left over"),
    "concatenation swapped": (lambda: swapped(small()), "not the running mean followed by the mean"),
    "stride": (
        lambda: with_options(small(), first(small(), "DEPTHWISE_CONV_2D"), stride_w=1, stride_h=1),
        "is not what blocks.0.skip computes",
    ),
    "padding": (lambda: with_options(small(), first(small(), "CONV_2D"), padding=1), "stride or padding"),
    "dilation": (lambda: with_options(small(), first(small(), "DEPTHWISE_CONV_2D"), dilation_h=2), "stride or padding"),
    "fused activation": (lambda: with_options(small(), first(small(), "ADD", -1), activation=3), "activation"),
    "pooling": (lambda: with_options(small(), first(small(), "AVERAGE_POOL_2D"), filter_w=2), "is not 3x3"),
    "unknown operator": (
        lambda: with_operator(small(), first(small(), "HARD_SWISH"), code="operator 98"),
        "comes operator 98",
    ),
    "kernel shape": (lambda: with_tensor(small(), kernel_of(small()), shape=(8, 9, 3, 1)), "kernel, stride or padding"),
    "kernel size": (
        lambda: with_content(small(), kernel_of(small()), np.zeros(5, "<f4")),
        "has 20 bytes for the shape",
    ),
    "kernel not finite": (
        lambda: with_content(small(), kernel_of(small()), np.full((8, 3, 3, 3), np.nan, "<f4")),
        "not finite",
    ),
    "kernel huge": (
        lambda: with_content(small(), kernel_of(small()), np.full((8, 3, 3, 3), 1e30, "<f4")),
        "not finite or beyond",
    ),
    "kernel type": (lambda: with_tensor(small(), kernel_of(small()), type=17), "type number 17"),
    "kernel used twice": (
        lambda: with_operator(
            small(),
            first(small(), "DEPTHWISE_CONV_2D", 5),
            inputs=(
                small().operators[first(small(), "DEPTHWISE_CONV_2D", 5)].inputs[0],
                kernel_of(small(), "DEPTHWISE_CONV_2D", 3),
                small().operators[first(small(), "DEPTHWISE_CONV_2D", 5)].inputs[2],
            ),
        ),
        "the kernel .* is used twice",
    ),
    "buffer of another": (
        lambda: with_tensor(small(), kernel_of(small()), buffer=small().tensors[kernel_of(small(), skip=1)].buffer),
        "belongs to no tensor",
    ),
    "rezero uneven": (
        lambda: with_content(
            small(Forms(rezero="spread")),
            next(
                i
                for i, t in enumerate(small(Forms(rezero="spread")).tensors)
                if t.shape == (1, 8, 8, 8) and _constant(i)
            ),
            np.linspace(0, 1, 512, dtype="<f4"),
        ),
        "different numbers",
    ),
    "scale of zero": (lambda: scaled(0.0), "scale that is not a positive number"),
    "scale not finite": (lambda: scaled(np.nan), "scale that is not a positive number"),
    "scale of another": (lambda: scaled(3.0), "not that of its operator's input and kernel"),
    "zero point": (lambda: scaled(None, 200), "zero point outside"),
    "no scale": (lambda: scaled(None, None), "without a scale"),
    "no logits": (lambda: dataclasses.replace(small(), outputs=small().outputs[:-1]), "are not what it answers"),
    "inputs missing": (lambda: dataclasses.replace(small(), inputs=()), "which nothing before it makes"),
}


def _constant(index: int) -> bool:
    model = small(Forms(rezero="spread"))
    return model.buffers[model.tensors[index].buffer].size > 0


def scaled(factor: float | None, zero_point: int | None = 0) -> Model:
    """An int8 model whose first kernel has its scales multiplied, its zero points changed, or neither."""
    model = small(Forms(precision="int8"))
    kernel = kernel_of(model)
    given = model.tensors[kernel].quantization
    assert given is not None
    if factor is None and zero_point is None:
        return with_tensor(model, kernel, quantization=None)
    scale = given.scale * np.float32(1 if factor is None else factor)
    return with_tensor(
        model,
        kernel,
        quantization=flatbuffer.Quantization(scale, np.full_like(given.zero_point, zero_point or 0), given.dimension),
    )


@pytest.mark.parametrize("control", CONTROLS)
def test_changed_graphs_are_refused(control: str, tmp_path: Path) -> None:
    make, message = CONTROLS[control]
    path = saved(make(), tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        read(path, config=network.config())
    assert str(path) in str(caught.value)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = saved(small(), tmp_path)
    with pytest.raises(WeightsError, match="fit none of the architectures"):
        read(path)
    with pytest.raises(WeightsError, match=r"classifier\.output\.weight is 5x24 where this model has 6x24"):
        read(path, config=network.config(num_classes=6))
    with pytest.raises(WeightsError, match="is not causal"):
        read(path, config=network.config(causal=False))


def test_a_stride_of_another_model_is_refused(tmp_path: Path) -> None:
    """Strides leave no trace in the tensors' shapes."""
    config = network.config()
    block = dataclasses.replace(config.stages[0][0], stride=1, out=16)
    changed = dataclasses.replace(config, stages=((block, *config.stages[0][1:]), *config.stages[1:]))
    other = dataclasses.replace(
        changed, stages=((dataclasses.replace(block, stride=2), *changed.stages[0][1:]), *changed.stages[1:])
    )
    path = saved(Builder(changed, network.weights(changed)).build(), tmp_path)
    assert read(path, config=changed).config == changed
    with pytest.raises(WeightsError, match="block 0 has the stride 1 where the given configuration has 2"):
        read(path, config=other)


# --- files that are none ---


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.tflite"):
        with pytest.raises(WeightsError, match="is not a file"):
            read(path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(WeightsError, match="is not a file"):  # and does not wait for a writer
        read(pipe)


# --- fuzzing ---


def payload(data: bytes) -> np.ndarray:
    """True for each byte of a constant, a scale or a zero point: what carries numbers and no structure."""
    inside = np.zeros(len(data), bool)
    origin = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    model = parse(data, "file")
    arrays = list(model.buffers)
    for tensor in model.tensors:
        if tensor.quantization is not None:
            arrays += [tensor.quantization.scale, tensor.quantization.zero_point]
    for array in arrays:
        if array.size:
            start = array.__array_interface__["data"][0] - origin
            inside[start : start + array.nbytes] = True
    return inside


def mutate(data: bytes, inside: np.ndarray, places: np.ndarray, rng: random.Random, kind: str) -> tuple[bytes, bool]:
    """A damaged copy, and whether a number was hit."""
    out = bytearray(data)
    place = int(places[rng.randrange(len(places))])
    if kind == "truncate":
        return bytes(out[: rng.randrange(len(out))]), False
    if kind == "weights":
        place = rng.randrange(len(out))
    if kind == "splice":
        width, origin = rng.choice((1, 2, 4, 8, 64)), int(places[rng.randrange(len(places))])
        width = min(width, len(out) - place, len(out) - origin)
        out[place : place + width] = data[origin : origin + width]
        return bytes(out), bool(inside[place : place + width].any())
    out[place] ^= 1 << rng.randrange(8)
    return bytes(out), bool(inside[place])


@functools.lru_cache(maxsize=4)
def sample(name: str) -> tuple[bytes, ModelConfig | None]:
    if name == "built":
        return write(small(Forms(precision="int8"))), network.config()
    return t0(name).read_bytes(), None


@pytest.mark.parametrize(
    ("name", "count"),
    [("built", 400), pytest.param("float16", 100, marks=needs_shared), pytest.param("int8", 100, marks=needs_shared)],
)
def test_damage_is_refused_or_harmless(name: str, count: int, tmp_path: Path) -> None:
    """Either a WeightsError, or the same tensors; where a number itself was hit, those of the other tensors."""
    data, config = sample(name)
    inside = payload(data)
    places = np.flatnonzero(~inside)
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    wanted = read(path, config=config).tensors
    rng = random.Random(20211)
    kinds = ("truncate", "flip", "flip", "flip", "splice", "splice", "weights")
    refused = 0
    for step in range(count):
        content, hit = mutate(data, inside, places, rng, kinds[step % len(kinds)])
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            found = read(path, config=config).tensors
        except WeightsError:
            refused += 1
            continue
        finally:
            assert time.perf_counter() - start < 3
        differing = [key for key in wanted if not np.array_equal(found[key], wanted[key])]
        # One place of a splice may reach two neighbours.
        assert len(differing) <= (2 if hit else 0), differing
    print(f"{name}: {refused} of {count} refused, the rest harmless")
    assert refused > count // 5
