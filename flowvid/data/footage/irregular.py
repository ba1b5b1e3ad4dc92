"""Windows of irregular times: the points of a Poisson process, and Vid-ODE's choice of frames on a grid.

The gaps of a Poisson process are independent and exponential. Given how many points it has in a window, they are
independent and uniform there: then all windows of a batch hold equally many. Vid-ODE's irregular protocol is one of
what is given: ten of twenty frames at a fixed rate, both ends among them.

References:
    Poisson Processes (Kingman, 1993), Oxford University Press
    Vid-ODE: Continuous-Time Video Generation with Neural Ordinary Differential Equation (Park et al., 2021),
        https://arxiv.org/abs/2010.08188
"""

__all__ = ["Irregular", "PoissonTimes", "UniformTimes"]

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from flowvid.data.footage.windows import FixedRate, Span, Window, check_frames, check_positive, draw_start
from flowvid.noise import Noise

# Beyond the expected number of points, in standard deviations and points, that are drawn at a time.
_SPARE = (6, 8)


@dataclass(frozen=True)
class PoissonTimes:
    """The points of a Poisson process in a window; their number is random.

    Without ends a window has at least one point: the process given that.

    Arguments:
        rate: Points per second, on average.
        seconds: How long a window lasts.
        ends: Whether both ends of the window are times too, and given.

    Raises:
        ValueError: The rate or the length is not positive.
    """

    rate: float
    seconds: float
    ends: bool = False

    def __post_init__(self) -> None:
        check_positive(rate=self.rate, seconds=self.seconds)

    def needs(self, fps: float) -> float:
        """The length of a window."""
        return self.seconds

    def draw(self, span: Span, noise: Noise) -> Window | None:
        """Points of the process in a window with a uniform start; the ends are given if they are times."""
        start = draw_start(span, noise, self.seconds)
        if start is None:
            return None
        return _irregular(start, self.seconds, self._points(noise), ends=self.ends)

    def _points(self, noise: Noise) -> Float64[Tensor, "point"]:
        expected = self.rate * self.seconds
        count = math.ceil(expected + _SPARE[0] * math.sqrt(expected) + _SPARE[1])
        gaps: list[Tensor] = []
        block = 0
        while not gaps or float(torch.cat(gaps).sum()) <= self.seconds:
            uniform = noise.fold(block).uniform("gap", count, dtype=torch.float64)[0]
            if block == 0 and not self.ends:
                uniform[0] = 1 - uniform[0] * -math.expm1(-expected)
            gaps.append(-uniform.log() / self.rate)
            block += 1
        points = torch.cat(gaps).cumsum(0)
        return points[points < self.seconds]


@dataclass(frozen=True)
class UniformTimes:
    """Independent uniform times in a window, in order: a Poisson process given its number of points.

    Arguments:
        frames: How many times, the ends included.
        seconds: How long a window lasts.
        ends: Whether both ends of the window are among the times, and given.

    Raises:
        ValueError: The length is not positive, or there are too few frames.
    """

    frames: int
    seconds: float
    ends: bool = False

    def __post_init__(self) -> None:
        check_positive(seconds=self.seconds)
        check_frames(self.frames, least=2 if self.ends else 1)

    def needs(self, fps: float) -> float:
        """The length of a window."""
        return self.seconds

    def draw(self, span: Span, noise: Noise) -> Window | None:
        """Times in a window with a uniform start; the ends are given if they are times."""
        start = draw_start(span, noise, self.seconds)
        if start is None:
            return None
        uniform = noise.uniform("time", self.frames - 2 * self.ends, dtype=torch.float64)[0]
        return _irregular(start, self.seconds, uniform.sort().values * self.seconds, ends=self.ends)


@dataclass(frozen=True)
class Irregular:
    """Vid-ODE's irregular interpolation: frames at a fixed rate, both ends and a random choice between them given.

    Arguments:
        fps: Frames per second.
        given: How many are given, both ends included.
        frames: How many there are.

    Raises:
        ValueError: The rate is not positive, or it is not 2 <= given <= frames.
    """

    fps: float
    given: int = 10
    frames: int = 20

    def __post_init__(self) -> None:
        check_positive(fps=self.fps)
        if not 2 <= self.given <= self.frames:
            raise ValueError(f"Expected 2 <= given <= frames; got given={self.given}, frames={self.frames}.")

    def needs(self, fps: float) -> float:
        """Seconds from the first frame to the last."""
        return (self.frames - 1) / self.fps

    def draw(self, span: Span, noise: Noise) -> Window | None:
        """Frames from a uniform start; every choice between the ends is equally likely."""
        order = noise.uniform("given", self.frames - 2, dtype=torch.float64)[0].argsort()
        given = (0, *(1 + order[: self.given - 2]).tolist(), self.frames - 1)
        return FixedRate(self.fps, self.frames, given).draw(span, noise)


def _irregular(start: float, seconds: float, points: Float64[Tensor, "point"], *, ends: bool) -> Window:
    known = torch.zeros(len(points), dtype=torch.bool)
    if ends:
        points = torch.cat((points.new_zeros(1), points, points.new_full((1,), seconds)))
        known = torch.cat((known.new_ones(1), known, known.new_ones(1)))
    return Window(start + points, known)
