"""Writes what the reader reads: bundles, object graphs, graphs of SavedModels, and the official keys and layouts.

The way from our names to the official keys is written down here a second time, in the other direction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from movinet.config import BlockConfig, ModelConfig
from movinet.weights.bundle import masked_crc32c
from movinet.weights.names import parameter_shapes

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
TYPES = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9, "<u2": 14, "<f2": 19}

SMALL = ModelConfig(
    stages=((BlockConfig(8, 8, (1, 5), 2),), (BlockConfig(16, 8, (3, 3)), BlockConfig(8, 16, (5, 3)))),
    stem=8,
    head=16,
    hidden=24,
    num_classes=5,
    causal=True,
    convolution="2plus1d",
    squeeze_excitation="2plus3d",
    activation="hard_swish",
    gate="relu6",
    positional_encoding=True,
)


# --- protocol buffers ---


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


# --- the table ---


def snappy(data: bytes) -> bytes:
    """Greedy: copies of up to 64 bytes where four bytes occurred before, in whichever of the short forms fits."""
    out, seen, literal, at = bytearray(varint(len(data))), dict[bytes, int](), bytearray(), 0

    def flush() -> None:
        for start in range(0, len(literal), 70):
            piece = literal[start : start + 70]
            out.extend([(len(piece) - 1) << 2] if len(piece) <= 60 else [60 << 2, len(piece) - 1])
            out.extend(piece)
        literal.clear()

    while at < len(data):
        start = seen.get(data[at : at + 4], -1) if at + 4 <= len(data) else -1
        seen[data[at : at + 4]] = at
        if start < 0 or at - start >= 1 << 16:
            literal.append(data[at])
            at += 1
            continue
        length = 4
        while length < 64 and at + length < len(data) and data[start + length] == data[at + length]:
            length += 1
        flush()
        offset = at - start
        if length <= 11 and offset < 2048:
            out.extend([(offset >> 8) << 5 | (length - 4) << 2 | 1, offset & 255])
        else:
            out.extend([(length - 1) << 2 | 2, offset & 255, offset >> 8])
        at += length
    flush()
    return bytes(out)


def block(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    out, last = bytearray(), b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return bytes(out) + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def sealed(content: bytes, packed: bool = False, kind: int | None = None) -> bytes:
    """A block with its kind and checksum."""
    content = (snappy(content) if packed else content) + bytes([packed if kind is None else kind])
    return content + masked_crc32c(content).to_bytes(4, "little")


def table(pairs: Sequence[tuple[bytes, bytes]], packed: bool = False, per_block: int = 50) -> bytes:
    """An SSTable with `per_block` entries in each block."""
    out, handles = bytearray(), []

    def put(content: bytes) -> bytes:
        at = len(out)
        out.extend(sealed(content, packed))
        return varint(at) + varint(len(out) - at - 5)

    for start in range(0, len(pairs), per_block):
        part = pairs[start : start + per_block]
        handles.append((part[-1][0], put(block(part))))
    footer = put(block([])) + put(block(handles))
    return bytes(out) + footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def header(shards: int = 1, big_endian: int = 0) -> bytes:
    return field(1, shards) + (field(2, big_endian) if big_endian else b"") + field(3, field(1, 1))


def entry(dtype: int, shape: Sequence[int], shard: int, offset: int, size: int, crc: int, more: bytes = b"") -> bytes:
    dims = b"".join(field(2, field(1, extent)) for extent in shape)
    place = field(3, shard) * bool(shard) + field(4, offset) * bool(offset) + field(5, size)
    return field(1, dtype) + field(2, dims) + place + varint(6 << 3 | 5) + crc.to_bytes(4, "little") + more


def strings(values: Sequence[bytes]) -> tuple[bytes, int]:
    """Bytes and checksum of a tensor of strings."""
    plain = b"".join(len(value).to_bytes(4, "little") for value in values)
    own = masked_crc32c(plain).to_bytes(4, "little")
    content = b"".join(values)
    return b"".join(varint(len(value)) for value in values) + own + content, masked_crc32c(plain + own + content)


def write_bundle(
    prefix: Path, tensors: Mapping[str, np.ndarray | bytes], shards: int = 1, packed: bool = False, per_block: int = 50
) -> Path:
    """Write `prefix`.index and its data files; arrays of uint16 are bfloat16, bytes are scalar strings."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    parts = [bytearray() for _ in range(shards)]
    pairs = [(b"", header(shards))]
    for number, key in enumerate(sorted(tensors, key=str.encode)):
        value, data = tensors[key], parts[number % shards]
        if isinstance(value, bytes):
            content, crc = strings([value])
            found = entry(7, (), number % shards, len(data), len(content), crc)
        else:
            content = np.ascontiguousarray(value).tobytes()
            kind = TYPES[value.dtype.newbyteorder("<").str]
            found = entry(kind, value.shape, number % shards, len(data), len(content), masked_crc32c(content))
        pairs.append((key.encode(), found))
        data += content
    for number, data in enumerate(parts):
        Path(f"{prefix}.data-{number:05d}-of-{shards:05d}").write_bytes(data)
    Path(f"{prefix}.index").write_bytes(table(pairs, packed, per_block))
    return prefix


# --- official keys and layouts ---


def spelled(name: str, config: ModelConfig, form: str) -> str:
    """The official key (spelling 1, no ending) of one of our names; `form` is base, stream or training."""
    conv = "_conv/_conv" if form == "stream" else "_conv"
    parts = name.split(".")
    if parts[0] == "classifier":
        layer = {"hidden": "_head", "output": "_classifier"}[parts[1]]
        leaf = "kernel" if parts[2] == "weight" else "bias"
        return f"model/layer_with_weights-1/{layer}/{conv}/{leaf}"
    layer = {"stem": 0, "head": len(config.blocks) + 1}.get(parts[0])
    if layer is None:
        layer, parts = int(parts[1]) + 1, parts[2:]
    front = f"model/layer_with_weights-0/layer_with_weights-{layer}"
    if parts == ["scale"]:
        return f"{front}/_mobile_bottleneck/_rezero/scale"
    if parts == ["se", "position_scale"]:
        return f"{front}/_attention/_pos_encoding/_rezero/scale"
    if parts[0] == "se":
        return f"{front}/_attention/_se_{parts[1]}/{conv}/{'kernel' if parts[2] == 'weight' else 'bias'}"
    *part, layer_kind, leaf = parts
    place = {
        "stem": "_stem",
        "expand": "_expansion",
        "depthwise": "_feature",
        "temporal": "_feature",
        "project": "_projection",
        "skip": "_skip/_projection",
        "head.project": "_project",
    }[".".join(part)]
    temporal = "_temporal" if part == ["temporal"] else ""
    if layer_kind == "norm":
        named = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        return f"{front}/{place}/_batch_norm{temporal}/{named[leaf]}"
    kernel = "depthwise_kernel" if form == "stream" and part[0] in ("depthwise", "temporal") else "kernel"
    return f"{front}/{place}/_conv{temporal}{'/_conv' if form == 'stream' else ''}/{kernel}"


def official(name: str, tensor: np.ndarray, form: str) -> np.ndarray:
    """A tensor of ours in the official layout."""
    if not name.endswith(".weight") or ".norm." in name:
        return tensor
    flat = form == "stream"
    if name.endswith(".temporal.conv.weight"):
        kernel = tensor[:, 0].T  # (time, channels)
        return kernel[:, None, :, None] if flat else kernel[:, None, None, None]
    if name.endswith(".depthwise.conv.weight"):
        if flat:
            return tensor.transpose(2, 3, 0, 1)
        return (tensor if tensor.ndim == 5 else tensor[:, :, None]).transpose(2, 3, 4, 1, 0)
    kernel = tensor if tensor.ndim == 4 else tensor[:, :, None, None]
    kernel = kernel.transpose(2, 3, 1, 0)
    return kernel if flat else kernel[None]


def numbers(config: ModelConfig) -> dict[str, np.ndarray]:
    """Weights under our names, each a function of its name, positive where they must be."""
    found = {}
    for name, shape in parameter_shapes(config).items():
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        found[name] = np.asarray(generator.random(shape, np.float32) + np.float32(0.01))
    return found


def in_keys(tensors: Mapping[str, np.ndarray], config: ModelConfig, form: str) -> dict[str, np.ndarray]:
    """Official keys, endings and layouts of weights under our names."""
    return {spelled(name, config, form) + VALUE: official(name, t, form) for name, t in tensors.items()}


def as_trainer(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Spelling 2, with what a trainer saves beside weights."""
    found = {}
    for key, tensor in tensors.items():
        new = key.replace("model/layer_with_weights-0/", "backbone/")
        found[new] = tensor
        for slot in ("momentum", "rms"):
            found[new.replace(VALUE, f"/.OPTIMIZER_SLOT/optimizer/{slot}{VALUE}")] = np.zeros_like(tensor)
    for scalar in ("global_step", "optimizer/iter", "save_counter", "keras_api/metrics/0/total"):
        found[scalar + VALUE] = np.array(7, np.int64)
    return found


def as_saved_model(tensors: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray | bytes]:
    """Spelling 3: variables numbered in no order, and the object graph that leads to them."""
    order = np.random.default_rng(seed).permutation(len(tensors))
    keys = {key: f"variables/{number}{VALUE}" for key, number in zip(tensors, order.tolist(), strict=True)}
    places = {key.removeprefix("model/").removesuffix(VALUE): new for key, new in keys.items()}
    return {**{keys[key]: tensor for key, tensor in tensors.items()}, GRAPH: object_graph(places)}


def object_graph(places: Mapping[str, str]) -> bytes:
    """A TrackableObjectGraph in which each path leads to a checkpoint key, with links back and a list of variables."""
    children: list[dict[str, int]] = [{"variables": 1}, {}]
    keys: list[str | None] = [None, None]
    for path, key in places.items():
        at = 0
        for part in path.split("/"):
            if part not in children[at]:
                children.append({"_parent": at})
                keys.append(None)
                children[at][part] = len(children) - 1
            at = children[at][part]
        keys[at] = key
        children[1][str(len(children[1]))] = at
    nodes = []
    for links, key in zip(children, keys, strict=True):
        node = b"".join(field(1, field(1, to) * bool(to) + field(2, name)) for name, to in links.items())
        if key is not None:
            node += field(2, field(1, "VARIABLE_VALUE") + field(2, "its/full/name") + field(3, key))
        nodes.append(field(1, node))
    return b"".join(nodes)


# --- graphs of SavedModels ---


def node(name: str, op: str, inputs: Sequence[str] = (), value: float | None = None, as_bytes: bool = False) -> bytes:
    out = field(1, name) + field(2, op) + b"".join(field(3, each) for each in inputs)
    if value is not None:
        number = 4 if as_bytes else 5
        tensor = field(1, 1) + field(2, b"") + field(number, np.float32(value).tobytes())
        out += field(5, field(1, "dtype") + field(2, field(6, 1)))
        out += field(5, field(1, "value") + field(2, field(8, tensor)))
    return out


def relu6_gate(as_bytes: bool = False) -> list[bytes]:
    return [
        node("three", "Const", value=3.0),
        node("add", "AddV2", ["x", "three:output:0"]),
        node("relu", "Relu6", ["add:z:0"]),
        node("sixth", "Const", value=0.16667, as_bytes=as_bytes),
        node("gate", "Mul", ["relu:activations:0", "sixth:output:0"]),
    ]


def keras_gate() -> list[bytes]:
    return [
        node("fifth", "Const", value=0.2),
        node("mul", "Mul", ["x", "fifth:output:0"]),
        node("half", "Const", value=0.5),
        node("add_1", "AddV2", ["mul:z:0", "half:output:0"]),
    ]


def saved_graph(nodes: Sequence[bytes], in_function: bool = True) -> bytes:
    """A SavedModel with these nodes in a function of its library, or in the main graph."""
    if in_function:
        graph = field(2, field(1, field(1, field(1, "f")) + b"".join(field(3, each) for each in nodes)))
    else:
        graph = b"".join(field(1, each) for each in nodes)
    return field(1, 1) + field(2, field(1, b"") + field(2, graph))
