"""Names and shapes of a network's tensors, and which network a set of tensors belongs to. NumPy only.

Every reader of this wing ends in these names; `identify` turns them into a configuration, or says what does not fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from movinet.config import ModelConfig, Preprocessing
from movinet.errors import WeightsError
from movinet.registry import REGISTRY

NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Weights:
    """What a reader found: tensors under our own names, the configuration they fit, and what is known about them."""

    config: ModelConfig
    tensors: Mapping[str, np.ndarray]
    name: str | None = None  # of the registry, where one fits
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  # source file, kind, gate and where it was taken from


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights and batch norm statistics of a network, in the order of the network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def normed(name: str, kernel: tuple[int, ...]) -> None:
        shapes[f"{name}.conv.weight"] = kernel
        for leaf in NORM:
            shapes[f"{name}.norm.{leaf}"] = (kernel[0],)

    def dense(name: str, out: int, inputs: int) -> None:
        shapes[f"{name}.weight"] = (out, inputs)
        shapes[f"{name}.bias"] = (out,)

    normed("stem", (config.stem, config.in_channels, 3, 3))
    for index, (block, width) in enumerate(zip(config.blocks, config.in_widths, strict=True)):
        name = f"blocks.{index}"
        time, space = block.kernel
        normed(f"{name}.expand", (block.expand, width, 1, 1))
        if config.convolution == "3d":
            normed(f"{name}.depthwise", (block.expand, 1, time, space, space))
        else:
            normed(f"{name}.depthwise", (block.expand, 1, space, space))
            if time > 1:
                normed(f"{name}.temporal", (block.expand, 1, time))
        if config.squeeze_excitation != "none":
            pooled = block.expand * (2 if config.squeeze_excitation == "2plus3d" else 1)
            dense(f"{name}.se.reduce", config.gate_width(block), pooled)
            dense(f"{name}.se.expand", block.expand, config.gate_width(block))
            if config.positional_encoding:
                shapes[f"{name}.se.position_scale"] = ()
        normed(f"{name}.project", (block.out, block.expand, 1, 1))
        if block.stride != 1 or block.out != width:
            normed(f"{name}.skip", (block.out, width, 1, 1))
        shapes[f"{name}.scale"] = ()
    normed("head.project", (config.head, config.blocks[-1].out, 1, 1))
    dense("classifier.hidden", config.hidden, config.head)
    dense("classifier.output", config.num_classes, config.hidden)
    return shapes


def check_tensors(tensors: Mapping[str, np.ndarray], config: ModelConfig, source: str) -> None:
    """Raise `WeightsError` naming `source` and the first tensor that is missing, left over, misshapen or not finite."""
    shapes = parameter_shapes(config)
    for name, shape in shapes.items():
        if name not in tensors:
            raise WeightsError(f"{source} lacks the tensor {name}; it is not a complete file of this model")
        if tuple(tensors[name].shape) != shape:
            found = "x".join(map(str, tensors[name].shape)) or "a scalar"
            wanted = "x".join(map(str, shape)) or "a scalar"
            raise WeightsError(f"{source}: {name} is {found} where this model has {wanted}")
    if left_over := [name for name in tensors if name not in shapes]:
        more = f" and {len(left_over) - 1} more" if len(left_over) > 1 else ""
        raise WeightsError(f"{source} holds {left_over[0]}{more}, which this model does not have")
    for name, tensor in tensors.items():
        if not np.all(np.isfinite(tensor)):
            raise WeightsError(f"{source}: {name} holds values that are not finite; the file is damaged")
        if name.endswith("running_var") and np.any(tensor < 0):
            raise WeightsError(f"{source}: {name} holds a negative variance; the file is damaged")


def identify(tensors: Mapping[str, np.ndarray], source: str) -> tuple[str, ModelConfig]:
    """The registered model that has exactly these tensors, with the number of classes and input channels they say.

    A base model and a causal one with 3D convolutions (the first release) have the same tensors: base it is, unless
    the caller knows better. Raises `WeightsError` naming what keeps the file from fitting the nearest model.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    nearest: tuple[int, str, ModelConfig] | None = None
    for name, config in _candidates(shapes):
        expected = parameter_shapes(config)
        if expected == shapes:
            return name, config
        differing = sum(shapes.get(key) != shape for key, shape in expected.items())
        differing += sum(key not in expected for key in shapes)
        if nearest is None or differing < nearest[0]:
            nearest = (differing, name, config)
    if nearest is None or nearest[0] > len(shapes) // 2:
        raise WeightsError(f"{source} is no MoViNet of the family: its tensors fit none of the architectures")
    check_tensors(tensors, nearest[2], f"{source} (read as {nearest[1]})")
    raise WeightsError(f"{source} does not fit {nearest[1]}")  # pragma: no cover - check_tensors has raised


def _candidates(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, ModelConfig]]:
    output = shapes.get("classifier.output.weight", (600, 2048))
    stem = shapes.get("stem.conv.weight", (8, 3, 3, 3))
    if len(output) != 2 or len(stem) != 4:
        return
    for name, info in REGISTRY.items():
        if not info.members:
            yield name, dataclasses.replace(info.config, num_classes=output[0], in_channels=stem[1])
