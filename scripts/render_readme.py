"""Write the README's tables: models as `movinet.profile` counts them, speed from what the benchmark committed."""

from __future__ import annotations

import json
from pathlib import Path

from movinet.profile import cost
from movinet.registry import list_models

ROOT = Path(__file__).resolve().parents[1]


def models() -> str:
    """One row per model."""
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


def speed() -> str:
    """One row per stream and mobile model, with the machine it was measured on."""
    record = json.loads((ROOT / "benchmarks/stream.json").read_text())
    lines = ["| model | native | torch | torch / native |", "|-|-:|-:|-:|"]
    for row in record["rows"]:
        native, torch = row["native"]["median_ms"], row["torch"]["median_ms"]
        lines.append(f"| `{row['model']}` | {native:.1f} | {torch:.1f} | {row['ratio']:.1f} |")
    lines.append(
        f"\n{record['date']}, {record['processor']} ({record['instructions']}), {record['threads']} thread,"
        f" torch {record['versions']['torch']}."
    )
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the markers."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, table in (("models", models()), ("speed", speed())):
        begin, end = f"<!-- {name}: scripts/render_readme.py -->", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    readme.write_text(text)


if __name__ == "__main__":
    main()
