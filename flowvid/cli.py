"""The command line: demo, train, sample, compare, diagnose, solvers."""

__all__ = ["ProgressBar", "main"]

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flowvid import __version__
from flowvid.compare.report import draw_study, tables
from flowvid.compare.results import run_study
from flowvid.compare.study import Study, demo_study, train_study
from flowvid.data.clips import FAMILIES, World, render_clips
from flowvid.data.files import write_json, write_video
from flowvid.data.trajectories import read_trajectory
from flowvid.metrics.diagnostics import diagnose
from flowvid.models.rivals import RIVALS
from flowvid.noise import Noise
from flowvid.plot.diagnostics import draw_diagnosis
from flowvid.solvers import solver_table
from flowvid.train.loop import Optimisation
from flowvid.train.run import Run, latents, load_codec, load_model, train_codec, train_model
from flowvid.video import Condition, Trajectory, time_grid


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options.command(options)
    except ValueError as error:
        print(f"flowvid: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nflowvid: interrupted; the same command continues from here.", file=sys.stderr)
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

    demo = commands.add_parser("demo", help="train all rivals on moving digits, compare and draw them")
    _common(demo)
    demo.add_argument(
        "--scale", choices=("demo", "quick"), default="demo", help="quick: to see it run; default: %(default)s"
    )
    demo.set_defaults(command=_demo)

    train = commands.add_parser("train", help="train the codec and one model, or all of them")
    _common(train)
    train.add_argument("--model", choices=(*RIVALS, "all"), default="multiscale", help="default: %(default)s")
    train.add_argument("--steps", type=_positive, default=2000, help="optimiser steps; default: %(default)s")
    train.add_argument("--codec-steps", type=_positive, default=1000, help="default: %(default)s")
    train.add_argument("--clips", type=_positive, default=1024, help="training clips; default: %(default)s")
    train.add_argument("--batch", type=_positive, default=64, help="clips per step; default: %(default)s")
    train.add_argument("--width", type=_positive, default=48, help="channels of the trunk; default: %(default)s")
    train.add_argument("--seed", type=int, default=0, help="seed of the model; default: %(default)s")
    train.add_argument("--motion", choices=(*FAMILIES, "mixed"), default="flight", help="default: %(default)s")
    train.add_argument("--digits", type=int, choices=(1, 2), default=1, help="digits per clip; default: %(default)s")
    train.set_defaults(command=_train)

    sample = commands.add_parser("sample", help="sample a trained model at any times and write a video")
    _common(sample, default=Path("clip.mp4"), what="the .mp4 to write")
    sample.add_argument(
        "--model", type=Path, required=True, help="a model file, such as out/demo/models/multiscale-seed0.safetensors"
    )
    sample.add_argument("--codec", type=Path, help="the codec file; default: codec.safetensors beside the model")
    sample.add_argument(
        "--solver", help="how to move; a wrong name lists those the model knows; default: the model's first"
    )
    sample.add_argument(
        "--times", type=_times, default=_times("0:2:0.125"), help="start:stop:step in seconds; default: 0:2:0.125"
    )
    sample.add_argument(
        "--known",
        type=_seconds,
        help="times of the known frames, such as --known=-0.125,0,2; default: two context frames",
    )
    sample.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    sample.add_argument("--clip", type=int, default=0, help="number of the clip to continue; default: %(default)s")
    sample.add_argument("--seed", type=int, default=0, help="seed of stochastic models; default: %(default)s")
    sample.add_argument("--fps", type=float, help="frames per second; default: real time")
    sample.set_defaults(command=_sample)

    compare = commands.add_parser("compare", help="measure the models of a folder, and draw and print the comparison")
    _common(compare)
    compare.add_argument("--seeds", type=_integers, default=(0,), help="seeds to compare, such as 0,1,2; default: 0")
    compare.add_argument("--clips", type=_positive, default=128, help="held-out clips; default: %(default)s")
    compare.set_defaults(command=_compare)

    _add_diagnose(
        commands.add_parser("diagnose", help="noise, roughness and spectrum of trajectories, and gaps to start from")
    )

    solvers = commands.add_parser("solvers", help="list every solver with its order, cost and source")
    solvers.set_defaults(command=_solvers, threads=1)
    return parser


def _common(
    parser: argparse.ArgumentParser, *, default: Path = Path("out/run"), what: str = "the folder of the run"
) -> None:
    parser.add_argument("--out", type=Path, default=default, help=f"{what}; default: %(default)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--device", type=_device, default=device, help="default: cuda where there is one; here %(default)s"
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        default=int(os.environ.get("OMP_NUM_THREADS", "2")),
        help="CPU threads; default: %(default)s",
    )


def _add_diagnose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DATA",
        help="digits, for frames of moving digits, or a .npy or .safetensors file of states "
        "[batch, time, channel, height, width]",
    )
    _common(parser, default=Path("out/diagnosis"), what="the folder of the figure and the numbers")
    parser.add_argument("--fps", type=float, help="moments per second; a file needs it; default: 16 for digits")
    motions = (*FAMILIES, "mixed")
    parser.add_argument("--motion", choices=motions, help="digits only: how they move; default: flight")
    parser.add_argument("--digits", type=int, choices=(1, 2), help="digits only: how many per clip; default: 1")
    parser.add_argument("--clips", type=_positive, help="digits only; default: 64")
    parser.add_argument("--seconds", type=float, help="digits only: length of a clip; default: 4")
    parser.set_defaults(command=_diagnose)


def _demo(options: argparse.Namespace) -> None:
    _finish(demo_study(options.scale), options)


def _train(options: argparse.Namespace) -> None:
    run = Run(
        world=World(motion=options.motion, digits=options.digits),
        clips=options.clips,
        width=options.width,
        codec=Optimisation(steps=options.codec_steps, learning_rate=2e-3),
        model=Optimisation(steps=options.steps, batch=options.batch, seed=options.seed),
    )
    folder = options.out / "models"
    if options.model == "all":
        train_study(Study(run=run, seeds=(options.seed,)), folder, device=options.device, stage=ProgressBar)
        return
    codec = train_codec(run, folder, device=options.device, progress=ProgressBar("codec")).network

    def bank(split: str) -> Trajectory:
        clips = run.clips if split == "train" else run.validation_clips
        return latents(run, codec, split, run.times, clips=clips, device=options.device)

    train_model(options.model, run, bank, folder, device=options.device, progress=ProgressBar(options.model))
    print(f"Trained: {folder / f'{options.model}-seed{options.seed}.safetensors'}")


def _sample(options: argparse.Namespace) -> None:
    saved = load_model(options.model, device=options.device)
    run = saved.run
    codec = load_codec(options.codec or options.model.with_name("codec.safetensors"), device=options.device).network
    known = options.known or [-run.frame, 0.0]
    clip = run.world.clip(options.clip, options.split)
    with torch.no_grad():
        frames = render_clips([clip], known)
        given = codec.latents(frames.frames[0].to(options.device))[None]
        start = time.perf_counter()
        solution = saved.network.sample(
            Condition(Trajectory(given, frames.times)), options.times, Noise.of([options.seed]), solver=options.solver
        )
        seconds = time.perf_counter() - start
        video = codec.decode(solution.trajectory)
    steps = video.times.diff()
    real_time = 1 / float(steps.median()) if len(steps) else 1.0
    fps = real_time if options.fps is None else options.fps
    write_video(options.out, video.frames[0], fps=fps, zoom=8)
    print(
        f"Wrote {options.out}: {len(video.times)} frames, {solution.evaluations:g} evaluations in depth "
        f"{solution.depth}, {seconds:.2f} s ({solution.status})."
    )


def _compare(options: argparse.Namespace) -> None:
    first = options.out / "models" / f"multiscale-seed{options.seeds[0]}.safetensors"
    study = Study(run=load_model(first, device=options.device).run, seeds=options.seeds, test_clips=options.clips)
    _finish(study, options)


def _diagnose(options: argparse.Namespace) -> None:
    trajectory = _moving_digits(options) if options.data == "digits" else _trajectory_file(options)
    found = diagnose(Trajectory(trajectory.states.to(options.device), trajectory.times))
    content = {"data": options.data, "version": __version__, **found.content()}
    write_json(options.out / "diagnosis.json", content)
    draw_diagnosis(options.out / "diagnosis.png", content)
    print(f"{found.table()}\n\nLook at:\n  {options.out / 'diagnosis.png'}\n  {options.out / 'diagnosis.json'}")


def _moving_digits(options: argparse.Namespace) -> Trajectory:
    fps = 16.0 if options.fps is None else options.fps
    seconds = 4.0 if options.seconds is None else options.seconds
    world = World(motion=options.motion or "flight", digits=options.digits or 1)
    if not (fps > 0 and seconds > 0):
        raise ValueError(f"Rate and length must be positive; got fps={fps} and seconds={seconds}.")
    video = render_clips(world.clips(range(options.clips or 64), "train"), time_grid(0.0, seconds, 1 / fps))
    return Trajectory(video.frames, video.times)


def _trajectory_file(options: argparse.Namespace) -> Trajectory:
    given = [name for name in ("motion", "digits", "clips", "seconds") if getattr(options, name) is not None]
    if given:
        raise ValueError(f"--{given[0]} is for digits, which are drawn; {options.data} holds what it holds.")
    if options.fps is None:
        raise ValueError(f"Expected --fps, the moments per second of {options.data}.")
    return read_trajectory(Path(options.data), fps=options.fps)


def _solvers(options: argparse.Namespace) -> None:
    print(solver_table())


def _finish(study: Study, options: argparse.Namespace) -> None:
    start = time.monotonic()
    content = run_study(study, options.out, device=options.device, stage=ProgressBar)
    paths = draw_study(study, content, options.out, device=options.device, stage=ProgressBar)
    print(f"\n{tables(content)}\n\nDone in {time.monotonic() - start:.0f} s. Look at:")
    for path in [*paths, options.out / "results.json"]:
        print(f"  {path}")


class ProgressBar:
    """A progress bar that appears with the first report and shows the rate and the time left."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Any = None

    def __call__(self, step: int, steps: int, loss: float) -> None:
        from tqdm import tqdm

        if self.bar is None:
            self.bar = tqdm(total=steps, desc=f"{self.name:>22}", file=sys.stdout, initial=0, dynamic_ncols=True)
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix_str(f"{loss:.4f}", refresh=False)
        if step == steps:
            self.bar.close()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text}")
    return int(text)


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a device that is there, such as cpu or cuda, got {text!r}"
        ) from error
    return text


def _seconds(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected seconds separated by commas, got {text!r}") from error


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, got {text!r}") from error


def _times(text: str) -> list[float]:
    try:
        start, stop, step = (float(part) for part in text.split(":"))
        return time_grid(start, stop, step).tolist()
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected start:stop:step in seconds, such as 0:2:0.1, got {text!r}"
        ) from error
