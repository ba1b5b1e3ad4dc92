"""What samples on separate clocks leave behind: their states at the output times, and at all times between.

A step from z with the rates k_i at its stages is continued to z + h sum_i b_i(theta) k_i at the fraction theta of it,
with the polynomials b_i of the method; this holds the order of the method, where a line between outputs does not.
"""

__all__ = ["DenseOutput", "Pieces", "beside", "picked", "sent"]

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowvid.solve.tableau import Tableau


def sent(values: np.ndarray, like: Tensor) -> Tensor:
    """An array of the host, which must not change any more, beside a tensor."""
    return torch.from_numpy(values).to(like.device, non_blocking=True)


def beside(values: Float64[Tensor, "rows"], state: Tensor) -> Tensor:
    """One number per row, in the type of a state and ready to multiply it."""
    return values.to(state.dtype).reshape(-1, *[1] * (state.ndim - 1))


def picked(values: Tensor, rows: np.ndarray) -> Tensor:
    """Some rows, in order."""
    return values if len(rows) == len(values) else values[sent(rows, values)]


class Pieces:
    """Rows that arrive a few at a time, put in order at the end."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.pieces: list[Tensor] = []
        self.places: list[tuple[np.ndarray, ...]] = []

    def add(self, rows: Tensor, *place: np.ndarray) -> None:
        """Take rows whose places in the result are given, one array for each of its leading dimensions."""
        self.pieces.append(rows)
        self.places.append(place)

    def gathered(self, shape: tuple[int, ...]) -> Tensor:
        """All rows in order, with NaN where none arrived."""
        count = sum(map(len, self.pieces))
        order = np.full(shape, count)
        if count:
            order[tuple(np.concatenate(axis) for axis in zip(*self.places, strict=True))] = np.arange(count)
        missing = self.like.new_full((1, *self.like.shape[1:]), math.nan)
        return torch.cat((*self.pieces, missing))[sent(order.ravel(), self.like)].unflatten(0, shape)


@dataclass(frozen=True, eq=False)
class _Step:
    rows: np.ndarray
    state: Tensor
    stages: list[Tensor]


class DenseOutput:
    """The state at any time, by the polynomials of the steps taken."""

    def __init__(self, tableau: Tableau, points: np.ndarray, state: Tensor, dtype: torch.dtype) -> None:
        self.tableau = tableau
        self.points = points
        self.initial = state
        self.dtype = dtype
        self.steps: list[_Step] = []
        self.starts: list[np.ndarray] = []
        self.stops: list[np.ndarray] = []

    def add(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray, state: Tensor, stages: list[Tensor]) -> None:
        """Keep a step.

        Arguments:
            rows: Samples that took part in it, increasing.
            start: Seconds at which it began, for every sample.
            stop: Seconds at which it ended; NaN for a sample that did not accept it.
            state: State of every row at its start.
            stages: Rates at its stages.
        """
        if not np.isnan(stop).all():
            self.steps.append(_Step(rows, state, stages))
            self.starts.append(start)
            self.stops.append(stop)

    def __call__(self, time: float) -> Float[Tensor, "batch *state"]:
        """The state of every sample at a time between the first and the last; NaN where a sample did not get there.

        Raises:
            ValueError: The time lies outside.
        """
        low, high = sorted((self.points[0], self.points[-1]))
        if not low <= time <= high:
            raise ValueError(f"This solution goes from {low} s to {high} s; got {time} s. Solve over a longer time.")
        if time == self.points[0]:
            return self.initial.to(self.dtype)
        found = Pieces(self.initial)
        nowhere = np.full((1, len(self.initial)), math.nan)
        stops = np.concatenate((self.stops, nowhere)) if self.stops else nowhere
        beyond = stops >= time if time > self.points[0] else stops <= time
        which = np.where(beyond.any(axis=0), beyond.argmax(axis=0), -1)
        for number in set(which[which >= 0].tolist()):
            samples = np.flatnonzero(which == number)
            start, stop = self.starts[number][samples], self.stops[number][samples]
            found.add(
                self._between(self.steps[number], samples, (time - start) / (stop - start), stop - start), samples
            )
        return found.gathered((len(self.initial),)).to(self.dtype)

    def _between(self, taken: _Step, samples: np.ndarray, fraction: np.ndarray, step: np.ndarray) -> Tensor:
        """z + h sum_i b_i(theta) k_i for some samples of a step."""
        at = sent(np.searchsorted(taken.rows, samples), taken.state)
        weights = np.zeros((len(taken.stages), len(samples)))
        for coefficients in reversed(np.array(self.tableau.dense).T):
            weights = (weights + coefficients[:, None]) * fraction
        state = taken.state[at]
        for weight, stage in zip(sent(step * weights, state), taken.stages, strict=True):
            state = torch.addcmul(state, stage[at], beside(weight, state))
        return state
