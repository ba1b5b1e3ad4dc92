"""flowvid runs: which runs a folder holds, and how they stand."""

__all__ = ["add"]

import argparse
from pathlib import Path

from flowvid.cli.common import Subparsers


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("runs", help="list the runs in a folder with their state, step, loss and last change")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with runs, such as out/run/models")
    parser.set_defaults(command=_run, threads=1)


def _run(options: argparse.Namespace) -> None:
    from flowvid.train.runs import find_runs, runs_table

    runs = find_runs(options.folder)
    print(runs_table(runs, options.folder) if runs else f"No runs in {options.folder}.")
