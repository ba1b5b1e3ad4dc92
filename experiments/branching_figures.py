"""Figures of futures that branch: numbers of all methods side by side, fans of sampled paths, strips of two samples."""

__all__ = ["draw_fans", "draw_numbers", "draw_strips"]

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from flowvid.data.files import write_atomically
from flowvid.plot.lines import COLOURS, Line, draw_lines, draw_panels
from flowvid.train.checkpoint import load_tensors
from flowvid.video import from_bytes

_COLUMNS = (
    ("both", "clips with\nboth futures", 1.0, False),
    ("followed", "samples that\nfollow one", 1.0, False),
    ("heads", "share of\nheads", 0.5, False),
    ("error_best", "best of all,\npixels", None, False),
    ("missing", "missing energy /\nvariance", 0.0, False),
    ("sharpness", "sharpness /\ntruth", 1.0, False),
    ("bend", "second diff. /\ntruth", 1.0, True),
    ("depth", "dependent\nevaluations", None, True),
    ("milliseconds", "ms a clip", None, True),
)
_ACROSS = 7
_FANS = 2
_SMALL = 6.5


def draw_numbers(content: dict[str, Any], folder: Path, colours: Mapping[str, str]) -> None:
    """Draw branching.png, a dot for each method and seed, and branching_cost.png with a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        colours: Of the methods, names of `COLOURS`.
    """
    rows = content["methods"]
    names = list(rows)
    figure = Figure(figsize=(1.25 * len(_COLUMNS) + 1.4, 0.21 * len(names) + 0.75), dpi=200, layout="constrained")
    for axis, (key, title, ideal, logarithmic) in zip(
        figure.subplots(1, len(_COLUMNS), sharey=True), _COLUMNS, strict=True
    ):
        _dots(axis, rows, key, colours, logarithmic=logarithmic)
        axis.set_title(title, fontsize=7, loc="left")
        if ideal is not None:
            axis.axvline(ideal, color="#444444", linewidth=0.7, linestyle="--")
        if key in ("both", "followed", "heads"):
            axis.set_xlim(-0.06, 1.06)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_yticks(range(len(names)), names)
    write_atomically(folder / "branching.png", lambda place: figure.savefig(place))
    panels = {
        "depth": partial(_coverage_by_depth, content, colours),
        "semigroup": partial(_gaps_by_level, content),
    }
    draw_panels(folder, "branching_cost", panels)


def draw_fans(content: dict[str, Any], folder: Path, colours: Mapping[str, str]) -> None:
    """Draw branching_fans.png: sampled paths of each method over both true ones, of two clips.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        colours: Of the methods, names of `COLOURS`.
    """
    paths = content["paths"]
    names = list(paths["sampled"])
    clips = min(_FANS, len(paths["futures"]))
    high = -(-len(names) // _ACROSS)
    figure = Figure(figsize=(1.35 * _ACROSS, 1.55 * high * clips), dpi=200, layout="constrained")
    axes = figure.subplots(high * clips, _ACROSS, squeeze=False)
    for clip in range(clips):
        for number, axis in enumerate(axes[clip * high : (clip + 1) * high].flatten()):
            if number >= len(names):
                axis.set_axis_off()
                continue
            _fan(axis, paths, clip, names[number], colours[names[number]], content["recipe"]["run"]["world"]["canvas"])
    write_atomically(folder / "branching_fans.png", lambda place: figure.savefig(place))


def draw_strips(films: Path, folder: Path, names: Sequence[str]) -> None:
    """Draw branching_film.png: both futures of a clip, and two samples of each method beneath.

    Arguments:
        films: What `measure` kept.
        folder: Where the figure goes.
        names: The methods.
    """
    tensors, about = load_tensors(films)
    rows = [(name, tensors[name]) for name in ("both futures", *names)]
    times, height = about["times"], 0.0
    figure = Figure(figsize=(1.5 + 0.55 * (len(times) + 2), 0.55 * 2 * len(rows) + 0.35), dpi=150)
    wide, tall = figure.get_size_inches()
    for number, (name, pair) in enumerate(rows):
        height = tall - 0.3 - 1.1 * (number + 1)
        axis = figure.add_axes((1.45 / wide, height / tall, (wide - 1.5) / wide, 1.06 / tall))
        axis.imshow(
            _mosaic(tensors["known"], pair), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto"
        )
        axis.set_axis_off()
        axis.text(-0.01, 0.5, name.replace(", ", ",\n"), transform=axis.transAxes, ha="right", va="center", fontsize=8)
        if number == 0:
            for column, time in enumerate(("known", "known", *(f"{time:.3g} s" for time in times))):
                place = (column + 0.5) / (len(times) + 2)
                axis.text(place, 1.02, time, transform=axis.transAxes, ha="center", va="bottom", fontsize=7)
    write_atomically(folder / "branching_film.png", lambda place: figure.savefig(place))


def _dots(
    axis: Axes, rows: dict[str, dict[str, list[float]]], key: str, colours: Mapping[str, str], *, logarithmic: bool
) -> None:
    for place, name in enumerate(rows):
        values = [value for value in rows[name].get(key, ()) if np.isfinite(value) and (value > 0 or not logarithmic)]
        axis.plot(values, [place] * len(values), "o", color=COLOURS[colours[name]], markersize=2.8, alpha=0.8)
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=_SMALL, length=2)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def _coverage_by_depth(content: dict[str, Any], colours: Mapping[str, str], axis: Axes) -> list[Line]:
    rows = {name: row for name, row in content["methods"].items() if row.get("depth", [0])[0] > 0}
    lines = []
    for name, row in rows.items():
        x, y = (sum(row[key]) / len(row[key]) for key in ("depth", "both"))
        line = Line(x=[x], y=[y], colour=colours[name], name=name, style="", marker="o")
        lines.append(line)
    draw_lines(
        axis, lines, title="Both futures reached", xlabel="dependent evaluations", ylabel="share of clips", log="x"
    )
    axis.set_ylim(-0.05, 1.05)
    return lines


def _gaps_by_level(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = []
    for key, name, colour in (("kappa_without", "no code", "grey"), ("kappa_with", "code", "vermilion")):
        levels = np.array(content["code"][key])
        x = [2 ** (number + 1) for number in range(levels.shape[1])]
        ends = {"low": levels.min(axis=0).tolist(), "high": levels.max(axis=0).tolist()}
        lines.append(Line(x=x, y=levels.mean(axis=0).tolist(), colour=colour, name=name, marker="o", **ends))
    title = "One jump against two of half the length"
    draw_lines(axis, lines, title=title, xlabel="frames", ylabel="distance of latents", log="x")
    axis.set_xticks(lines[0].x, [str(x) for x in lines[0].x])
    axis.set_ylim(bottom=0)
    return lines


def _fan(axis: Axes, paths: dict[str, Any], clip: int, name: str, colour: str, canvas: int) -> None:
    """Both futures in grey, samples above them, from the last known place."""
    start = np.array(paths["start"][clip])
    for future in paths["futures"][clip]:
        x, y = np.concatenate((start, np.array(future))).T
        axis.plot(x, y, color="#bbbbbb", linewidth=4, solid_capstyle="round")
    for sample in paths["sampled"][name][clip]:
        x, y = np.concatenate((start, np.array(sample))).T
        axis.plot(x, y, color=COLOURS[colour], linewidth=0.8, marker=".", markersize=2, alpha=0.8)
    axis.plot(*start.T, "o", color="black", markersize=3)
    axis.set_xlim(0, canvas)
    axis.set_ylim(canvas, 0)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(name, fontsize=_SMALL)


def _mosaic(known: Tensor, pair: Tensor) -> np.ndarray:
    """Two rows of frames after the known ones, as grey in [0, 1]."""
    lines = []
    for frames in pair:
        every = [*known, *frames]
        cells = [(from_bytes(frame).mean(dim=0) + 1) / 2 for frame in every]
        lines.append(np.concatenate([np.pad(cell.numpy(), 1, constant_values=0.5) for cell in cells], axis=1))
    return np.concatenate(lines, axis=0)
