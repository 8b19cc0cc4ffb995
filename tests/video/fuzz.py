"""Opens every file named on the command line and prints one line about each; a crash shows as a missing line."""

from __future__ import annotations

import itertools
import sys
import time
import traceback

from movinet.errors import VideoError
from movinet.video import open_video


def judge(path: str) -> str:
    try:
        with open_video(path, fps=5, max_pixels=2048 * 2048) as video:
            count = 0
            last = -1.0
            for frame in itertools.islice(video, 300):
                assert frame.image.ndim == 3
                assert frame.image.shape[2] == 3
                assert frame.time > last
                last = frame.time
                count += 1
            assert count > 0
            assert isinstance(video.damage.text, str)
        return f"frames {count}"
    except VideoError as error:
        return "error" if str(error).count("\n") == 0 else "wrong: several lines"
    except BaseException:
        traceback.print_exc()
        return "wrong: traceback"


for name in sys.argv[1:]:
    print("start", name, flush=True)
    started = time.monotonic()
    print(
        "end", name, round(time.monotonic() - started, 2), judge(name), round(time.monotonic() - started, 2), flush=True
    )
