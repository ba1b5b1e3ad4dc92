"""Work-precision diagrams of every solver: on known flows, with perfect heads, with trained ones, and for noise.

python -m experiments.solver_cost --scale cpu
"""

__all__ = ["draw", "main", "measure"]

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.claims import gathered
from experiments.floors import measure_exact, measure_trained
from experiments.precision import measure_oracles, measure_paths
from experiments.recipes import SolverCost, solver_cost
from experiments.run import run_experiment
from experiments.stiffness import measure_stiffness
from flowvid.plot.lines import Line, draw_lines, draw_panels

_NFE = "evaluations (NFE)"
_STEPPING = {
    "euler": ("vermilion", "-"),
    "midpoint": ("orange", "-"),
    "heun2": ("sky", "-"),
    "heun3": ("green", "-"),
    "rk4": ("blue", "-"),
    "explicit_adams": ("purple", ":"),
    "implicit_adams": ("grey", ":"),
}
_CHOOSING = {
    "bosh3": ("green", "-"),
    "dopri5": ("blue", "-"),
    "tsit5": ("black", "-"),
    "fehlberg2": ("vermilion", ":"),
    "adaptive_heun": ("orange", ":"),
    "torchdiffeq:bosh3": ("green", ":"),
    "torchdiffeq:dopri5": ("blue", ":"),
    "dopri8": ("purple", ":"),
    "scipy_solver": ("grey", ":"),
}
_TIMED = {
    "rk4-38": ("vermilion", "-"),
    "torchdiffeq:rk4": ("vermilion", ":"),
    "heun3": ("green", "-"),
    "torchdiffeq:heun3": ("green", ":"),
    "dopri5": ("blue", "-"),
    "torchdiffeq:dopri5": ("blue", ":"),
}
_UNEQUAL = {"torchdiffeq:dopri5": ("vermilion", "joint"), "dopri5": ("blue", "dopri5"), "tsit5": ("black", "tsit5")}
_FOLLOWING = {
    "jump": ("vermilion", "-", "o"),
    "jump-adaptive": ("purple", "-", "s"),
    "euler": ("orange", "-", ""),
    "midpoint": ("green", "-", ""),
    "rk4": ("blue", "-", ""),
    "tsit5": ("black", "-", ""),
    "torchdiffeq:dopri5": ("sky", ":", ""),
}
_STRONG = {
    ("ito", "euler-maruyama"): ("vermilion", "-", "Euler-Maruyama"),
    ("ito", "milstein"): ("blue", "-", "Milstein"),
    ("ito", "srk"): ("black", ":", "srk"),
    ("stratonovich", "euler_heun"): ("orange", ":", "euler_heun, S"),
    ("stratonovich", "heun"): ("green", "-", "Heun, S"),
    ("stratonovich", "log_ode"): ("sky", ":", "log_ode, S"),
    ("stratonovich", "reversible_heun"): ("purple", ":", "reversible, S"),
}


def measure(run: SolverCost) -> dict[str, Any]:
    """The numbers of all parts, and all their claims in one list.

    Arguments:
        run: What to measure.
    """
    parts = {
        "oracles": measure_oracles(run.oracles),
        "stiffness": measure_stiffness(run.stiffness),
        "exact": measure_exact(run.exact),
        "trained": measure_trained(run.trained),
        "paths": measure_paths(run.paths),
    }
    return gathered(parts)


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw solver_cost.png and a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {
        "fixed": _fixed,
        "adaptive": _adaptive,
        "seconds": _seconds,
        "batch": _batch,
        "exact": _exact,
        "strong": _strong,
        "solver": _solver,
        "position": _position,
    }
    draw_panels(folder, "solver_cost", {name: partial(panel, content) for name, panel in panels.items()})


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("solver_cost", about, recipe=solver_cost, measure=measure, draw=draw)


def mean_points(seeds: Sequence[Sequence[Mapping[str, float]]], key: str, cost: str) -> tuple[list[float], list[float]]:
    """Mean cost and geometric mean error over seeds, by increasing evaluations.

    Arguments:
        seeds: One curve for each seed, with the same settings.
        key: Which error; zero is left out as NaN.
        cost: Which cost.
    """
    costs, evaluations = (
        np.array([[found[name] for found in points] for points in seeds]).mean(axis=0) for name in (cost, "evaluations")
    )
    errors = np.array([[found[key] for found in points] for points in seeds])
    logs = np.log(np.where(errors > 0, errors, np.nan)).mean(axis=0)
    order = np.argsort(evaluations, kind="stable")
    return costs[order].tolist(), np.exp(logs)[order].tolist()


def _line(
    seeds: Sequence[Sequence[Mapping[str, float]]], key: str = "error", cost: str = "evaluations", **how: Any
) -> Line:
    x, y = mean_points(seeds, key, cost)
    return Line(x=x, y=y, **how)


def _short(name: str) -> str:
    source, _, bare = name.rpartition(":")
    return f"{bare}, theirs" if source else bare


def _fixed(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["oracles"]["fields"]["swing"]
    lines = [
        _line([found[name]["points"]], colour=colour, style=style, name=f"{name}: {found[name]['fitted']:.1f}")
        for name, (colour, style) in _STEPPING.items()
    ]
    draw_lines(axis, lines, title="Fixed steps, with fitted orders", xlabel=_NFE, ylabel="largest error", log="xy")
    return lines


def _adaptive(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["oracles"]["fields"]["swing"]
    lines = [
        _line([found[name]["points"]], colour=colour, style=style, name=_short(name))
        for name, (colour, style) in _CHOOSING.items()
    ]
    draw_lines(axis, lines, title="Adaptive (dotted: theirs)", xlabel=_NFE, ylabel="largest error", log="xy")
    return lines


def _seconds(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["oracles"]["fields"]["swing"]
    lines = [
        _line([found[name]["points"]], cost="seconds", colour=colour, style=style, name=_short(name))
        for name, (colour, style) in _TIMED.items()
    ]
    title = "The solvers' own time (dotted: theirs)"
    draw_lines(axis, lines, title=title, xlabel="processor seconds", ylabel="largest error", log="xy")
    return lines


def _batch(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["stiffness"]["methods"]
    lines = [
        _line(found[name]["batches"], colour=colour, name=label, marker="o")
        for name, (colour, label) in _UNEQUAL.items()
    ]
    title = "Unequal samples: one step for all, or for each"
    draw_lines(axis, lines, title=title, xlabel="evaluations per sample", ylabel="error of the worst", log="xy")
    return lines


def _followed(content: dict[str, Any], part: str, key: str) -> list[Line]:
    found = content[part]["methods"]
    return [
        _line(found[name]["seeds"], key, colour=colour, style=style, marker=marker, name=_short(name))
        for name, (colour, style, marker) in _FOLLOWING.items()
    ]


def _floor(content: dict[str, Any], part: str, axis: Axes) -> None:
    """The mean error of the drift's own solution, as a line across."""
    axis.axhline(float(np.mean(content[part]["floors"])), color="#444444", linewidth=0.7, linestyle="--")


def _exact(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = _followed(content, "exact", "error")
    draw_lines(axis, lines, title="Perfect heads (dashed: w(0) solved)", xlabel=_NFE, ylabel="largest error", log="xy")
    _floor(content, "exact", axis)
    return lines


def _strong(content: dict[str, Any], axis: Axes) -> list[Line]:
    found = content["paths"]["calculi"]
    lines = [
        _line([found[calculus][name]["points"]], colour=colour, style=style, name=label)
        for (calculus, name), (colour, style, label) in _STRONG.items()
    ]
    title = "Brownian motion (S: Stratonovich)"
    draw_lines(axis, lines, title=title, xlabel=_NFE, ylabel="mean error on a path", log="xy")
    return lines


def _solver(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = _followed(content, "trained", "solver_error")
    title = "Trained heads: off w(0)'s own solution"
    draw_lines(axis, lines, title=title, xlabel=_NFE, ylabel="distance, latent units", log="xy")
    return lines


def _position(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = _followed(content, "trained", "position_error")
    title = "Trained heads: off the truth (dashed: w(0) solved)"
    draw_lines(axis, lines, title=title, xlabel=_NFE, ylabel="position error in pixels", log="x")
    _floor(content, "trained", axis)
    return lines


if __name__ == "__main__":
    main()
