"""flowvid train-footage: a codec and a model of a folder of videos."""

__all__ = ["add"]

import argparse
from pathlib import Path

from flowvid.cli.common import ProgressBar, Subparsers, add_common, add_execution, execution_of, positive
from flowvid.models.rivals import MODELS


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("train-footage", help="train a codec and a model on a folder of your own videos")
    parser.add_argument("source", metavar="FOOTAGE", nargs="+", help="folders, video files or patterns")
    add_common(parser, out=Path("out/footage"))
    parser.add_argument("--model", choices=MODELS, default="multiscale", help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=2000, help="optimiser steps; default: %(default)s")
    parser.add_argument("--codec-steps", type=positive, default=2000, help="default: %(default)s")
    parser.add_argument("--batch", type=positive, default=16, help="windows per step; default: %(default)s")
    parser.add_argument("--side", type=positive, default=64, help="pixels of a training frame; default: %(default)s")
    parser.add_argument("--fps", type=float, default=15.0, help="frames per second of windows; default: %(default)s")
    parser.add_argument("--width", type=positive, default=48, help="channels of the trunk; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of codec and model; default: %(default)s")
    add_execution(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.data.footage.reader import catalogue
    from flowvid.train.footage import FootageRun, train_footage
    from flowvid.train.loop import Optimisation

    run = FootageRun(
        side=options.side,
        fps=options.fps,
        width=options.width,
        codec=Optimisation(steps=options.codec_steps, batch=32, learning_rate=1e-3, seed=options.seed),
        model=Optimisation(steps=options.steps, batch=options.batch, seed=options.seed),
    )
    found = train_footage(
        catalogue(options.source),
        run,
        options.out,
        kind=options.model,
        device=options.device,
        execution=execution_of(options),
        stage=ProgressBar,
    )
    for one in found.skipped:
        print(f"Not used: {one.path}: {one.reason}")
    print(f"Trained: {options.out / 'codec'} and {options.out / options.model}")
