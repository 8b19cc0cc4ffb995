"""Weights of a stream or mobile model out of its TensorFlow Lite file: the graph is followed, names decide nothing.

The walk starts at the picture and takes one operator after the other: each must be the one that the network has there,
with the strides, padding and activation that it has there, and no constant may be left over. What is found is
dequantized into the float network of `names.parameter_shapes`. The converter has folded batch norm into kernels and
biases; here a norm stands for that bias alone: weight 1, mean 0, variance 1 - epsilon.

Operators and their options: TensorFlow's `schema.fbs`. Kernels are stored as (out, height, width, in), depthwise ones
as (1, height, width, channels), dense ones as (out, in). NumPy only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import numpy as np

from movinet.config import Activation, Gate, ModelConfig
from movinet.errors import WeightsError
from movinet.registry import REGISTRY
from movinet.weights.flatbuffer import Operator, parse
from movinet.weights.names import Weights, check_tensors, identify, parameter_shapes
from movinet.weights.tflite_graph import CONV, DENSE, DEPTHWISE, NONE, RELU, RELU6, SAME, VALID, Graph

MAX_BYTES = 512 << 20
# Variance of a norm that does nothing: with the network's epsilon, 1e-3, the float32 sum is exactly 1.
UNIT_VARIANCE = np.float32(1 - 1e-3)

# sha256 of published files.
KNOWN_FILES: dict[str, str] = {
    "6125b36e2485eeb5cc1fd6206cf5e5d70235593fbc84610d1dce97fe3aa9c2ac": (
        "A0 stream, Kinetics 600, int8 (TensorFlow Hub)"
    ),
    "2afdb24bc127104171df2d133245beb3b8828705cc8d93f1aeb1e24392838924": (
        "A0 stream, Kinetics 600, float16 (TensorFlow Hub)"
    ),
    "586d6fed35181c47333027f5a4ce6505e4239105c3dbf9bbd54fe1628cfc313c": (
        "A0 stream, seven behaviours of cows, dynamic range (berlin0308/Raspberrypi-MoViNet-TFLite)"
    ),
    "5c6f72141a7b1cba5869f60314bf1e193d9f6a4e8a3b97ff3953badffa0a2281": (
        "A0 stream, seven behaviours of cows, int8 (berlin0308/Raspberrypi-MoViNet-TFLite)"
    ),
}

# float16 rounds the gate's constants by less than this; 1/6 instead of 0.16667 is the same gate.
GATE_TOLERANCE = 1e-4


def read(path: Path, *, config: ModelConfig | None = None) -> Weights:
    """The float weights of a `.tflite` file of a stream or mobile model: float32, float16, dynamic range or int8.

    Without `config` the model of the family that fits is found; with it the tensors must fit it. The gate and the
    activation of the classifier's hidden layer come from the graph in both cases. Raises `WeightsError` if the file
    cannot be read, is damaged, or computes anything but that network.
    """
    path = Path(path)
    source = str(path)
    data = _bytes(path)
    model = parse(data, source)
    walk = _Walk(Graph(model, source))
    walk.run()
    tensors = walk.tensors
    name: str | None
    if config is None:
        name, config = identify(tensors, source)
    else:
        name = _registered(config)
    check_tensors(tensors, config, f"{source} (read as {name})" if name else source)
    walk.check_against(config, name or "the given configuration")
    config = dataclasses.replace(config, hidden_activation=walk.hidden_activation, gate=walk.gate or config.gate)
    digest = hashlib.sha256(data).hexdigest()
    provenance: dict[str, Any] = {
        "kind": f"TensorFlow Lite, {walk.graph.precision}",
        "file": path.name,
        "sha256": digest,
        "recognised": KNOWN_FILES.get(digest),
        "gate": walk.gate or "none",
        "gate_source": "the graph",
        "activation": config.activation,
        "hidden_activation": walk.hidden_activation,
        "batch_norm": "folded",
        "signatures": [signature.key for signature in model.signatures],
        "input_size": walk.size,  # (height, width) that the graph was exported for
    }
    ordered = {key: tensors[key] for key in parameter_shapes(config)}
    return Weights(config, ordered, name=name, provenance=provenance)


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise WeightsError(f"{path} is not a file; give the path of a .tflite file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise WeightsError(f"{path} has {size} bytes, more than any MoViNet ({MAX_BYTES}); give another file")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check its permissions") from None


def _registered(config: ModelConfig) -> str | None:
    """The registered model whose network this is, whatever its number of classes and its rates of dropping."""
    for name, info in REGISTRY.items():
        alike = dataclasses.replace(
            info.config,
            num_classes=config.num_classes,
            gate=config.gate,
            hidden_activation=config.hidden_activation,
            dropout=config.dropout,
            stochastic_depth=config.stochastic_depth,
        )
        if alike == config and not info.members:
            return name
    return None


class _Walk:
    """One walk from the picture to the logits; afterwards `tensors` holds what `names.parameter_shapes` lists."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.tensors: dict[str, np.ndarray] = {}
        self.activations: list[tuple[str, int]] = []  # with the tensor they stand at
        self.hidden_activation: Activation = "swish"
        self.gates: set[Gate] = set()
        self.strides: list[int] = []  # of the blocks
        self.size: tuple[int, int] | None = None

    @property
    def gate(self) -> Gate | None:
        """The function of the gates, or none where there are no gates."""
        return next(iter(self.gates), None)

    def run(self) -> None:
        """Read all tensors. Raises `WeightsError` at the first thing that the network does not have."""
        graph = self.graph
        pictures = [tensor for tensor in graph.inputs if CONV in graph.codes(tensor)]
        if len(pictures) != 1:
            graph.fail(f"{len(pictures)} of its inputs go into a convolution where one, the picture, belongs")
        shape = graph.tensors[pictures[0]].shape
        if len(shape) < 4:
            graph.fail(f"its picture, {graph.name(pictures[0])}, has the shape {shape}")
        self.size = shape[-3], shape[-2]
        stem = graph.only(pictures[0], CONV)
        x = self._active(self._conv("stem", stem, 3, 2))
        while graph.codes(x) != {CONV} or len(graph.users(x)) != 1:
            x = self._block(f"blocks.{len(self.strides)}", x)
        self._head(x)
        graph.finish()

    def check_against(self, config: ModelConfig, name: str) -> None:
        """Raise `WeightsError` where the graph computes something else than a model with these shapes."""
        graph = self.graph
        if not config.causal:
            graph.fail(f"{name} is not causal, but the graph keeps a state")
        for found, tensor in self.activations:
            if found != config.activation:
                graph.fail(f"it has {found} at {graph.name(tensor)} where {name} has {config.activation}")
        for index, (stride, block) in enumerate(zip(self.strides, config.blocks, strict=True)):
            if stride != block.stride:
                graph.fail(f"block {index} has the stride {stride} where {name} has {block.stride}")

    # --- parts of the network ---

    def _block(self, name: str, x: int) -> int:
        """Expand, depthwise, temporal, gate, project, scale, plus skip: the tensor after it."""
        graph = self.graph
        # The other convolution that may stand here, the skip's, goes straight into the sum.
        expands = [op for op in graph.users(x) if op.code == CONV and graph.codes(op.outputs[0]) != {"ADD"}]
        if len(expands) != 1:
            graph.fail(f"after {graph.name(x)} come {len(expands)} expanding convolutions where {name} has one")
        inner = self._active(self._conv(f"{name}.expand", graph.take(expands[0])))
        spatial = graph.only(inner, DEPTHWISE)
        self._sole_use(inner)
        stride = spatial.options["stride_h"]
        self.strides.append(stride)
        inner = self._active(self._depthwise(f"{name}.depthwise", spatial, stride))
        if graph.codes(inner) == {"CONCATENATION"}:
            inner = self._temporal(name, inner)
        if "MUL" in graph.codes(inner):
            inner = self._squeeze_excitation(f"{name}.se", inner)
        project = graph.only(inner, CONV)
        inner = graph.plain(self._conv(f"{name}.project", project))
        scale = 1.0  # where the converter has folded it into the kernel before it
        if graph.codes(inner) == {"MUL"}:
            multiply = graph.only(inner, "MUL")
            scale = graph.uniform(graph.other(multiply, inner))
            inner = graph.plain(multiply)
        self.tensors[f"{name}.scale"] = np.asarray(scale, np.float32)
        total = graph.only(inner, "ADD")
        self._sole_use(inner)
        self._skip(f"{name}.skip", x, graph.other(total, inner), stride)
        return graph.plain(total)

    def _temporal(self, name: str, x: int) -> int:
        """The past (1, kt - 1, h, w, c) and this frame, joined in this order; then kt x 1 over (1, kt, h * w, c)."""
        graph = self.graph
        join = graph.only(x, "CONCATENATION")
        if graph.other(join, x) != join.inputs[0] or graph.root[join.inputs[0]] not in graph.inputs:
            graph.fail(f"{graph.name(join.outputs[0])} is not the past followed by this frame")
        time = graph.tensors[join.outputs[0]].shape[1:2]
        op = graph.only(join.outputs[0], DEPTHWISE)
        shape = graph.tensors[graph.root[op.inputs[1]]].shape
        if join.options["axis"] != 1 or shape[1:2] != time:
            graph.fail(f"the kernel of {graph.name(op.outputs[0])} does not cover the frames it is given")
        return self._active(self._depthwise(f"{name}.temporal", op, 1))

    def _squeeze_excitation(self, name: str, x: int) -> int:
        """[mean over all frames so far ; mean of this frame] -> reduce -> expand -> gate, times `x`."""
        graph = self.graph
        mean = self._mean(x)
        running = self._running_mean(mean)
        join = graph.only(mean, "CONCATENATION")
        roots = [graph.root[tensor] for tensor in join.inputs]
        rank = len(graph.tensors[join.outputs[0]].shape)
        if roots != [running, graph.root[mean]] or join.options["axis"] not in (-1, rank - 1):
            graph.fail(f"{graph.name(join.outputs[0])} is not the running mean followed by the mean of the frame")
        pooled = join.outputs[0]
        if "ADD" in graph.codes(pooled):
            raise WeightsError(
                f"{graph.source} adds a positional encoding, as A3 to A5 do, which is not read from TensorFlow Lite"
                " files; read the checkpoint it was made from"
            )
        reduced = self._active(self._dense(f"{name}.reduce", graph.only(pooled, CONV, DENSE)))
        expand = self._dense(f"{name}.expand", graph.only(reduced, CONV, DENSE))
        return self._gate(f"{name}.expand", expand, x)

    def _gate(self, name: str, op: Operator, x: int) -> int:
        """The steps from the expanding convolution to the product with `x` say which gate it is."""
        graph = self.graph
        steps = _fused(op)
        tensor = op.outputs[0]
        while True:
            step = graph.only(tensor, *graph.codes(tensor))
            if step.code == "MUL" and graph.root[x] in {graph.root[t] for t in step.inputs if t >= 0}:
                if graph.root[graph.other(step, x)] != graph.root[tensor]:
                    graph.fail(f"{graph.name(step.outputs[0])} is not a gate times its input")
                break
            if step.code in ("ADD", "MUL", "MINIMUM", "MAXIMUM"):
                steps.append((step.code, graph.uniform(graph.other(step, tensor))))
            else:
                steps.append((step.code, 0.0))
            steps += _fused(step)
            tensor = step.outputs[0]
        gate, factor, shift = _which_gate(steps) or graph.fail(
            f"the gate at {graph.name(tensor)} computes {' '.join(f'{code} {value:g}' for code, value in steps)}"
        )
        # What the converter has folded into kernel and bias: gate input * factor + shift.
        weight, bias = f"{name}.weight", f"{name}.bias"
        self.tensors[weight] = (self.tensors[weight].astype(np.float64) / factor).astype(np.float32)
        self.tensors[bias] = ((self.tensors[bias].astype(np.float64) - shift) / factor).astype(np.float32)
        self.gates.add(gate)
        if len(self.gates) > 1:
            graph.fail(f"the gate at {graph.name(tensor)} is another than those before it")
        return graph.plain(step)

    def _skip(self, name: str, x: int, end: int, stride: int) -> None:
        """From `x` to `end`: nothing, or (stride 2) 3x3 average pooling and a 1x1 convolution."""
        graph = self.graph
        if graph.root[end] == graph.root[x]:
            if stride != 1:
                graph.fail(f"{name} skips a stride of {stride} without pooling")
            return
        if stride == 2:
            pool = graph.only(x, "AVERAGE_POOL_2D")
            wanted = {"padding": SAME, "stride_w": 2, "stride_h": 2, "filter_w": 3, "filter_h": 3}
            if any(pool.options[key] != value for key, value in wanted.items()):
                graph.fail(f"the pooling at {graph.name(pool.outputs[0])} is not 3x3 with stride 2")
            x = pool.outputs[0]
        op = graph.producer.get(graph.root[end])
        if op is None or op.code != CONV or graph.root[op.inputs[0]] != graph.root[x]:
            graph.fail(f"{graph.name(end)} is not what {name} computes")
        graph.plain(self._conv(name, graph.take(op)))

    def _head(self, x: int) -> None:
        """Project, mean over all frames so far, hidden layer, output layer."""
        graph = self.graph
        x = self._active(self._conv("head.project", graph.only(x, CONV)))
        x = self._running_mean(self._mean(x))
        hidden = self._dense("classifier.hidden", graph.only(x, CONV, DENSE))
        found, x = self._activation(hidden)
        self.hidden_activation = found
        x = graph.plain(self._dense("classifier.output", graph.only(x, CONV, DENSE)))
        if graph.codes(x) == {"SOFTMAX"}:
            x = graph.only(x, "SOFTMAX").outputs[0]
        if graph.users(x) or all(graph.root[output] != graph.root[x] for output in graph.model.outputs):
            graph.fail(f"the logits, {graph.name(x)}, are not what it answers")

    # --- steps ---

    def _sole_use(self, tensor: int) -> None:
        if len(self.graph.users(tensor)) != 1:
            self.graph.fail(f"{self.graph.name(tensor)} goes into more than one operator")

    def _active(self, op: Operator) -> int:
        """The tensor after the activation that must follow `op`."""
        found, after = self._activation(op)
        self.activations.append((found, op.outputs[0]))
        return after

    def _activation(self, op: Operator) -> tuple[Activation, int]:
        graph, out = self.graph, op.outputs[0]
        fused, codes = op.options["activation"], graph.codes(out)
        if fused == RELU6:
            return "relu6", out
        if fused == NONE and codes == {"HARD_SWISH"}:
            return "hard_swish", graph.only(out, "HARD_SWISH").outputs[0]
        if fused == NONE and codes == {"RELU6"}:
            return "relu6", graph.only(out, "RELU6").outputs[0]
        if fused == NONE and codes == {"LOGISTIC", "MUL"}:
            sigmoid, product = graph.only(out, "LOGISTIC"), graph.only(out, "MUL")
            if graph.root[graph.other(product, out)] == sigmoid.outputs[0]:
                return "swish", graph.plain(product)
        graph.fail(
            f"after {graph.name(out)} comes {', '.join(sorted(codes)) or 'nothing'} (fused: {fused}),"
            f" which is none of {', '.join(get_args(Activation))}"
        )

    def _mean(self, x: int) -> int:
        """The mean of (1, [1,] h, w, c) over its spatial axes, and over the single frame if the graph says so."""
        graph = self.graph
        op = graph.only(x, "MEAN", "SUM")
        shape = graph.tensors[op.inputs[0]].shape
        rank = len(shape)
        axes = {axis % max(rank, 1) for axis in graph.integers(op.inputs[1])} if len(op.inputs) == 2 else set()
        if not {rank - 3, rank - 2} <= axes <= set(range(1, rank - 1)) or (rank == 5 and shape[1] != 1):
            graph.fail(f"{graph.name(op.outputs[0])} is not a mean over height and width")
        if op.code == "MEAN":
            return op.outputs[0]
        multiply = graph.only(op.outputs[0], "MUL")
        factor = graph.uniform(graph.other(multiply, op.outputs[0]))
        if abs(factor * math.prod(shape[axis] for axis in axes) - 1) > 2e-3:
            graph.fail(f"{graph.name(multiply.outputs[0])} is a sum times {factor:g}, which is not its mean")
        return graph.plain(multiply)

    def _running_mean(self, mean: int) -> int:
        """(sum so far + mean) / (frames so far + 1)."""
        graph = self.graph
        add = graph.only(mean, "ADD")
        divide = graph.only(add.outputs[0], "DIV")
        cast = graph.producer.get(graph.root[graph.other(divide, add.outputs[0])])
        count = graph.producer.get(graph.root[cast.inputs[0]]) if cast is not None and cast.code == "CAST" else None
        if (
            cast is None
            or count is None
            or count.code != "ADD"
            or graph.root[graph.other(add, mean)] not in graph.inputs
            or graph.root[divide.inputs[0]] != graph.root[add.outputs[0]]
            or graph.root[count.inputs[0]] not in graph.inputs
            or graph.integers(graph.other(count, count.inputs[0])) != [1]
        ):
            graph.fail(f"{graph.name(divide.outputs[0])} is not a mean over the frames so far")
        graph.plain(graph.take(count))
        graph.take(cast)
        graph.plain(add)
        return graph.plain(divide)

    def _conv(self, name: str, op: Operator, size: int = 1, stride: int = 1) -> Operator:
        kernel, bias = self._kernel(op, (size, size), stride, 0)
        self._normed(name, np.ascontiguousarray(kernel.transpose(0, 3, 1, 2)), bias)
        return op

    def _depthwise(self, name: str, op: Operator, stride: int) -> Operator:
        shape = self.graph.tensors[self.graph.root[op.inputs[1]]].shape
        temporal = name.endswith("temporal")
        size = (shape[1], 1 if temporal else shape[1]) if len(shape) == 4 else (0, 0)
        kernel, bias = self._kernel(op, size, stride, 3, VALID if temporal else SAME)
        kernel = np.ascontiguousarray(kernel.transpose(3, 0, 1, 2))  # (channels, 1, height, width)
        self._normed(name, kernel[..., 0] if temporal else kernel, bias)
        return op

    def _dense(self, name: str, op: Operator) -> Operator:
        kernel, bias = self._kernel(op, (1, 1), 1, 0)
        self.tensors[f"{name}.weight"] = kernel.reshape(kernel.shape[0], -1)
        self.tensors[f"{name}.bias"] = bias
        return op

    def _normed(self, name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
        self.tensors[f"{name}.conv.weight"] = kernel
        self.tensors[f"{name}.norm.weight"] = np.ones_like(bias)
        self.tensors[f"{name}.norm.bias"] = bias
        self.tensors[f"{name}.norm.running_mean"] = np.zeros_like(bias)
        self.tensors[f"{name}.norm.running_var"] = np.full_like(bias, UNIT_VARIANCE)

    def _kernel(
        self, op: Operator, size: tuple[int, int], stride: int, channel_axis: int, padding: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Kernel as stored and bias (channels,) of a convolution or dense layer whose geometry must be this one."""
        graph, out = self.graph, op.outputs[0]
        shape = graph.tensors[graph.root[op.inputs[1]]].shape if len(op.inputs) in (2, 3) and op.inputs[1] >= 0 else ()
        read, made = (graph.tensors[tensor].shape[-1:] for tensor in (op.inputs[0], out))
        if op.code == DENSE:
            fits = shape == (*made, *read) and op.options["weights_format"] == 0
        else:
            fits = shape == ((1, *size, *made) if op.code == DEPTHWISE else (*made, *size, *read))
            wanted = {"stride_w": stride, "stride_h": stride, "dilation_w": 1, "dilation_h": 1, "depth_multiplier": 1}
            if padding is None and size != (1, 1):
                padding = SAME
            if padding is not None:
                wanted["padding"] = padding
            fits = fits and all(op.options.get(key, value) == value for key, value in wanted.items())
        if not fits or (op.code == DEPTHWISE and read != made):
            graph.fail(f"{op.code} at {graph.name(out)} has a kernel, stride or padding that the network has not there")
        kernel = graph.kernel(op.inputs[1], channel_axis)
        has_bias = len(op.inputs) == 3 and op.inputs[2] >= 0
        bias = np.zeros(made, np.float32)
        if has_bias:
            bias = graph.values(op.inputs[2]).astype(np.float32)
            if bias.shape != made:
                graph.fail(f"the bias {graph.name(op.inputs[2])} has the shape {bias.shape} for {made[0]} channels")
        graph.note_kernel(op, op.inputs[2] if has_bias else None)
        return kernel, bias


def _fused(op: Operator) -> list[tuple[str, float]]:
    """An operator's fused activation as a step of its own."""
    names = {NONE: [], RELU: [("RELU", 0.0)], RELU6: [("RELU6", 0.0)]}
    return names.get(op.options.get("activation", NONE), [("activation", 0.0)])


def _near(steps: Collection[tuple[str, float]], *wanted: tuple[str, float]) -> bool:
    return len(steps) == len(wanted) and all(
        code == other and abs(value - target) <= GATE_TOLERANCE
        for (code, value), (other, target) in zip(steps, wanted, strict=True)
    )


def _which_gate(steps: list[tuple[str, float]]) -> tuple[Gate, float, float] | None:
    """The gate that these steps compute, with the factor and shift that are folded into the convolution before it."""
    if _near(steps, ("LOGISTIC", 0.0)):
        return "sigmoid", 1.0, 0.0
    rest = [("MAXIMUM", 0.0) if code == "RELU" else (code, value) for code, value in steps]
    sixth = ("RELU6", 0.0), ("MUL", 0.16667)
    if _near(rest, *sixth):
        return "relu6", 1.0, 3.0
    if _near(rest, ("ADD", 3.0), *sixth):
        return "relu6", 1.0, 0.0
    clips = (
        (("MINIMUM", 1.0), ("MAXIMUM", 0.0)),
        (("MAXIMUM", 0.0), ("MINIMUM", 1.0)),
        (("RELU_0_TO_1", 0.0),),
    )
    for clip in clips:
        if _near(rest, *clip):
            return "keras", 0.2, 0.5
        if _near(rest, ("ADD", 0.5), *clip):
            return "keras", 0.2, 0.0
        if _near(rest, ("MUL", 0.2), ("ADD", 0.5), *clip):
            return "keras", 1.0, 0.0
    return None
