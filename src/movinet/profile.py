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


def count_multiply_adds(model: nn.Module, clip: Tensor) -> int:
    """Multiply-adds of one forward pass, counted by hooks on every layer that has a kernel.

    Works on tensors of the meta device, so that nothing is computed. Padding counts as any other input.
    """
    total = 0

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal total
        out = output[0] if isinstance(output, tuple) else output
        weight = module.weight if isinstance(module, nn.Linear) else module.conv.weight
        assert isinstance(out, Tensor) and isinstance(weight, Tensor)
        total += out.numel() * weight[0].numel()

    kinds = (ConvNorm, DepthwiseConv3d, TemporalConv, nn.Linear)
    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, kinds)]
    try:
        with torch.no_grad():
            model(clip)
    finally:
        for handle in handles:
            handle.remove()
    return total


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
    with torch.device("meta"):
        model = MoViNet(info.config).eval()
        wanted = info.preprocessing
        clip, frame = (torch.empty(1, t, info.config.in_channels, *wanted.size) for t in (wanted.frames, 1))
    trained = sum(parameter.numel() for parameter in model.parameters())
    statistics = sum(buffer.numel() for buffer in model.buffers())
    per_clip = count_multiply_adds(model, clip)
    per_frame = count_multiply_adds(model, frame) if info.config.causal else per_clip // wanted.frames
    return trained, trained + statistics, per_clip, per_frame, state_bytes(info.config, wanted.size)
