r"""Fields whose flow is known in closed form, and the heads that a perfect network would learn from them.

A solver's error can be measured only where the answer is known. Each field here is a drift f(t, z) together with its
exact flow map, z(t) = flow(z(s), s, t), for t before or after s; average velocities over any gap follow from it,

    u(z, t, gap) = (flow(z, t, t + gap) - z) / gap,

so every field also gives exact heads. The drifts take the time in all three forms that solvers give it in, and treat
samples separately, to the last bit wherever the field is arithmetic alone (all but `forced` and `swing`).

Where the order of a method is to be seen, the field must be nonlinear and depend on time: `swing` is both, and smooth
for all states and times. Linear fields hide wrong weights, and autonomous ones hide wrong stage times.

References:
    Solving Ordinary Differential Equations I (Hairer, Norsett and Wanner, 1993),
    https://doi.org/10.1007/978-3-540-78862-1
"""

__all__ = [
    "ExactHeads",
    "KnownField",
    "decay",
    "forced",
    "gaussian",
    "harmonic",
    "hyperbola",
    "linear",
    "logistic",
    "swing",
]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.drift import Drift, RowWise, clock


def spread(batch: int, shape: Sequence[int], low: float, high: float, dtype: torch.dtype) -> Float[Tensor, "batch ..."]:
    """Unequal numbers in an interval, always the same; a row does not depend on how many there are."""
    count = torch.arange(1, batch * math.prod(shape) + 1, dtype=torch.float64)
    return (low + (high - low) * (count * (math.sqrt(5) - 1) / 2).frac()).reshape(batch, *shape).to(dtype)


@dataclass(frozen=True, eq=False)
class KnownField:
    """A drift with its exact flow.

    Arguments:
        name: What messages call it.
        drift: The vector field; it takes a time as a float, a tensor of shape () or one of shape (batch,).
        flow: (state, start, stop) -> the state at the stop, exact, for any two times in seconds.
        shape: Shape of one sample's state that the field accepts.
        low: Entries of the states it is tried on are at least this.
        high: And at most this.
    """

    name: str
    drift: Drift
    flow: Callable[[Tensor, float, float], Tensor]
    shape: tuple[int, ...] = (3,)
    low: float = -1.5
    high: float = 1.5

    def states(self, batch: int, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, "batch ..."]:
        """Unequal states for the field to be tried on, always the same ones."""
        return spread(batch, self.shape, self.low, self.high, dtype)

    def average_velocity(
        self, state: Float[Tensor, "batch *state"], time: float, gap: float
    ) -> Float[Tensor, "batch *state"]:
        """The exact average velocity over a gap in seconds, of either sign.

        Raises:
            ValueError: The gap is zero.
        """
        if gap == 0:
            raise ValueError("An average velocity needs a gap that is not zero; ask the drift for the limit.")
        return (self.flow(state, time, time + gap) - state) / gap


class ExactHeads:
    """The flow map of a known field, in the form of transition heads.

    Arguments:
        field: The field.
        gaps: Signed gaps in seconds, none of them zero.

    Raises:
        ValueError: There are no gaps, or one is zero.
    """

    def __init__(self, field: KnownField, gaps: Sequence[float]) -> None:
        if not gaps or 0 in gaps:
            raise ValueError(f"Heads need at least one gap and none that is zero; got {tuple(gaps)}.")
        self.field = field
        self.gaps = tuple(float(gap) for gap in gaps)

    def rates(
        self, times: Sequence[float], states: Float[Tensor, "batch n *state"], moving: Sequence[bool]
    ) -> Float[Tensor, "batch n gap *state"]:
        """Average velocities of n states over every gap.

        Arguments:
            times: Seconds of the states.
            states: The states, whole.
            moving: Not looked at; a known field needs no hint of the velocity.
        """
        found = [
            torch.stack([self.field.average_velocity(states[:, n], time, gap) for gap in self.gaps], dim=1)
            for n, time in enumerate(times)
        ]
        return torch.stack(found, dim=1)


def _rows(time: Any, state: Tensor) -> Tensor:
    """The time of each row, in a shape that goes with the state."""
    return clock(time, state).reshape(-1, *[1] * (state.ndim - 1))


def decay(rate: float = 1.0) -> KnownField:
    """dz/dt = -rate z, which grows if the rate is negative."""

    def drift(time: Any, state: Tensor) -> Tensor:
        return -rate * state

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        return state * math.exp(-rate * (stop - start))

    return KnownField(f"decay({rate})", RowWise(drift), flow)


def linear(matrix: Sequence[Sequence[float]] = ((-0.7, -3.0), (1.5, -0.1))) -> KnownField:
    """dz/dt = A z, with A acting on the first axis after the batch.

    Raises:
        ValueError: The matrix is not square.
    """
    size = len(matrix)
    if size == 0 or any(len(row) != size for row in matrix):
        raise ValueError(f"A linear field needs a square matrix; got rows of lengths {[len(row) for row in matrix]}.")
    A = torch.tensor(matrix, dtype=torch.float64)

    def product(by: Tensor, state: Tensor) -> Tensor:
        columns = by.to(state).reshape(size, size, *[1] * (state.ndim - 2)).unbind(dim=1)
        total = state[:, :1] * columns[0]
        for j in range(1, size):
            total = total + state[:, j : j + 1] * columns[j]
        return total

    def drift(time: Any, state: Tensor) -> Tensor:
        return product(A, state)

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        return product(torch.linalg.matrix_exp(A * (stop - start)), state)

    return KnownField(f"linear({matrix})", RowWise(drift), flow, shape=(size,))


def harmonic(frequency: float = 2.0) -> KnownField:
    """dz/dt = p, dp/dt = -frequency^2 z, where z and p are the halves of the first axis after the batch.

    Arguments:
        frequency: Radians per second.

    Raises:
        ValueError: The frequency is zero.
    """
    if frequency == 0:
        raise ValueError("A harmonic field needs a frequency that is not zero.")

    def drift(time: Any, state: Tensor) -> Tensor:
        z, p = state.chunk(2, dim=1)
        return torch.cat((p, -(frequency**2) * z), dim=1)

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        (z, p), angle = state.chunk(2, dim=1), frequency * (stop - start)
        c, s = math.cos(angle), math.sin(angle)
        return torch.cat((c * z + s / frequency * p, -frequency * s * z + c * p), dim=1)

    return KnownField(f"harmonic({frequency})", RowWise(drift), flow, shape=(4,))


def forced(rate: float = 1.0, frequency: float = 3.0) -> KnownField:
    """dz/dt = -rate z + sin(frequency t): linear, and the time matters.

    Raises:
        ValueError: Rate and frequency are both zero.
    """
    scale = rate**2 + frequency**2
    if scale == 0:
        raise ValueError("A forced field needs a rate or a frequency that is not zero.")

    def drift(time: Any, state: Tensor) -> Tensor:
        return -rate * state + torch.sin(frequency * _rows(time, state))

    def settled(time: float) -> float:
        return (rate * math.sin(frequency * time) - frequency * math.cos(frequency * time)) / scale

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        return settled(stop) + (state - settled(start)) * math.exp(-rate * (stop - start))

    return KnownField(f"forced({rate}, {frequency})", RowWise(drift), flow)


def logistic(rate: float = 2.0) -> KnownField:
    """dz/dt = rate z (1 - z) on (0, 1): nonlinear, and the time does not matter."""

    def drift(time: Any, state: Tensor) -> Tensor:
        return rate * state * (1 - state)

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        return state / (state + (1 - state) * math.exp(-rate * (stop - start)))

    return KnownField(f"logistic({rate})", RowWise(drift), flow, low=0.1, high=0.9)


def hyperbola() -> KnownField:
    """dz/dt = -2 t z^2: nonlinear, the time matters, and nothing but arithmetic, so equal to the last bit.

    Its flow is z / (1 + z (t^2 - s^2)), which exists as long as the denominator is positive.
    """

    def drift(time: Any, state: Tensor) -> Tensor:
        return -2 * _rows(time, state) * state * state

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        return state / (1 + state * (stop**2 - start**2))

    return KnownField("hyperbola", RowWise(drift), flow, low=0.1, high=0.5)


def swing(frequency: float = 3.0) -> KnownField:
    """dz/dt = cos(frequency t) sqrt(1 + z^2): nonlinear, the time matters, smooth for all states and times.

    Raises:
        ValueError: The frequency is zero.
    """
    if frequency == 0:
        raise ValueError("A swinging field needs a frequency that is not zero.")

    def drift(time: Any, state: Tensor) -> Tensor:
        return torch.cos(frequency * _rows(time, state)) * torch.sqrt(1 + state * state)

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        moved = (math.sin(frequency * stop) - math.sin(frequency * start)) / frequency
        return torch.sinh(torch.asinh(state) + moved)

    return KnownField(f"swing({frequency})", RowWise(drift), flow)


def gaussian(mean: float = 0.5, std: float = 0.3) -> KnownField:
    """The probability flow between data N(mean, std^2) at time 0 and noise N(0, 1) at time 1, on the straight path.

    At time t the marginal is N((1 - t) mean, (1 - t)^2 std^2 + t^2), and the flow keeps the quantile of a state.

    Raises:
        ValueError: The standard deviation is not positive.
    """
    if not std > 0:
        raise ValueError(f"A Gaussian needs a positive standard deviation; got {std}.")

    def drift(time: Any, state: Tensor) -> Tensor:
        t = _rows(time, state)
        growth = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t * t)
        return growth * (state - (1 - t) * mean) - mean

    def flow(state: Tensor, start: float, stop: float) -> Tensor:
        s, t = (math.sqrt((1 - time) ** 2 * std**2 + time**2) for time in (start, stop))
        return (1 - stop) * mean + t / s * (state - (1 - start) * mean)

    return KnownField(f"gaussian({mean}, {std})", RowWise(drift), flow)
