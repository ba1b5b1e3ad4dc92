"""Parts of real clips to learn from and to be judged on.

A clip is read frame by frame, none dropped and none doubled, and played at one rate for all: sampling 30 frames per
second at 25 would drop every sixth, and the truth itself would stutter. The first part of every clip is for training,
the last is held out, and some frames between them are left out, so that no held-out frame has a neighbour in training.
"""

__all__ = ["RealRun", "Spans", "read_spans"]

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from experiments.fill_in import EVERY
from flowvid.data.cache import TensorCache, cache_key, file_identity
from flowvid.data.footage.find import find_footage
from flowvid.data.footage.reader import Footage, as_video
from flowvid.train.loop import Optimisation
from flowvid.video import Video, time_grid

Pixels = UInt8[Tensor, "time 3 height width"]


@dataclass(frozen=True, kw_only=True)
class RealRun:
    """Clips, codec and models.

    Arguments:
        name: Name of the folder, in ``out``, where everything is kept.
        files: Names of the clips; all that are long enough, where none of these is there.
        side: Pixels of a frame.
        fps: Frames per second that every clip is played at.
        most: Frames of a clip that are read.
        held_out: Share of a clip, at its end, that is held out.
        apart: Frames between the two parts.
        gaps: Gaps of eight frames in a window that is judged.
        windows: Windows of every clip that are judged, of each part.
        factor: Sides of a frame over sides of its latent.
        channels: Channels of a latent.
        codec_width: Width of the codec.
        perceptual: Weight of LPIPS in the codec's loss, where there are weights of it.
        codec: Optimisation of the codec, whose batch counts frames.
        width: Width of the models' trunks.
        model: Optimisation of the models; its seed is replaced by each of ``seeds``.
        seeds: Seeds of the models.

    Raises:
        ValueError: A share or a number is out of range.
    """

    name: str
    files: tuple[str, ...]
    side: int = 64
    fps: float = 30.0
    most: int = 300
    held_out: float = 0.35
    apart: int = EVERY
    gaps: int = 2
    windows: int = 3
    factor: int = 4
    channels: int = 8
    codec_width: int = 32
    perceptual: float = 0.0
    codec: Optimisation
    width: int = 48
    model: Optimisation
    seeds: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1 or min(self.apart, self.gaps, self.windows, len(self.seeds)) < 1:
            raise ValueError(f"Expected a share that is held out, and at least one of everything; got {self}.")

    @property
    def frame(self) -> float:
        """Seconds between frames."""
        return 1 / self.fps

    @property
    def length(self) -> int:
        """Frames of a window that is judged."""
        return EVERY * self.gaps + 1


@dataclass(frozen=True, eq=False)
class Spans:
    """The frames of all clips.

    Arguments:
        names: Names of the files.
        training: The first part of every clip.
        held_out: The last part.
    """

    names: list[str]
    training: list[Pixels]
    held_out: list[Pixels]

    def windows(self, run: RealRun, part: str) -> tuple[Video, list[int]]:
        """Windows of all clips, spread evenly, and which clip each is of.

        Arguments:
            run: The run.
            part: "training" or "held_out".
        """
        chosen: list[Tensor] = []
        clips: list[int] = []
        for clip, pixels in enumerate(self.training if part == "training" else self.held_out):
            room = len(pixels) - run.length
            count = min(run.windows, 1 + room // (run.length - 1))
            starts = [room * number // max(count - 1, 1) for number in range(count)]
            chosen += [pixels[start : start + run.length] for start in starts]
            clips += [clip] * count
        return as_video(torch.stack(chosen), time_grid(0.0, (run.length - 1) * run.frame, run.frame)), clips


def read_spans(run: RealRun, data: Path, folder: Path) -> Spans:
    """The frames of the run's clips, decoded once.

    Arguments:
        run: The run.
        data: A folder that holds ``clips``; those in folders of their own are left out.
        folder: Where decoded frames are kept.

    Raises:
        ValueError: A clip is missing, or too short to have a window in both parts.
    """
    there = {path.name: path for path in find_footage(data / "clips") if path.parent == data / "clips"}
    wanted = run.files if any(name in there for name in run.files) else ()
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ValueError(f"Expected {', '.join(missing)} in {data / 'clips'}; found {', '.join(sorted(there))}.")
    cache = TensorCache(folder / "frames")
    names: list[str] = []
    training: list[Tensor] = []
    held_out: list[Tensor] = []
    least = max(run.length, 2 * EVERY + 2)
    for name in wanted or sorted(there):
        pixels = _frames(there[name], run, cache)
        split = round(len(pixels) * (1 - run.held_out)) - run.apart // 2
        parts = pixels[:split], pixels[split + run.apart :]
        if min(map(len, parts)) < least:
            if not wanted:
                continue
            raise ValueError(f"{name} has {len(pixels)} frames; both of its parts need {least}.")
        names.append(name)
        training.append(parts[0])
        held_out.append(parts[1])
    if not names:
        raise ValueError(f"No clip in {data / 'clips'} is long enough: both of its parts need {least} frames.")
    return Spans(names, training, held_out)


def _frames(path: Path, run: RealRun, cache: TensorCache) -> Pixels:
    """The first frames of a clip, at the size of the run."""

    def read() -> Tensor:
        with Footage(path) as footage:
            return footage.at(footage.times[: run.most], size=(run.side, run.side)).contiguous()

    return cache.get(cache_key(file=file_identity(path), side=run.side, most=run.most), read)
