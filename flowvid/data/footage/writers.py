"""Videos to files, by ending: .mp4 (h264), .webm (VP9), .mkv (FFV1, lossless), .gif, and .png (a strip of all frames).

A file is complete or absent. Frames follow each other at a rate, or at times of their own: .mp4 keeps them to
1/90000 s, .mkv and .webm to a millisecond, .gif to a hundredth of a second; the first frame is at 0. What made the
video (seed, solver, model) is stored inside as JSON, in the comment of the container, together with flowvid's version,
and `read_metadata` returns it.

Colours of .mp4 and .webm are BT.709 of limited range, marked as such, at half the resolution of brightness. A .gif has
a palette of 256 colours for every frame.
"""

__all__ = ["VideoWriter", "read_metadata", "write_video"]

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flowvid import __version__
from flowvid.data.files import replaced, write_atomically
from flowvid.data.footage.frame_index import open_video
from flowvid.data.footage.gif import gif_comment, paletted, with_comment
from flowvid.video import as_times, to_bytes

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Frames = Float[Tensor, "time channel height width"] | UInt8[Tensor, "time channel height width"]
_BT709, _LIMITED = 1, 1
_ALONE = 0.04


@dataclass(frozen=True)
class _Format:
    """A codec and what it needs: its pixels, whether sides must be even, ticks for times, its options."""

    codec: str
    pixels: str
    even: bool
    ticks: int
    options: Mapping[str, str]


_FORMATS = {
    ".mp4": _Format("libx264", "yuv420p", True, 90_000, {"crf": "12"}),
    ".webm": _Format("libvpx-vp9", "yuv420p", True, 1000, {"crf": "12", "b": "0", "deadline": "good", "cpu-used": "4"}),
    ".mkv": _Format("ffv1", "bgr0", False, 1000, {}),
    ".gif": _Format("gif", "pal8", False, 100, {}),
}


def write_video(
    path: Path,
    frames: Frames,
    *,
    fps: float | None = None,
    times: Sequence[float] | Tensor | None = None,
    zoom: int = 1,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a video, atomically; the ending says how.

    Arguments:
        path: The file: .mp4, .webm, .mkv, .gif, or .png for one picture of all frames side by side.
        frames: One or three channels, in [-1, 1] or uint8.
        fps: Frames per second, at least 0.001.
        times: Instead of ``fps``: seconds, strictly increasing; the first frame is at 0 in the file. A .png needs
            neither and notes either.
        zoom: Every pixel becomes a square of this side.
        metadata: What to store inside, as JSON can hold it.

    Raises:
        ValueError: The ending, the number of channels, the rate, the times or the zoom is not as described, or a pixel
            is not finite.
    """
    if path.suffix == ".png":
        _write_strip(path, frames, fps=fps, times=times, zoom=zoom, metadata=metadata or {})
        return
    with VideoWriter(path, fps=fps, zoom=zoom, metadata=metadata) as writer:
        writer.write(frames, times)


class VideoWriter:
    """Writes a video piece by piece, for clips that outgrow memory; a context manager.

    The file appears when the block ends; where it fails, nothing is left and an old file stays. The last of frames with
    times is shown as long as the one before it, and one alone for 0.04 s.

    Arguments:
        path: The file: .mp4, .webm, .mkv or .gif.
        fps: Frames per second; None where `write` is given times.
        zoom: Every pixel becomes a square of this side.
        metadata: What to store inside, as JSON can hold it.

    Raises:
        ValueError: The ending, the rate or the zoom is not as described.
    """

    def __init__(
        self, path: Path, *, fps: float | None = None, zoom: int = 1, metadata: Mapping[str, Any] | None = None
    ) -> None:
        if path.suffix not in _FORMATS:
            raise ValueError(f"Videos are written as {', '.join(_FORMATS)}, strips as .png; got {path.name}.")
        if (fps is not None and not (math.isfinite(fps) and fps >= 1e-3)) or zoom < 1:
            raise ValueError(f"Expected a finite fps >= 0.001 and zoom >= 1; got fps={fps}, zoom={zoom}.")
        self.path = path
        self._format = _FORMATS[path.suffix]
        self._fps = fps
        self._zoom = zoom
        self._comment = _comment(metadata or {})
        if fps is not None and fps > self._format.ticks:
            raise ValueError(
                f"{path.suffix} tells frames apart at {self._format.ticks} a second at most; got fps={fps}."
            )
        self._rate = Fraction(25 if fps is None else fps).limit_denominator(1000)
        self._tick = Fraction(1, self._format.ticks) if fps is None else 1 / self._rate
        self._size: tuple[int, int] | None = None
        self._start = 0.0
        self._stamps: list[int] = []
        self._held: VideoFrame | None = None
        self._encoded = 0

    def __enter__(self) -> "VideoWriter":
        import av

        with ExitStack() as stack:
            self._temporary = stack.enter_context(replaced(self.path))
            self._container = stack.enter_context(av.open(str(self._temporary.absolute()), mode="w"))
            self._container.metadata["comment"] = self._comment
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._finish()

    def write(self, frames: Frames, times: Sequence[float] | Tensor | None = None) -> None:
        """Append frames.

        Arguments:
            frames: One or three channels, in [-1, 1] or uint8; all pieces of one size.
            times: Seconds, one for each frame, where the writer has no rate; strictly increasing over all pieces.

        Raises:
            ValueError: Frames or times are not as described, or two times fall on one tick of the container.
        """
        _check_frames(frames)
        size = (frames.shape[2], frames.shape[3])
        if self._size not in (None, size):
            raise ValueError(f"All frames of a video have one size; got {size} after {self._size}.")
        before = len(self._stamps)
        self._stamps += self._next_stamps(len(frames), times)
        if self._size is None:
            self._size = size
            self._begin(*size)
        for number, frame in enumerate(frames, before):
            picture = self._picture(frame)
            picture.pts, picture.time_base = self._stamps[number], self._tick
            self._encode_held(self._stamps[number])
            self._held = picture

    def _next_stamps(self, count: int, times: Sequence[float] | Tensor | None) -> list[int]:
        if (times is None) == (self._fps is None):
            raise ValueError("A video has a rate (fps) or times, one of the two.")
        first = len(self._stamps)
        if times is None:
            return list(range(first, first + count))
        seconds = as_times(times).tolist()
        if len(seconds) != count:
            raise ValueError(f"Got {len(seconds)} times for {count} frames; one time for each.")
        if not first:
            self._start = seconds[0]
        stamps = [round((time - self._start) / self._tick) for time in seconds]
        for early, late in pairwise([*self._stamps[-1:], *stamps]):
            if late <= early:
                raise ValueError(
                    f"Times must increase by at least {float(self._tick):g} s, a tick of {self.path.suffix}; two fall "
                    f"on {float(late * self._tick):g} s."
                )
        return stamps

    def _begin(self, height: int, width: int) -> None:
        from av.codec.context import Flags

        even = 2 if self._format.even else 1
        self._stream = cast("VideoStream", self._container.add_stream(self._format.codec, rate=self._rate))
        self._stream.height = -(-height * self._zoom // even) * even
        self._stream.width = -(-width * self._zoom // even) * even
        self._stream.pix_fmt = self._format.pixels
        self._stream.options = dict(self._format.options)
        self._stream.time_base = self._stream.codec_context.time_base = self._tick
        self._stream.thread_count = 1
        self._stream.codec_context.flags |= Flags.frame_duration
        if even == 2:
            self._stream.codec_context.colorspace = _BT709
            self._stream.codec_context.color_range = _LIMITED

    def _picture(self, frame: Tensor) -> "VideoFrame":
        import av

        pixels = _bytes(frame, self._zoom, even=self._format.even)
        if self._format.pixels == "pal8":
            return paletted(pixels)
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if not self._format.even:
            return picture.reformat(format=self._format.pixels)
        return picture.reformat(format=self._format.pixels, dst_colorspace=_BT709, dst_color_range=_LIMITED)

    def _encode_held(self, until: int) -> None:
        """Encode the frame before, whose length is known only when the next one comes."""
        if self._held is not None:
            self._held.duration = until - self._stamps[self._encoded]
            self._container.mux(self._stream.encode(self._held))
            self._encoded += 1

    def _finish(self) -> None:
        if not self._stamps:
            raise ValueError(f"A video needs at least one frame; none was written to {self.path.name}.")
        alone = 1 if self._fps is not None else max(1, round(_ALONE / self._tick))
        gap = self._stamps[-1] - self._stamps[-2] if len(self._stamps) > 1 else alone
        self._encode_held(self._stamps[-1] + gap)
        self._container.mux(self._stream.encode())
        self._container.close()
        if self.path.suffix == ".gif":
            self._temporary.write_bytes(with_comment(self._temporary.read_bytes(), self._comment))


def read_metadata(path: Path) -> dict[str, Any]:
    """What was stored in a video or a strip by flowvid; empty where nothing was.

    Raises:
        BrokenFootage: The file cannot be read.
    """
    if path.suffix == ".gif" and path.exists():
        comment = gif_comment(path)
    elif path.suffix == ".png" and path.exists():
        from PIL import Image

        with Image.open(path) as image:
            comment = str(image.info.get("comment", ""))
    else:
        container, _ = open_video(path)
        with container:
            comment = next((text for key, text in container.metadata.items() if key.lower() == "comment"), "")
    try:
        content = json.loads(comment)
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) and "flowvid" in content else {}


def _comment(metadata: Mapping[str, Any]) -> str:
    return json.dumps({"flowvid": __version__, **metadata}, allow_nan=False)


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] not in (1, 3) or not len(frames):
        raise ValueError(f"A video needs frames of 1 or 3 channels, at least one frame; got {tuple(frames.shape)}.")
    if not bool(frames.isfinite().all()):
        raise ValueError("A video needs finite frames; some pixels are NaN or infinite.")


def _bytes(frame: Tensor, zoom: int, *, even: bool) -> UInt8[np.ndarray, "height width 3"]:
    """Pixels of a frame [channel, height, width], enlarged; sides are made even by repeating an edge."""
    pixels = frame.detach().cpu()
    if pixels.dtype != torch.uint8:
        pixels = to_bytes(pixels)
    lines = pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy().repeat(zoom, axis=0).repeat(zoom, axis=1)
    if even:
        lines = np.pad(lines, ((0, lines.shape[0] % 2), (0, lines.shape[1] % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(lines)


def _write_strip(
    path: Path,
    frames: Frames,
    *,
    fps: float | None,
    times: Sequence[float] | Tensor | None,
    zoom: int,
    metadata: Mapping[str, Any],
) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    _check_frames(frames)
    if zoom < 1 or (times is not None and len(as_times(times)) != len(frames)):
        raise ValueError(f"Expected zoom >= 1 and one time for each of {len(frames)} frames; got zoom={zoom}.")
    timing = {} if fps is None else {"fps": fps}
    timing |= {} if times is None else {"times": as_times(times).tolist()}
    info = PngInfo()
    info.add_itxt("comment", _comment({**timing, **metadata}))
    strip = Image.fromarray(np.concatenate([_bytes(frame, zoom, even=False) for frame in frames], axis=1))
    write_atomically(path, lambda place: strip.save(place, pnginfo=info))
