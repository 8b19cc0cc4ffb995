"""Builds the graph of a stream or mobile model as the converters write it, in each of the forms they choose among."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from movinet.config import BlockConfig, ModelConfig
from movinet.weights.flatbuffer import OPTIONS, Model, Operator, Quantization, Signature, Tensor
from movinet.weights.names import parameter_shapes

Arrays = dict[str, np.ndarray]


def config(**changes: object) -> ModelConfig:
    """A small network with every kind of block: with and without a temporal convolution, and all three skips."""
    stages = (
        (BlockConfig(16, 8, (1, 5), 2), BlockConfig(24, 8, (3, 3))),
        (BlockConfig(16, 16, (5, 3), 2), BlockConfig(16, 24, (1, 3)), BlockConfig(32, 24, (3, 3))),
    )
    given = {
        "causal": True,
        "convolution": "2plus1d",
        "squeeze_excitation": "2plus3d",
        "activation": "hard_swish",
        "gate": "relu6",
        "num_classes": 5,
    }
    return ModelConfig(stages=stages, stem=8, head=16, hidden=24, **(given | changes))  # type: ignore[arg-type]


def weights(of: ModelConfig, seed: int = 0) -> Arrays:
    """Random weights with norms that are a bias and nothing else, as a reader of folded norms gives them."""
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    for name, shape in parameter_shapes(of).items():
        if name.endswith("norm.weight"):
            made[name] = np.ones(shape, np.float32)
        elif name.endswith("running_mean"):
            made[name] = np.zeros(shape, np.float32)
        elif name.endswith("running_var"):
            made[name] = np.full(shape, 0.999, np.float32)
        else:
            made[name] = np.asarray(rng.uniform(-0.5, 0.5, shape), np.float32)
    return made


@dataclass
class Forms:
    """What a converter may choose."""

    precision: str = "float32"  # float16, dynamic, per_tensor, int8
    gate: str = "relu6"  # relu6_explicit, keras, keras_shift, keras_explicit, sigmoid
    gate_constant: float = 0.16667
    rezero: str = "scalar"  # spread, folded
    mean: str = "MEAN"  # SUM
    dense: str = "CONV_2D"  # FULLY_CONNECTED
    clip: tuple[str, ...] = ("MINIMUM", "MAXIMUM")
    position: bool = False


@dataclass
class Builder:
    config: ModelConfig
    weights: Arrays
    forms: Forms = field(default_factory=Forms)
    size: int = 32

    def __post_init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.buffers: list[np.ndarray] = [np.empty(0, np.uint8)]
        self.operators: list[Operator] = []
        self.inputs: dict[str, int] = {}
        self.outputs: dict[str, int] = {}

    # --- pieces ---

    def tensor(self, shape: tuple[int, ...], kind: int = 0, content: np.ndarray | None = None, **rest: object) -> int:
        self.buffers.append(np.empty(0, np.uint8) if content is None else _bytes(content))
        name = f"part {len(self.tensors)}"
        if kind in (0, 9) and content is None and self.forms.precision == "int8":
            kind, rest = 9, {"quantization": _scales(np.full(1, 0.05), 0)}
        self.tensors.append(Tensor(name, shape, kind, len(self.buffers) - 1, **rest))  # type: ignore[arg-type]
        return len(self.tensors) - 1

    def op(self, code: str, inputs: list[int], shape: tuple[int, ...], kind: int = 0, **options: int) -> int:
        out = self.tensor(shape, kind)
        known = {name: default for name, _, _, default in OPTIONS[code][1]} if code in OPTIONS else {}
        self.operators.append(Operator(code, tuple(inputs), (out,), known | options))
        return out

    def number(self, value: float, shape: tuple[int, ...] = ()) -> int:
        return self.tensor(shape, content=np.full(shape, value, "<f4"))

    def ints(self, *values: int) -> int:
        return self.tensor((len(values),), 2, np.asarray(values, "<i4"))

    def reshape(self, x: int, *shape: int) -> int:
        return self.op("RESHAPE", [x, self.ints(*shape)], shape, self.tensors[x].type)

    def constant(self, kernel: np.ndarray, axis: int) -> int:
        """A kernel in the precision of the file."""
        precision = self.forms.precision
        if precision == "float32":
            return self.tensor(kernel.shape, content=kernel.astype("<f4"))
        if precision == "float16":
            half = self.tensor(kernel.shape, 1, kernel.astype("<f2"))
            return self.op("DEQUANTIZE", [half], kernel.shape)
        others = tuple(index for index in range(kernel.ndim) if index != axis)
        largest = np.abs(kernel).max(axis=None if precision == "per_tensor" else others, keepdims=True)
        scale = (largest / 127).astype("<f4")
        stored = np.clip(np.round(kernel / scale), -127, 127).astype("i1")
        return self.tensor(kernel.shape, 9, stored, quantization=_scales(scale.reshape(-1), axis))

    def layer(
        self, code: str, x: int, kernel: np.ndarray, bias: np.ndarray, out: tuple[int, ...], **options: int
    ) -> int:
        w = self.constant(kernel, 3 if code == "DEPTHWISE_CONV_2D" else 0)
        if self.forms.precision == "int8":
            given = self.tensors[w].quantization
            assert given is not None
            scale = (given.scale * np.float32(0.05)).astype("<f4")
            b = self.tensor(bias.shape, 2, np.round(bias / scale).astype("<i4"), quantization=_scales(scale, 0))
        else:
            b = self.tensor(bias.shape, content=bias.astype("<f4"))
        if code == "FULLY_CONNECTED":
            return self.op(code, [x, w, b], out, **options)
        strides = {"stride_w": 1, "stride_h": 1} | ({"depth_multiplier": 1} if code.startswith("DEPTHWISE") else {})
        return self.op(code, [x, w, b], out, **(strides | options))

    def normed(
        self, name: str, x: int, out: tuple[int, ...], active: bool, code: str = "CONV_2D", **options: int
    ) -> int:
        kernel = self.weights[f"{name}.conv.weight"]
        if kernel.ndim == 3:
            kernel = kernel[..., None]
        kernel = kernel.transpose(1, 2, 3, 0) if code == "DEPTHWISE_CONV_2D" else kernel.transpose(0, 2, 3, 1)
        bias = self.weights[f"{name}.norm.bias"]
        return self.active(code, x, kernel, bias, out, self.config.activation if active else "", **options)

    def active(
        self, code: str, x: int, kernel: np.ndarray, bias: np.ndarray, out: tuple[int, ...], act: str, **options: int
    ) -> int:
        x = self.layer(code, x, kernel, bias, out, activation=3 if act == "relu6" else 0, **options)
        if act == "hard_swish":
            return self.op("HARD_SWISH", [x], out)
        return self.op("MUL", [x, self.op("LOGISTIC", [x], out)], out) if act == "swish" else x

    def dense(self, name: str, x: int, act: str, fused: int = 0, scale: float = 1, shift: float = 0) -> int:
        kernel, bias = self.weights[f"{name}.weight"] * np.float32(scale), self.weights[f"{name}.bias"]
        bias = bias * np.float32(scale) + np.float32(shift)
        if self.forms.dense == "CONV_2D":
            kernel = kernel[:, None, None]
        out = (1, 1, 1, kernel.shape[0])
        if fused:
            return self.layer(self.forms.dense, x, kernel, bias, out, activation=fused)
        return self.active(self.forms.dense, x, kernel, bias, out, act)

    # --- parts ---

    def mean(self, x: int) -> int:
        shape = self.tensors[x].shape
        pooled = (1, 1, 1, shape[-1])
        if self.forms.mean == "MEAN":
            return self.op("MEAN", [x, self.ints(1, 2)], pooled)
        return self.op(
            "MUL", [self.op("SUM", [x, self.ints(1, 2)], pooled), self.number(1 / (shape[1] * shape[2]))], pooled
        )

    def running_mean(self, name: str, mean: int) -> int:
        shape = self.tensors[mean].shape
        pool = self.inputs[f"{name}_pool_buffer"] = self.tensor(shape)
        count = self.inputs[f"{name}_pool_frame_count"] = self.tensor((1,), 2)
        total = self.outputs[f"{name}_pool_buffer"] = self.op("ADD", [mean, pool], shape)
        later = self.outputs[f"{name}_pool_frame_count"] = self.op("ADD", [count, self.ints(1)], (1,), 2)
        return self.op("DIV", [total, self.op("CAST", [later], (1,))], shape)

    def gate(self, name: str, x: int) -> int:
        form = self.forms.gate
        if form == "relu6":
            return self.scaled(self.dense(name, x, "", fused=3, shift=3), self.forms.gate_constant)
        if form == "relu6_explicit":
            x = self.dense(name, x, "")
            x = self.op("ADD", [x, self.number(3)], self.tensors[x].shape, activation=3)
            return self.scaled(x, self.forms.gate_constant)
        if form == "sigmoid":
            x = self.dense(name, x, "")
            return self.op("LOGISTIC", [x], self.tensors[x].shape)
        if form == "keras":
            x = self.dense(name, x, "", scale=0.2, shift=0.5)
        elif form == "keras_shift":
            x = self.dense(name, x, "", scale=0.2)
        else:
            x = self.scaled(self.dense(name, x, ""), 0.2)
        if form != "keras":
            x = self.op("ADD", [x, self.number(0.5)], self.tensors[x].shape)
        for code in self.forms.clip:
            limit = {"MINIMUM": [1.0], "MAXIMUM": [0.0]}.get(code, [])
            x = self.op(code, [x, *(self.number(value) for value in limit)], self.tensors[x].shape)
        return x

    def scaled(self, x: int, factor: float) -> int:
        return self.op("MUL", [x, self.number(factor)], self.tensors[x].shape)

    def block(self, index: int, block: BlockConfig, x: int, size: int) -> int:
        name, state = f"blocks.{index}", f"state_block_{index}"
        time = block.kernel[0]
        inner = self.normed(f"{name}.expand", x, (1, size, size, block.expand), True)
        after = -(-size // block.stride)
        strides = {"stride_w": block.stride, "stride_h": block.stride}
        shape = (1, after, after, block.expand)
        inner = self.normed(f"{name}.depthwise", inner, shape, True, "DEPTHWISE_CONV_2D", **strides)
        if time > 1:
            frames = (1, time, after, after, block.expand)
            past = self.inputs[f"{state}_stream_buffer"] = self.tensor((1, time - 1, *frames[2:]))
            now = self.reshape(inner, 1, 1, *frames[2:])
            joined = self.op("CONCATENATION", [past, now], frames, axis=1)
            cut = [joined, self.ints(0, 1, 0, 0, 0), self.ints(0, 0, 0, 0, 0), self.ints(1, 1, 1, 1, 1)]
            self.outputs[f"{state}_stream_buffer"] = self.op("STRIDED_SLICE", cut, (1, time - 1, *frames[2:]))
            flat = self.reshape(joined, 1, time, after * after, block.expand)
            shape = (1, 1, after * after, block.expand)
            inner = self.normed(f"{name}.temporal", flat, shape, True, "DEPTHWISE_CONV_2D", padding=1)
            inner = self.reshape(inner, 1, after, after, block.expand)
        if self.config.squeeze_excitation != "none":
            mean = self.mean(inner)
            pooled = (1, 1, 1, 2 * block.expand)
            both = self.op("CONCATENATION", [self.running_mean(state, mean), mean], pooled, axis=-1)
            if self.forms.position:
                both = self.op("ADD", [both, self.number(0, pooled)], pooled)
            gate = self.gate(f"{name}.se.expand", self.dense(f"{name}.se.reduce", both, self.config.activation))
            inner = self.op("MUL", [gate, inner], (1, after, after, block.expand))
        out = (1, after, after, block.out)
        inner = self.normed(f"{name}.project", inner, out, False)
        if self.forms.rezero != "folded":
            value = float(self.weights[f"{name}.scale"])
            scale = self.number(value, out if self.forms.rezero == "spread" else ())
            inner = self.op("MUL", [inner, scale], out)
        if block.stride == 2:
            x = self.op(
                "AVERAGE_POOL_2D", [x], (1, after, after, self.tensors[x].shape[-1]), filter_w=3, filter_h=3, **strides
            )
        if block.stride == 2 or block.out != self.tensors[x].shape[-1]:
            x = self.normed(f"{name}.skip", x, out, False)
        return self.op("ADD", [inner, x], out)

    def build(self) -> Model:
        size = -(-self.size // 2)
        picture = self.inputs["image"] = self.tensor((1, 1, self.size, self.size, 3))
        x = self.reshape(picture, 1, self.size, self.size, 3)
        x = self.normed("stem", x, (1, size, size, self.config.stem), True, stride_w=2, stride_h=2)
        for index, block in enumerate(self.config.blocks):
            x = self.block(index, block, x, size)
            size = -(-size // block.stride)
        x = self.normed("head.project", x, (1, size, size, self.config.head), True)
        x = self.running_mean("state_head", self.mean(x))
        x = self.dense("classifier.output", self.dense("classifier.hidden", x, self.config.hidden_activation), "")
        self.outputs["logits"] = self.reshape(x, 1, self.config.num_classes)
        return Model(
            "made by a test",
            tuple(self.tensors),
            tuple(self.operators),
            tuple(self.inputs.values()),
            tuple(self.outputs.values()),
            tuple(self.buffers),
            (Signature("serving_default", self.inputs, self.outputs),),
        )


def small(forms: Forms | None = None, **changes: object) -> Model:
    made = config(**changes)
    return Builder(made, weights(made), forms or Forms()).build()


def first(model: Model, code: str, skip: int = 0) -> int:
    return [index for index, op in enumerate(model.operators) if op.code == code][skip]


def kernel_of(model: Model, code: str = "CONV_2D", skip: int = 0) -> int:
    return model.operators[first(model, code, skip)].inputs[1]


def _bytes(content: np.ndarray) -> np.ndarray:
    return np.frombuffer(content.tobytes(), np.uint8)


def _scales(scale: np.ndarray, axis: int) -> Quantization:
    flat = np.asarray(scale, "<f4").reshape(-1)
    return Quantization(flat, np.zeros(math.prod(flat.shape), "<i8"), axis)
