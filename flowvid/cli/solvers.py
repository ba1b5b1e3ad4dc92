"""flowvid solvers: every solver with its order, cost and source."""

__all__ = ["add"]

import argparse

from flowvid.cli.common import Subparsers


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("solvers", help="list every solver with its order, cost and source")
    parser.set_defaults(command=_run, threads=1)


def _run(_: argparse.Namespace) -> None:
    from flowvid.solvers import solver_table

    print(solver_table())
