"""F7: how much few-step DDIM shrinks Gaussian data and a mixture, and how it tends to the ODE.

python -m experiments.ddim_limit --scale cpu
"""

__all__ = ["draw", "main"]

from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from experiments.recipes import ddim_limit
from experiments.run import run_experiment
from experiments.shrinkage import measure_shrinkage
from flowvid.plot.lines import Line, draw_lines, draw_panels

_COLOURS = ("vermilion", "orange", "black", "blue", "purple")


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw ddim_limit.png and a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {"gaussian": partial(_gaussian, content), "mixture": partial(_mixture, content)}
    draw_panels(folder, "ddim_limit", panels)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("ddim_limit", about, recipe=ddim_limit, measure=measure_shrinkage, draw=draw)


def _gaussian(content: dict[str, Any], axis: Axes) -> list[Line]:
    steps: list[int] = content["steps"]
    lines: list[Line] = []
    for colour, (name, found) in zip(_COLOURS, content["gaussian"].items(), strict=False):
        reached = found["reached"]["ddim"]
        lines += [
            Line(x=steps, y=[1 - value for value in found["closed_form"]], colour=colour),
            Line(x=steps, y=[1 - one["mean"] for one in reached], colour=colour, style="", marker="o"),
            Line(
                x=steps, y=[found["leading"]["ddim"] / n for n in steps], colour=colour, style=":", name=f"s = {name}"
            ),
        ]
    draw_lines(
        axis,
        lines,
        title=r"DDIM on a Gaussian (dotted: $\pi^2(s+1/s)/16S$)",
        xlabel="steps S",
        ylabel="missing share of the deviation s",
        log="xy",
    )
    axis.set_xscale("log", base=2)
    axis.set_ylim(top=2)
    return lines


def _mixture(content: dict[str, Any], axis: Axes) -> list[Line]:
    steps: list[int] = content["steps"]
    lines: list[Line] = []
    shown = {"ddim": ("vermilion", "o"), "euler": ("orange", "s"), "midpoint": ("sky", "^"), "heun2": ("blue", "v")}
    for name, (colour, marker) in shown.items():
        found = content["mixture"][name]["error"]
        mean, low, high = ([one[key] for one in found] for key in ("mean", "low", "high"))
        cost = [n * (2 if name in ("midpoint", "heun2") else 1) for n in steps]
        label = {"ddim": "DDIM", "euler": "Euler", "midpoint": "midpoint", "heun2": "Heun"}[name]
        lines.append(Line(x=cost, y=mean, low=low, high=high, colour=colour, marker=marker, name=label))
    draw_lines(
        axis,
        lines,
        title="A mixture: error against the exact flow",
        xlabel="evaluations (NFE)",
        ylabel="error / deviation of the data",
        log="xy",
    )
    axis.set_xscale("log", base=2)
    return lines


if __name__ == "__main__":
    main()
