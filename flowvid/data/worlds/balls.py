"""Worlds of balls with exact dynamics: PhyWorld's tasks, and the bouncing balls of the RTRBM and of ODE2VAE.

`BallWorld` follows the published protocol of PhyWorld. The world is 10 x 10 units, drawn at any resolution; a clip
has `FRAMES` = 32 frames, `INTERVAL` = 0.1 s apart (stored films play at 5 per second, half as fast as their physics).
Masses are squared radii (density 1), collisions elastic. Trained ranges: speeds of 1 to 4 units per second and radii
of 0.7 to 1.4 units, in collisions 0.5 to 1.5. Ranges outside: speeds below 0.8 or of 4.5 to 6, radii of 0.3 to 0.6 or
1.5 to 2, in collisions 0.3 to 0.4 or 1.7 to 2.

uniform: one ball flies to the right through open space; where there is room it stays inside for 24 frames, then it
may leave. collision: two balls meet head on, after 8 to 24 frames where there is room for that, and may leave. Their
y is drawn so that they stay half a unit off the borders. bouncing: one ball in a box, any direction; it comes from a
later benchmark whose generator was not at hand, so its radii are taken from the first task. Every draw is uniform.

`BouncingBalls`: three balls of radius 1.2 and mass 1 in a box of 10 x 10, 32 x 32 pixels, 20 frames, all velocities
together of norm 0.5 per frame, intensity exp(-(distance / radius)^8), overlaps added and cut at 1. A frame is called
a second here. The originals step half a frame at a time and let balls sink into walls and each other; here they don't.

References:
    How Far is Video Generation from World Model: A Physical Law Perspective (Kang et al., 2024), arXiv:2411.02385
    The Recurrent Temporal Restricted Boltzmann Machine (Sutskever et al., 2008)
    ODE2VAE: Deep generative second order ODEs with Bayesian neural networks (Yildiz et al., 2019), arXiv:1905.10994
    Learning How the World Evolves: Extrapolative Video World Models via Latent Dynamics Reasoning (2026),
        arXiv:2608.09926 (the bouncing task, and position errors in world units)
"""

__all__ = ["FRAMES", "INTERVAL", "BallWorld", "BouncingBalls"]

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from flowvid.data.worlds.ball_clip import SIDE, BallClip
from flowvid.data.worlds.hard_discs import HardDiscs
from flowvid.data.worlds.scene import check_split
from flowvid.noise import Noise

FRAMES = 32
INTERVAL = 0.1

Range = tuple[float, float]

_TASKS = ("uniform", "bouncing", "collision")
_SPEEDS: dict[str, Range] = {"slower": (0.0, 0.8), "trained": (1.0, 4.0), "faster": (4.5, 6.0)}
_RADII: dict[str, Range] = {"smaller": (0.3, 0.6), "trained": (0.7, 1.4), "larger": (1.5, 2.0)}
_COLLISION_RADII: dict[str, Range] = {"smaller": (0.3, 0.4), "trained": (0.5, 1.5), "larger": (1.7, 2.0)}
_MARGIN = 0.05 * SIDE
_INSIDE = 24
_BEFORE, _AFTER = 8, 8
_TRIES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BallWorld:
    """PhyWorld's tasks.

    Arguments:
        task: uniform, bouncing or collision.
        canvas: Side of the frames in pixels.
        colour: Whether frames have three channels, the balls red and blue on white; else white on black.
        speed: Least and greatest units per second of a ball.
        radius: Least and greatest radius in units; None takes those the task trains on.

    Raises:
        ValueError: A field is outside its range, or balls may not fit the world.
    """

    task: str = "uniform"
    canvas: int = 32
    colour: bool = False
    speed: Range = _SPEEDS["trained"]
    radius: Range | None = None

    def __post_init__(self) -> None:
        if self.task not in _TASKS:
            raise ValueError(f"The tasks are {', '.join(_TASKS)}; got {self.task!r}.")
        if self.canvas < 1:
            raise ValueError(f"A canvas has a positive whole number of pixels; got {self.canvas}.")
        low, high = self.speed
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"speed must be a range 0 <= low <= high of finite numbers; got ({low}, {high}).")
        low, high = self._radius()
        if not 0 < low <= high < SIDE / 4:
            raise ValueError(f"radius must be a range 0 < low <= high < {SIDE / 4} of units; got ({low}, {high}).")

    def clips(self, seeds: Iterable[int], split: str) -> list[BallClip]:
        """The clips of many seeds; each depends on this world, its own seed and the split alone.

        Raises:
            ValueError: The split is unknown, or there are no seeds.
        """
        check_split(split)
        noise = Noise.of(seeds)
        draws = noise.fold(f"{split}/balls").uniform(self.task, 8, dtype=torch.float64).numpy()
        place = {"uniform": _uniform, "bouncing": _bouncing, "collision": _collision}[self.task]
        clips = []
        for seed, draw in zip(noise.seeds, draws, strict=True):
            speeds, radii = (low + (high - low) * draw[pair] for (low, high), pair in self._pairs())
            clips.append(BallClip(place(speeds, radii, draw[4:]), self.canvas, seed, self.colour))
        return clips

    def slower(self) -> "BallWorld":
        """The same world at the published speeds below the trained ones."""
        return dataclasses.replace(self, speed=_SPEEDS["slower"])

    def faster(self) -> "BallWorld":
        """The same world at the published speeds above the trained ones."""
        return dataclasses.replace(self, speed=_SPEEDS["faster"])

    def smaller(self) -> "BallWorld":
        """The same world with the published radii below the trained ones."""
        return dataclasses.replace(self, radius=self._radii()["smaller"])

    def larger(self) -> "BallWorld":
        """The same world with the published radii above the trained ones."""
        return dataclasses.replace(self, radius=self._radii()["larger"])

    def _pairs(self) -> tuple[tuple[Range, slice], tuple[Range, slice]]:
        return (self.speed, slice(0, 2)), (self._radius(), slice(2, 4))

    def _radii(self) -> dict[str, Range]:
        return _COLLISION_RADII if self.task == "collision" else _RADII

    def _radius(self) -> Range:
        return self.radius if self.radius is not None else self._radii()["trained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BouncingBalls:
    """Balls of equal size and mass in a box.

    Arguments:
        balls: How many.
        canvas: Side of the frames in pixels.
        radius: Of every ball, in units.
        speed: Norm of all velocities together, in units per second, which here are frames.

    Raises:
        ValueError: A field is outside its range.
    """

    balls: int = 3
    canvas: int = 32
    radius: float = 1.2
    speed: float = 0.5

    def __post_init__(self) -> None:
        if self.balls < 1 or self.canvas < 1:
            raise ValueError(f"Balls and canvas are positive whole numbers; got {self.balls} and {self.canvas}.")
        if not (math.isfinite(self.speed) and self.speed >= 0 and 0 < self.radius < SIDE / 2):
            raise ValueError(f"Expected speed >= 0 and 0 < radius < {SIDE / 2}; got {self.speed} and {self.radius}.")
        if self.balls * (2 * self.radius) ** 2 > SIDE**2 / 2:
            raise ValueError(
                f"{self.balls} balls of radius {self.radius} crowd the box of {SIDE} x {SIDE} so that they cannot be "
                "placed at random; take fewer or smaller ones."
            )

    def clips(self, seeds: Iterable[int], split: str) -> list[BallClip]:
        """The clips of many seeds; each depends on this world, its own seed and the split alone.

        Raises:
            ValueError: The split is unknown, or there are no seeds.
        """
        check_split(split)
        noise = Noise.of(seeds)
        named = noise.fold(f"{split}/balls")
        velocities = named.normal("bouncing/velocity", self.balls, 2, dtype=torch.float64)
        velocities = self.speed * velocities / velocities.norm(dim=(1, 2), keepdim=True)
        sizes = np.full(self.balls, self.radius)
        return [
            BallClip(
                HardDiscs(self._place(named[[row]]), velocity.numpy(), sizes, np.ones(self.balls), SIDE),
                self.canvas,
                seed,
                soft=True,
            )
            for row, (seed, velocity) in enumerate(zip(noise.seeds, velocities, strict=True))
        ]

    def _place(self, noise: Noise) -> Float64[np.ndarray, "ball 2"]:
        """The first of uniform placements in the box without overlap."""
        near = torch.triu(torch.ones(self.balls, self.balls, dtype=torch.bool), diagonal=1)
        attempt = 0
        while True:
            draws = noise.uniform(f"bouncing/place/{attempt}", _TRIES, self.balls, 2, dtype=torch.float64)[0]
            places = self.radius + (SIDE - 2 * self.radius) * draws
            apart = (places[:, :, None] - places[:, None]).norm(dim=3)
            good = (~near | (apart > 2 * self.radius)).all(dim=2).all(dim=1)
            if bool(good.any()):
                return places[int(good.to(torch.int8).argmax())].numpy()
            attempt += 1


def _uniform(speeds: np.ndarray, radii: np.ndarray, draws: np.ndarray) -> HardDiscs:
    speed, radius = speeds[:1], radii[:1]
    rightmost = max(SIDE - radius[0] - _INSIDE * INTERVAL * speed[0], radius[0] + _MARGIN)
    x = radius[0] + (rightmost - radius[0]) * draws[0]
    return HardDiscs(np.array([[x, _height(radius[0], draws[1])]]), np.array([[speed[0], 0.0]]), radius, radius**2)


def _bouncing(speeds: np.ndarray, radii: np.ndarray, draws: np.ndarray) -> HardDiscs:
    radius, heading = radii[:1], 2 * math.pi * draws[2]
    start = radius[0] + (SIDE - 2 * radius[0]) * draws[:2]
    velocity = speeds[0] * np.array([[math.cos(heading), math.sin(heading)]])
    return HardDiscs(start[None], velocity, radius, radius**2, SIDE)


def _collision(speeds: np.ndarray, radii: np.ndarray, draws: np.ndarray) -> HardDiscs:
    closing, room = speeds.sum(), SIDE - 2 * radii.sum()
    latest = min((FRAMES - _AFTER) * INTERVAL * closing, room)
    soonest = min(_BEFORE * INTERVAL * closing, 0.75 * latest)
    distance = radii.sum() + soonest + (latest - soonest) * draws[0]
    left = radii[0] + (SIDE - radii.sum() - distance) * draws[1]
    y = _height(radii.max(), draws[2])
    positions = np.array([[left, y], [left + distance, y]])
    return HardDiscs(positions, np.array([[speeds[0], 0.0], [-speeds[1], 0.0]]), radii, radii**2)


def _height(radius: float, draw: float) -> float:
    return radius + _MARGIN + (SIDE - 2 * (radius + _MARGIN)) * draw
