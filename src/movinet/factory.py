"""Models by name, with weights from the published sources or from any file; and back into a file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from movinet.config import Gate, ModelConfig
from movinet.errors import UsageError, WeightsError
from movinet.model import Ensemble, MoViNet
from movinet.registry import NUM_CLASSES, ModelInfo, model_info
from movinet.weights import Weights, parameter_shapes, read

Pretrained = bool | str | os.PathLike[str]


def create_model(
    name: str | None = None,
    *,
    pretrained: Pretrained | Sequence[Pretrained] = False,
    num_classes: int | None = None,
    gate: Gate | None = None,
    **overrides: Any,
) -> MoViNet | Ensemble:
    """A model of the family, in evaluation mode.

    Args:
        name: one of `list_models()`; may be left out where `pretrained` is a file, which says what it holds.
        pretrained: False for the reference's initialisation; True for the published weights (Kinetics 600), or the
            name of their data set, `"kinetics600"` or `"kinetics400"`; or a path to any file that
            `movinet.weights.read` takes. For an ensemble also one of these per member.
        num_classes: 600 by default, or what the weights have; another number gives a fresh last layer.
        gate: which hard sigmoid a stream model's squeeze-excitation uses. `"relu6"` is that of today's reference and
            of a bare stream model; `"keras"`, clip(0.2 x + 0.5, 0, 1), belongs to the stream checkpoints of 2021 and
            is the default for published weights. A file that carries a graph decides for itself.
        overrides: any other field of `ModelConfig`, e.g. `in_channels=4`, `causal=True`, `dropout=0.5`.

    The model carries `name`, `preprocessing` (size, fps, range), `labels` and `provenance`.

    Raises `UsageError` for a name, field or combination that does not exist, `WeightsError` for a file that is not of
    this model, `DownloadError` if no source of published weights answers.
    """
    if num_classes is not None and num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; it must be at least 1")
    if gate is not None:
        overrides["gate"] = gate
    if name is None:
        if isinstance(pretrained, bool) or not isinstance(pretrained, str | os.PathLike) or pretrained in NUM_CLASSES:
            raise UsageError("give the name of a model, or the path of a weights file as pretrained")
        return _from_weights(read(pretrained), num_classes, overrides)
    info = model_info(name)
    if info.members:
        return _ensemble(info, pretrained, num_classes, overrides)
    if not isinstance(pretrained, bool | str | os.PathLike):
        raise UsageError(f"{name} takes one pretrained file, not {pretrained!r}")
    if pretrained is False:
        model = MoViNet(_override(info.config, overrides | ({"num_classes": num_classes} if num_classes else {})))
        model.name, model.preprocessing = info.name, info.preprocessing
        return model.eval()
    weights = _published(info, pretrained) if pretrained is True or pretrained in NUM_CLASSES else read(pretrained)
    wanted = dataclasses.replace(
        _override(info.config, overrides), num_classes=weights.config.num_classes, gate=weights.config.gate
    )
    if parameter_shapes(wanted) != parameter_shapes(weights.config):
        source = weights.provenance.get("file", pretrained)
        raise WeightsError(f"{source} holds {weights.name or 'another architecture'}, not {name} as it was asked for")
    # Base and causal 3D networks have the same tensors; what was asked for decides. The rest the file knows better.
    config = weights.config if _same_form(wanted, weights.config) else wanted
    return _from_weights(
        dataclasses.replace(weights, config=config, name=name, preprocessing=weights.preprocessing),
        num_classes,
        overrides,
    )


def weights_of(model: MoViNet) -> Weights:
    """The weights, configuration and facts of a model, ready to be written by `save_model`."""
    tensors = {name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()}
    return Weights(model.config, tensors, model.name, model.preprocessing, model.labels, model.provenance)


def save_model(model: MoViNet, path: str | os.PathLike[str]) -> None:
    """Write a model as one `.safetensors` that `create_model(pretrained=path)` reads without being told its name."""
    from movinet.weights import own

    own.write(Path(path), weights_of(model))


def build(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> MoViNet:
    """A network with these tensors, under our own names, copied; nothing is initialised first."""
    with torch.device("meta"):
        model = MoViNet(config)
    copies = {name: torch.from_numpy(np.array(tensor, np.float32)) for name, tensor in tensors.items()}
    model.load_state_dict(copies, assign=True)
    return model.requires_grad_(True)


def _from_weights(weights: Weights, num_classes: int | None, overrides: Mapping[str, Any]) -> MoViNet:
    config = _override(weights.config, overrides)
    if parameter_shapes(config) != parameter_shapes(weights.config):
        changed = ", ".join(overrides)
        raise UsageError(f"{changed} would change the shapes of the weights in {weights.provenance.get('file')}")
    model = build(config, weights.tensors)
    model.name, model.preprocessing, model.labels = weights.name, weights.preprocessing, weights.labels
    model.provenance = dict(weights.provenance)
    if "gate" in overrides:
        model.provenance |= {"gate": config.gate, "gate_source": "asked for"}
    if num_classes is not None and num_classes != config.num_classes:
        model.reset_classifier(num_classes)
    return model.eval()


def _published(info: ModelInfo, pretrained: Pretrained) -> Weights:
    """Download, or take from the cache, the published weights of a model."""
    from movinet.weights.download import fetch

    data_set = next(iter(info.sources), "kinetics600") if pretrained is True else str(pretrained)
    if data_set not in info.sources:
        have = f"they exist for {', '.join(info.sources)}" if info.sources else "train it, or give a file"
        raise UsageError(f"there are no published weights of {info.name} for {data_set}; {have}")
    fetched = fetch(info.sources[data_set])
    weights = read(fetched.path)
    provenance = {**weights.provenance, "source": fetched.source.url, "data_set": data_set}
    config = weights.config
    if fetched.source.kind == "tensorflow" and config.gate == "relu6":
        # A bare checkpoint carries no graph; those in the bucket were trained with Keras's function.
        config = dataclasses.replace(config, gate="keras")
        provenance |= {"gate": "keras", "gate_source": "the published checkpoint of 2021"}
    return dataclasses.replace(weights, config=config, provenance=provenance)


def _ensemble(info: ModelInfo, pretrained: Any, num_classes: int | None, overrides: Mapping[str, Any]) -> Ensemble:
    if isinstance(pretrained, bool) or pretrained in NUM_CLASSES:
        each: list[Any] = [pretrained] * len(info.members)
    elif isinstance(pretrained, str | os.PathLike) or len(pretrained) != len(info.members):
        raise UsageError(f"{info.name} is an ensemble: give one file for each of {', '.join(info.members)}")
    else:
        each = list(pretrained)
    members = []
    for name, source in zip(info.members, each, strict=True):
        member = create_model(name, pretrained=source, num_classes=num_classes, **overrides)
        assert isinstance(member, MoViNet)
        members.append(member)
    ensemble = Ensemble(members).eval()
    ensemble.name = info.name
    return ensemble


def _override(config: ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """A configuration with some fields replaced, checked as one from a file would be."""
    if not overrides:
        return config
    return ModelConfig.from_dict({**config.to_dict(), **overrides})


def _same_form(first: ModelConfig, second: ModelConfig) -> bool:
    return first.causal == second.causal
