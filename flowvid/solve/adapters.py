"""Fields in the forms of other packages, without depending on them.

All of them mean the same thing, dz/dt = f(t, z), and differ in how they call it: torchdiffeq's ``f(t, y)`` gets one
time for the whole batch as a tensor without dimensions, torchode's ``f(t, y)`` one time per sample, and a model in the
manner of flow_matching is called ``model(x=..., t=..., **extras)`` with one time per sample, 0 for noise and 1 for
data. A `Drift` takes all these times, so in the other direction it fits torchode as it is.

References:
    Flow Matching Guide and Code (Lipman et al., 2024), https://arxiv.org/abs/2412.06264
"""

__all__ = ["from_flow_matching", "from_torchdiffeq", "to_flow_matching", "to_torchdiffeq"]

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.drift import Drift, RowWise, clock


def from_flow_matching(
    model: Callable[..., Tensor], *, per_sample: Mapping[str, Tensor] | None = None, **extras: Any
) -> RowWise:
    """The drift of a model called as ``model(x=..., t=..., **extras)``.

    Times are the model's own: 0 is noise and 1 is data, so sampling runs over [0.0, 1.0].

    Arguments:
        model: The velocity model; it gets t with one entry per sample, in the type of the state.
        per_sample: Extras that have one row per sample (a condition, say), by name.
        extras: Other keyword arguments, the same for all samples.

    Raises:
        ValueError: An extra is given twice, or is called x or t.
    """
    named = dict(per_sample or {})
    wrong = sorted((named.keys() & extras.keys()) | ({"x", "t"} & (named.keys() | extras.keys())))
    if wrong:
        raise ValueError(f"Extras are named once, and x and t are the solver's to give; got {', '.join(wrong)}.")

    def velocity(time: Any, state: Tensor, *context: Tensor) -> Tensor:
        return model(x=state, t=clock(time, state), **dict(zip(named, context, strict=True)), **extras)

    return RowWise(velocity, tuple(named.values()))


def to_flow_matching(drift: Drift) -> Callable[..., Tensor]:
    """A drift as ``model(x=..., t=...)``; t has no dimensions or one entry per sample."""

    def model(x: Float[Tensor, "batch *state"], t: Tensor) -> Float[Tensor, "batch *state"]:
        return drift(t.double(), x)

    return model


def from_torchdiffeq(function: Callable[[Tensor, Tensor], Tensor]) -> Drift:
    """The drift of a function ``f(t, y)`` that expects its time as a tensor without dimensions.

    The time arrives in float64 whatever the type of the state. Solvers that step samples separately are refused, for
    the function knows one time alone.
    """

    def velocity(time: float | Tensor, state: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
        if isinstance(time, Tensor) and time.ndim:
            raise ValueError(
                "This function takes one time for the whole batch, and the solver steps samples separately. Take a "
                "solver with one clock, such as a grid method or torchdiffeq's, or a drift with one time per sample."
            )
        return function(torch.as_tensor(time, dtype=torch.float64, device=state.device), state)

    return velocity


def to_torchdiffeq(drift: Drift) -> Callable[[Tensor, Tensor], Tensor]:
    """A drift as ``f(t, y)`` for torchdiffeq's own functions, which give the time in the type of the state."""

    def function(t: Tensor, y: Tensor) -> Tensor:
        return drift(t.double(), y)

    return function
