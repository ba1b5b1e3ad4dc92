r"""Work-precision diagrams: the error of a solver against what it costs, on fields with known flows.

Cost is counted twice: in evaluations of the drift (NFE), which is what a network costs, and in seconds on a field that
costs next to nothing, which is what the solver itself adds. Seconds are those of the processor, which other work on the
machine does not lengthen. A method of order p leaves an error ~ n^-p in n steps, a straight line of slope -p; of an
adaptive method one sees how many evaluations a tolerance buys.

For stochastic equations the error is the strong one, E |z_h(1) - z(1)| along the same Brownian path, which the same
solver gives away on dz = dW. Evaluations count the drift alone; the volatility is asked as often or a little more.

References:
    Solving Ordinary Differential Equations I, section II.10 (Hairer, Norsett and Wanner, 1993),
    https://doi.org/10.1007/978-3-540-78862-1
"""

__all__ = ["Oracles", "Paths", "fields", "fitted_order", "measure_oracles", "measure_paths", "point", "solvers_of"]

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.claims import claim, fitted_slope
from flowvid.dynamics.stochastic import Calculus
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Method, Solver
from flowvid.solvers import make_solver, solver_methods
from flowvid.testing import KnownField, KnownSde, forced, geometric, harmonic, hyperbola, logistic, swing

_ROUNDING = 1e-12
_SLOW_ORDER = 2


@dataclass(frozen=True, kw_only=True)
class Oracles:
    """What is measured on fields with known flows.

    Arguments:
        steps: Numbers of steps of methods on a grid, increasing.
        tolerances: Relative and absolute tolerances of adaptive methods, decreasing.
        least_tolerance: Least tolerance of adaptive methods of order 2 or less, which need many steps.
        batch: Samples of three or four entries each.
        duration: Seconds.
        repeats: Repetitions of each timing, of which the median counts.
        slack: How far a fitted order may lie below the table's.
    """

    steps: tuple[int, ...]
    tolerances: tuple[float, ...]
    least_tolerance: float = 1e-4
    batch: int = 16
    duration: float = 2.0
    repeats: int = 3
    slack: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Paths:
    """What is measured on geometric Brownian motion over one second.

    Arguments:
        seeds: Seeds of the noise.
        steps: Numbers of steps, increasing.
        batch: Samples of sixteen entries each.
        repeats: Repetitions of each timing, of which the median counts.
        tolerance: How far a fitted order may lie from the table's.
    """

    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    batch: int = 32
    repeats: int = 1
    tolerance: float = 0.25


def fields() -> dict[str, KnownField]:
    """By name: one linear field, one with forcing, two nonlinear ones, and one that is nonlinear and forced."""
    return {
        "harmonic": harmonic(),
        "forced": forced(),
        "logistic": logistic(),
        "hyperbola": hyperbola(),
        "swing": swing(),
    }


def solvers_of(
    name: str, method: Method, *, steps: Sequence[int], tolerances: Sequence[float], least: float = 0.0
) -> dict[float, Solver]:
    """A method's solvers by setting: the number of steps, or the tolerance where the method chooses its own.

    Arguments:
        name: The name that `make_solver` takes.
        method: Its line in the table.
        steps: Numbers of steps.
        tolerances: Tolerances, both relative and absolute.
        least: Least tolerance of methods of low order.
    """
    if not method.adaptive:
        return {n: make_solver(name, substeps=n) for n in steps}
    low = method.order is not None and method.order <= _SLOW_ORDER
    return {t: make_solver(name, rtol=t, atol=t) for t in tolerances if not low or t >= least}


def point(
    setting: float, work: Callable[[], Solution], error: Callable[[Solution], Mapping[str, float]], *, repeats: int
) -> dict[str, float]:
    """What one solve costs and how far it is off.

    Arguments:
        setting: Its number of steps, tolerance or longest gap.
        work: The solve; it runs once before it is timed.
        error: Solution -> its errors by name.
        repeats: Repetitions of the timing.
    """
    solution = work().require()
    cost = {"evaluations": float(solution.evaluations), "depth": float(solution.depth)}
    return {"setting": setting, **cost, **error(solution), "seconds": _seconds(work, repeats)}


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of the processor."""
    taken = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return statistics.median(taken)


def fitted_order(points: Sequence[Mapping[str, float]], *, last: int = 3) -> float | None:
    """Minus the slope of log error against log steps over the last points above rounding; None if they are too few.

    Arguments:
        points: By increasing numbers of steps, their setting.
        last: How many.
    """
    usable = [found for found in points if found["error"] > _ROUNDING][-last:]
    if len(usable) < 2:
        return None
    return -fitted_slope([found["setting"] for found in usable], [found["error"] for found in usable])


def measure_oracles(oracles: Oracles) -> dict[str, Any]:
    """Curves by field and method, and the claim that every method on a grid has at least its order.

    Arguments:
        oracles: What to measure.
    """
    methods = {name: method for name, method in solver_methods().items() if method.family == "ode"}
    curves = {
        title: {name: _curve(oracles, known, name, method) for name, method in methods.items()}
        for title, known in fields().items()
    }
    claims = []
    for name, method in methods.items():
        if not method.adaptive and method.order is not None:
            fits = [
                curve["fitted"] for curve in (curves[title][name] for title in curves) if curve["fitted"] is not None
            ]
            claims.append(claim("cost", f"{name}: order, over fields", fits, least=method.order - oracles.slack))
    return {"fields": curves, "claims": claims}


def _curve(oracles: Oracles, known: KnownField, name: str, method: Method) -> dict[str, Any]:
    start = known.states(oracles.batch)
    exact = known.flow(start, 0.0, oracles.duration)
    chosen = solvers_of(name, method, steps=oracles.steps, tolerances=oracles.tolerances, least=oracles.least_tolerance)

    def error(solution: Solution) -> dict[str, float]:
        return {"error": float((solution.trajectory.states[:, -1] - exact).abs().max())}

    points = [
        point(
            setting,
            lambda solver=solver: solver.solve(known.drift, start, [0.0, oracles.duration]),
            error,
            repeats=oracles.repeats,
        )
        for setting, solver in chosen.items()
    ]
    described = {"source": method.source, "order": method.order, "adaptive": method.adaptive}
    return {**described, "fitted": None if method.adaptive else fitted_order(points), "points": points}


def measure_paths(paths: Paths) -> dict[str, Any]:
    """Strong errors by calculus and method, with the claim that each has its order.

    Arguments:
        paths: What to measure.
    """
    found: dict[str, Any] = {}
    claims = []
    calculi: tuple[Calculus, ...] = ("ito", "stratonovich")
    for calculus in calculi:
        sde = geometric(calculus=calculus)
        found[calculus] = {}
        for name, method in solver_methods().items():
            if method.family != "sde" or calculus not in method.note:
                continue
            by_seed = [_strong(paths, sde, name, seed) for seed in paths.seeds]
            orders = [fitted_order(points, last=len(points)) or math.nan for points in by_seed]
            found[calculus][name] = {
                "source": method.source,
                "order": method.order,
                "fitted": float(np.mean(orders)),
                "points": [_mean(same) for same in zip(*by_seed, strict=True)],
            }
            assert method.order is not None, "every stochastic method has an order"
            ends = {"least": method.order - paths.tolerance, "most": method.order + paths.tolerance}
            claims.append(claim("cost", f"{name}, {calculus}: strong order", orders, **ends, strict=False))
    return {"calculi": found, "claims": claims}


def _strong(paths: Paths, sde: KnownSde, name: str, seed: int) -> list[dict[str, float]]:
    start, noise = sde.states(paths.batch), Noise.batch(seed, paths.batch)
    times = [0.0, 1.0]
    points = []
    for n in paths.steps:
        solver = make_solver(name, substeps=n)
        path = solver.solve(sde.driver, torch.zeros_like(start), times, noise).require().trajectory.states[:, -1]
        exact = sde.solution(start, times[0], times[1], path)

        def error(solution: Solution, exact: torch.Tensor = exact) -> dict[str, float]:
            return {"error": float((solution.trajectory.states[:, -1] - exact).abs().mean())}

        points.append(
            point(n, lambda solver=solver: solver.solve(sde.drift, start, times, noise), error, repeats=paths.repeats)
        )
    return points


def _mean(points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over seeds of what was found at one setting."""
    return {key: float(np.mean([found[key] for found in points])) for key in points[0]}
