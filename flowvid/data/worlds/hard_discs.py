"""Elastic hard discs, alone or in a square box, from event to event: exact at any real time.

Between events discs fly straight, so the next event is the root of a linear equation (a wall) or of a quadratic (two
discs). With d = x_i - x_j, w = v_i - v_j and R = r_i + r_j, discs that approach each other (d.w < 0) touch after

    s = (|d|^2 - R^2) / (-d.w + sqrt((d.w)^2 - |w|^2 (|d|^2 - R^2))),

if the root is real. Nothing is stepped, so neither the times asked for nor their order matter. A collision exchanges
the impulse 2 m_i m_j / (m_i + m_j) (w.n) n along n = d / |d|: energy and momentum are kept, and running backwards is
running forwards with opposite velocities, which is how times before zero are answered.

References:
    Studies in Molecular Dynamics. I. General Method (Alder and Wainwright, 1959), https://doi.org/10.1063/1.1730376
"""

__all__ = ["HardDiscs"]

import math
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

Times = Float64[np.ndarray, "time"]
Points = Float64[np.ndarray, "disc 2"]
Path = Float64[np.ndarray, "time disc 2"]
Sizes = Float64[np.ndarray, "disc"]

_TOLERANCE = 1e-9
_LOCK = threading.Lock()
"""Held while legs are added: clips are drawn by several threads."""
_SLOWEST = 1e-12


class _Leg(NamedTuple):
    """Straight flight of all discs up to an event, which is of discs (first, second), or of (disc, axis) at a wall."""

    start: float
    positions: Points
    velocities: Points
    duration: float
    first: int
    second: int
    wall: bool


@dataclass(frozen=True, eq=False)
class HardDiscs:
    """Discs that collide elastically; the events found so far are kept.

    Arguments:
        positions: Centres at time 0.
        velocities: Length per second at time 0.
        radii: Positive.
        masses: Positive.
        side: The box is [0, side]^2; None is open space.

    Raises:
        ValueError: Shapes differ, a number is not finite, a radius or mass is not positive, discs overlap, or one is
            not inside the box.
    """

    positions: Points
    velocities: Points
    radii: Sizes
    masses: Sizes
    side: float | None = None
    _ahead: list[_Leg] = field(init=False, repr=False, default_factory=list)
    _behind: list[_Leg] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.radii)
        if {len(self.positions), len(self.velocities), len(self.masses)} != {count} or count == 0:
            raise ValueError("Hard discs need a position, velocity, radius and mass each, and at least one disc.")
        values = (self.positions, self.velocities, self.radii, self.masses)
        if not all(np.isfinite(value).all() for value in values) or min(self.radii.min(), self.masses.min()) <= 0:
            raise ValueError("Hard discs need finite positions and velocities, and positive finite radii and masses.")
        for i, j in zip(*np.triu_indices(count, 1), strict=True):
            gap = np.linalg.norm(self.positions[i] - self.positions[j]) - self.radii[i] - self.radii[j]
            if gap < -_TOLERANCE:
                raise ValueError(f"Hard discs must not overlap; discs {i} and {j} do at time 0, by {-gap:.4g}.")
        if self.side is not None:
            room = np.minimum(self.positions, self.side - self.positions).min(axis=1) - self.radii
            if room.min() < -_TOLERANCE:
                raise ValueError(f"Disc {room.argmin()} must start inside the box; it sticks out by {-room.min():.4g}.")

    def state(self, times: Times) -> tuple[Path, Path]:
        """Centres and velocities at ``times`` seconds; at an event the velocities just after it."""
        places, speeds = (np.empty((len(times), len(self.radii), 2)) for _ in range(2))
        for backward in (False, True):
            chosen = (times < 0) == backward
            since = np.abs(times[chosen])
            legs = self._legs(float(since.max(initial=0.0)), backward=backward)
            starts = np.array([leg.start for leg in legs])
            index = np.searchsorted(starts, since, side="left" if backward else "right") - 1
            velocity = np.stack([leg.velocities for leg in legs])[index]
            origin = np.stack([leg.positions for leg in legs])[index]
            places[chosen] = origin + velocity * (since - starts[index])[:, None, None]
            speeds[chosen] = -velocity if backward else velocity
        return places, speeds

    def events(self, start: float, stop: float) -> Times:
        """The times in [start, stop], in increasing order, of collisions with walls and with each other."""
        found = [leg.start for leg in self._legs(max(stop, 0.0), backward=False)[1:]]
        found += [-leg.start for leg in self._legs(max(-start, 0.0), backward=True)[1:]]
        return np.unique([time for time in found if start <= time <= stop])

    def _legs(self, until: float, *, backward: bool) -> list[_Leg]:
        """The legs from time 0 to beyond ``until``, forwards or with all velocities turned round."""
        with _LOCK:
            legs = self._behind if backward else self._ahead
            if not legs:
                legs.append(self._leg(0.0, self.positions, -self.velocities if backward else self.velocities))
            while legs[-1].start + legs[-1].duration <= until:
                legs.append(self._after(legs[-1]))
            return list(legs)

    def _leg(self, start: float, positions: Points, velocities: Points) -> _Leg:
        best: tuple[float, int, int, bool] = (math.inf, 0, 0, False)
        if self.side is not None:
            far = np.where(velocities > 0, self.side - self.radii[:, None], self.radii[:, None])
            moving = np.abs(velocities) > _SLOWEST
            waits = np.where(moving, np.maximum((far - positions) / np.where(moving, velocities, 1.0), 0.0), math.inf)
            disc, axis = np.unravel_index(waits.argmin(), waits.shape)
            best = (float(waits[disc, axis]), int(disc), int(axis), True)
        for i, j in zip(*np.triu_indices(len(positions), 1), strict=True):
            wait = _meeting(positions[i] - positions[j], velocities[i] - velocities[j], self.radii[i] + self.radii[j])
            best = min(best, (wait, int(i), int(j), False))
        return _Leg(start, positions, velocities, *best)

    def _after(self, leg: _Leg) -> _Leg:
        positions = leg.positions + leg.velocities * leg.duration
        velocities = leg.velocities.copy()
        i, j = leg.first, leg.second
        if leg.wall:
            assert self.side is not None
            positions[i, j] = self.side - self.radii[i] if velocities[i, j] > 0 else self.radii[i]
            velocities[i, j] *= -1
        else:
            normal = positions[i] - positions[j]
            normal = normal / np.linalg.norm(normal)
            mass = self.masses[i] * self.masses[j] / (self.masses[i] + self.masses[j])
            impulse = 2 * mass * ((velocities[i] - velocities[j]) @ normal) * normal
            velocities[i] -= impulse / self.masses[i]
            velocities[j] += impulse / self.masses[j]
        return self._leg(leg.start + leg.duration, positions, velocities)


def _meeting(apart: Float64[np.ndarray, "2"], relative: Float64[np.ndarray, "2"], reach: float) -> float:
    """Seconds until two discs touch; infinity if they never do."""
    closing = float(apart @ relative)
    if closing >= -_SLOWEST * reach:
        return math.inf
    gap = float(apart @ apart) - reach**2
    root = closing**2 - float(relative @ relative) * gap
    return max(gap, 0.0) / (-closing + math.sqrt(root)) if root > 0 else math.inf
