"""The seven laws over every model of the family at small sizes, and an engine broken on purpose for each of them.

Law 7 (the reference's numbers) is in `tests/golden`.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from movinet.errors import UsageError
from movinet.model import Ensemble, MoViNet, layers, network
from movinet.state import FRAME_COUNT, State
from tests.laws import laws
from tests.models import CLIPS_ONLY, STREAMING, TEMPORAL, small_clip, small_copy, small_model

ENGINES = [*STREAMING, TEMPORAL]
CUTS = [[6], [3, 3], [2, 4], [1, 4, 1], [5, 1]]
BROKEN = "movinet_a0_stream"


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class Wrapped:
    """A network with one method replaced, for the negative controls."""

    def __init__(self, model: MoViNet) -> None:
        self.model = model

    def __call__(self, clip: Tensor) -> Tensor:
        return self.model(clip)

    def init_state(self, batch_size: int, size: tuple[int, int]) -> State:
        return self.model.init_state(batch_size, size)

    def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
        return self.model.step(frames, state)


@pytest.mark.parametrize("name", ENGINES)
def test_law_1_stream_equals_clip(name: str) -> None:
    laws.stream_equals_clip(small_model(name), small_clip())


@pytest.mark.parametrize("name", ENGINES)
def test_law_2_any_cut(name: str) -> None:
    laws.any_cut(small_model(name), small_clip(), CUTS)


@pytest.mark.parametrize("name", STREAMING)
def test_law_3_causality(name: str) -> None:
    model = small_model(name)
    assert isinstance(model, MoViNet)
    laws.causality(_every_frame(model), small_clip(time=4))


@pytest.mark.parametrize("name", ENGINES)
def test_law_4_rows_are_strangers(name: str) -> None:
    laws.rows_are_strangers(small_model(name), small_clip(batch=3, time=3))


@pytest.mark.parametrize("name", CLIPS_ONLY)
def test_law_4_rows_are_strangers_in_clips(name: str) -> None:
    model, clip = small_model(name), small_clip(batch=3, time=3)
    laws.same(model(clip), torch.cat([model(row[None]) for row in clip]), "a batch against its rows")


@pytest.mark.parametrize("name", ENGINES)
def test_law_5_state_is_a_value(name: str, tmp_path: Any) -> None:
    model = small_model(name)
    laws.state_is_a_value(model, copy.deepcopy(model), small_clip(time=4), tmp_path)


@pytest.mark.parametrize("name", ENGINES)
def test_law_6_state_does_not_grow(name: str) -> None:
    clip = small_clip(batch=1, time=2)
    laws.constant_memory(small_model(name), clip, frames=20, growth=1 << 30, warm_up=2)


@pytest.mark.slow
def test_law_6_ten_thousand_frames() -> None:
    """A0 stream at its own size: 10,000 frames after warm-up, less than 5 MB."""
    model = small_copy("movinet_a0_stream", torch.float32, 600)
    clip = small_clip(batch=1, time=8, size=(172, 172), dtype=torch.float32)
    grown = laws.constant_memory(model, clip, frames=10_000, growth=5_000_000)
    print(f"10,000 frames: {grown / 1e6:.2f} MB")


def _every_frame(model: MoViNet) -> Any:
    def answers(clip: Tensor) -> Tensor:
        state = model.init_state(clip.shape[0], laws.size_of(clip))
        return model.step(clip, state, every_frame=True)[0]

    return answers


@pytest.mark.parametrize("name", CLIPS_ONLY)
def test_base_models_take_any_clip_and_have_no_state(name: str) -> None:
    model = small_model(name)
    for size in ((1, 1), (19, 26)):
        assert model(small_clip(1, 1, size)).shape == (1, 5)
    with pytest.raises(UsageError, match="not causal"):
        model.init_state(1, (19, 26))


# --- negative controls: each law sees the engine that breaks it ---


def test_law_1_sees_a_buffer_in_the_wrong_order() -> None:
    class Reversed(Wrapped):
        def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
            logits, later = self.model.step(frames, state)
            return logits, State({n: a.flip(1) if n.endswith("buffer") else a for n, a in later.items()})

    with pytest.raises(AssertionError, match="frame by frame"):
        laws.stream_equals_clip(Reversed(small_copy(BROKEN)), small_clip())


def test_law_2_sees_a_counter_that_counts_chunks() -> None:
    class Chunks(Wrapped):
        def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
            logits, later = self.model.step(frames, state)
            return logits, State({**later, FRAME_COUNT: state[FRAME_COUNT] + 1})

    with pytest.raises(AssertionError, match="cut"):
        laws.any_cut(Chunks(small_copy(BROKEN)), small_clip(), CUTS)


def test_law_3_sees_a_mean_over_the_whole_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(means: Tensor, pool: Tensor) -> Tensor:
        return (pool[:, None] + means.sum(1, keepdim=True)).expand_as(means)

    monkeypatch.setattr(layers, "running_sums", whole)
    with pytest.raises(AssertionError, match="answers before frame"):
        laws.causality(_every_frame(small_copy(BROKEN)), small_clip(time=4))


def test_law_3_sees_a_convolution_that_looks_ahead() -> None:
    model = small_copy("movinet_a0_base")
    with pytest.raises(AssertionError, match="answers before frame"):
        laws.causality(lambda clip: model.forward_features(clip).mean((3, 4)), small_clip(time=4))


def test_law_4_sees_one_counter_for_all_rows() -> None:
    class Shared(Wrapped):
        def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
            count = state[FRAME_COUNT]
            return self.model.step(frames, {**state, FRAME_COUNT: count[:1].expand_as(count).clone()})

    with pytest.raises(AssertionError, match="row 1"):
        laws.rows_are_strangers(Shared(small_copy(BROKEN)), small_clip(batch=3, time=3))


def test_law_4_sees_batch_statistics() -> None:
    with pytest.raises(AssertionError, match="row"):
        laws.rows_are_strangers(small_copy(BROKEN).train(), small_clip(batch=3, time=3, size=(35, 46)))


def test_law_5_sees_state_kept_in_the_module(tmp_path: Any) -> None:
    class Hidden(Wrapped):
        pool: Tensor | None = None

        def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
            if self.pool is not None and self.pool.shape == state["head.pool"].shape:
                state = {**state, "head.pool": self.pool}
            logits, later = self.model.step(frames, state)
            self.pool = later["head.pool"]
            return logits, State({**later, "head.pool": torch.zeros_like(self.pool)})

    with pytest.raises(AssertionError):
        laws.state_is_a_value(Hidden(small_copy(BROKEN)), Hidden(small_copy(BROKEN)), small_clip(time=4), tmp_path)


def test_law_5_sees_a_state_changed_in_place(tmp_path: Any) -> None:
    class InPlace(Wrapped):
        def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
            logits, later = self.model.step(frames, state)
            if isinstance(state["head.pool"], Tensor):
                state["head.pool"].copy_(later["head.pool"])
            else:
                state["head.pool"][:] = later["head.pool"].numpy()
            return logits, later

    model = InPlace(small_copy(BROKEN))
    with pytest.raises(AssertionError):
        laws.state_is_a_value(model, model, small_clip(time=4), tmp_path)


def test_law_6_sees_a_state_that_grows() -> None:
    class Keeps(Wrapped):
        def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
            logits, later = self.model.step(frames, {n: a for n, a in state.items() if n != "seen"})
            seen = state["seen"] if "seen" in state else frames[:, :0]
            return logits, State({**later, "seen": torch.cat([seen, frames], 1)})

    with pytest.raises(AssertionError, match="state has grown"):
        laws.constant_memory(Keeps(small_copy(BROKEN)), small_clip(batch=1), 20, 1 << 30, warm_up=2)


def test_law_6_sees_a_process_that_grows() -> None:
    class Leaks(Wrapped):
        def __init__(self, model: MoViNet) -> None:
            super().__init__(model)
            self.kept: list[Tensor] = []

        def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]:
            self.kept.append(torch.ones(2_000_000))
            return self.model.step(frames, state)

    with pytest.raises(AssertionError, match="process has grown"):
        laws.constant_memory(Leaks(small_copy(BROKEN)), small_clip(batch=1), 20, 5_000_000, warm_up=5)


def test_the_modules_that_controls_patch_are_the_ones_in_use() -> None:
    assert network.running_sums is not None
    assert layers.SqueezeExcitation.forward.__globals__["running_sums"] is layers.running_sums
    assert issubclass(type(small_model(TEMPORAL)), Ensemble)
