"""How checks ask a solver: what its drift was asked, and what came back."""

__all__ = ["Problem", "Solves", "Watch", "expect", "far", "run", "solved"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowvid.dynamics.drift import Drift, RowWise
from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.testing.fields import KnownField
from flowvid.testing.stochastic import KnownSde

Problem = KnownField | KnownSde


@runtime_checkable
class Solves(Protocol):
    """Anything with a method ``solve(drift, state, times, noise)``; noise is given to stochastic problems alone."""

    @property
    def solve(self) -> Callable[..., Solution]:
        """The method."""
        ...


@dataclass
class Watch:
    """What a drift was asked: times in seconds, one list per call; rows and types of the states."""

    times: list[list[float]] = field(default_factory=list)
    rows: int = 0
    dtypes: set[torch.dtype] = field(default_factory=set)

    def over(self, drift: Drift | StochasticDrift) -> Drift | StochasticDrift:
        """The same drift, watched."""
        if isinstance(drift, StochasticDrift):
            return replace(drift, drift=RowWise(self._watched(drift.drift)))
        return RowWise(self._watched(drift))

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return len(self.times)

    def _watched(self, drift: Drift) -> Callable[[Any, Tensor], Tensor]:
        def watched(time: Any, state: Tensor) -> Tensor:
            listed = time.reshape(-1).tolist() if isinstance(time, Tensor) else [float(time)]
            self.times.append(listed)
            self.rows += len(state)
            self.dtypes.add(state.dtype)
            return drift(time, state)

        return watched


def expect(condition: bool, message: str) -> None:
    """Raise an AssertionError with the message unless the condition holds, also where Python drops ``assert``."""
    if not condition:
        raise AssertionError(message)


def far(one: Tensor, other: Tensor) -> float:
    """The greatest difference of two tensors in float64; infinite if one holds NaN where the other does not."""
    if one.shape != other.shape:
        return float("inf")
    same = (one == other) | (one.isnan() & other.isnan())
    apart = torch.where(same, 0.0, (one.double() - other.double()).abs())
    return float(apart.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if apart.numel() else 0.0


def run(
    solver: Solves,
    drift: Drift | StochasticDrift,
    state: Tensor,
    times: Sequence[float] | Tensor,
    noise: Noise | None = None,
) -> Solution:
    """What a solver answers; stochastic problems are given noise, one seed per sample."""
    if isinstance(drift, StochasticDrift):
        return solver.solve(drift, state, times, Noise.batch(0, len(state)) if noise is None else noise)
    return solver.solve(drift, state, times)


def solved(
    solver: Solves,
    drift: Drift | StochasticDrift,
    state: Tensor,
    times: Sequence[float] | Tensor,
    noise: Noise | None = None,
) -> Solution:
    """The same, which must be complete.

    Raises:
        AssertionError: It is not, or does not hold the times that were asked.
    """
    asked = [float(time) for time in times]
    solution = run(solver, drift, state, times, noise)
    expect(solution.complete, f"Expected a complete solution; its status is: {solution.status}")
    held = solution.trajectory.times.tolist()
    expect(held == asked, f"Expected the times {asked} as they were asked, to the last bit; got {held}.")
    return solution
