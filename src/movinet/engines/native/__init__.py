"""The native engine: a whole streaming step in one C++ call, on one core, float32, without torch.

`pack` turns weights under our own names into what the C interface (`movinet.h`) takes; `NativeModel` holds them,
`step` advances states in the portable form. The library is built with the package where there is a compiler.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from importlib import machinery
from pathlib import Path
from typing import Any

import numpy as np

from movinet.config import ModelConfig
from movinet.errors import UsageError
from movinet.state import FRAME_COUNT, State, state_shapes

_ACTIVATIONS = {"hard_swish": 1, "relu6": 2, "swish": 3}
_GATES = {"relu6": 0, "keras": 1, "sigmoid": 2}
_EPSILON = 1e-3  # of batch norm

_FLOATS = ctypes.POINTER(ctypes.c_float)


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled library. Raises `UsageError` where the package was installed without it."""
    folder = Path(__file__).parent
    for suffix in machinery.EXTENSION_SUFFIXES:
        if (path := folder / f"_core{suffix}").is_file():
            break
    else:
        raise UsageError(
            "the native engine is not built; install a C++ compiler, then the package again (pip install .), or use"
            " engine='torch'"
        )
    core = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "model_create": (pointer, [ctypes.POINTER(integer), integer, _FLOATS, ctypes.c_int64]),
        "model_free": (None, [pointer]),
        "state_create": (pointer, [pointer, integer, integer]),
        "state_free": (None, [pointer]),
        "state_reset": (None, [pointer]),
        "step_u8": (None, [pointer, pointer, ctypes.POINTER(ctypes.c_uint8), _FLOATS]),
        "step_f32": (None, [pointer, pointer, _FLOATS, _FLOATS]),
        "state_get_buffer": (None, [pointer, integer, _FLOATS]),
        "state_put_buffer": (None, [pointer, integer, _FLOATS]),
        "state_get_pool": (None, [pointer, integer, _FLOATS]),
        "state_put_pool": (None, [pointer, integer, _FLOATS]),
        "state_get_count": (ctypes.c_int64, [pointer]),
        "state_put_count": (None, [pointer, ctypes.c_int64]),
        "instructions": (ctypes.c_char_p, []),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(core, f"movinet_{name}")
        function.restype, function.argtypes = result, arguments
    return core


def supports(config: ModelConfig) -> bool:
    """Whether the native engine has every part of this network: stream and mobile models in (2+1)D form."""
    return (
        config.causal
        and config.convolution == "2plus1d"
        and config.squeeze_excitation in ("none", "2plus3d")
        and config.activation in ("hard_swish", "relu6")
        and all(block.kernel[0] in (1, 3, 5) and block.kernel[1] in (3, 5) for block in config.blocks)
    )


def pack(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The integers and floats of `movinet_model_create`: norms and ReZero folded, kernels flattened in order."""
    spec = [
        config.in_channels,
        config.stem,
        config.head,
        config.hidden,
        config.num_classes,
        _ACTIVATIONS[config.activation],
        _ACTIVATIONS[config.hidden_activation],
        _GATES[config.gate],
        len(config.blocks),
    ]
    floats: list[np.ndarray] = []

    def put(*arrays: np.ndarray) -> None:
        floats.extend(np.asarray(array, np.float32).ravel() for array in arrays)

    def folded(name: str, factor: float = 1.0, channels_last: bool = False) -> None:
        norm = {leaf: np.float64(tensors[f"{name}.norm.{leaf}"]) for leaf in _NORM}
        gain = norm["weight"] / np.sqrt(norm["running_var"] + _EPSILON) * factor
        kernel = np.float64(tensors[f"{name}.conv.weight"])
        kernel = kernel * gain.reshape(-1, *[1] * (kernel.ndim - 1))
        shift = norm["bias"] * factor - norm["running_mean"] * gain
        put(kernel.transpose(0, 2, 3, 1) if channels_last else kernel, shift)

    def dense(name: str) -> None:
        put(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    folded("stem", channels_last=True)
    for index, (block, inputs) in enumerate(zip(config.blocks, config.in_widths, strict=True)):
        name = f"blocks.{index}"
        gated = config.squeeze_excitation != "none"
        skip = block.stride != 1 or block.out != inputs
        time, space = block.kernel
        width = config.gate_width(block) if gated else 0
        positional = gated and config.positional_encoding
        spec += [block.expand, block.out, time, space, block.stride, width, int(positional), int(skip)]
        folded(f"{name}.expand")
        folded(f"{name}.depthwise")
        if time > 1:
            folded(f"{name}.temporal")
        if gated:
            dense(f"{name}.se.reduce")
            dense(f"{name}.se.expand")
        if positional:
            put(tensors[f"{name}.se.position_scale"])
        folded(f"{name}.project", float(tensors[f"{name}.scale"]))
        if skip:
            folded(f"{name}.skip")
    folded("head.project")
    dense("classifier.hidden")
    dense("classifier.output")
    return np.array(spec, np.int32), np.concatenate(floats)


_NORM = ("weight", "bias", "running_mean", "running_var")


class NativeModel:
    """Weights in the native engine; any number of streams may run on them, from any number of threads."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
        if not supports(config):
            raise UsageError("the native engine runs stream and mobile models in their (2+1)D form; use engine='torch'")
        self.config = config
        self._core = library()
        spec, weights = pack(config, tensors)
        self.handle = self._core.movinet_model_create(
            spec.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            len(spec),
            weights.ctypes.data_as(_FLOATS),
            len(weights),
        )
        if not self.handle:
            raise UsageError("the native engine could not take this model: out of memory, or a configuration it lacks")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._core.movinet_model_free(self.handle)


class NativeStream:
    """One stream on a `NativeModel`: state in place, read and set in the portable form by `state`."""

    def __init__(self, model: NativeModel, size: tuple[int, int]) -> None:
        self.model = model  # keeps the weights alive
        self.size = size
        self._shapes = state_shapes(model.config, size)
        self._core = library()
        self.handle = self._core.movinet_state_create(model.handle, *size)
        if not self.handle:
            raise MemoryError(f"no memory for the state of a stream of {size[0]}x{size[1]} pixels")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._core.movinet_state_free(self.handle)

    def step(self, frame: np.ndarray, answer: bool = True) -> np.ndarray | None:
        """Feed one frame, uint8 or float32 (height, width, channels): logits (classes,), None unless asked for."""
        config = self.model.config
        if frame.shape != (*self.size, config.in_channels) or frame.dtype not in (np.uint8, np.float32):
            raise UsageError(
                f"a frame must be uint8 or float32 {(*self.size, config.in_channels)}, not {frame.dtype} {frame.shape};"
                " the pictures of a stream must keep their size"
            )
        frame = np.ascontiguousarray(frame)
        logits = np.empty(config.num_classes, np.float32) if answer else None
        out = logits.ctypes.data_as(_FLOATS) if logits is not None else None
        if frame.dtype == np.uint8:
            pixels = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            self._core.movinet_step_u8(self.model.handle, self.handle, pixels, out)
        else:
            self._core.movinet_step_f32(self.model.handle, self.handle, frame.ctypes.data_as(_FLOATS), out)
        return logits

    def reset(self) -> None:
        """Back to the zero state."""
        self._core.movinet_state_reset(self.handle)

    @property
    def state(self) -> State:
        """A copy of the state, batch 1."""
        arrays: dict[str, np.ndarray] = {}
        for name, shape in self._shapes.items():
            if name == FRAME_COUNT:
                arrays[name] = np.array([self._core.movinet_state_get_count(self.handle)], np.int64)
                continue
            block, kind = self._place(name)
            arrays[name] = np.empty((1, *shape), np.float32)
            pointer = arrays[name].ctypes.data_as(_FLOATS)
            if kind == "buffer":  # C has (kt - 1, channels, h, w), as the portable form
                self._core.movinet_state_get_buffer(self.handle, block, pointer)
            else:
                self._core.movinet_state_get_pool(self.handle, block, pointer)
        return State(arrays)

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        for name, shape in self._shapes.items():
            if name not in state or tuple(state[name].shape) != (1, *shape):
                raise UsageError(
                    f"the state lacks {name}, or it has another shape than (1, {', '.join(map(str, shape))})"
                )
        for name in self._shapes:
            if name == FRAME_COUNT:
                self._core.movinet_state_put_count(self.handle, int(state[name][0]))
                continue
            block, kind = self._place(name)
            array = np.ascontiguousarray(state[name], np.float32)
            put = self._core.movinet_state_put_buffer if kind == "buffer" else self._core.movinet_state_put_pool
            put(self.handle, block, array.ctypes.data_as(_FLOATS))

    @staticmethod
    def _place(name: str) -> tuple[int, str]:
        parts = name.split(".")
        return (-1, "pool") if parts[0] == "head" else (int(parts[1]), parts[2])


def instructions() -> str:
    """The instruction set in use; the environment variable MOVINET_INSTRUCTIONS (avx512, avx2, portable) forces one."""
    name: bytes = library().movinet_instructions()
    return name.decode()
