"""A whole video through any model: predictions as it goes on, and the answer."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from movinet.config import Preprocessing
from movinet.engines import Engine
from movinet.errors import UsageError, VideoError
from movinet.factory import create_model
from movinet.model import Ensemble, MoViNet
from movinet.stream import Prediction, Stream, check_labels, ranked, softmax, to_clip
from movinet.video import Frame, open_video

Source = str | int | os.PathLike[str]


def predict(
    video: Source,
    model: MoViNet | Ensemble | str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    top: int = 5,
) -> Prediction:
    """The answer for a whole video.

    Args:
        video: a file, folder of pictures or URL; see `movinet.open_video`.
        model: a model, the path of a weights file, or a name (its published weights are then downloaded).
        labels: names of the classes, if the model's own are to be replaced.
        top: how many classes to name.

    Raises `VideoError` for a source without a frame that decodes, and whatever `create_model` raises.
    """
    last = collections.deque(predictions(video, model, labels=labels, top=top), maxlen=1)
    if not last:
        raise VideoError(f"{video} has no frame that decodes")
    return last[0]


def predictions(
    video: Source,
    model: MoViNet | Ensemble | str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    top: int = 5,
) -> Iterator[Prediction]:
    """Predictions as the video goes on; the last one is the answer. Memory does not grow with the video.

    A stream model answers after each frame, sampled at its frame rate. A base model sees the video in clips of the
    length it was evaluated with (ten seconds) and answers after each: the mean of the softmax outputs so far, each
    clip weighted by its length.
    """
    model = load(model)
    with open_video(video, fps=sampling_rate(model)) as frames:
        yield from follow(frames, model, labels=labels, top=top)


def load(model: MoViNet | Ensemble | str | os.PathLike[str]) -> MoViNet | Ensemble:
    """A model as it is; a name becomes the model with its published weights, anything else is read as a file."""
    from movinet.registry import REGISTRY

    if isinstance(model, MoViNet | Ensemble):
        return model
    if isinstance(model, str) and model in REGISTRY:
        return create_model(model, pretrained=True)
    return create_model(pretrained=model)


def sampling_rate(model: MoViNet | Ensemble) -> float:
    """Frames per second to read a video at: the model's own, or the least common multiple of an ensemble's."""
    rates = [_preprocessing(member).fps for member in _members(model)]
    if len(set(rates)) == 1:
        return rates[0]
    if any(rate != int(rate) for rate in rates):
        raise UsageError(f"the members want {rates} frames per second; give them whole numbers, or one and the same")
    return float(math.lcm(*map(int, rates)))


def follow(
    frames: Any,
    model: MoViNet | Ensemble,
    *,
    labels: Sequence[str] | None = None,
    top: int = 5,
    engine: Engine = "auto",
) -> Iterator[Prediction]:
    """As `predictions`, for frames (an iterable of `movinet.Frame`) that come at `sampling_rate(model)`.

    `engine` is that of `Stream`; clips and ensembles run on torch.
    """
    members = _members(model)
    names = check_labels(labels, members[0])
    if len(members) == 1 and members[0].config.causal:
        stream = Stream(members[0], labels=names, top=top, engine=engine)
        for frame in frames:
            yield stream(frame.image, frame.time)
        return
    if engine == "native":
        raise UsageError("the native engine runs single stream and mobile models; use engine='torch'")
    if any(member.config.causal for member in members):
        raise UsageError("an ensemble of stream models takes its frames by Ensemble.step, not here")
    yield from _by_clips(frames, members, sampling_rate(model), names, top)


def _by_clips(
    frames: Any, members: Sequence[MoViNet], rate: float, labels: Sequence[str] | None, top: int
) -> Iterator[Prediction]:
    """Clip after clip: each member sees the same seconds at its own frame rate and size."""
    wanted = [_preprocessing(member) for member in members]
    steps = [round(rate / one.fps) for one in wanted]
    length = max(one.frames * step for one, step in zip(wanted, steps, strict=True))
    total, weight = np.zeros(members[0].config.num_classes), 0
    window: list[list[torch.Tensor]] = [[] for _ in members]
    held = 0
    last: Frame | None = None

    def answer(time: float) -> Prediction:
        nonlocal total, weight, held, window
        with torch.inference_mode():
            logits = [m(torch.cat(clip, 1))[0].float().cpu().numpy() for m, clip in zip(members, window, strict=True)]
        mean = np.mean(logits, 0)
        total, weight = total + held * softmax(mean), weight + held
        held, window = 0, [[] for _ in members]
        return ranked(time, total / weight, mean, labels, top)

    for last in frames:
        for clip, member, one, step in zip(window, members, wanted, steps, strict=True):
            if held % step == 0:
                clip.append(to_clip([last.image], one).to(member.stem.conv.weight.device))
        held += 1
        if held == length:
            yield answer(last.time)
    if held and last is not None:
        yield answer(last.time)


def _members(model: MoViNet | Ensemble) -> list[MoViNet]:
    return [m for m in model.members if isinstance(m, MoViNet)] if isinstance(model, Ensemble) else [model]


def _preprocessing(model: MoViNet) -> Preprocessing:
    if model.preprocessing is None:
        raise UsageError("the model does not say what pictures it wants; set model.preprocessing")
    return model.preprocessing
