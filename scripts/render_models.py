"""Write the README's table of models from what `movinet models --json` counts."""

from __future__ import annotations

import sys
from pathlib import Path

from movinet.profile import cost
from movinet.registry import list_models

BEGIN, END = "<!-- models: scripts/render_models.py -->", "<!-- /models -->"


def table() -> str:
    """One row per model, in Markdown."""
    lines = [
        "| model | parameters | multiply-adds per clip | per frame | state bytes | input | K600 top-1 |",
        "|-|-:|-:|-:|-:|-|-:|",
    ]
    for name in list_models():
        row = cost(name)
        accuracy = f"{row.accuracy['kinetics600'][0]:.2f}" if "kinetics600" in row.accuracy else "-"
        lines.append(
            f"| `{name}` | {row.parameters:,} | {row.multiply_adds_per_clip / 1e9:.2f} G"
            f" | {row.multiply_adds_per_frame / 1e6:,.1f} M | {row.state_bytes or '-'}"
            f" | {row.frames} x {row.size[0]} x {row.size[1]}, {row.fps:g} fps | {accuracy} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    readme = Path(__file__).resolve().parents[1] / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
    sys.exit(0)
