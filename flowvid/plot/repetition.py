"""The figure of `flowvid dedupe`: what is kept and what repeats, along the time of every file."""

__all__ = ["draw_repetition"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flowvid.data.files import write_atomically
from flowvid.plot.lines import COLOURS

_KINDS = {"kept": "green", "loop": "vermilion", "copy": "sky", "still": "grey"}
_NAMES = {"kept": "kept", "loop": "loop", "copy": "copy of an earlier stretch", "still": "picture that stands"}


def draw_repetition(path: Path, content: Mapping[str, Any]) -> None:
    """Draw a report into a PNG: a bar for each file, with what is kept above and what repeats below.

    Arguments:
        path: The file; its folder is made.
        content: What `flowvid.data.repetition.find.Repetition.content` returned.
    """
    files = content["files"]
    figure = Figure(figsize=(8.0, 0.9 + 0.34 * len(files)), dpi=150, layout="constrained")
    axis = figure.subplots()
    for row, file in enumerate(files):
        _bars(axis, row - 0.2, [{**one, "kind": "kept"} for one in file["segments"]])
        _bars(axis, row + 0.2, file["repeats"])
        period = "" if file["period"] is None else f", period {file['period']:.4g} s"
        words = f" {file['kept']} of {file['frames']}{period}"
        last = max(part["stop"] for part in (*file["segments"], *file["repeats"]))
        axis.text(last, row, words, va="center", fontsize=7)
    axis.set_yticks(range(len(files)), [Path(file["file"]).name for file in files], fontsize=7)
    axis.set_ylim(len(files) - 0.5, -0.5)
    axis.margins(x=0.2)
    axis.set_xlim(left=0)
    axis.set_xlabel("time (s)", fontsize=7.5)
    axis.tick_params(axis="x", labelsize=6.5)
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=COLOURS[colour], label=_NAMES[kind]) for kind, colour in _KINDS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7, frameon=False)
    write_atomically(path, lambda place: figure.savefig(place))


def _bars(axis: Axes, row: float, parts: list[dict[str, Any]]) -> None:
    for part in parts:
        colour = COLOURS[_KINDS[part["kind"]]]
        axis.barh(row, part["stop"] - part["start"], left=part["start"], height=0.34, color=colour, linewidth=0)
