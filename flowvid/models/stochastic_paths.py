r"""Paths of a stochastic equation through what is known: one leg from each known state to the next.

The last leg is free. The others are pinned: the path m without noise is walked first, by Euler's method on the same
grid, and the deviation e of the equation from it,

    de = (f(m + e) - dm/dt) dt + g(m + e) dW,    e(start) = 0,    e(end) = end - m(end),

is what a bridge pins. So where the equation foretells the end the bridge adds nothing, and where it does not, the
miss is spread over the leg; pinning the state itself would add the pull towards the end to a drift that goes there
already, and arrive by a detour.

The velocity of a kinetic equation is unknown. Two known states a frame apart give its average q over that frame, and
the velocity given q is normal, with mean q + a h / 2 and variance g^2 h / 3 (a the drift of p, h the frame). At a lone
known state it is the one that the path arrived with.
"""

__all__ = ["AREAS", "STRATONOVICH", "KnownPath", "LearnedEquation"]

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.stochastic import StochasticDrift, bridge, kinetic, kinetic_bridge
from flowvid.noise import Noise
from flowvid.solve.brownian import BrownianPath
from flowvid.solve.solution import Solution
from flowvid.solvers import make_solver, solve
from flowvid.video import Trajectory

AREAS = ("srk",)
"""Methods that bring their own path."""

STRATONOVICH = ("heun", "torchsde:heun", "torchsde:midpoint", "euler_heun", "log_ode", "reversible_heun")
"""Methods in the sense of Stratonovich; where the volatility is constant both senses are one."""

_LEVELS = 20
_FRAMES = 64
_CLOSE = 1e-6


@runtime_checkable
class LearnedEquation(Protocol):
    """An equation, kinetic or of first order.

    Arguments:
        kinetic: Whether the noise drives the velocity p alone.
        frame: Seconds between two known states that make a velocity.
    """

    kinetic: bool
    frame: float

    def coefficients(self, state: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Drift and volatility: of p at (z, p) if it is kinetic, else of z, where an earlier (z, p) is the context."""
        ...

    def constant_volatility(self, like: Tensor) -> Tensor | None:
        """The volatility in the shape of a latent if it is a constant, else None."""
        ...


@dataclass(eq=False)
class KnownPath:
    """Paths through known states.

    Arguments:
        equation: The equation.
        known: The known states.
        noise: One seed per sample.
        solver: The name of a stochastic method; between known states one that looks only at the start of a step.
        step: Longest step in seconds.
    """

    equation: LearnedEquation
    known: Trajectory
    noise: Noise
    solver: str
    step: float
    evaluations: int = field(default=0, init=False)
    depth: int = field(default=0, init=False)
    accepted: int | float = field(default=0, init=False)
    _asked: tuple[Any, Any, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.times: list[float] = self.known.times.tolist()
        self.frame, self.kinetic = self.equation.frame, self.equation.kinetic
        self.averages = [self._average_velocity(number) for number in range(len(self.times))]
        self.start = next((i for i, average in enumerate(self.averages) if average is not None), None)

    def meets_ends(self, wanted: Sequence[float]) -> bool:
        """Whether paths to these times are pinned at what lies after them, or at a frame that they lead through."""
        return wanted[0] < self.times[-1] or (self.kinetic and self.averages[-1] is None)

    def through(self, wanted: Sequence[float]) -> dict[float, Float[Tensor, "batch channel height width"]]:
        """The latents at times after the first moving state, none of them known."""
        assert self.start is not None
        found: dict[float, Tensor] = {}
        state = context = self.known.states[:, self.start]
        chain = 0
        for number in range(self.start, len(self.times)):
            begin, end = self.times[number], (*self.times, math.inf)[number + 1]
            inside = [time for time in wanted if begin < time < end]
            leads_on = self.kinetic and any(end < time < self._moving_after(number) for time in wanted)
            noise, spent = self.noise.fold(number - self.start), self.evaluations
            latent, average = self.known.states[:, number], self.averages[number]
            if average is not None:
                context, chain = torch.cat((latent, average), dim=1), 0
            if not (inside or leads_on):
                continue
            if not self.kinetic:
                state, chain = latent, 0
            elif average is not None:
                state = self._moving(latent, average, noise)
            solution = self._leg(state, None if self.kinetic else context, (begin, end), inside, noise)
            state = solution.trajectory.states[:, -1]
            chain += self.evaluations - spent
            self.depth = max(self.depth, chain)
            self.accepted += solution.accepted
            if inside:
                latents = solution.trajectory.at(*inside).states[:, :, : latent.shape[1]]
                found |= dict(zip(inside, latents.unbind(dim=1), strict=True))
        return found

    def _moving_after(self, number: int) -> float:
        """The time of the next known state whose velocity is known."""
        later = zip(self.times[number + 1 :], self.averages[number + 1 :], strict=True)
        return next((time for time, average in later if average is not None), math.inf)

    def _average_velocity(self, number: int) -> Tensor | None:
        """Over the frame before a known state; None where the state at its start is not known."""
        at = self.times[number] - self.frame
        before = next((i for i, time in enumerate(self.times) if abs(at - time) < 1e-9), None)
        return None if before is None else (self.known.states[:, number] - self.known.states[:, before]) / self.frame

    def _moving(self, latent: Tensor, average: Tensor, noise: Noise) -> Tensor:
        """(z, p) from (z, q)."""
        rate, volatility = self._ask(None, torch.cat((latent, average), dim=1), None)
        xi = noise.normal("velocity", *average.shape[1:], device=average.device, dtype=_drawn(average))
        velocity = average + rate * self.frame / 2 + volatility * xi * math.sqrt(self.frame / 3)
        return torch.cat((latent, velocity), dim=1)

    def _leg(
        self, state: Tensor, context: Tensor | None, ends: tuple[float, float], inside: Sequence[float], noise: Noise
    ) -> Solution:
        """The path from one known state to the next, or to the last of the times."""
        begin, end = ends
        equation = self._field(context)
        if math.isinf(end):
            grid = _grid(begin, inside[-1], inside, self.step)
            frames = math.ceil((grid[-1] - begin) / self.frame - _CLOSE)
            stop = begin + self.frame * max(_FRAMES, 1 << (frames - 1).bit_length())
            return solve(equation, state, grid, self._method(state, begin, stop, noise), noise=noise)
        step = (end - begin) / max(2, math.ceil((end - begin) / self.step - _CLOSE))
        grid = _grid(begin, end, inside, step)
        plain = solve(equation.drift, state, grid, "euler").trajectory
        target = self.known.at(end).states[:, 0] - plain.states[:, -1][:, : self.known.states.shape[2]]
        deviation = _deviation(equation, plain)
        pinned = (
            kinetic_bridge(deviation, target, grid) if self.kinetic else bridge(deviation, target, end, landing=step)
        )
        solver = self._method(state, begin, end, noise)
        solution = solve(pinned, torch.zeros_like(state), grid, solver, noise=noise)
        return replace(solution, trajectory=Trajectory(plain.states + solution.trajectory.states, plain.times))

    def _field(self, context: Tensor | None) -> StochasticDrift:
        """The equation as solvers take it."""
        channels = self.known.states.shape[2]

        def drift(now: Any, state: Tensor) -> Tensor:
            rate, _ = self._ask(now, state, context)
            return torch.cat((state[:, channels:], rate), dim=1) if self.kinetic else rate

        def volatility(now: Any, state: Tensor) -> Tensor:
            constant = self.equation.constant_volatility(state[:, :channels])
            return self._ask(now, state, context)[1] if constant is None else constant

        calculus = "stratonovich" if self.solver in STRATONOVICH else "ito"
        make = kinetic if self.kinetic else StochasticDrift
        return make(drift, volatility, calculus=calculus)

    def _ask(self, now: Any, state: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The coefficients; asked once where a solver asks for the drift and then for the volatility of a state."""
        if self._asked is None or self._asked[0] is not state or self._asked[1] != now:
            self._asked = (state, now, self.equation.coefficients(state, context))
            self.evaluations += 1
        return self._asked[2]

    def _method(self, state: Tensor, begin: float, stop: float, noise: Noise) -> Any:
        if self.solver in AREAS:
            return make_solver(self.solver)
        shape, dtype = tuple(state.shape[1:]), _drawn(state)
        path = BrownianPath(noise, begin, stop, shape, levels=_LEVELS, device=state.device, dtype=dtype)
        return make_solver(self.solver, path=path)


def _deviation(equation: StochasticDrift, plain: Trajectory) -> StochasticDrift:
    """The equation of the deviation from a path that Euler's method walked on the grid of the solver."""
    times = plain.times.tolist()
    rates = [
        (after - state) / (right - left)
        for (left, right), (state, after) in zip(pairwise(times), pairwise(plain.states.unbind(dim=1)), strict=True)
    ]

    def number(now: Any) -> int:
        index = bisect_left(times, float(now) - 1e-9)
        assert abs(times[index] - float(now)) < 1e-9, "A solver left its grid."
        return index

    def drift(now: Any, state: Tensor) -> Tensor:
        index = number(now)
        return equation.drift(now, plain.states[:, index] + state) - rates[index]

    def volatility(now: Any, state: Tensor) -> Tensor:
        return equation.volatility(now, plain.states[:, number(now)] + state)

    return replace(equation, drift=drift, volatility=volatility)


def _grid(begin: float, end: float, wanted: Sequence[float], step: float) -> list[float]:
    """Multiples of the step from ``begin`` to ``end``, and the wanted times in place of those they fall on."""
    count = math.ceil((end - begin) / step - _CLOSE)
    asked = {*wanted, end}
    regular = (begin + number * step for number in range(1, count))
    return sorted({begin, *asked, *(time for time in regular if all(abs(time - at) > _CLOSE * step for at in asked))})


def _drawn(like: Tensor) -> torch.dtype:
    """The type in which noise for a state is drawn."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32
