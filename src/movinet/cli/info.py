"""`movinet info`: what a weights file holds."""

from __future__ import annotations

import argparse

from movinet.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("weights", help="any file that `movinet convert` reads")
    parser.add_argument("--all-labels", action="store_true", help="print every class name, one per line")


def run(options: argparse.Namespace) -> int:
    """Print model, gate, input and labels."""
    from movinet.factory import create_model
    from movinet.model import MoViNet

    model = create_model(pretrained=options.weights)
    assert isinstance(model, MoViNet)
    common.print_card(model)
    if options.all_labels:
        print("\n".join(model.labels or ()))
    return 0
