"""What several commands share: labels from a file, the card of a model, seconds on the command line."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from movinet.errors import UsageError

if TYPE_CHECKING:
    from movinet.model import MoViNet


def read_labels(path: Path, num_classes: int) -> tuple[str, ...]:
    """Class names, one per line or as a JSON list. Raises `UsageError` naming the file where they do not fit."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the label file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if text.lstrip().startswith("["):
        try:
            labels = json.loads(text)
        except ValueError as error:
            raise UsageError(f"the label file {path} is no valid JSON list: {error}") from None
        if not all(isinstance(label, str) for label in labels):
            raise UsageError(f"the label file {path} must be a list of names")
    else:
        labels = text.strip().splitlines()
    if len(labels) != num_classes:
        raise UsageError(f"the label file {path} has {len(labels)} names, the model {num_classes} classes")
    return tuple(label.strip() for label in labels)


def seconds(text: str) -> float:
    """`1`, `1s`, `500ms`, `2m` in seconds, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|)", text.strip())
    value = float(match[1]) * {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0}[match[2]] if match else 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 1s, 500ms or 2m")
    return value


def print_card(model: MoViNet) -> None:
    """Everything about a model that changes its answers, one fact per line."""
    config, wanted, origin = model.config, model.preprocessing, model.provenance
    print(f"model: {model.name or 'not of the family'} ({'stream' if config.causal else 'base'})")
    print(f"classes: {config.num_classes}{_examples(model.labels)}")
    if wanted is not None:
        low, high = wanted.value_range
        print(
            f"input: {wanted.size[0]}x{wanted.size[1]} pixels cropped from short side {wanted.resize},"
            f" {wanted.fps:g} frames per second, RGB in {low:g} to {high:g}"
        )
    if config.squeeze_excitation != "none":
        print(f"gate: {config.gate}{_why(origin.get('gate_source'))}")
    for key in ("kind", "file", "form", "batch_norm", "data_set", "source", "recognised"):
        if origin.get(key):
            print(f"{key.replace('_', ' ')}: {origin[key]}")
    for key in ("labels", "preprocessing"):
        if origin.get(key):
            print(f"{key}: {origin[key]}")


def _why(reason: object) -> str:
    return f" ({reason})" if reason else ""


def _examples(labels: tuple[str, ...] | None) -> str:
    if not labels:
        return " (without names)"
    return f" ({', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''})"
