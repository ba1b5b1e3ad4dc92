"""Is the cutting of video into chunks a problem? Losses, shifts and rhythm of linear and learned tokenisers; a drift.

python -m experiments.chunking --scale cpu
"""

__all__ = ["draw", "main", "measure"]

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from experiments.chunk_clips import measure_clips
from experiments.chunk_drift import measure_drift
from experiments.chunk_loss import measure_loss
from experiments.chunk_shift import measure_shift
from experiments.claims import gathered
from experiments.recipes import Chunking, chunking
from experiments.run import run_experiment
from experiments.tubelets import measure_learned
from flowvid.plot.lines import Line, draw_lines, draw_panels

_BY_CHUNK = {"1": "black", "2": "sky", "4": "blue", "8": "vermilion"}
_BY_METHOD = {
    "chunk": ("vermilion", "chunk"),
    "chunk, cubic": ("orange", "chunk, cubic"),
    "frames": ("grey", "frames"),
    "key frame": ("blue", "key, fitted"),
    "key frame, known": ("green", "key, known"),
}


def measure(run: Chunking, data: Path | None) -> dict[str, Any]:
    """All numbers and claims.

    Arguments:
        run: What to measure.
        data: Folder of real clips, if any.
    """
    parts = {
        "loss": measure_loss(run.loss),
        "shift": measure_shift(run.shift),
        "drift": measure_drift(run.drift),
        "learned": measure_learned(run.learned),
    }
    if data:
        parts["clips"] = measure_clips(data)
    return gathered(parts)


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw chunking.png, chunking_learned.png and a PDF of each of their panels.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {"loss": _loss, "shift": _shift, "line": _line, "between": partial(_between, "turning")}
    draw_panels(folder, "chunking", {name: partial(panel, content) for name, panel in panels.items()})
    learned = {
        "loss": _learned,
        "frequency": _frequency,
        "place": _place,
        "forgetting": partial(_between, "forgetting"),
    }
    draw_panels(folder, "chunking_learned", {name: partial(panel, content) for name, panel in learned.items()})


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("chunking", about, recipe=chunking, measure=measure, draw=draw, real=True)


def _measured(
    x: Sequence[float], found: list[dict[str, float]], colour: str, *, style: str = "-", name: str = ""
) -> Line:
    """Means over seeds with their intervals."""
    mean, low, high = ([one[key] for one in found] for key in ("mean", "low", "high"))
    return Line(x=x, y=mean, low=low, high=high, colour=colour, style=style, marker="o", name=name)


def _loss(content: dict[str, Any], axis: Axes) -> list[Line]:
    chunks: list[int] = content["loss"]["chunks"]
    lines: list[Line] = []
    for (budget, speed), colour in zip(
        (("rate", "1"), ("rate", "8"), ("width", "1"), ("width", "8")),
        ("sky", "blue", "orange", "vermilion"),
        strict=True,
    ):
        found = content["loss"]["patches"]["line"][speed][budget]
        name = f"{budget}, speed {speed}"
        lines += [
            Line(x=chunks, y=found["bound"], colour=colour, style=":"),
            Line(x=chunks, y=found["closed_form"], colour=colour, name=name),
            _measured(chunks, found["measured"], colour, style=""),
        ]
    draw_lines(
        axis,
        lines,
        title="Loss at a fixed rate and width (dotted: bound)",
        xlabel="frames of a chunk p",
        ylabel="loss per pixel",
        log="xy",
    )
    _ticks(axis, chunks)
    axis.set_ylim(0.015, 0.3)
    return lines


def _ticks(axis: Axes, chunks: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(chunks, [str(p) for p in chunks])


def _shift(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines: list[Line] = []
    for p, found in content["shift"]["scalars"]["speed 4"].items():
        at = [shift / int(p) for shift in range(1, int(p))]
        lines += [
            Line(x=[0, *at, 1], y=[0, *found["formula"], 0], colour=_BY_CHUNK[p]),
            _measured(at, found["measured"], _BY_CHUNK[p], style=""),
            Line(x=[0, 1], y=[found["loss"]] * 2, colour=_BY_CHUNK[p], style=":", name=f"p = {p}"),
        ]
    draw_lines(
        axis,
        lines,
        title="Tokens after a shift (dotted: loss of a chunk)",
        xlabel="shift / p",
        ylabel="squared error of a token",
        log="y",
    )
    axis.set_ylim(0.1, 10)
    return lines


def _line(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = []
    for p in ("8", "4", "1"):
        found = content["shift"]["rhythm"][p]["periodogram"]
        lines.append(Line(x=found["frequency"], y=found["power"], colour=_BY_CHUNK[p], name=f"p = {p}"))
    draw_lines(
        axis,
        lines,
        title="Rhythm of the error of chunks",
        xlabel="periods per frame",
        ylabel="power of the error's energy",
        log="y",
    )
    axis.set_ylim(bottom=0.2)
    return lines


def _between(world: str, content: dict[str, Any], axis: Axes) -> list[Line]:
    half = content["drift"]["between"].index(0.5)
    worlds: dict[str, Any] = content["drift"]["worlds"][world]
    speeds = [float(speed) for speed in worlds]
    lines = [
        Line(
            x=speeds, y=[found[method][half]["mean"] for found in worlds.values()], colour=colour, marker="o", name=name
        )
        for method, (colour, name) in _BY_METHOD.items()
    ]
    draw_lines(
        axis,
        lines,
        title=f"Half-way between frames, a ring {world}",
        xlabel="pixels per frame",
        ylabel="relative squared error",
    )
    axis.set_ylim(bottom=0)
    return lines


def _learned(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = []
    for budget, colour in (("rate", "blue"), ("width", "vermilion")):
        found: dict[str, Any] = content["learned"][budget]
        losses = [one["loss"] for one in found.values()]
        lines.append(_measured([int(p) for p in found], losses, colour, name=f"fixed {budget}"))
    draw_lines(
        axis,
        lines,
        title="Learned tokenisers of a digit",
        xlabel="frames of a chunk p",
        ylabel="relative loss",
        log="x",
    )
    _ticks(axis, [int(p) for p in content["learned"]["rate"]])
    return lines


def _frequency(content: dict[str, Any], axis: Axes) -> list[Line]:
    return _by_frequency(content, axis, "by_frequency", "Learned, fixed width", "relative loss")


def _place(content: dict[str, Any], axis: Axes) -> list[Line]:
    return _by_frequency(content, axis, "place", "Learned, fixed width: the digit's place", "pixels off")


def _by_frequency(content: dict[str, Any], axis: Axes, key: str, title: str, ylabel: str) -> list[Line]:
    lines = []
    for p, found in content["learned"]["width"].items():
        at = [2 * int(p) * f for f in content["learned"]["frequencies"]]
        lines.append(_measured(at, found[key], _BY_CHUNK[p], name=f"p = {p}"))
    xlabel = "frequency over the tokens' Nyquist frequency"
    draw_lines(axis, lines, title=title, xlabel=xlabel, ylabel=ylabel, log="x")
    axis.axvline(1.0, color="#7f7f7f", linewidth=0.7, linestyle=":")
    return lines


if __name__ == "__main__":
    main()
