"""The native engine as the laws want it: clips, batches and chunks of torch tensors at its borders."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from movinet.engines import native
from movinet.errors import UsageError
from movinet.model import MoViNet
from movinet.state import State


def native_is_built() -> bool:
    try:
        native.library()
    except UsageError:
        return False
    return True


class NativeEngine:
    """A model on the native engine; a stream of its own for every row and every step."""

    def __init__(self, model: MoViNet) -> None:
        arrays = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
        self.torch = model
        self.model = native.NativeModel(model.config, arrays)

    def init_state(self, batch_size: int, size: tuple[int, int]) -> State:
        zero = native.NativeStream(self.model, size).state
        return State.stack([zero] * batch_size)

    def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
        state = state if isinstance(state, State) else State(state)
        answers, states = [], []
        for row in range(frames.shape[0]):
            stream = native.NativeStream(self.model, (frames.shape[3], frames.shape[4]))
            stream.state = state.take([row])
            for frame in frames[row]:
                answer = stream.step(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
            answers.append(answer)
            states.append(stream.state)
        return torch.from_numpy(np.stack(answers)), State.stack(states)

    def __call__(self, clip: Tensor) -> Tensor:
        return self.step(clip, self.init_state(clip.shape[0], (clip.shape[3], clip.shape[4])))[0]
