"""A TensorFlow Lite graph made ready for a walk: data flow without views, constants dequantized. NumPy only.

Nothing here knows the network (see `tflite.py`); everything here knows how a graph can lie: tensors made twice or
never, kernels used twice, constants and operators left over, scales that do not fit.
"""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np

from movinet.errors import WeightsError
from movinet.weights.flatbuffer import TYPES, Model, Operator

# Operators that change how a value is stored or shaped, not what it says.
VIEWS = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE", "BROADCAST_TO"})
# Cuts the oldest frame off a buffer, on the state's way out: nothing of it reaches a weight.
STATE_CUT = "STRIDED_SLICE"
CONV, DEPTHWISE, DENSE = "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"
SAME, VALID = 0, 1  # Padding
NONE, RELU, RELU6 = 0, 1, 3  # ActivationFunctionType

# Weights, biases and scales beyond this are bits that flipped.
LARGEST = 1e6


class Graph:
    """A model's operators with the views taken out: each tensor has a root, and each root its users."""

    def __init__(self, model: Model, source: str):
        self.model = model
        self.source = source
        self.tensors = model.tensors
        self.inputs = frozenset(model.inputs)
        self.root = list(range(len(model.tensors)))
        self.producer: dict[int, Operator] = {}
        self._users: dict[int, list[Operator]] = {}
        self._taken: set[int] = set()
        self._read: set[int] = set()
        self._kernel_types: set[tuple[str, bool]] = set()
        self._budget = 4 * sum(buffer.size for buffer in model.buffers) + 4096
        self._connect()

    def fail(self, what: str) -> NoReturn:
        """Raise `WeightsError` that names the file and `what` is wrong."""
        raise WeightsError(
            f"{self.source} is not the graph of a MoViNet stream or mobile model: {what}; export it again,"
            " or read the checkpoint it was made from"
        )

    def name(self, tensor: int) -> str:
        """A tensor in a message; the converter joins the names of what it fused, and the last part says most."""
        full = self.tensors[tensor].name
        return f"tensor {tensor} ({full if len(full) <= 72 else '...' + full[-69:]})"

    def _connect(self) -> None:
        """Operators are listed in the order they run, so what is not made yet never will be, and no cycle exists."""
        made = {index for index, tensor in enumerate(self.tensors) if self._is_constant(index)} | self.inputs
        used: set[int] = set()
        for index, op in enumerate(self.model.operators):
            given = [tensor for tensor in op.inputs if tensor >= 0]
            required = 2 if op.code in (CONV, DEPTHWISE, DENSE) else len(op.inputs)  # only a bias may be left out
            if not op.inputs or not op.outputs or -1 in op.inputs[:required]:
                self.fail(f"operator {index}, {op.code}, lacks an input or an output")
            for tensor in given:
                if tensor not in made:
                    self.fail(f"operator {index}, {op.code}, uses {self.name(tensor)}, which nothing before it makes")
            for tensor in op.outputs:
                if tensor in made:
                    self.fail(f"operator {index}, {op.code}, makes {self.name(tensor)} once more")
            made.update(op.outputs)
            used.update(given)
            if op.code in VIEWS:
                self._view(op)
            else:
                self.producer.update(dict.fromkeys(op.outputs, op))
                if op.code != STATE_CUT:
                    for tensor in {self.root[tensor] for tensor in given}:
                        self._users.setdefault(tensor, []).append(op)
            if op.code in VIEWS or op.code == STATE_CUT:
                self._read.update(given[1:])  # shapes, begins and ends
        for tensor in self.model.outputs:
            if tensor not in made:
                self.fail(f"nothing makes its output {self.name(tensor)}")

    def _view(self, op: Operator) -> None:
        before, after = self.tensors[op.inputs[0]].shape, self.tensors[op.outputs[0]].shape
        keeps = math.prod(before) == math.prod(after) or op.code == "BROADCAST_TO"
        if not keeps or (before and after and before[-1] != after[-1]):
            self.fail(f"{op.code} makes {after} of {before} at {self.name(op.outputs[0])}")
        self.root[op.outputs[0]] = self.root[op.inputs[0]]

    def _is_constant(self, tensor: int) -> bool:
        return self.model.buffers[self.tensors[tensor].buffer].size > 0

    def users(self, tensor: int) -> list[Operator]:
        """What computes with a tensor, other than views and the cutting of the state."""
        return self._users.get(self.root[tensor], [])

    def codes(self, tensor: int) -> set[str]:
        """The kinds of `users`."""
        return {op.code for op in self.users(tensor)}

    def take(self, op: Operator) -> Operator:
        """Mark an operator as understood. Each stands in one place of the network."""
        if id(op) in self._taken:
            self.fail(f"{op.code} at {self.name(op.outputs[0])} is used in two places")
        if op.options.get("activation", NONE) != NONE and op.code in ("CONCATENATION", "DIV", "AVERAGE_POOL_2D"):
            self.fail(f"{op.code} at {self.name(op.outputs[0])} has an activation")
        self._taken.add(id(op))
        return op

    def only(self, tensor: int, *codes: str) -> Operator:
        """Take the one operator among the users of `tensor` that has one of these codes."""
        found = [op for op in self.users(tensor) if op.code in codes]
        if len(found) != 1:
            others = ", ".join(sorted(op.code for op in self.users(tensor))) or "nothing"
            self.fail(f"after {self.name(tensor)} comes {others} where one {' or '.join(codes)} belongs")
        return self.take(found[0])

    def plain(self, op: Operator) -> int:
        """The output of an operator that must have no fused activation."""
        if op.options.get("activation", NONE) != NONE:
            self.fail(f"{op.code} at {self.name(op.outputs[0])} has an activation where the network has none")
        return op.outputs[0]

    def other(self, op: Operator, tensor: int) -> int:
        """The second operand of an operator of two of which `tensor` is one."""
        if len(op.inputs) == 2:
            first, second = op.inputs
            if self.root[first] == self.root[tensor]:
                return second
            if self.root[second] == self.root[tensor]:
                return first
        self.fail(f"{op.code} at {self.name(op.outputs[0])} has other operands than the network has there")

    def finish(self) -> None:
        """Everything must have been understood: an operator or a constant that is left over changes the network."""
        for op in self.model.operators:
            if id(op) not in self._taken and op.code not in VIEWS and op.code != STATE_CUT:
                self.fail(f"{op.code} at {self.name(op.outputs[0])} has no place in it")
        for index in range(len(self.tensors)):
            if self._is_constant(index) and index not in self._read:
                self.fail(f"the constant {self.name(index)} is left over")

    # --- constants ---

    def kernel(self, tensor: int, axis: int) -> np.ndarray:
        """A kernel as float32, quantized along `axis` if at all; each is used once."""
        if self.root[tensor] in self._read:
            self.fail(f"the kernel {self.name(tensor)} is used twice")
        return self.values(tensor, axis).astype(np.float32, copy=False)

    def values(self, tensor: int, axis: int = 0) -> np.ndarray:
        """A constant as floats, dequantized: float32 for kernels, float64 for int32 biases."""
        index = self.root[tensor]
        stored = self._stored(index)
        if stored.dtype.kind == "f":
            values: np.ndarray = stored.astype(np.float32)
        else:
            scale, zero_point = self._quantization(index, stored, axis)
            wide = np.float64 if stored.dtype.itemsize > 1 else np.float32
            values = (stored.astype(wide) - zero_point.astype(wide)) * scale.astype(wide)
        with np.errstate(invalid="ignore"):
            sane = bool(np.all(np.abs(values) <= LARGEST))  # false for NaN too
        if not sane:
            self.fail(f"{self.name(index)} holds values that are not finite or beyond {LARGEST:g}")
        return values

    def integers(self, tensor: int) -> list[int]:
        """A constant of at most eight int32 or int64 numbers: axes, an increment."""
        stored = self._stored(self.root[tensor])
        if stored.dtype.kind != "i" or stored.dtype.itemsize < 4 or stored.size > 8:
            self.fail(f"{self.name(tensor)} is no list of a few integers")
        return [int(value) for value in stored.reshape(-1)]

    def uniform(self, tensor: int) -> float:
        """A constant number, stored once or spread over a shape."""
        values = self.values(tensor).reshape(-1)
        if not values.size or np.any(values != values[0]):
            self.fail(f"{self.name(tensor)} holds different numbers where the network has one")
        return float(values[0])

    def _stored(self, index: int) -> np.ndarray:
        tensor = self.tensors[index]
        content = self.model.buffers[tensor.buffer]
        if not content.size:
            self.fail(f"{self.name(index)} is computed where the network has a constant")
        if (dtype := TYPES.get(tensor.type)) is None:
            self.fail(f"{self.name(index)} has the type number {tensor.type}, which holds no weights")
        if math.prod(tensor.shape) * dtype.itemsize != content.size:
            self.fail(f"{self.name(index)} has {content.size} bytes for the shape {tensor.shape}")
        self._budget -= content.size
        if self._budget < 0:  # else a small file could make any amount of work out of one constant
            self.fail(f"its operators use {self.name(index)} over and over")
        self._read.add(index)
        return content.view(dtype).reshape(tensor.shape)

    def _quantization(self, index: int, stored: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point, each shaped to fit `stored`."""
        if (given := self.tensors[index].quantization) is None:
            self.fail(f"{self.name(index)} holds integers without a scale")
        scale, zero_point = given.scale, given.zero_point
        count = scale.size
        if count > 1 and (given.dimension != axis or axis >= stored.ndim or count != stored.shape[axis]):
            self.fail(f"{self.name(index)} has {count} scales along axis {given.dimension} of {stored.shape}")
        if zero_point.size != count:
            self.fail(f"{self.name(index)} has {count} scales and {zero_point.size} zero points")
        with np.errstate(invalid="ignore"):
            sane = bool(np.all((scale > 0) & (scale <= LARGEST)))
        if not sane:
            self.fail(f"{self.name(index)} has a scale that is not a positive number up to {LARGEST:g}")
        limits = np.iinfo(stored.dtype)
        if np.any(zero_point < limits.min) or np.any(zero_point > limits.max):
            self.fail(f"{self.name(index)} has a zero point outside its type")
        if count > 1 and np.any(zero_point):
            self.fail(f"{self.name(index)} has zero points other than 0, which scales per channel exclude")
        if count == 1:
            return scale.reshape(()), zero_point.reshape(())
        spread = [1] * stored.ndim
        spread[axis] = count
        return scale.reshape(spread), zero_point.reshape(spread)

    def note_kernel(self, op: Operator, bias: int | None) -> None:
        """Keep a kernel's type for `precision`; the three scales of an int8 operator must agree, as in its runtime."""
        stored, given = self.tensors[self.root[op.inputs[1]]], self.tensors[op.inputs[0]].quantization
        integer = self.tensors[op.inputs[0]].type not in (0, 1)
        self._kernel_types.add((TYPES[stored.type].name, integer))
        if bias is None or self.tensors[bias].quantization is None:
            return
        own, of_kernel = self.tensors[bias].quantization, stored.quantization
        if own is None or given is None or of_kernel is None or given.scale.size != 1:
            self.fail(f"the quantized bias {self.name(bias)} belongs to an operator that is not")
        expected = given.scale.astype(np.float64) * of_kernel.scale
        with np.errstate(all="ignore"):
            agree = own.scale.size == expected.size and bool(np.all(np.abs(own.scale / expected - 1) <= 0.02))
        if not agree:
            self.fail(f"the scale of {self.name(bias)} is not that of its operator's input and kernel")

    @property
    def precision(self) -> str:
        """float32, float16, dynamic range (int8 kernels in a float graph) or int8."""
        types = self._kernel_types
        if any(kind in ("int8", "uint8") for kind, _ in types):
            return "int8" if any(integer for _, integer in types) else "dynamic range"
        return "float16" if any(kind == "float16" for kind, _ in types) else "float32"
