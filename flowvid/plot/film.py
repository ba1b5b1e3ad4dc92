"""Film strips: frames of several methods in rows, in their colours, times in columns, errors in grey beneath."""

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
_KNOWN = (0.85, 0.37, 0.01)
_GAP = 2


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
    mosaics = [_mosaic(times, strips, given) for (_, times, strips), given in zip(panels, known, strict=True)]
    width = max(mosaic.shape[1] for mosaic in mosaics)
    heights = [mosaic.shape[0] for mosaic in mosaics]
    inch = 11.0 / width
    figure = Figure(figsize=(11.0 + 1.3, sum(heights) * inch + 0.62 * len(panels)), dpi=130)
    total = figure.get_figheight()
    top = total
    for (title, times, strips), mosaic in zip(panels, mosaics, strict=True):
        high, wide = mosaic.shape[0] * inch, mosaic.shape[1] * inch
        top -= high + 0.55
        axis = figure.add_axes((1.2 / 12.3, top / total, wide / 12.3, high / total))
        axis.imshow(mosaic, interpolation="nearest", aspect="auto")
        axis.set_axis_off()
        axis.set_title(title, loc="left", fontsize=11, color=_INK, pad=16)
        side = strips[0].frames.shape[-1] + _GAP
        for column, time in enumerate(times):
            axis.text((column + 0.5) * side, -2, f"{time:.3g} s", ha="center", va="bottom", fontsize=7, color=_INK)
        labels = [strips[0].name, *(name for strip in strips[1:] for name in (strip.name, "error"))]
        for row, label in enumerate(labels):
            words = label.replace(", ", ",\n")
            axis.text(-4, (row + 0.5) * side, words, ha="right", va="center", fontsize=8.5, color=_INK)
        top -= 0.05
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


def _mosaic(times: Sequence[float], strips: Sequence[Strip], known: Sequence[float]) -> np.ndarray:
    """All frames of a panel as one RGB image in [0, 1]: truth, then each strip and its error; known frames framed."""
    truth = strips[0].frames
    rows = [_colours(truth)]
    for strip in strips[1:]:
        rows += [_colours(strip.frames), 1 - _error(strip.frames, truth)]
    is_known = [any(abs(time - at) < 1e-9 for at in known) for time in times]
    framed = [0, *range(1, len(rows), 2)]
    lines = []
    for number, images in enumerate(rows):
        cells = []
        for image, given in zip(images, is_known, strict=True):
            edge = _GAP // 2
            cell = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), constant_values=0.85)
            if given and number in framed:
                for side in (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:]):
                    cell[side] = _KNOWN
            cells.append(cell)
        lines.append(np.concatenate(cells, axis=1))
    return np.concatenate(lines, axis=0)


def _colours(frames: Tensor) -> np.ndarray:
    """RGB of pixels in [0, 1], colours last; frames of one channel are grey."""
    pixels = ((frames.cpu() + 1) / 2).clamp(0, 1).float()
    if pixels.shape[1] != 3:
        pixels = pixels.mean(dim=1, keepdim=True)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _error(frames: Tensor, truth: Tensor) -> np.ndarray:
    """The absolute error of pixels in [0, 1], averaged over channels, as grey."""
    error = ((frames.cpu() - truth.cpu()).abs() / 2).mean(dim=1, keepdim=True).clamp(0, 1).float()
    return error.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _text_line(words: Sequence[str], width: int, *, height: int = 26) -> Float[Tensor, "3 height width"]:
    """Words spread evenly over one line, white on dark, as pixels in [-1, 1]."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="#202020")
    canvas = FigureCanvasAgg(figure)
    for number, word in enumerate(words):
        figure.text((number + 0.5) / len(words), 0.5, word, ha="center", va="center", fontsize=9, color="white")
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1).float() / 127.5 - 1
    return pixels[:, :height, :width]
