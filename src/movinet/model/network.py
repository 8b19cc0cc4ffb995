"""MoViNet: one class for base models (whole clips) and stream models (causal, with an explicit state).

`logits = model(clip)` and `logits, state = model.step(frames, state)`; everything else serves these two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from movinet.config import BlockConfig, ModelConfig, Preprocessing
from movinet.errors import UsageError
from movinet.model.layers import (
    ACTIVATIONS,
    GATES,
    BatchNorm,
    ConvNorm,
    DepthwiseConv3d,
    Skip,
    SqueezeExcitation,
    Taps,
    TemporalConv,
    frame_means,
    running_sums,
    unfold,
)
from movinet.state import FRAME_COUNT, State, state_shapes


class Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, (temporal), squeeze-excitation, project, ReZero, plus skip."""

    def __init__(self, config: ModelConfig, block: BlockConfig, inputs: int, drop_rate: float) -> None:
        super().__init__()
        activation = ACTIVATIONS[config.activation]
        time, space = block.kernel
        self.drop_rate = drop_rate
        self.expand = ConvNorm(inputs, block.expand, activation=activation)
        self.depthwise: ConvNorm | DepthwiseConv3d
        self.temporal = None
        if config.convolution == "3d":
            self.depthwise = DepthwiseConv3d(block.expand, block.kernel, block.stride, activation)
        else:
            self.depthwise = ConvNorm(block.expand, block.expand, space, block.stride, block.expand, activation)
            if time > 1:
                self.temporal = TemporalConv(block.expand, time, activation)
        self.se = None
        if config.squeeze_excitation != "none":
            self.se = SqueezeExcitation(
                block.expand,
                config.gate_width(block),
                config.squeeze_excitation == "2plus3d",
                config.positional_encoding,
                activation,
                GATES[config.gate],
            )
        self.project = ConvNorm(block.expand, block.out)
        self.skip = Skip(inputs, block.out, block.stride) if block.stride != 1 or block.out != inputs else None
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(
        self, x: Tensor, batch: int, past: Tensor | None, pool: Tensor | None, frames: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(batch * time, in, h, w) -> (batch * time, out, h', w'), with the later past and pool of this block."""
        inner = self.expand(x)
        if isinstance(self.depthwise, DepthwiseConv3d):
            inner, past = self.depthwise(inner, batch, past)
        else:
            inner = self.depthwise(inner)
        if self.temporal is not None:
            if past is None:  # (2+1)D without a past: the state is there for every causal model
                raise UsageError("a temporal convolution needs its past; use a causal configuration with 2plus1d")
            inner, past = self.temporal(inner, past)
        if self.se is not None:
            inner, pool = self.se(inner, batch, pool, frames)
        inner = self.project(inner) * self.scale
        if self.training and self.drop_rate > 0:
            inner = self._drop_samples(inner, batch)
        return inner + (x if self.skip is None else self.skip(x)), past, pool

    def _drop_samples(self, x: Tensor, batch: int) -> Tensor:
        """Stochastic depth: drop this branch for whole samples, divide what is kept by the keep probability."""
        keep = 1.0 - self.drop_rate
        mask = torch.empty(batch, 1, dtype=x.dtype, device=x.device).bernoulli_(keep).div_(keep)
        return x * mask.expand(batch, x.shape[0] // batch).reshape(-1, 1, 1, 1)


class Classifier(nn.Module):
    """Dense, activation, dropout, dense: (..., head) -> (..., classes)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.head, config.hidden)
        self.output = nn.Linear(config.hidden, config.num_classes)
        self.activation = ACTIVATIONS[config.hidden_activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.output(self.dropout(self.activation(self.hidden(x))))
        return logits


class MoViNet(nn.Module):
    """A MoViNet from its configuration, with the reference's initialisation. `movinet.create_model` makes it by name.

    Clips are (batch, time, channels, height, width), uint8 or float in [0, 1], of any height, width and time >= 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.convolution == "2plus1d" and not config.causal:
            raise UsageError("2plus1d convolutions exist in causal models only; set causal=True")
        self.config = config
        # What travels with the weights and the arithmetic does not need; `create_model` fills them.
        self.name: str | None = None
        self.preprocessing: Preprocessing | None = None
        self.labels: tuple[str, ...] | None = None
        self.provenance: Mapping[str, Any] = {}
        self.stem = ConvNorm(config.in_channels, config.stem, 3, 2, activation=ACTIVATIONS[config.activation])
        count = len(config.blocks)
        self.blocks = nn.ModuleList(
            Block(config, block, inputs, config.stochastic_depth * (index + 1) / count)
            for index, (block, inputs) in enumerate(zip(config.blocks, config.in_widths, strict=True))
        )
        self.head = nn.ModuleDict(
            {"project": ConvNorm(config.blocks[-1].out, config.head, activation=ACTIVATIONS[config.activation])}
        )
        self.classifier = Classifier(config)
        self.reset_parameters()

    # --- the two ways to run it ---

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (batch, classes) of a whole clip; a stream model starts from the zero state and answers at the end."""
        clip = self._frames(clip)
        if self.config.causal:
            return self.step(clip, self._zero_state(clip))[0]
        features, _ = self._features(clip, None, None)
        return self._classify(frame_means(features, clip.shape[0]).mean(1))

    def step(self, frames: Tensor, state: Mapping[str, Any], *, every_frame: bool = False) -> tuple[Tensor, State]:
        """Feed the next frames of a stream: logits after the last of them, and the next state.

        Args:
            frames: (batch, time, channels, height, width), time >= 1.
            state: from `init_state`, an earlier step, or `State.load`; it is read, never changed.
            every_frame: give the logits after each frame, (batch, time, classes), instead of (batch, classes).

        Raises `UsageError` for a model that is not causal, or a state of another model, size or batch.
        """
        pooled, later = self._advance(frames, state, None)
        return self._classify(pooled if every_frame else pooled[:, -1]), later

    def init_state(self, batch_size: int, size: tuple[int, int]) -> State:
        """The zero state of `batch_size` streams of pictures of `size` (height, width), on the model's device.

        Raises `UsageError` for a model that is not causal.
        """
        weight = self.stem.conv.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        kinds = {"buffer": weight.dtype, "pool": wide, FRAME_COUNT: torch.int64}
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
        return State(
            {
                name: torch.zeros((batch_size, *shape), dtype=kinds[name.rsplit(".", 1)[-1]], device=weight.device)
                for name, shape in state_shapes(self.config, size).items()
            }
        )

    # --- as a backbone ---

    def forward_features(self, clip: Tensor) -> Tensor:
        """The map before the pooling: (batch, time, head channels, ceil(height / 32), ceil(width / 32))."""
        return self.forward_intermediates(clip)["head"]

    def forward_intermediates(self, clip: Tensor) -> dict[str, Tensor]:
        """Maps of a whole clip: `stem`, `blocks.<i>` for every block, `stages.<i>` (a stage's last block), `head`.

        Each is (batch, time, channels, h, w).
        """
        clip = self._frames(clip)
        if self.config.causal:
            return self.step_intermediates(clip, self._zero_state(clip))[0]
        maps: dict[str, Tensor] = {}
        self._features(clip, None, maps)
        return maps

    def step_intermediates(self, frames: Tensor, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], State]:
        """As `forward_intermediates`, for the next frames of a stream; the state goes on as in `step`."""
        maps: dict[str, Tensor] = {}
        _, later = self._advance(frames, state, maps)
        return maps, later

    # --- its parts ---

    def _advance(
        self, frames: Tensor, state: Mapping[str, Any], maps: dict[str, Tensor] | None
    ) -> tuple[Tensor, State]:
        """Mean features over all frames so far, after each of these frames (batch, time, head), and the next state."""
        frames = self._frames(frames)
        arrays = self._check_state(frames, state)
        features, later = self._features(frames, arrays, maps)
        sums = running_sums(frame_means(features, frames.shape[0]), arrays["head.pool"])
        later["head.pool"] = sums[:, -1]
        later[FRAME_COUNT] = arrays[FRAME_COUNT] + frames.shape[1]
        counts = self._numbers(frames, arrays)[..., None] + 1
        return sums / counts.to(sums.dtype), State({name: later[name] for name in arrays})

    def _features(
        self, frames: Tensor, state: Mapping[str, Tensor] | None, maps: dict[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Everything up to the head's pooling, folded: (batch * time, head, h, w), and the blocks' later state."""
        batch = frames.shape[0]
        numbers = None if state is None else self._numbers(frames, state)
        later: dict[str, Tensor] = {}

        def keep(name: str, x: Tensor) -> None:
            if maps is not None:
                maps[name] = unfold(x, batch)

        x = self.stem(frames.flatten(0, 1))
        keep("stem", x)
        index = 0
        for stage_index, stage in enumerate(self.config.stages):
            for _ in stage:
                buffer, pool = f"blocks.{index}.buffer", f"blocks.{index}.pool"
                past = None if state is None else state.get(buffer)
                sums = None if state is None else state.get(pool)
                x, past, sums = self.blocks[index](x, batch, past, sums, numbers)
                if past is not None:
                    later[buffer] = past
                if sums is not None:
                    later[pool] = sums
                keep(f"blocks.{index}", x)
                index += 1
            keep(f"stages.{stage_index}", x)
        x = self.head["project"](x)
        keep("head", x)
        return x, later

    def _zero_state(self, clip: Tensor) -> State:
        return self.init_state(clip.shape[0], (clip.shape[3], clip.shape[4]))

    def _classify(self, pooled: Tensor) -> Tensor:
        return self.classifier(pooled.to(self.classifier.hidden.weight.dtype))  # type: ignore[no-any-return]

    @staticmethod
    def _numbers(frames: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Numbers of these frames in their streams, from 0: (batch, time)."""
        return state[FRAME_COUNT][:, None] + torch.arange(frames.shape[1], device=frames.device)

    def _frames(self, frames: Tensor) -> Tensor:
        """Check a clip, and bring it to the type of the weights, in [0, 1]."""
        channels = self.config.in_channels
        if frames.dim() != 5 or frames.shape[2] != channels or 0 in frames.shape:
            raise UsageError(
                f"a clip must be (batch, time, {channels}, height, width) with at least one frame, not"
                f" {tuple(frames.shape)}"
            )
        dtype = self.stem.conv.weight.dtype
        if frames.dtype == torch.uint8:
            return frames.to(dtype) / 255
        if not frames.is_floating_point():
            raise UsageError(f"a clip must be uint8 or float in [0, 1], not {str(frames.dtype).removeprefix('torch.')}")
        return frames.to(dtype)

    def _check_state(self, frames: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state's arrays as tensors on the device of the frames; `UsageError` names what does not fit."""
        shapes = state_shapes(self.config, (frames.shape[3], frames.shape[4]))
        arrays = {}
        for name, shape in shapes.items():
            if name not in state:
                raise UsageError(f"the state lacks {name}; make it with this model's init_state")
            array = torch.as_tensor(state[name], device=frames.device)
            if tuple(array.shape) != (frames.shape[0], *shape):
                raise UsageError(
                    f"{name} of the state is {tuple(array.shape)} where these frames need {(frames.shape[0], *shape)};"
                    " batch, height and width must stay those of init_state"
                )
            arrays[name] = array
        if left_over := [name for name in state if name not in shapes]:
            raise UsageError(f"the state holds {left_over[0]}, which this model does not have")
        return arrays

    # --- training ---

    def reset_parameters(self) -> None:
        """The reference's initialisation: HeNormal kernels, classifier kernel 0.01, ReZero and positional scales 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | Taps):
                # Depthwise kernels count their own taps only: in training form they are [kt, k, k, 1, channels].
                _he_normal(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, BatchNorm):
                module.reset_parameters()
            if isinstance(module, Block):
                nn.init.zeros_(module.scale)
            if isinstance(module, SqueezeExcitation) and module.position_scale is not None:
                nn.init.zeros_(module.position_scale)
        nn.init.normal_(self.classifier.output.weight, std=0.01)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last layer for `num_classes`; everything before it stays. Raises `UsageError` below 1."""
        if num_classes < 1:
            raise UsageError(f"num_classes is {num_classes}; it must be at least 1")
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        old = self.classifier.output
        new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        nn.init.normal_(new.weight, std=0.01)
        nn.init.zeros_(new.bias)
        self.classifier.output = new
        self.labels = None

    def weight_decay_groups(self, weight_decay: float = 3e-5) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: kernels with `weight_decay`; norms, biases, scalars and output without.

        The reference decays every kernel of a convolution, those of squeeze-excitation and of the classifier's hidden
        layer included, but not the last layer's (`decayed` and `rest` partition the trained parameters).
        """
        decayed = [p for name, p in self.named_parameters() if self.is_decayed(name)]
        rest = [p for name, p in self.named_parameters() if not self.is_decayed(name)]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]

    @staticmethod
    def is_decayed(name: str) -> bool:
        """Whether weight decay touches the parameter of this name."""
        kernel = name.endswith((".conv.weight", ".se.reduce.weight", ".se.expand.weight"))
        return kernel or name == "classifier.hidden.weight"


def _he_normal(weight: Tensor) -> None:
    """Truncated normal at two deviations with variance 2 / fan_in after truncation, as Keras's HeNormal."""
    std = math.sqrt(2.0 / math.prod(weight.shape[1:])) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
