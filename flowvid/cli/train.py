"""flowvid train: the codec and one model, or all of them."""

__all__ = ["add"]

import argparse
from typing import TYPE_CHECKING

from flowvid.cli.common import ProgressBar, Subparsers, add_common, add_execution, execution_of, positive
from flowvid.data.worlds.clips import FAMILIES, World
from flowvid.models.rivals import RIVALS

if TYPE_CHECKING:
    from flowvid.video import Trajectory


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("train", help="train the codec and one model, or all of them")
    add_common(parser)
    parser.add_argument("--model", choices=(*RIVALS, "all"), default="multiscale", help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=2000, help="optimiser steps; default: %(default)s")
    parser.add_argument("--codec-steps", type=positive, default=1000, help="default: %(default)s")
    parser.add_argument("--clips", type=positive, default=1024, help="training clips; default: %(default)s")
    parser.add_argument("--batch", type=positive, default=64, help="clips per step; default: %(default)s")
    parser.add_argument("--width", type=positive, default=48, help="channels of the trunk; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the model; default: %(default)s")
    parser.add_argument("--motion", choices=(*FAMILIES, "mixed"), default="flight", help="default: %(default)s")
    parser.add_argument("--digits", type=int, choices=(1, 2), default=1, help="digits per clip; default: %(default)s")
    add_execution(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.compare.study import Study, train_study
    from flowvid.train.loop import Optimisation
    from flowvid.train.run import Run, latents, train_codec, train_model

    run = Run(
        world=World(motion=options.motion, digits=options.digits),
        clips=options.clips,
        width=options.width,
        codec=Optimisation(steps=options.codec_steps, learning_rate=2e-3),
        model=Optimisation(steps=options.steps, batch=options.batch, seed=options.seed),
    )
    execution = execution_of(options)
    folder, device = options.out / "models", options.device
    if options.model == "all":
        study = Study(run=run, seeds=(options.seed,))
        train_study(study, folder, device=device, stage=ProgressBar, execution=execution)
        return
    codec = train_codec(run, folder, device=device, progress=ProgressBar("codec"), execution=execution).network

    def bank(split: str) -> "Trajectory":
        clips = run.clips if split == "train" else run.validation_clips
        return latents(run, codec, split, run.times, clips=clips, device=device)

    progress = ProgressBar(options.model)
    train_model(options.model, run, bank, folder, device=device, progress=progress, execution=execution)
    print(f"Trained: {folder / f'{options.model}-seed{options.seed}.safetensors'}")
