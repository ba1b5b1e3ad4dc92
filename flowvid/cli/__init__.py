"""The command line: one module for each command, imported in full only when it runs."""

__all__ = ["main"]

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence

import torch

from flowvid import __version__
from flowvid.cli import (
    compare,
    dedupe,
    demo,
    diagnose,
    evaluate,
    fill,
    generate,
    probe,
    runs,
    sample,
    solvers,
    train,
    train_footage,
)

_COMMANDS = (
    demo,
    train,
    train_footage,
    runs,
    sample,
    generate,
    fill,
    compare,
    evaluate,
    probe,
    dedupe,
    diagnose,
    solvers,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given, argparse.Namespace(again=shlex.join(["flowvid", *given])))
    torch.set_num_threads(options.threads)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options.command(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"flowvid: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\nflowvid: {str(error) or 'Interrupted.'}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowvid",
        description="Video as a continuous-time latent trajectory: train, sample and compare.",
        epilog="Start with: flowvid demo --out out/demo",
    )
    parser.add_argument("--version", action="version", version=f"flowvid {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(commands)
    return parser
