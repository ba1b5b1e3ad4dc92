"""Sizes of steps for every sample separately, worked out on the host.

Each sample has its own clock, step and error control. A step whose error has the norm 1 in tolerances is just
accepted; after an accepted one the next is

    h 0.9 norm^(-0.85/p) norm_before^(0.2/p),

a proportional-integral controller for a method of order p, after a rejected one h 0.9 norm^(-1/p), and the first after
a rejection is no longer than the last. A step changes by a factor of 0.2 to 10. One that would pass an output time, or
miss it by less than 1 %, ends on it; if its error was small, the step that was cut is tried again afterwards, so that
many output times do not keep steps short.

References:
    Solving Ordinary Differential Equations II, section IV.2: PI step size control (Hairer and Wanner, 1996),
    https://doi.org/10.1007/978-3-642-05221-7
"""

__all__ = ["StepControl"]

import math

import numpy as np
from jaxtyping import Bool, Float64, Int64

from flowvid.solve.solution import COMPLETE

_SAFETY, _SHRINK, _GROW, _STRETCH = 0.9, 0.2, 10.0, 1.01

PerSample = Float64[np.ndarray, "batch"]
Chosen = Bool[np.ndarray, "batch"]


class StepControl:
    """The clocks, the steps and the fate of all samples.

    Arguments:
        points: The times to meet, in order.
        size: The number of samples.
        order: Order of the method; its error estimate shrinks as the step to this power.
        longest: No step is longer, in seconds, but for the 1 % that may end it on a time to meet.
        max_steps: Steps a sample may try.
    """

    def __init__(self, points: PerSample, size: int, *, order: int, longest: float, max_steps: int) -> None:
        self.points = points
        self.order = order
        self.longest = longest
        self.max_steps = max_steps
        self.sign = 1.0 if points[-1] >= points[0] else -1.0
        self.rounding = np.spacing(np.abs(points).max())
        self.time = np.full(size, points[0])
        self.target = np.ones(size, dtype=np.int64)
        self.length = np.zeros(size)
        self.before = np.full(size, 1e-4)
        self.fell = np.zeros(size, dtype=bool)
        self.moving = np.full(size, len(points) > 1)
        self.taken = np.zeros(size, dtype=np.int64)
        self.rejected = np.zeros(size, dtype=np.int64)
        self.begun = np.zeros(size, dtype=np.int64)
        self.status = [COMPLETE] * size

    def begin(self, lengths: PerSample) -> None:
        """Set the size of the first steps."""
        self.length = np.minimum(np.maximum(lengths, 4 * self.rounding), self.longest)

    def plan(self) -> None:
        """The next step of every sample; those that do not move stay where they are."""
        goal = self.points[np.minimum(self.target, len(self.points) - 1)]
        self.arriving = self.moving & (np.abs(goal - self.time) <= _STRETCH * self.length)
        self.stop = np.where(self.arriving, goal, self.time + self.sign * self.length)
        self.stop = np.where(self.moving, self.stop, self.time)
        self.step = self.stop - self.time

    def judge(self, rows: Int64[np.ndarray, "rows"], norms: Float64[np.ndarray, "rows"], *, together: bool) -> None:
        """Accept or reject the planned steps by their norms, and choose the sizes of the next."""
        norm = np.zeros(len(self.time))
        norm[rows] = np.where(self.moving[rows], norms, 0.0)
        norm *= np.abs(self.step)
        wild = self.moving & ~np.isfinite(norm)
        norm[wild] = math.inf
        counts = wild if together and wild.any() else self.moving
        self.accepted = counts & (norm <= 1)
        refused = counts & ~self.accepted
        norm = np.maximum(norm, 1e-10)
        factor = norm ** (-0.85 / self.order) * self.before ** (0.2 / self.order)
        if refused.any():
            factor[refused] = norm[refused] ** (-1 / self.order)
        factor = np.maximum(np.minimum(_SAFETY * factor, np.where(self.fell, 1.0, _GROW)), _SHRINK)
        length = np.abs(self.step) * factor
        cut = self.arriving & (factor >= 1)
        length = np.where(cut, np.maximum(length, self.length), length)
        self.length = np.where(counts, np.minimum(length, self.longest), self.length)
        self.before = np.where(self.accepted, np.maximum(norm, 1e-4), self.before)
        self.fell = np.where(counts, refused, self.fell)
        self.taken += self.accepted
        self.rejected += refused
        if refused.any():
            stuck = refused & (self.length <= self.rounding)
            self.halt(stuck & wild, "the drift or the state is not finite from there on")
            self.halt(stuck & ~wild, "the step fell below the rounding of the time; the drift is singular or stiff")

    def advance(self) -> None:
        """Move the clocks of the accepted samples."""
        self.time = np.where(self.accepted, self.stop, self.time)
        self.target += self.accepted & self.arriving
        self.moving = self.moving & (self.target < len(self.points))
        spent = self.moving & (self.taken + self.rejected >= self.max_steps)
        if spent.any():
            self.halt(spent, f"max_steps={self.max_steps} steps were not enough; raise it or the tolerances")

    def halt(self, samples: Chosen, reason: str) -> None:
        """Let some samples go no further."""
        for sample in np.flatnonzero(samples):
            self.status[sample] = f"stopped at {self.time[sample]:.6g} s: {reason}"
        self.moving = self.moving & ~samples
