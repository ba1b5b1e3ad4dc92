"""flowvid fill: frames between the frames of a video, at any rate, by a model trained on footage."""

__all__ = ["add"]

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowvid.cli.common import Subparsers, add_common

if TYPE_CHECKING:
    from flowvid.data.footage.reader import Footage


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("fill", help="fill in frames of a video, at any rate, by a model of footage")
    parser.add_argument("source", metavar="VIDEO", type=Path, help="a video file")
    add_common(parser, out=Path("filled.mp4"), what="the video to write, by its ending")
    parser.add_argument("--model", type=Path, required=True, help="a model folder, such as out/footage/multiscale")
    parser.add_argument("--codec", type=Path, help="the codec's folder; default: codec beside the model")
    parser.add_argument("--gap", type=float, help="seconds between frames that are kept; default: one frame")
    parser.add_argument("--fps", type=float, help="frames per second to write; default: twice the video's")
    parser.add_argument("--side", type=int, help="pixels of the shorter side; default: the video's")
    parser.add_argument("--solver", help="how to move; default: the model's first")
    parser.add_argument("--seed", type=int, default=0, help="seed of stochastic models; default: %(default)s")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.cli.networks import opened
    from flowvid.data.footage.reader import as_video
    from flowvid.data.footage.writers import VideoWriter
    from flowvid.encoders.codec import Codec
    from flowvid.generate.fill import fill_video
    from flowvid.models.hub import load_pretrained
    from flowvid.models.video_model import LearnedModel
    from flowvid.video import Video

    model = load_pretrained(options.model, device=options.device)
    codec = load_pretrained(options.codec or options.model.with_name("codec"), device=options.device)
    if not isinstance(model, LearnedModel) or not isinstance(codec, Codec):
        raise ValueError(f"Expected a model and a codec; got {type(model).__name__} and {type(codec).__name__}.")
    made = {"model": options.model.name, "solver": options.solver, "seed": options.seed, "from": options.source.name}
    how: dict[str, Any] = {"solver": options.solver, "seed": options.seed}
    with opened(options.source) as footage:
        fps = 2 * footage.info.fps if options.fps is None else options.fps
        known, size = _known(footage, options.gap), _size(footage, options.side, getattr(codec, "factor", 1))

        last: dict[float, Tensor] = {}

        def frames(times: Sequence[float]) -> Video:
            """The last one is the next one's first, and would be decoded again from its key frame on."""
            asked = [time for time in times if time not in last]
            found = last | dict(zip(asked, footage.at(asked, size=size), strict=True))
            last.clear()
            last[times[-1]] = found[times[-1]]
            video = as_video(torch.stack([found[time] for time in times])[None], times)
            return Video(video.frames.to(options.device), video.times)

        with VideoWriter(options.out, fps=fps, metadata=made) as writer:
            count = 0
            for piece in fill_video(codec, model, known, frames, fps=fps, **how):
                writer.write(piece.frames[0].cpu())
                count += len(piece.times)
    print(f"Wrote {options.out}: {count} frames at {fps:g} per second from {len(known)} known ones.")


def _known(footage: "Footage", gap: float | None) -> list[float]:
    """When frames are kept."""
    if gap is None:
        return footage.times.tolist()
    if not (math.isfinite(gap) and gap > 0):
        raise ValueError(f"The gap must be positive seconds; got {gap}.")
    count = int(float(footage.times[-1]) / gap + 1e-9)
    if count < 1:
        raise ValueError(f"The video lasts {footage.info.duration:.3f} s, less than one gap of {gap} s.")
    return [number * gap for number in range(count + 1)]


def _size(footage: "Footage", side: int | None, factor: int) -> tuple[int, int]:
    """Height and width near the video's shape, multiples of twice the codec's factor."""
    info, unit = footage.info, 2 * factor
    scale = 1.0 if side is None else side / min(info.height, info.width)
    height, width = (max(unit, round(length * scale / unit) * unit) for length in (info.height, info.width))
    return height, width
