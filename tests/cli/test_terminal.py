from __future__ import annotations

import io

import pytest

from movinet.cli.terminal import Live, bar, cells, rows, shorten


@pytest.mark.parametrize("fraction", [-1.0, 0.0, 0.01, 0.33, 0.5, 0.999, 1.0, 7.0])
@pytest.mark.parametrize("unicode", [True, False])
def test_a_bar_has_its_width(fraction: float, unicode: bool) -> None:
    assert cells(bar(fraction, 20, unicode=unicode)) == 20


def test_a_bar_grows_by_eighths() -> None:
    assert [bar(i / 16, 2).rstrip() for i in (0, 1, 8, 9, 16)] == ["", "▏", "█", "█▏", "██"]


@pytest.mark.parametrize(
    "text", ["", "walk", "a very long label indeed", "カメラを持つ人", "e\u0301toile", "a\x1b[2Jb\n"]
)
@pytest.mark.parametrize("width", [1, 5, 12, 40])
def test_text_fits_its_columns_and_cannot_steer_the_terminal(text: str, width: int) -> None:
    fitted = shorten(text, width)
    assert cells(fitted) == width
    assert "\x1b" not in fitted
    assert "\n" not in fitted


@pytest.mark.parametrize("columns", [20, 40, 80, 300])
def test_rows_fit_the_terminal(columns: int) -> None:
    lines = rows([("x" * 200, 0.5), ("日本" * 30, 0.25)], columns)
    assert all(cells(line) <= max(columns, 24) for line in lines)
    assert all(line.rstrip().endswith("%") for line in lines)


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    live = Live(stream)
    live.show(["a"])
    live.clear()
    assert stream.getvalue() == ""


def test_a_block_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    live = Live(stream)
    live.show(["one", "two"])
    live.show(["three", "four"])
    live.clear()
    assert stream.getvalue().count("\x1b[2A") == 2
    assert stream.getvalue().endswith("\x1b[2A\r\x1b[J")
