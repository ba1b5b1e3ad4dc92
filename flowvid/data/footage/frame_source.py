"""Frames by number: from a video file by its key frames, or from a folder of numbered pictures.

A source gives the frames of ascending numbers in one pass and decodes none of them twice. A video is entered at the key
frame before the first wanted frame and decoded from there; it is entered anew where a later key frame lies more than a
few frames ahead, and not where it does not: a decoder that is entered anew must refill its queue of reordered frames.
Where the last pass ended is remembered, so that windows that follow each other are one pass.
"""

__all__ = ["FrameSource", "PictureSource", "VideoSource", "numbered_pictures"]

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowvid.data.footage.frame_index import BrokenFootage, FrameIndex, index_frames, open_video, reason_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_HOP = 4
_NUMBERED = re.compile(r"(.*?)(\d+)\.(?:png|jpe?g)", re.IGNORECASE)


class FrameSource(ABC):
    """Frames by number, with the index that says when they are shown."""

    index: FrameIndex
    container: str
    codec: str
    aspect: Fraction | None

    @abstractmethod
    def frames(self, numbers: Sequence[int]) -> "Iterator[VideoFrame]":
        """The frames of strictly ascending numbers.

        Raises:
            BrokenFootage: One of them cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class VideoSource(FrameSource):
    """A video file.

    Arguments:
        path: The file.
        threads: Threads of the decoder.

    Raises:
        BrokenFootage: It cannot be read.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self.index = index_frames(path)
        self._places = {stamp: place for place, stamp in enumerate(self.index.stamps.tolist())}
        self._entries = np.searchsorted(self.index.stamps, self.index.keys).tolist()
        self._path = path
        self._threads = threads
        self._input, self._stream = self._open()
        self._decoding: Iterator[VideoFrame] = iter(())
        self._next = -1
        self.container = self._input.format.name.split(",")[0]
        self.codec = self._stream.codec_context.codec.canonical_name
        self.aspect = self._stream.sample_aspect_ratio

    def frames(self, numbers: Sequence[int]) -> "Iterator[VideoFrame]":
        """The frames of strictly ascending numbers."""
        for number in numbers:
            if not self._within_reach(number):
                self._enter(number)
            yield self._forward(number)

    def close(self) -> None:
        """Let go of the file."""
        self._input.close()

    def _open(self) -> "tuple[InputContainer, VideoStream]":
        return open_video(self._path, threads=self._threads)

    def _within_reach(self, number: int) -> bool:
        """Whether to go on decoding: the frame lies ahead, and no key frame on the way is worth a new entry."""
        if not 0 <= self._next <= number:
            return False
        return not self.index.seekable or self._entries[number] <= self._next + _HOP

    def _enter(self, number: int) -> None:
        """Go to the key frame before a frame, or to one before that until decoding begins early enough."""
        if not self.index.seekable:
            self._restart()
            return
        stamp, key = int(self.index.stamps[number]), int(self.index.keys[number])
        earlier = np.unique(self.index.keys[: number + 1])[::-1]
        for target in (key, *earlier[earlier < key][:2].tolist()):
            self._input.seek(target, stream=self._stream)
            self._decoding = self._input.decode(self._stream)
            first = self._following()
            if first is not None and first.pts is not None and first.pts <= stamp:
                self._next = self._places.get(first.pts, 0)
                self._decoding = _again(first, self._decoding)
                return
        self._restart()

    def _restart(self) -> None:
        self._input.close()
        self._input, self._stream = self._open()
        self._decoding = self._input.decode(self._stream)
        self._next = 0

    def _forward(self, number: int) -> "VideoFrame":
        """Decode up to a frame that lies ahead."""
        while (frame := self._following()) is not None:
            place = self._places.get(frame.pts) if self.index.seekable else self._next
            if place is None:
                continue
            self._next = place + 1
            if place == number:
                return frame
            if place > number:
                break
        self._next = -1
        raise BrokenFootage(f"frame {number} of {len(self.index)} cannot be decoded")

    def _following(self) -> "VideoFrame | None":
        import av

        try:
            return next(self._decoding, None)
        except (av.FFmpegError, OSError) as error:
            at = self._next
            self._next = -1
            raise BrokenFootage(
                f"decoding fails after frame {at - 1} of {len(self.index)} ({reason_of(error)})"
            ) from error


def _again(first: "VideoFrame", rest: "Iterator[VideoFrame]") -> "Iterator[VideoFrame]":
    yield first
    yield from rest


class PictureSource(FrameSource):
    """A folder of numbered pictures, each shown for the same time.

    Arguments:
        folder: Its .png or .jpg files are numbered at the end of their names; gaps in the numbers are no gaps in time.
        fps: Pictures per second.

    Raises:
        BrokenFootage: There are no numbered pictures, or those of several sequences.
    """

    def __init__(self, folder: Path, *, fps: float) -> None:
        self._pictures = numbered_pictures(folder)
        count = len(self._pictures)
        if not count:
            raise BrokenFootage("the folder holds no numbered .png or .jpg pictures")
        stamps = np.arange(count, dtype=np.int64)
        self.index = FrameIndex(stamps, stamps, True, 1, 1 / Fraction(fps).limit_denominator(100_000))
        self.container = "pictures"
        self.codec = self._pictures[0].suffix[1:].lower().replace("jpeg", "jpg")
        self.aspect = None

    def frames(self, numbers: Sequence[int]) -> "Iterator[VideoFrame]":
        """The pictures of strictly ascending numbers."""
        import av

        for number in numbers:
            path = self._pictures[number]
            try:
                container, stream = open_video(path)
                with container:
                    yield next(container.decode(stream))
            except (av.FFmpegError, OSError, StopIteration) as error:
                raise BrokenFootage(f"{path.name} cannot be decoded ({reason_of(error)})") from error
            except BrokenFootage as error:
                raise BrokenFootage(f"{path.name}: {error}") from error

    def close(self) -> None:
        """Nothing is held between frames."""


def numbered_pictures(folder: Path) -> list[Path]:
    """The numbered pictures of a folder, in the order of their numbers.

    Raises:
        BrokenFootage: They belong to several sequences.
    """
    try:
        found = [(match, path) for path in folder.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
    except OSError as error:
        raise BrokenFootage(f"the folder cannot be read ({reason_of(error)})") from error
    names = sorted({match[1] for match, _ in found})
    if len(names) > 1:
        raise BrokenFootage(f"the folder holds pictures of several sequences: {', '.join(map(repr, names[:4]))}")
    return [path for _, path in sorted((int(match[2]), path) for match, path in found)]
