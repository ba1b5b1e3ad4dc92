r"""A batch of unequal samples: error control for each of them, or one for all.

Every sample is pulled to the same slow motion, at a rate r of its own, log-uniform over two decades,

    dz/dt = -r (z - cos t) - sin t,        z(t) = cos t + (z(0) - 1) exp(-r t).

Joint control, as
torchdiffeq's, steps the whole batch at the pace of its fastest sample; control per sample lets each go at its own pace,
and the batch only shares calls. What is compared is the mean number of evaluations per sample *at the same error* of
the worst sample, since one norm over the batch also hides the error of one sample behind the others: both curves are
read off, by interpolation between logarithms, in the middle of the errors that they have in common.

Depth, the number of calls one after the other, is the other side: it is set by the fastest sample either way.

References:
    On the Stability and Accuracy of One-Step Methods for Solving Stiff Systems of Ordinary Differential Equations
    (Prothero and Robinson, 1974), https://doi.org/10.1090/S0025-5718-1974-0331793-2
    torchode: A Parallel ODE Solver for PyTorch (Lienen and Gunnemann, 2022), https://arxiv.org/abs/2210.12375
"""

__all__ = ["Stiffness", "measure_stiffness"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims import claim, interval
from experiments.precision import point
from flowvid.dynamics.drift import RowWise, clock
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solvers import make_solver

JOINT, SEPARATE = "torchdiffeq:dopri5", "dopri5"


@dataclass(frozen=True, kw_only=True)
class Stiffness:
    """What is measured on mixed batches.

    Arguments:
        seeds: Seeds of the batches.
        tolerances: Relative and absolute tolerances, decreasing.
        batch: Samples.
        slowest: Least rate, per second.
        fastest: Greatest rate, per second.
        duration: Seconds.
        repeats: Repetitions of each timing, of which the median counts.
        methods: Methods to compare.
    """

    seeds: tuple[int, ...]
    tolerances: tuple[float, ...]
    batch: int = 64
    slowest: float = 0.5
    fastest: float = 50.0
    duration: float = 2.0
    repeats: int = 1
    methods: tuple[str, ...] = (JOINT, SEPARATE, "tsit5")


def measure_stiffness(stiffness: Stiffness) -> dict[str, Any]:
    """Curves by method, their means over the batches, and the claim.

    Arguments:
        stiffness: What to measure.
    """
    by_seed = [_curves(stiffness, seed) for seed in stiffness.seeds]
    ratios = [at_equal_error(found[JOINT], found[SEPARATE]) for found in by_seed]
    depths = [at_equal_error(found[JOINT], found[SEPARATE], key="depth") for found in by_seed]
    says = "mixed batch: evaluations per sample under joint control over those under control per sample, at equal error"
    return {
        "methods": {name: {"batches": [found[name] for found in by_seed]} for name in stiffness.methods},
        "evaluations_ratio": asdict(interval(ratios)),
        "depth_ratio": asdict(interval(depths)),
        "claims": [claim("cost", says, ratios, least=1.0)],
    }


def at_equal_error(
    one: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], *, key: str = "evaluations"
) -> float:
    """How much more of something one curve needs than another, in the middle of the errors they have in common.

    Arguments:
        one: Points of a curve.
        other: Points of the other.
        key: What is compared.

    Raises:
        ValueError: They have no errors in common.
    """
    errors = [np.log([found["error"] for found in points]) for points in (one, other)]
    low, high = max(values.min() for values in errors), min(values.max() for values in errors)
    if low >= high:
        raise ValueError("The two curves have no errors in common; give them other tolerances.")
    costs = []
    for values, points in zip(errors, (one, other), strict=True):
        order = np.argsort(values)
        cost = np.log([found[key] for found in points])
        costs.append(float(np.interp((low + high) / 2, values[order], cost[order])))
    return float(np.exp(costs[0] - costs[1]))


def _curves(stiffness: Stiffness, seed: int) -> dict[str, list[dict[str, float]]]:
    noise = Noise.batch(seed, stiffness.batch)
    share, start = (noise.uniform(stream, 1, dtype=torch.float64) for stream in ("rates", "starts"))
    rates = stiffness.slowest * (stiffness.fastest / stiffness.slowest) ** share
    exact = math.cos(stiffness.duration) + (start - 1) * torch.exp(-rates * stiffness.duration)

    def pulled(time: Any, state: Tensor, rate: Tensor) -> Tensor:
        now = clock(time, state)[:, None]
        return -rate * (state - torch.cos(now)) - torch.sin(now)

    def error(solution: Solution) -> dict[str, float]:
        return {"error": float((solution.trajectory.states[:, -1] - exact).abs().max())}

    drift = RowWise(pulled, (rates,))
    times = [0.0, stiffness.duration]
    found: dict[str, list[dict[str, float]]] = {}
    for name in stiffness.methods:
        solvers = {t: make_solver(name, rtol=t, atol=t) for t in stiffness.tolerances}
        found[name] = [
            point(t, lambda solver=solver: solver.solve(drift, start, times), error, repeats=stiffness.repeats)
            for t, solver in solvers.items()
        ]
    return found
