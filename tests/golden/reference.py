"""The reference's numbers and the weights they were made with: `../shared/golden`."""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

import numpy as np
import torch

from tests.shared import SHARED

GOLDEN = SHARED / "golden"
MODELS = sorted(path.name.removesuffix(".npz") for path in (GOLDEN / "models").glob("*.npz"))


@functools.cache
def deterministic() -> ModuleType:
    """The module that makes every weight and clip from its name."""
    spec = importlib.util.spec_from_file_location("deterministic", GOLDEN / "deterministic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key_table(path: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a `.keys.txt`."""
    table = {}
    for line in (GOLDEN / path).read_text().splitlines():
        key, shape = line.split()[:2]
        table[key] = () if shape == "scalar" else tuple(map(int, shape.split(",")))
    return table


def weights(path: str) -> dict[str, np.ndarray]:
    """Deterministic weights for every key of a `.keys.txt`, by its checkpoint key."""
    return {key: np.asarray(deterministic().weight(key, shape)) for key, shape in key_table(path).items()}


def clip(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A clip of the reference, (batch, time, height, width, channels) there, in our layout."""
    return torch.from_numpy(deterministic().video(name, shape)).permute(0, 1, 4, 2, 3).contiguous()


def tolerance(logits: np.ndarray) -> float:
    """2e-5 times the larger of 1 and the standard deviation of the logits."""
    return 2e-5 * max(1.0, float(logits.std()))


@functools.cache
def arrays(path: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`."""
    with np.load(GOLDEN / path) as file:
        return dict(file)
