"""One stream of frames through one model: the object with a hidden state, built on the explicit one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from movinet import engines
from movinet.config import Preprocessing
from movinet.engines import Engine, native
from movinet.errors import UsageError
from movinet.model import MoViNet
from movinet.state import State
from movinet.video import preprocess


@dataclass(frozen=True)
class Prediction:
    """What a model says at one moment of a video."""

    time: float  # seconds
    labels: tuple[str, ...]  # of the top-k classes, most probable first
    probabilities: tuple[float, ...]
    logits: np.ndarray = field(repr=False)  # (classes,)

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.probabilities[0]

    @property
    def top(self) -> list[tuple[str, float]]:
        """(label, probability) of the top-k classes."""
        return list(zip(self.labels, self.probabilities, strict=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64."""
    exponents: np.ndarray = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    exponents /= exponents.sum(-1, keepdims=True)
    return exponents


def to_prediction(time: float, logits: np.ndarray, labels: Sequence[str] | None, top: int) -> Prediction:
    """The top-k of logits (classes,). Classes without a label are called `class 17`."""
    return ranked(time, softmax(logits), logits, labels, top)


def ranked(
    time: float, probabilities: np.ndarray, logits: np.ndarray, labels: Sequence[str] | None, top: int
) -> Prediction:
    """As `to_prediction`, for probabilities that are not simply the softmax of the logits."""
    order = np.argsort(-probabilities, kind="stable")[: max(1, top)]
    names = tuple(labels[i] if labels is not None else f"class {i}" for i in order)
    return Prediction(time, names, tuple(float(probabilities[i]) for i in order), logits)


def check_labels(labels: Sequence[str] | None, model: MoViNet) -> Sequence[str] | None:
    """The labels to use: those given, or the model's own. Raises `UsageError` where their number is wrong."""
    labels = labels if labels is not None else model.labels
    if labels is not None and len(labels) != model.config.num_classes:
        raise UsageError(f"there are {len(labels)} labels for a model of {model.config.num_classes} classes")
    return labels


class Stream:
    """Feed the frames of one video one by one, get a `Prediction` after each.

    >>> stream = movinet.Stream(model)
    >>> for frame in frames:  # uint8 (height, width, 3), RGB, of any size
    ...     print(stream(frame).label)

    Frames are resized and cropped as the model was evaluated, and should come at the model's frame rate
    (`stream.fps`); `movinet.open_video(source, fps=stream.fps)` gives them so.
    """

    def __init__(
        self, model: MoViNet, *, labels: Sequence[str] | None = None, top: int = 5, engine: Engine = "auto"
    ) -> None:
        """`engine` is `native`, `torch`, or `auto` for the faster one; the native one copies the weights at once.

        Raises `UsageError` for a model that cannot stream, a wrong number of labels, an engine that cannot run it.
        """
        if not isinstance(model, MoViNet) or not model.config.causal:
            name = getattr(model, "name", None) or "this model"
            raise UsageError(f"{name} cannot stream; choose a stream model, e.g. movinet_a0_stream")
        self.model = model
        self.labels = check_labels(labels, model)
        self.top = top
        self.preprocessing: Preprocessing | None = model.preprocessing
        weight = model.stem.conv.weight
        plain = weight.dtype == torch.float32 and not model.training
        self.engine = engines.choose(engine, model.config, on_cpu=weight.device.type == "cpu", float32=plain)
        self._native: native.NativeModel | None = None
        if self.engine == "native":
            arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
            self._native = native.NativeModel(model.config, arrays)
        self._session: native.NativeStream | None = None
        self._state: State | None = None  # of the torch engine, or what the native one shall start from
        self._count = 0

    @property
    def fps(self) -> float:
        """Frames per second that the model was trained on; 5 where that is unknown."""
        return self.preprocessing.fps if self.preprocessing is not None else 5.0

    @property
    def state(self) -> State | None:
        """The state after the last frame, a value to save or carry elsewhere; None before the first frame.

        It may be set, to go on where another stream, process or engine was.
        """
        return self._session.state if self._session is not None else self._state

    @state.setter
    def state(self, state: State | None) -> None:
        self._state, self._session = state, None

    def reset(self) -> None:
        """Forget everything: the next frame is the first of a new video."""
        self.state = None
        self._count = 0

    def __call__(self, frame: np.ndarray | Tensor, time: float | None = None) -> Prediction:
        """Feed one frame and answer.

        Args:
            frame: uint8 array (height, width, 3), RGB, of any size; or a tensor (channels, height, width), uint8 or
                float in [0, 1], that already has the size the model shall see.
            time: its time in seconds; by default frames are `1 / fps` apart, from 0.

        Raises `UsageError` for any other shape, or a tensor whose size changes within a stream.
        """
        clip = self._to_clip(frame)
        logits = self._step_torch(clip) if self._native is None else self._step_native(self._native, clip)
        seconds = self._count / self.fps if time is None else time
        self._count += 1
        return to_prediction(seconds, logits, self.labels, self.top)

    def _step_torch(self, clip: Tensor) -> np.ndarray:
        with torch.inference_mode():
            if self._state is None:
                self._state = self.model.init_state(1, (clip.shape[3], clip.shape[4]))
            logits, self._state = self.model.step(clip, self._state)
        answer: np.ndarray = logits[0].float().cpu().numpy()
        return answer

    def _step_native(self, model: native.NativeModel, clip: Tensor) -> np.ndarray:
        size = (int(clip.shape[3]), int(clip.shape[4]))
        if self._session is None:
            session = native.NativeStream(model, size)
            if self._state is not None:
                session.state = self._state
            self._session = session
        pixels = clip[0, 0] if clip.dtype == torch.uint8 else clip[0, 0].float()
        logits = self._session.step(pixels.permute(1, 2, 0).contiguous().numpy())
        assert logits is not None
        return logits

    def _to_clip(self, frame: np.ndarray | Tensor) -> Tensor:
        device = self.model.stem.conv.weight.device
        if isinstance(frame, Tensor):
            if frame.dim() != 3:
                raise UsageError(
                    f"a frame must be (channels, height, width), not {tuple(frame.shape)}; feed one at a time"
                )
            return frame[None, None].to(device)
        return to_clip([frame], self.preprocessing).to(device)


def to_clip(images: Sequence[np.ndarray], preprocessing: Preprocessing | None) -> Tensor:
    """Pictures, uint8 (height, width, 3) -> a clip (1, time, 3, height, width), resized and cropped, uint8.

    A value range other than [0, 1] makes it float. Raises `UsageError` for arrays of another shape or type.
    """
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"a frame must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
    if preprocessing is not None:
        images = [preprocess(image, preprocessing) for image in images]
    clip = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[None]
    if preprocessing is not None and preprocessing.value_range != (0.0, 1.0):
        low, high = preprocessing.value_range
        clip = clip.float() / 255 * (high - low) + low
    return clip
