"""When the frames of a file are shown, read from its packets, and which of them decoding can start at.

A container stores frames as packets in the order in which they are decoded; each carries the moment at which its frame
is presented, in ticks of the stream's time base. Reading packets costs a pass over the file and no decoding. Sorted by
presentation they are the frames as they are seen: B-frames (decoded after a later frame), variable rates, gaps and a
start other than zero need no further care. Packets that an edit list marks as decoded but not shown are left out. How
long the last frame is shown its packet says; where frames are reordered in MP4, whose packets tell the time to the next
decoded frame instead, it is taken to be as long as the frame before it.

Decoding starts at key frames only. The frame at presentation index n needs the last key frame presented at or before n:
frames that are decoded after a key frame but shown before it (open groups of pictures) belong to the key frame before.

Packets do not always tell the truth: AVI has no presentation stamps and shows B-frames under the wrong ones, VP8 has
packets of frames that are never shown, GIF cannot be entered in the middle, raw streams have no index. There the file
is decoded once, frames are told apart by counting, and reading backward starts again from the beginning. (AVI whose
packets are all key frames can be entered anywhere.)

References:
    ISO/IEC 14496-12 (ISO base media file format), composition offsets and edit lists
    FFmpeg libavformat documentation, https://ffmpeg.org/doxygen/trunk/group__lavf__decoding.html
"""

__all__ = ["BrokenFootage", "FrameIndex", "index_frames", "open_video", "reason_of"]

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_TRUSTED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_SHORTEST_LOSS = 0.1
Ticks = Int64[np.ndarray, "frame"]


class BrokenFootage(ValueError):  # noqa: N818 (it names what is broken)
    """A file that cannot be read as footage; the message is the reason, without the file's name."""


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a stream in the order in which they are shown.

    Arguments:
        stamps: Presentation stamps in ticks, in ascending order.
        keys: For each frame the presentation stamp of the key frame from which decoding reaches it.
        seekable: Whether frames are told by their stamps and the file can be entered at key frames; otherwise frames
            are counted from the beginning.
        last: Ticks for which the last frame is shown.
        tick: Seconds of a tick.
    """

    stamps: Ticks
    keys: Ticks
    seekable: bool
    last: int
    tick: Fraction

    def __len__(self) -> int:
        return len(self.stamps)

    def seconds(self, ticks: int | Ticks) -> Any:
        """Ticks as seconds, correctly rounded."""
        return ticks * self.tick.numerator / self.tick.denominator


def reason_of(error: Exception) -> str:
    """What an error of a library says, without the path."""
    return str(getattr(error, "strerror", None) or error)


def open_video(path: Path, *, threads: int = 1) -> "tuple[InputContainer, VideoStream]":
    """A file and its first moving picture, covers left aside.

    Raises:
        BrokenFootage: It is gone, empty, no video, or without a picture.
    """
    import av
    from av.stream import Disposition

    if not path.exists():
        raise BrokenFootage("it is not there")
    if path.stat().st_size == 0:
        raise BrokenFootage("it is empty")
    try:
        container = av.open(str(path.absolute()), metadata_errors="replace", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise BrokenFootage(f"it is no video, or its head or tail is cut off ({reason_of(error)})") from error
    if container.format.name == "tty":
        container.close()
        raise BrokenFootage("it is text")
    videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not videos or videos[0].codec_context is None:
        kinds = sorted({one.type for one in container.streams}) or ["nothing"]
        container.close()
        raise BrokenFootage(f"it holds no pictures that can be decoded, only {', '.join(kinds)}")
    videos[0].thread_count = threads
    return container, videos[0]


def index_frames(path: Path) -> FrameIndex:
    """The index of a file, by reading its packets and, where these are not enough, by decoding it once.

    Raises:
        BrokenFootage: It cannot be read, no frame is there, or fewer than it says it holds.
    """
    container, stream = open_video(path)
    with container:
        packets = _read_packets(container, stream)
        trusted = container.format.name in _TRUSTED and stream.codec_context.name not in ("vp8", "libvpx")
        trusted |= container.format.name == "avi" and packets.all_keys
        if not packets.count:
            raise BrokenFootage("it holds no frames")
        if container.format.name == _TRUSTED[0] and stream.frames > packets.count:
            raise BrokenFootage(f"it is cut off: of the {stream.frames} frames it names, {packets.count} are there")
        shown, keys, seekable = packets.shown, packets.keys, trusted and packets.unambiguous
        if not seekable:
            shown = _decoded_stamps(path)
            keys = shown[:1]
        stamps = np.array(sorted(shown), dtype=np.int64)
        if not len(stamps):
            raise BrokenFootage("it holds no frames")
        last = packets.durations.get(int(stamps[-1]), 0) or _usual_step(stamps, stream)
        if packets.reordered and len(stamps) > 1 and container.format.name == _TRUSTED[0]:
            last = int(stamps[-1] - stamps[-2])
        index = FrameIndex(stamps, _reached_from(stamps, keys), seekable, last, stream.time_base or Fraction(1))
        _check_length(path, container, stream, index, packets.end)
    return index


@dataclass
class _Packets:
    """What the packets of a stream say: stamps of what is shown, of key frames, and how long each is shown."""

    count: int = 0
    stamped: bool = True
    all_keys: bool = True
    reordered: bool = False
    shown: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    durations: dict[int, int] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return max((stamp + length for stamp, length in self.durations.items()), default=0)

    @property
    def unambiguous(self) -> bool:
        return self.stamped and bool(self.keys) and len(self.durations) == len(self.shown)


def _read_packets(container: "InputContainer", stream: "VideoStream") -> _Packets:
    import av

    found = _Packets()
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            found.count += 1
            found.all_keys &= packet.is_keyframe
            found.stamped &= packet.pts is not None
            found.reordered |= bool(found.shown) and packet.pts is not None and packet.pts < found.shown[-1]
            if packet.pts is not None and packet.is_keyframe:
                found.keys.append(packet.pts)
            if packet.pts is not None and not packet.is_discard:
                found.shown.append(packet.pts)
                found.durations[packet.pts] = packet.duration or 0
    except (av.FFmpegError, OSError) as error:
        raise BrokenFootage(f"reading fails after {found.count} frames ({reason_of(error)})") from error
    return found


def _decoded_stamps(path: Path) -> list[int]:
    """The stamps of the frames that decoding gives, in the order of their showing."""
    import av

    container, stream = open_video(path)
    stamps: list[int | None] = []
    with container:
        try:
            stamps += (frame.pts for frame in container.decode(stream))
        except (av.FFmpegError, OSError) as error:
            raise BrokenFootage(f"decoding fails after {len(stamps)} frames ({reason_of(error)})") from error
        known = {stamp for stamp in stamps if stamp is not None}
        if len(known) == len(stamps):
            return sorted(known)
        step = _rate_step(stream)
        return [round(number * step) for number in range(len(stamps))]


def _reached_from(stamps: Ticks, keys: list[int]) -> Ticks:
    """For each frame the last key frame shown at or before it, or the first of all."""
    starts = np.array(sorted(set(keys)), dtype=np.int64)
    return starts[np.maximum(np.searchsorted(starts, stamps, side="right") - 1, 0)]


def _rate_step(stream: "VideoStream") -> float:
    """Ticks from frame to frame by the stream's rate."""
    return 1 / float((stream.average_rate or 25) * (stream.time_base or 1))


def _usual_step(stamps: Ticks, stream: "VideoStream") -> int:
    """Ticks for which a frame of unsaid length is shown: as the others are, or by the stream's rate."""
    return int(np.median(np.diff(stamps))) if len(stamps) > 1 else max(1, round(_rate_step(stream)))


def _check_length(path: Path, container: "InputContainer", stream: "VideoStream", index: FrameIndex, end: int) -> None:
    """Compare with the length that heads of Matroska and AVI name, and look for the mark at the end of a GIF."""
    name = container.format.name
    tag = stream.metadata.get("DURATION", "")
    if name == _TRUSTED[1] and tag.count(":") == 2:
        hours, minutes, rest = tag.split(":")
        said = int(hours) * 3600 + int(minutes) * 60 + float(rest)
        if said - index.seconds(end) > max(_SHORTEST_LOSS, 2 * index.seconds(index.last)):
            there = f"its {len(index)} frames end at {index.seconds(end):.2f} s"
            raise BrokenFootage(f"it is cut off: it says it ends at {said:.2f} s, and {there}")
    longest = int(np.diff(index.stamps).max()) if len(index) > 1 else index.last
    if name == "avi" and stream.frames > end + longest:
        there = f"its {len(index)} frames end at {end}"
        raise BrokenFootage(f"it is cut off: it says it ends at tick {stream.frames}, and {there}")
    if name == "gif":
        with path.open("rb") as handle:
            handle.seek(-min(64, path.stat().st_size), 2)
            if not handle.read().rstrip(b"\0\r\n ").endswith(b";"):
                raise BrokenFootage(f"it is cut off: after {len(index)} frames the mark of its end is not there")
