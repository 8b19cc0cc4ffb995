"""Video in and out: decode, sample by time, preprocess, draw and write. NumPy, PyAV and Pillow; no torch."""

from movinet.video.chart import timeline
from movinet.video.decode import Damage, Frame, Video, VideoInfo, open_video, probe
from movinet.video.draw import draw_predictions
from movinet.video.preprocess import (
    center_crop,
    crop_resize,
    normalize,
    preprocess,
    resize_bilinear,
    resize_short_side,
    three_crops,
)
from movinet.video.sample import clip_indices, middle_indices, segment_indices
from movinet.video.write import VideoWriter, check_output, save_picture

__all__ = [
    "Damage",
    "Frame",
    "Video",
    "VideoInfo",
    "VideoWriter",
    "center_crop",
    "check_output",
    "clip_indices",
    "crop_resize",
    "draw_predictions",
    "middle_indices",
    "normalize",
    "open_video",
    "preprocess",
    "probe",
    "resize_bilinear",
    "resize_short_side",
    "save_picture",
    "segment_indices",
    "three_crops",
    "timeline",
]
