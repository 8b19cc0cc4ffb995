from __future__ import annotations

import numpy as np
import pytest

from movinet.config import Preprocessing
from movinet.errors import UsageError
from movinet.video import (
    center_crop,
    crop_resize,
    normalize,
    open_video,
    preprocess,
    resize_bilinear,
    resize_short_side,
    three_crops,
)
from tests.shared import SHARED, needs_shared

CASES = ("wide", "tall", "exact", "small")


@pytest.fixture(scope="module")
def golden():
    return np.load(SHARED / "golden" / "frames.npz")


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_reference_pictures(golden, case):
    frames = golden[f"{case}/input"]
    resized = resize_short_side(frames, 48)
    ours = {
        "resize_smallest_48": resized,
        "center_crop_44x40": center_crop(resized, (44, 40)),
        "three_crops_44x40": three_crops(resized, (44, 40)),
        "pad_crop_72x72": center_crop(resized, (72, 72)),
        "unit": normalize(resized),
        "zero_centred": normalize(resized, (-1, 1)),
        "crop_3_5_17_23_resize_32x36": crop_resize(frames, (3, 5, 17, 23), (32, 36)),
    }
    assert {f"{case}/{name}" for name in ours} | {f"{case}/input"} == {n for n in golden.files if n.startswith(case)}
    for name, array in ours.items():
        expected = golden[f"{case}/{name}"]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected, err_msg=name)
    np.testing.assert_array_equal(
        preprocess(frames, Preprocessing((44, 40), 48, 5, 50)), golden[f"{case}/center_crop_44x40"]
    )
    np.testing.assert_array_equal(
        preprocess(frames, Preprocessing((72, 72), 48, 5, 50)), golden[f"{case}/pad_crop_72x72"]
    )


def plain_resize(image, size, *, y_first=False, half_pixel=True, truncate=True):
    """Straight from the description, one pixel formula, with switches for what could be done wrong."""

    def taps(old, new):
        scale = np.float32(old) / np.float32(new)
        grid = np.arange(new, dtype=np.float32)
        source = (grid + np.float32(0.5)) * scale - np.float32(0.5) if half_pixel else grid * scale
        low = np.floor(source)
        weight = (source - low).astype(np.float32)
        return np.maximum(low, 0).astype(int), np.minimum(low + 1, old - 1).astype(int), weight

    y0, y1, wy = taps(image.shape[0], size[0])
    x0, x1, wx = taps(image.shape[1], size[1])
    image = image.astype(np.float32)
    wy, wx = wy[:, None, None], wx[None, :, None]
    if y_first:
        rows = image[y0] + (image[y1] - image[y0]) * wy
        result = rows[:, x0] + (rows[:, x1] - rows[:, x0]) * wx
    else:
        columns = image[:, x0] + (image[:, x1] - image[:, x0]) * wx
        result = columns[y0] + (columns[y1] - columns[y0]) * wy
    return (result if truncate else np.rint(result)).astype(np.uint8)


@needs_shared
def test_wrong_resizes_are_noticed(golden):
    from PIL import Image

    frames = golden["wide/input"]
    expected = golden["wide/resize_smallest_48"]
    size = expected.shape[1:3]

    def differs(resize):
        return any((resize(frame) != right).any() for frame, right in zip(frames, expected, strict=True))

    assert not differs(lambda frame: plain_resize(frame, size))
    assert differs(lambda frame: plain_resize(frame, size, y_first=True))
    assert differs(lambda frame: plain_resize(frame, size, half_pixel=False))
    assert differs(lambda frame: plain_resize(frame, size, truncate=False))
    antialiased = Image.Resampling.BILINEAR
    assert differs(lambda frame: np.asarray(Image.fromarray(frame).resize(size[::-1], antialiased)))


@pytest.mark.parametrize(
    ("old", "new"), [((37, 53), (19, 20)), ((9, 7), (40, 31)), ((50, 3), (20, 30)), ((1, 1), (4, 5)), ((8, 8), (8, 3))]
)
def test_resize_is_the_formula(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_bilinear(image, new), plain_resize(image, new))


@pytest.mark.parametrize("size", [(172, 172), (160, 200), (250, 100), (12, 300)])
@pytest.mark.parametrize("shape", [(240, 320), (361, 202), (172, 192), (20, 31), (1, 1), (34, 300), (192, 192)])
def test_cropping_first_changes_nothing(shape, size):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = center_crop(resize_short_side(image, 192), size)
    np.testing.assert_array_equal(preprocess(image, Preprocessing(size, 192, 5, 50)), whole)


def test_batches_and_views():
    clip = np.random.default_rng(2).integers(0, 256, (2, 3, 40, 60, 3), dtype=np.uint8)
    done = resize_short_side(clip, 24)
    assert done.shape == (2, 3, 24, 36, 3)
    np.testing.assert_array_equal(done[1, 2], resize_short_side(clip[1, 2], 24))
    mirrored = clip[0, 0, :, ::-1]
    np.testing.assert_array_equal(resize_bilinear(mirrored, (20, 20)), resize_bilinear(mirrored.copy(), (20, 20)))


def test_normalize_ends():
    ends = np.array([0, 255], np.uint8)
    assert normalize(ends).tolist() == [0, 1]
    assert normalize(ends, (-1, 1)) == pytest.approx([-1, 1])
    assert normalize(ends, (0, 255)).tolist() == [0, 255]


@pytest.mark.parametrize(
    "call",
    [
        lambda: resize_short_side(np.zeros((4, 4, 3), np.float32), 2),
        lambda: resize_bilinear(np.zeros((4, 4), np.uint8), (2, 2)),
        lambda: resize_bilinear(np.zeros((4, 4, 3), np.uint8), (0, 2)),
        lambda: resize_bilinear(np.zeros((0, 4, 3), np.uint8), (1, 2)),
        lambda: crop_resize(np.zeros((4, 4, 3), np.uint8), (2, 2, 3, 1), (2, 2)),
        lambda: three_crops(np.zeros((1, 4, 4, 3), np.uint8), (5, 2)),
        lambda: preprocess(np.zeros((4, 4, 3), np.int16), Preprocessing((2, 2), 3, 5, 50)),
    ],
)
def test_wrong_arrays(call):
    with pytest.raises(UsageError):
        call()


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        *("arm_wrestling.mp4", "carving_ice.mp4", "cleaning_pool.mp4", "coffee.mp4", "dog_training.mp4"),
        *("flipping_pancake.mkv", "hitting_baseball.mp4", "juggling_soccer_ball.mp4", "playing_drums.mp4"),
        "swimming_butterfly.gif",
    ],
)
def test_real_pictures(name):
    """Decoded and preprocessed here, the stored pictures come out: of the first frames at or after n / 5 seconds.

    Another build of FFmpeg decoded them: up to three values in a thousand differ by 1. A frame too early or too late
    differs by more than one on average.
    """
    key = f"{name.split('.')[0]}/frames"
    expected = np.load(SHARED / "golden" / "real_clips_a0_stream.npz")[key].reshape(-1, 172, 172, 3)
    settings = Preprocessing((172, 172), 192, 5, 50)
    seen = 0
    with open_video(SHARED / "clips" / name) as video:
        for frame in video:
            if seen < len(expected) and frame.time >= seen / 5 - 1e-3:
                difference = np.abs(preprocess(frame.image, settings).astype(int) - expected[seen])
                assert difference.max() <= 2
                assert difference.mean() < 0.01
                seen += 1
    assert seen == len(expected)
