"""Several networks that answer together: the mean of their logits.

`Ensemble` is A6 (A4 and A5, each at its own size and frame rate); `TemporalEnsemble` is two networks at half the frame
rate, one frame apart (arXiv 2103.11511, section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from movinet.errors import UsageError
from movinet.model.network import MoViNet
from movinet.state import FRAME_COUNT, State

Size = tuple[int, int]


class Ensemble(nn.Module):
    """The mean of the members' logits. Each member is fed its own clip, or all of them the same one.

    A member's state is named `members.<i>.<name>`, and `members.<i>.logits` is its latest answer, so that members of
    different frame rates may be stepped at different times.
    """

    def __init__(self, members: Sequence[MoViNet]) -> None:
        super().__init__()
        classes = {member.config.num_classes for member in members}
        if len(classes) != 1:
            raise UsageError(f"the members of an ensemble must share their classes; these have {sorted(classes)}")
        self.name: str | None = None
        self.members = nn.ModuleList(members)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes, as the first member has them."""
        first = self.members[0]
        assert isinstance(first, MoViNet)
        return first.labels

    def forward(self, clips: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits (batch, classes). `clips`: one clip for all members, or one per member in their order."""
        answers = [member(clip) for member, clip in zip(self.members, self._each(clips), strict=True)]
        return torch.stack(answers).mean(0)

    def init_state(self, batch_size: int, sizes: Size | Sequence[Size]) -> State:
        """The zero state; `sizes` is one (height, width) for all members, or one per member."""
        each: list[Any] = [sizes] * len(self.members) if isinstance(sizes[0], int) else list(sizes)
        if len(each) != len(self.members):
            raise UsageError(f"{len(each)} sizes for an ensemble of {len(self.members)}")
        arrays: dict[str, Any] = {}
        for index, (member, size) in enumerate(zip(self.members, each, strict=True)):
            assert isinstance(member, MoViNet)
            arrays |= {f"members.{index}.{name}": a for name, a in member.init_state(batch_size, size).items()}
            weight = member.classifier.output.weight
            arrays[f"members.{index}.logits"] = weight.new_zeros(batch_size, weight.shape[0])
        return State(arrays)

    def step(self, frames: Tensor | Sequence[Tensor | None], state: Mapping[str, Any]) -> tuple[Tensor, State]:
        """Feed the next frames: one tensor for all members, or one per member, None where it has none this time.

        Logits (batch, classes) are the mean over the members that have seen a frame.
        """
        later = dict(state)
        for index, chunk in enumerate(self._each(frames)):
            if chunk is not None:
                prefix = f"members.{index}."
                inner = {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
                inner.pop("logits", None)
                logits, new = self.members[index].step(chunk, inner)  # type: ignore[operator]
                later |= {prefix + name: array for name, array in new.items()}
                later[prefix + "logits"] = logits
        return self.answer(later), State(later)

    def answer(self, state: Mapping[str, Any]) -> Tensor:
        """Mean of the latest logits, row by row, over the members that have seen a frame: (batch, classes)."""
        members = range(len(self.members))
        answers = torch.stack([torch.as_tensor(state[f"members.{i}.logits"]) for i in members])
        seen = torch.stack([torch.as_tensor(state[f"members.{i}.{FRAME_COUNT}"]) > 0 for i in members])[..., None]
        return (answers * seen).sum(0) / seen.sum(0).clamp(min=1)

    def _each(self, frames: Any) -> Sequence[Any]:
        each = [frames] * len(self.members) if isinstance(frames, Tensor) else list(frames)
        if len(each) != len(self.members):
            raise UsageError(f"{len(each)} clips for an ensemble of {len(self.members)}; give one, or one per member")
        return each


class TemporalEnsemble(Ensemble):
    """Two networks at half the frame rate: the first sees frames 0, 2, 4 ..., the second 1, 3, 5 ... of one clip."""

    def __init__(self, members: Sequence[MoViNet]) -> None:
        if len(members) != 2:
            raise UsageError(f"a temporal ensemble has two members, not {len(members)}")
        super().__init__(members)

    def forward(self, clips: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits (batch, classes) of one clip at the full frame rate, (batch, time, channels, height, width)."""
        if not isinstance(clips, Tensor):
            raise UsageError("a temporal ensemble takes one clip at the full frame rate and shares it out itself")
        halves = [clips[:, start::2] for start in (0, 1)]
        return torch.stack([m(half) for m, half in zip(self.members, halves, strict=True) if half.shape[1]]).mean(0)

    def step(self, frames: Tensor | Sequence[Tensor | None], state: Mapping[str, Any]) -> tuple[Tensor, State]:
        """Feed the next frames at the full rate; each row knows whose turn it is."""
        if not isinstance(frames, Tensor):
            raise UsageError("a temporal ensemble takes frames at the full rate and shares them out itself")
        first, second = (torch.as_tensor(state[f"members.{i}.{FRAME_COUNT}"]) for i in (0, 1))
        parity = (first + second) % 2
        later = State(state)
        for odd in (0, 1):
            rows = torch.nonzero(parity == odd).flatten().tolist()
            if not rows:
                continue
            chunk = frames[rows]
            halves = [chunk[:, (odd + turn) % 2 :: 2] for turn in (0, 1)]
            _, new = super().step([half if half.shape[1] else None for half in halves], later.take(rows))
            later = new if len(rows) == frames.shape[0] else later.put(rows, new)
        return self.answer(later), later
