"""Small, fast networks with weights that make every part matter."""

from __future__ import annotations

import dataclasses
import functools

import torch

from movinet.config import ModelConfig
from movinet.model import Ensemble, MoViNet, TemporalEnsemble
from movinet.registry import REGISTRY, list_models

LEGACY = "legacy_a0_stream"  # the first release: causal 3D convolutions
TEMPORAL = "temporal_ensemble_t0_stream"

STREAMING = [*list_models("*_stream"), *list_models("*_mobile"), LEGACY]
CLIPS_ONLY = list_models("*_base")


def config_of(name: str) -> ModelConfig:
    if name == LEGACY:
        return dataclasses.replace(REGISTRY["movinet_a0_base"].config, causal=True)
    return REGISTRY[name].config


def shake(model: MoViNet, seed: int = 0) -> MoViNet:
    """Give a fresh network random norms, ReZero and positional scales, so that no part of it is an identity."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator).to(like) * (high - low) + low

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            leaf = name.rsplit(".", 1)[-1]
            if leaf in ("scale", "position_scale"):
                tensor.copy_(uniform(tensor, 0.1, 0.3))
            elif leaf == "running_var" or (leaf == "weight" and tensor.dim() == 1):
                tensor.copy_(uniform(tensor, 0.7, 1.3))
            elif leaf in ("running_mean", "bias"):
                tensor.copy_(uniform(tensor, -0.2, 0.2))
            elif name == "classifier.output.weight":
                tensor.copy_(uniform(tensor, -0.1, 0.1))
            else:
                bound = (6.0 / tensor[0].numel()) ** 0.5
                tensor.copy_(uniform(tensor, -bound, bound))
    return model


@functools.cache
def small_model(name: str, dtype: torch.dtype = torch.float64, num_classes: int = 5) -> MoViNet | Ensemble:
    """A model in evaluation mode with few classes; float64, so that a law broken by 1e-9 is seen."""
    if name == TEMPORAL:
        members = [small_copy("movinet_t0_stream", dtype, num_classes, seed) for seed in (1, 2)]
        return TemporalEnsemble(members).eval()
    if members := REGISTRY[name].members if name in REGISTRY else ():
        return Ensemble([small_copy(member, dtype, num_classes, i) for i, member in enumerate(members)]).eval()
    return small_copy(name, dtype, num_classes)


def small_copy(name: str, dtype: torch.dtype = torch.float64, num_classes: int = 5, seed: int = 0) -> MoViNet:
    """A network of its own, to be broken."""
    with torch.device("meta"):  # no initialisation: `shake` fills every tensor
        model = MoViNet(dataclasses.replace(config_of(name), num_classes=num_classes))
    return shake(model.to_empty(device="cpu"), seed).to(dtype).eval().requires_grad_(False)


def small_clip(
    batch: int = 2, time: int = 6, size: tuple[int, int] = (19, 26), dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + time)
    return torch.rand(batch, time, 3, *size, generator=generator, dtype=torch.float32).to(dtype)
