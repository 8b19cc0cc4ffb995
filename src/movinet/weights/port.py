"""Reader of the state dicts of the public PyTorch port (`model<A0..A5>[_stream]_statedict_v3`), by way of torch.

The port's networks (github.com/Atze00/MoViNet-pytorch, `movinets/models.py`) compute what the reference does, with one
exception: gates of stream models are clip(0.2 x + 0.5, 0, 1), so that is the gate of a stream model read from here.
Its classifier's hidden activation is swish in both forms, batch norm's epsilon 1e-3, and it has no positional encoding.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from movinet.config import ModelConfig
from movinet.errors import WeightsError
from movinet.weights.names import NORM, Weights, check_tensors, identify

if TYPE_CHECKING:
    import torch

MAX_BYTES = 1 << 30  # the largest published file has 63 MB
_MAX_ENTRIES = 20_000  # the largest model has 1,900

_OUTSIDE = {
    "conv1.conv_1": "stem",
    "conv7.conv_1": "head.project",
    "classifier.0.conv_1": "classifier.hidden",
    "classifier.3.conv_1": "classifier.output",
}
_IN_BLOCK = {
    "expand.conv_1": "expand",
    "deep.conv_1": "depthwise",
    "deep.conv_2": "temporal",
    "se.fc1.conv_1": "se.reduce",
    "se.fc2.conv_1": "se.expand",
    "project.conv_1": "project",
    "res.0.conv_1": "skip",  # no pooling before it where the stride is 1
    "res.1.conv_1": "skip",
}
_OPTIONAL = ("deep.conv_2", "res.0.conv_1", "res.1.conv_1")
_BLOCK = re.compile(r"blocks\.b(\d{1,3})_l(\d{1,3})\.(.+)")
_LEAF = re.compile(r"(.+)\.(conv2d|conv3d|norm)\.(\w+)")

_Place = tuple[int, int]  # stage, layer


def read(path: str | Path, *, config: ModelConfig | None = None) -> Weights:
    """Weights of one of the port's state dicts: under our own names, float32, in the order of the network.

    Both of torch's file formats are read, plain or as the `state_dict` of a training checkpoint, with or without the
    `module.` of DataParallel. Nothing in the file is executed. `config` overrides what the shapes say (a file of
    another architecture, another gate); without it the model is identified, and a stream model gets the port's gate.

    Raises `WeightsError` naming the file, and the key, for one that is missing, truncated, too large, holds anything
    but named tensors, or is not exactly one model of the family.
    """
    path = Path(path)
    tensors = _rename(_arrays(_load(path), path), str(path))
    provenance: dict[str, Any] = {"file": path.name, "kind": "port"}
    if config is not None:
        check_tensors(tensors, config, str(path))
        provenance |= {"gate": config.gate, "gate_source": "the caller's configuration"}
        return Weights(config, tensors, provenance=provenance)
    name, config = identify(tensors, str(path))
    check_tensors(tensors, config, str(path))
    if config.causal:
        config = dataclasses.replace(config, gate="keras")
    provenance |= {"gate": config.gate, "gate_source": "the port's own code"}
    return Weights(config, tensors, name=name, provenance=provenance)


def _load(path: Path) -> Mapping[str, torch.Tensor]:
    """The flat mapping of names to tensors that the file holds; what a hostile file can cost is bounded first."""
    import torch

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise WeightsError(f"{path} has {size:,} bytes, more than any MoViNet; it is not one of the port's files")
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"  # how torch tells its two formats apart
        room = _check_zip(path, size) if zipped else size
        # A mapped file cannot be read beyond its end, whatever length the pickle claims.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged file can raise anything in there
        raise WeightsError(
            f"{path} is truncated, no PyTorch file, or holds Python objects beside tensors, which are never loaded"
            f" ({type(error).__name__})"
        ) from None
    # Methods of `dict` itself: the pickle may have put other things under their names into the instance.
    if isinstance(loaded, dict) and isinstance(inner := dict.get(loaded, "state_dict"), dict):
        loaded = inner
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a state dict of named tensors")
    if not 0 < dict.__len__(loaded) <= _MAX_ENTRIES:
        raise WeightsError(f"{path} has {dict.__len__(loaded):,} entries; it is no state dict of a MoViNet")
    found: dict[str, torch.Tensor] = {}
    numbers = 0
    for key, value in dict.items(loaded):
        if not isinstance(key, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise WeightsError(f"{path}: entry {_short(key)} is a {type(value).__name__}, not a named tensor")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise WeightsError(f"{path}: {_short(key)} is not a plain dense tensor")
        numbers += value.numel() * value.element_size()
        found[key] = value
    if numbers > room:  # strides of 0 make much out of little
        raise WeightsError(f"{path} claims {numbers:,} bytes of tensors but has only {room:,}; it is damaged")
    if all(key.startswith("module.") for key in found):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    return found


def _check_zip(path: Path, size: int) -> int:
    """Bytes of all storages; refuses a zip that would unpack to more than it is, or has a damaged record."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise WeightsError(f"{path} has compressed records, which torch does not write; load and save it again")
        declared = sum(entry.file_size for entry in entries)
        if len(entries) > _MAX_ENTRIES or declared > size:
            raise WeightsError(
                f"{path} declares {len(entries):,} records of {declared:,} bytes but has only {size:,}; it is damaged"
            )
        if damaged := archive.testzip():  # torch does not look when it maps the file
            raise WeightsError(f"{path}: its record {_short(damaged)} fails its checksum; download or copy it again")
    return sum(entry.file_size for entry in entries if "/data/" in entry.filename)


def _arrays(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, np.ndarray]:
    """float32 copies, so that the mapped file can be let go."""
    arrays = {}
    for key, tensor in tensors.items():
        if key.endswith(".num_batches_tracked"):
            continue  # a counter that only batch norm without a momentum reads
        if not tensor.is_floating_point():
            raise WeightsError(f"{path}: {_short(key)} holds {str(tensor.dtype).removeprefix('torch.')}, not floats")
        arrays[key] = np.array(tensor.detach().float().numpy(), order="C")
    return arrays


def _rename(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Our names and layouts, in the order of the network; every key of the port is accounted for."""
    places = _places(arrays, source)
    _check_complete(arrays, places, source)
    found: dict[str, tuple[str, np.ndarray]] = {}
    for key, array in arrays.items():
        name = _our_name(key, places)
        if name is None:
            raise WeightsError(f"{source} holds {_short(key)}, which is no name of the port's models")
        if name in found:
            raise WeightsError(f"{source}: {_short(key)} and {_short(found[name][0])} are both {name}")
        found[name] = (key, _our_layout(name, key, array, source))
    return {name: array for name, (_, array) in found.items()}


def _places(arrays: Mapping[str, np.ndarray], source: str) -> dict[_Place, int]:
    """Running number of each block, by (stage, layer). Raises `WeightsError` for a gap."""
    matches = (_BLOCK.fullmatch(key) for key in arrays)
    places = sorted({(int(match[1]), int(match[2])) for match in matches if match})
    stage, layer = 0, -1
    for found in places:
        if found not in ((stage, layer + 1), (stage + 1, 0)) or (layer < 0 and found != (0, 0)):
            raise WeightsError(f"{source} lacks blocks.b{stage}_l{layer + 1}; it is not a complete file of the port")
        stage, layer = found
    return {place: index for index, place in enumerate(places)}


def _check_complete(arrays: Mapping[str, np.ndarray], places: Mapping[_Place, int], source: str) -> None:
    """Raise `WeightsError` naming the first key that every model of the port has, or its neighbours imply."""
    fronts = list(_OUTSIDE)
    kind = "conv2d" if "conv1.conv_1.conv2d.weight" in arrays else "conv3d"
    wanted = []
    for stage, layer in places:
        block = f"blocks.b{stage}_l{layer}"
        wanted.append(f"{block}.alpha")
        for part in _IN_BLOCK:
            front = f"{block}.{part}"
            parts = (f"{front}.{kind}.weight", *(f"{front}.norm.{leaf}" for leaf in NORM))
            if part not in _OPTIONAL or any(key in arrays for key in parts):
                fronts.append(front)
    for front in fronts:
        gate = ".se." in front or front.startswith("classifier")
        wanted.append(f"{front}.{kind}.weight")
        wanted += [f"{front}.{kind}.bias"] if gate else [f"{front}.norm.{leaf}" for leaf in NORM]
    for key in wanted:
        if key not in arrays:
            raise WeightsError(f"{source} lacks {key}; it is not a complete file of the port's version 3")


def _our_name(key: str, places: Mapping[_Place, int]) -> str | None:
    names, front = _OUTSIDE, ""
    if match := _BLOCK.fullmatch(key):
        names, front = _IN_BLOCK, f"blocks.{places[int(match[1]), int(match[2])]}."
        key = match[3]
        if key == "alpha":
            return f"{front}scale"
    match = _LEAF.fullmatch(key)
    if match is None or match[1] not in names:
        return None
    name, layer, leaf = names[match[1]], match[2], match[3]
    if layer == "norm":
        return f"{front}{name}.norm.{leaf}" if leaf in NORM else None
    if _is_dense(name):
        return f"{front}{name}.{leaf}" if leaf in ("weight", "bias") else None
    return f"{front}{name}.conv.{leaf}" if leaf == "weight" else None


def _our_layout(name: str, key: str, array: np.ndarray, source: str) -> np.ndarray:
    """Drop the axes of extent 1 that the port's convolutions carry and ours do not."""
    if not name.endswith(".weight") or array.ndim < 4:
        return array
    if _is_dense(name):
        dropped = tuple(range(2, array.ndim))
    elif name.endswith(".temporal.conv.weight"):
        dropped = tuple(range(3, array.ndim))
    elif array.ndim == 5 and not name.endswith(".depthwise.conv.weight"):
        dropped = (2,)
    else:
        dropped = ()
    if any(array.shape[axis] != 1 for axis in dropped):
        raise WeightsError(f"{source}: {key} is {'x'.join(map(str, array.shape))}, which no layer of the port is")
    return array.squeeze(dropped)


def _is_dense(name: str) -> bool:
    return ".se." in f".{name}" or name.startswith(("se.", "classifier."))


def _short(key: object) -> str:
    text = key if isinstance(key, str) else f"of type {type(key).__name__}"
    return text if len(text) <= 100 and text.isprintable() else ascii(text[:97]) + "..."
