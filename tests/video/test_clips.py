from __future__ import annotations

import numpy as np
import pytest

from movinet.errors import VideoError
from movinet.video import open_video, probe
from tests.shared import SHARED, needs_shared

pytestmark = needs_shared

# What can be seen, as (frames at 5 per second, "damaged" or ""); or the words of the error.
EXPECTED: dict[str, tuple[int, str] | str] = {
    "-leading-dash.mp4": (25, ""),
    "arm_wrestling.mp4": (50, ""),
    "bad_bits_flipped.mp4": (50, "damaged"),
    "bad_empty.mp4": "empty (0 bytes)",
    "bad_header_only_av1.mp4": "no frame",
    "bad_invalid.mp4": "not a video",
    "bad_text.mp4": "not a video",
    "bad_truncated.mkv": (30, "ends at 6.0 s of 10.3 s"),
    "bad_truncated_header.mp4": "not a video",
    "carving_ice.mp4": (34, ""),
    "cctv_short.gif": (11, ""),
    "cctv_short.mp4": (11, ""),
    "cleaning_pool.mp4": (50, ""),
    "cockatoo.mp4": (70, ""),
    "codec_av1.mkv": (25, ""),
    "codec_camera.AVI": (14, ""),
    "codec_h264_10bit.mp4": (5, ""),
    "codec_h265.mp4": (5, ""),
    "codec_many_streams.mp4": (66, ""),
    "codec_old_phone.3gp": (25, ""),
    "codec_quicktime.mov": (6, ""),
    "coffee.mp4": (48, ""),
    "dog_training.mp4": (49, ""),
    "eating_spaghetti.mp4": (50, ""),
    "flipping_pancake.mkv": (52, ""),
    "hitting_baseball.mp4": (50, ""),
    "juggling_soccer_ball.mp4": (52, ""),
    "newtons_cradle.gif": (5, ""),
    "odd_audio_only.m4a": "only sound",
    "odd_encrypted.mp4": "encrypted",
    "odd_failing_audio.mp4": (56, ""),
    "odd_grey.mkv": (5, ""),
    "odd_latin1_metadata.avi": (5, ""),
    # 49 of its 50 frames decode, one packet does not: FFmpeg shows them, and so do we.
    "odd_no_decodable_frame.mp4": (25, "could not be decoded"),
    "odd_no_duration.webm": (25, ""),
    "odd_one_frame.mp4": (1, ""),
    "odd_one_frame_per_second.mp4": (100, ""),
    "odd_rotation_0.mov": (1, ""),
    "odd_rotation_180.mov": (1, ""),
    "odd_rotation_270.mov": (1, ""),
    "odd_rotation_90.mov": (1, ""),
    "odd_tall_34x300.mp4": (5, ""),
    "odd_tiny_unordered.mov": (1, ""),
    "odd_transparent.webm": (25, ""),
    "odd_variable_frame_rate.mp4": (64, ""),
    "odd_very_small_16x10.mp4": (5, ""),
    "pan_left_street.mp4": (16, ""),
    "playing_drums.mp4": (182, ""),
    "short_table.mp4": (6, ""),
    "stretching_indoors.avi": (18, ""),
    "swimming_butterfly.gif": (11, ""),
    "yoga.mp4": (50, ""),
}


def test_no_clip_is_forgotten():
    clips = {path.name for path in (SHARED / "clips").iterdir() if path.suffix not in (".md", ".csv")}
    assert clips == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_clip(name):
    path = SHARED / "clips" / name
    expected = EXPECTED[name]
    if isinstance(expected, str):
        with pytest.raises(VideoError) as caught:
            open_video(path, fps=5)
        assert expected in str(caught.value)
        assert name in str(caught.value)
        return
    count, damage = expected
    with open_video(path, fps=5) as video:
        seen = 0
        for frame in video:
            assert frame.image.shape == (video.height, video.width, 3)
            assert frame.time == frame.index / 5
            seen += 1
    assert abs(seen - count) <= (2 if damage else 0)
    assert damage in video.damage.text
    assert bool(video.damage) == bool(damage)
    if video.frame_count is not None and not damage:
        assert abs(video.frame_count - seen) <= 1


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("odd_rotation_0.mov", (568, 320)),
        ("odd_rotation_90.mov", (320, 568)),
        ("odd_rotation_180.mov", (568, 320)),
        ("odd_rotation_270.mov", (320, 568)),
    ],
)
def test_rotated_clips_are_turned(name, size):
    info = probe(SHARED / "clips" / name)
    assert (info.width, info.height) == size


def test_times_of_the_disordered_avi_rise():
    with open_video(SHARED / "clips" / "stretching_indoors.avi") as video:
        times = [frame.time for frame in video]
    assert len(times) == 103
    assert np.diff(times).min() > 0
    assert times[-1] == pytest.approx(102 / 30, abs=0.2)
