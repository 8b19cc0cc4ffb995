"""Reader of TensorFlow's weights: the official checkpoints, a trainer's own, and SavedModels. NumPy only.

Keys are mapped to our names by their own structure, never by order or by a known model. Three spellings occur: of the
model alone (`model/layer_with_weights-0/...`), of model and backbone together (`backbone/...`, a trainer's), and the
numbered variables of a SavedModel (`variables/12`), whose names are found by walking the object graph that every
checkpoint carries.

Sources: `official/projects/movinet/modeling` for the layers, TensorFlow's `trackable_object_graph.proto` and
`saved_model.proto`. Gates: Keras's hard sigmoid of 2021 is clip(0.2 x + 0.5, 0, 1), the reference's today is
relu6(x + 3) * 0.16667. A checkpoint does not say which it was trained with; the graph of a SavedModel does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from movinet.config import Gate, ModelConfig
from movinet.errors import WeightsError
from movinet.weights.bundle import Bundle, DamagedError, Folder, Message, Tree, fields, inside, naming, open_tar, utf8
from movinet.weights.names import NORM, Weights, check_tensors, identify

# SHA-256 of the index files of checkpoints that were published in 2021, trained with Keras's gate.
PUBLISHED = {
    "8f7c2ce79a1fe9b6248008cbf0d7dd0d36f9cb828c471204780c26a2f03d5f4a": "movinet_a0_stream",
    "cd6f9317826b835da06a0e6ef60bcf07e0250cfd07c1656fdf139b44309eb268": "movinet_a1_stream",
}
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NOT_WEIGHTS = re.compile(r"_CHECKPOINTABLE_OBJECT_GRAPH$|(save_counter|global_step)/|(optimizer|keras_api/metrics)/")
_SLOT = "/.OPTIMIZER_SLOT/"

_BACKBONE = re.compile(r"(?:(?:model/)?layer_with_weights-0|(?:model/)?backbone)/layer_with_weights-(\d{1,4})/(.+)")
_CLASSIFIER = re.compile(r"(?:model/)?layer_with_weights-1/(_head|_classifier)/(_conv(?:/_conv)?/(?:kernel|bias))")
_PARTS = {  # places in the backbone that have a convolution and a batch norm
    "_stem": "stem",
    "_expansion": "expand",
    "_feature": "depthwise",
    "_projection": "project",
    "_skip/_projection": "skip",
    "_project": "head.project",
}
_SCALES = {
    "_mobile_bottleneck/_rezero/scale": "scale",
    "_attention/_pos_encoding/_rezero/scale": "se.position_scale",
}
_NORM = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), NORM, strict=True))
_PART = re.compile(rf"({'|'.join(_PARTS)})/(_conv|_batch_norm)(_temporal)?/(_conv/)?(\w+)")
_GATE = re.compile(r"_attention/_se_(reduce|expand)/_conv(?:/_conv)?/(kernel|bias)")
# Names of children on the way from the root of an object graph to a weight.
_CHILD = re.compile(
    r"model|backbone|layer_with_weights-\d{1,4}|_(stem|expansion|feature|skip|projection|project|attention|head"
    r"|classifier|conv|conv_temporal|batch_norm|batch_norm_temporal|se_reduce|se_expand|pos_encoding|rezero"
    r"|mobile_bottleneck)|kernel|depthwise_kernel|bias|gamma|beta|moving_mean|moving_variance|scale"
)
_MAX_OBJECT_GRAPH = 1 << 23  # bytes; T0 as a SavedModel has 0.4 MB
_MAX_OBJECTS = 200_000  # of an object graph, and links followed in it; A5 has below 30,000
_MAX_NODES = 1_000_000  # of a SavedModel's graph; T0 has 59,000


def read(path: Path, *, config: ModelConfig | None = None) -> Weights:
    """The weights of a checkpoint or SavedModel: under our own names, float32, in our layouts.

    Args:
        path: `.tar.gz`, `.tar`, folder, prefix (`.../ckpt-1`) or `.index` file.
        config: what the weights must fit, for what the shapes do not say (causal 3D convolutions) or for models that
            the family does not have; without it the model is identified.

    `provenance` says what kind of file it was (`kind`, `file`), which form the kernels had (`form`: "training" for the
    (2+1)D kernels in five dimensions that the trainer keeps), and which gate was taken from where.

    Raises `WeightsError` naming the file and the key for one that is missing, truncated, damaged, hostile, or not
    exactly one model: no key is left over, none is missing, every checksum is compared.
    """
    path = Path(path)
    with open_bundle(path) as bundle:
        names = _resolve(bundle)
        tensors, training = _tensors(bundle, names)
        saved_model = bundle.graph is not None or any(key.startswith(("variables/", "trainable_")) for key in names)
        trainer = any(_SLOT in key or key.startswith(("optimizer/", "global_step/")) for key in bundle.entries)
        kind = "trainer checkpoint" if trainer else "tensorflow checkpoint"
        provenance: dict[str, Any] = {
            "kind": "SavedModel" if saved_model else kind,
            "file": path.name,
            "form": "training" if training else "inference",
        }
        name = None
        if config is None:
            name, found = identify(tensors, str(path))
            gate, source = _gate(bundle, found)
        else:
            found, gate, source = config, config.gate, "the caller's configuration"
    check_tensors(tensors, found, str(path))
    provenance |= {"gate": gate if found.squeeze_excitation != "none" else "none", "gate_source": source}
    return Weights(dataclasses.replace(found, gate=gate), tensors, name=name, provenance=provenance)


# --- which checkpoint a path means ---


@contextlib.contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """The checkpoint at `path`: `.tar.gz`, `.tar`, folder (also of a SavedModel), prefix or `.index` file.

    Raises `WeightsError` naming the file for one that is missing, truncated, damaged or hostile, and for a folder that
    holds several checkpoints and no `checkpoint` file that names the latest.
    """
    with contextlib.ExitStack() as stack:
        with naming(str(path)):
            tree, prefix, graph = _find(path, stack)
        yield Bundle(tree, prefix, graph)


def _find(path: Path, stack: contextlib.ExitStack) -> tuple[Tree, str, str | None]:
    if "\0" in str(path):
        raise WeightsError(f"{str(path)!a} is no path; it holds a zero byte")
    if not path.is_dir() and not path.with_name(f"{path.name.removesuffix('.index')}.index").is_file():
        tree: Tree = open_tar(path, stack)
        return tree, *_locate(tree)
    prefix = None if path.is_dir() else path.name.removesuffix(".index")
    folder = path if prefix is None else path.parent
    if folder.name == "variables" and (folder.parent / "saved_model.pb").is_file():
        return Folder(folder.parent), f"variables/{prefix or 'variables'}", "saved_model.pb"
    tree = Folder(folder)
    return (tree, prefix, None) if prefix is not None else (tree, *_locate(tree))


def _locate(tree: Tree) -> tuple[str, str | None]:
    """Prefix of the checkpoint, and `saved_model.pb` where there is one; a single folder inside is looked into."""
    at = ""
    for _ in range(4):
        files, folders = tree.children(at)
        prefixes = [name.removesuffix(".index") for name in files if name.endswith(".index")]
        if "saved_model.pb" in files:
            return f"{at}variables/variables", f"{at}saved_model.pb"
        if "checkpoint" in files:
            return at + _latest(tree, f"{at}checkpoint"), None
        if len(prefixes) > 1:
            shown = ", ".join(prefixes[:10]) + (", ..." if len(prefixes) > 10 else "")
            raise WeightsError(f"{tree.label(at)} holds several checkpoints ({shown}); give the path of one of them")
        if prefixes:
            return at + prefixes[0], None
        if len(folders) != 1:
            break
        at += f"{folders[0]}/"
    raise WeightsError(f"{tree.label('')} holds no TensorFlow checkpoint: there is no .index file where one belongs")


def _latest(tree: Tree, name: str) -> str:
    """The prefix that a `checkpoint` file names, relative to it."""
    size = tree.size(name)
    with naming(tree.label(name)):
        text = utf8(tree.read(name, 0, min(size, 1 << 20)).tobytes())
        match = re.search(r'^\s*model_checkpoint_path:\s*"([^"\\\n]+)"', text, re.MULTILINE)
        if match is None:
            raise DamagedError("it names no model_checkpoint_path")
        # Some savers write the absolute path it had on their machine; only its last part means anything here.
        return inside(PurePosixPath(match[1]).name if match[1].startswith("/") else match[1])


# --- from keys to names ---


def _resolve(bundle: Bundle) -> dict[str, tuple[str, str]]:
    """For each weight's checkpoint key, its key in spelling 1 (perhaps without `model/`) and our name."""
    found: dict[str, tuple[str, str]] = {}
    open_keys = []
    for key in bundle.entries:
        if _SLOT in key or _NOT_WEIGHTS.match(key):
            continue
        spelled = key.removesuffix(_VALUE)
        if spelled != key and (name := _name(spelled)):
            found[key] = (spelled, name)
        else:
            open_keys.append(key)
    if open_keys and _OBJECT_GRAPH in bundle.entries:
        graph = bundle.read_strings(_OBJECT_GRAPH)
        if len(graph) != 1 or len(graph[0]) > _MAX_OBJECT_GRAPH:
            raise WeightsError(f"{bundle.label}: {_OBJECT_GRAPH} is not one graph of a MoViNet; save the model again")
        with naming(f"{bundle.label}: {_OBJECT_GRAPH}"):
            walked = _walk(memoryview(graph[0]))
        found |= {key: walked[key] for key in open_keys if key in walked}
        open_keys = [key for key in open_keys if key not in walked]
    if open_keys:
        more = f" and {len(open_keys) - 1} more" if len(open_keys) > 1 else ""
        raise WeightsError(f"{bundle.label} holds {open_keys[0][:200]}{more}, which belongs to no MoViNet")
    taken: dict[str, str] = {}
    for key, (_, name) in found.items():
        if name in taken:
            raise WeightsError(f"{bundle.label}: {key} and {taken[name]} are both {name}; the file is damaged")
        taken[name] = key
    _check_layers(bundle.label, found)
    return found


def _check_layers(label: str, found: Mapping[str, tuple[str, str]]) -> None:
    """The stem comes first, the head last: their own layer numbers do not appear in our names."""
    layers: dict[str, set[int]] = {"stem": set(), "head": set(), "blocks": set()}
    for spelled, name in found.values():
        if match := _BACKBONE.fullmatch(spelled):
            layers[name.partition(".")[0]].add(int(match[1]))
    for part, place in (("stem", 0), ("head", max(layers["blocks"], default=0) + 1)):
        if wrong := layers[part] - {place}:
            raise WeightsError(f"{label} has its {part} in layer {max(wrong)} of the backbone, not in {place}")


def _name(spelled: str) -> str | None:
    """Our name for a key without its ending, None for one that is no weight's."""
    if match := _CLASSIFIER.fullmatch(spelled):
        dense = "hidden" if match[1] == "_head" else "output"
        return f"classifier.{dense}.{'bias' if match[2].endswith('bias') else 'weight'}"
    match = _BACKBONE.fullmatch(spelled)
    if match is None:
        return None
    layer, rest = int(match[1]), match[2]
    block = f"blocks.{layer - 1}."
    if layer == 0 and not rest.startswith("_stem/"):
        return None
    if rest in _SCALES:
        return block + _SCALES[rest]
    if match := _GATE.fullmatch(rest):
        return f"{block}se.{match[1]}.{'weight' if match[2] == 'kernel' else 'bias'}"
    match = _PART.fullmatch(rest)
    if match is None:
        return None
    part, kind, temporal, wrapped, leaf = _PARTS[match[1]], *match.groups()[1:]
    if temporal:
        if part != "depthwise":
            return None
        part = "temporal"
    per_channel = part in ("depthwise", "temporal")
    if part not in ("stem", "head.project"):
        part = block + part
    if kind == "_batch_norm":
        return f"{part}.norm.{_NORM[leaf]}" if leaf in _NORM and not wrapped else None
    # Depthwise kernels have a name of their own only in the two-dimensional layers, which are wrapped.
    return f"{part}.conv.weight" if leaf == ("depthwise_kernel" if wrapped and per_channel else "kernel") else None


def _walk(data: memoryview) -> dict[str, tuple[str, str]]:
    """Spelling 1 and our name of every variable, by its checkpoint key, from a serialized TrackableObjectGraph."""
    children: list[list[tuple[str, int]]] = []
    keys: list[str | None] = []
    for number, value in fields(data):
        if number != 1 or isinstance(value, int):
            continue
        node = Message(value)
        links = [(utf8(link.part(2)), link.integer(1)) for link in map(Message, node.parts(1))]
        children.append([(name, to) for name, to in links if _CHILD.fullmatch(name)])
        attributes = map(Message, node.parts(2))
        stored = [utf8(each.part(3)) for each in attributes if utf8(each.part(1)) == "VARIABLE_VALUE"]
        keys.append(stored[0] if stored else None)
        if len(keys) > _MAX_OBJECTS:
            raise DamagedError(f"it has more than {_MAX_OBJECTS:,} objects")
    found: dict[str, tuple[str, str]] = {}
    steps, todo = 0, [("", 0)]
    while todo:
        front, at = todo.pop()
        if at >= len(children) or (steps := steps + len(children[at])) > _MAX_OBJECTS:
            raise DamagedError("its objects refer to each other without end or to none")
        key = keys[at]
        if key is not None and (name := _name(front)):
            if found.setdefault(key, (front, name))[1] != name:
                raise DamagedError(f"{key[:100]} is both {name} and {found[key][1]}")
        elif front.count("/") < 8:
            todo += [(f"{front}/{name}" if front else name, to) for name, to in children[at]]
    return found


# --- from their layouts to ours ---


def _tensors(bundle: Bundle, names: Mapping[str, tuple[str, str]]) -> tuple[dict[str, np.ndarray], bool]:
    """Tensors under our names, in the order of the file, and whether (2+1)D kernels had their training form."""
    factorized = any(".temporal." in name for _, name in names.values())
    tensors, training = {}, False
    for key in sorted(names, key=lambda key: (bundle.entries[key].shard, bundle.entries[key].offset)):
        spelled, name = names[key]
        tensor = bundle.read(key)
        if not np.issubdtype(tensor.dtype, np.floating):
            raise WeightsError(f"{bundle.label}: {key} holds {tensor.dtype}, not floats; no weight of a MoViNet does")
        shape = tensor.shape
        arranged = _arrange(name, tensor, spelled.endswith("/depthwise_kernel"), factorized)
        if arranged is None:
            raise WeightsError(f"{bundle.label}: {key} is {list(shape)}, which no layer of a MoViNet is")
        training |= factorized and len(shape) == 5
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            tensors[name] = np.ascontiguousarray(arranged, np.float32).reshape(arranged.shape)
    return tensors, training


def _arrange(name: str, tensor: np.ndarray, depthwise: bool, factorized: bool) -> np.ndarray | None:
    """Our layout of a tensor, None for a shape that has none: from (time, height, width, in, out) to (out, in, ...)."""
    if not name.endswith(".weight") or ".norm." in name:
        return tensor if tensor.ndim <= 1 else None
    temporal = name.endswith(".temporal.conv.weight")
    if depthwise:  # (height, width, channels, 1), or (time, 1, channels, 1)
        if tensor.ndim != 4:
            return None
        tensor = tensor.swapaxes(2, 3)
    if tensor.ndim == 4:
        tensor = np.expand_dims(tensor, 1 if temporal else 0)
    if tensor.ndim != 5:
        return None
    time, *space, inputs, _ = tensor.shape
    tensor = tensor.transpose(4, 3, 0, 1, 2)
    if temporal:
        return tensor[:, :, :, 0, 0] if space == [1, 1] and inputs == 1 else None
    if name.endswith(".depthwise.conv.weight") and not factorized:
        return tensor
    if time != 1:
        return None
    if name.startswith("classifier.") or ".se." in name:
        return tensor[:, :, 0, 0, 0] if space == [1, 1] else None
    return tensor[:, :, 0]


# --- the gate ---


def _gate(bundle: Bundle, config: ModelConfig) -> tuple[Gate, str]:
    """The function of the gates of an identified model, and where it was taken from."""
    if not config.causal:
        return config.gate, "base models have this one"
    if config.squeeze_excitation == "none":
        return config.gate, "the model has no gates"
    if bundle.index_sha256 in PUBLISHED:
        return "keras", "recognised as the published checkpoint of 2021"
    if bundle.graph is None:
        return config.gate, (
            "assumed: the file carries no graph; pass gate='keras' for checkpoints trained in 2021 or with the sources"
            " of that time"
        )
    with naming(bundle.tree.label(bundle.graph)):
        found = _gates_of_graph(memoryview(bundle.read_graph()))
    if len(found) == 1:
        return found.pop(), "the graph"
    what = "several gates" if found else "no gate that is known"
    return config.gate, f"assumed: the graph shows {what}; pass gate='keras' for models trained in 2021"


def _gates_of_graph(data: memoryview) -> set[Gate]:
    """The hard sigmoids that a serialized SavedModel computes: Mul(Relu6, 0.16667), or Add(Mul(x, 0.2), 0.5)."""
    found: set[Gate] = set()
    count = 0
    for nodes in _node_lists(data):
        constants: dict[bytes, float] = {}
        steps: dict[bytes, tuple[bytes, list[bytes]]] = {}
        count += len(nodes)
        if count > _MAX_NODES:
            raise DamagedError(f"its graph has more than {_MAX_NODES:,} nodes")
        for data_of_node in nodes:
            _add_node(data_of_node, constants, steps)
        for op, inputs in steps.values():
            factors = [constants[name] for name in inputs if name in constants]
            before = [steps[name] for name in inputs if name in steps]
            if len(factors) != 1 or len(before) != 1:
                continue
            previous, its_inputs = before[0]
            if op == b"Mul" and previous == b"Relu6" and abs(factors[0] - 0.16667) < 1e-6:
                found.add("relu6")
            scaled = previous == b"Mul" and any(abs(constants.get(name, 0.0) - 0.2) < 1e-6 for name in its_inputs)
            if op in (b"Add", b"AddV2") and scaled and factors[0] == 0.5:
                found.add("keras")
    return found


def _node_lists(data: memoryview) -> Iterator[list[memoryview]]:
    """The nodes of the main graph and of each function, of every MetaGraphDef of a SavedModel."""
    for meta in Message(data).parts(2):
        for graph in Message(meta).parts(2):
            main = Message(graph)
            yield main.parts(1)
            for library in main.parts(2):
                for function in Message(library).parts(1):
                    yield Message(function).parts(3)


def _add_node(data: memoryview, constants: dict[bytes, float], steps: dict[bytes, tuple[bytes, list[bytes]]]) -> None:
    """Note a node's name with its value if it is a float constant, or with operation and inputs if it calculates."""
    name, op, inputs = b"", b"", []
    for number, value in fields(data):
        if isinstance(value, int):
            continue
        if number == 1:
            name = bytes(value)
        elif number == 2:
            op = bytes(value)
            if op not in (b"Const", b"Mul", b"Add", b"AddV2", b"Relu6"):
                return
        elif number == 3:
            inputs.append(bytes(value).partition(b":")[0])
        elif number == 5 and op == b"Const":
            attribute = Message(value)
            if utf8(attribute.part(1)) == "value":
                tensor = Message(Message(attribute.part(2)).part(8))
                raw = tensor.part(5) or tensor.part(4)  # packed numbers, or the tensor's bytes
                if tensor.integer(1) == 1 and len(raw) == 4:
                    constants[name] = struct.unpack("<f", raw)[0]
    if op != b"Const":
        steps[name] = (op, inputs)
