"""Two equal pendulums coupled by a torsion spring, exact at any real time, and clips of them.

With omega the angular frequency of one alone and kappa the coupling, the angles obey

    theta_1'' = -omega^2 s(theta_1) - kappa (theta_1 - theta_2),    and the same with 1 and 2 exchanged,

where s is the sine, or the identity for small angles. For small angles the sum and the difference of the angles are
independent oscillators of frequencies omega and Omega = sqrt(omega^2 + 2 kappa): a closed form. If both modes swing
equally far, the motion wanders from one pendulum to the other and back with the beat frequency (Omega - omega) / 2 pi.
With the sine there is no closed form; the equations are integrated once, at tolerance 1e-11, in pieces of 8 s that
begin at fixed times, so that a state never depends on which other times are asked for. The energy per mass and squared
length,

    E = (theta_1'^2 + theta_2'^2) / 2 + omega^2 (V(theta_1) + V(theta_2)) + kappa (theta_1 - theta_2)^2 / 2,

with V(x) = x^2 / 2 or 1 - cos x, is conserved. Angles are from the vertical, positive to the right.

References:
    Classical Mechanics, chapter 6 (Goldstein et al., 2001)
    Solving Ordinary Differential Equations I, section II.5, DOP853 (Hairer, Norsett and Wanner, 1993)
"""

__all__ = ["CoupledPendulums", "PendulumClip", "PendulumWorld"]

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from flowvid.data.worlds.drawing import colour_mix, draw_discs, draw_rods
from flowvid.data.worlds.scene import check_split
from flowvid.noise import Noise
from flowvid.video import as_times

Seconds = Tensor | Sequence[float]
Angles = Float64[np.ndarray, "time 2"]
Range = tuple[float, float]
_Solution = Callable[[Float64[np.ndarray, "time"]], Float64[np.ndarray, "4 time"]]

_PIECE = 8.0
_TOLERANCE = 1e-11
_FURTHEST = 1000.0

# Shares of the canvas: the bobs stay a pixel inside it, and apart from each other, for the swings the world draws.
_PIVOTS = ((0.295, 0.25), (0.705, 0.25))
_LENGTH, _BOB = 0.47, 0.0625
_SWING = (0.1, 0.22)
_ROD_INK = 0.4


@dataclass(frozen=True, slots=True)
class CoupledPendulums:
    """Two equal pendulums and the spring between them.

    Arguments:
        frequency: Periods per second of the mode in which both swing together, positive.
        beat: By how many periods per second the mode in which they swing against each other is faster, at least 0.
        angles: Radians from the vertical at time 0.
        rates: Radians per second at time 0.
        linear: Whether angles are taken as small; else the restoring force is the sine's.

    Raises:
        ValueError: A number is not finite, the frequency is not positive, or the beat is negative.
    """

    frequency: float
    beat: float
    angles: tuple[float, float]
    rates: tuple[float, float] = (0.0, 0.0)
    linear: bool = True

    def __post_init__(self) -> None:
        if not np.isfinite((self.frequency, self.beat, *self.angles, *self.rates)).all():
            raise ValueError(f"Coupled pendulums need finite numbers; got {self}.")
        if self.frequency <= 0 or self.beat < 0:
            raise ValueError(f"Expected frequency > 0 and beat >= 0; got {self.frequency} and {self.beat}.")

    @property
    def coupling(self) -> float:
        """kappa, per squared second."""
        slow, fast = self._modes()
        return (fast**2 - slow**2) / 2

    def state(self, times: Float64[np.ndarray, "time"]) -> tuple[Angles, Angles]:
        """Angles and their rates at ``times`` seconds.

        Raises:
            ValueError: The motion is integrated, and a time is further than 1000 s from 0.
        """
        return self._closed_form(times) if self.linear else self._integrated(times)

    def energy(self, angles: Angles, rates: Angles) -> Float64[np.ndarray, "time"]:
        """Energy per mass and squared length, per squared second."""
        potential = angles**2 / 2 if self.linear else 1 - np.cos(angles)
        spring = self.coupling * (angles[:, 0] - angles[:, 1]) ** 2 / 2
        return (rates**2 / 2 + self._modes()[0] ** 2 * potential).sum(axis=1) + spring

    def _modes(self) -> tuple[float, float]:
        return 2 * math.pi * self.frequency, 2 * math.pi * (self.frequency + self.beat)

    def _closed_form(self, times: Float64[np.ndarray, "time"]) -> tuple[Angles, Angles]:
        angles, rates = np.zeros((2, len(times), 2))
        for omega, sign in zip(self._modes(), (1.0, -1.0), strict=True):
            angle = (self.angles[0] + sign * self.angles[1]) / 2
            rate = (self.rates[0] + sign * self.rates[1]) / 2
            cos, sin = np.cos(omega * times), np.sin(omega * times)
            shape = np.array((1.0, sign))
            angles += (angle * cos + rate / omega * sin)[:, None] * shape
            rates += (rate * cos - angle * omega * sin)[:, None] * shape
        return angles, rates

    def _integrated(self, times: Float64[np.ndarray, "time"]) -> tuple[Angles, Angles]:
        if np.abs(times).max() > _FURTHEST:
            raise ValueError(
                f"Pendulums without closed form are known up to {_FURTHEST} s from time 0; got {np.abs(times).max()} s."
            )
        states = np.empty((len(times), 4))
        pieces = np.floor(times / _PIECE).astype(int)
        for piece in np.unique(pieces):
            chosen = pieces == piece
            states[chosen] = _piece(self, int(piece))(times[chosen]).T
        return states[:, :2], states[:, 2:]


@dataclass(frozen=True, slots=True, eq=False)
class PendulumClip:
    """Two coupled pendulums side by side: rods that hang from fixed pivots, and bobs.

    Arguments:
        motion: How they swing.
        canvas: Side of the frames in pixels.
        seed: What the clip was drawn from.
        colour: Whether frames have three channels, the bobs red and blue and the rods grey on white; else one, white
            on black.

    Raises:
        ValueError: The canvas is below 1; or, from the methods, times are not finite and strictly increasing.
    """

    motion: CoupledPendulums
    canvas: int
    seed: int
    colour: bool = False

    def __post_init__(self) -> None:
        if self.canvas < 1:
            raise ValueError(f"A canvas has a positive whole number of pixels; got {self.canvas}.")

    @property
    def pivots(self) -> Float64[Tensor, "bob 2"]:
        """Where the rods hang, in pixels."""
        return self.canvas * torch.tensor(_PIVOTS, dtype=torch.float64)

    @property
    def length(self) -> float:
        """Pixels from a pivot to the centre of its bob."""
        return self.canvas * _LENGTH

    @property
    def radius(self) -> float:
        """Pixels of a bob's radius."""
        return self.canvas * _BOB

    def frames(self, times: Seconds) -> Float32[Tensor, "time channel canvas canvas"]:
        """Frames in [-1, 1] at ``times`` seconds."""
        return PendulumClip.draw([self], times)[0]

    def angles(self, times: Seconds) -> Float64[Tensor, "time bob"]:
        """Radians from the vertical at ``times`` seconds, positive to the right."""
        return torch.from_numpy(self.motion.state(as_times(times).numpy())[0])

    def positions(self, times: Seconds) -> Float64[Tensor, "time bob 2"]:
        """Centres of the bobs (x right, y down) in pixels at ``times`` seconds."""
        angles = self.angles(times)
        return self.pivots + self.length * torch.stack((angles.sin(), angles.cos()), dim=2)

    def velocities(self, times: Seconds) -> Float64[Tensor, "time bob 2"]:
        """Pixels per second of the bobs at ``times`` seconds."""
        angles, rates = (torch.from_numpy(part) for part in self.motion.state(as_times(times).numpy()))
        return self.length * rates[..., None] * torch.stack((angles.cos(), -angles.sin()), dim=2)

    def events(self, start: float, stop: float) -> Float64[Tensor, "event"]:
        """None: the motion is smooth."""
        return torch.empty(0, dtype=torch.float64)

    @staticmethod
    def draw(clips: "Sequence[PendulumClip]", times: Seconds) -> Float32[Tensor, "batch time channel canvas canvas"]:
        """Frames in [-1, 1] of many clips at ``times`` seconds.

        Raises:
            ValueError: There are no clips, they differ in canvas or colour, or the times are not finite and strictly
                increasing.
        """
        kinds = {(clip.canvas, clip.colour) for clip in clips}
        if len(kinds) != 1:
            raise ValueError(f"A batch needs clips of one canvas and look; got (canvas, colour) of {sorted(kinds)}.")
        first, times = clips[0], as_times(times)
        bobs = torch.stack([clip.positions(times) for clip in clips])
        shape, canvas = bobs.shape[:3], first.canvas
        ends = bobs + (first.pivots - bobs) * (first.radius / first.length)
        radii = torch.full((shape.numel(),), first.radius, dtype=torch.float64)
        discs = draw_discs(bobs.flatten(0, 2), radii, canvas=canvas).unflatten(0, shape)
        pivots = first.pivots.expand_as(ends).flatten(0, 2)
        rods = draw_rods(pivots, ends.flatten(0, 2), canvas=canvas).unflatten(0, shape).sum(dim=2).mul_(_ROD_INK)
        if first.colour:
            return colour_mix(discs, rods).mul_(2).sub_(1)
        return (discs.sum(dim=2) + rods)[:, :, None].clamp_(max=1).mul_(2).sub_(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendulumWorld:
    """Clips of coupled pendulums; amplitudes of 0.1 to 0.22 rad and phases of both modes are drawn uniformly.

    Arguments:
        canvas: Side of the frames in pixels; bobs stay a pixel inside it from 24 on.
        colour: Whether the bobs are told apart by colour.
        linear: Whether angles are taken as small.
        frequency: Least and greatest periods per second of the common mode.
        beat: Least and greatest beats per second.

    Raises:
        ValueError: A field is outside its range.
    """

    canvas: int = 32
    colour: bool = False
    linear: bool = True
    frequency: Range = (0.3, 0.6)
    beat: Range = (0.05, 0.15)

    def __post_init__(self) -> None:
        if self.canvas < 24:
            raise ValueError(f"Pendulums need a canvas of at least 24 pixels; got {self.canvas}.")
        for name, (low, high) in (("frequency", self.frequency), ("beat", self.beat)):
            if not 0 <= low <= high < math.inf or (name == "frequency" and low == 0):
                raise ValueError(f"{name} must be a range 0 <= low <= high, frequency above 0; got ({low}, {high}).")

    def clips(self, seeds: Iterable[int], split: str) -> list[PendulumClip]:
        """The clips of many seeds; each depends on this world, its own seed and the split alone.

        Raises:
            ValueError: The split is unknown, or there are no seeds.
        """
        check_split(split)
        noise = Noise.of(seeds)
        draws = noise.fold(f"{split}/pendulums").uniform("motion", 6, dtype=torch.float64).tolist()
        return [
            PendulumClip(self._motion(draw), self.canvas, seed, self.colour)
            for seed, draw in zip(noise.seeds, draws, strict=True)
        ]

    def _motion(self, draw: list[float]) -> CoupledPendulums:
        ranges = zip((self.frequency, self.beat), draw[:2], strict=True)
        frequency, beat = (low + (high - low) * share for (low, high), share in ranges)
        together, against = (_SWING[0] + (_SWING[1] - _SWING[0]) * u for u in draw[2:4])
        slow, fast = 2 * math.pi * frequency, 2 * math.pi * (frequency + beat)
        phases = [2 * math.pi * u for u in draw[4:6]]
        both = together * math.cos(phases[0]), against * math.cos(phases[1])
        rate = -together * slow * math.sin(phases[0]), -against * fast * math.sin(phases[1])
        angles, rates = ((mode[0] + mode[1], mode[0] - mode[1]) for mode in (both, rate))
        return CoupledPendulums(frequency, beat, angles, rates, self.linear)


@functools.lru_cache(maxsize=1024)
def _piece(
    motion: CoupledPendulums, piece: int
) -> Callable[[Float64[np.ndarray, "time"]], Float64[np.ndarray, "4 time"]]:
    """Angles and rates on [8 piece, 8 (piece + 1)] s, integrated away from time 0."""
    from scipy.integrate import solve_ivp

    near, far = (piece, piece + 1) if piece >= 0 else (piece + 1, piece)
    if near == 0:
        state = np.array((*motion.angles, *motion.rates))
    else:
        state = _piece(motion, piece - int(math.copysign(1, piece)))(np.array([near * _PIECE]))[:, 0]
    slow, coupling = 2 * math.pi * motion.frequency, motion.coupling

    def derivative(_: float, state: np.ndarray) -> np.ndarray:
        first, second, *rates = state.tolist()
        spring = coupling * (first - second)
        return np.array((*rates, -(slow**2) * math.sin(first) - spring, -(slow**2) * math.sin(second) + spring))

    found = solve_ivp(
        derivative,
        (near * _PIECE, far * _PIECE),
        state,
        method="DOP853",
        rtol=_TOLERANCE,
        atol=_TOLERANCE,
        dense_output=True,
    )
    assert found.success, found.message
    return found.sol
