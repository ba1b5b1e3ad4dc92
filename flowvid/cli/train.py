"""flowvid train: the codec and one model, or all of them."""

__all__ = ["add"]

import argparse
from typing import TYPE_CHECKING

from flowvid.cli.common import ProgressBar, Subparsers, add_common, positive
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
    how = parser.add_argument_group("how training is carried out, which changes results by rounding at most")
    how.add_argument(
        "--precision", choices=("no", "bf16"), default="no", help="no: that of weights; default: %(default)s"
    )
    how.add_argument("--accumulate", type=positive, default=1, help="parts a batch is taken in; default: %(default)s")
    how.add_argument(
        "--recompute", action="store_true", help="recompute inner activations of blocks, to need less memory"
    )
    how.add_argument("--compile", action="store_true", help="compile the network")
    how.add_argument("--save-seconds", type=float, default=30.0, help="between checkpoints; default: %(default)s")
    how.add_argument("--tensorboard", action="store_true", help="log for TensorBoard too")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.compare.study import Study, train_study
    from flowvid.train.loop import Execution, Optimisation
    from flowvid.train.run import Run, latents, train_codec, train_model

    run = Run(
        world=World(motion=options.motion, digits=options.digits),
        clips=options.clips,
        width=options.width,
        codec=Optimisation(steps=options.codec_steps, learning_rate=2e-3),
        model=Optimisation(steps=options.steps, batch=options.batch, seed=options.seed),
    )
    execution = Execution(
        precision=options.precision,
        accumulate=options.accumulate,
        checkpoint_activations=options.recompute,
        compile=options.compile,
        save_seconds=options.save_seconds,
        tensorboard=options.tensorboard,
    )
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
