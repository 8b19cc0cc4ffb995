"""Bars in a terminal that are drawn over as a video goes on; plain lines where there is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import TextIO

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(fraction: float, width: int, *, unicode: bool = True) -> str:
    """A bar of `width` cells, filled to `fraction`."""
    fraction = min(max(fraction, 0.0), 1.0)
    if not unicode:
        return ("#" * round(fraction * width)).ljust(width)
    eighths = round(fraction * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def cells(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shorten(text: str, width: int) -> str:
    """The text in exactly `width` columns, cut with an ellipsis where it is longer. Control characters are dropped."""
    text = "".join(c for c in text if c.isprintable())
    if cells(text) > width:
        while text and cells(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - cells(text))


def rows(top: Sequence[tuple[str, float]], columns: int, *, unicode: bool = True) -> list[str]:
    """One line per class: name, bar, percent; no line is wider than `columns`."""
    columns = max(columns, 24)
    name_width = min(max((cells(name) for name, _ in top), default=8), max(8, columns // 2 - 8))
    bar_width = max(4, min(40, columns - name_width - 12))
    return [
        f"  {shorten(name, name_width)} {bar(p, bar_width, unicode=unicode)} {100 * p:5.1f} %"[:columns]
        for name, p in top
    ]


class Live:
    """A block of lines at the bottom of a terminal that each `show` draws anew; does nothing elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.active = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lines = 0

    def show(self, lines: Sequence[str]) -> None:
        """Replace the block."""
        if not self.active:
            return
        columns = shutil.get_terminal_size().columns
        up = f"\x1b[{self._lines}A" if self._lines else ""
        body = "".join(f"\r\x1b[2K{shorten(line, columns - 1).rstrip()}\n" for line in lines)
        self.stream.write(up + body)
        self.stream.flush()
        self._lines = len(lines)

    def clear(self) -> None:
        """Take the block away."""
        if self.active and self._lines:
            self.stream.write(f"\x1b[{self._lines}A\r\x1b[J")
            self.stream.flush()
        self._lines = 0


def speaks_unicode(stream: TextIO) -> bool:
    """Whether block characters can be written to this stream."""
    try:
        "█…".encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
