"""Decoded frames as upright RGB pixels of the size that is wanted.

Size, colours and depth are converted by libswscale in one pass: the matrix (BT.601, 709, 2020) and the range (limited
or full) are those that the frame is marked with, and FFmpeg's conventions (BT.601, limited) where it is not; more than
eight bits are reduced to eight, grey becomes RGB. Frames shrink by averaging areas and grow by bicubic interpolation.
Pixels that are not square are made square by changing the width. Alpha is composited over black, before scaling, so
that what is transparent does not bleed into what is not. Pictures that were stored turned or mirrored (a phone's
display matrix, a photograph's orientation) are set upright, to the nearest quarter turn.
"""

__all__ = ["Orientation", "display_size", "draw_frame", "has_alpha", "orientation_of"]

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from fractions import Fraction

    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame
    from av.video.reformatter import Interpolation, VideoReformatter


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is set upright: first transposed, then mirrored left-right, then top-bottom."""

    transpose: bool = False
    mirror: bool = False
    flip: bool = False

    @property
    def degrees(self) -> int:
        """The turn clockwise: 0, 90, 180 or 270; a mirrored picture is mirrored left-right after it."""
        if self.transpose:
            return 270 if self.flip else 90
        return 180 if self.flip else 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """The upright view of pixels [height, width, ...]."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip else 1, :: -1 if self.mirror else 1]


_UPRIGHT = Orientation()


def orientation_of(frame: "VideoFrame") -> Orientation:
    """What the display matrix of a frame asks for; (a, b) is where its rows point and (c, d) where its columns do."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirror=a < 0, flip=d < 0)
    return Orientation(transpose=True, mirror=c < 0, flip=b < 0)


def has_alpha(form: "VideoFormat") -> bool:
    """Whether pixels of this format can be transparent."""
    return form.has_palette or any(component.is_alpha for component in form.components)


def display_size(frame: "VideoFrame", aspect: "Fraction | None", turned: Orientation) -> tuple[int, int]:
    """Height and width of the upright picture with square pixels; ``aspect`` is width over height of a stored pixel."""
    width = _square_width(frame.width, aspect)
    return (width, frame.height) if turned.transpose else (frame.height, width)


def draw_frame(
    frame: "VideoFrame",
    out: UInt8[np.ndarray, "height width 3"],
    *,
    aspect: "Fraction | None",
    turned: Orientation,
    fit: str,
    reformatter: "VideoReformatter",
) -> None:
    """Write a frame, upright and as large as ``out``, into it.

    Arguments:
        frame: The frame.
        out: Where its pixels go.
        aspect: Width over height of a stored pixel.
        turned: How to set it upright.
        fit: "crop" scales to cover and cuts the middle out, "stretch" changes the aspect ratio.
        reformatter: What converts; one for all frames is quickest.
    """
    plan = _planned(frame.format.name, frame.height, frame.width, out.shape[:2], aspect, turned.transpose, fit)
    if plan.alpha:
        frame = _over_black(frame, reformatter)
    ready = reformatter.reformat(frame, plan.width, plan.height, "rgb24", interpolation=plan.method, threads=1)
    cut = _pixels(ready, 3)[plan.rows, plan.columns]
    out[:] = cut if turned == _UPRIGHT else turned.apply(cut)


@dataclass(frozen=True)
class _Plan:
    """How frames of one kind come to a size: scaled to height and width, of which rows and columns are kept."""

    height: int
    width: int
    rows: slice
    columns: slice
    method: "Interpolation"
    alpha: bool


@lru_cache(maxsize=64)
def _planned(
    form: str, height: int, width: int, size: tuple[int, int], aspect: "Fraction | None", transpose: bool, fit: str
) -> _Plan:
    from av.video.format import VideoFormat
    from av.video.reformatter import Interpolation

    wide = _square_width(width, aspect)
    rows, columns = size[::-1] if transpose else size
    tall, broad = rows, columns
    if fit == "crop":
        scale = max(rows / height, columns / wide)
        tall, broad = max(rows, round(height * scale)), max(columns, round(wide * scale))
    method = Interpolation.BILINEAR
    if (tall, broad) != (height, width):
        method = Interpolation.AREA if tall * broad < height * width else Interpolation.BICUBIC
    top, left = (tall - rows) // 2, (broad - columns) // 2
    kept = slice(top, top + rows), slice(left, left + columns)
    return _Plan(tall, broad, *kept, method, has_alpha(VideoFormat(form)))


def _square_width(width: int, aspect: "Fraction | None") -> int:
    return max(1, round(width * (aspect or 1)))


def _pixels(frame: "VideoFrame", channels: int) -> np.ndarray:
    """The pixels of a packed frame, [height, width, channel], without a copy."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
    return lines[: frame.height, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _over_black(frame: "VideoFrame", reformatter: "VideoReformatter") -> "VideoFrame":
    import av

    pixels = _pixels(reformatter.reformat(frame, format="rgba", threads=1), 4)
    alpha = pixels[..., 3:].astype(np.uint16)
    return av.VideoFrame.from_ndarray(((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8), format="rgb24")
