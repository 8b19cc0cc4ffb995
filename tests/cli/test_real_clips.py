"""`movinet predict` on real, odd and damaged videos, with real weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from movinet.cli import main
from tests.shared import SHARED, needs_shared

pytestmark = needs_shared

CLIPS = SHARED / "clips"
VIDEOS = sorted(path.name for path in CLIPS.glob("*") if path.suffix not in (".md", ".csv"))

SHOWS = {
    "arm_wrestling.mp4": "arm wrestling",
    "bad_bits_flipped.mp4": "arm wrestling",
    "bad_truncated.mkv": "flipping pancake",
    "carving_ice.mp4": "carving ice",
    "cleaning_pool.mp4": "cleaning pool",
    "dog_training.mp4": "training dog",
    "flipping_pancake.mkv": "flipping pancake",
    "hitting_baseball.mp4": "hitting baseball",
    "juggling_soccer_ball.mp4": "juggling soccer ball",
    "playing_drums.mp4": "playing drums",
    "swimming_butterfly.gif": "swimming butterfly stroke",
    "yoga.mp4": "yoga",
}
NOTHING_TO_SEE = {
    "bad_empty.mp4": "is empty",
    "bad_header_only_av1.mp4": "no frame",
    "bad_invalid.mp4": "is not a video",
    "bad_text.mp4": "is not a video",
    "bad_truncated_header.mp4": "is not a video",
    "odd_audio_only.m4a": "holds only sound",
    "odd_encrypted.mp4": "is encrypted",
}
DAMAGED = ("bad_bits_flipped.mp4", "bad_truncated.mkv", "odd_no_decodable_frame.mp4")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Google's own K600 A0, through `movinet convert`."""
    out = tmp_path_factory.mktemp("weights") / "a0.safetensors"
    assert main(["convert", str(SHARED / "weights/movinet_a0_stream_k600_int8.tflite"), str(out)]) == 0
    return str(out)


@pytest.mark.parametrize("name", VIDEOS)
def test_every_clip(name: str, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["predict", str(CLIPS / name), "--weights", weights, "--json"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    if name in NOTHING_TO_SEE:
        assert code == 3
        assert out == ""
        assert NOTHING_TO_SEE[name] in err
        return
    assert code == 0, err
    answer = json.loads(out)
    assert answer["frames"] >= 1
    if name in SHOWS:
        assert answer["answer"] == SHOWS[name]
    assert ("is damaged" in err) == (name in DAMAGED), err


def test_the_tables_name_files_that_are_there() -> None:
    assert {*SHOWS, *NOTHING_TO_SEE, *DAMAGED} <= set(VIDEOS)


def test_the_weights_say_what_they_are(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", weights]) == 0
    card = capsys.readouterr().out
    assert "model: movinet_a0_mobile (stream)" in card
    assert "TensorFlow Lite, int8" in card


def test_a_model_of_seven_behaviours_of_cows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"behaviour {i}" for i in range(7)))
    cow = str(SHARED / "weights/movinet_a0_stream_cow7_dynamic.tflite")
    clip = str(CLIPS / "cockatoo.mp4")
    assert main(["predict", clip, "--weights", cow, "--labels", str(labels), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"].startswith("behaviour")
    assert main(["predict", clip, "--model", "movinet_a0_stream", "--weights", cow, "--json"]) == 0
