"""Recursive bisection of the time axis: midpoints of midpoints, every level in one batch.

Between two states a and b, a gap g apart, a midpoint rule predicts the state halfway; then both halves are split
again. A level of the recursion holds independent intervals, of all samples and all segments between known states,
so it is one batch: depth log2 N instead of N.

An interval of one sample stops splitting when its surplus, the root mean square of midpoint - (a + b) / 2, is at
most a tolerance *and* a minimum depth is reached; what lies inside is then filled linearly. The rule is a heuristic:
equal ends and zero surplus do not mean that nothing happens between (SCIENCE P12: sin 2 pi t on [0, 1]), which is why
the minimum depth exists and why it must come from the data. An interval shorter than the shortest gap that the rule
was trained on is not split, and a time that no midpoint lands on is interpolated linearly between its neighbours.

References:
    FILM: Frame Interpolation for Large Motion (Reda et al., 2022), https://arxiv.org/abs/2202.04901
"""

__all__ = ["Bisection", "bisect"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_CLOSE = 1e-9

Midpoint = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(left states, right states, gaps in seconds, left moving, right moving) -> middle states, all with n rows."""


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """How far to split.

    Arguments:
        depth: Most levels of splitting.
        minimum_depth: Levels that are always split, whatever the surplus.
        tolerance: Surplus at or below which an interval stops; None splits everything.
        shortest: Intervals of at most this many seconds are never split.

    Raises:
        ValueError: A depth or a tolerance is negative, or the minimum depth exceeds the depth.
    """

    depth: int = 16
    minimum_depth: int = 0
    tolerance: float | None = None
    shortest: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_depth <= self.depth or (self.tolerance or 0) < 0 or self.shortest < 0:
            raise ValueError(f"Expected 0 <= minimum_depth <= depth, tolerance >= 0 and shortest >= 0; got {self}.")


@dataclass(frozen=True)
class _Interval:
    """Two neighbouring states: where they are in time, what they are, and for which samples to split further."""

    times: tuple[float, float]
    ends: tuple[Tensor, Tensor]
    moving: tuple[bool, bool]
    active: Bool[Tensor, "batch"]


def bisect(
    midpoint: Midpoint,
    known: Sequence[float],
    states: Float[Tensor, "batch known *state"],
    moving: Sequence[bool],
    times: Sequence[float],
    *,
    options: Bisection,
    observed: Callable[[Tensor], Tensor] = lambda state: state,
) -> tuple[Float[Tensor, "batch time *state"], float, int]:
    """States at the requested times, the mean number of evaluations per sample, and the depth.

    Arguments:
        midpoint: The midpoint rule.
        known: Times of the known states, increasing, at least two.
        states: The known states.
        moving: Whether the velocity of each known state is known.
        times: Requested times between the first and the last known one.
        options: How far to split.
        observed: The part of a state that the surplus is measured on.

    Raises:
        ValueError: Fewer than two states are known, or a time lies outside them.
    """
    if len(known) < 2:
        raise ValueError("Bisection needs a known state at both ends and cannot extrapolate; only one is known.")
    if min(times) < known[0] - _CLOSE or max(times) > known[-1] + _CLOSE:
        outside = min(times) if min(times) < known[0] - _CLOSE else max(times)
        span = f"[{known[0]}, {known[-1]}]"
        raise ValueError(f"Bisection answers times between known states, in {span} s; got {outside} s.")
    everyone = torch.ones(len(states), dtype=torch.bool, device=states.device)
    intervals = [
        _Interval((known[i], known[i + 1]), (states[:, i], states[:, i + 1]), (moving[i], moving[i + 1]), everyone)
        for i in range(len(known) - 1)
    ]
    evaluations, depth = 0.0, 0
    for level in range(options.depth):
        open_ones = [index for index, interval in enumerate(intervals) if _worth_splitting(interval, times, options)]
        if not open_ones:
            break
        chosen = [intervals[index] for index in open_ones]
        middles, asked = _middles(midpoint, chosen, stopping=options.tolerance is not None)
        if asked == 0:
            break
        evaluations, depth = evaluations + asked / len(states), depth + 1
        stops = [_stopped(*pair, level, options, observed) for pair in zip(chosen, middles, strict=True)]
        halves = dict(zip(open_ones, map(_halve, chosen, middles, stops), strict=True))
        intervals = [half for index, interval in enumerate(intervals) for half in halves.get(index, [interval])]
    return torch.stack([_read(intervals, time) for time in times], dim=1), evaluations, depth


def _worth_splitting(interval: _Interval, times: Sequence[float], options: Bisection) -> bool:
    left, right = interval.times
    wanted = any(left + _CLOSE < time < right - _CLOSE for time in times)
    return wanted and right - left > options.shortest + _CLOSE


def _middles(midpoint: Midpoint, intervals: list[_Interval], *, stopping: bool) -> tuple[list[Tensor], int]:
    """Midpoints of all intervals; only the active (interval, sample) pairs are asked of the network."""
    left = torch.stack([interval.ends[0] for interval in intervals])
    right = torch.stack([interval.ends[1] for interval in intervals])
    active = torch.stack([interval.active for interval in intervals])
    rows = active.flatten().nonzero()[:, 0] if stopping else torch.arange(active.numel(), device=left.device)
    gaps = [interval.times[1] - interval.times[0] for interval in intervals]
    spans = torch.tensor(gaps, dtype=torch.float64).to(left)
    flags = torch.tensor([interval.moving for interval in intervals], device=left.device)
    facts = [values.repeat_interleave(left.shape[1])[rows] for values in (spans, flags[:, 0], flags[:, 1])]
    middle = ((left + right) / 2).flatten(0, 1)
    if len(rows):
        middle[rows] = midpoint(left.flatten(0, 1)[rows], right.flatten(0, 1)[rows], *facts).to(middle.dtype)
    return list(middle.unflatten(0, left.shape[:2])), len(rows)


def _stopped(
    interval: _Interval, middle: Tensor, level: int, options: Bisection, observed: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """For which samples the surplus says to stop; None while the minimum depth is not reached."""
    if options.tolerance is None or level + 1 < options.minimum_depth:
        return None
    left, right = interval.ends
    surplus = observed(middle) - (observed(left) + observed(right)) / 2
    return surplus.square().flatten(1).mean(dim=1).sqrt() <= options.tolerance


def _halve(interval: _Interval, middle: Tensor, stopped: Tensor | None) -> list[_Interval]:
    (start, stop), (left, right), (first, last) = interval.times, interval.ends, interval.moving
    active = interval.active if stopped is None else interval.active & ~stopped
    centre = (start + stop) / 2
    return [
        _Interval((start, centre), (left, middle), (first, True), active),
        _Interval((centre, stop), (middle, right), (True, last), active),
    ]


def _read(intervals: list[_Interval], time: float) -> Tensor:
    """The state at a time, linear inside the interval that holds it."""
    interval = next(interval for interval in intervals if time <= interval.times[1] + _CLOSE)
    start, stop = interval.times
    share = min(max((time - start) / (stop - start), 0.0), 1.0)
    if share < _CLOSE or share > 1 - _CLOSE:
        return interval.ends[share > 0.5]
    return torch.lerp(*interval.ends, share)
