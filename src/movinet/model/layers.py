"""The layers of a MoViNet.

Inside the network a clip (batch, time, channels, height, width) is carried as frames folded into the batch,
(batch * time, channels, height, width): pointwise and spatial work is then plain 2D convolution, and what reaches
through time is a weighted sum of frames. Padding is TensorFlow's SAME throughout (arXiv 2103.11511; reference
`modeling/movinet_layers.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet.config import Activation, Gate

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "swish": F.silu,
    "hard_swish": F.hardswish,
    "relu6": F.relu6,
}


# Two functions go by the name of hard sigmoid: the reference's of today (five digits, not 1/6), and Keras's own, which
# the stream checkpoints of 2021 were trained with.
def gate_relu6(x: Tensor) -> Tensor:
    """relu6(x + 3) * 0.16667."""
    return F.relu6(x + 3.0) * 0.16667


def gate_keras(x: Tensor) -> Tensor:
    """clip(0.2 x + 0.5, 0, 1)."""
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


GATES: dict[Gate, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "relu6": gate_relu6, "keras": gate_keras}


def identity(x: Tensor) -> Tensor:
    """No activation."""
    return x


def pad_same(x: Tensor, kernel: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """SAME padding of the last two axes: `x`, padded where it must be uneven, and what the convolution may add itself.

    Total padding is max((ceil(size / stride) - 1) * stride + kernel - size, 0), the smaller half first, so with
    stride 2 it depends on the parity of the size.
    """
    height, width = x.shape[-2:]
    top, bottom = _same(height, kernel, stride)
    left, right = _same(width, kernel, stride)
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom)), (0, 0)


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with the reference's constants; the moving variance carries Bessel's correction, as there."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)
        self.register_buffer("num_batches_tracked", None)  # the momentum is constant

    def reset_running_stats(self) -> None:
        """Moving mean 0, moving variance 1."""
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        # The parent would add a `num_batches_tracked` to state dicts without version, and then complain of it.
        nn.Module._load_from_state_dict(self, *args, **kwargs)


class ConvNorm(nn.Module):
    """2D convolution without bias, SAME padding, batch norm, activation: (rows, in, h, w) -> (rows, out, h', w')."""

    def __init__(
        self,
        inputs: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[Tensor], Tensor] = identity,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, groups=groups, bias=False)
        self.norm = BatchNorm(out)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        conv = self.conv
        x, padding = pad_same(x, conv.kernel_size[0], conv.stride[0])
        x = F.conv2d(x, conv.weight, conv.bias, conv.stride, padding, 1, conv.groups)
        return self.activation(self.norm(x))


class Taps(nn.Module):
    """The bare weight of a depthwise convolution that reaches through time."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))


class TemporalConv(nn.Module):
    """Causal depthwise kt x 1 x 1 convolution over its past frames and the new ones, batch norm, activation."""

    def __init__(self, channels: int, taps: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = Taps(channels, 1, taps)
        self.norm = BatchNorm(channels)
        self.activation = activation

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(batch * time, channels, h, w) and the past (batch, kt - 1, channels, h, w) -> the same two, later."""
        frames, later = join_past(x, past)
        time = frames.shape[1] - past.shape[1]
        weight = self.conv.weight[:, 0, :, None, None]
        out = frames[:, :time] * weight[:, 0]
        for tap in range(1, weight.shape[1]):
            out = torch.addcmul(out, frames[:, tap : tap + time], weight[:, tap])
        return self.activation(self.norm(out.flatten(0, 1))), later


class DepthwiseConv3d(nn.Module):
    """Depthwise kt x k x k convolution, stride (1, s, s), batch norm, activation.

    Without a past it pads SAME in time (base models); with one it is causal (the first release's stream models).
    Computed as kt 2D convolutions of the frames, shifted and summed: several times faster on a CPU than grouped
    conv3d, and free of 5-D operations.
    """

    def __init__(
        self, channels: int, kernel: tuple[int, int], stride: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.conv = Taps(channels, 1, kernel[0], kernel[1], kernel[1])
        self.norm = BatchNorm(channels)
        self.activation = activation
        self.stride = stride

    def forward(self, x: Tensor, batch: int, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch * time, channels, h, w) -> (batch * time, channels, h', w'), and the later past if there was one."""
        weight = self.conv.weight
        channels, _, taps, kernel, _ = weight.shape
        time = x.shape[0] // batch
        if past is not None:
            frames, past = join_past(x, past)
        else:
            frames = F.pad(unfold(x, batch), (0, 0) * 3 + (taps // 2,) * 2)
        folded, padding = pad_same(frames.flatten(0, 1), kernel, self.stride)
        frames = unfold(folded, batch)
        out: Tensor | None = None
        for tap in range(taps):
            moved = frames[:, tap : tap + time].flatten(0, 1)
            part = F.conv2d(moved, weight[:, :, tap], None, self.stride, padding, 1, channels)
            out = part if out is None else out + part
        return self.activation(self.norm(out)), past


def unfold(x: Tensor, batch: int) -> Tensor:
    """(batch * time, ...) -> (batch, time, ...), a view."""
    return x.view(batch, -1, *x.shape[1:])


def join_past(x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """Past frames (batch, n, ...) and new ones (batch * time, ...) -> all (batch, n + time, ...), and the last n."""
    batch, kept = past.shape[:2]
    frames = torch.cat([past.to(x.dtype), unfold(x, batch)], 1)
    later = frames[:, frames.shape[1] - kept :]
    # A view of a long chunk would keep the whole chunk alive for as long as the state lives.
    return frames, later if frames.shape[1] == kept + 1 else later.clone()


def frame_means(x: Tensor, batch: int) -> Tensor:
    """Mean over space of each frame: (batch * time, channels, h, w) -> (batch, time, channels), at least float32."""
    return unfold(x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32)), batch)


def running_sums(means: Tensor, pool: Tensor) -> Tensor:
    """Sums over all frames so far, after each frame: (batch, time, channels) and (batch, channels) -> the former."""
    return pool[:, None] + means.cumsum(1)


def positional_encoding(frames: Tensor, channels: int) -> Tensor:
    """Encoding of frame numbers (batch, time) as (batch, time, channels), float32 or wider.

    angle_i = frame / 10000 ** (2 * floor(i / 2) / channels); all sines of the even i, then all cosines of the odd.
    """
    i = torch.arange(channels, device=frames.device)
    wide = torch.float64 if frames.dtype == torch.float64 else torch.float32
    rates = 10000.0 ** (-(2 * (i // 2)).to(wide) / channels)
    angles = frames.to(wide)[..., None] * rates
    return torch.cat([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1)


class SqueezeExcitation(nn.Module):
    """Gate each channel by what the clip ("3d") or the stream so far and this frame ("2plus3d") hold on average."""

    def __init__(
        self,
        channels: int,
        width: int,
        both: bool,
        positional: bool,
        activation: Callable[[Tensor], Tensor],
        gate: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.both = both  # concatenate [mean over all frames so far ; mean of this frame], in this order
        self.reduce = nn.Linear(channels * (2 if both else 1), width)
        self.expand = nn.Linear(width, channels)
        self.position_scale = nn.Parameter(torch.zeros(())) if positional else None
        self.activation = activation
        self.gate = gate

    def forward(
        self, x: Tensor, batch: int, pool: Tensor | None, frames: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Gate (batch * time, channels, h, w).

        `pool` (batch, channels) is the sum so far and `frames` (batch, time) are the numbers of these frames, from 0;
        without them (base models) the mean is over the whole clip. Returns the gated frames and the later pool.
        """
        means = frame_means(x, batch)
        if pool is None or frames is None:
            pooled = means.mean(1, keepdim=True)
        else:
            sums = running_sums(means, pool)
            pool = sums[:, -1]
            pooled = sums / (frames[..., None] + 1).to(sums.dtype)
        if self.both:
            pooled = torch.cat([pooled, means], -1)
        if self.position_scale is not None and frames is not None:
            positions = frames.to(pooled.dtype)
            pooled = pooled + self.position_scale * positional_encoding(positions, pooled.shape[-1])
        gate = self.gate(self.expand(self.activation(self.reduce(pooled.to(x.dtype)))))
        gate = gate.expand(batch, x.shape[0] // batch, -1).flatten(0, 1)
        return x * gate[:, :, None, None], pool


class Skip(ConvNorm):
    """The path around a block that changes size or width: average pooling if it strides, 1x1 convolution, norm."""

    def __init__(self, inputs: int, out: int, stride: int) -> None:
        super().__init__(inputs, out)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(rows, in, h, w) -> (rows, out, ceil(h / stride), ceil(w / stride))."""
        if self.stride == 2:
            # SAME with the padding left out of the mean: an even side is padded at its end only, which ceil_mode does.
            parity = (x.shape[2] % 2, x.shape[3] % 2)
            x = F.avg_pool2d(x, 3, 2, padding=parity, ceil_mode=True, count_include_pad=False)
        return super().forward(x)
