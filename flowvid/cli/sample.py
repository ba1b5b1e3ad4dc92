"""flowvid sample: a trained model at any times, as a video."""

__all__ = ["add"]

import argparse
import time
from pathlib import Path

import torch

from flowvid.cli.common import Subparsers, add_common, seconds, times


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("sample", help="sample a trained model at any times and write a video")
    add_common(
        parser, out=Path("clip.mp4"), what="the video to write, by its ending .mp4, .webm, .mkv, .gif or .png (a strip)"
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="a model file, such as out/demo/models/multiscale-seed0.safetensors"
    )
    parser.add_argument("--codec", type=Path, help="the codec file; default: codec.safetensors beside the model")
    parser.add_argument(
        "--solver", help="how to move; a wrong name lists those the model knows; default: the model's first"
    )
    parser.add_argument(
        "--times", type=times, default=times("0:2:0.125"), help="start:stop:step in seconds; default: 0:2:0.125"
    )
    parser.add_argument(
        "--known",
        type=seconds,
        help="times of the known frames, such as --known=-0.125,0,2; default: two context frames",
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--clip", type=int, default=0, help="number of the clip to continue; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of stochastic models; default: %(default)s")
    parser.add_argument("--fps", type=float, help="frames per second; default: real time")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.data.footage.writers import write_video
    from flowvid.data.worlds.scene import render_scenes
    from flowvid.noise import Noise
    from flowvid.train.run import load_codec, load_model
    from flowvid.video import Condition, Trajectory

    saved = load_model(options.model, device=options.device)
    run = saved.run
    codec = load_codec(options.codec or options.model.with_name("codec.safetensors"), device=options.device).network
    known = options.known or [-run.frame, 0.0]
    clips = run.world.clips([options.clip], options.split)
    with torch.no_grad():
        frames = render_scenes(clips, known)
        given = codec.latents(frames.frames[0].to(options.device))[None]
        start = time.perf_counter()
        solution = saved.network.sample(
            Condition(Trajectory(given, frames.times)), options.times, Noise.of([options.seed]), solver=options.solver
        )
        taken = time.perf_counter() - start
        video = codec.decode(solution.trajectory)
    steps = video.times.diff()
    real_time = 1 / float(steps.median()) if len(steps) else 1.0
    fps = real_time if options.fps is None else options.fps
    made = {"model": options.model.name, "solver": options.solver, "seed": options.seed, "known": known}
    made |= {"split": options.split, "clip": options.clip, "evaluations": solution.evaluations}
    write_video(options.out, video.frames[0], fps=fps, zoom=8, metadata=made)
    print(
        f"Wrote {options.out}: {len(video.times)} frames, {solution.evaluations:g} evaluations in depth "
        f"{solution.depth}, {taken:.2f} s ({solution.status})."
    )
