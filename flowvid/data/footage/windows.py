"""Which times of footage to read: laws of windows, each a pure function of a span of footage and of noise.

A window is some increasing times and which of them are given to a model. Regular ones are start + n / fps. Make-A-Video
draws the rate, 1 to 30 frames per second, so that one model learns several; it never exceeds the source's own mean
rate, beyond which frames would only repeat. Of Vid-ODE's regular protocols one gives every second of ten frames
(interpolation), one the first five of ten (extrapolation). Irregular windows are in `flowvid.data.footage.irregular`.

A law is asked for one sample at a time: pieces differ in length, and so no window can depend on its batch. Starts are
uniform over the places where the window fits. A frame is on the screen until the next; `Window.on` moves times to the
moments at which the frames shown were presented.

References:
    Make-A-Video: Text-to-Video Generation without Text-Video Data (Singer et al., 2022),
        https://arxiv.org/abs/2209.14792
    Vid-ODE: Continuous-Time Video Generation with Neural Ordinary Differential Equation (Park et al., 2021),
        https://arxiv.org/abs/2010.08188
"""

__all__ = [
    "FixedRate",
    "RandomRate",
    "Span",
    "Window",
    "WindowLaw",
    "check_frames",
    "check_positive",
    "draw_start",
    "extrapolation",
    "frames_shown",
    "interpolation",
]

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from flowvid.noise import Noise
from flowvid.video import as_times

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Span:
    """A piece of footage: seconds from ``start`` to ``stop``, and its mean rate.

    Arguments:
        start: Seconds.
        stop: Seconds.
        fps: Frames per second of the source, on average.

    Raises:
        ValueError: The span is empty or not finite, or the rate is not positive.
    """

    start: float
    stop: float
    fps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.stop) and self.start <= self.stop):
            raise ValueError(f"A span needs finite start <= stop in seconds; got {self.start} to {self.stop}.")
        check_positive(fps=self.fps)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Window:
    """Times to read, and which of them a model is given.

    Arguments:
        times: Seconds, strictly increasing.
        known: Which of them are given; none where the law leaves that to the task.

    Raises:
        ValueError: Times are out of order, or there is not one mark for each.
    """

    times: Float64[Tensor, "time"]
    known: Bool[Tensor, "mark"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", as_times(self.times))
        if len(self.known) != len(self.times):
            raise ValueError(f"A window needs one mark for each of {len(self.times)} times; got {len(self.known)}.")

    def __len__(self) -> int:
        return len(self.times)

    def on(self, presented: Float64[Tensor, "frame"], *, slack: float = 0.0) -> "Window":
        """The window at the moments at which the frames that it shows were presented.

        Arguments:
            presented: Presentation times of all frames of the footage, increasing.
            slack: How many seconds before its time a frame counts as shown.

        Raises:
            ValueError: Two of its times show the same frame.
        """
        shown = frames_shown(presented, self.times, slack=slack)
        if bool((shown.diff() == 0).any()):
            raise ValueError(f"two of {len(self)} times show one frame: the window is faster than its source")
        return Window(presented[shown], self.known)


@runtime_checkable
class WindowLaw(Protocol):
    """Draws windows from pieces of footage."""

    def needs(self, fps: float) -> float:
        """The shortest piece, in seconds, that holds a window, of footage of a mean rate."""
        ...

    def draw(self, span: Span, noise: Noise) -> Window | None:
        """A window inside ``span``, by the noise of one sample; None where the span is shorter than `needs`."""
        ...


@dataclass(frozen=True)
class FixedRate:
    """Frames at a fixed rate.

    Arguments:
        fps: Frames per second.
        frames: How many.
        given: Which of them are given, counted from 0.

    Raises:
        ValueError: The rate is not positive, there is no frame, or one that is given does not exist.
    """

    fps: float
    frames: int
    given: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_positive(fps=self.fps)
        check_frames(self.frames)
        if not all(0 <= frame < self.frames for frame in self.given):
            raise ValueError(f"Frames that are given must be 0 to {self.frames - 1}; got {self.given}.")

    def needs(self, fps: float) -> float:
        """Seconds from the first frame to the last."""
        return (self.frames - 1) / self.fps

    def draw(self, span: Span, noise: Noise) -> Window | None:
        """Frames from a uniform start."""
        known = torch.zeros(self.frames, dtype=torch.bool)
        known[list(self.given)] = True
        return _regular(span, noise, self.fps, known)


@dataclass(frozen=True)
class RandomRate:
    """Frames at a random rate, the same within a window.

    The rate follows its law on those rates between ``slowest`` and ``fastest`` at which the window fits and which do
    not exceed the source's own.

    Arguments:
        frames: How many, at least 2.
        slowest: Least frames per second.
        fastest: Most frames per second.
        law: ``log``: its logarithm is uniform; ``uniform``: it is.
        beyond_source: Whether the rate may exceed that of the source.

    Raises:
        ValueError: The rates are not a range, the law is unknown, or a window would have no rate.
    """

    frames: int
    slowest: float = 1.0
    fastest: float = 30.0
    law: str = "log"
    beyond_source: bool = False

    def __post_init__(self) -> None:
        check_positive(slowest=self.slowest, fastest=self.fastest)
        check_frames(self.frames, least=2)
        if self.slowest > self.fastest:
            raise ValueError(f"Rates need slowest <= fastest; got {self.slowest} and {self.fastest} per second.")
        if self.law not in ("log", "uniform"):
            raise ValueError(f"The laws of a random rate are log and uniform; got {self.law!r}.")

    def needs(self, fps: float) -> float:
        """Seconds at the fastest rate that is allowed; infinite where the source is slower than ``slowest``."""
        fastest = self._fastest(fps)
        return (self.frames - 1) / fastest if fastest >= self.slowest else math.inf

    def draw(self, span: Span, noise: Noise) -> Window | None:
        """Frames at a rate of the law from a uniform start; none is given."""
        if span.seconds < self.needs(span.fps) * (1 - _ROUNDING):
            return None
        fastest = self._fastest(span.fps)
        slowest = min(max(self.slowest, (self.frames - 1) / span.seconds), fastest)
        part = _uniform(noise, "rate")
        uniform = slowest + (fastest - slowest) * part
        rate = slowest * (fastest / slowest) ** part if self.law == "log" else uniform
        return _regular(span, noise, min(max(rate, slowest), fastest), torch.zeros(self.frames, dtype=torch.bool))

    def _fastest(self, fps: float) -> float:
        return self.fastest if self.beyond_source else min(self.fastest, fps)


def interpolation(fps: float, frames: int = 10) -> FixedRate:
    """Vid-ODE's regular interpolation: every second frame is given, the first included."""
    return FixedRate(fps, frames, tuple(range(0, frames, 2)))


def extrapolation(fps: float, given: int = 5, asked: int = 5) -> FixedRate:
    """Vid-ODE's regular extrapolation: the first frames are given."""
    return FixedRate(fps, given + asked, tuple(range(given)))


def frames_shown(
    presented: Float64[Tensor, "frame"], times: Float64[Tensor, "time"], *, slack: float = 0.0
) -> Int64[Tensor, "time"]:
    """The numbers of the frames on screen: the last presented at or before each time, or the first.

    Arguments:
        presented: Presentation times of all frames, increasing.
        times: Seconds.
        slack: How many seconds before its time a frame counts as shown.
    """
    return (torch.searchsorted(presented, times + slack, right=True) - 1).clamp_(min=0)


def check_positive(**values: float) -> None:
    """Refuse values that are not finite and above zero, by name.

    Raises:
        ValueError: One is not.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above zero; got {value}.")


def check_frames(frames: int, *, least: int = 1) -> None:
    """Refuse windows of too few frames.

    Raises:
        ValueError: There are fewer than ``least``.
    """
    if frames < least:
        raise ValueError(f"A window needs at least {least} frames; got {frames}.")


def _uniform(noise: Noise, stream: str) -> float:
    if len(noise) != 1:
        raise ValueError(f"A window is drawn for one sample; got noise of {len(noise)}. Take noise[n : n + 1].")
    return noise.uniform(stream, dtype=torch.float64).item()


def draw_start(span: Span, noise: Noise, seconds: float) -> float | None:
    """A uniform start of a window of a length inside a span; None where it does not fit.

    Raises:
        ValueError: The noise is not that of one sample.
    """
    part = _uniform(noise, "start")
    room = span.seconds - seconds
    return span.start + part * max(room, 0.0) if room >= -_ROUNDING * seconds else None


def _regular(span: Span, noise: Noise, fps: float, known: Bool[Tensor, "time"]) -> Window | None:
    start = draw_start(span, noise, (len(known) - 1) / fps)
    if start is None:
        return None
    times = start + torch.arange(len(known), dtype=torch.float64) / fps
    return Window(times.clamp(max=span.stop), known)
