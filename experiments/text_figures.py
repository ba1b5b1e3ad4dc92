"""Figures of `experiments.text`: scores against guidance, errors against what is told, films with captions."""

__all__ = ["draw_strips", "draw_text"]

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.claims import interval
from experiments.text_scores import WORDS
from flowvid.data.files import write_atomically
from flowvid.plot.lines import COLOURS, Line, draw_lines, draw_panels
from flowvid.train.checkpoint import load_tensors

_COLOURS = {"digit": "vermilion", "direction": "blue", "speed": "green", "events": "purple", "all": "black"}
_TITLES = {"text": "words alone", "frame": "first frame and words"}
_WIDE, _TALL = 0.62, 0.66
_BRANCHED = 2


def draw_text(content: dict[str, Any], folder: Path) -> None:
    """Draw text.png with a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {
        f"{kind}-{mode}": partial(_against_guidance, content, kind, mode)
        for kind in ("flow", "diffusion")
        for mode in _TITLES
    }
    panels |= {"error": partial(_against_told, content), "energy": partial(_energy, content)}
    draw_panels(folder, "text", panels)


def draw_strips(path: Path, folder: Path) -> None:
    """Draw text_film.png and text_moments_film.png.

    Arguments:
        path: Films with what was said.
        folder: Where the figures go.
    """
    films, about = load_tensors(path)
    kinds = {
        "truth": "truth",
        "flow, text": "flow,\nwords alone",
        "flow, frame": "flow, first\nframe + words",
        "diffusion, text": "diffusion,\nwords alone",
    }
    panels = [
        (f"“{said}”", [(name, films[f"said {kind}"][clip]) for kind, name in kinds.items()])
        for clip, said in enumerate(about["said"])
    ]
    _strips(folder / "text_film.png", panels, about["said times"])
    panels = []
    for clip, told in enumerate(about["told"][:_BRANCHED]):
        rows = [("truth", films["told truth"][clip])]
        for count in about["counts"]:
            pair = films[f"told {count}"][clip]
            rows += [(f"told {count}", pair[0]), ("another sample", pair[1])]
        panels.append((f"told {len(told)}: “" + "”, “".join(told) + "”", rows))
    _strips(folder / "text_moments_film.png", panels, about["told times"])


def _against_guidance(content: dict[str, Any], kind: str, mode: str, axis: Axes) -> list[Line]:
    scales = content["recipe"]["guidance"]
    lines = []
    for word in WORDS:
        rows = [content["said"][f"{kind}, {mode}, {scale:g}"][word] for scale in scales]
        lines.append(_line(scales, rows, _COLOURS[word], word))
        for name, style in (("ceiling", ":"), ("floor", "--")):
            if word != "all":
                level = content["said"][name][word][0]
                axis.axhline(level, color=COLOURS[_COLOURS[word]], linewidth=0.6, linestyle=style, alpha=0.7)
    title = f"{kind.capitalize()}, {_TITLES[mode]}"
    draw_lines(axis, lines, title=title, xlabel="guidance (dotted: ceiling, dashed: floor)", ylabel="share shown")
    axis.set_ylim(-0.03, 1.03)
    axis.set_xticks(scales)
    return lines


def _against_told(content: dict[str, Any], axis: Axes) -> list[Line]:
    counts, told = content["recipe"]["counts"], content["told"]
    lines = []
    for key, colour, name, style in (
        ("error", "vermilion", "error", "-"),
        ("spread", "blue", "spread", "-"),
        ("law_error", "black", "law", "--"),
    ):
        line = _line(counts, [told[str(count)][key] for count in counts], colour, name)
        lines.append(
            Line(x=line.x, y=line.y, low=line.low, high=line.high, colour=colour, name=name, style=style, marker="o")
        )
    lines.append(_line(counts, [told["codec"]["error"]] * len(counts), "grey", "codec", marker=""))
    title = "Branching digit, first two frames known"
    draw_lines(axis, lines, title=title, xlabel="moments told", ylabel="pixels")
    axis.set_ylim(bottom=0)
    axis.set_xticks(counts)
    return lines


def _energy(content: dict[str, Any], axis: Axes) -> list[Line]:
    counts, told = content["recipe"]["counts"], content["told"]
    lines = [_line(counts, [told[str(count)]["energy"] for count in counts], "purple", "")]
    axis.axhline(0.0, color="#444444", linewidth=0.7, linestyle="--")
    draw_lines(axis, lines, title="Energy distance to the law", xlabel="moments told", ylabel="pixels")
    axis.set_xticks(counts)
    return lines


def _line(x: Sequence[float], rows: Sequence[Sequence[float]], colour: str, name: str, *, marker: str = "o") -> Line:
    """Means over seeds, with intervals where there are several."""
    means = [sum(values) / len(values) for values in rows]
    found = [interval(values) for values in rows if len(values) > 1]
    low, high = ([getattr(one, end) for one in found] if len(found) == len(rows) else [] for end in ("low", "high"))
    return Line(x=x, y=means, colour=colour, name=name, marker=marker, low=low, high=high)


def _strips(path: Path, panels: Sequence[tuple[str, Sequence[tuple[str, Tensor]]]], times: Sequence[float]) -> None:
    """Rows of frames under what was said, a column for each time."""
    columns = len(times)
    wide = _WIDE * columns * 1.06 + 1.25
    texts = [textwrap.fill(said, round(wide * 16)) for said, _ in panels]
    lines = [words.count("\n") + 1 for words in texts]
    high = sum(_TALL * len(rows) + 0.45 + 0.14 * count for (_, rows), count in zip(panels, lines, strict=True))
    figure = Figure(figsize=(wide, high), dpi=160)
    top = high
    for words, count, (_, rows) in zip(texts, lines, panels, strict=True):
        figure.text(0.1 / wide, (top - 0.1) / high, words, fontsize=8, va="top")
        top -= 0.25 + 0.14 * count
        for column, time in enumerate(times):
            x = (1.2 + (column + 0.5) * _WIDE * 1.06) / wide
            figure.text(x, top / high, f"{time:.2f} s", fontsize=6, ha="center", va="bottom")
        for name, frames in rows:
            top -= _TALL
            figure.text(1.12 / wide, (top + _TALL / 2) / high, name, fontsize=7, ha="right", va="center")
            axis = figure.add_axes((1.2 / wide, top / high, columns * _WIDE * 1.06 / wide, _WIDE / high))
            axis.imshow(_row(frames), cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
            axis.set_axis_off()
        top -= 0.2
    write_atomically(path, lambda place: figure.savefig(place))


def _row(frames: Tensor) -> np.ndarray:
    """Frames side by side, each followed by a white gap of six per cent of its width."""
    pixels = np.asarray(frames[:, 0]).repeat(16, axis=1).repeat(16, axis=2)
    gap = round(0.06 * pixels.shape[2])
    return np.concatenate(np.pad(pixels, ((0, 0), (0, 0), (0, gap)), constant_values=255), axis=1)
