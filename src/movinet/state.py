"""The state of a stream as a value: a flat, ordered mapping from name to array, one row per stream.

Names and shapes follow from a `ModelConfig` alone; arrays may be NumPy's or torch's, and this module imports neither
torch nor any engine. The operations work on rows (streams): take, put, reset, stack.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from movinet.config import ModelConfig
from movinet.errors import MovinetError, UsageError

FRAME_COUNT = "frame_count"


def state_shapes(config: ModelConfig, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes (without the batch) of the state of a network that sees pictures of `size` (height, width).

    `blocks.<i>.buffer` (kt - 1, channels, h, w): the last inputs of the temporal convolution, oldest first;
    `blocks.<i>.pool` (channels,): running sum of the spatial means that squeeze-excitation reads; `head.pool`
    (channels,); `frame_count` (): frames so far, int64. Sizes halve, rounded up, at the stem and at each stride.

    Raises `UsageError` for a model that is not causal or a size that is not positive.
    """
    if not config.causal:
        raise UsageError("this model is not causal and has no state; choose a stream model, e.g. movinet_a0_stream")
    height, width = size
    if height < 1 or width < 1:
        raise UsageError(f"size {height}x{width} is not positive")
    height, width = -(-height // 2), -(-width // 2)
    shapes: dict[str, tuple[int, ...]] = {}
    for index, block in enumerate(config.blocks):
        reduced = -(-height // block.stride), -(-width // block.stride)
        past = block.kernel[0] - 1
        if past:
            # A (2+1)D block remembers what comes out of its spatial convolution, a 3D one what goes in.
            held = reduced if config.convolution == "2plus1d" else (height, width)
            shapes[f"blocks.{index}.buffer"] = (past, block.expand, *held)
        if config.squeeze_excitation != "none":
            shapes[f"blocks.{index}.pool"] = (block.expand,)
        height, width = reduced
    shapes["head.pool"] = (config.head,)
    shapes[FRAME_COUNT] = ()
    return shapes


def state_bytes(config: ModelConfig, size: tuple[int, int]) -> int:
    """Bytes of one stream's state in float32, with its one int64 counter; 0 for a model that is not causal."""
    if not config.causal:
        return 0
    return sum(
        int(np.prod(shape, dtype=np.int64)) * (8 if name == FRAME_COUNT else 4)
        for name, shape in state_shapes(config, size).items()
    )


class State(Mapping[str, Any]):
    """An immutable mapping from name to array, each (batch, ...); NumPy arrays or torch tensors alike."""

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"State({len(self)} arrays, batch {self.batch_size}, {self.nbytes} bytes)"

    @property
    def batch_size(self) -> int:
        """Number of rows, that is, of streams."""
        return next((int(array.shape[0]) for array in self._arrays.values()), 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(int(array.nbytes) for array in self._arrays.values())

    def take(self, rows: Sequence[int]) -> State:
        """The state of the chosen rows, copied, in the order given. Raises `UsageError` for a row out of range."""
        index = self._rows(rows)
        return State({name: array[index] for name, array in self.items()})

    def put(self, rows: Sequence[int], other: Mapping[str, Any]) -> State:
        """A copy in which the chosen rows are those of `other` (as many rows, same names and shapes)."""
        index = self._rows(rows)
        if len(set(index)) != len(index):
            raise UsageError("a row is named twice")
        other = other if isinstance(other, State) else State(other)
        if other.batch_size != len(index):
            raise UsageError(f"{len(index)} rows named, but the other state has {other.batch_size}")
        _require_same_shape(self, other)
        result = {}
        for name, array in self.items():
            copy = array.clone() if hasattr(array, "clone") else array.copy()
            value = other[name]
            is_tensor = hasattr(copy, "clone")
            copy[index] = sys.modules["torch"].as_tensor(value).to(copy) if is_tensor else np.asarray(value)
            result[name] = copy
        return State(result)

    def reset(self, rows: Sequence[int]) -> State:
        """A copy in which the chosen rows are zero: they have forgotten everything."""
        index = self._rows(rows)
        result = {}
        for name, array in self.items():
            copy = array.clone() if hasattr(array, "clone") else array.copy()
            copy[index] = 0
            result[name] = copy
        return State(result)

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """The rows of all states, one after another. Raises `UsageError` where names or shapes differ."""
        if not states:
            raise UsageError("there is no state to stack")
        for other in states[1:]:
            _require_same_shape(states[0], other)

        def join(arrays: list[Any]) -> Any:
            return sys.modules["torch"].cat(arrays) if hasattr(arrays[0], "clone") else np.concatenate(arrays)

        return State({name: join([state[name] for state in states]) for name in states[0]})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.safetensors` file, beside and then renamed. Any engine that knows the names can go on from it."""
        import safetensors.numpy

        arrays = {name: np.ascontiguousarray(_to_numpy(array)) for name, array in self.items()}
        data = safetensors.numpy.save(arrays, metadata={"format": "movinet-state", "order": "\n".join(self)})
        target = Path(path)
        handle, beside = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(beside).replace(target)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    @staticmethod
    def load(path: str | os.PathLike[str]) -> State:
        """Read what `save` wrote, as NumPy arrays. Raises `MovinetError` naming a file that is no saved state."""
        import safetensors

        try:
            with safetensors.safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                names = metadata.get("order", "").split("\n")
                if metadata.get("format") != "movinet-state" or set(names) != set(file.keys()):
                    raise MovinetError(f"{path} is not a saved state of a stream; write one with State.save")
                return State({name: file.get_tensor(name) for name in names})
        except FileNotFoundError:
            raise MovinetError(f"there is no state file {path}") from None
        except (OSError, safetensors.SafetensorError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, MovinetError):
                raise
            raise MovinetError(f"{path} cannot be read as a saved state: {error}") from None

    def _rows(self, rows: Sequence[int]) -> list[int]:
        index = [int(row) for row in rows]
        for row in index:
            if not 0 <= row < self.batch_size:
                raise UsageError(f"row {row} is out of range: the state has {self.batch_size} rows")
        return index


def _require_same_shape(first: State, other: State) -> None:
    if set(first) != set(other):
        raise UsageError(f"the states are of different models: {min(set(first) ^ set(other))} is in one only")
    for name in first:
        if tuple(first[name].shape[1:]) != tuple(other[name].shape[1:]):
            raise UsageError(f"{name} has different shapes in the two states: were their pictures of different sizes?")


def _to_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        # NumPy has no bfloat16; float32 holds each of its values exactly.
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
    return np.asarray(array)
