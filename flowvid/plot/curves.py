"""Curves: error against time, and error against what it costs."""

__all__ = ["CostPoint", "Curve", "draw_curves"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowvid.data.files import write_atomically

_COLOURS = {
    "multi-scale, ODE solvers": "#ff7f0e",
    "multi-scale": "#d62728",
    "direct": "#1f77b4",
    "bisection": "#2ca02c",
    "ddim": "#9467bd",
    "copy-last": "#7f7f7f",
    "linear blend": "#7f7f7f",
}


@dataclass(frozen=True)
class Curve:
    """A mean over seeds with its range.

    Arguments:
        name: The method.
        x: Abscissae.
        mean: Mean over seeds.
        low: Least over seeds.
        high: Greatest over seeds.
    """

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class CostPoint:
    """One way of sampling: what it costs and how far off it is.

    Arguments:
        name: Its label; empty for none.
        family: Which points belong together.
        evaluations: Network evaluations per clip.
        seconds: Wall time of a batch.
        error: Position error in pixels.
    """

    name: str
    family: str
    evaluations: float
    seconds: float
    error: float


def draw_curves(
    path: Path,
    *,
    over_time: Sequence[tuple[str, Sequence[Curve], float | None]],
    costs: Sequence[tuple[str, Sequence[CostPoint]]],
    batch: str,
) -> None:
    """Draw error against time, one panel per task, and below it error against evaluations and against wall time.

    Arguments:
        path: The PNG.
        over_time: (title, curves, end of the trained horizon or None).
        costs: (title, points) per task.
        batch: What one timing samples, for the axis.
    """
    figure = Figure(figsize=(6.2 * 2, 4.1 * (1 + len(costs))), dpi=120, layout="constrained")
    axes = figure.subplots(1 + len(costs), 2, squeeze=False)
    for axis, (title, curves, horizon) in zip(axes[0], over_time, strict=True):
        _over_time(axis, title, curves, horizon)
    for row, (title, points) in zip(axes[1:], costs, strict=True):
        _against(
            row[0], f"{title}: error against evaluations", points, "evaluations", "network evaluations per clip (NFE)"
        )
        _against(row[1], f"{title}: error against wall time", points, "seconds", f"seconds for {batch}")
    write_atomically(path, lambda place: figure.savefig(place))


def _over_time(axis: Axes, title: str, curves: Sequence[Curve], horizon: float | None) -> None:
    for curve in curves:
        colour = _colour(curve.name)
        dashed = "--" if curve.name in ("copy-last", "linear blend") else "-"
        axis.plot(curve.x, curve.mean, dashed, color=colour, label=curve.name, linewidth=1.8)
        axis.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    if horizon is not None:
        axis.axvline(horizon, color="#444444", linewidth=0.8, linestyle=":")
        axis.text(horizon, axis.get_ylim()[1], " beyond the trained horizon", va="top", fontsize=8, color="#444444")
    axis.set(title=title, xlabel="time (s)", ylabel="position error (px)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)


def _against(axis: Axes, title: str, points: Sequence[CostPoint], cost: str, label: str) -> None:
    families = list(dict.fromkeys(point.family for point in points))
    for number, family in enumerate(families):
        chosen = sorted((p for p in points if p.family == family), key=lambda point: getattr(point, cost))
        x, y = [getattr(point, cost) for point in chosen], [point.error for point in chosen]
        style = "o-" if family == "ddim" else "o"
        axis.plot(x, y, style, color=_colour(family, number), label=family, markersize=5, linewidth=1)
        for point in (point for point in chosen if point.name):
            axis.annotate(
                point.name, (getattr(point, cost), point.error), xytext=(4, 3), textcoords="offset points", fontsize=6.5
            )
    axis.set(title=title, xlabel=label, ylabel="position error (px)", xscale="log", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="y", which="both", labelsize=7)
    axis.grid(alpha=0.25, which="both")
    axis.legend(fontsize=8)


def _colour(name: str, number: int = 0) -> str:
    for start, colour in _COLOURS.items():
        if name.startswith(start):
            return colour
    return f"C{number % 10}"
