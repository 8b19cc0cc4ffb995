"""Weights from anywhere, under our own names: TensorFlow checkpoints and SavedModels, TFLite, the port, our own files.

`read` finds out what a file is by its content and hands it to its reader; each reader needs NumPy only (that of the
port's pickles borrows torch's safe loader) and refuses what is truncated, corrupt or not a MoViNet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

from movinet.config import ModelConfig
from movinet.errors import WeightsError
from movinet.registry import REGISTRY
from movinet.weights.names import Weights, check_tensors, identify, parameter_shapes

__all__ = ["Kind", "Weights", "check_tensors", "class_names", "detect", "identify", "parameter_shapes", "read"]

Kind = Literal["archive", "tensorflow", "tflite", "port", "own"]


def read(path: str | os.PathLike[str], *, config: ModelConfig | None = None) -> Weights:
    """Read any supported file or folder, completed with what the registry knows of the model (input size, labels).

    Args:
        path: an official checkpoint (`.tar.gz`, folder, prefix or `.index`), a SavedModel folder, a `.tflite` file,
            a `.pth` of the public PyTorch port, or our own `.safetensors`.
        config: check against this configuration instead of looking for one in the family.

    Raises `WeightsError` naming the file, and the tensor where one is at fault.
    """
    path = Path(path)
    return _complete(_READERS[detect(path)](path, config))


def _tensorflow(path: Path, config: ModelConfig | None) -> Weights:
    from movinet.weights import tensorflow

    return tensorflow.read(path, config=config)


def _tflite(path: Path, config: ModelConfig | None) -> Weights:
    from movinet.weights import tflite

    return tflite.read(path, config=config)


def _port(path: Path, config: ModelConfig | None) -> Weights:
    from movinet.weights import port

    return port.read(path, config=config)


def _own(path: Path, config: ModelConfig | None) -> Weights:
    from movinet.weights import own

    return own.read(path, config=config)


def _archive(path: Path, config: ModelConfig | None) -> Weights:
    """A checkpoint, a SavedModel, or (as Kaggle delivers them) one `.tflite` file in an archive."""
    try:
        return _tensorflow(path, config)
    except WeightsError:
        with contextlib.ExitStack() as stack:
            lite = _only_tflite(path, stack)
            if lite is None:
                raise
            weights = _tflite(lite, config)
    return dataclasses.replace(weights, provenance={**weights.provenance, "file": path.name})


def _only_tflite(path: Path, stack: contextlib.ExitStack) -> Path | None:
    """A private copy of the one `.tflite` file of an archive, for as long as `stack` is open; None if there is none."""
    from movinet.weights.bundle import DamagedError, open_tar

    try:
        tree = open_tar(path, stack)
    except (DamagedError, WeightsError, OSError):
        return None

    def files(folder: str) -> Iterator[str]:
        here, below = tree.children(folder)
        yield from (folder + name for name in here)
        for name in below:
            yield from files(f"{folder}{name}/")

    members = [name for name in files("") if name.endswith(".tflite")]
    if len(members) != 1:
        return None
    copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="movinet-"))) / "model.tflite"
    copy.write_bytes(tree.read(members[0], 0, tree.size(members[0])).tobytes())
    return copy


_READERS: dict[Kind, Callable[[Path, ModelConfig | None], Weights]] = {
    "archive": _archive,
    "tensorflow": _tensorflow,
    "tflite": _tflite,
    "port": _port,
    "own": _own,
}


def detect(path: Path) -> Kind:
    """What a file is, by its first bytes. Raises `WeightsError` for one that is missing, empty or of no known kind."""
    try:
        if path.is_dir() or path.with_name(path.name + ".index").is_file():
            return "tensorflow"
        if not path.exists():
            raise WeightsError(f"there is no file or checkpoint {path}; check the path")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not head:
        raise WeightsError(f"{path} is empty; download or copy it again")
    if head[4:8] == b"TFL3":
        return "tflite"
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return "archive"
    if path.suffix == ".index":
        return "tensorflow"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return "own"
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return "port"
    raise WeightsError(
        f"{path} is of no kind that can be read: expected a TensorFlow checkpoint (.tar.gz, folder, .index), a .tflite"
        " file, a .pth of the PyTorch port, or a .safetensors of this package"
    )


def class_names(num_classes: int) -> tuple[str, ...] | None:
    """The labels of Kinetics 600 or 400 for a model of so many classes, in the official order; else None.

    The order of the official Kinetics 400 checkpoints is not published: alphabetical, the convention, is assumed.
    """
    file = resources.files("movinet") / "labels" / f"kinetics{num_classes}.txt"
    return tuple(file.read_text("utf-8").splitlines()) if file.is_file() else None


def _complete(weights: Weights) -> Weights:
    """Fill in what the file did not say and the registry or the number of classes does; say so in the provenance."""
    provenance = dict(weights.provenance)
    preprocessing, labels = weights.preprocessing, weights.labels
    if preprocessing is None and weights.name in REGISTRY:
        preprocessing = REGISTRY[weights.name].preprocessing
        provenance.setdefault("preprocessing", f"assumed: that published for {weights.name}")
        size = provenance.get("input_size")
        if size and tuple(size) != preprocessing.size:
            # The graph says which size it was exported for; the margin of the crop stays in proportion.
            short = round(min(size) * preprocessing.resize / min(preprocessing.size))
            preprocessing = dataclasses.replace(preprocessing, size=(size[0], size[1]), resize=short)
    if labels is None and (labels := class_names(weights.config.num_classes)):
        provenance.setdefault("labels", f"assumed: Kinetics {weights.config.num_classes}, by the number of classes")
    return dataclasses.replace(weights, preprocessing=preprocessing, labels=labels, provenance=provenance)
