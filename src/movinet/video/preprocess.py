"""From a decoded frame to what a network sees: resize, crop and scale exactly as the official evaluation does.

Sources: `official/vision/ops/preprocess_ops_3d.py` of the Model Garden (`resize_smallest`, `crop_image`,
`normalize_image`) and TensorFlow's bilinear kernel: half-pixel centres, no antialiasing, all in float32, along x first
and then along y, truncated to uint8. The numbers are the reference's to the last bit; a resize of another library
differs by several levels and costs accuracy.

Images are uint8 arrays (..., height, width, channels): one frame or a clip. No antialiasing means that an output pixel
looks at four input pixels only, so that a frame costs what its *output* costs, whatever its own size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet.config import Preprocessing
from movinet.errors import UsageError

Images = NDArray[np.uint8]


def preprocess(image: Images, preprocessing: Preprocessing) -> Images:
    """The network's picture of a frame: short side resized to `resize`, centre cropped to `size`.

    `image` is uint8 (..., height, width, 3), the result uint8 (..., *size, 3): scale it with `normalize`. Equal to
    `center_crop(resize_short_side(image, resize), size)`, but only the pixels inside the crop are computed.
    Raises `UsageError` for an array of another type or shape.
    """
    _check_images(image)
    resized = _short_side_size(image.shape[-3], image.shape[-2], preprocessing.resize)
    tops = [max(0, (side - target) // 2) for side, target in zip(resized, preprocessing.size, strict=True)]
    ends = [min(top + target, side) for top, side, target in zip(tops, resized, preprocessing.size, strict=True)]
    window = _resize_window(image, resized, (tops[0], ends[0]), (tops[1], ends[1]))
    return center_crop(window, preprocessing.size)


def resize_short_side(images: Images, short: int) -> Images:
    """Resize so that the short side has `short` pixels; the other gets floor(side * short / old short side).

    uint8 (..., height, width, channels) in and out. Raises `UsageError` for an array of another type or shape.
    """
    _check_images(images)
    _check_size((short, short))
    return resize_bilinear(images, _short_side_size(images.shape[-3], images.shape[-2], short))


def resize_bilinear(images: Images, size: tuple[int, int]) -> Images:
    """Resize to `size` (height, width): bilinear, half-pixel centres, not antialiased, truncated.

    uint8 (..., height, width, channels) in and out; an image that has the size already is returned as it is.
    Raises `UsageError` for an array of another type or shape.
    """
    _check_images(images)
    _check_size(size)
    return _resize_window(images, size, (0, size[0]), (0, size[1]))


def crop_resize(images: Images, box: tuple[int, int, int, int], size: tuple[int, int]) -> Images:
    """Cut the box (y, x, height, width) in pixels out of every image and resize it to `size` (height, width).

    uint8 (..., height, width, channels) in and out. Raises `UsageError` for a box that leaves the image.
    """
    _check_images(images)
    y, x, height, width = box
    if min(y, x) < 0 or min(height, width) < 1 or y + height > images.shape[-3] or x + width > images.shape[-2]:
        raise UsageError(f"the box {box} (y, x, height, width) leaves the image of {images.shape[-3:-1]} pixels")
    return resize_bilinear(images[..., y : y + height, x : x + width, :], size)


def center_crop(images: Images, size: tuple[int, int]) -> Images:
    """The middle `size` (height, width) of every image, padded with zeros where the image is smaller.

    uint8 (..., height, width, channels) in and out. Raises `UsageError` for an array of another type or shape.
    """
    _check_images(images)
    _check_size(size)
    old = images.shape[-3:-1]
    y, x = (max(0, (side - target) // 2) for side, target in zip(old, size, strict=True))
    cropped = images[..., y : y + size[0], x : x + size[1], :]
    if cropped.shape[-3:-1] == tuple(size):
        return cropped
    padded = np.zeros((*images.shape[:-3], *size, images.shape[-1]), np.uint8)
    y, x = (max(0, (target - side) // 2) for side, target in zip(old, size, strict=True))
    padded[..., y : y + cropped.shape[-3], x : x + cropped.shape[-2], :] = cropped
    return padded


def three_crops(images: Images, size: tuple[int, int]) -> Images:
    """Start, middle and end of the long side: uint8 (frames, height, width, channels) to (3 * frames, *size, channels).

    As in the reference, all frames of the first crop come first, and the short side is cut at its start, not at its
    middle (it has nothing to spare when the images were resized to the size of the crop). Raises `UsageError` for
    images smaller than `size`, and for an array of another type or shape.
    """
    _check_images(images)
    _check_size(size)
    if images.ndim != 4:
        raise UsageError(f"three crops are made of (frames, height, width, channels), not of shape {images.shape}")
    spare_y, spare_x = (old - new for old, new in zip(images.shape[1:3], size, strict=True))
    if min(spare_y, spare_x) < 0:
        raise UsageError(f"images of {images.shape[1:3]} pixels are too small for three crops of {tuple(size)}")
    # round() takes halves to the even number, as tf.round does.
    if images.shape[1] > images.shape[2]:
        corners = [(top, 0) for top in (0, round(spare_y / 2), spare_y)]
    else:
        corners = [(0, left) for left in (0, round(spare_x / 2), spare_x)]
    return np.concatenate([images[:, top : top + size[0], left : left + size[1]] for top, left in corners])


def normalize(images: Images, value_range: tuple[float, float] = (0.0, 1.0)) -> NDArray[np.float32]:
    """uint8 values to float32 in `value_range`: 0 becomes its lower end, 255 its upper. Same shape."""
    low, high = value_range
    scaled = images.astype(np.float32)
    if (low, high) == (0, 1):
        scaled /= np.float32(255)  # the reference divides here, and multiplies below: the last bit differs
        return scaled
    scaled *= np.float32((high - low) / 255)
    scaled += np.float32(low)
    return scaled


def _check_images(images: Any) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim < 3:
        what = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise UsageError(f"images are uint8 arrays (..., height, width, channels), not {what}")
    if 0 in images.shape[-3:]:
        raise UsageError(f"images of shape {images.shape} have no pixels")


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise UsageError(f"size {tuple(size)} is not (height, width) of at least 1 pixel")


def _short_side_size(height: int, width: int, short: int) -> tuple[int, int]:
    least = min(height, width)
    return height * short // least, width * short // least


@lru_cache(maxsize=128)
def _taps(
    old: int, new: int, start: int, stop: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32], int, int]:
    """For outputs `start` to `stop` of one axis: both source indices, the weight of the second, and the span they use.

    Indices are relative to the span's start.
    """
    scale = np.float32(old) / np.float32(new)
    source = (np.arange(start, stop, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(source)
    weight = (source - floor).astype(np.float32)
    lower = np.maximum(floor.astype(np.intp), 0)
    upper = np.minimum(floor.astype(np.intp) + 1, old - 1)
    first, last = int(lower[0]), int(upper[-1]) + 1
    arrays = lower - first, upper - first, weight
    for array in arrays:
        array.setflags(write=False)  # they are shared by all callers
    return *arrays, first, last


def _resize_window(images: Images, size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> Images:
    """Rows and columns (start, stop) of the images resized to `size`, without computing the rest."""
    *batch, height, width, channels = images.shape
    if (height, width) == tuple(size):
        return images[..., rows[0] : rows[1], columns[0] : columns[1], :]
    above, below, weight_y, top, bottom = _taps(height, size[0], *rows)
    left, right, weight_x, first, last = _taps(width, size[1], *columns)
    flat = images.reshape(-1, height, width, channels)[:, top:bottom, first:last]
    out = np.empty((len(flat), rows[1] - rows[0], columns[1] - columns[0], channels), np.uint8)
    weight_x = np.repeat(weight_x, channels)  # a row of pixels is a row of values: one long inner loop
    weight_y = weight_y[:, None]
    left, right = (_values(taps, channels) for taps in (left, right))
    shared = 2 * len(above) > bottom - top  # enlarging: a source row serves several output rows
    for image, result in zip(flat, out, strict=True):  # frame by frame, so that the temporary arrays stay in the cache
        values = image.reshape(bottom - top, -1)
        if shared:
            blended = _lerp(np.take(values, left, 1), np.take(values, right, 1), weight_x)
            upper, lower = blended[above], blended[below]
        else:
            both = values[np.concatenate((above, below))]
            blended = _lerp(np.take(both, left, 1), np.take(both, right, 1), weight_x)
            upper, lower = blended[: len(above)], blended[len(above) :]
        # Truncation is the conversion itself: a weighted mean of uint8 values stays within 0 and 255.
        result.reshape(len(above), -1)[...] = _lerp(upper, lower, weight_y)
    return out.reshape(*batch, *out.shape[1:])


def _values(taps: NDArray[np.intp], channels: int) -> NDArray[np.intp]:
    return (taps[:, None] * channels + np.arange(channels)).ravel()


def _lerp(one: NDArray[Any], other: NDArray[Any], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """one + (other - one) * weight in float32, in this order of operations: the reference's last bit depends on it."""
    base = one.astype(np.float32, copy=False)
    difference = other.astype(np.float32, copy=False) - base
    difference *= weight
    difference += base
    return difference
