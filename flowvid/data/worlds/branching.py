"""Worlds whose futures branch: at each of the first walls a coin decides which way a digit flies on.

A digit flies as `flowvid.data.worlds.branching_flight` says, with independent coins that show heads with probability p.
So the law of the future is a finite binary tree with known probabilities:

    P(path) = prod_i p^heads_i (1 - p)^(1 - heads_i),    m(t) = sum P x(t),    C(t) = sum P (x(t) - m(t)) (x(t) - m(t))'

with sums over the futures that differ in (start, t). m is what least squares learns, and the trace of C its missing
energy. With m_d the conditional mean d ahead, E m_d(state at t + d) = m_2d(state at t) holds for the law, while
m_d(m_d) differs: the conflict between self-consistency and regression.

Clips are ordinary `flowvid.data.worlds.clips.Clip` objects, so everything that takes those takes these. One coin and a
given time make the two-way world, in which a future is exactly one bit.

References:
    Stochastic Video Generation with a Learned Prior (Denton and Fergus, 2018), arXiv:1802.07687: digits that leave a
        wall with a random velocity; there the law of the future has no finite tree.
"""

__all__ = ["BranchingWorld", "Moments", "flight_of", "future_moments", "futures"]

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from flowvid.data.worlds.branching_flight import BranchingFlight, check_law
from flowvid.data.worlds.clips import Clip
from flowvid.data.worlds.digits import ink_box, load_glyphs
from flowvid.data.worlds.motions import Point
from flowvid.data.worlds.scene import check_split
from flowvid.noise import Noise
from flowvid.video import as_times

_Coins = tuple[bool, ...]

_MOST = 1 << 12
_ROOM = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchingWorld:
    """Clips of one branching digit; place, direction and speed are drawn uniformly, coins fairly or as given.

    Arguments:
        coins: How many walls toss a coin, at least 1.
        hit: Seconds at which the first wall is struck; None leaves it to chance. At a given time it is struck in its
            middle half and within 45 degrees of the normal, at the drawn speed or so much slower that the digit starts
            inside.
        angle_of_turn: Radians, above 0 and below pi / 2.
        probability: Of heads, above 0 and below 1.
        canvas: Side of the frames in pixels.
        scale: Canvas pixels per glyph pixel.
        speed: Least and greatest pixels per second.

    Raises:
        ValueError: A field is outside its range.
    """

    coins: int = 6
    hit: float | None = None
    angle_of_turn: float = math.pi / 6
    probability: float = 0.5
    canvas: int = 32
    scale: int = 2
    speed: tuple[float, float] = (4.0, 9.0)

    def __post_init__(self) -> None:
        check_law(self.angle_of_turn, self.probability)
        low, high = self.speed
        if not 0 < low <= high < math.inf:
            raise ValueError(f"speed must be a range 0 < low <= high of finite numbers; got ({low}, {high}).")
        if min(self.coins, self.canvas, self.scale) < 1:
            raise ValueError(f"Coins, canvas and scale are at least 1; got {self.coins}, {self.canvas}, {self.scale}.")
        if self.hit is not None and not 0 < self.hit < math.inf:
            raise ValueError(f"The first wall is struck at a positive time; got {self.hit} s.")

    @staticmethod
    def two_way(hit: float = 1.0, *, angle_of_turn: float = math.pi / 3, canvas: int = 32) -> "BranchingWorld":
        """Exactly one fair coin, tossed at ``hit`` seconds: two futures, and plain reflections otherwise."""
        return BranchingWorld(coins=1, hit=hit, angle_of_turn=angle_of_turn, canvas=canvas)

    def clips(self, seeds: Iterable[int], split: str) -> list[Clip]:
        """The clips of many seeds; each depends on this world, its own seed and the split alone.

        Raises:
            ValueError: The split is unknown, there are no seeds, or a digit has no room on the canvas.
        """
        check_split(split)
        noise, bank = Noise.of(seeds), load_glyphs(split)
        named = noise.fold(f"{split}/branching")
        chosen = named.integers("glyph", 0, len(bank), 1)
        draws = named.uniform("motion", 6, dtype=torch.float64).numpy()
        coins = named.uniform("coins", self.coins, dtype=torch.float64) < self.probability
        return [
            Clip(
                glyphs=bank.images[index],
                motions=(self._flight(bank.images[index[0]], draw, tuple(toss)),),
                labels=tuple(bank.labels[index].tolist()),
                canvas=self.canvas,
                scale=self.scale,
                seed=seed,
            )
            for seed, index, draw, toss in zip(noise.seeds, chosen, draws, coins.tolist(), strict=True)
        ]

    def _flight(
        self, glyph: Float32[Tensor, "row column"], draw: np.ndarray, coins: tuple[bool, ...]
    ) -> BranchingFlight:
        left, right, up, down = (self.scale * side for side in ink_box(glyph))
        low, high = np.array([left, up]), np.array([self.canvas - right, self.canvas - down])
        if (low >= high).any():
            raise ValueError(
                f"A digit of {left + right:.1f} x {up + down:.1f} pixels at scale {self.scale} cannot fly on a canvas "
                f"of {self.canvas} x {self.canvas}. Enlarge the canvas or lower the scale."
            )
        start = low + (high - low) * draw[:2]
        speed = self.speed[0] + (self.speed[1] - self.speed[0]) * draw[2]
        if self.hit is None:
            velocity = speed * np.array([math.cos(2 * math.pi * draw[3]), math.sin(2 * math.pi * draw[3])])
        else:
            start, way = _aimed(low, high, draw[3:], speed * self.hit)
            velocity = way / self.hit
        return BranchingFlight(
            start=_point(start),
            initial_velocity=_point(velocity),
            low=_point(low),
            high=_point(high),
            coins=coins,
            angle_of_turn=self.angle_of_turn,
            probability=self.probability,
        )


class Moments(NamedTuple):
    """Where a digit is on average and how widely its futures spread, at several times.

    Arguments:
        mean: Pixels.
        covariance: Squared pixels.
    """

    mean: Float64[Tensor, "time 2"]
    covariance: Float64[Tensor, "time 2 2"]


def flight_of(clip: Clip) -> BranchingFlight:
    """The motion of a clip of a branching world, with its coins and the times of their tosses.

    Raises:
        ValueError: The clip comes from another world.
    """
    motion = clip.motions[0]
    if len(clip.motions) != 1 or not isinstance(motion, BranchingFlight):
        raise ValueError(f"Only clips of one branching digit have futures; got motions {clip.motions}.")
    return motion


def futures(clip: Clip, start: float, stop: float) -> list[tuple[float, Clip]]:
    """All futures that differ before ``stop``, given everything up to and including ``start``, and their probabilities.

    They share the past exactly; the clip itself is one of them. Coins from ``stop`` on are left as the clip has them.

    Raises:
        ValueError: The clip comes from another world, start > stop, or there are more than 4096 futures.
    """
    flight = flight_of(clip)
    if not start <= stop:
        raise ValueError(f"Futures need start <= stop; got {start} and {stop} s.")
    found: list[tuple[float, BranchingFlight]] = []
    open_ends = [(1.0, flight, int((flight.coin_times() <= start).sum()))]
    while open_ends:
        probability, path, coin = open_ends.pop()
        if coin == len(path.coins) or path.coin_times()[coin] >= stop:
            found.append((probability, path))
            if len(found) > _MOST:
                raise ValueError(f"There are more than {_MOST} futures up to {stop} s; stop earlier.")
            continue
        for heads, share in ((False, 1 - path.probability), (True, path.probability)):
            coins = (*path.coins[:coin], heads, *path.coins[coin + 1 :])
            open_ends.append((probability * share, dataclasses.replace(path, coins=coins), coin + 1))
    return [(probability, dataclasses.replace(clip, motions=(path,))) for probability, path in found]


def future_moments(clip: Clip, start: float, times: Tensor | Sequence[float]) -> Moments:
    """Exact conditional mean and covariance of the digit's position at ``times``, given everything up to ``start``.

    Raises:
        ValueError: The clip comes from another world, there are more than 4096 futures, or the times are not finite,
            strictly increasing, and at or after ``start``.
    """
    seconds = as_times(times)
    tree = futures(clip, start, seconds[-1].item())
    if not start <= seconds[0].item():
        raise ValueError(f"Moments are of the future; got {seconds[0].item()} s, which is before {start} s.")
    weights = torch.tensor([probability for probability, _ in tree], dtype=torch.float64)
    positions = torch.stack([future.positions(seconds)[:, 0] for _, future in tree])
    mean = torch.einsum("f,ftd->td", weights, positions)
    spread = positions - mean
    return Moments(mean, torch.einsum("f,ftd,fte->tde", weights, spread, spread))


def _aimed(low: np.ndarray, high: np.ndarray, draw: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """A start, and the way from there to a wall: ``length`` pixels, or nearly all the room there is.

    The wall, the place on its middle half, and the direction within 45 degrees of its normal are drawn uniformly.
    """
    side, axis = divmod(int(4 * draw[0]), 2)
    target = low + (high - low) * (0.25 + 0.5 * draw[1])
    target[axis] = (low, high)[side][axis]
    slant = math.pi / 2 * (draw[2] - 0.5)
    heading = np.empty(2)
    heading[axis], heading[1 - axis] = (2 * side - 1) * math.cos(slant), math.sin(slant)
    behind = np.where(heading > 0, target - low, target - high)
    room = np.divide(behind, heading, out=np.full(2, math.inf), where=heading != 0).min()
    way = heading * min(length, _ROOM * room)
    return target - way, way


def _point(values: np.ndarray) -> Point:
    return float(values[0]), float(values[1])
