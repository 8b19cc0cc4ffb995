"""`movinet predict`: what happens in a video, as it goes on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from movinet.cli import common
from movinet.cli.terminal import Live, bar, rows, speaks_unicode
from movinet.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from movinet.model import Ensemble, MoViNet
    from movinet.stream import Prediction
    from movinet.video import Video

DEFAULT_MODEL = "movinet_a0_stream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "video", help="a video file, GIF, folder of pictures, webcam number (0), or rtsp:// or http(s):// address"
    )
    parser.add_argument("--model", help=f"a name from `movinet models` (default: {DEFAULT_MODEL} or that of --weights)")
    parser.add_argument("--weights", help="a weights file of any kind; by default the published weights are downloaded")
    parser.add_argument("--labels", type=Path, help="class names, one per line, instead of the model's own")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="how many classes to show (default: 5)")
    parser.add_argument(
        "--every", type=common.seconds, metavar="TIME", help="print the top classes every so often, e.g. 1s or 500ms"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line: predictions, then the answer")
    parser.add_argument(
        "--save",
        type=Path,
        action="append",
        default=[],
        metavar="OUT",
        help="write the video with the predictions drawn on it (.mp4, .webm, .gif) or the picture of the top-5"
        " probabilities over time (.png, .jpg); may be given several times",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "native", "torch"),
        default="auto",
        help="what computes: native (stream models on a CPU), torch, or auto for the faster one (default)",
    )
    parser.add_argument("--device", default="cpu", help="torch device to compute on (default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")


def run(options: argparse.Namespace) -> int:
    """Read, predict, show, save."""
    from movinet.inference import follow, sampling_rate
    from movinet.video import check_output, open_video

    if options.top < 1:
        raise UsageError(f"--top is {options.top}; it must be at least 1")
    is_file = Path(options.video).exists()
    for out in options.save:
        check_output(out, "picture" if _is_picture(out) else "video")
        if is_file and out.exists() and out.samefile(options.video):
            raise UsageError(f"--save {out} is the video itself; give another name")
    if is_file:
        # The cheap question first: is there anything to see, before a model is loaded or downloaded for it?
        open_video(options.video).close()
    model = _model(options)
    labels = _labels(options, model)
    history = _History(keep_logits=any(map(_is_picture, options.save)))
    with open_video(options.video, fps=sampling_rate(model)) as video:
        if video.live and not all(map(_is_picture, options.save)):
            raise UsageError("--save of a video needs a file as its source; save a picture of a live one")
        shown = _Shown(options, video)
        try:
            for prediction in follow(video, model, labels=labels, top=options.top, engine=options.engine):
                history.add(prediction)
                shown.step(prediction)
        except KeyboardInterrupt:
            if not (video.live and history.last):
                raise
        finally:
            shown.live.clear()
    assert history.last is not None  # a video without a frame has raised
    shown.answer(history, model)
    if video.damage:
        print(f"note: {options.video} is damaged: {video.damage.text}", file=sys.stderr)
    for out in options.save:
        _save(out, options, history, labels if labels is not None else model.labels)
        print(f"saved: {out}", file=sys.stderr)
    return 0


def _model(options: argparse.Namespace) -> MoViNet | Ensemble:
    import torch

    from movinet.factory import create_model

    if options.threads is not None:
        if options.threads < 1:
            raise UsageError(f"--threads is {options.threads}; it must be at least 1")
        torch.set_num_threads(options.threads)
    try:
        device = torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"--device {options.device} is not to be had here; try cpu") from None
    name = options.model if options.model or options.weights else DEFAULT_MODEL
    return create_model(name, pretrained=options.weights or True).to(device)


def _labels(options: argparse.Namespace, model: MoViNet | Ensemble) -> Sequence[str] | None:
    from movinet.model import MoViNet

    first = model if isinstance(model, MoViNet) else model.members[0]
    assert isinstance(first, MoViNet)
    return common.read_labels(options.labels, first.config.num_classes) if options.labels is not None else None


def _is_picture(path: Path) -> bool:
    """Whether a path asks for the picture of the probabilities, not for a video."""
    from movinet.video.write import PICTURE_SUFFIXES

    return path.suffix.lower() in PICTURE_SUFFIXES


@dataclass
class _History:
    """What is needed of the predictions afterwards."""

    keep_logits: bool
    times: list[float] = field(default_factory=list)
    tops: list[list[tuple[str, float]]] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    last: Prediction | None = None

    def add(self, prediction: Prediction) -> None:
        import numpy as np

        from movinet.stream import softmax

        self.last = prediction
        self.times.append(prediction.time)
        self.tops.append(prediction.top)
        if self.keep_logits:
            self.probabilities.append(softmax(prediction.logits).astype(np.float32))


class _Shown:
    """What goes to the terminal while the video runs."""

    def __init__(self, options: argparse.Namespace, video: Video) -> None:
        self.options = options
        self.video = video
        self.live = Live()
        self.unicode = speaks_unicode(sys.stdout)
        self.next = 0.0
        self.count = 0

    def step(self, prediction: Prediction) -> None:
        """Draw the bars anew, and print a line if one is due."""
        self.count += 1
        top = prediction.top
        every = self.options.every
        if every is not None and prediction.time >= self.next - 1e-6:
            self.next = max(self.next + every, prediction.time - prediction.time % every + every)
            self.live.clear()
            if self.options.json:
                print(json.dumps({"time": round(prediction.time, 3), "top": _top(top)}), flush=True)
            else:
                print(f"{prediction.time:8.2f} s  " + "   ".join(f"{n} {100 * p:.1f} %" for n, p in top), flush=True)
        if self.live.active:
            self.live.show([self._progress(prediction.time), *rows(top, 76, unicode=self.unicode)])

    def _progress(self, time: float) -> str:
        total = self.video.duration
        if not total:
            return f"  {time:.1f} s, {self.count} frames"
        return f"  {time:.1f} of {total:.1f} s {bar(time / total, 40, unicode=self.unicode)}"

    def answer(self, history: _History, model: MoViNet | Ensemble) -> None:
        """The last word."""
        last = history.last
        assert last is not None
        top = last.top
        if self.options.json:
            record = {"answer": last.label, "time": round(last.time, 3), "frames": self.count, "top": _top(top)}
            print(json.dumps({**record, "video": str(self.options.video), "model": model.name}), flush=True)
            return
        name = model.name or self.options.weights
        what = "frames" if self.count != 1 else "frame"
        print(f"{self.options.video}: {self.count} {what} up to {last.time:.1f} s, {name}\n")
        print("\n".join(rows(top, 76, unicode=self.unicode)), flush=True)


def _top(top: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": name, "probability": round(p, 6)} for name, p in top]


def _save(out: Path, options: argparse.Namespace, history: _History, labels: Sequence[str] | None) -> None:
    import numpy as np

    from movinet.video import save_picture, timeline

    if _is_picture(out):
        probabilities = np.stack(history.probabilities)
        names = labels if labels is not None else [f"class {i}" for i in range(probabilities.shape[1])]
        title = Path(options.video).name if Path(options.video).exists() else str(options.video)
        save_picture(out, timeline(history.times, probabilities, names, title=title))
    else:
        _save_video(out, options, history)


def _save_video(out: Path, options: argparse.Namespace, history: _History) -> None:
    """The video once more at its own rate, each frame with the prediction that was the latest at its time."""
    from movinet.video import VideoWriter, draw_predictions, open_video, probe, resize_bilinear

    rate = min(probe(options.video).rate or 25.0, 60.0)
    live = Live()
    index = 0
    with open_video(options.video, fps=rate) as video:
        size = (video.height, video.width)
        with VideoWriter(out, size, rate) as writer:
            for frame in video:
                while index + 1 < len(history.times) and history.times[index + 1] <= frame.time + 1e-6:
                    index += 1
                image = frame.image if frame.image.shape[:2] == size else resize_bilinear(frame.image, size)
                writer.write(draw_predictions(image, history.tops[index], frame.time, top=options.top))
                live.show([f"  writing {out.name}: {frame.time:.1f} s"])
    live.clear()
