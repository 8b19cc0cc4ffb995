from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import movinet
from movinet import factory
from movinet.config import Gate
from movinet.errors import DownloadError, UsageError, WeightsError
from movinet.model import Ensemble, MoViNet
from movinet.registry import REGISTRY, Source
from movinet.weights import class_names, detect, own, read
from movinet.weights.download import Fetched
from movinet.weights.names import Weights
from tests.models import small_clip, small_copy
from tests.shared import SHARED, needs_shared


def saved(path: Path, name: str, num_classes: int = 600, gate: Gate | None = None) -> Path:
    model = small_copy(name, torch.float32, num_classes)
    if gate is not None:
        model.config = dataclasses.replace(model.config, gate=gate)
    model.name, model.preprocessing = name, REGISTRY[name].preprocessing
    movinet.save_model(model, path)
    return path


@pytest.mark.parametrize("name", movinet.list_models("*_t0_*") + movinet.list_models("*_a0_*"))
def test_a_bare_model(name: str) -> None:
    model = movinet.create_model(name, num_classes=3)
    assert isinstance(model, MoViNet)
    assert not model.training
    assert model.name == name
    assert model.preprocessing == REGISTRY[name].preprocessing
    assert model.config == dataclasses.replace(REGISTRY[name].config, num_classes=3)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_default_gate_of_a_bare_stream_model_is_todays() -> None:
    for gate, expected in ((None, "relu6"), ("keras", "keras")):
        model = movinet.create_model("movinet_t0_stream", gate=gate)
        assert isinstance(model, MoViNet)
        assert model.config.gate == expected


def test_overrides_reach_the_configuration() -> None:
    model = movinet.create_model("movinet_t0_base", in_channels=1, causal=True, dropout=0.5)
    assert isinstance(model, MoViNet)
    assert (model.config.in_channels, model.config.causal, model.config.dropout) == (1, True, 0.5)
    with pytest.raises(UsageError, match="unknown configuration field 'chanels'"):
        movinet.create_model("movinet_t0_base", chanels=1)


def test_our_own_file_needs_no_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "t0.safetensors", "movinet_t0_stream", 7)
    model = movinet.create_model(pretrained=path)
    assert isinstance(model, MoViNet)
    clip = small_clip(dtype=torch.float32)
    assert torch.equal(model(clip), small_copy("movinet_t0_stream", torch.float32, 7)(clip))
    assert model.name == "movinet_t0_stream"
    assert model.labels is None
    assert movinet.create_model("movinet_t0_stream", pretrained=str(path)).name == model.name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_everything_that_travels_with_the_weights_comes_back(tmp_path: Path) -> None:
    model = small_copy("movinet_a0_stream", torch.float32, 3)
    model.config = dataclasses.replace(model.config, gate="keras")
    model.labels = ("stehen", "gehen", "läuft 🏃")
    model.preprocessing = movinet.Preprocessing((96, 128), 110, 12.5, 25, (-1.0, 1.0))
    model.provenance = {"gate_source": "asked for"}
    movinet.save_model(model, tmp_path / "m.safetensors")
    again = movinet.create_model(pretrained=tmp_path / "m.safetensors")
    assert isinstance(again, MoViNet)
    assert (again.config, again.labels, again.preprocessing) == (model.config, model.labels, model.preprocessing)
    assert again.provenance["gate_source"] == "asked for"


def test_another_number_of_classes_gives_a_fresh_head(tmp_path: Path) -> None:
    path = saved(tmp_path / "t0.safetensors", "movinet_t0_stream", 7)
    model = movinet.create_model(pretrained=path, num_classes=4)
    same = movinet.create_model(pretrained=path)
    assert isinstance(model, MoViNet)
    assert isinstance(same, MoViNet)
    clip = small_clip(dtype=torch.float32)
    assert model(clip).shape == (2, 4)
    assert torch.equal(model.forward_features(clip), same.forward_features(clip))


def test_600_classes_are_those_of_kinetics(tmp_path: Path) -> None:
    model = movinet.create_model(pretrained=saved(tmp_path / "t0.safetensors", "movinet_t0_stream"))
    assert model.labels is not None
    assert (len(model.labels), model.labels[0], model.labels[-1]) == (600, "abseiling", "zumba")
    assert class_names(400) is not None
    assert class_names(5) is None


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "t0.safetensors", "movinet_t0_stream", 7)
    with pytest.raises(WeightsError, match="movinet_t0_stream, not movinet_a0_stream"):
        movinet.create_model("movinet_a0_stream", pretrained=path)
    with pytest.raises(UsageError, match="in_channels would change the shapes"):
        movinet.create_model(pretrained=path, in_channels=1)


def test_causal_3d_is_asked_for_by_configuration(tmp_path: Path) -> None:
    path = saved(tmp_path / "t0.safetensors", "movinet_t0_base", 7)
    model = movinet.create_model("movinet_t0_base", pretrained=path, causal=True)
    assert isinstance(model, MoViNet)
    assert model.config.causal
    model.step(small_clip(dtype=torch.float32), model.init_state(2, (19, 26)))


def test_an_ensemble_takes_a_file_for_each_member() -> None:
    model = movinet.create_model("movinet_a6_base", num_classes=3)
    assert isinstance(model, Ensemble)
    assert [member.name for member in model.members] == ["movinet_a4_base", "movinet_a5_base"]
    with pytest.raises(UsageError, match="one file for each of movinet_a4_base, movinet_a5_base"):
        movinet.create_model("movinet_a6_base", pretrained="a.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give the name of a model"),
        ({"pretrained": True}, "give the name of a model"),
        ({"pretrained": "kinetics600"}, "give the name of a model"),
        ({"name": "movinet_t0_base", "pretrained": True}, "no published weights of movinet_t0_base"),
        ({"name": "movinet_a0_stream", "pretrained": "kinetics400"}, "they exist for kinetics600"),
        ({"name": "movinet_a0_stream", "num_classes": 0}, "num_classes is 0"),
        ({"name": "movinet_a0_stream", "pretrained": ["a", "b"]}, "takes one pretrained file"),
    ],
)
def test_misuse_is_said(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        movinet.create_model(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"hello, world, this is text", "of no kind that can be read"),
        (b"\x00" * 600, "of no kind that can be read"),
    ],
)
def test_files_of_no_kind(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read(path)


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    path = saved(tmp_path / "t0.safetensors", "movinet_t0_stream", 2)
    odd = path.rename(tmp_path / "weights.dat")
    assert detect(odd) == "own"
    for content, kind in ((b"\x1c\0\0\0TFL3" + b"\0" * 9, "tflite"), (b"PK\x03\x04" + b"\0" * 9, "port")):
        odd.write_bytes(content)
        assert detect(odd) == kind
    assert detect(tmp_path) == "tensorflow"


def test_an_archive_with_a_single_tflite_file_is_read_as_one(tmp_path: Path) -> None:
    import tarfile

    for name, content in (("1.tflite", b"\x1c\0\0\0TFL3" + b"\0" * 40), ("notes.txt", b"nothing here")):
        (tmp_path / name).write_bytes(content)
        with tarfile.open(tmp_path / "kaggle.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / name, name)
        expected = r"model\.tflite" if name.endswith("tflite") else "no TensorFlow checkpoint"
        with pytest.raises(WeightsError, match=expected):
            read(tmp_path / "kaggle.tar.gz")


@needs_shared
def test_an_archive_of_a_real_tflite_file(tmp_path: Path) -> None:
    import tarfile

    file = SHARED / "weights/movinet_a0_stream_k600_int8.tflite"
    with tarfile.open(tmp_path / "kaggle.tar.gz", "w:gz") as tar:
        tar.add(file, "1.tflite")
    packed, plain = read(tmp_path / "kaggle.tar.gz"), read(file)
    assert packed.provenance["file"] == "kaggle.tar.gz"
    assert all(np.array_equal(packed.tensors[name], plain.tensors[name]) for name in plain.tensors)


# --- published weights ---


def test_published_stream_weights_take_the_gate_they_were_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Source, ...]] = []

    def fetch(sources: tuple[Source, ...]) -> Fetched:
        asked.append(sources)
        return Fetched(saved(tmp_path / "a0.safetensors", "movinet_a0_stream"), sources[0], "")

    monkeypatch.setattr("movinet.weights.download.fetch", fetch)
    model = movinet.create_model("movinet_a0_stream", pretrained=True)
    assert isinstance(model, MoViNet)
    assert asked == [REGISTRY["movinet_a0_stream"].sources["kinetics600"]]
    assert asked[0][0].url.endswith("movinet_a0_stream.tar.gz")
    assert [source.kind for source in asked[0]] == ["tensorflow", "saved_model", "saved_model", "port"]
    assert model.config.gate == "keras"
    assert "2021" in model.provenance["gate_source"]
    forced = movinet.create_model("movinet_a0_stream", pretrained=True, gate="relu6")
    assert isinstance(forced, MoViNet)
    assert (forced.config.gate, forced.provenance["gate_source"]) == ("relu6", "asked for")


def test_when_no_source_answers_the_error_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOVINET_HOME", str(tmp_path))
    monkeypatch.setenv("MOVINET_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"(?s)movinet_a0_stream\.tar\.gz.*--weights"):
        movinet.create_model("movinet_a0_stream", pretrained=True)


@pytest.mark.parametrize("name", [n for n in movinet.list_models() if "t0" not in n and "a6" not in n])
def test_every_published_model_has_sources(name: str) -> None:
    sources = REGISTRY[name].sources
    assert set(sources) == ({"kinetics600", "kinetics400"} if name.endswith("base") else {"kinetics600"})
    for source in (source for listed in sources.values() for source in listed):
        assert source.url.startswith("https://")
        assert "/" not in source.file_name


def test_weights_are_copied_not_shared(tmp_path: Path) -> None:
    weights = own.read(saved(tmp_path / "t0.safetensors", "movinet_t0_stream", 2))
    assert isinstance(weights, Weights)
    model = factory.build(weights.config, weights.tensors)
    with torch.no_grad():
        model.stem.conv.weight.zero_()
    assert np.any(weights.tensors["stem.conv.weight"])
