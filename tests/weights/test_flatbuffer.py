"""The container of TensorFlow Lite files: what is written is read, what is damaged is refused with a reason."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from movinet.errors import WeightsError
from movinet.weights.flatbuffer import parse
from movinet.weights.tflite import read
from tests.weights import tflite_network as network
from tests.weights.tflite_network import kernel_of, small
from tests.weights.tflite_writer import Table, document, table, write


def test_the_writer_and_the_reader_agree() -> None:
    """What the negative controls rest on: writing changes nothing."""
    model = small()
    again = parse(write(model), "again")
    assert (again.inputs, again.outputs, again.description) == (model.inputs, model.outputs, model.description)
    assert again.signatures == model.signatures
    for one, other in zip(model.operators, again.operators, strict=True):
        assert (one.code, one.inputs, one.outputs, one.options) == (
            other.code,
            other.inputs,
            other.outputs,
            other.options,
        )
    for first, second in zip(model.buffers, again.buffers, strict=True):
        assert np.array_equal(first, second)


def damaged(change: Callable[[Table], object]) -> bytes:
    root = table(small())
    change(root)
    return document(root)


def graph(root: Table) -> Table:
    found: Table = root[2][0]
    return found


CONTAINERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "lacks the mark TFL3"),
    "another format": (lambda: b"PK\x03\x04" + bytes(100), "lacks the mark TFL3"),
    "only a mark": (lambda: struct.pack("<I4s", 8, b"TFL3"), "is damaged"),
    "root far away": (lambda: struct.pack("<I4s", 1 << 31, b"TFL3") + bytes(64), "is damaged: it points at byte"),
    "half": (lambda: (lambda data: data[: len(data) // 2])(write(small())), "is damaged"),
    "version": (lambda: damaged(lambda root: root.update({0: ("I", 4)})), "schema has version 4"),
    "two graphs": (lambda: damaged(lambda root: root[2].append(root[2][0])), "holds 2 subgraphs"),
    "no graph": (lambda: damaged(lambda root: root[2].clear()), "holds 0 subgraphs"),
    "sparse": (lambda: damaged(lambda root: graph(root)[0][3].update({6: {}})), "is stored sparsely"),
    "custom quantization": (
        lambda: damaged(lambda root: graph(root)[0][3].update({4: {4: ("B", 1)}})),
        "custom quantization",
    ),
    "no such buffer": (
        lambda: damaged(lambda root: graph(root)[0][3].update({2: ("I", 9999)})),
        "points at buffer 9999",
    ),
    "no such code": (lambda: damaged(lambda root: graph(root)[3][0].update({0: ("I", 99)})), "has code 99"),
    "no such tensor": (
        lambda: damaged(lambda root: graph(root)[3][0].update({1: np.asarray([70000], "<i4")})),
        "a tensor that does not exist",
    ),
    "no such output": (
        lambda: damaged(lambda root: graph(root).update({2: np.asarray([-1], "<i4")})),
        "does not exist",
    ),
    "negative shape": (
        lambda: damaged(lambda root: graph(root)[0][3].update({0: np.asarray([1, -8], "<i4")})),
        "negative extent",
    ),
    "too many dimensions": (
        lambda: damaged(lambda root: graph(root)[0][3].update({0: np.ones(9, "<i4")})),
        "it claims 9 dimensions",
    ),
    "signature": (lambda: damaged(lambda root: root[7][0][0][0].update({1: ("I", 1 << 20)})), "does not exist"),
    "other options": (lambda: damaged(lambda root: graph(root)[3][1].update({3: ("B", 2)})), "lacks its options"),
    "large buffer outside": (
        lambda: damaged(lambda root: root[4][0].update({1: ("Q", 1 << 40), 2: ("Q", 1 << 40)})),
        "lies outside the file",
    ),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_damaged_containers_are_refused(case: str, tmp_path: Path) -> None:
    make, message = CONTAINERS[case]
    path = tmp_path / "model.tflite"
    path.write_bytes(make())
    with pytest.raises(WeightsError, match=message) as caught:
        read(path, config=network.config())
    assert str(path) in str(caught.value)


def test_buffers_behind_the_flatbuffer_are_read(tmp_path: Path) -> None:
    """Files above 2 GB keep their constants there: offset and size in the buffer instead of data."""
    model = small()
    kernel = model.tensors[kernel_of(model)].buffer
    root = table(model)
    content = root[4][kernel][0].tobytes()
    root[4][kernel] = {1: ("Q", 1 << 33), 2: ("Q", len(content))}
    data = document(root)
    root[4][kernel] = {1: ("Q", len(data)), 2: ("Q", len(content))}
    path = tmp_path / "model.tflite"
    path.write_bytes(document(root) + content)
    wanted = network.weights(network.config())["stem.conv.weight"]
    assert np.array_equal(read(path, config=network.config()).tensors["stem.conv.weight"], wanted)
