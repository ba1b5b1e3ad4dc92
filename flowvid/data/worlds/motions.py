"""Motions of a point in the plane, in closed form at any real time.

Nothing is simulated in steps, so a position does not depend on the times at which its neighbours are asked for. A
flight between walls is the fold of a straight line: with s the distance from the lower wall and L the distance of
the walls, reflection at both walls is the triangle wave

    fold(s) = L - |L - (s mod 2L)|,

which keeps what a step overshoots a wall by and runs backwards as well as forwards. The damped pendulum is the
small-angle solution theta(t) = swing exp(-damping t) cos(omega t + phase), omega = 2 pi frequency, of

    theta'' + 2 damping theta' + (omega^2 + damping^2) theta = 0,

with its bob on the true arc. The x axis points right and y down, so a positive angle turns clockwise on the screen.
Lengths are pixels, times seconds, angles radians, frequencies turns per second.

References:
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), arXiv:1502.04681
    Stochastic Latent Residual Video Prediction (Franceschi et al., 2020), arXiv:2002.09219
"""

__all__ = ["Flight", "Motion", "Orbit", "Oscillation", "Pendulum", "Point", "Spin"]

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

Point = tuple[float, float]
Times = Float64[np.ndarray, "*shape"]
Points = Float64[np.ndarray, "*shape 2"]
Events = Float64[np.ndarray, "event"]

_SIMULTANEOUS = 1e-9


@runtime_checkable
class Motion(Protocol):
    """Where a point is, how fast it moves and how far its glyph is turned, at any real time."""

    def position(self, times: Times) -> Points:
        """Pixels (x right, y down) at ``times`` seconds."""
        ...

    def velocity(self, times: Times) -> Points:
        """Pixels per second at ``times`` seconds; at an event the velocity just after it."""
        ...

    def angle(self, times: Times) -> Times:
        """Radians the glyph is turned by at ``times`` seconds, positive from the x axis to the y axis."""
        ...

    def events(self, start: float, stop: float) -> Events:
        """The times in [start, stop], in increasing order, at which the velocity jumps."""
        ...


@dataclass(frozen=True, slots=True)
class Flight:
    """Straight flight between four walls, reflected elastically.

    Arguments:
        start: Position at time 0, inside the walls.
        initial_velocity: Pixels per second at time 0, before any reflection. It may be zero.
        low: Left and upper wall.
        high: Right and lower wall. Equal walls hold the point still along their axis.

    Raises:
        ValueError: A number is not finite, low > high, or the start lies outside the walls.
    """

    start: Point
    initial_velocity: Point
    low: Point
    high: Point

    def __post_init__(self) -> None:
        _check_points("Flight", start=self.start, initial_velocity=self.initial_velocity, low=self.low, high=self.high)
        for axis, (at, low, high) in enumerate(zip(self.start, self.low, self.high, strict=True)):
            if low > high:
                raise ValueError(
                    f"Flight needs low <= high on both axes; got low={low}, high={high} on axis {'xy'[axis]}. "
                    "Exchange them, or enlarge the canvas."
                )
            if not low <= at <= high:
                raise ValueError(
                    f"Flight must start between its walls [{low}, {high}] on axis {'xy'[axis]}; got {at}. "
                    "Move the start inside."
                )

    def position(self, times: Times) -> Points:
        """Pixels at ``times`` seconds, within [low, high]."""
        folded = [
            low + (span - np.abs(span - phase)) if span > 0 else np.full(np.shape(times), low)
            for low, (phase, span, _) in zip(self.low, self._phases(times), strict=True)
        ]
        return np.clip(np.stack(folded, axis=-1), self.low, self.high)

    def velocity(self, times: Times) -> Points:
        """Pixels per second at ``times`` seconds; at a wall the velocity after the reflection."""
        return np.stack(
            [np.where(phase < span, speed, -speed) * (span > 0) for phase, span, speed in self._phases(times)], axis=-1
        )

    def angle(self, times: Times) -> Times:
        """Zero: the glyph stays upright."""
        return np.zeros(np.shape(times))

    def events(self, start: float, stop: float) -> Events:
        """The times in [start, stop] of reflections; a corner counts once."""
        found: list[np.ndarray] = [np.empty(0)]
        for at, velocity, low, high in zip(self.start, self.initial_velocity, self.low, self.high, strict=True):
            span = high - low
            if span == 0 or velocity == 0:
                continue
            ends = sorted((at - low + velocity * time) / span for time in (start, stop))
            walls = np.arange(math.floor(ends[0]), math.ceil(ends[1]) + 1)
            with np.errstate(over="ignore"):
                found.append((walls * span - (at - low)) / velocity)
        hits = np.sort(np.concatenate(found))
        hits = hits[(hits >= start) & (hits <= stop)]
        return hits[np.diff(hits, prepend=-math.inf) > _SIMULTANEOUS]

    def _phases(self, times: Times) -> list[tuple[Times, float, float]]:
        """For each axis: the distance flown modulo 2L, measured along the direction of flight; L; and the speed.

        The triangle wave is even, so mirroring a flight towards the lower wall leaves its position alone and puts
        the velocity just after an event at the lower, closed end of a half period, whatever the direction.
        """
        phases = []
        for at, velocity, low, high in zip(self.start, self.initial_velocity, self.low, self.high, strict=True):
            flown = np.asarray(math.copysign(1.0, velocity) * (at - low + velocity * times))
            span = high - low
            phases.append((np.asarray(np.mod(flown, 2 * span)) if span > 0 else flown, span, abs(velocity)))
        return phases


@dataclass(frozen=True, slots=True)
class Spin:
    """A glyph that turns about its centroid at a constant rate while the centroid follows ``path``.

    Arguments:
        path: Motion of the centroid; `Spin.at` makes one that rests.
        frequency: Turns per second, at least 0.
        phase: Angle at time 0.
        direction: 1 turns clockwise on the screen, -1 the other way. It is added to what ``path`` itself turns.

    Raises:
        ValueError: A number is not finite, the frequency is negative, or the direction is not 1 or -1.
    """

    path: Motion
    frequency: float
    phase: float = 0.0
    direction: int = 1

    def __post_init__(self) -> None:
        _check_numbers("Spin", phase=self.phase)
        _check_non_negative("Spin", frequency=self.frequency)
        _check_direction("Spin", self.direction)

    @staticmethod
    def at(centre: Point, *, frequency: float, phase: float = 0.0, direction: int = 1) -> "Spin":
        """A spin in place, about the fixed ``centre``."""
        return Spin(Flight(centre, (0.0, 0.0), centre, centre), frequency, phase, direction)

    def position(self, times: Times) -> Points:
        """Pixels at ``times`` seconds: those of the path."""
        return self.path.position(times)

    def velocity(self, times: Times) -> Points:
        """Pixels per second at ``times`` seconds: those of the path."""
        return self.path.velocity(times)

    def angle(self, times: Times) -> Times:
        """Radians at ``times`` seconds; not reduced modulo a turn."""
        return np.asarray(self.path.angle(times) + self.direction * 2 * math.pi * self.frequency * times + self.phase)

    def events(self, start: float, stop: float) -> Events:
        """The events of the path."""
        return self.path.events(start, stop)


@dataclass(frozen=True, slots=True)
class Oscillation:
    """Harmonic motion along a line: centre + amplitude sin(2 pi frequency t + phase).

    Arguments:
        centre: Middle of the line.
        amplitude: Vector from the middle to an end.
        frequency: Periods per second, at least 0.
        phase: Radians at time 0.

    Raises:
        ValueError: A number is not finite, or the frequency is negative.
    """

    centre: Point
    amplitude: Point
    frequency: float
    phase: float = 0.0

    def __post_init__(self) -> None:
        _check_points("Oscillation", centre=self.centre, amplitude=self.amplitude)
        _check_numbers("Oscillation", phase=self.phase)
        _check_non_negative("Oscillation", frequency=self.frequency)

    def position(self, times: Times) -> Points:
        """Pixels at ``times`` seconds."""
        swing = np.sin(2 * math.pi * self.frequency * times + self.phase)
        return np.asarray(self.centre) + swing[..., None] * np.asarray(self.amplitude)

    def velocity(self, times: Times) -> Points:
        """Pixels per second at ``times`` seconds."""
        omega = 2 * math.pi * self.frequency
        return (omega * np.cos(omega * times + self.phase))[..., None] * np.asarray(self.amplitude)

    def angle(self, times: Times) -> Times:
        """Zero: the glyph stays upright."""
        return np.zeros(np.shape(times))

    def events(self, start: float, stop: float) -> Events:
        """None: the motion is smooth."""
        return np.empty(0)


@dataclass(frozen=True, slots=True)
class Orbit:
    """Uniform motion on a circle.

    Arguments:
        centre: Centre of the circle.
        radius: Pixels, at least 0.
        frequency: Turns per second, at least 0.
        phase: Radians from the x axis towards the y axis at time 0.
        direction: 1 goes clockwise on the screen, -1 the other way.

    Raises:
        ValueError: A number is not finite, radius or frequency is negative, or the direction is not 1 or -1.
    """

    centre: Point
    radius: float
    frequency: float
    phase: float = 0.0
    direction: int = 1

    def __post_init__(self) -> None:
        _check_points("Orbit", centre=self.centre)
        _check_numbers("Orbit", phase=self.phase)
        _check_non_negative("Orbit", radius=self.radius, frequency=self.frequency)
        _check_direction("Orbit", self.direction)

    def position(self, times: Times) -> Points:
        """Pixels at ``times`` seconds."""
        phase = self._phase(times)
        return np.asarray(self.centre) + self.radius * np.stack((np.cos(phase), np.sin(phase)), axis=-1)

    def velocity(self, times: Times) -> Points:
        """Pixels per second at ``times`` seconds; their magnitude is 2 pi frequency radius."""
        phase = self._phase(times)
        speed = self.direction * 2 * math.pi * self.frequency * self.radius
        return speed * np.stack((-np.sin(phase), np.cos(phase)), axis=-1)

    def angle(self, times: Times) -> Times:
        """Zero: the glyph stays upright."""
        return np.zeros(np.shape(times))

    def events(self, start: float, stop: float) -> Events:
        """None: the motion is smooth."""
        return np.empty(0)

    def _phase(self, times: Times) -> Times:
        return np.asarray(self.direction * 2 * math.pi * self.frequency * times + self.phase)


@dataclass(frozen=True, slots=True)
class Pendulum:
    """A damped pendulum: the angle from the vertical is swing exp(-damping t) cos(2 pi frequency t + phase).

    Arguments:
        pivot: Where the rod hangs from.
        length: Pixels from the pivot to the bob, at least 0.
        swing: Radians of the largest angle; positive moves the bob to the right.
        frequency: Periods per second of the damped swing, at least 0.
        damping: Decay per second of the angle, at least 0.
        phase: Radians at time 0.
        turns: Whether the glyph turns with the rod.

    Raises:
        ValueError: A number is not finite, or length, frequency or damping is negative.
    """

    pivot: Point
    length: float
    swing: float
    frequency: float
    damping: float = 0.0
    phase: float = 0.0
    turns: bool = False

    def __post_init__(self) -> None:
        _check_points("Pendulum", pivot=self.pivot)
        _check_numbers("Pendulum", swing=self.swing, phase=self.phase)
        _check_non_negative("Pendulum", length=self.length, frequency=self.frequency, damping=self.damping)

    def deflection(self, times: Times) -> Times:
        """Radians between the rod and the vertical at ``times`` seconds; positive to the right."""
        phase = 2 * math.pi * self.frequency * times + self.phase
        return np.asarray(self.swing * np.exp(-self.damping * times) * np.cos(phase))

    def position(self, times: Times) -> Points:
        """Pixels of the bob at ``times`` seconds."""
        theta = self.deflection(times)
        return np.asarray(self.pivot) + self.length * np.stack((np.sin(theta), np.cos(theta)), axis=-1)

    def velocity(self, times: Times) -> Points:
        """Pixels per second of the bob at ``times`` seconds."""
        theta, omega = self.deflection(times), 2 * math.pi * self.frequency
        envelope = self.swing * np.exp(-self.damping * times)
        rate = -self.damping * theta - omega * envelope * np.sin(omega * times + self.phase)
        return (self.length * rate)[..., None] * np.stack((np.cos(theta), -np.sin(theta)), axis=-1)

    def angle(self, times: Times) -> Times:
        """Radians of the glyph at ``times`` seconds: zero, or those of the rod if it ``turns``."""
        return np.asarray(-float(self.turns) * self.deflection(times))

    def events(self, start: float, stop: float) -> Events:
        """None: the motion is smooth."""
        return np.empty(0)


def _check_points(owner: str, **points: Point) -> None:
    for name, point in points.items():
        if np.shape(point) != (2,) or not np.isfinite(point).all():
            raise ValueError(f"{owner} needs {name} as two finite numbers (x, y); got {point}.")


def _check_numbers(owner: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{owner} needs a finite {name}; got {number}.")


def _check_non_negative(owner: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(
                f"{owner} needs a finite {name} >= 0; got {number}. The sense is set by direction, phase or a vector."
            )


def _check_direction(owner: str, direction: int) -> None:
    if direction not in (1, -1):
        raise ValueError(f"{owner} needs direction 1 (clockwise on the screen) or -1; got {direction}.")
