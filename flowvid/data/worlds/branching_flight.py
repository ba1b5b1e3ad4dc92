"""The motion of a branching world: straight flight, and a coin at each of the first walls.

At a wall the velocity is mirrored and then turned by the angle +a (heads) or -a (tails), at equal speed. To leave the
wall for good both ways are kept a / 2 off it: from the inward normal a direction phi goes to clip(phi + a) or
clip(phi - a), with clip to +-(pi/2 - a/2), so the two ways always differ. In a corner, struck at both walls at once,
the normal is the diagonal, pi/4 stands for pi/2, and one coin is tossed. After the last coin walls only reflect.
Every leg is a `Flight` of its own, so positions are closed forms at any real time.
"""

__all__ = ["BranchingFlight", "check_law"]

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from flowvid.data.worlds.motions import Events, Flight, Point, Points, Times

_SIMULTANEOUS = 1e-9


@dataclass(frozen=True, slots=True)
class BranchingFlight:
    """Straight flight between walls, where coins decide how it leaves the first of them.

    Before time 0 it comes from plain reflections, as it goes on with them after the last coin.

    Arguments:
        start: Position at time 0, inside the walls.
        initial_velocity: Pixels per second at time 0, before any wall; not zero.
        low: Left and upper wall.
        high: Right and lower wall, beyond the others.
        coins: Whether each coin in turn shows heads, which turns clockwise on the screen.
        angle_of_turn: Radians, above 0 and below pi / 2.
        probability: Of heads, above 0 and below 1.

    Raises:
        ValueError: A number is outside its range or not finite, or the start lies outside the walls.
    """

    start: Point
    initial_velocity: Point
    low: Point
    high: Point
    coins: tuple[bool, ...]
    angle_of_turn: float = math.pi / 6
    probability: float = 0.5

    def __post_init__(self) -> None:
        Flight(self.start, self.initial_velocity, self.low, self.high)
        if not any(self.initial_velocity) or self.low[0] == self.high[0] or self.low[1] == self.high[1]:
            raise ValueError(f"A branching flight needs a velocity and room on both axes; got {self}.")
        check_law(self.angle_of_turn, self.probability)

    def position(self, times: Times) -> Points:
        """Pixels at ``times`` seconds, within [low, high]."""
        return self._along(times, velocity=False)

    def velocity(self, times: Times) -> Points:
        """Pixels per second at ``times`` seconds; at a wall those after it."""
        return self._along(times, velocity=True)

    def angle(self, times: Times) -> Times:
        """Zero: the glyph stays upright."""
        return np.zeros(np.shape(times))

    def events(self, start: float, stop: float) -> Events:
        """The times in [start, stop] of all walls, with or without a coin."""
        starts, legs = _course(self)
        before = legs[0].events(start, min(stop, 0.0))
        after = legs[-1].events(max(start - starts[-1], 0.0), stop - starts[-1]) + starts[-1]
        hits = np.unique(np.concatenate([before, starts[1:], after]))
        hits = hits[(hits >= start) & (hits <= stop)]
        return hits[np.diff(hits, prepend=-math.inf) > _SIMULTANEOUS]

    def coin_times(self) -> Events:
        """When each coin is tossed."""
        return _course(self)[0][1:]

    def _along(self, times: Times, *, velocity: bool) -> Points:
        starts, legs = _course(self)
        flat = np.ravel(times)
        index = np.maximum(np.searchsorted(starts, flat, side="right") - 1, 0)
        values = np.empty((flat.size, 2))
        for leg in np.unique(index):
            chosen = index == leg
            since = flat[chosen] - starts[leg]
            values[chosen] = legs[leg].velocity(since) if velocity else legs[leg].position(since)
        return values.reshape(*np.shape(times), 2)


def check_law(angle: float, probability: float) -> None:
    """Refuse what is no law of a coin.

    Raises:
        ValueError: The angle does not lie between 0 and pi / 2, or the probability between 0 and 1.
    """
    if not 0 < angle < math.pi / 2:
        raise ValueError(f"The angle of turn lies between 0 and pi / 2; got {angle}.")
    if not 0 < probability < 1:
        raise ValueError(f"The probability of heads lies between 0 and 1; got {probability}.")


@functools.lru_cache(maxsize=1 << 14)
def _course(flight: BranchingFlight) -> tuple[Float64[np.ndarray, "leg"], tuple[Flight, ...]]:
    """When each leg begins, and the flights between tosses, each with its own time 0; the last goes on reflecting."""
    position, velocity = np.array(flight.start), np.array(flight.initial_velocity)
    low, high = np.array(flight.low), np.array(flight.high)
    time, starts = 0.0, [0.0]
    legs = [Flight(flight.start, flight.initial_velocity, flight.low, flight.high)]
    for heads in flight.coins:
        wall = np.where(velocity > 0, high, low)
        waits = np.divide(wall - position, velocity, out=np.full(2, math.inf), where=velocity != 0)
        wait = waits.min()
        struck = waits <= wait + _SIMULTANEOUS
        position = np.where(struck, wall, np.clip(position + velocity * wait, low, high))
        velocity = _turned(np.where(struck, -velocity, velocity), struck, flight.angle_of_turn * (1 if heads else -1))
        time += wait
        starts.append(float(time))
        legs.append(Flight(_point(position), _point(velocity), flight.low, flight.high))
    moments = np.array(starts)
    moments.setflags(write=False)
    return moments, tuple(legs)


def _turned(mirrored: np.ndarray, struck: np.ndarray, turn: float) -> np.ndarray:
    """The reflected velocity turned, but not closer to a struck wall than half the turn."""
    normal = np.sign(mirrored) * struck
    quarter = math.pi / 2 / struck.sum()
    across, along = normal[0] * mirrored[1] - normal[1] * mirrored[0], normal @ mirrored
    limit = quarter - abs(turn) / 2
    heading = math.atan2(normal[1], normal[0]) + float(np.clip(math.atan2(across, along) + turn, -limit, limit))
    return np.hypot(*mirrored) * np.array([math.cos(heading), math.sin(heading)])


def _point(values: np.ndarray) -> Point:
    return float(values[0]), float(values[1])
