from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import movinet
from movinet import engines
from movinet.config import Preprocessing
from movinet.errors import UsageError, VideoError
from movinet.inference import sampling_rate
from movinet.model import Ensemble, MoViNet
from movinet.stream import softmax
from movinet.video import preprocess
from tests.engines.native import native_is_built
from tests.models import small_copy

SMALL = Preprocessing((32, 40), 36, 5, 10)
ENGINES = ["torch", *(["native"] if native_is_built() else [])]
LABELS = ("walk", "run", "jump", "fall", "wave")


def model_of(name: str = "movinet_t0_stream", wanted: Preprocessing = SMALL, seed: int = 0) -> MoViNet:
    model = small_copy(name, torch.float32, seed=seed)
    model.name, model.preprocessing, model.labels = name, wanted, LABELS
    return model


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 200, (54, 70, 3))
    return [(still + rng.integers(0, 56, (54, 70, 3))).astype(np.uint8) for _ in range(count)]


def as_folder(folder: Path, images: list[np.ndarray]) -> Path:
    from PIL import Image

    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def test_a_stream_is_the_clip_of_its_preprocessed_frames() -> None:
    model, images = model_of(), pictures(6)
    stream = movinet.Stream(model, top=3)
    said = [stream(image) for image in images]
    clip = torch.from_numpy(np.stack([preprocess(image, SMALL) for image in images])).permute(0, 3, 1, 2)[None]
    assert np.allclose(said[-1].logits, model(clip)[0], atol=1e-5)
    assert [p.time for p in said] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    order = np.argsort(-said[-1].logits)
    assert said[-1].labels == tuple(LABELS[i] for i in order[:3])
    assert said[-1].probabilities == pytest.approx(softmax(said[-1].logits)[order[:3]])
    assert (said[-1].label, said[-1].probability) == said[-1].top[0]


def test_reset_forgets_everything() -> None:
    stream, images = movinet.Stream(model_of()), pictures(4)
    first = [stream(image).logits for image in images]
    assert not np.allclose(stream(images[0]).logits, first[0])
    stream.reset()
    assert [np.array_equal(stream(image).logits, logits) for image, logits in zip(images, first, strict=True)] == [
        True
    ] * 4


def test_the_state_can_be_carried_to_another_stream(tmp_path: Path) -> None:
    model, images = model_of(), pictures(4)
    one, other = movinet.Stream(model), movinet.Stream(model)
    for image in images[:2]:
        one(image)
    assert one.state is not None
    one.state.save(tmp_path / "state.safetensors")
    other.state = movinet.State.load(tmp_path / "state.safetensors")
    for image in images[2:]:
        assert np.array_equal(one(image).logits, other(image).logits)


def test_tensors_are_taken_as_they_are() -> None:
    model = model_of()
    frame = torch.rand(3, 24, 50)
    assert np.allclose(movinet.Stream(model)(frame, time=7.0).logits, model(frame[None, None])[0], atol=1e-5)


def test_a_value_range_other_than_0_to_1() -> None:
    model = model_of(wanted=dataclasses.replace(SMALL, value_range=(-1.0, 1.0)))
    image = pictures(1)[0]
    wanted = torch.from_numpy(preprocess(image, SMALL)).permute(2, 0, 1)[None, None] / 127.5 - 1
    assert np.allclose(movinet.Stream(model)(image).logits, model(wanted)[0], atol=1e-5)


def test_misuse_is_said() -> None:
    model = model_of()
    with pytest.raises(UsageError, match="movinet_t0_base cannot stream"):
        movinet.Stream(model_of("movinet_t0_base"))
    with pytest.raises(UsageError, match="2 labels for a model of 5 classes"):
        movinet.Stream(model, labels=["a", "b"])
    for frame in (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((2, 8, 8, 3), np.uint8)):
        with pytest.raises(UsageError, match="a frame must be"):
            movinet.Stream(model)(frame)
    with pytest.raises(UsageError, match="feed one at a time"):
        movinet.Stream(model)(torch.zeros(2, 3, 8, 8))
    for engine in ENGINES:
        stream = movinet.Stream(model, engine=engine)
        stream(torch.zeros(3, 8, 8))
        with pytest.raises(UsageError, match=r"must stay those of init_state|must keep their size"):
            stream(torch.zeros(3, 40, 8))
    with pytest.raises(UsageError, match="unknown engine 'warp'"):
        movinet.Stream(model, engine="warp")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="in float32 on a CPU"):
        movinet.Stream(model_of().half(), engine="native")


@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
def test_a_stream_moves_from_one_engine_to_another(first: Any, second: Any) -> None:
    model, images = model_of(), pictures(6)
    whole = movinet.Stream(model, engine="torch")
    expected = [whole(image).logits for image in images]
    one, other = movinet.Stream(model, engine=first), movinet.Stream(model, engine=second)
    for image in images[:3]:
        one(image)
    other.state = one.state
    for image, logits in zip(images[3:], expected[3:], strict=True):
        assert np.allclose(other(image).logits, logits, atol=1e-5)


def test_without_the_library_streams_run_on_torch_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UsageError("the native engine is not built")

    monkeypatch.setattr(engines.native, "library", missing)
    with pytest.warns(UserWarning, match="several times slower: the native engine is not built"):
        stream = movinet.Stream(model_of())
    assert stream.engine == "torch"
    with pytest.raises(UsageError, match="not built"):
        movinet.Stream(model_of(), engine="native")


def test_classes_without_names() -> None:
    model = model_of()
    model.labels = None
    assert movinet.Stream(model)(pictures(1)[0]).label.startswith("class ")


# --- whole videos ---


def test_a_video_through_a_stream_model(tmp_path: Path) -> None:
    model, images = model_of(), pictures(5)
    stream = movinet.Stream(model)
    expected = [stream(image) for image in images]
    folder = as_folder(tmp_path / "video", images)
    with movinet.open_video(folder, pictures_fps=5, fps=5) as video:
        from movinet.inference import follow

        found = list(follow(video, model))
    assert [p.time for p in found] == pytest.approx([p.time for p in expected])
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(found, expected, strict=True))


def test_predict_is_the_last_prediction(tmp_path: Path) -> None:
    model = model_of()
    folder = as_folder(tmp_path / "video", pictures(9))
    *_, last = movinet.predictions(folder, model, top=2)
    answer = movinet.predict(folder, model, top=2)
    assert (answer.time, answer.top) == (last.time, last.top)
    assert len(answer.labels) == 2


def test_predict_takes_a_file_of_weights(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "video", pictures(3))
    movinet.save_model(model_of(), tmp_path / "m.safetensors")
    answer = movinet.predict(folder, tmp_path / "m.safetensors")
    assert answer.top == movinet.predict(folder, model_of()).top


def test_a_base_model_sees_the_video_in_clips(tmp_path: Path) -> None:
    model = model_of("movinet_t0_base", dataclasses.replace(SMALL, frames=4))
    images = pictures(10)
    said = list(movinet.predictions(as_folder(tmp_path / "v", images), model))
    times = [movinet_frame.time for movinet_frame in movinet.open_video(tmp_path / "v", fps=5)]
    clip = torch.from_numpy(np.stack([preprocess(i, SMALL) for i in _resampled(tmp_path / "v")])).permute(0, 3, 1, 2)[
        None
    ]
    parts = [clip[:, start : start + 4] for start in range(0, clip.shape[1], 4)]
    softmaxes = [softmax(model(part)[0].numpy()) * part.shape[1] for part in parts]
    mean = sum(softmaxes) / clip.shape[1]
    assert len(said) == len(parts)
    assert said[-1].time == pytest.approx(times[-1])
    assert dict(said[-1].top)[LABELS[int(mean.argmax())]] == pytest.approx(mean.max(), abs=1e-5)


def _resampled(folder: Path) -> list[np.ndarray]:
    return [frame.image for frame in movinet.open_video(folder, fps=5)]


def test_an_ensemble_feeds_each_member_at_its_own_rate_and_size(tmp_path: Path) -> None:
    members = [
        model_of("movinet_t0_base", Preprocessing((32, 40), 36, 2, 4)),
        model_of("movinet_t0_base", Preprocessing((24, 24), 30, 3, 6), seed=1),
    ]
    both = Ensemble(members)
    assert sampling_rate(both) == 6
    folder = as_folder(tmp_path / "v", pictures(12))
    said = list(movinet.predictions(folder, both))
    images = [frame.image for frame in movinet.open_video(folder, fps=6)][:12]
    clips = [
        torch.from_numpy(np.stack([preprocess(i, m.preprocessing) for i in images[::step]])).permute(0, 3, 1, 2)[None]
        for m, step in zip(members, (3, 2), strict=True)
        if m.preprocessing
    ]
    assert np.allclose(said[0].logits, both(clips)[0], atol=1e-5)


def test_a_video_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="empty"):
        movinet.predict(tmp_path / "empty", model_of())
