"""flowvid generate: videos from words, from pictures, from both; loops, key frames, extensions; files in, files out."""

__all__ = ["add"]

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowvid.cli.common import Subparsers, add_common, positive

if TYPE_CHECKING:
    from flowvid.cli.networks import Loaded
    from flowvid.models.video_model import VideoModel
    from flowvid.video import Video


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("generate", help="make videos from words and pictures, loops and extensions")
    add_common(parser, out=Path("generated.mp4"), what="the video to write, by its ending; numbered if there are many")
    parser.add_argument("--model", type=Path, required=True, help="a model: a file of a run, or a folder")
    parser.add_argument("--codec", type=Path, help="its codec; default: codec beside the model")
    parser.add_argument("--text", help="what is said of the whole video")
    parser.add_argument(
        "--say", action="append", type=_timed, default=[], metavar="SECONDS:WORDS", help="what is said of a moment"
    )
    parser.add_argument(
        "--frame",
        action="append",
        type=_placed,
        default=[],
        metavar="FILE[@SECONDS]",
        help="a picture known at a time, 0 if none is given; of a video its first frame",
    )
    parser.add_argument("--loop", action="store_true", help="end with the frame at 0 s")
    parser.add_argument("--extend", type=Path, metavar="VIDEO", help="a video to go on with")
    parser.add_argument("--fill", type=Path, metavar="MODEL", help="sample anchors first, and fill in by this model")
    parser.add_argument("--every", type=float, help="seconds between anchors; default: one, at the end")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the video; default: %(default)s")
    parser.add_argument("--fps", type=float, help="frames per second; default: the model's own")
    parser.add_argument("--count", type=positive, default=1, help="how many videos; default: %(default)s")
    parser.add_argument("--guidance", type=float, default=1.0, help="how much words count; default: %(default)s")
    parser.add_argument("--solver", help="how to move; default: the model's first")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--zoom", type=positive, default=1, help="side of a pixel in the file; default: %(default)s")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.cli.networks import load_networks
    from flowvid.data.footage.writers import write_video
    from flowvid.generate.modes import extend, generate
    from flowvid.noise import Noise
    from flowvid.video import time_grid

    _check(options)
    loaded = load_networks(options.model, options.codec, device=options.device)
    model = _model(options, loaded)
    fps = options.fps or 1 / loaded.frame
    noise = Noise.batch(options.seed, options.count)
    said = [(None, options.text)] * (options.text is not None) + options.say
    how: dict[str, Any] = {"text": _text(said, options.count), "solver": options.solver}
    if options.extend:
        before, known = _ending(options.extend, loaded, fps, options.device)
        pieces = list(
            extend(loaded.codec, model, known, options.seconds, fps=fps, frame=loaded.frame, noise=noise, **how)
        )
        after = torch.cat([piece.frames.cpu() for piece in pieces], dim=1)
        frames = torch.cat((before.frames.expand(options.count, -1, -1, -1, -1), after), dim=1)
    else:
        known = _known(options, loaded)
        film = generate(loaded.codec, model, time_grid(0.0, options.seconds, 1 / fps), noise, known=known, **how)
        frames = film.frames.cpu()
    made = {"model": options.model.name, "fill": options.fill and options.fill.name, "text": options.text}
    made |= {"say": options.say, "guidance": options.guidance, "solver": options.solver, "seed": options.seed}
    for number, clip in enumerate(frames):
        named = options.out.with_stem(f"{options.out.stem}-{number}") if options.count > 1 else options.out
        write_video(named, clip, fps=fps, zoom=options.zoom, metadata={**made, "number": number})
        print(f"Wrote {named}: {len(clip)} frames at {fps:g} per second.")


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        ValueError: They do not.
    """
    for name in ("seconds", "fps", "every"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"Expected --{name} above 0; got {value}.")
    if options.every is not None and not options.fill:
        raise ValueError("--every is the spacing of anchors; it needs --fill MODEL, which fills in between them.")
    if options.extend and (options.frame or options.loop):
        raise ValueError("--extend starts from the end of a video; it goes with neither --frame nor --loop.")
    if options.loop and 0.0 not in [time for _, time in options.frame]:
        raise ValueError("A loop comes back to the frame at 0 s: give it by --frame FILE.")


def _model(options: argparse.Namespace, loaded: "Loaded") -> "VideoModel":
    """The model of the options: guided, and followed by one that fills in.

    Raises:
        ValueError: The model is not one that can be guided.
    """
    from flowvid.cli.networks import load_networks
    from flowvid.models.anchors_first import AnchorsFirst
    from flowvid.models.clip_generator import ClipGenerator
    from flowvid.models.guided import Guided

    model: VideoModel = loaded.model
    if options.guidance != 1:
        if not isinstance(model, ClipGenerator):
            raise ValueError(f"Guidance needs a model that reads; {options.model} holds {type(model).__name__}.")
        model = Guided(model, options.guidance)
    if options.fill:
        fill = load_networks(options.fill, options.codec, device=options.device).model
        model = AnchorsFirst(model, fill, spacing=options.every, pair=loaded.frame)
    return model


def _known(options: argparse.Namespace, loaded: "Loaded") -> "Video | None":
    """The known pictures as one video.

    Raises:
        ValueError: Two are known at one time, or one cannot be read.
    """
    from flowvid.cli.networks import opened
    from flowvid.generate.modes import looped
    from flowvid.video import Video

    if not options.frame:
        return None
    placed = sorted(options.frame, key=lambda pair: pair[1])
    with opened(placed[0][0]) as first:
        size = loaded.size(first.info.height, first.info.width)
    pictures = []
    for path, _ in placed:
        with opened(path) as footage:
            pictures.append(footage.at([0.0], size=size))
    video = loaded.video(torch.cat(pictures), [time for _, time in placed])
    if not options.loop:
        return video
    start = Video(video.frames[:, :1], video.times[:1])
    end = looped(start, options.seconds)
    return Video(torch.cat((video.frames, end.frames[:, 1:]), dim=1), torch.cat((video.times, end.times[1:])))


def _ending(path: Path, loaded: "Loaded", fps: float, device: str) -> "tuple[Video, Video]":
    """A video at the rate, ending with its last frame, and its last two frames, a frame of the model apart.

    Raises:
        ValueError: It cannot be read, or lasts less than a frame of the model.
    """
    from flowvid.cli.networks import opened

    with opened(path) as footage:
        last, size = float(footage.times[-1]), loaded.size(footage.info.height, footage.info.width)
        if last < loaded.frame - 1e-6:
            raise ValueError(f"{path} lasts {last:.3f} s; the model starts from two frames {loaded.frame} s apart.")
        count = int(last * fps + 1e-6)
        times = [last - number / fps for number in reversed(range(count + 1))]
        before = loaded.video(footage.at(times, size=size), times)
        ends = footage.at([last - loaded.frame, last], size=size)
    return before, loaded.video(ends, [-loaded.frame, 0.0])


def _text(said: list[tuple[float | None, str]], count: int) -> Any:
    """The text of a condition: the same for all videos."""
    from flowvid.video import Said

    return [[Said(words, time) for time, words in said]] * count if said else None


def _timed(text: str) -> tuple[float, str]:
    seconds, colon, words = text.partition(":")
    try:
        if not colon or not words.strip():
            raise ValueError
        return float(seconds), words.strip()
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected SECONDS:WORDS, such as '1.5:the seven rests', got {text!r}"
        ) from error


def _placed(text: str) -> tuple[Path, float]:
    name, at, seconds = text.rpartition("@")
    if not at:
        return Path(text), 0.0
    try:
        return Path(name), float(seconds)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected FILE or FILE@SECONDS, got {text!r}") from error
