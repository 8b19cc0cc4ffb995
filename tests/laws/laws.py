"""The laws as checks over anything that streams, so that each engine is held to the same ones.

A check raises `AssertionError` where its law is broken; the tests run it over all models, and over engines broken on
purpose. `STEP` is `step(frames, state) -> (logits, state)`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from movinet.state import State


class Streaming(Protocol):
    """What a law needs of an engine."""

    def __call__(self, clip: Tensor) -> Tensor: ...
    def step(self, frames: Tensor, state: Any) -> tuple[Tensor, State]: ...
    def init_state(self, batch_size: int, size: tuple[int, int]) -> State: ...


def size_of(clip: Tensor) -> tuple[int, int]:
    return (clip.shape[3], clip.shape[4])


def same(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-9) -> None:
    worst = (found.double() - expected.double()).abs().max().item()
    assert worst <= tolerance * max(1.0, expected.double().std(correction=0).item()), f"{what}: differs by {worst:.3g}"


def same_state(found: State, expected: State, what: str, tolerance: float = 1e-9) -> None:
    assert list(found) == list(expected), f"{what}: the states have different names"
    for name in expected:
        assert found[name].shape == expected[name].shape, f"{what}: {name} changed its shape"
        same(torch.as_tensor(found[name]), torch.as_tensor(expected[name]), f"{what}, {name}", tolerance)


def run(engine: Streaming, clip: Tensor, cuts: list[int], state: State | None = None) -> tuple[list[Tensor], State]:
    """Logits after each chunk, and the final state."""
    state = state if state is not None else engine.init_state(clip.shape[0], size_of(clip))
    answers, begin = [], 0
    for length in cuts:
        logits, state = engine.step(clip[:, begin : begin + length], state)
        answers.append(logits)
        begin += length
    assert begin == clip.shape[1]
    return answers, state


def stream_equals_clip(engine: Streaming, clip: Tensor, tolerance: float = 1e-9) -> None:
    """Law 1."""
    for time in range(1, clip.shape[1] + 1):
        answers, _ = run(engine, clip[:, :time], [1] * time)
        same(answers[-1], engine(clip[:, :time]), f"frame by frame against the clip of {time} frames", tolerance)


def any_cut(engine: Streaming, clip: Tensor, cuts: list[list[int]], tolerance: float = 1e-9) -> None:
    """Law 2."""
    expected, final = run(engine, clip, [1] * clip.shape[1])
    for cut in cuts:
        answers, state = run(engine, clip, cut)
        end = 0
        for length, answer in zip(cut, answers, strict=True):
            end += length
            same(answer, expected[end - 1], f"cut {cut}, after frame {end}", tolerance)
        same_state(state, final, f"cut {cut}, final state", tolerance)


def causality(every_frame: Callable[[Tensor], Tensor], clip: Tensor, tolerance: float = 1e-9) -> None:
    """Law 3. `every_frame` gives the answers (batch, time, classes) of a clip handed over in one piece."""
    before = every_frame(clip)
    for changed in range(1, clip.shape[1]):
        other = clip.clone()
        other[:, changed:] = 1 - other[:, changed:]
        after = every_frame(other)
        same(after[:, :changed], before[:, :changed], f"answers before frame {changed}", tolerance)
        worst = (after[:, changed:] - before[:, changed:]).abs().max()
        assert worst > 1e-6, "the changed frames change nothing, so this check sees nothing"


def rows_are_strangers(engine: Streaming, clip: Tensor, tolerance: float = 1e-9) -> None:
    """Law 4. Row i starts i frames late and shares every batch with the others."""
    size, rows = size_of(clip), clip.shape[0]
    alone = [run(engine, clip[row : row + 1], [1] * clip.shape[1]) for row in range(rows)]
    state = engine.init_state(1, size)
    joined = [0]
    fed = [0] * rows
    last: list[Tensor | None] = [None] * rows
    while min(fed) < clip.shape[1]:
        frames = torch.stack([clip[row, min(fed[row], clip.shape[1] - 1)] for row in joined])[:, None]
        logits, later = engine.step(frames, state)
        for place, row in enumerate(joined):
            if fed[row] < clip.shape[1]:
                last[row] = logits[place : place + 1]
                fed[row] += 1
                same(last[row], alone[row][0][fed[row] - 1], f"row {row} in a batch, frame {fed[row]}", tolerance)
                if fed[row] == clip.shape[1]:
                    same_state(later.take([place]), alone[row][1], f"row {row}, final state", tolerance)
        state = later
        if len(joined) < rows:
            joined.append(len(joined))
            state = State.stack([state, engine.init_state(1, size)])
    # A row that starts again does not disturb its neighbours and has forgotten everything itself.
    _, together = run(engine, clip, [clip.shape[1]])
    logits, _ = engine.step(clip[:, :1], together.reset([0]))
    same(logits[:1], run(engine, clip[:1, :1], [1])[0][0], "a row reset", tolerance)
    same(logits[1:], engine.step(clip[1:, :1], together.take(list(range(1, rows))))[0], "its neighbours", tolerance)


def state_is_a_value(engine: Streaming, other: Streaming, clip: Tensor, folder: Path, tolerance: float = 1e-9) -> None:
    """Law 5. `other` is the same network made anew, as another process would; a state is reusable and never changed."""
    half = clip.shape[1] // 2
    expected, final = run(engine, clip, [1] * clip.shape[1])
    _, state = run(engine, clip[:, :half], [1] * half)
    state.save(folder / "state.safetensors")
    restored = State.load(folder / "state.safetensors")
    same_state(restored, state, "saved and restored", 0.0)
    for _ in range(2):  # twice from the same state: it was read, not changed
        answers, end = run(other, clip[:, half:], [1] * (clip.shape[1] - half), restored)
        for answer, wanted in zip(answers, expected[half:], strict=True):
            same(answer, wanted, "going on from a restored state", tolerance)
        same_state(end, final, "going on from a restored state, final state", tolerance)
    forgotten = state.reset(range(clip.shape[0]))
    same(engine.step(clip[:, :1], forgotten)[0], engine(clip[:, :1]), "a zero state forgets", tolerance)


def constant_memory(engine: Streaming, clip: Tensor, frames: int, growth: int, warm_up: int = 200) -> int:
    """Law 6. In `frames` frames the state must not grow, nor (after warm-up) the process by over `growth` bytes."""
    state = engine.init_state(clip.shape[0], size_of(clip))
    expected = state.nbytes
    process = psutil.Process()
    before = 0
    for index in range(warm_up + frames):
        if index == warm_up:
            gc.collect()
            before = process.memory_info().rss
        frame = index % clip.shape[1]
        _, state = engine.step(clip[:, frame : frame + 1], state)
        assert state.nbytes == expected, f"the state has grown to {state.nbytes} bytes after {index + 1} frames"
    gc.collect()
    grown = process.memory_info().rss - before
    assert grown < growth, f"the process has grown by {grown / 1e6:.1f} MB in {frames} frames"
    return grown
