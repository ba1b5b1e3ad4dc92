"""Tables of positive numbers as shaded cells: darker for more on a logarithmic scale, with the number in each."""

__all__ = ["draw_heat"]

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from flowvid.data.files import write_atomically

_TEXT = 7.0
_LOW, _HIGH = 0.03, 30.0


def draw_heat(path: Path, panels: Mapping[str, Mapping[str, Mapping[str, float]]], *, legend: str) -> None:
    """Draw panels side by side; within each, rows of columns of numbers.

    Cells of at least 1 are framed by a bold number; what is below a hundredth shows as a dot.

    Arguments:
        path: The PNG or PDF.
        panels: Title -> row -> column -> number, at least 0; all rows of a panel with the same columns.
        legend: What 1 means, written below.

    Raises:
        ValueError: There are no numbers, or the rows of a panel differ in their columns.
    """
    for title, rows in panels.items():
        if not rows or len({tuple(row) for row in rows.values()}) != 1:
            raise ValueError(f"Panel {title!r} needs rows, all with the same columns.")
    if not panels:
        raise ValueError("A table needs at least one panel.")
    sizes = [len(next(iter(rows.values()))) for rows in panels.values()]
    height = 0.24 * max(len(rows) for rows in panels.values()) + 1.3
    figure = Figure(figsize=(0.5 * sum(sizes) + 1.4 * len(panels), height), dpi=200, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=sizes)[0]
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        _draw(axis, title, rows)
    figure.supxlabel(legend, fontsize=_TEXT)
    write_atomically(path, lambda place: figure.savefig(place))


def _draw(axis: Axes, title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    values = np.array([[row[column] for column in columns] for row in rows.values()])
    axis.imshow(values.clip(_LOW, _HIGH), cmap="Blues", norm=LogNorm(_LOW, _HIGH), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = value > 3
        axis.text(
            column,
            row,
            _number(float(value)),
            ha="center",
            va="center",
            fontsize=_TEXT - 1.5,
            fontweight="bold" if value >= 1 else "normal",
            color="white" if dark else "black",
        )
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=_TEXT)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=_TEXT)
    axis.set_title(title, fontsize=_TEXT + 1, loc="left")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _number(value: float) -> str:
    if value < 0.01:
        return "·"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
