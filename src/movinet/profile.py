"""What a model costs: parameters, multiply-adds and bytes of state, counted on the network itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from movinet.model import MoViNet
from movinet.model.layers import ConvNorm, DepthwiseConv3d, TemporalConv
from movinet.registry import ModelInfo, model_info
from movinet.state import state_bytes


@dataclass(frozen=True)
class Cost:
    """Cost of one model at the size and clip length of its published evaluation.

    Multiply-adds are those of convolutions and dense layers. A frame of a stream model costs `per_frame` with its
    answer; of a base model, whose answer comes once per clip, `per_frame` is its share of the clip.
    """

    name: str
    parameters: int  # trained: kernels, biases, gamma, beta, ReZero and positional scalars
    parameters_with_statistics: int  # and the moving means and variances
    multiply_adds_per_clip: int
    multiply_adds_per_frame: int
    state_bytes: int  # of one stream, float32; 0 for base models
    size: tuple[int, int]
    frames: int
    fps: float
    accuracy: dict[str, tuple[float, float]]  # published top-1 and top-5 in percent, by data set

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def count_multiply_adds(model: nn.Module, clip: Tensor) -> dict[str, int]:
    """Multiply-adds of one forward pass by layer, counted by hooks on every layer that has a kernel.

    Works on tensors of the meta device, so that nothing is computed. Padding counts as any other input.
    """
    counts: dict[str, int] = {}

    def hook(name: str, module: nn.Module, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        weight = module.get_parameter("weight" if isinstance(module, nn.Linear) else "conv.weight")
        counts[name] = counts.get(name, 0) + out.numel() * weight[0].numel()

    kinds = (ConvNorm, DepthwiseConv3d, TemporalConv, nn.Linear)
    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: hook(name, module, output))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        with torch.no_grad():
            model(clip)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def cost(name: str) -> Cost:
    """The cost of a registered model; of an ensemble, the sum of its members'. Raises `UsageError` for other names."""
    info = model_info(name)
    parts = [_part(model_info(member)) for member in info.members] or [_part(info)]
    trained, everything, clip, frame, state = (sum(column) for column in zip(*parts, strict=True))
    wanted = info.preprocessing
    return Cost(
        name, trained, everything, clip, frame, state, wanted.size, wanted.frames, wanted.fps, dict(info.accuracy)
    )


def _part(info: ModelInfo) -> tuple[int, int, int, int, int]:
    wanted, causal = info.preprocessing, info.config.causal
    with torch.device("meta"):
        model = MoViNet(info.config).eval()
        counts = count_multiply_adds(
            model, torch.empty(1, 1 if causal else wanted.frames, info.config.in_channels, *wanted.size)
        )
    trained = sum(parameter.numel() for parameter in model.parameters())
    statistics = sum(buffer.numel() for buffer in model.buffers())
    once = sum(count for name, count in counts.items() if name.startswith("classifier."))
    total = sum(counts.values())
    # A stream model does the same for every frame, and answers a clip once.
    clip = (total - once) * wanted.frames + once if causal else total
    return (
        trained,
        trained + statistics,
        clip,
        total if causal else total // wanted.frames,
        state_bytes(info.config, wanted.size),
    )
