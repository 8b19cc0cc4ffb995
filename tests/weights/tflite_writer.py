"""Writes what `movinet.weights.flatbuffer.parse` reads, so that tests can make files and change real ones."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from movinet.weights.flatbuffer import OPERATORS, OPTIONS, Model, Operator, Quantization, Tensor

NUMBERS = {name: number for number, name in OPERATORS.items()}

# A table is {field number: value}; a value is (struct format, number), a table, a list of tables, an array or a text.
Table = dict[int, Any]


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray(8)

    def put(self, value: Any) -> int:
        """Append a value and what it points at; the position of its first byte."""
        while len(self.out) % 8:
            self.out.append(0)
        if isinstance(value, dict):
            return self._table(value)
        if isinstance(value, list):
            at = len(self.out)
            self.out += struct.pack("<I", len(value)) + bytes(4 * len(value))
            for index, item in enumerate(value):
                self._point(at + 4 + 4 * index, item)
            return at
        if isinstance(value, str):
            value = np.frombuffer(value.encode(), np.uint8)
        self.out += bytes(4)  # so that eight-byte elements are aligned
        at = len(self.out)
        self.out += struct.pack("<I", len(value)) + value.tobytes()
        return at

    def _point(self, place: int, value: Any) -> None:
        target = self.put(value)
        struct.pack_into("<I", self.out, place, target - place)

    def _table(self, fields: Table) -> int:
        offsets = [0] * (max(fields, default=-1) + 1)
        size = 4
        for number, value in fields.items():
            width = struct.calcsize(value[0]) if isinstance(value, tuple) else 4
            size = -(-size // width) * width
            offsets[number] = size
            size += width
        vtable = len(self.out)
        self.out += struct.pack(f"<{2 + len(offsets)}H", 4 + 2 * len(offsets), size, *offsets)
        while len(self.out) % 8:
            self.out.append(0)
        at = len(self.out)
        self.out += struct.pack("<i", at - vtable) + bytes(size - 4)
        for number, value in fields.items():
            if isinstance(value, tuple):
                struct.pack_into("<" + value[0], self.out, at + offsets[number], value[1])
            else:
                self._point(at + offsets[number], value)
        return at


def document(root: Table) -> bytes:
    """A whole file around a root table."""
    writer = _Writer()
    struct.pack_into("<I4s", writer.out, 0, writer.put(root), b"TFL3")
    return bytes(writer.out)


def write(model: Model) -> bytes:
    """The file that parses to `model`."""
    return document(table(model))


def table(model: Model) -> Table:
    codes = sorted({op.code for op in model.operators})

    def ints(values: tuple[int, ...]) -> np.ndarray:
        return np.asarray(values, "<i4")

    def number(code: str) -> int:
        return NUMBERS[code] if code in NUMBERS else int(code.split()[-1])

    def port(name: str, tensor: int) -> Table:
        return {0: name, 1: ("I", tensor)}

    def quantization(given: Quantization) -> Table:
        return {2: given.scale, 3: given.zero_point, 6: ("i", given.dimension)}

    def tensor(given: Tensor) -> Table:
        fields: Table = {0: ints(given.shape), 1: ("b", given.type), 2: ("I", given.buffer), 3: given.name}
        return fields | ({4: quantization(given.quantization)} if given.quantization else {})

    def operator(given: Operator) -> Table:
        fields: Table = {0: ("I", codes.index(given.code)), 1: ints(given.inputs), 2: ints(given.outputs)}
        if given.code in OPTIONS:
            kind, known = OPTIONS[given.code]
            fields[3] = ("B", kind)
            fields[4] = {index: (form, given.options[name]) for name, index, form, _ in known}
        return fields

    return {
        0: ("I", 3),
        1: [{0: ("b", min(number(code), 127)), 3: ("i", number(code))} for code in codes],
        2: [
            {
                0: [tensor(given) for given in model.tensors],
                1: ints(model.inputs),
                2: ints(model.outputs),
                3: [operator(given) for given in model.operators],
            }
        ],
        3: model.description,
        4: [{0: content} if content.size else {} for content in model.buffers],
        7: [
            {
                0: [port(*item) for item in signature.inputs.items()],
                1: [port(*item) for item in signature.outputs.items()],
                2: signature.key,
            }
            for signature in model.signatures
        ],
    }
