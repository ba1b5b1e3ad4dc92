"""Film strips: frames of several methods in rows, times in columns, errors beneath."""

__all__ = ["Strip", "film_strips", "side_by_side"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from flowvid.data.files import write_atomically

_INK = "#1a1a1a"


@dataclass(frozen=True, eq=False)
class Strip:
    """The frames of one method for one clip.

    Arguments:
        name: What to write beside it.
        frames: Frames in [-1, 1].
    """

    name: str
    frames: Float[Tensor, "time channel height width"]


def film_strips(
    path: Path,
    panels: Sequence[tuple[str, Sequence[float], Sequence[Strip]]],
    *,
    known: Sequence[Sequence[float]],
) -> None:
    """Draw panels of strips below each other; the first strip of a panel is the truth.

    Below every strip but the first stands its error, |frame - truth|, darker for larger.

    Arguments:
        path: The PNG.
        panels: (title, times in seconds, strips).
        known: Times of each panel that were known to the methods, which are framed.

    Raises:
        ValueError: A strip does not have one frame for each time, or the lists differ in length.
    """
    for title, times, strips in panels:
        for strip in strips:
            if len(strip.frames) != len(times):
                raise ValueError(
                    f"{title}: {strip.name} has {len(strip.frames)} frames for {len(times)} times; one frame for each."
                )
    counts = [2 * len(strips) - 1 for _, _, strips in panels]
    columns = max(len(times) for _, times, _ in panels)
    figure = Figure(figsize=(1.9 + 0.62 * columns, 0.64 * sum(counts) + 0.8 * len(panels)), dpi=130)
    parts = figure.subfigures(len(panels), 1, height_ratios=[count + 1.1 for count in counts], squeeze=False)[:, 0]
    for part, (title, times, strips), given in zip(parts, panels, known, strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
        axes = part.subplots(2 * len(strips) - 1, columns, squeeze=False)
        part.subplots_adjust(
            left=0.13, right=0.995, top=1 - 0.8 / (2 * len(strips)), bottom=0.01, wspace=0.06, hspace=0.08
        )
        for axis in axes.flat:
            axis.set_axis_off()
        truth = strips[0].frames
        for number, strip in enumerate(strips):
            row = max(0, 2 * number - 1)
            _draw_row(axes[row], strip.name, _gray(strip.frames), times, given, header=number == 0)
            if number:
                _draw_row(axes[row + 1], "error", 1 - _gray(strip.frames, truth), times, (), header=False)
    write_atomically(path, lambda place: figure.savefig(place))


def side_by_side(
    clips: Sequence[Sequence[Strip]], *, zoom: int, captions: Sequence[str]
) -> Float[Tensor, "time 3 height width"]:
    """Frames of a video that shows methods in columns and clips in rows, with the methods' names above.

    Arguments:
        clips: For each clip the same methods in the same order, with equal numbers of frames.
        zoom: Side of a pixel.
        captions: One line below the picture for each frame.

    Raises:
        ValueError: Strips or captions differ in number of frames.
    """
    lengths = {len(strip.frames) for strips in clips for strip in strips} | {len(captions)}
    if len(lengths) > 1:
        raise ValueError(f"Every strip needs as many frames as there are captions; got {sorted(lengths)} of them.")
    border = 2
    rows = []
    for strips in clips:
        cells = [strip.frames.expand(-1, 3, -1, -1).cpu() for strip in strips]
        cells = [cell.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3) for cell in cells]
        rows.append(torch.cat([torch.nn.functional.pad(cell, (border,) * 4, value=0.2) for cell in cells], dim=3))
    grid = torch.cat(rows, dim=2)
    width = grid.shape[3]
    heading = _text_line([strip.name for strip in clips[0]], width)
    footers = torch.stack([_text_line([caption], width) for caption in captions])
    return torch.cat((heading.expand(len(grid), -1, -1, -1), grid, footers), dim=2)


def _draw_row(
    axes: np.ndarray, name: str, images: np.ndarray, times: Sequence[float], given: Sequence[float], *, header: bool
) -> None:
    axes[0].text(-0.15, 0.5, name, transform=axes[0].transAxes, ha="right", va="center", fontsize=8.5, color=_INK)
    for axis, image, time in zip(axes, images, times, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_on()
        axis.set_xticks([])
        axis.set_yticks([])
        is_known = any(abs(time - at) < 1e-9 for at in given)
        for spine in axis.spines.values():
            spine.set(color="#d95f02" if is_known else "#bbbbbb", linewidth=2.0 if is_known else 0.5)
        if header:
            axis.set_title(f"{time:.3g} s", fontsize=7, pad=2, color=_INK)


def _gray(frames: Tensor, truth: Tensor | None = None) -> np.ndarray:
    """Pixels in [0, 1], or the absolute error of pixels in [0, 1], averaged over channels."""
    pixels = (frames.cpu() + 1) / 2 if truth is None else (frames.cpu() - truth.cpu()).abs() / 2
    return pixels.mean(dim=1).clamp(0, 1).numpy()


def _text_line(words: Sequence[str], width: int, *, height: int = 26) -> Float[Tensor, "3 height width"]:
    """Words spread evenly over one line, white on dark, as pixels in [-1, 1]."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="#202020")
    canvas = FigureCanvasAgg(figure)
    for number, word in enumerate(words):
        figure.text((number + 0.5) / len(words), 0.5, word, ha="center", va="center", fontsize=9, color="white")
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1).float() / 127.5 - 1
    return pixels[:, :height, :width]
