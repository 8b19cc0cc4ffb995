"""The commands as a user types them, without the reference material."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import movinet
from movinet.cli import COMMANDS, build_parser, main
from movinet.cli.common import seconds
from movinet.config import Preprocessing
from movinet.video import VideoWriter, open_video
from tests.models import small_copy

LABELS = ("walk", "run", "jump", "fall", "wave")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = small_copy("movinet_t0_stream", torch.float32)
    model.name, model.preprocessing, model.labels = "movinet_t0_stream", Preprocessing((32, 32), 36, 5, 10), LABELS
    path = tmp_path_factory.mktemp("weights") / "t0.safetensors"
    movinet.save_model(model, path)
    return str(path)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path, (48, 64), 10) as writer:
        for index in range(30):
            writer.write(np.roll(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) // 4, index, 1))
    return str(path)


def test_predict_says_what_the_library_says(video: str, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", video, "--weights", weights, "--json", "--every", "1s", "--top", "2"]) == 0
    *every, answer = map(json.loads, capsys.readouterr().out.splitlines())
    said = list(movinet.predictions(video, weights, top=2))
    assert [line["time"] for line in every] == [0.0, 1.0, 2.0]
    for line in every:
        prediction = next(p for p in said if p.time == pytest.approx(line["time"]))
        assert [(c["label"], c["probability"]) for c in line["top"]] == [(n, round(p, 6)) for n, p in prediction.top]
    assert answer["answer"] == said[-1].label
    assert answer["frames"] == len(said) == 15
    assert answer["model"] == "movinet_t0_stream"


def test_predict_prints_bars(video: str, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", video, "--weights", weights, "--every", "500ms"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if " s  " in line]) == 6
    assert all(any(label in line for line in out[-5:]) for label in LABELS)
    assert all(line.endswith("%") for line in out[-5:])


def test_predict_saves_video_gif_and_picture(video: str, weights: str, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("out.mp4", "out.gif", "timeline.png")]
    assert main(["predict", video, "--weights", weights, *(a for out in outs for a in ("--save", str(out)))]) == 0
    with open_video(outs[0]) as drawn:
        frames = list(drawn)
        assert len(frames) == 30
        assert drawn.rate == pytest.approx(10)
    with open_video(video) as original:
        differences = [np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(frames, original, strict=True)]
    assert min(differences) > 1, "nothing was drawn"
    with open_video(outs[1]) as gif:
        assert len(list(gif)) == 30
    with Image.open(outs[2]) as picture:
        assert picture.size == (1080, 480)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gif", "out.mp4", "timeline.png"]


def test_a_name_like_an_option_is_a_file(
    video: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-clip.mp4").write_bytes(Path(video).read_bytes())
    assert main(["predict", "-clip.mp4", "--weights", weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 15


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "nowhere.mp4", "--weights", "WEIGHTS"], 3, "nowhere.mp4"),
        (["predict", "VIDEO", "--weights", "nowhere.tflite"], 4, "there is no file or checkpoint nowhere.tflite"),
        (["predict", "VIDEO", "--weights", "VIDEO"], 4, "of no kind that can be read"),
        (["predict", "TEXT", "--weights", "WEIGHTS"], 3, "is not a video"),
        (["predict", "VIDEO", "--model", "movinet_a9", "--weights", "WEIGHTS"], 2, "unknown model 'movinet_a9'"),
        (["predict", "VIDEO", "--model", "movinet_a0_stream", "--weights", "WEIGHTS"], 4, "not movinet_a0_stream"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--labels", "TEXT"], 2, "has 1 names, the model 5 classes"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--labels", "none.txt"], 2, "none.txt cannot be read"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--top", "0"], 2, "--top is 0"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--save", "out.xyz"], 2, "out.xyz"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--save", "no/such/out.mp4"], 2, "no/such"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--save", "VIDEO"], 2, "is the video itself"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--device", "warp"], 2, "--device warp"),
        (["predict", "VIDEO", "--weights", "WEIGHTS", "--threads", "0"], 2, "--threads is 0"),
        (["predict", "VIDEO"], 5, "--weights"),
        (["models", "resnet*"], 2, "no model matches 'resnet*'"),
        (["info", "TEXT"], 4, "of no kind that can be read"),
        (["convert", "WEIGHTS", "out.bin"], 2, "must end in .safetensors"),
        (["convert", "WEIGHTS", "WEIGHTS"], 2, "exists; give another name, or --force"),
        (["convert", "TEXT", "out.safetensors"], 4, "of no kind that can be read"),
        (["convert", "movinet_a6_base", "out.safetensors"], 2, "is an ensemble"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    video: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOVINET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOVINET_OFFLINE", "1")
    text = tmp_path / "text.mp4"
    text.write_text("nothing to see")
    named = {"VIDEO": video, "WEIGHTS": weights, "TEXT": str(text)}
    before = set(tmp_path.iterdir())
    assert main([named.get(argument, argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"movinet {arguments[0]}: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert {path for path in tmp_path.iterdir() if path.name != "home"} == before


def test_labels_replace_the_models_own(
    video: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["eins", "zwei", "drei", "vier", "fünf"]
    for file, text in (("a.txt", "\n".join(names) + "\n"), ("b.json", json.dumps(names))):
        (tmp_path / file).write_text(text, "utf-8")
        assert main(["predict", video, "--weights", weights, "--labels", str(tmp_path / file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["answer"] in names


def test_convert_and_info(weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again.safetensors"
    assert main(["convert", weights, str(out), "--gate", "keras"]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    assert main(["info", str(out), "--all-labels"]) == 0
    card = capsys.readouterr().out
    assert "model: movinet_t0_stream (stream)" in card
    assert "gate: keras (asked for)" in card
    assert "32x32 pixels cropped from short side 36, 5 frames per second" in card
    assert card.splitlines()[-5:] == list(LABELS)
    model = movinet.create_model(pretrained=out)
    assert isinstance(model, movinet.MoViNet)
    assert dataclasses.replace(model.config, gate="relu6") == small_copy("movinet_t0_stream").config


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "movinet_a0_*"]) == 0
    out = capsys.readouterr().out
    assert "movinet_a0_stream" in out
    assert "3,748,031" in out
    assert main(["models", "movinet_a[06]_base", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["movinet_a0_base", "movinet_a6_base"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert COMMANDS[command][1:] in " ".join(capsys.readouterr().out.split())


def test_the_parser_names_exit_codes() -> None:
    assert "3 video, 4 weights" in build_parser().format_help()


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("1s", 1.0), ("500ms", 0.5), ("2m", 120.0), (".5s", 0.5)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1h", "nan", "1e9", "s"])
def test_wrong_durations(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "x.mp4", "--every", text])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_installed_command_and_a_closed_pipe(video: str, weights: str) -> None:
    command = [sys.executable, "-m", "movinet", "predict", video, "--weights", weights, "--every", "200ms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "%" in process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait() == 0
