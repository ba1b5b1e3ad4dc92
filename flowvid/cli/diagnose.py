"""flowvid diagnose: noise, roughness and spectrum of trajectories, and gaps to start from."""

__all__ = ["add"]

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flowvid.cli.common import Subparsers, add_common, positive
from flowvid.data.worlds.clips import FAMILIES

if TYPE_CHECKING:
    from flowvid.video import Trajectory


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser(
        "diagnose", help="noise, roughness and spectrum of trajectories, and gaps to start from"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="digits, for frames of moving digits; a folder of footage or a video file; or a .npy or .safetensors file "
        "of states [batch, time, channel, height, width]",
    )
    add_common(parser, out=Path("out/diagnosis"), what="the folder of the figure and the numbers")
    parser.add_argument(
        "--fps", type=float, help="moments per second; states need it; default: 16 for digits, footage's own"
    )
    motions = (*FAMILIES, "mixed")
    parser.add_argument("--motion", choices=motions, help="digits only: how they move; default: flight")
    parser.add_argument("--digits", type=int, choices=(1, 2), help="digits only: how many per clip; default: 1")
    parser.add_argument("--clips", type=positive, help="digits and footage: at most so many; default: 64")
    parser.add_argument("--seconds", type=float, help="digits and footage: length of a clip; default: 4")
    parser.add_argument("--side", type=positive, help="footage only: pixels of its frames; default: 64")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid import __version__
    from flowvid.data.files import write_json
    from flowvid.metrics.diagnostics import diagnose
    from flowvid.plot.diagnostics import draw_diagnosis
    from flowvid.video import Trajectory

    path = Path(options.data)
    if options.data == "digits":
        trajectory = _moving_digits(options)
    elif path.suffix in (".npy", ".safetensors"):
        trajectory = _trajectory_file(options)
    else:
        trajectory = _footage(options)
    found = diagnose(Trajectory(trajectory.states.to(options.device), trajectory.times))
    content = {"data": options.data, "version": __version__, **found.content()}
    write_json(options.out / "diagnosis.json", content)
    draw_diagnosis(options.out / "diagnosis.png", content)
    print(f"{found.table()}\n\nLook at:\n  {options.out / 'diagnosis.png'}\n  {options.out / 'diagnosis.json'}")


def _moving_digits(options: argparse.Namespace) -> "Trajectory":
    from flowvid.data.worlds.clips import World, render_clips
    from flowvid.video import Trajectory, time_grid

    _refuse(options, ("side",), "footage, which is resized")
    fps = 16.0 if options.fps is None else options.fps
    seconds = 4.0 if options.seconds is None else options.seconds
    world = World(motion=options.motion or "flight", digits=options.digits or 1)
    if not (fps > 0 and seconds > 0):
        raise ValueError(f"Rate and length must be positive; got fps={fps} and seconds={seconds}.")
    video = render_clips(world.clips(range(options.clips or 64), "train"), time_grid(0.0, seconds, 1 / fps))
    return Trajectory(video.frames, video.times)


def _trajectory_file(options: argparse.Namespace) -> "Trajectory":
    from flowvid.data.trajectories import read_trajectory

    _refuse(options, ("motion", "digits", "clips", "seconds", "side"), "what is drawn or read as frames")
    if options.fps is None:
        raise ValueError(f"Expected --fps, the moments per second of {options.data}.")
    return read_trajectory(Path(options.data), fps=options.fps)


def _footage(options: argparse.Namespace) -> "Trajectory":
    """Clips that follow each other in every file, as pixels."""
    import torch

    from flowvid.data.footage.reader import BrokenFootage, Footage, as_video, catalogue
    from flowvid.video import Trajectory, time_grid

    _refuse(options, ("motion", "digits"), "digits, which are drawn")
    found = catalogue([options.data])
    if found.skipped:
        print(found.report())
    fps = min(info.fps for _, info in found.entries) if options.fps is None else options.fps
    seconds = 4.0 if options.seconds is None else options.seconds
    if not (fps > 0 and seconds > 0):
        raise ValueError(f"Rate and length must be positive; got fps={fps} and seconds={seconds}.")
    times, side, most = time_grid(0.0, seconds, 1 / fps), options.side or 64, options.clips or 64
    clips: list[torch.Tensor] = []
    for path, info in found.entries:
        count = min(int((info.duration - 1 / info.fps) / seconds), most - len(clips))
        try:
            with Footage(path) as footage:
                for number in range(count):
                    clips.append(footage.at((times + number * seconds).tolist(), size=(side, side)))
        except BrokenFootage as error:
            raise ValueError(f"{path}: {error}") from error
    if not clips:
        raise ValueError(f"No file of {options.data} lasts {seconds} s; ask for fewer with --seconds.")
    video = as_video(torch.stack(clips), times)
    return Trajectory(video.frames, video.times)


def _refuse(options: argparse.Namespace, names: tuple[str, ...], purpose: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for {purpose}; it means nothing for {options.data}.")
