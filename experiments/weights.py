"""Scale weights on latents with a closed form: F1 order, F2 noise, F3 what an ODE solver makes of them.

python -m experiments.weights --scale cpu
"""

__all__ = ["draw", "main", "measure"]

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.claims import gathered
from experiments.crossover import measure_crossover
from experiments.mismatch import measure_mismatch
from experiments.order import measure_order
from experiments.recipes import Weights, weights
from experiments.run import run_experiment
from flowvid.plot.lines import Line, draw_lines, draw_panels


def measure(run: Weights) -> dict[str, Any]:
    """The numbers of the three experiments, and all their claims in one list.

    Arguments:
        run: What to measure.
    """
    parts = {
        "order": measure_order(run.order),
        "crossover": measure_crossover(run.crossover),
        "mismatch": measure_mismatch(run.mismatch),
    }
    return gathered(parts)


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw weights.png and a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {
        "order": _order,
        "between": _between,
        "noise": _noise,
        "crossover": _crossover,
        "solver": _solver,
        "speed": _speed,
    }
    draw_panels(folder, "weights", {name: partial(panel, content) for name, panel in panels.items()})


def main() -> None:
    """Run the experiment at a scale."""
    run_experiment("weights", (__doc__ or "").splitlines()[0], recipe=weights, measure=measure, draw=draw)


def line(x: list[float], found: list[dict[str, float]], colour: str, name: str = "", **options: Any) -> Line:
    """A line from intervals over seeds.

    Arguments:
        x: Abscissae.
        found: Intervals with mean, low and high.
        colour: Its colour.
        name: Its label.
        options: Style and marker.
    """
    y, low, high = ([one[key] for one in found] for key in ("mean", "low", "high"))
    return Line(x=x, y=y, low=low, high=high, colour=colour, name=name, **options)


def _order(content: dict[str, Any], axis: Axes) -> list[Line]:
    found, length = content["order"], content["recipe"]["order"]["length"]
    shown = {
        "longest": ("grey", "longest head"),
        "uniform": ("orange", "uniform"),
        "best convex": ("vermilion", "best convex"),
        "Richardson, 2": ("sky", "2 heads"),
        "Richardson, 3": ("blue", "3 heads"),
        "Richardson, 4": ("purple", "4 heads"),
        "Richardson, 5": ("black", "5 heads"),
    }
    lines = [
        line([gap / length for gap in found["shortest"]], rule["bias"], colour, f"{label}: {rule['slope']['mean']:.2f}")
        for name, (colour, label) in shown.items()
        for rule in [found["rules"][name]]
    ]
    draw_lines(
        axis,
        lines,
        title="Bias of the velocity, and its fitted order",
        xlabel="shortest gap / correlation length",
        ylabel="relative error",
        log="xy",
    )
    return lines


def _between(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["order"]["finite"]
    steps = [step / found["gaps"][0] for step in found["steps"]]
    lines = []
    for name, colour in (("nearest head", "vermilion"), ("three nearest", "blue"), ("all heads", "black")):
        rule = found["rules"][name]
        lines.append(line(steps, rule["wrong"], colour, name))
        clean = [one["mean"] if one["mean"] > 1e-12 else math.nan for one in rule["clean"]]
        lines.append(Line(x=steps, y=clean, colour=colour, style=":"))
    percent = 100 * content["recipe"]["order"]["head_error"]
    draw_lines(
        axis,
        lines,
        title=f"Between gaps, heads {percent:g} % off (dotted: exact)",
        xlabel="step h / shortest gap",
        ylabel="relative error of w(h)",
        log="xy",
    )
    axis.set_xscale("log", base=2)
    axis.set_ylim(1e-6, 3)
    return lines


def _noise(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["crossover"]
    shown = {
        "instant": ("vermilion", "shortest head"),
        "uniform": ("orange", "uniform"),
        "Richardson, 2": ("sky", "Richardson, 2"),
        "Richardson, 4": ("purple", "Richardson, 4"),
        "least squares, degree 1": ("grey", "least squares"),
        "best convex": ("green", "best convex"),
        "calibrated": ("black", "calibrated"),
    }
    lines = [line(found["sigmas"][1:], found["rules"][name][1:], *how) for name, how in shown.items()]
    draw_lines(
        axis,
        lines,
        title="Velocity from noisy frames",
        xlabel="frame noise / deviation of the latents",
        ylabel="relative error",
        log="xy",
    )
    axis.set_ylim(0.02, 4)
    crossings = found["crossings"]
    predicted = crossings["simple"][crossings["shortest"].index(found["gaps"][0])]
    axis.axvline(predicted, color="#444444", linewidth=0.7, linestyle=":")
    axis.text(predicted, 0.022, r" 0.24 $\delta_1^2 M$", fontsize=6.5, color="#444444")
    return lines


def _crossover(content: dict[str, Any], axis: Axes) -> list[Line]:
    found, length = content["crossover"]["crossings"], content["recipe"]["crossover"]["length"]
    gaps = [gap / length for gap in found["shortest"]]
    lines = [
        line(gaps, found["over_simple"], "blue", "measured", style="", marker="o"),
        Line(
            x=gaps,
            y=[b / a for a, b in zip(found["simple"], found["with_bias"], strict=True)],
            colour="grey",
            name="both biases",
        ),
        Line(x=gaps, y=[1.0] * len(gaps), colour="black", name="bias of one"),
    ]
    draw_lines(
        axis,
        lines,
        title="Noise at which one head overtakes two",
        xlabel="shortest gap / correlation length",
        ylabel=r"noise / 0.24 $\delta_1^2 M$",
        log="x",
    )
    axis.set_xscale("log", base=2)
    return lines


def _solver(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["mismatch"]
    shown = {
        "longest": ("grey", "longest head"),
        "uniform": ("orange", "uniform"),
        "instant": ("vermilion", "shortest head"),
        "Richardson, 3": ("blue", "Richardson, 3"),
        "Richardson, all": ("black", f"Richardson, {len(found['gaps'])}"),
    }
    lines = [line(found["evaluations"], found["rules"][name]["error"], *how, marker="o") for name, how in shown.items()]
    jump = found["jumps"]["last frame"]
    lines.append(line([jump["evaluations"]], [jump["error"]], "green", style="", marker="D"))
    draw_lines(
        axis,
        lines,
        title="An oscillator by rk4 on the drift, and by jumps",
        xlabel="evaluations (NFE)",
        ylabel="relative error at the end",
        log="xy",
    )
    axis.text(jump["evaluations"] * 1.25, jump["error"]["mean"], "jumps", color="#009e73", fontsize=6.5, va="center")
    return lines


def _speed(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["mismatch"]["sweep"]
    turn = np.linspace(0.02, 3.0, 200)
    lines = [
        Line(x=turn.tolist(), y=(np.sin(turn) / turn).tolist(), colour="blue", name="speed"),
        Line(x=turn.tolist(), y=(2 * (1 - np.cos(turn)) / turn**2).tolist(), colour="vermilion", name="damping"),
        Line(x=found["turn"], y=found["speed"], colour="blue", style="", marker="o"),
        Line(x=found["turn"], y=found["damping"], colour="vermilion", style="", marker="s"),
    ]
    draw_lines(
        axis,
        lines,
        title="One head: predicted (lines) and measured",
        xlabel=r"turn over the gap, $\omega\delta$ (radians)",
        ylabel=r"speed / $\omega$,  damping / $(\omega^2\delta/2)$",
    )
    return lines


if __name__ == "__main__":
    main()
