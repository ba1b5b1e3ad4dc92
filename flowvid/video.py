"""What moves: frames or latent states, and the real times they belong to.

Times are seconds, float64, on the host, in order; nothing assumes that they are evenly spaced. Footage runs forward,
so its times increase; a solved trajectory may run backward, and then its times decrease. A `Condition` says what is
known before sampling. Prediction, interpolation and extension differ only there.
"""

__all__ = [
    "Condition",
    "Said",
    "Text",
    "Trajectory",
    "Video",
    "as_text",
    "as_times",
    "from_bytes",
    "luminance",
    "time_grid",
    "to_bytes",
]

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

Times = Float64[Tensor, "time"]


def as_times(times: Tensor | Sequence[float], *, backward: bool = False) -> Times:
    """Checked times: float64, on the host, finite, strictly increasing.

    Arguments:
        times: Seconds.
        backward: Whether strictly decreasing times are good too.

    Raises:
        ValueError: ``times`` is empty, not one-dimensional, not finite, or out of order.
    """
    given = times.detach().cpu().numpy() if isinstance(times, Tensor) else times
    seconds = np.array(given, dtype=np.float64)
    if seconds.ndim != 1 or seconds.size == 0:
        raise ValueError(f"Times must be a non-empty list of seconds; got shape {seconds.shape}.")
    if not np.isfinite(seconds).all():
        raise ValueError(f"Times must be finite seconds; got {seconds.tolist()}.")
    steps = np.diff(seconds)
    if (steps > 0).all() or (backward and (steps < 0).all()):
        return torch.from_numpy(seconds)
    first = int((steps <= 0).argmax())
    order = "strictly increase or strictly decrease" if backward else "increase strictly"
    raise ValueError(
        f"Times must {order}; got {seconds[first]} followed by {seconds[first + 1]}. Sort them and drop duplicates."
    )


def time_grid(start: float, stop: float, step: float) -> Times:
    """The points start, start + step, ..., up to and including ``stop`` where it falls on the grid.

    Points are computed as ``start + n * step`` rather than by accumulation, and an end on the grid is met exactly.

    Raises:
        ValueError: The step is not positive, the interval is reversed, or an argument is not finite.
    """
    if not (math.isfinite(start) and math.isfinite(stop) and math.isfinite(step) and step > 0 and stop >= start):
        raise ValueError(f"Expected finite start <= stop and step > 0; got start={start}, stop={stop}, step={step}.")
    count = math.floor((stop - start) / step + 1e-9)
    grid = start + step * torch.arange(count + 1, dtype=torch.float64)
    if abs(grid[-1].item() - stop) <= 1e-9 * step:
        grid[-1] = stop
    return grid


def _check_layout(name: str, values: Tensor, times: Tensor, *, fits: bool, layout: str) -> None:
    if not fits or not values.is_floating_point():
        raise ValueError(
            f"{name} must be floating point with shape {layout}; got {values.dtype} with shape {tuple(values.shape)}."
        )
    if values.shape[1] != len(times):
        raise ValueError(f"{name} hold {values.shape[1]} moments but {len(times)} times were given; one time for each.")


def from_bytes(pixels: UInt8[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Pixels of 0..255 as frames in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def to_bytes(frames: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Frames in [-1, 1] as pixels of 0..255, rounded to the nearest; what lies outside is clipped."""
    return frames.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def luminance(pixels: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 1 height width"]:
    """How bright pixels of red, green and blue are, in the same unit (ITU-R BT.601)."""
    weights = pixels.new_tensor((0.299, 0.587, 0.114))[:, None, None]
    return (pixels * weights).sum(dim=-3, keepdim=True)


@dataclass(frozen=True, eq=False)
class Video:
    """Frames in [-1, 1] and their times.

    Arguments:
        frames: Pixels in [-1, 1], shape (batch, time, channel, height, width).
        times: Seconds, strictly increasing, shape (time,).

    Raises:
        ValueError: A shape, a type, or an order is wrong, or a pixel is not finite or leaves [-1, 1].
    """

    frames: Float[Tensor, "batch time channel height width"]
    times: Times

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", as_times(self.times))
        layout = "[batch, time, channel, height, width]"
        _check_layout("Frames", self.frames, self.times, fits=self.frames.ndim == 5, layout=layout)
        if self.frames.numel() == 0:
            raise ValueError(f"A video needs at least one pixel; got frames of shape {tuple(self.frames.shape)}.")
        low, high = (value.item() for value in self.frames.detach().aminmax())
        if not (low >= -1 - 1e-4 and high <= 1 + 1e-4):
            raise ValueError(
                f"Frames must be finite and lie in [-1, 1]; these range from {low:.4g} to {high:.4g}. "
                "For pixels of 0..255 use x / 127.5 - 1."
            )

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States and their times.

    Arguments:
        states: Shape (batch, time, *state); the latents of a video are (batch, time, channel, height, width).
        times: Seconds, shape (time,), strictly increasing; or strictly decreasing, as of a solve backward in time.

    Raises:
        ValueError: A shape, a type, or an order is wrong.
    """

    states: Float[Tensor, "batch time *state"]
    times: Times

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", as_times(self.times, backward=True))
        _check_layout("States", self.states, self.times, fits=self.states.ndim >= 2, layout="[batch, time, *state]")

    def __len__(self) -> int:
        return len(self.states)

    def at(self, *times: float) -> "Trajectory":
        """The states at some of the times.

        Raises:
            ValueError: A time is not among those of this trajectory.
        """
        index = [self._index(time) for time in times]
        return Trajectory(self.states[:, index], self.times[index])

    def between(self, start: float, stop: float) -> "Trajectory":
        """The states with start <= time <= stop.

        Raises:
            ValueError: No state lies there.
        """
        inside = (self.times >= start - 1e-9) & (self.times <= stop + 1e-9)
        if not bool(inside.any()):
            span = f"[{self.times[0].item()}, {self.times[-1].item()}]"
            raise ValueError(f"No state lies between {start} s and {stop} s; the trajectory covers {span} s.")
        return Trajectory(self.states[:, inside], self.times[inside])

    def _index(self, time: float) -> int:
        nearest = int((self.times - time).abs().argmin())
        if abs(self.times[nearest].item() - time) > 1e-9:
            raise ValueError(f"No state is known at {time} s; known times are {self.times.tolist()} s.")
        return nearest


@dataclass(frozen=True, slots=True)
class Said:
    """Words about a video.

    Arguments:
        words: A caption.
        time: The moment it describes, in seconds; None: the video as a whole.

    Raises:
        ValueError: The words are no string, or the time is not finite.
    """

    words: str
    time: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.words, str):
            raise ValueError(f"A caption is a string; got {self.words!r}.")
        if self.time is not None and not math.isfinite(self.time):
            raise ValueError(f"A caption belongs to a finite time in seconds or to none; got {self.time} s.")


Text = tuple[tuple[Said, ...], ...]
"""What is said of every sample: one caption, several with times, or none."""


def as_text(texts: Sequence[Any]) -> Text:
    """What is said of every sample, from one entry for each.

    An entry is a string; a (seconds, string) pair as `timed_captions` gives them; a `Said`; a sequence of such; or
    None, where nothing is said.

    Raises:
        ValueError: An entry is none of these, or all is one string.
    """
    if isinstance(texts, str):
        raise ValueError(f"Text needs one entry for each sample; got the string {texts!r}. Write [{texts!r}].")
    return tuple(_said(entry) for entry in texts)


def _said(entry: Any) -> tuple[Said, ...]:
    if entry is None:
        return ()
    if isinstance(entry, Said):
        return (entry,)
    if isinstance(entry, str):
        return (Said(entry),)
    if isinstance(entry, Sequence):
        if len(entry) == 2 and isinstance(entry[0], float | int) and isinstance(entry[1], str):
            return (Said(entry[1], float(entry[0])),)
        return tuple(said for part in entry for said in _said(part))
    raise ValueError(f"A sample's text is a string, (seconds, string) pairs, or None; got {entry!r}.")


@dataclass(frozen=True, eq=False)
class Condition:
    """What is known of a video before it is sampled: states at given times, and words.

    Two context frames make a prediction task, a first and a last frame an interpolation task, a prefix an
    extension task, words alone text-to-video. Models say which conditions they can answer.

    Arguments:
        known: The known states; None when no state is known.
        text: What is said of every sample, in any form that `as_text` takes; None when nothing is said.

    Raises:
        ValueError: The text has no such form, or not one entry for each sample of the known states.
    """

    known: Trajectory | None = field(default=None)
    text: Any = field(default=None)

    def __post_init__(self) -> None:
        if self.text is None:
            return
        text = as_text(self.text)
        if self.known is not None and len(text) != len(self.known):
            raise ValueError(f"Text needs one entry for each of the {len(self.known)} samples; got {len(text)}.")
        object.__setattr__(self, "text", text)

    def require(self) -> Trajectory:
        """The known states, or a clear refusal.

        Raises:
            ValueError: Nothing is known.
        """
        if self.known is None:
            raise ValueError("This model starts from known frames, but the condition holds none; give at least one.")
        return self.known

    def states_only(self) -> Trajectory:
        """The known states of a condition for a model that does not read.

        Raises:
            ValueError: No state is known, or something is said.
        """
        if self.text is not None:
            raise ValueError("This model does not read text; leave it out, or use a model with a text encoder.")
        return self.require()
