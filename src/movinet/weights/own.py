"""Our own file: one `.safetensors` with the tensors, the configuration, the preprocessing, the labels and a checksum.

Every safetensors reader opens it; the records are strings in the header's metadata: `format` ("movinet/1"), then as
JSON `name`, `config`, `preprocessing`, `labels`, `provenance`, and `sha256` over all of these and all tensors, as
`_digest` takes it. Equal weights give equal bytes. NumPy only.

Format of the container: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from movinet.config import ModelConfig, Preprocessing
from movinet.errors import UsageError, WeightsError
from movinet.weights.names import Weights, check_tensors, parameter_shapes

FORMAT = "movinet/1"
MAX_BYTES = 1 << 31  # the largest model of the family has 130 MB
MAX_HEADER = 1 << 24  # bytes; ten thousand long labels take less than 1 MiB
_MAX_LABEL = 1000  # characters

_RECORDS = ("name", "config", "preprocessing", "labels", "provenance")
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


def write(path: str | Path, weights: Weights) -> None:
    """Write `weights` to `path` (customarily `.safetensors`), whole or not at all: on failure an older file stays.

    Tensors are stored as float32, float16 arrays as float16. Raises `WeightsError` for weights that do not fit their
    configuration or labels that do not fit its classes, or a place that cannot be written.
    """
    path = Path(path)
    shapes = parameter_shapes(weights.config)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused by `check_tensors`
        tensors = {name: np.asarray(array, _DTYPES[_code(array)]) for name, array in weights.tensors.items()}
    check_tensors(tensors, weights.config, f"{path} is not written: the model")
    tensors = {name: tensors[name] for name in shapes}
    if weights.labels is not None and len(weights.labels) != weights.config.num_classes:
        raise WeightsError(
            f"{path} is not written: {len(weights.labels)} labels for {weights.config.num_classes} classes"
        )
    metadata = {
        "format": FORMAT,
        "name": _to_json(weights.name),
        "config": _to_json(weights.config.to_dict()),
        "preprocessing": _to_json(weights.preprocessing and weights.preprocessing.to_dict()),
        "labels": _to_json(weights.labels),
        "provenance": _to_json(dict(weights.provenance)),
    }
    # `save_file` of safetensors orders the metadata by chance; written here, equal weights give equal bytes.
    header: dict[str, Any] = {"__metadata__": {**metadata, "sha256": _digest(metadata, tensors)}}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _code(array),
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise WeightsError(f"{path} is not written: labels and provenance of {len(text):,} bytes are too long")
    try:
        _write_atomically(path, [struct.pack("<Q", len(text)), text, *map(_bytes, tensors.values())])
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror or error}") from None


def read(path: str | Path, *, config: ModelConfig | None = None) -> Weights:
    """The weights that `write` put there, float32 in the order of the network; `config` overrides the stored one.

    Raises `WeightsError` naming the file and the record or tensor at fault: no safetensors file or a truncated one, no
    metadata of this package, another version, malformed or oversized records, tensors that do not fit the
    configuration, or a checksum that does not match.
    """
    path = Path(path)
    try:
        _check_sizes(path)
        with safe_open(path, framework="np") as file:
            metadata = _check_metadata(file.metadata() or {}, path)
            names = list(file.keys())
            records = {key: _from_json(metadata[key], key, path) for key in _RECORDS}
            stored = _config(records["config"], len(names), path)
            used = stored if config is None else config
            tensors = _tensors(file, names, used, path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); copy or download it again") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    if _digest(metadata, tensors) != metadata["sha256"]:
        raise WeightsError(f"{path}: its content does not have its sha256; it was damaged or changed after writing")
    tensors = {name: array.astype(np.float32, copy=False) for name, array in tensors.items()}
    check_tensors(tensors, used, str(path))
    return Weights(
        config=used,
        tensors=tensors,
        name=_name(records["name"], path),
        preprocessing=_preprocessing(records["preprocessing"], path),
        labels=_labels(records["labels"], stored.num_classes, path),
        provenance=_provenance(records["provenance"], path),
    )


# --- the container ---


def _check_sizes(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(8)
        size = os.fstat(file.fileno()).st_size
    if len(start) < 8:
        raise WeightsError(f"{path} has {size} bytes; it is no safetensors file")
    (header,) = struct.unpack("<Q", start)
    if size > MAX_BYTES or header > min(size - 8, MAX_HEADER):
        raise WeightsError(
            f"{path} ({size:,} bytes) declares a header of {header:,} bytes; it is truncated, or no safetensors file"
            " of a MoViNet"
        )


def _tensors(file: Any, names: list[str], config: ModelConfig, path: Path) -> dict[str, np.ndarray]:
    """Arrays as stored, in the order of the network; names, types and shapes are compared before any is loaded."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        part = file.get_slice(name)
        found[name] = (part.get_dtype(), tuple(part.get_shape()))
    for name, (dtype, _) in found.items():
        if dtype not in _DTYPES:
            raise WeightsError(f"{path}: {name[:100]} is stored as {dtype}; save it as float32 or float16")
    # Stand for arrays of these shapes and take no memory: `check_tensors` words the errors.
    outline = {name: np.broadcast_to(np.float32(0), shape) for name, (_, shape) in found.items()}
    check_tensors(outline, config, str(path))
    return {name: file.get_tensor(name) for name in parameter_shapes(config)}


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over a JSON list of the records and of the tensors' names, types and shapes, then over their bytes.

    Records come in the order of their names, tensors in the order of the network.
    """
    records = sorted((key, value) for key, value in metadata.items() if key != "sha256")
    outline = [[name, _code(array), list(array.shape)] for name, array in tensors.items()]
    digest = hashlib.sha256(json.dumps([records, outline]).encode())
    for array in tensors.values():
        digest.update(_bytes(array))
    return digest.hexdigest()


def _code(array: np.ndarray) -> str:
    return "F16" if array.dtype == np.float16 else "F32"


def _bytes(array: np.ndarray) -> memoryview:
    """The array's bytes, little-endian."""
    return np.ascontiguousarray(array, _DTYPES[_code(array)]).reshape(-1).view(np.uint8).data


def _write_atomically(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with beside.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


# --- the records ---


def _to_json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the weights' records are no JSON: {error}") from None


def _from_json(text: str, key: str, path: Path) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:100] or type(error).__name__
        raise WeightsError(f"{path}: its record {key!r} is malformed ({reason})") from None


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _check_metadata(metadata: Mapping[str, str], path: Path) -> Mapping[str, str]:
    kind = metadata.get("format", "")
    if not kind.startswith("movinet/"):
        raise WeightsError(
            f"{path} is a safetensors file without movinet metadata, so its configuration is not known;"
            " write it with movinet.weights.own.write, or load it with safetensors and `load_state_dict`"
        )
    if kind != FORMAT:
        raise WeightsError(f"{path} has format {kind[:40]!r}; this version reads {FORMAT!r}, so update movinet")
    if missing := [key for key in (*_RECORDS, "sha256") if key not in metadata]:
        raise WeightsError(f"{path} lacks the record {missing[0]!r} in its metadata; it was not written whole")
    return metadata


def _config(record: Any, tensors: int, path: Path) -> ModelConfig:
    """The stored configuration; a block has at least ten tensors, so `tensors` bounds what it can make anyone do."""
    try:
        if not isinstance(record, dict):
            raise UsageError("it is no JSON object")
        stages = record.get("stages")
        if isinstance(stages, list) and sum(len(stage) for stage in stages if isinstance(stage, list)) > tensors:
            raise UsageError(f"it has more blocks than the file has tensors ({tensors})")
        return ModelConfig.from_dict(record)
    except (UsageError, ArithmeticError) as error:
        raise WeightsError(f"{path}: its record 'config' does not hold: {_text(error)}") from None


def _preprocessing(record: Any, path: Path) -> Preprocessing | None:
    if record is None:
        return None
    try:
        if not isinstance(record, dict):
            raise UsageError("it is no JSON object")
        preprocessing = Preprocessing.from_dict(record)
    except (UsageError, ArithmeticError) as error:
        raise WeightsError(f"{path}: its record 'preprocessing' does not hold: {_text(error)}") from None
    return preprocessing


def _labels(record: Any, num_classes: int, path: Path) -> tuple[str, ...] | None:
    if record is None:
        return None
    if not isinstance(record, list) or not all(isinstance(label, str) and len(label) <= _MAX_LABEL for label in record):
        raise WeightsError(f"{path}: its record 'labels' is no list of names")
    if len(record) != num_classes:
        raise WeightsError(f"{path}: its record 'labels' has {len(record)} names for {num_classes} classes")
    return tuple(record)


def _name(record: Any, path: Path) -> str | None:
    if record is not None and not (isinstance(record, str) and 0 < len(record) <= 200):
        raise WeightsError(f"{path}: its record 'name' is no name")
    return record


def _provenance(record: Any, path: Path) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise WeightsError(f"{path}: its record 'provenance' is no JSON object")
    return record


def _text(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 300 else f"{text[:297]}..."
