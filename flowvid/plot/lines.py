"""Panels of lines for a paper: one column wide, labelled at their ends, in colours that stay apart to the colour-blind.

The same panel is drawn twice from the same function: beside the others in one PNG, and alone as a PDF of one column.

References:
    Color Universal Design (Okabe and Ito, 2008), https://jfly.uni-koeln.de/color/
"""

__all__ = ["COLOURS", "Line", "Panel", "draw_lines", "draw_panels", "spread"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from flowvid.data.files import write_atomically

COLOURS = {
    "black": "#000000",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "green": "#009e73",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "purple": "#cc79a7",
    "grey": "#7f7f7f",
}
_COLUMN = 3.3
_SMALL, _TEXT = 6.5, 7.5


@dataclass(frozen=True, kw_only=True)
class Line:
    """A mean over seeds, with its interval where there is one.

    Arguments:
        x: Abscissae.
        y: Ordinates; what is not finite, or not positive on a logarithmic axis, is left out.
        colour: One of `COLOURS`.
        name: Written at its right end; nothing when left out.
        low: Lower ends of the interval.
        high: Upper ends.
        style: Matplotlib's line style; "" for points alone.
        marker: Matplotlib's marker, which also turns the interval into error bars.
    """

    x: Sequence[float | int]
    y: Sequence[float | int]
    colour: str
    name: str = ""
    low: Sequence[float | int] = ()
    high: Sequence[float | int] = ()
    style: str = "-"
    marker: str = ""


Panel = Callable[[Axes], Sequence[Line]]
"""Draws itself and returns its lines, which are labelled once the layout is known."""


def draw_lines(
    axis: Axes, lines: Sequence[Line], *, title: str, xlabel: str, ylabel: str, log: Literal["", "x", "y", "xy"] = ""
) -> None:
    """Draw lines without their names.

    Arguments:
        axis: Where.
        lines: What.
        title: Title of the panel.
        xlabel: What is on the horizontal axis, with its unit.
        ylabel: What is on the vertical axis, with its unit.
        log: Which axes are logarithmic.
    """
    axis.set_xscale("log" if "x" in log else "linear")
    axis.set_yscale("log" if "y" in log else "linear")
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_formatter(NullFormatter())
    for line in lines:
        y = _shown(line, "y" in log)
        style, colour = line.style or "none", COLOURS[line.colour]
        axis.plot(line.x, y, linestyle=style, color=colour, marker=line.marker, markersize=3, linewidth=1.1)
        if line.low and line.marker:
            reach = np.abs(np.stack((y - line.low, np.asarray(line.high) - y)))
            axis.errorbar(line.x, y, yerr=reach, fmt="none", ecolor=colour, elinewidth=0.8, capsize=1.5)
        elif line.low:
            axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    axis.set_title(title, fontsize=_TEXT, loc="left")
    axis.set_xlabel(xlabel, fontsize=_TEXT)
    axis.set_ylabel(ylabel, fontsize=_TEXT)
    axis.tick_params(labelsize=_SMALL)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def draw_panels(folder: Path, name: str, panels: Mapping[str, Panel], *, columns: int = 2, height: float = 2.5) -> None:
    """Draw all panels into NAME.png, and each of them into NAME-PANEL.pdf.

    Arguments:
        folder: Where the files go; it is made.
        name: Name of the figure.
        panels: By name.
        columns: Panels side by side in the PNG.
        height: Inches of a panel.
    """
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_COLUMN * columns, height * rows), dpi=200, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    _fill(figure, list(axes[: len(panels)]), list(panels.values()))
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    write_atomically(folder / f"{name}.png", lambda place: figure.savefig(place))
    for title, panel in panels.items():
        alone = Figure(figsize=(_COLUMN, height), layout="constrained")
        _fill(alone, [alone.subplots()], [panel])
        write_atomically(
            folder / f"{name}-{title}.pdf",
            lambda place, alone=alone: alone.savefig(place, metadata={"CreationDate": None}),
        )


def spread(places: Sequence[float], distance: float, *, low: float, high: float) -> Float64[np.ndarray, "place"]:
    """Places moved as little as possible, in mean square, so that neighbours in order are a distance apart.

    That is isotonic regression, between two ends, of the places less what the distance alone would put between them:
    neighbours that come out of order are pooled at their mean.

    Arguments:
        places: Where labels would stand.
        distance: Least distance between two of them.
        low: Least place; exceeded only if they do not fit below the highest.
        high: Highest place.
    """
    order = np.argsort(places, kind="stable")
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([float(places[index]) - rank * distance])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    level = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) if pools else np.zeros(0)
    room = high - distance * (len(places) - 1)
    moved = np.empty(len(places))
    moved[order] = np.minimum(np.maximum(level, low), room) + np.arange(len(places)) * distance
    return moved


def _fill(figure: Figure, axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Draw the panels, lay them out, and only then label their lines."""
    drawn = [panel(axis) for axis, panel in zip(axes, panels, strict=True)]
    figure.draw_without_rendering()
    for axis, lines in zip(axes, drawn, strict=True):
        _label(axis, [line for line in lines if line.name])


def _label(axis: Axes, lines: Sequence[Line]) -> None:
    """Write names to the right of the ends of lines, spread so that they do not touch."""
    logarithmic = axis.get_yscale() == "log"
    ends = []
    for line in lines:
        y = _shown(line, logarithmic)
        last = int(np.flatnonzero(np.isfinite(y))[-1])
        ends.append((float(line.x[last]), float(y[last])))
    points = 72 / axis.figure.dpi
    bottom, top = (edge * points for edge in axis.transAxes.transform([(0, 0), (0, 1)])[:, 1])
    heights = [float(np.clip(axis.transData.transform(end)[1] * points, bottom, top)) for end in ends]
    moved = spread(heights, 1.15 * _SMALL, low=bottom, high=top)
    for line, height in zip(lines, moved, strict=True):
        axis.annotate(
            line.name,
            xy=(1, 0),
            xycoords="axes fraction",
            xytext=(3, height - bottom),
            textcoords="offset points",
            color=COLOURS[line.colour],
            fontsize=_SMALL,
            va="center",
            annotation_clip=False,
        )


def _shown(line: Line, logarithmic: bool) -> Float64[np.ndarray, "point"]:
    """Ordinates with NaN for what cannot be shown."""
    y = np.asarray(line.y, dtype=np.float64)
    return np.where(np.isfinite(y) & ((y > 0) | (not logarithmic)), y, np.nan)
