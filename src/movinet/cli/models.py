"""`movinet models`: the table of the family."""

from __future__ import annotations

import argparse
import json

from movinet.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("pattern", nargs="?", default="*", help='shell pattern of names, e.g. "*stream*"')
    parser.add_argument("--json", action="store_true", help="one JSON object per model and line")


def run(options: argparse.Namespace) -> int:
    """Print a row per model; figures are counted on the networks themselves."""
    from movinet.profile import Cost, cost
    from movinet.registry import list_models

    names = list_models(options.pattern)
    if not names:
        raise UsageError(f"no model matches {options.pattern!r}; `movinet models` lists all of them")
    if options.json:
        for name in names:
            print(json.dumps(cost(name).to_dict()).replace("NaN", "null"), flush=True)
        return 0

    def accuracy(row: Cost, data_set: str) -> str:
        return f"{row.accuracy[data_set][0]:.2f}" if data_set in row.accuracy else "-"

    columns = (
        f"{'model':<19}{'parameters':>12}{'mult-adds/clip':>16}{'mult-adds/frame':>17}{'state bytes':>13}"
        f"{'size':>9}{'frames':>8}{'fps':>5}{'K600 top-1':>12}{'K400 top-1':>12}"
    )
    print(columns)
    for name in names:
        row = cost(name)
        print(
            f"{row.name:<19}{row.parameters:>12,}{_short(row.multiply_adds_per_clip):>16}"
            f"{_short(row.multiply_adds_per_frame):>17}{row.state_bytes or '-':>13}"
            f"{row.size[0]:>5}x{row.size[1]}{row.frames:>8}{row.fps:>5g}"
            f"{accuracy(row, 'kinetics600'):>12}{accuracy(row, 'kinetics400'):>12}",
            flush=True,
        )
    print(
        "\nParameters: trained ones, 600 classes. Multiply-adds: convolutions and dense layers, at the size, frames and"
        "\nfps of the published evaluation; per frame with its answer. State: one stream, float32. Accuracy: percent,"
        "\nas published. A6 is A4 and A5 together, each at its own size and frame rate."
    )
    return 0


def _short(count: int) -> str:
    return f"{count / 1e9:,.2f} G" if count >= 1e9 else f"{count / 1e6:,.1f} M"
