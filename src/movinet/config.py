"""The family as data: configurations and block tables.

Sources: arXiv 2103.11511, appendix C (architectures); the official package `official/projects/movinet`,
`modeling/movinet.py`, for the block table and the forms. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from movinet.errors import UsageError

Convolution = Literal["3d", "2plus1d"]
SqueezeExcitation = Literal["none", "3d", "2plus3d"]
Activation = Literal["swish", "hard_swish", "relu6"]
Gate = Literal["sigmoid", "relu6", "keras"]


@dataclass(frozen=True)
class BlockConfig:
    """One inverted bottleneck: widths in channels, kernel as (time, space), stride in space (in time always 1)."""

    expand: int
    out: int
    kernel: tuple[int, int]
    stride: int = 1


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the arithmetic of a network and the shapes of its weights and of its state."""

    stages: tuple[tuple[BlockConfig, ...], ...]
    stem: int  # channels after the stem
    head: int  # channels after the head's projection
    hidden: int  # width of the classifier's hidden layer
    num_classes: int = 600
    in_channels: int = 3
    causal: bool = False  # True: convolutions in time see no later frame, and the network can stream
    convolution: Convolution = "3d"  # "2plus1d": 1 x k x k, then kt x 1 x 1 with its own norm and activation
    squeeze_excitation: SqueezeExcitation = "3d"  # "2plus3d": mean over all frames so far beside the mean of the frame
    activation: Activation = "swish"
    gate: Gate = "sigmoid"  # "relu6": relu6(x + 3) * 0.16667 (today's reference); "keras": clip(0.2 x + 0.5, 0, 1)
    hidden_activation: Activation = "swish"  # swish also in stream models, whose other activations are hard_swish
    positional_encoding: bool = False
    dropout: float = 0.2  # before the last dense layer
    stochastic_depth: float = 0.2  # of the last block; block i of n (from 1) drops with rate * i / n

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """All blocks, numbered through from 0."""
        return tuple(block for stage in self.stages for block in stage)

    @property
    def in_widths(self) -> tuple[int, ...]:
        """Channels that enter each block."""
        return (self.stem, *(block.out for block in self.blocks[:-1]))

    def gate_width(self, block: BlockConfig) -> int:
        """Hidden channels of the block's squeeze-excitation."""
        return make_divisible(block.expand * (0.5 if self.squeeze_excitation == "2plus3d" else 0.25))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and scalars, for JSON; `ModelConfig.from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`. Raises `UsageError` naming the field that is missing, unknown or out of range."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := set(data) - set(known):
            raise UsageError(f"unknown configuration field {min(unknown)!r}")
        if missing := {n for n, f in known.items() if f.default is dataclasses.MISSING} - set(data):
            raise UsageError(f"the configuration lacks the field {min(missing)!r}")
        for name, value in data.items():
            if name != "stages":
                _check_field(name, value)
        try:
            stages = tuple(tuple(_block_from_dict(block) for block in stage) for stage in data["stages"])
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"configuration field 'stages' is malformed: {error}") from None
        if not all(stages) or not 1 <= len(stages) <= 16 or sum(map(len, stages)) > 1000:
            raise UsageError("configuration field 'stages' needs 1 to 16 stages and at most 1,000 blocks, none empty")
        config = cls(**{**data, "stages": stages})
        if config.convolution == "2plus1d" and not config.causal:
            raise UsageError("configuration field 'convolution' is '2plus1d', which exists in causal models only")
        return config


_CHOICES = {
    "convolution": get_args(Convolution),
    "squeeze_excitation": get_args(SqueezeExcitation),
    "activation": get_args(Activation),
    "hidden_activation": get_args(Activation),
    "gate": get_args(Gate),
}


def _check_field(name: str, value: Any) -> None:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise UsageError(f"configuration field {name!r} is {value!r}; choose one of {', '.join(_CHOICES[name])}")
    elif name in ("causal", "positional_encoding"):
        if not isinstance(value, bool):
            raise UsageError(f"configuration field {name!r} is {value!r}, not true or false")
    elif name in ("dropout", "stochastic_depth"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise UsageError(f"configuration field {name!r} is {value!r}; it must be at least 0 and below 1")
    else:
        _check_width(name, value)


def _check_width(name: str, value: Any, most: int = 65_536) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"configuration field {name!r} is {value!r}; it must be a whole number from 1 to {most}")
    return value


def _block_from_dict(data: Mapping[str, Any]) -> BlockConfig:
    if unknown := set(data) - {"expand", "out", "kernel", "stride"}:
        raise ValueError(f"unknown block field {min(unknown)!r}")
    kernel_time, kernel_space = data["kernel"]
    for extent in (kernel_time, kernel_space):
        if _check_width("kernel", extent, 15) % 2 == 0:
            raise ValueError(f"kernel {extent} is even")
    return BlockConfig(
        _check_width("expand", data["expand"]),
        _check_width("out", data["out"]),
        (kernel_time, kernel_space),
        _check_width("stride", data.get("stride", 1), 2),
    )


def make_divisible(width: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `width`, at least `divisor`, one step up where that lost over 10 %."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


# Per stage: channels out, strides in space of the first block, then expand:kernel for each block; the kernel is
# time, height, width in one digit each.
_TABLE: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    # stem, head, hidden, stages
    "t0": (
        8,
        240,
        1024,
        (
            "8 /2 16:155",
            "32 /2 72:333 72:155",
            "56 /2 112:533 112:155 112:333",
            "56 /1 184:533 184:155 184:333 184:333",
            "104 /2 344:533 344:155 344:155 344:333",
        ),
    ),
    "a0": (
        8,
        480,
        2048,
        (
            "8 /2 24:155",
            "32 /2 80:333 80:333 80:333",
            "56 /2 184:533 112:333 184:333",
            "56 /1 184:533 184:333 184:333 184:333",
            "104 /2 384:533 280:155 280:155 344:155",
        ),
    ),
    "a1": (
        16,
        600,
        2048,
        (
            "16 /2 40:155 40:333",
            "40 /2 96:333 120:333 96:333 96:333",
            "64 /2 216:533 128:333 216:333 168:333 216:333",
            "64 /1 216:533 216:333 216:333 128:333 128:155 216:333",
            "136 /2 456:533 360:155 360:155 360:155 456:155 456:333 544:133",
        ),
    ),
    "a2": (
        16,
        640,
        2048,
        (
            "16 /2 40:155 40:333 64:333",
            "40 /2 96:333 120:333 96:333 96:333 120:333",
            "72 /2 240:533 160:333 240:333 192:333 240:333",
            "72 /1 240:533 240:333 240:333 240:333 144:155 240:333",
            "144 /2 480:533 384:155 384:155 480:155 480:155 480:333 576:133",
        ),
    ),
    "a3": (
        16,
        744,
        2048,
        (
            "16 /2 40:155 40:333 64:333 40:333",
            "48 /2 112:333 144:333 112:333 112:155 144:333 144:333",
            "80 /2 240:533 152:333 240:333 192:333 240:333",
            "88 /1 264:533 264:333 264:333 264:333 160:155 264:333 264:333 264:333",
            "168 /2 560:533 448:155 448:155 560:155 560:155 560:333 448:155 448:155 560:333 672:133",
        ),
    ),
    "a4": (
        24,
        856,
        2048,
        (
            "24 /2 64:155 64:333 96:333 64:333 96:333 64:333",
            "56 /2 168:333 168:333 136:333 136:333 168:333 168:333 168:333 136:155 136:333",
            "96 /2 320:533 160:333 320:333 192:333 320:333 160:333 320:333 256:333 320:333",
            "96 /1 320:533 320:333 320:333 320:333 192:155 320:333 320:333 192:333 320:333 320:333",
            "192 /2 640:533 512:155 512:155 640:155 640:155 640:333 512:155 512:155 640:155 768:155 640:155 640:333"
            " 768:333",
        ),
    ),
    "a5": (
        24,
        992,
        2048,
        (
            "24 /2 64:155 64:155 96:333 64:333 96:333 64:333",
            "64 /2 192:533 152:333 152:333 152:333 192:333 192:333 192:333 152:333 152:333 192:333 192:333",
            "112 /2 376:533 224:333 376:333 376:333 296:333 376:333 224:333 376:333 376:333 296:333 376:333 376:333"
            " 376:333",
            "120 /1 376:533 376:333 376:333 376:333 224:155 376:333 376:333 224:333 376:333 376:333 376:333",
            "224 /2 744:533 744:333 600:155 600:155 744:155 744:155 744:333 896:155 600:155 600:155 896:155 744:155"
            " 744:333 896:155 600:155 600:155 744:155 744:333",
        ),
    ),
}


def _parse_stage(text: str) -> tuple[BlockConfig, ...]:
    out, stride, *blocks = text.split()
    return tuple(
        BlockConfig(
            expand=int(expand),
            out=int(out),
            kernel=(int(kernel[0]), int(kernel[1])),
            stride=int(stride[1:]) if index == 0 else 1,
        )
        for index, (expand, kernel) in enumerate(block.split(":") for block in blocks)
    )


def family_config(variant: str, form: Literal["base", "stream", "mobile"]) -> ModelConfig:
    """The published configuration of one variant (`t0`, `a0` ... `a5`) as a base, stream or mobile model.

    Raises `UsageError` for a name that the family does not have.
    """
    if variant not in _TABLE:
        raise UsageError(f"unknown variant {variant!r}; the family has {', '.join(_TABLE)}")
    stem, head, hidden, stages = _TABLE[variant]
    # The published experiment files: dropout 0.2 for the small ones, 0.5 from A2 on and for the base form of A1.
    small = variant in ("t0", "a0") or (variant == "a1" and form != "base")
    base = ModelConfig(
        stages=tuple(_parse_stage(stage) for stage in stages),
        stem=stem,
        head=head,
        hidden=hidden,
        dropout=0.2 if small else 0.5,
    )
    if form == "base":
        return base
    stream = dataclasses.replace(
        base,
        causal=True,
        convolution="2plus1d",
        squeeze_excitation="2plus3d",
        activation="hard_swish",
        gate="relu6",
        positional_encoding=variant in ("a3", "a4", "a5"),
    )
    if form == "stream":
        return stream
    if form == "mobile":
        return dataclasses.replace(
            stream,
            squeeze_excitation="none",
            activation="relu6",
            hidden_activation="relu6",
            positional_encoding=False,
        )
    raise UsageError(f"unknown form {form!r}; choose base, stream or mobile")


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects to see: RGB pictures of `size` (height, width) pixels in `value_range`, at `fps`."""

    size: tuple[int, int]
    resize: int  # pixels of the short side before the centre crop to `size`
    fps: float
    frames: int  # of the clips that the published accuracy was measured on: ten seconds
    value_range: tuple[float, float] = (0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and scalars, for JSON; `Preprocessing.from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`. Raises `UsageError` naming the field at fault."""
        try:
            height, width = (_check_width("size", side, 8192) for side in data["size"])
            low, high = (float(limit) for limit in data["value_range"])
            fps = float(data["fps"])
            if not (0 < fps <= 1000 and -1e6 < low < high < 1e6):
                raise UsageError(f"preprocessing has fps {fps:g} and range {low:g} to {high:g}, which make no sense")
            return cls(
                size=(height, width),
                resize=_check_width("resize", data["resize"], 8192),
                fps=fps,
                frames=_check_width("frames", data["frames"], 1_000_000),
                value_range=(low, high),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"the preprocessing record is malformed: {error!r}") from None
