"""Contact sheets: one row per piece of footage, its frames at equal distances in time."""

__all__ = ["Reel", "contact_sheet", "reel"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from flowvid.data.files import write_atomically
from flowvid.data.footage.reader import Footage

_INK, _FAINT = "#1a1a1a", "#6a6a6a"
_GAP = 4
_DPI = 100


@dataclass(frozen=True, eq=False)
class Reel:
    """A row of a sheet.

    Arguments:
        name: What it shows.
        caption: A second, smaller line.
        times: Seconds, one for each frame.
        frames: The frames.
    """

    name: str
    caption: str
    times: Sequence[float]
    frames: UInt8[Tensor, "time 3 height width"]


def reel(footage: Footage, name: str, *, count: int = 6, box: tuple[int, int] = (90, 160)) -> Reel:
    """Frames of footage in the middle of ``count`` equal parts, as large as fits into a box (height, width).

    Raises:
        BrokenFootage: A frame cannot be decoded.
    """
    info = footage.info
    scale = min(box[0] / info.height, box[1] / info.width)
    size = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    times = [(part + 0.5) / count * info.duration for part in range(count)]
    caption = f"{info.width} x {info.height}, {info.frames} frames, {info.duration:.2f} s"
    return Reel(name, caption, times, footage.at(times, size=size))


def contact_sheet(path: Path, reels: Sequence[Reel]) -> None:
    """Draw reels below each other, names above and times below each.

    Arguments:
        path: The PNG.
        reels: The rows, all with as many frames.

    Raises:
        ValueError: There are no reels, or their numbers of frames or times differ.
    """
    counts = {len(one.frames) for one in reels} | {len(one.times) for one in reels}
    if len(counts) != 1:
        raise ValueError(f"A contact sheet needs reels of as many frames and times each; got {sorted(counts)}.")
    tall = max(one.frames.shape[2] for one in reels)
    wide = max(one.frames.shape[3] for one in reels)
    head, foot, margin = 30, 16, 10
    width = 2 * margin + counts.pop() * (wide + _GAP) - _GAP
    height = 2 * margin + len(reels) * (head + tall + foot)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    for row, one in enumerate(reels):
        top = margin + row * (head + tall + foot)
        figure.text(margin / width, 1 - (top + 11) / height, one.name, fontsize=8.5, color=_INK, va="center")
        figure.text(margin / width, 1 - (top + 23) / height, one.caption, fontsize=6.5, color=_FAINT, va="center")
        for column, (time, frame) in enumerate(zip(one.times, one.frames, strict=True)):
            left = margin + column * (wide + _GAP)
            rows, columns = frame.shape[1:]
            up, in_ = top + head + (tall - rows) // 2, left + (wide - columns) // 2
            sheet[up : up + rows, in_ : in_ + columns] = frame.permute(1, 2, 0).numpy()
            at = (left + wide / 2) / width, 1 - (top + head + tall + foot / 2) / height
            figure.text(*at, f"{time:.2f} s", fontsize=6.5, color=_FAINT, ha="center", va="center")
    figure.figimage(sheet, origin="upper", zorder=-1)
    write_atomically(path, lambda place: figure.savefig(place, dpi=_DPI))
