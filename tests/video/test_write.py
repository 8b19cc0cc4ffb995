from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from movinet.errors import UsageError, VideoError
from movinet.video import VideoWriter, check_output, open_video, save_picture
from tests.video.synthetic import number_of, picture


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".MP4"])
@pytest.mark.parametrize("size", [(48, 64), (33, 51)])
def test_round_trip(tmp_path, suffix, size):
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, size, 5) as writer:
        for number in range(12):
            writer.write(picture(number, size))
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with open_video(path) as video:
        frames = list(video)
    assert [number_of(frame.image) for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([i / 5 for i in range(12)], abs=0.011)
    height, width = frames[0].image.shape[:2]
    assert (height - size[0], width - size[1]) in ((0, 0), (size[0] % 2, size[1] % 2))
    corner = frames[3].image[2:6, 2:8].mean((0, 1))
    np.testing.assert_allclose(corner, (220, 20, 20), atol=25)


def test_mp4_plays_while_it_loads(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, (48, 64), 5) as writer:
        writer.write(picture(0))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_large_fast_gifs_are_reduced(tmp_path):
    path = tmp_path / "a.gif"
    with VideoWriter(path, (300, 600), 30) as writer:
        for number in range(60):
            writer.write(picture(number, (300, 600)))
    with open_video(path) as video:
        assert (video.height, video.width) == (200, 400)
        frames = list(video)
    assert 18 <= len(frames) <= 21
    assert frames[-1].time == pytest.approx(1.9, abs=0.15)


def _write_and_fail(path, written, error):
    with VideoWriter(path, (48, 64), 5) as writer:
        for number in range(written):
            writer.write(picture(number))
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("written", [0, 1, 30])
def test_failure_leaves_the_old_file(tmp_path, suffix, error, written):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(error):
        _write_and_fail(path, written, error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_use(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(UsageError, match="no frame"), VideoWriter(path, (48, 64), 5):
        pass
    with pytest.raises(UsageError, match=r"\(48, 64, 3\)"), VideoWriter(path, (48, 64), 5) as writer:
        writer.write(np.zeros((48, 66, 3), np.uint8))
    with pytest.raises(UsageError, match="inside"):
        VideoWriter(path, (48, 64), 5).write(picture(0))
    for size, fps in (((0, 5), 5), ((10**6, 5), 5), ((48, 64), 0), ((48, 64), float("nan"))):
        with pytest.raises(UsageError):
            VideoWriter(path, size, fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("a.mov", "video", ".mp4, .webm, .gif"),
        ("a", "video", "no suffix"),
        ("a.mp4", "picture", ".png"),
        ("missing/a.png", "picture", "no folder"),
        ("folder.mp4", "video", "is a folder"),
    ],
)
def test_output_is_checked_first(tmp_path, name, kind, words):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UsageError) as caught:
        check_output(tmp_path / name, kind)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_unwritable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UsageError, match="not writable"):
        check_output(tmp_path / "a.png", "picture")


def test_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-a.mp4", "a%03d.mp4", "a b'.gif"):
        with VideoWriter(name, (16, 16), 5) as writer:
            writer.write(picture(1, (16, 16)))
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".JPEG"])
def test_pictures(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_picture(path, picture(11))
    save_picture(path, Image.fromarray(picture(99)).convert("RGBA"))
    assert list(tmp_path.iterdir()) == [path]
    assert number_of(np.asarray(Image.open(path).convert("RGB"))) == 99


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(VideoError, match="No space left"):
        save_picture(path, picture(0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fps", [1, 10, 25, 60])
@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_single_frame_is_a_video(tmp_path: Path, suffix: str, fps: int) -> None:
    path = tmp_path / f"one{suffix}"
    with VideoWriter(path, (40, 60), fps) as writer:
        writer.write(np.full((40, 60, 3), 200, np.uint8))
    with open_video(path) as video:
        assert len(list(video)) == 1
