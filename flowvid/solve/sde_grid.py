r"""Stochastic methods on a grid of given points, along a Brownian path.

With step h and increments dW, f and g the drift and the volatility at the start of a step:

    euler-maruyama  z + f h + g dW                                              Ito, strong order 1/2
    milstein        z + f h + g dW + (g(z + g sqrt h) - g) (dW^2 - h) / (2 sqrt h)    Ito, order 1
                    z + f h + g dW + (g(z + g dW) - g) dW / 2                   Stratonovich, order 1
    heun            z + (f + f') h / 2 + (g + g') dW / 2                        Stratonovich, order 1
                    with f', g' at the end of the step and z + f h + g dW

Additive noise means the same in both calculi, every method takes it, and all have strong order 1. Milstein's
correction, here without derivatives, stands for the iterated integrals of W, which for one column of noise are
(dW^2 - h) / 2, in the sense of Stratonovich dW^2 / 2. There the difference quotient must be taken along dW: along
sqrt h its error does not average out, and leaves order 1/2. Diagonal noise has order 1 if entry i of the volatility
depends on entry i of the state alone. Several columns that do not commute need Levy areas, so Milstein refuses general
noise, and Heun's order falls to 1/2.

The grid is the output times with equal substeps between neighbours, float64 numbers of the host; nothing is read from
the device until the end, only states at output times are kept, a state in half precision is carried in float32, and
gradients are those of the discrete method. The path is a function of time and of each sample's seed: not of the batch,
the output times between the first and the last, or the steps. So two solves with the same noise, one with more
substeps, approach the same solution. Backward in time a Stratonovich equation retraces its path; an Ito integral is not
its own reversal, and is refused.

References:
    Numerical Solution of Stochastic Differential Equations (Kloeden and Platen, 1992),
    https://doi.org/10.1007/978-3-662-12616-5
    Approximate integration of stochastic differential equations (Milstein, 1975), https://doi.org/10.1137/1119062
    Numerical Treatment of Stochastic Differential Equations (Ruemelin, 1982), https://doi.org/10.1137/0719041
"""

__all__ = ["StochasticGrid", "sde_grid_methods"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.stochastic import NOISE_TYPES
from flowvid.noise import Noise
from flowvid.solve.brownian import BrownianPath
from flowvid.solve.driven import Driven, finished
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Method, Solver, check_problem, check_substeps, refined


def _euler_maruyama(driven: Driven, state: Tensor, left: float, right: float, noise: Tensor) -> Tensor:
    moved = torch.add(state, driven.drift(left, state), alpha=right - left)
    return moved.add_(driven.product(driven.volatility(left, state), noise))


def _milstein(driven: Driven, state: Tensor, left: float, right: float, noise: Tensor) -> Tensor:
    moved = torch.add(state, driven.drift(left, state), alpha=right - left)
    volatility = driven.volatility(left, state)
    moved.add_(driven.product(volatility, noise))
    if driven.field.noise == "additive":
        return moved
    if driven.field.calculus == "stratonovich":
        ahead = torch.add(state, driven.product(volatility, noise))
        return moved.add_(driven.product(driven.volatility(left, ahead) - volatility, noise), alpha=1 / 2)
    step, root = right - left, math.sqrt(right - left)
    change = driven.volatility(left, torch.add(state, volatility, alpha=root)) - volatility
    return moved.add_(driven.product(change, noise * noise - step), alpha=1 / (2 * root))


def _heun(driven: Driven, state: Tensor, left: float, right: float, noise: Tensor) -> Tensor:
    step = right - left
    rate, volatility = driven.drift(left, state), driven.volatility(left, state)
    ahead = torch.add(state, rate, alpha=step).add_(driven.product(volatility, noise))
    rate = rate + driven.drift(right, ahead)
    volatility = volatility + driven.volatility(right, ahead)
    return torch.add(state, rate, alpha=step / 2).add_(driven.product(volatility, noise), alpha=1 / 2)


@dataclass(frozen=True)
class _Rule:
    """A method: its step, what it integrates, its strong order with commuting noise, its evaluations per step."""

    step: Callable[[Driven, Tensor, float, float, Tensor], Tensor]
    calculi: tuple[str, ...]
    noises: tuple[str, ...]
    order: float
    evaluations: int


_RULES = {
    "euler-maruyama": _Rule(_euler_maruyama, ("ito",), NOISE_TYPES, 0.5, 1),
    "milstein": _Rule(_milstein, ("ito", "stratonovich"), ("diagonal", "additive", "scalar"), 1.0, 1),
    "heun": _Rule(_heun, ("stratonovich",), NOISE_TYPES, 1.0, 2),
}


@dataclass(frozen=True, kw_only=True)
class StochasticGrid(Solver):
    """A stochastic one-step method with its options.

    Arguments:
        method: "euler-maruyama", "milstein" or "heun".
        substeps: Steps between neighbouring output times.
        path: The Brownian path to walk along, one that covers the times; a path of the given noise, from the first to
            the last time, when left out.

    Raises:
        ValueError: The method is unknown, or the number of substeps is not positive.
    """

    method: str = "euler-maruyama"
    substeps: int = 1
    path: BrownianPath | None = None

    def __post_init__(self) -> None:
        if self.method not in _RULES:
            raise ValueError(f"Unknown stochastic method {self.method!r}; expected one of {', '.join(_RULES)}.")
        check_substeps(self.substeps)

    def solve(
        self,
        drift: Any,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others.

        A sample that stops being finite is NaN from the first output time on at which it is not; others are whole.

        Arguments:
            drift: A `StochasticDrift`.
            state: The state at the first time.
            times: Strictly increasing seconds; strictly decreasing ones for a Stratonovich equation or additive noise.
            noise: One seed per sample; needed unless the solver has a path.

        Returns:
            The solution; evaluations are those of the drift.

        Raises:
            ValueError: The times are out of order or two of the steps too close for the path, the state is not
                finite, there is no noise, or the field does not fit the state or the method.
        """
        points, rule = check_problem(state, times).tolist(), _RULES[self.method]
        driven = Driven(drift, state)
        driven.check(self.method, rule.calculi, rule.noises, backward=points[-1] < points[0])
        kept = [state]
        if len(points) > 1:
            moving = state.to(driven.carried)
            grid = refined(points, self.substeps)
            walk = driven.path(self.path, noise, points, moving).walk(grid)
            for number, ((left, right), increment) in enumerate(zip(pairwise(grid), walk, strict=True), 1):
                moving = rule.step(driven, moving, left, right, increment.to(moving.dtype))
                if number % self.substeps == 0:
                    kept.append(moving.to(state.dtype))
        return finished(self.method, kept, points, driven.evaluations, (len(points) - 1) * self.substeps)


def sde_grid_methods() -> tuple[Method, ...]:
    """Lines for the table of solvers."""
    return tuple(
        Method(
            name=name,
            family="sde",
            order=rule.order,
            adaptive=False,
            evaluations=str(rule.evaluations),
            gradients="direct",
            source="flowvid",
            make=partial(StochasticGrid, method=name),
            note=f"{' or '.join(rule.calculi)}; {', '.join(rule.noises)} noise",
        )
        for name, rule in _RULES.items()
    )
