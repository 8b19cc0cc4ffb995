"""`movinet convert`: any weights file into one of our own."""

from __future__ import annotations

import argparse
from pathlib import Path

from movinet.cli import common
from movinet.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "source",
        help="a checkpoint (.tar.gz, folder, prefix, .index), SavedModel folder, .tflite, .pth of the PyTorch port,"
        " .safetensors; or the name of a model, whose published weights are then downloaded",
    )
    parser.add_argument("out", type=Path, help="the file to write, ending in .safetensors")
    parser.add_argument("--model", help="the model the file must hold; found out by default")
    parser.add_argument("--labels", type=Path, help="class names, one per line, to store in the file")
    parser.add_argument(
        "--gate",
        choices=("relu6", "keras"),
        help="hard sigmoid of a stream model: relu6(x + 3) * 0.16667 (today's reference) or clip(0.2 x + 0.5, 0, 1)"
        " (stream checkpoints of 2021); taken from the file where it says so",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace) -> int:
    """Read, check, write, and say what was found."""
    if options.out.suffix != ".safetensors":
        raise UsageError(f"{options.out} must end in .safetensors")
    if options.out.exists() and not options.force:
        raise UsageError(f"{options.out} exists; give another name, or --force to replace it")
    from movinet.factory import create_model, save_model
    from movinet.model import MoViNet
    from movinet.registry import REGISTRY

    if options.source in REGISTRY and not Path(options.source).exists():
        if members := REGISTRY[options.source].members:
            raise UsageError(f"{options.source} is an ensemble; convert its members: {', '.join(members)}")
        model = create_model(options.source, pretrained=True, gate=options.gate)
    else:
        model = create_model(options.model, pretrained=options.source, gate=options.gate)
    assert isinstance(model, MoViNet)
    if options.labels is not None:
        model.labels = common.read_labels(options.labels, model.config.num_classes)
    save_model(model, options.out)
    common.print_card(model)
    print(f"written: {options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")
    return 0
