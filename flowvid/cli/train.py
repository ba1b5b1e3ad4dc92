"""flowvid train: the codec and one model, or all of them."""

__all__ = ["add"]

import argparse
from typing import TYPE_CHECKING

from flowvid.cli.common import ProgressBar, Subparsers, add_common, add_execution, execution_of, positive
from flowvid.data.worlds.clips import FAMILIES
from flowvid.data.worlds.families import WORLDS, AnyWorld
from flowvid.models.rivals import MODELS

if TYPE_CHECKING:
    from flowvid.models.video_model import LearnedModel
    from flowvid.train.plan import Run
    from flowvid.video import Trajectory


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("train", help="train the codec and one model, or all of them")
    add_common(parser)
    parser.add_argument("--model", choices=(*MODELS, "all"), default="multiscale", help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=2000, help="optimiser steps; default: %(default)s")
    parser.add_argument("--codec-steps", type=positive, default=1000, help="default: %(default)s")
    parser.add_argument("--clips", type=positive, default=1024, help="training clips; default: %(default)s")
    parser.add_argument("--batch", type=positive, default=64, help="clips per step; default: %(default)s")
    parser.add_argument("--width", type=positive, default=48, help="channels of the trunk; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the model; default: %(default)s")
    parser.add_argument(
        "--world", choices=tuple(WORLDS), default="digits", help="what clips show; default: %(default)s"
    )
    parser.add_argument("--motion", choices=(*FAMILIES, "mixed"), help="of digits; default: flight")
    parser.add_argument("--digits", type=int, choices=(1, 2), help="digits per clip; default: 1")
    add_execution(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.compare.study import Study, train_study
    from flowvid.train.loop import Optimisation
    from flowvid.train.run import Run, latents, train_codec, train_model

    run = Run(
        world=_world(options),
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
    saved = train_model(options.model, run, bank, folder, device=device, progress=progress, execution=execution)
    print(f"Trained: {folder / f'{options.model}-seed{options.seed}.safetensors'}, {_size(saved.network, run)}.")


def _world(options: argparse.Namespace) -> AnyWorld:
    """The world of the options.

    Raises:
        ValueError: Options of the digits are given for another world.
    """
    told = {name: getattr(options, name) for name in ("motion", "digits") if getattr(options, name) is not None}
    if told and options.world != "digits":
        raise ValueError(f"Only the world digits has --{', --'.join(told)}; got the world {options.world}.")
    return WORLDS[options.world](**told)


def _size(network: "LearnedModel", run: "Run") -> str:
    """Parameters, and what one clip costs to learn from."""
    from flowvid.metrics.cost import cost
    from flowvid.noise import Noise
    from flowvid.video import Trajectory

    like = next(network.parameters())
    clip = Trajectory(like.new_zeros(1, len(run.times), run.channels, *[run.world.canvas // 4] * 2), run.times)
    spent = cost(lambda: network.loss(clip, Noise.batch(0, 1))).multiply_adds
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f"{parameters / 1e6:.3g} M parameters, {spent / 1e6:.4g} M multiply-adds for the loss of one clip"
