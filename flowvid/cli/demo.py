"""flowvid demo: train all rivals on moving digits, compare and draw them."""

__all__ = ["add"]

import argparse

from flowvid.cli.common import Subparsers, add_common, finish


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("demo", help="train all rivals on moving digits, compare and draw them")
    add_common(parser)
    parser.add_argument(
        "--scale", choices=("demo", "quick"), default="demo", help="quick: to see it run; default: %(default)s"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.compare.study import demo_study

    finish(demo_study(options.scale), options)
