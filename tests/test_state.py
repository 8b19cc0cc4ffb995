from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from movinet.config import family_config
from movinet.errors import MovinetError, UsageError
from movinet.state import State, state_bytes, state_shapes
from tests.models import small_clip, small_model

A0 = family_config("a0", "stream")


def numbered(batch: int, library: str) -> State:
    arrays = {
        name: np.arange(batch * max(1, int(np.prod(shape))), dtype=np.float32).reshape(batch, *shape)
        for name, shape in list(state_shapes(A0, (33, 40)).items())[-4:]
    }
    return State({n: torch.from_numpy(a) for n, a in arrays.items()} if library == "torch" else arrays)


def test_shapes_follow_the_configuration() -> None:
    shapes = state_shapes(A0, (53, 75))
    assert shapes["blocks.1.buffer"] == (2, 80, 7, 10)
    assert shapes["blocks.12.pool"] == (280,)
    assert "blocks.0.buffer" not in shapes  # its kernel is 1 in time
    assert list(shapes)[-2:] == ["head.pool", "frame_count"]


def test_the_networks_state_has_these_shapes() -> None:
    for name in ("movinet_a3_stream", "movinet_a0_mobile", "legacy_a0_stream"):
        model = small_model(name)
        _, state = model.step(small_clip(2, 3), model.init_state(2, (19, 26)))
        expected = state_shapes(model.config, (19, 26))
        assert {n: tuple(a.shape[1:]) for n, a in state.items()} == expected
        assert list(state) == list(expected)


def test_bytes() -> None:
    assert state_bytes(A0, (172, 172)) == 2_696_832 - 64 + 8  # the reference's, with one counter instead of sixteen
    assert state_bytes(family_config("a0", "base"), (172, 172)) == 0


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_rows(library: str) -> None:
    state = numbered(3, library)
    assert state.batch_size == 3
    swapped = state.take([2, 0])
    back = State.stack([swapped.take([1]), state.take([1]), swapped.take([0])])
    for name in state:
        assert (np.asarray(back[name]) == np.asarray(state[name])).all()
    put = state.put([1], state.take([2]))
    reset = state.reset([0, 2])
    for name in state:
        assert (np.asarray(put[name][1]) == np.asarray(state[name][2])).all()
        assert (np.asarray(reset[name])[[0, 2]] == 0).all()
        assert (np.asarray(reset[name][1]) == np.asarray(state[name][1])).all()
        assert (np.asarray(state[name]) == np.asarray(numbered(3, library)[name])).all(), "the original has changed"


def test_rows_of_one_library_go_into_the_other() -> None:
    for here, there in (("numpy", "torch"), ("torch", "numpy")):
        put = numbered(2, here).put([0], numbered(2, there).take([1]))
        assert type(next(iter(put.values()))).__module__.startswith(here)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda s: s.take([3]),
        lambda s: s.take([-1]),
        lambda s: s.reset([5]),
        lambda s: s.put([0], s),
        lambda s: s.put([0, 0], s.take([0, 1])),
        lambda s: s.put([0], State({"other": np.zeros((1, 2))})),
        lambda s: State.stack([s, State({n: a[..., :1] for n, a in s.items()})]),
        lambda s: State.stack([]),
    ],
)
def test_misuse_is_said(misuse: object) -> None:
    with pytest.raises(UsageError):
        misuse(numbered(3, "numpy"))  # type: ignore[operator]


def test_a_base_model_has_no_state() -> None:
    with pytest.raises(UsageError, match="not causal"):
        state_shapes(family_config("a0", "base"), (5, 5))


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_save_and_load(library: str, tmp_path: Path) -> None:
    state = numbered(2, library)
    path = tmp_path / "state.safetensors"
    state.save(path)
    loaded = State.load(path)
    assert list(loaded) == list(state)
    for name in state:
        assert (loaded[name] == np.asarray(state[name])).all()
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_half_precision_is_saved_exactly(tmp_path: Path) -> None:
    state = State({"a": torch.rand(2, 3).bfloat16(), "b": torch.rand(2, 3).half()})
    state.save(tmp_path / "s.safetensors")
    loaded = State.load(tmp_path / "s.safetensors")
    for name in state:
        assert (torch.from_numpy(loaded[name]).float() == state[name].float()).all()


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "foreign"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    if damage == "foreign":
        import safetensors.numpy

        safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, path)
    elif damage != "missing":
        numbered(2, "numpy").save(path)
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"hello, world", "cut": data[:-5]}[damage])
    with pytest.raises(MovinetError, match=r"state\.safetensors"):
        State.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    numbered(1, "numpy").save(path)
    before = path.read_bytes()
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the writer says of an object array
        State({"a": np.array([object()])}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
