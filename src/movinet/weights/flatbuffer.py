"""The container of a TensorFlow Lite file: a flatbuffer, read with bounds on everything. NumPy only.

Format: https://flatbuffers.dev/internals (tables, vtables, vectors) and TensorFlow's
`tensorflow/compiler/mlir/lite/schema/schema.fbs`, version 3; the numbers of its fields stand beside each access. A file
comes from a stranger: every offset and length is checked against the file before it is followed, every count has a
limit, and whatever this package has no use for (several subgraphs, sparse tensors) is refused rather than guessed.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from movinet.errors import WeightsError

IDENTIFIER = b"TFL3"
VERSION = 3

# Limits; the largest model of the family (A5) stays far below each.
MAX_TENSORS = 32_768
MAX_OPERATORS = 16_384
MAX_BUFFERS = 65_536
MAX_PORTS = 4_096  # inputs or outputs of the graph
MAX_ARGUMENTS = 64  # inputs or outputs of one operator
MAX_RANK = 8
_NAME_BYTES = 240  # a name is for messages only: what is longer is cut

# TensorType -> NumPy type; the others (strings, resources, 4-bit integers ...) hold no weights that this package reads.
TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<i4"),
    3: np.dtype("u1"),
    4: np.dtype("<i8"),
    7: np.dtype("<i2"),
    9: np.dtype("i1"),
}

# BuiltinOperator
OPERATORS: dict[int, str] = {
    0: "ADD",
    1: "AVERAGE_POOL_2D",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    18: "MUL",
    19: "RELU",
    21: "RELU6",
    22: "RESHAPE",
    25: "SOFTMAX",
    40: "MEAN",
    42: "DIV",
    43: "SQUEEZE",
    45: "STRIDED_SLICE",
    53: "CAST",
    55: "MAXIMUM",
    57: "MINIMUM",
    70: "EXPAND_DIMS",
    74: "SUM",
    114: "QUANTIZE",
    117: "HARD_SWISH",
    130: "BROADCAST_TO",
    152: "RELU_0_TO_1",
}

# For operators whose options matter: the member of the union BuiltinOptions, and its fields as
# (name, field number, struct format, default).
_Field = tuple[str, int, str, int]
OPTIONS: dict[str, tuple[int, tuple[_Field, ...]]] = {
    "CONV_2D": (
        1,
        (
            ("padding", 0, "b", 0),
            ("stride_w", 1, "i", 0),
            ("stride_h", 2, "i", 0),
            ("activation", 3, "b", 0),
            ("dilation_w", 4, "i", 1),
            ("dilation_h", 5, "i", 1),
        ),
    ),
    "DEPTHWISE_CONV_2D": (
        2,
        (
            ("padding", 0, "b", 0),
            ("stride_w", 1, "i", 0),
            ("stride_h", 2, "i", 0),
            ("depth_multiplier", 3, "i", 0),
            ("activation", 4, "b", 0),
            ("dilation_w", 5, "i", 1),
            ("dilation_h", 6, "i", 1),
        ),
    ),
    "AVERAGE_POOL_2D": (
        5,
        (
            ("padding", 0, "b", 0),
            ("stride_w", 1, "i", 0),
            ("stride_h", 2, "i", 0),
            ("filter_w", 3, "i", 0),
            ("filter_h", 4, "i", 0),
            ("activation", 5, "b", 0),
        ),
    ),
    "FULLY_CONNECTED": (8, (("activation", 0, "b", 0), ("weights_format", 1, "b", 0))),
    "CONCATENATION": (10, (("axis", 0, "i", 0), ("activation", 1, "b", 0))),
    "ADD": (11, (("activation", 0, "b", 0),)),
    "MUL": (21, (("activation", 0, "b", 0),)),
    "DIV": (29, (("activation", 0, "b", 0),)),
}


@dataclass(frozen=True, eq=False)
class Quantization:
    """real = scale * (stored - zero_point), one pair for the whole tensor or one per index of `dimension`."""

    scale: np.ndarray  # float32, (1,) or (shape[dimension],)
    zero_point: np.ndarray  # int64, as many
    dimension: int = 0


@dataclass(frozen=True)
class Tensor:
    """One value of the graph; `buffer` is the index of its bytes, which are empty where the graph computes it."""

    name: str
    shape: tuple[int, ...]
    type: int  # TensorType
    buffer: int
    quantization: Quantization | None = None


@dataclass(frozen=True, eq=False)
class Operator:
    """One step of the graph: tensors in (-1: left out), tensors out, and the options listed in `OPTIONS`."""

    code: str  # a name of `OPERATORS`, or "operator <number>"
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True)
class Signature:
    """Names that callers of the file use, each with the tensor it stands for."""

    key: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Model:
    """A file's only graph, and the bytes of its constants (uint8 views of the file, without copies)."""

    description: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    buffers: tuple[np.ndarray, ...]
    signatures: tuple[Signature, ...]


def parse(data: bytes, source: str) -> Model:
    """Read a TensorFlow Lite file. `source` names it in messages.

    Raises `WeightsError` if the bytes are of another kind, damaged, or use what this package does not read.
    """
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise WeightsError(f"{source} is no TensorFlow Lite file: it lacks the mark TFL3; give a .tflite file")
    reader = _Reader(data, source)
    root = _Table(reader, reader.number(0, "I"))
    if (version := root.number(0, "I")) != VERSION:
        reader.fail(f"its schema has version {version} where {VERSION} is the only one in use")
    codes = tuple(_operator_code(code) for code in root.tables(1, "operator codes", MAX_OPERATORS))
    buffers = tuple(_buffer(table, index) for index, table in enumerate(root.tables(4, "buffers", MAX_BUFFERS)))
    graphs = root.tables(2, "subgraphs", 64)
    if len(graphs) != 1:
        raise WeightsError(f"{source} holds {len(graphs)} subgraphs; export the model as a file with a single one")
    graph = graphs[0]
    tensors = tuple(_tensor(table, index) for index, table in enumerate(graph.tables(0, "tensors", MAX_TENSORS)))
    operators = tuple(
        _operator(table, index, codes, len(tensors))
        for index, table in enumerate(graph.tables(3, "operators", MAX_OPERATORS))
    )
    inputs = graph.indices(1, "graph inputs", MAX_PORTS, len(tensors))
    outputs = graph.indices(2, "graph outputs", MAX_PORTS, len(tensors))
    named = {table.number(1, "I") for table in root.tables(6, "metadata", 1024)}
    named.update(tensor.buffer for tensor in tensors)
    for tensor in tensors:
        if tensor.buffer >= len(buffers):
            reader.fail(f"tensor {tensor.name!r} points at buffer {tensor.buffer} of {len(buffers)}")
    for index, content in enumerate(buffers):
        if content.size and index not in named:
            reader.fail(f"buffer {index} ({content.size} bytes) belongs to no tensor")
    signatures = tuple(_signature(table, len(tensors)) for table in root.tables(7, "signatures", 16))
    reader.check_extents()
    return Model(root.text(3), tensors, operators, inputs, outputs, buffers, signatures)


class _Reader:
    """The bytes, with a check before every access."""

    def __init__(self, data: bytes, source: str):
        self.data = data
        self.source = source
        self.extents: list[tuple[int, int]] = []  # of weights and scales: no two may share a byte

    def fail(self, what: str) -> NoReturn:
        raise WeightsError(f"{self.source} is damaged: {what}; fetch the file again")

    def number(self, position: int, form: str) -> int:
        """One little-endian number at `position`."""
        size = struct.calcsize("<" + form)
        if not 0 <= position <= len(self.data) - size:
            self.fail(f"it points at byte {position} of {len(self.data)}")
        return int(struct.unpack_from("<" + form, self.data, position)[0])

    def vector(self, position: int, dtype: str, what: str, limit: int) -> tuple[int, int]:
        """Start and length of the vector at `position`, all of it inside the file."""
        length, start = self.number(position, "I"), position + 4
        if length > limit:
            self.fail(f"it claims {length} {what}, more than {limit}")
        if start + length * np.dtype(dtype).itemsize > len(self.data):
            self.fail(f"{length} {what} do not fit into the file")
        return start, length

    def view(self, start: int, length: int, dtype: str) -> np.ndarray:
        """An array over the file's bytes, without a copy."""
        return np.frombuffer(self.data, np.dtype(dtype), length, start)

    def check_extents(self) -> None:
        """A pointer that has slipped onto a neighbour's weights shows as two extents that overlap."""
        ordered = sorted(self.extents)
        for (_, end), (start, _) in itertools.pairwise(ordered):
            if start < end:
                self.fail(f"two tensors share the bytes from {start} on")


class _Table:
    """One flatbuffer table: a signed offset back to its vtable, which holds each field's offset (0: not there)."""

    def __init__(self, reader: _Reader, position: int):
        self.reader = reader
        self.position = position
        self.vtable = position - reader.number(position, "i")
        size, self.size = reader.number(self.vtable, "H"), reader.number(self.vtable + 2, "H")
        if size < 4 or size % 2 or self.vtable + size > len(reader.data):
            reader.fail(f"the table at byte {position} has an impossible layout")
        if self.size < 4 or position + self.size > len(reader.data):
            reader.fail(f"the table at byte {position} runs past the end")
        self.fields = (size - 4) // 2

    def field(self, index: int, width: int = 4) -> int:
        """Where field `index` lies, or 0 if it is not there."""
        if index >= self.fields:
            return 0
        offset = self.reader.number(self.vtable + 4 + 2 * index, "H")
        if offset == 0:
            return 0
        if offset < 4 or offset + width > self.size:
            self.reader.fail(f"the table at byte {self.position} has a field outside itself")
        return self.position + offset

    def number(self, index: int, form: str, default: int = 0) -> int:
        at = self.field(index, struct.calcsize("<" + form))
        return self.reader.number(at, form) if at else default

    def target(self, index: int) -> int:
        """The position that an offset field points at, or 0."""
        at = self.field(index)
        return at + self.reader.number(at, "I") if at else 0

    def table(self, index: int) -> _Table | None:
        at = self.target(index)
        return _Table(self.reader, at) if at else None

    def tables(self, index: int, what: str, limit: int) -> list[_Table]:
        if not (at := self.target(index)):
            return []
        start, length = self.reader.vector(at, "<u4", what, limit)
        places = range(start, start + 4 * length, 4)
        return [_Table(self.reader, place + self.reader.number(place, "I")) for place in places]

    def array(self, index: int, dtype: str, what: str, limit: int, *, own: bool = False) -> np.ndarray:
        """A vector of numbers; `own`: no other vector read so may lie on the same bytes."""
        if not (at := self.target(index)):
            return np.empty(0, dtype)
        start, length = self.reader.vector(at, dtype, what, limit)
        if own and length:
            self.reader.extents.append((start, start + length * np.dtype(dtype).itemsize))
        return self.reader.view(start, length, dtype)

    def indices(self, index: int, what: str, limit: int, below: int, least: int = 0) -> tuple[int, ...]:
        values = tuple(self.array(index, "<i4", what, limit).tolist())
        if any(not least <= value < below for value in values):
            self.reader.fail(f"one of the {what} is a tensor that does not exist")
        return values

    def text(self, index: int) -> str:
        if not (at := self.target(index)):
            return ""
        start, length = self.reader.vector(at, "u1", "bytes of a name", len(self.reader.data))
        return self.reader.data[start : start + min(length, _NAME_BYTES)].decode("utf-8", "replace")


def _operator_code(table: _Table) -> str:
    # deprecated_builtin_code 0 (a byte, up to 127), builtin_code 3: the larger counts
    code = max(table.number(0, "b"), table.number(3, "i"))
    return OPERATORS.get(code, f"operator {code}")


def _buffer(table: _Table, index: int) -> np.ndarray:
    reader = table.reader
    # data 0; offset 1 and size 2: bytes behind the flatbuffer, in files above 2 GB
    content = table.array(0, "u1", "bytes of a buffer", len(reader.data), own=True)
    offset, size = table.number(1, "Q"), table.number(2, "Q")
    if offset <= 1 and size <= 1:
        return content
    if content.size or offset + size > len(reader.data):
        reader.fail(f"buffer {index} lies outside the file or in two places")
    if size:
        reader.extents.append((offset, offset + size))
    return reader.view(offset, size, "u1")


def _tensor(table: _Table, index: int) -> Tensor:
    name = table.text(3) or f"tensor {index}"
    shape = tuple(table.array(0, "<i4", f"dimensions of {name!r}", MAX_RANK).tolist())
    if any(extent < 0 for extent in shape):
        table.reader.fail(f"tensor {name!r} has a negative extent")
    if table.table(6) is not None:
        raise WeightsError(f"{table.reader.source}: tensor {name!r} is stored sparsely; export the model without that")
    quantization = None
    if (parameters := table.table(4)) is not None:
        # min 0, max 1 (not used), scale 2, zero_point 3, details 4 and 5, quantized_dimension 6
        limit = len(table.reader.data)
        scale = parameters.array(2, "<f4", f"scales of {name!r}", limit, own=True)
        zero_point = parameters.array(3, "<i8", f"zero points of {name!r}", limit, own=True)
        if parameters.number(4, "B"):
            raise WeightsError(f"{table.reader.source}: tensor {name!r} has a custom quantization; export it without")
        if scale.size:
            quantization = Quantization(scale, zero_point, parameters.number(6, "i"))
    return Tensor(name, shape, table.number(1, "b"), table.number(2, "I"), quantization)


def _operator(table: _Table, index: int, codes: tuple[str, ...], tensors: int) -> Operator:
    reader = table.reader
    number = table.number(0, "I")
    if number >= len(codes):
        reader.fail(f"operator {index} has code {number} of {len(codes)}")
    code = codes[number]
    inputs = table.indices(1, f"inputs of operator {index}", MAX_ARGUMENTS, tensors, least=-1)
    outputs = table.indices(2, f"outputs of operator {index}", MAX_ARGUMENTS, tensors)
    options: dict[str, int] = {}
    if code in OPTIONS:
        kind, fields = OPTIONS[code]
        given = table.table(4)
        if given is None or table.number(3, "B") != kind:
            reader.fail(f"operator {index}, {code}, lacks its options")
        options = {name: given.number(field, form, default) for name, field, form, default in fields}
    return Operator(code, inputs, outputs, options)


def _signature(table: _Table, tensors: int) -> Signature:
    # inputs 0, outputs 1, signature_key 2; each a TensorMap: name 0, tensor_index 1
    sides = []
    for side, what in ((0, "signature inputs"), (1, "signature outputs")):
        ports = {port.text(0): port.number(1, "I") for port in table.tables(side, what, MAX_PORTS)}
        if any(tensor >= tensors for tensor in ports.values()):
            table.reader.fail(f"one of the {what} is a tensor that does not exist")
        sides.append(ports)
    return Signature(table.text(2), *sides)
