"""The README's Python is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import movinet
from movinet.registry import REGISTRY
from movinet.video import VideoWriter
from tests.models import small_copy

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_python_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_copy("movinet_a0_stream", torch.float32, 600)
    model.name, model.preprocessing = "movinet_a0_stream", REGISTRY["movinet_a0_stream"].preprocessing
    movinet.save_model(model, tmp_path / "movinet_a0_stream.tar.gz")  # what a file is follows from its content
    with VideoWriter(tmp_path / "video.mp4", (48, 64), 5) as writer:
        for index in range(6):
            writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_the_tables_are_rendered_from_what_is_measured() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("render_readme", README.parent / "scripts" / "render_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = README.read_text()
    assert module.models() in text, "run scripts/render_readme.py"
    assert module.speed() in text, "run scripts/render_readme.py"
