"""Names of the models with their published facts: input, accuracy, where their files live. Nothing here imports torch.

Sources: the README of `official/projects/movinet` (accuracy, frame rates), its experiment files (sizes), the paper for
A6. Accuracy is the publishers' own, on the validation sets of Kinetics 600 and Kinetics 400.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from movinet.config import ModelConfig, Preprocessing, family_config
from movinet.errors import UsageError

# variant: crop, short side before it, fps, frames
_INPUTS: dict[str, tuple[int, int, float, int]] = {
    "t0": (160, 176, 5, 50),
    "a0": (172, 192, 5, 50),
    "a1": (172, 192, 5, 50),
    "a2": (224, 256, 5, 50),
    "a3": (256, 288, 12, 120),
    "a4": (290, 320, 8, 80),
    "a5": (320, 368, 12, 120),
}

# (top-1, top-5) in percent
_ACCURACY: dict[str, dict[str, tuple[float, float]]] = {
    "movinet_a0_base": {"kinetics600": (72.28, 90.92), "kinetics400": (69.40, 89.18)},
    "movinet_a1_base": {"kinetics600": (76.69, 93.40), "kinetics400": (74.57, 92.03)},
    "movinet_a2_base": {"kinetics600": (78.62, 94.17), "kinetics400": (75.91, 92.63)},
    "movinet_a3_base": {"kinetics600": (81.79, 95.67), "kinetics400": (79.34, 94.52)},
    "movinet_a4_base": {"kinetics600": (83.48, 96.16), "kinetics400": (80.64, 94.93)},
    "movinet_a5_base": {"kinetics600": (84.27, 96.39), "kinetics400": (81.39, 95.06)},
    "movinet_a6_base": {"kinetics600": (84.8, float("nan"))},
    "movinet_a0_stream": {"kinetics600": (72.05, 90.63)},
    "movinet_a1_stream": {"kinetics600": (76.45, 93.25)},
    "movinet_a2_stream": {"kinetics600": (78.40, 94.05)},
    "movinet_a3_stream": {"kinetics600": (80.09, 94.84)},
    "movinet_a4_stream": {"kinetics600": (81.49, 95.66)},
    "movinet_a5_stream": {"kinetics600": (82.37, 95.79)},
}

NUM_CLASSES: dict[str, int] = {"kinetics600": 600, "kinetics400": 400}


@dataclass(frozen=True)
class Source:
    """One place a published file may be had from. `kind` says how to read it (see `movinet.weights`)."""

    kind: Literal["tensorflow", "saved_model", "port", "tflite"]
    url: str
    file_name: str  # in the cache


@dataclass(frozen=True)
class ModelInfo:
    """A name with everything published about it. An ensemble has `members`; its `config` is the last member's."""

    name: str
    config: ModelConfig
    preprocessing: Preprocessing
    accuracy: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)  # by data set, best first
    members: tuple[str, ...] = ()


_BUCKET = "https://storage.googleapis.com/tf_model_garden/vision/movinet"
_HUB = "https://tfhub.dev/tensorflow"
_KAGGLE = "https://www.kaggle.com/api/v1/models/google/movinet"
_PORT = "https://github.com/Atze00/MoViNet-pytorch/blob/main/weights"


def _sources(variant: str, form: str) -> dict[str, tuple[Source, ...]]:
    """The published files of one model, official ones first."""
    if variant == "t0":
        return {}
    if form == "mobile":
        # Only the TensorFlow Lite file of A0 is known to be this form; those of A1 and A2 are published beside it.
        file = f"{variant}-stream-kinetics-600-classification-tflite-int8"
        return {
            "kinetics600": (
                Source("tflite", f"{_KAGGLE}/tfLite/{file}/1/download", f"{file}.tar.gz"),
                Source(
                    "tflite",
                    f"{_HUB}/lite-model/movinet/{variant}/stream/kinetics-600/classification/tflite/int8/1",
                    f"{file}.tflite",
                ),
            )
        }
    hub = f"{variant}-{form}-kinetics-600-classification"
    k600 = [
        Source("tensorflow", f"{_BUCKET}/movinet_{variant}_{form}.tar.gz", f"movinet_{variant}_{form}.tar.gz"),
        Source("saved_model", f"{_KAGGLE}/tensorFlow2/{hub}/3/download", f"{hub}.tar.gz"),
        Source(
            "saved_model",
            f"{_HUB}/movinet/{variant}/{form}/kinetics-600/classification/3?tf-hub-format=compressed",
            f"{hub}.tar.gz",
        ),
    ]
    port = f"model{variant.upper()}{'_stream' if form == 'stream' else ''}_statedict_v3"
    if form == "base" or variant in ("a0", "a1", "a2"):
        k600.append(Source("port", f"{_PORT}/{port}?raw=true", f"{port}.pth"))
    found = {"kinetics600": tuple(k600)}
    if form == "base":
        name = f"movinet_{variant}_base_k400.tar.gz"
        found["kinetics400"] = (Source("tensorflow", f"{_BUCKET}/{name}", name),)
    return found


def _build() -> dict[str, ModelInfo]:
    registry = {}
    names = [(variant, form) for variant in _INPUTS for form in ("base", "stream")]
    names += [(variant, "mobile") for variant in ("a0", "a1", "a2")]
    for variant, form in names:
        name = f"movinet_{variant}_{form}"
        size, resize, fps, frames = _INPUTS[variant]
        registry[name] = ModelInfo(
            name=name,
            config=family_config(variant, form),  # type: ignore[arg-type]
            preprocessing=Preprocessing((size, size), resize, fps, frames),
            accuracy=_ACCURACY.get(name, {}),
            sources=_sources(variant, form),
        )
    a5 = registry["movinet_a5_base"]
    registry["movinet_a6_base"] = ModelInfo(
        name="movinet_a6_base",
        config=a5.config,
        preprocessing=a5.preprocessing,
        accuracy=_ACCURACY["movinet_a6_base"],
        members=("movinet_a4_base", "movinet_a5_base"),
    )
    return dict(sorted(registry.items(), key=lambda item: (item[0].split("_")[2], _order(item[0]))))


def _order(name: str) -> tuple[int, str]:
    variant = name.split("_")[1]
    return (-1, variant) if variant == "t0" else (int(variant[1:]), variant)


REGISTRY: dict[str, ModelInfo] = _build()


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, e.g. `"*stream*"`; base models first, small ones first."""
    return [name for name in REGISTRY if fnmatch.fnmatchcase(name, pattern)]


def model_info(name: str) -> ModelInfo:
    """The published facts of a model. Raises `UsageError` with the nearest names for one that is not in the family."""
    if name in REGISTRY:
        return REGISTRY[name]
    import difflib

    near = difflib.get_close_matches(name, REGISTRY, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "`movinet models` lists them"
    raise UsageError(f"unknown model {name!r}; {hint}")
