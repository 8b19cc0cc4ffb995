"""The command line: one file per command, each only parsing, calling and printing."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from movinet import __version__
from movinet.errors import MovinetError

COMMANDS = {
    "predict": "say what happens in a video, as it goes on",
    "models": "list the models of the family: cost, input, accuracy",
    "convert": "turn any weights file into one .safetensors",
    "info": "show what a weights file holds",
}

EXIT_CODES = "exit codes: 0 done, 1 other, 2 usage, 3 video, 4 weights, 5 download, 130 interrupted"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; a command's own module is imported only to fill in its options."""
    parser = argparse.ArgumentParser(
        prog="movinet",
        description="Recognise what happens in a video, frame by frame.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"movinet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        module = importlib.import_module(f"movinet.cli.{name}")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see `EXIT_CODES`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A file whose name looks like an option is meant as a file.
    arguments = [f"./{a}" if a.startswith("-") and len(a) > 2 and Path(a).is_file() else a for a in arguments]
    options = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            code: int = options.run(options)
        sys.stdout.flush()
        return code
    except MovinetError as error:
        print(f"movinet {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"movinet {options.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a user of commands wants to read it."""
    print(f"note: {message}", file=sys.stderr)
