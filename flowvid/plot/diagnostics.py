"""The figure of `flowvid diagnose`: the structure function with its fit, the spectrum, and semigroup gaps."""

__all__ = ["draw_diagnosis"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowvid.data.files import write_atomically
from flowvid.plot.lines import Line, draw_lines


def draw_diagnosis(path: Path, content: Mapping[str, Any]) -> None:
    """Draw a diagnosis into a PNG.

    Arguments:
        path: The file; its folder is made.
        content: What the diagnosis wrote as JSON.
    """
    panels = [_structure, _spectrum, *([_defects] if content["defects"] else [])]
    figure = Figure(figsize=(4.0 * len(panels), 3.2), dpi=150, layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axis, content)
    write_atomically(path, lambda place: figure.savefig(place))


def _structure(axis: Axes, content: Mapping[str, Any]) -> None:
    law, gaps = content["law"], np.asarray(content["gaps"])
    noise = 2 * content["entries"] * law["noise"] ** 2
    fitted = noise + law["scale"] * gaps ** (2 * law["hurst"])
    used = law["fitted"]
    lines = {
        "measured": Line(x=list(gaps), y=content["structure"], colour="black", style="", marker="o"),
        f"fit: H = {law['hurst']:.2f}": Line(x=list(gaps[:used]), y=list(fitted[:used]), colour="vermilion"),
        f"noise: sigma = {law['noise']:.2g}": Line(x=[*gaps[[0, -1]]], y=[noise] * 2, colour="sky", style="--"),
    }
    plateau = 2 * content["entries"] * content["deviation"] ** 2
    lines["plateau"] = Line(x=[*gaps[[0, -1]]], y=[plateau] * 2, colour="grey", style=":")
    if noise == 0:
        lines = {name: line for name, line in lines.items() if line.style != "--"}
    draw_lines(
        axis,
        list(lines.values()),
        title="Structure function",
        xlabel="gap (s)",
        ylabel="D = mean squared difference",
        log="xy",
    )
    proposal = content["proposal"]
    heads = [proposal["gap"] * 2**k for k in range(proposal["scales"])]
    for head in heads:
        axis.axvline(head, color="#009e73", linewidth=0.6, alpha=0.6)
    names = [*lines, f"proposed gaps: {len(heads)}"]
    axis.legend(axis.lines[: len(names)], names, fontsize=6.5, frameon=False)


def _spectrum(axis: Axes, content: Mapping[str, Any]) -> None:
    line = Line(x=content["frequencies"][1:], y=content["power"][1:], colour="blue")
    floor = 2 * content["step"] * content["entries"] * content["law"]["noise"] ** 2
    white = Line(x=[*np.asarray(content["frequencies"])[[1, -1]]], y=[floor] * 2, colour="sky", style="--")
    draw_lines(
        axis,
        [line, *([white] if floor else [])],
        title="Power spectral density",
        xlabel="frequency (Hz)",
        ylabel="density (squared units / Hz)",
        log="xy",
    )
    axis.legend(axis.lines, ["measured", "noise alone"][: len(axis.lines)], fontsize=6.5, frameon=False)


def _defects(axis: Axes, content: Mapping[str, Any]) -> None:
    levels = list(range(1, len(content["defects"]) + 1))
    line = Line(x=levels, y=content["defects"], colour="purple", marker="o")
    draw_lines(
        axis, [line], title="Semigroup gap", xlabel="level j: 2^j frames at once or in two", ylabel="mean per entry"
    )
    axis.set_xticks(levels)
    axis.set_ylim(bottom=0)
