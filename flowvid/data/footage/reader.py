"""Footage: video files and folders of numbered pictures, read by time in seconds.

Times are true presentation times. Time 0 is the first frame of a file, whatever its own clock says (`FootageInfo.start`
keeps that), and a frame is on screen from its own time until the next one's. A container rounds stamps to its ticks
(milliseconds in Matroska), so a frame counts as shown from half a tick before its stamp, or half a millisecond if that
is less: at 30 frames per second, t = 2/30 s is frame 2, which Matroska stamps 67 ms.

What comes out is what a player shows, as uint8 RGB: upright, with square pixels, alpha over black, eight bits (see
`flowvid.data.footage.frame_pixels`). How frames are found and reached is in `flowvid.data.footage.frame_index` and
`flowvid.data.footage.frame_source`. A `Footage` is read by one thread at a time; threads open one each.
"""

__all__ = [
    "BrokenFootage",
    "Catalogue",
    "Footage",
    "FootageInfo",
    "Skipped",
    "as_video",
    "catalogue",
    "find_footage",
]

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from flowvid.data.footage.find import find_footage
from flowvid.data.footage.frame_index import BrokenFootage
from flowvid.data.footage.frame_pixels import display_size, draw_frame, has_alpha, orientation_of
from flowvid.data.footage.frame_source import FrameSource, PictureSource, VideoSource
from flowvid.video import Video, as_times, from_bytes

_DEFAULT_FPS = 25.0
_SLACK = 5e-4
Pixels = UInt8[Tensor, "time 3 height width"]


@dataclass(frozen=True)
class FootageInfo:
    """What is known of footage without reading its pixels.

    Arguments:
        width: Columns of the upright picture, with square pixels.
        height: Its rows.
        frames: How many frames are shown.
        duration: Seconds from the first frame's appearance to the last one's end.
        fps: Mean frames per second.
        variable: Whether frames follow each other at unequal times.
        start: Time of the first frame on the file's own clock, in seconds.
        container: Format of the file; "pictures" for a folder of them.
        codec: How pictures are coded.
        bits: Bits per colour component.
        alpha: Whether the pixel format can be transparent.
        rotation: By how many degrees clockwise the stored picture is turned to be upright.
    """

    width: int
    height: int
    frames: int
    duration: float
    fps: float
    variable: bool
    start: float
    container: str
    codec: str
    bits: int
    alpha: bool
    rotation: int


class Footage:
    """One video file, or a folder of numbered pictures, open for reading; a context manager.

    Opening reads all packets and decodes the first frame. Where packets do not tell the times (GIF, raw streams, AVI
    with predicted frames) the file is decoded once, and times before the last one read mean starting again.

    Arguments:
        path: The file or the folder.
        fps: Pictures per second of a folder; default: 25.
        threads: Threads of the decoder.

    Raises:
        BrokenFootage: It cannot be read; the message is the reason.
        ValueError: ``fps`` is not positive or was given for a video file, which has its own times.
    """

    def __init__(self, path: Path | str, *, fps: float | None = None, threads: int = 1) -> None:
        self.path = Path(path)
        pictures = self.path.is_dir()
        if fps is not None and not (pictures and math.isfinite(fps) and fps > 0):
            raise ValueError(
                f"fps={fps}: expected a positive rate, for a folder of pictures; {path} has its own times."
            )
        self._source: FrameSource = (
            PictureSource(self.path, fps=fps or _DEFAULT_FPS) if pictures else VideoSource(self.path, threads=threads)
        )
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        index = self._source.index
        first = next(self._source.frames([0]))
        self._turned = orientation_of(first)
        height, width = display_size(first, self._source.aspect, self._turned)
        seconds = index.seconds(index.stamps - index.stamps[0])
        steps = np.diff(index.stamps)
        duration = float(index.seconds(int(index.stamps[-1] - index.stamps[0]) + index.last))
        self.times: Float64[Tensor, "frame"] = torch.from_numpy(seconds)
        self.info = FootageInfo(
            width=width,
            height=height,
            frames=len(index),
            duration=duration,
            fps=(len(index) - 1) / float(seconds[-1]) if len(index) > 1 else 1 / duration,
            variable=bool(len(steps) and int(steps.max() - steps.min()) > 1),
            start=float(index.seconds(int(index.stamps[0]))),
            container=self._source.container,
            codec=self._source.codec,
            bits=first.format.components[0].bits,
            alpha=has_alpha(first.format),
            rotation=self._turned.degrees,
        )

    def __enter__(self) -> "Footage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    @property
    def slack(self) -> float:
        """How many seconds before its time a frame counts as shown."""
        return min(_SLACK, float(self._source.index.tick) / 2)

    def frame_at(self, times: Sequence[float] | Float64[Tensor, "time"]) -> Int64[Tensor, "time"]:
        """The numbers of the frames on screen at some times, in any order, repeats allowed.

        Raises:
            ValueError: A time lies outside of [0, duration].
        """
        wanted = torch.as_tensor(times, dtype=torch.float64).numpy()
        slack = self.slack
        outside = ~((wanted >= -slack) & (wanted <= self.info.duration + slack))
        if outside.any():
            raise ValueError(
                f"{self.path.name} lasts from 0 to {self.info.duration:.6g} s; nothing is on screen at "
                f"{wanted[outside][0]} s."
            )
        return torch.from_numpy(np.searchsorted(self.times.numpy(), wanted + slack, side="right") - 1).clamp_(min=0)

    def at(
        self,
        times: Sequence[float] | Float64[Tensor, "time"],
        *,
        size: tuple[int, int] | None = None,
        fit: str = "crop",
    ) -> Pixels:
        """The frames on screen at some times: each the last one shown at or before its time.

        Every frame is decoded at most once, and only those between a key frame and a wanted one are decoded at all.
        In memory the channels of a pixel lie together (torch's channels_last), as decoders write them.

        Arguments:
            times: Seconds in [0, duration], in any order, repeats allowed.
            size: Height and width; default: those of the footage.
            fit: "crop" scales to cover the size and cuts the middle out, "stretch" changes the aspect ratio.

        Raises:
            BrokenFootage: A frame cannot be decoded.
            ValueError: A time lies outside of the footage, or size or fit are not as described.
        """
        return self._read(self.frame_at(times), size, fit)

    def stream(
        self, *, size: tuple[int, int] | None = None, fit: str = "crop", batch: int = 16
    ) -> Iterator[tuple[Float64[Tensor, "time"], Pixels]]:
        """All frames in order with their times, ``batch`` frames at a time, the last batch as they remain.

        Raises:
            BrokenFootage: A frame cannot be decoded.
            ValueError: Size, fit or batch are not as described in `at`, or the batch is not positive.
        """
        if batch < 1:
            raise ValueError(f"A batch holds at least one frame; got {batch}.")
        for start in range(0, self.info.frames, batch):
            numbers = torch.arange(start, min(start + batch, self.info.frames))
            yield self.times[start : start + batch], self._read(numbers, size, fit)

    def check(self, *, deep: bool = False) -> None:
        """Decode the last frame, or all of them, without converting any.

        Raises:
            BrokenFootage: A frame cannot be decoded, or the decoder marks it as damaged.
        """
        last = self.info.frames - 1
        for number, frame in enumerate(self._source.frames(range(last + 1) if deep else [last])):
            if frame.is_corrupt:
                raise BrokenFootage(f"frame {number if deep else last} of {last + 1} is damaged")

    def _read(self, numbers: Int64[Tensor, "time"], size: tuple[int, int] | None, fit: str) -> Pixels:
        """Pixels of frames in any order; each is converted once, and copied where it is wanted again."""
        height, width = size or (self.info.height, self.info.width)
        if fit not in ("crop", "stretch") or min(height, width) < 1:
            raise ValueError(f'Expected fit "crop" or "stretch" and a positive size; got {fit!r} and {size}.')
        wanted, firsts, inverse = np.unique(numbers.numpy(), return_index=True, return_inverse=True)
        pixels = np.empty((len(numbers), height, width, 3), dtype=np.uint8)
        aspect, turned, reformatter = self._source.aspect, self._turned, self._reformatter
        for place, frame in zip(firsts.tolist(), self._source.frames(wanted.tolist()), strict=True):
            draw_frame(frame, pixels[place], aspect=aspect, turned=turned, fit=fit, reformatter=reformatter)
        for place, first in enumerate(firsts[inverse].tolist()):
            if place != first:
                pixels[place] = pixels[first]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Skipped:
    """Footage that was left out.

    Arguments:
        path: Which.
        reason: Why.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Catalogue:
    """What is there and what could not be read.

    Arguments:
        entries: Readable footage.
        skipped: The rest, with reasons.
    """

    entries: tuple[tuple[Path, FootageInfo], ...]
    skipped: tuple[Skipped, ...]

    def report(self) -> str:
        """What was skipped and why, one line each; empty where nothing was."""
        if not self.skipped:
            return ""
        lines = [f"  {one.path}: {one.reason}" for one in self.skipped]
        return "\n".join((f"Skipped {len(lines)} of {len(lines) + len(self.entries)}:", *lines))


def catalogue(
    source: str | Path | Sequence[str | Path],
    *,
    fps: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    deep: bool = False,
) -> Catalogue:
    """Open all footage of a source and decode its first and last frames; what cannot be read is listed, not raised.

    Arguments:
        source: What `find_footage` takes.
        fps: Pictures per second of folders of pictures.
        progress: Told how many are done, of how many.
        deep: Decode every frame.

    Raises:
        ValueError: Nothing is found, or nothing can be read.
    """
    paths = find_footage(source)
    entries: list[tuple[Path, FootageInfo]] = []
    skipped: list[Skipped] = []
    for number, path in enumerate(paths):
        try:
            with Footage(path, fps=fps if path.is_dir() else None) as footage:
                footage.check(deep=deep)
                entries.append((path, footage.info))
        except BrokenFootage as error:
            skipped.append(Skipped(path, str(error)))
        if progress is not None:
            progress(number + 1, len(paths))
    found = Catalogue(tuple(entries), tuple(skipped))
    if not entries:
        raise ValueError(f"No footage can be read. {found.report()}")
    return found


def as_video(pixels: UInt8[Tensor, "batch time 3 height width"], times: Sequence[float] | Tensor) -> Video:
    """Pixels of 0..255 as frames in [-1, 1] with their times."""
    return Video(from_bytes(pixels).contiguous(), as_times(times))
