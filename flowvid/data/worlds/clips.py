"""Clips of moving digits, known exactly at every real time.

A `World` is the complete description of a family of clips. A clip is a pure function of (world, split, seed): its
glyphs come from the digits of that split and its motion from noise streams named with the split, so neither the
glyphs nor the motions of the splits coincide. A clip holds no frames; it draws them at whatever times are asked for.

The walls of a flight are such that the ink, not the centroid, touches the edge of the canvas. The periodic motions
are drawn so that the ink never leaves the canvas at times t >= 0. Hence measured centroids equal true positions.

What a world draws, all uniformly: flight: place, direction, speed. Spin: place, frequency, phase, sense.
Oscillation: centre in the middle half of the free room, direction, frequency, phase, and 50 to 100 % of the
amplitude that fits. Orbit: likewise with the radius, and a sense. Pendulum: 0.4 to 0.8 rad of swing, 50 to 100 % of
the widest arc that fits, frequency, phase, and damping of 0 to 0.2 per second; its glyph stays upright.
"""

__all__ = ["FAMILIES", "Clip", "World", "clip_positions", "render_clips"]

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from flowvid.data.worlds.digits import SPLITS, Glyphs, ink_box, ink_radius, load_glyphs, render
from flowvid.data.worlds.motions import Flight, Motion, Orbit, Oscillation, Pendulum, Spin
from flowvid.noise import Noise
from flowvid.video import Video, as_times

FAMILIES = ("flight", "spin", "oscillation", "orbit", "pendulum")

Seconds = Tensor | Sequence[float]


class _Draws(NamedTuple):
    """Uniform numbers in (0, 1) that place a motion within its family."""

    x: float
    y: float
    phase: float
    rate: float
    sense: float
    size: float
    damping: float


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Digits that move on a canvas; overlapping ink is combined by the pixelwise maximum.

    Arguments:
        glyphs: Ink in [0, 1] of every digit.
        motions: The motion of every digit.
        labels: What every digit shows, 0..9.
        canvas: Side of the frames in pixels.
        scale: Canvas pixels per glyph pixel.
        seed: What the clip was drawn from.

    Raises:
        ValueError: There are no digits, or not as many motions and labels as glyphs; or, from the methods, times are
            not finite and strictly increasing.
    """

    glyphs: Float32[Tensor, "digit row column"]
    motions: tuple[Motion, ...]
    labels: tuple[int, ...]
    canvas: int
    scale: int
    seed: int

    def __post_init__(self) -> None:
        counts = len(self.glyphs), len(self.motions), len(self.labels)
        if counts[0] == 0 or len(set(counts)) > 1:
            raise ValueError(f"A clip needs one motion and one label for each glyph, and a glyph; got {counts}.")

    def frames(self, times: Seconds) -> Float32[Tensor, "time 1 canvas canvas"]:
        """Frames in [-1, 1] at ``times`` seconds."""
        return render_clips([self], times).frames[0]

    def positions(self, times: Seconds) -> Float64[Tensor, "time digit 2"]:
        """Centroids (x right, y down) in pixels at ``times`` seconds."""
        seconds = as_times(times).numpy()
        return torch.from_numpy(np.stack([motion.position(seconds) for motion in self.motions], axis=1))

    def velocities(self, times: Seconds) -> Float64[Tensor, "time digit 2"]:
        """Pixels per second at ``times`` seconds; at an event those just after it."""
        seconds = as_times(times).numpy()
        return torch.from_numpy(np.stack([motion.velocity(seconds) for motion in self.motions], axis=1))

    def angles(self, times: Seconds) -> Float64[Tensor, "time digit"]:
        """Radians each digit is turned by at ``times`` seconds."""
        seconds = as_times(times).numpy()
        return torch.from_numpy(np.stack([motion.angle(seconds) for motion in self.motions], axis=1))

    def events(self, start: float, stop: float) -> Float64[Tensor, "event"]:
        """The times in [start, stop], in increasing order, at which the velocity of some digit jumps."""
        return torch.from_numpy(np.unique(np.concatenate([motion.events(start, stop) for motion in self.motions])))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A family of clips.

    Arguments:
        motion: flight, spin, oscillation, orbit, pendulum, or mixed: one of them for each digit, equally often.
        digits: 1 or 2 per clip.
        canvas: Side of the frames in pixels.
        scale: Canvas pixels per glyph pixel.
        speed: Least and greatest pixels per second of a flight.
        frequency: Least and greatest periods per second of the other motions.

    Raises:
        ValueError: A field is outside its range.
    """

    motion: str = "flight"
    digits: int = 1
    canvas: int = 32
    scale: int = 2
    speed: tuple[float, float] = (4.0, 9.0)
    frequency: tuple[float, float] = (0.15, 0.4)

    def __post_init__(self) -> None:
        if self.motion not in (*FAMILIES, "mixed"):
            raise ValueError(f"The motions are {', '.join(FAMILIES)} and mixed; got {self.motion!r}.")
        if self.digits not in (1, 2):
            raise ValueError(f"A clip holds 1 or 2 digits; got {self.digits}.")
        if self.canvas < 1 or self.scale < 1:
            raise ValueError(f"Canvas and scale are positive whole pixels; got {self.canvas} and {self.scale}.")
        for name in ("speed", "frequency"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < math.inf:
                raise ValueError(f"{name} must be a range 0 <= low <= high of finite numbers; got ({low}, {high}).")

    def clip(self, seed: int, split: str, *, glyphs: Glyphs | None = None) -> Clip:
        """The clip of a seed; it depends on nothing but this world, the seed, the split and the glyphs.

        Arguments:
            seed: Any 64-bit integer.
            split: Names the noise, and the glyphs where none are given.
            glyphs: What to choose the digits from, of any size; scikit-learn's digits of the split if None.

        Raises:
            ValueError: The split is unknown, or a digit does not fit the canvas.
        """
        return self.clips([seed], split, glyphs=glyphs)[0]

    def clips(self, seeds: Iterable[int], split: str, *, glyphs: Glyphs | None = None) -> list[Clip]:
        """The clips of many seeds; each is the one `clip` makes.

        Raises:
            ValueError: The split is unknown, a digit does not fit the canvas, or there are no seeds.
        """
        if split not in SPLITS:
            raise ValueError(f"The splits are {', '.join(SPLITS)}; got {split!r}.")
        noise, bank = Noise.of(seeds), load_glyphs(split) if glyphs is None else glyphs
        chosen = noise.fold(f"{split}/glyphs").integers("glyph", 0, len(bank), self.digits)
        names = noise.fold(f"{split}/motion")
        family = names.integers("family", 0, len(FAMILIES), self.digits).tolist()
        draws = names.uniform("motion", self.digits, len(_Draws._fields), dtype=torch.float64).tolist()
        return [
            Clip(
                glyphs=bank.images[index],
                motions=tuple(
                    self._motion(bank.images[glyph], family[row][digit], _Draws(*draws[row][digit]))
                    for digit, glyph in enumerate(index.tolist())
                ),
                labels=tuple(bank.labels[index].tolist()),
                canvas=self.canvas,
                scale=self.scale,
                seed=seed,
            )
            for row, (seed, index) in enumerate(zip(noise.seeds, chosen, strict=True))
        ]

    def slower(self) -> "World":
        """The same world at speeds and frequencies below its own: 0.4 to 0.8 of the least."""
        (speed, _), (frequency, _) = self.speed, self.frequency
        return dataclasses.replace(self, speed=(0.4 * speed, 0.8 * speed), frequency=(0.4 * frequency, 0.8 * frequency))

    def faster(self) -> "World":
        """The same world at speeds and frequencies above its own: 1.25 to 1.75 of the greatest."""
        (_, speed), (_, frequency) = self.speed, self.frequency
        return dataclasses.replace(
            self, speed=(1.25 * speed, 1.75 * speed), frequency=(1.25 * frequency, 1.75 * frequency)
        )

    def _motion(self, glyph: Float32[Tensor, "row column"], family: int, draws: _Draws) -> Motion:
        name = FAMILIES[family] if self.motion == "mixed" else self.motion
        reach = (ink_radius(glyph),) * 4 if name == "spin" else ink_box(glyph)
        left, right, up, down = (self.scale * side for side in reach)
        low, high = np.array([left, up]), np.array([self.canvas - right, self.canvas - down])
        if (low > high).any():
            raise ValueError(
                f"A digit needs {left + right:.1f} x {up + down:.1f} pixels at scale {self.scale}, but the canvas has "
                f"{self.canvas} x {self.canvas}. Enlarge the canvas or lower the scale."
            )
        frequency = _between(self.frequency, draws.rate)
        match name:
            case "flight":
                return _flight(low, high, _between(self.speed, draws.rate), draws)
            case "spin":
                return _spin(low, high, frequency, draws)
            case "oscillation":
                return _oscillation(low, high, frequency, draws)
            case "orbit":
                return _orbit(low, high, frequency, draws)
            case _:
                return _pendulum(low, high, frequency, draws)


def render_clips(clips: Sequence[Clip], times: Seconds) -> Video:
    """The clips at ``times`` seconds as one batch of frames in [-1, 1].

    Raises:
        ValueError: There are no clips, they differ in canvas, scale or number of digits, or the times are not finite
            and strictly increasing.
    """
    times = as_times(times)
    positions = clip_positions(clips, times)
    angles = torch.stack([clip.angles(times) for clip in clips])
    batch, digits = angles.shape[0], angles.shape[2]
    ink = render(
        torch.cat([clip.glyphs for clip in clips]),
        positions.transpose(1, 2).flatten(0, 1),
        angles.transpose(1, 2).flatten(0, 1),
        canvas=clips[0].canvas,
        scale=clips[0].scale,
    ).unflatten(0, (batch, digits))
    ink = ink[:, 0] if digits == 1 else ink.amax(1)
    return Video(ink.mul_(2).sub_(1)[:, :, None], times)


def clip_positions(clips: Sequence[Clip], times: Seconds) -> Float64[Tensor, "batch time digit 2"]:
    """Centroids (x right, y down) in pixels of every digit of every clip at ``times`` seconds.

    Raises:
        ValueError: There are no clips, they differ in canvas, scale or number of digits, or the times are not finite
            and strictly increasing.
    """
    kinds = {(clip.canvas, clip.scale, len(clip.glyphs)) for clip in clips}
    if len(kinds) != 1:
        found = f"got (canvas, scale, digits) of {sorted(kinds)}" if kinds else "got no clip"
        raise ValueError(f"A batch needs clips of one canvas, scale and number of digits; {found}.")
    times = as_times(times)
    return torch.stack([clip.positions(times) for clip in clips])


def _between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _room(low: np.ndarray, high: np.ndarray, draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """A centre in the middle half of the free room, and how far the walls are from it."""
    centre = low + (high - low) * (0.25 + 0.5 * np.array((draws.x, draws.y)))
    return centre, np.minimum(centre - low, high - centre)


def _point(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _flight(low: np.ndarray, high: np.ndarray, speed: float, draws: _Draws) -> Flight:
    start = np.clip(low + (high - low) * np.array((draws.x, draws.y)), low, high)
    heading = 2 * math.pi * draws.phase
    return Flight(_point(start), (speed * math.cos(heading), speed * math.sin(heading)), _point(low), _point(high))


def _spin(low: np.ndarray, high: np.ndarray, frequency: float, draws: _Draws) -> Spin:
    centre = _point(low + (high - low) * np.array((draws.x, draws.y)))
    return Spin.at(
        centre, frequency=frequency, phase=2 * math.pi * draws.phase, direction=1 if draws.sense < 0.5 else -1
    )


def _oscillation(low: np.ndarray, high: np.ndarray, frequency: float, draws: _Draws) -> Oscillation:
    centre, reach = _room(low, high, draws)
    heading = np.array([math.cos(math.pi * draws.sense), math.sin(math.pi * draws.sense)])
    widest = (reach / np.maximum(np.abs(heading), 1e-12)).min()
    amplitude = _point((0.5 + 0.5 * draws.size) * widest * heading)
    return Oscillation(_point(centre), amplitude, frequency, 2 * math.pi * draws.phase)


def _orbit(low: np.ndarray, high: np.ndarray, frequency: float, draws: _Draws) -> Orbit:
    centre, reach = _room(low, high, draws)
    radius = float((0.5 + 0.5 * draws.size) * reach.min())
    return Orbit(_point(centre), radius, frequency, 2 * math.pi * draws.phase, 1 if draws.sense < 0.5 else -1)


def _pendulum(low: np.ndarray, high: np.ndarray, frequency: float, draws: _Draws) -> Pendulum:
    centre, reach = _room(low, high, draws)
    swing, room = 0.4 + 0.4 * draws.sense, float(high[1] - low[1])
    widest = min(float(reach[0]) / math.sin(swing), room / (1 - math.cos(swing)))
    length = (0.5 + 0.5 * draws.size) * widest
    rise = length * (1 - math.cos(swing))
    lowest = float(low[1]) + rise + (room - rise) * draws.y
    return Pendulum(
        pivot=(float(centre[0]), lowest - length),
        length=length,
        swing=swing,
        frequency=frequency,
        damping=0.2 * draws.damping,
        phase=2 * math.pi * draws.phase,
    )
