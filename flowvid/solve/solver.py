"""What a solver is, and what all of them do alike.

A solver is an object with typed options and one method. It carries a state from the first of the times through the
others, forward or backward, and answers with a `Solution`, finished or not; `flowvid.solve.solve` is the same in one
call, by name, and turns what is not finished into an error.
"""

__all__ = [
    "Method",
    "Solver",
    "check_problem",
    "check_rate",
    "check_substeps",
    "named_samples",
    "not_finite",
    "refined",
    "without_lost",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Times, as_times


class Solver(ABC):
    """Moves a state along a field."""

    @abstractmethod
    def solve(
        self,
        drift: Any,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others.

        Arguments:
            drift: What the solver moves along: a `Drift`, a `StochasticDrift`, a flow map or a denoiser.
            state: The state at the first time, of any shape after the batch.
            times: Strictly increasing or strictly decreasing seconds; the solution holds all of them. A single time
                is a solve of no length: the state as it is, at no cost.
            noise: One seed per sample, for stochastic solvers; others leave it unused.

        Raises:
            ValueError: The times are out of order, the state is not finite, or the drift does not fit the solver.
        """


@dataclass(frozen=True, kw_only=True)
class Method:
    """One line of the table of solvers.

    Arguments:
        name: What `solve` calls it.
        family: "ode", "sde", "flow map" or "denoising".
        order: Its order of convergence (strong order for an SDE, with commuting noise); None where the field sets it.
        adaptive: Whether it chooses its own steps.
        evaluations: Evaluations of the drift per step, as a formula or a number.
        gradients: How gradients pass: "direct", "checkpoint", "adjoint", or several.
        source: Who carries it out: "flowvid", "torchdiffeq" or "torchsde".
        make: Makes the solver; keyword arguments are its options.
        note: What else a user should know.
    """

    name: str
    family: str
    order: int | float | None
    adaptive: bool
    evaluations: str
    gradients: str
    source: str
    make: Callable[..., Solver]
    note: str = ""


def check_problem(state: Tensor, times: Sequence[float] | Tensor) -> Times:
    """The times, checked together with the state.

    Raises:
        ValueError: The times are out of order, or the state is not a finite floating-point batch.
    """
    points = as_times(times, backward=True)
    if state.ndim == 0 or state.numel() == 0 or not state.is_floating_point():
        raise ValueError(
            f"A state is floating point with shape [batch, *state] and not empty; got {state.dtype} with shape "
            f"{tuple(state.shape)}."
        )
    wrong = not_finite(state)
    if wrong:
        raise ValueError(
            f"The initial state holds NaN or infinity in {named_samples(wrong)}; check the frames and the codec that "
            "it came from."
        )
    return points


def not_finite(states: Float[Tensor, "batch *rest"]) -> list[int]:
    """Numbers of the samples that hold NaN or infinity; one read from the device where all is well."""
    # A sum is finite only if all its entries are, and much cheaper than a look at each.
    if math.isfinite(float(states.detach().sum())):
        return []
    rows = states.detach().reshape(len(states), -1)
    return (~torch.isfinite(rows).all(dim=1)).nonzero()[:, 0].tolist()


def without_lost(states: Float[Tensor, "batch time *state"]) -> tuple[Tensor, int, list[int]]:
    """States that are NaN from where a sample is first not finite, the first time at which one is not, and which.

    Arguments:
        states: States at output times, of which at least one is not finite.
    """
    whole = torch.isfinite(states.detach()).reshape(*states.shape[:2], -1).all(dim=2).cumprod(dim=1).bool()
    first = int((~whole).any(dim=0).nonzero()[0])
    lost = (~whole).any(dim=1).nonzero()[:, 0].tolist()
    return states.masked_fill(~whole.reshape(*whole.shape, *(1 for _ in states.shape[2:])), torch.nan), first, lost


def refined(points: Sequence[float], substeps: int) -> list[float]:
    """The points, kept to the last bit, with equal steps between neighbours."""
    inner = [a + (b - a) * number / substeps for a, b in pairwise(points) for number in range(substeps)]
    return [*inner, points[-1]]


def check_substeps(substeps: int) -> None:
    """Refuse a number of steps between neighbouring times that is not positive.

    Raises:
        ValueError: It is not.
    """
    if substeps < 1:
        raise ValueError(f"Expected substeps >= 1, the steps between neighbouring times; got {substeps}.")


def check_rate(rate: Tensor, state: Tensor) -> None:
    """Refuse a rate of change that cannot be added to the state; reads nothing from the device.

    Raises:
        ValueError: The shapes or the devices differ.
    """
    if rate.shape != state.shape or rate.device != state.device:
        raise ValueError(
            f"A drift returns one rate of change for each entry of the state, shape {tuple(state.shape)} on "
            f"{state.device}; this one returned shape {tuple(rate.shape)} on {rate.device}."
        )


def named_samples(samples: Sequence[int]) -> str:
    """Sample numbers for a message, at most eight of them."""
    shown = ", ".join(str(sample) for sample in samples[:8])
    more = f" and {len(samples) - 8} more" if len(samples) > 8 else ""
    return f"sample{'s' if len(samples) > 1 else ''} {shown}{more}"
