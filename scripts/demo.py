"""The main job with embedded defaults: what happens in a video, frame by frame, and a picture of it.

Uses the video and weights given; without a video it makes a small one of its own, without weights it downloads the
published ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import av
import numpy as np

from movinet.cli import main
from movinet.errors import DownloadError

DEMO = Path(".demo")


def moving_square(path: Path) -> Path:
    """Six seconds of a bright square that crosses a dark picture: enough to see every part work."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=15)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        rows, columns = np.mgrid[0:240, 0:320]
        for index in range(90):
            picture = np.stack([rows // 3, columns // 4, (rows + columns) // 5], -1).astype(np.uint8)
            left = index * 3
            picture[90:150, left : left + 60] = (240, 220, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def run() -> int:
    """Predict, save the video with its predictions and their picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video")
    parser.add_argument("--weights")
    options = parser.parse_args()
    DEMO.mkdir(exist_ok=True)
    video = options.video or str(moving_square(DEMO / "square.mp4"))
    command = ["predict", video, "--every", "1s", "--save", str(DEMO / "timeline.png"), "--save", str(DEMO / "out.mp4")]
    code = main([*command, *(["--weights", options.weights] if options.weights else [])])
    if code == DownloadError.exit_code:
        print(
            "\nThe demonstration needs weights, and none could be downloaded. Give it any MoViNet weights file you"
            "\nhave (an official checkpoint, a SavedModel, a .tflite, the PyTorch port's .pth, a .safetensors):"
            "\n\n    make demo WEIGHTS=path/to/weights VIDEO=path/to/video.mp4",
            file=sys.stderr,
        )
    elif code == 0 and not options.video:
        print(
            "\nThe video is a moving square made up for this demonstration, and nothing Kinetics knows. For a real one:"
            "\n    make demo VIDEO=path/to/video.mp4"
        )
    return code


if __name__ == "__main__":
    sys.exit(run())
