"""Captions of scenes, read off their exact positions and velocities.

Nothing is asked of a scene but what every scene tells: so digits, balls, pendulums and branching worlds are described
by one rule. Between events velocities are exact, so families are told apart to rounding: velocity constant, a flight;
along one line, an oscillation; round a circle at constant speed, an orbit; round a circle otherwise, a pendulum; at
rest and turning, a spin. What is none of these, or changes from one to another, is a flight that starts as it does.

At an event the velocity of an object jumps from v to v'. If it and another one are kicked away from each other, they
collided. Otherwise the components that change sign name the walls; two walls at
once are a corner if the ink touches both edges, and else the nearer one of a way out that is no mirror image. Events
within a microsecond of each other are one.
"""

__all__ = ["compass", "describe", "describe_moment", "mirror", "pace", "place_word", "surface_hit", "timed_captions"]

import math
from collections.abc import Collection, Sequence

import numpy as np

from flowvid.data.worlds.captions import (
    DIGITS,
    DIRECTIONS,
    PLACES,
    SENSES,
    SPEED_BOUNDS,
    SPEEDS,
    TURN_BOUNDS,
    WALLS,
    Caption,
    Event,
    Part,
)
from flowvid.data.worlds.scene import Scene

_EDGE = 1e-6
_EXACT = 1e-6
_STILL = 0.01
_SAMPLES = 24


def compass(velocity: Sequence[float] | np.ndarray) -> str:
    """The nearest of the eight directions of a vector (x right, y down)."""
    return DIRECTIONS[round(math.atan2(velocity[1], velocity[0]) / (math.pi / 4)) % 8]


def pace(rate: float, bounds: tuple[float, float] = SPEED_BOUNDS) -> str:
    """The word for a rate: below the first bound, from the second on, or between."""
    return SPEEDS[sum(rate >= bound for bound in bounds)]


def place_word(position: Sequence[float] | np.ndarray, canvas: int) -> str:
    """Which ninth of a square canvas a position lies in."""
    column, row = (min(max(math.floor(3 * float(part) / canvas), 0), 2) for part in position)
    return PLACES[3 * row + column]


def surface_hit(
    before: np.ndarray, after: np.ndarray, position: np.ndarray, canvas: int, touched: Collection[str]
) -> str:
    """The wall or corner of a square canvas that turns one velocity into another; "another" if none can.

    Arguments:
        before: Velocity of the way in.
        after: Velocity of the way out.
        position: Where it happens.
        canvas: Side of the canvas.
        touched: The walls that ink touches at that time.
    """
    hit = {}
    for axis, (low, high) in enumerate((WALLS[:2], WALLS[2:])):
        distance = min(position[axis], canvas - position[axis])
        if before[axis] < 0 < after[axis] and position[axis] < canvas / 2:
            hit[low] = distance
        elif after[axis] < 0 < before[axis] and position[axis] > canvas / 2:
            hit[high] = distance
    if len(hit) == 2 and all(wall in touched for wall in hit):
        across, along = (wall.removesuffix(" wall") for wall in hit)
        return f"{along} {across} corner"
    return min(hit, key=lambda wall: (wall not in touched, hit[wall])) if hit else "another"


def mirror(velocity: np.ndarray, surface: str) -> np.ndarray:
    """The velocity of an elastic way out."""
    across, along = (any(side in surface for side in sides) for sides in (("left", "right"), ("top", "bottom")))
    return velocity * np.where([across, along], -1, 1)


def describe(scene: Scene, start: float, stop: float) -> Caption:
    """What a scene does from ``start`` to ``stop`` seconds; an event at the very start is over.

    Raises:
        ValueError: The times are not finite or not in order.
    """
    if not (math.isfinite(start) and math.isfinite(stop) and stop - start > 2 * _EDGE):
        raise ValueError(f"A caption spans from a finite start to a later stop; got start={start} s, stop={stop} s.")
    jumps, events = _events(scene, start, stop)
    edges = np.array([start, *(jump for jump in jumps if jump < stop - _EDGE), stop])
    inside = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    times = (edges[:-1, None] + np.diff(edges)[:, None] * inside).flatten()
    positions, velocities = (one(times.tolist()).numpy() for one in (scene.positions, scene.velocities))
    first = scene.velocities([start + _EDGE])[0].numpy()
    turns = _turn_rates(scene, times, len(first))
    parts = []
    for i, subject in enumerate(_subjects(scene)):
        speeds = np.linalg.norm(velocities[:, i], axis=1)
        motion = _family(positions[:, i], velocities[:, i], scene.canvas)
        way = first[i] if np.linalg.norm(first[i]) > _EXACT * speeds.max() else velocities[0, i]
        speed = speeds[times < events[i][0].time].mean() if events[i] else speeds.mean()
        sense = _sense(_cross(velocities[:-1, i], velocities[1:, i]).sum()) if motion == "orbit" else None
        parts.append(_part(subject, motion, way, speed / scene.canvas, turns[i], sense=sense, events=tuple(events[i])))
    return Caption(tuple(parts))


def describe_moment(scene: Scene, time: float) -> Caption:
    """Where everything is at a moment, where to and how fast: what one glance and the next one tell.

    Families take longer to tell, so what moves at all is in flight here, and what hardly does (below 0.01 canvas
    widths per second) rests or spins.

    Raises:
        ValueError: The time is not finite.
    """
    if not math.isfinite(time):
        raise ValueError(f"A caption speaks of a finite time; got {time} s.")
    positions, velocities = (one([time])[0].numpy() for one in (scene.positions, scene.velocities))
    turns = _turn_rates(scene, time + 100 * _EDGE * np.arange(3), len(positions))
    parts = []
    for i, subject in enumerate(_subjects(scene)):
        speed = float(np.linalg.norm(velocities[i])) / scene.canvas
        place = place_word(positions[i], scene.canvas)
        motion = "flight" if speed >= _STILL else "rest"
        parts.append(_part(subject, motion, velocities[i], speed, turns[i], place=place))
    return Caption(tuple(parts), time)


def timed_captions(scene: Scene, times: Sequence[float]) -> list[tuple[float, str]]:
    """A caption of each of some moments, with its time: "at 1.5 s the seven in the middle moves up, slowly".

    Raises:
        ValueError: A time is not finite.
    """
    return [(float(time), str(describe_moment(scene, float(time)))) for time in times]


def _part(
    subject: str,
    motion: str,
    way: np.ndarray,
    speed: float,
    turn: float,
    *,
    sense: str | None = None,
    events: tuple[Event, ...] = (),
    place: str | None = None,
) -> Part:
    """A part from numbers: the way at the start, canvas widths per second, and turns per second."""
    if motion == "rest" and turn:
        return Part(
            subject=subject,
            motion="spin",
            sense=_sense(turn),
            speed=pace(abs(turn), TURN_BOUNDS),
            events=events,
            place=place,
        )
    if motion == "rest":
        return Part(subject=subject, motion=motion, events=events, place=place)
    return Part(
        subject=subject,
        motion=motion,
        direction=compass(way),
        sense=_sense(turn) if motion == "flight" and turn else sense,
        speed=pace(float(speed)),
        events=events,
        place=place,
    )


def _subjects(scene: Scene) -> list[str]:
    """Digits by their labels; what is unlabelled is a bob where something swings in the first seconds, else a ball."""
    labels = getattr(scene, "labels", None)
    if labels is not None:
        return [DIGITS[int(label)] for label in labels]
    times = np.linspace(0.0, 4.0, 101).tolist()
    positions, velocities = (one(times).numpy() for one in (scene.positions, scene.velocities))
    families = [_family(positions[:, i], velocities[:, i], scene.canvas) for i in range(positions.shape[1])]
    return ["bob" if "pendulum" in families else "ball"] * len(families)


def _family(positions: np.ndarray, velocities: np.ndarray, canvas: int) -> str:
    """The family of a path sampled in order, or "flight" for one that belongs to none."""
    speeds = np.linalg.norm(velocities, axis=1)
    changes = np.linalg.norm(np.diff(velocities, axis=0), axis=1)
    if speeds[0] == 0 and changes[0] == 0:
        return "rest"
    if speeds.max() <= _EXACT * canvas * _STILL:
        return "rest"
    if np.median(changes) <= _EXACT * speeds.max():
        return "flight"
    across, along = np.linalg.svd(velocities, compute_uv=False)[::-1]
    if across <= _EXACT * along:
        return "oscillation"
    path = positions - positions.mean(axis=0)
    path = path / np.abs(path).max()
    columns = np.column_stack((path, np.ones(len(path))))
    squares = np.square(path).sum(axis=1)
    misfit = squares - columns @ np.linalg.lstsq(columns, squares, rcond=None)[0]
    if np.abs(misfit).max() > _EXACT:
        return "flight"
    return "orbit" if np.ptp(speeds) <= _EXACT * speeds.max() else "pendulum"


def _events(scene: Scene, start: float, stop: float) -> tuple[list[float], list[list[Event]]]:
    """When velocities jump, and what each object bounces off."""
    found = scene.events(start, stop).numpy()
    found = found[found > start + _EDGE]
    clusters = np.split(found, np.nonzero(np.diff(found) > _EDGE)[0] + 1) if len(found) else []
    count = scene.positions([start]).shape[1]
    events: list[list[Event]] = [[] for _ in range(count)]
    for cluster in clusters:
        times = [cluster[0] - _EDGE / 4, cluster[-1] + _EDGE / 4]
        places = scene.positions(times)[0].numpy()
        before, after = scene.velocities(times).numpy()
        jumped = np.linalg.norm(after - before, axis=1) > 1e-4 * scene.canvas
        for i in np.nonzero(jumped)[0].tolist():
            time = float(cluster[0])
            if _collided(i, places, after - before, jumped):
                events[i].append(Event("another", _way_out(after[i]), time))
                continue
            touched = _touched(scene, time) if (before[i] * after[i] < 0).all() else ()
            surface = surface_hit(before[i], after[i], places[i], scene.canvas, touched)
            error = np.linalg.norm(after[i] - mirror(before[i], surface))
            plain = surface != "another" and error <= 1e-3 * np.linalg.norm(before[i])
            events[i].append(Event(surface, None if plain else _way_out(after[i]), time))
    return [float(cluster[0]) for cluster in clusters], events


def _way_out(velocity: np.ndarray) -> str:
    return compass(velocity) if np.linalg.norm(velocity) > 0 else "rest"


def _collided(i: int, places: np.ndarray, kicks: np.ndarray, jumped: np.ndarray) -> bool:
    """Whether an object and another one are kicked away from each other, which no two walls do."""
    lines = places - places[i]
    return any(j != i and kicks[i] @ lines[j] < 0 < kicks[j] @ lines[j] for j in np.nonzero(jumped)[0].tolist())


def _touched(scene: Scene, time: float) -> set[str]:
    """The walls with ink within a pixel."""
    ink = (scene.frames([time])[0].amax(dim=0) > -1 + 1e-6).numpy()
    sides = (ink[:, 0], ink[:, -1], ink[0], ink[-1])
    return {wall for wall, side in zip(WALLS, sides, strict=True) if side.any()}


def _turn_rates(scene: Scene, times: np.ndarray, count: int) -> list[float]:
    """Turns per second of every object that turns evenly, positive clockwise, and 0 of the others."""
    angles = getattr(scene, "angles", None)
    if angles is None:
        return [0.0] * count
    rates = np.diff(angles(times.tolist()).numpy(), axis=0) / np.diff(times)[:, None] / (2 * math.pi)
    even = np.ptp(rates, axis=0) <= _EXACT * np.abs(rates).max(axis=0)
    return [float(rate) if steady else 0.0 for rate, steady in zip(rates.mean(axis=0), even, strict=True)]


def _sense(turn: float) -> str:
    return SENSES[0 if turn > 0 else 1]


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray | np.float64:
    return one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
