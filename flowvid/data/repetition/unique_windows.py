"""Training windows from the unique part of footage, as often as what they show occurs.

A window starts at a kept frame, drawn in proportion to how many frames that frame stands for (or uniformly), and at a
uniform moment while that frame is on the screen. It stays inside its segment: it never straddles a cut to something
that was left out. Only where a segment ends in a loop may it go on, back to the start of the last turn: that is what
the footage itself shows next. Its times then run on, and what is read is wrapped.
"""

__all__ = ["UniqueWindow", "UniqueWindows"]

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from flowvid.data.footage.windows import Span, Window, WindowLaw
from flowvid.data.repetition.find import Repetition, Segment
from flowvid.noise import Noise


class UniqueWindow(NamedTuple):
    """A window of the unique part.

    Arguments:
        file: Number of its file.
        window: Its times, increasing, and which of them are given.
        read: The seconds of the file at which its frames are; the window's own times unless a loop wraps them.
    """

    file: int
    window: Window
    read: Float64[Tensor, "time"]


class UniqueWindows:
    """Draws windows from what is kept.

    Arguments:
        repetition: What repeats in the footage.
        law: Which times make a window.
        weighted: Whether windows start at a frame in proportion to its weight; else all kept frames are equal.

    Raises:
        ValueError: No segment holds a window.
    """

    def __init__(self, repetition: Repetition, law: WindowLaw, *, weighted: bool = True) -> None:
        self._law, self._segments, self._rates = law, repetition.segments, _rates(repetition)
        firsts = np.cumsum([0, *(len(times) for times in repetition.times)])
        parts: list[tuple[np.ndarray, ...]] = []
        for number, segment in enumerate(self._segments):
            frames = slice(segment.first, segment.first + segment.frames)
            times = repetition.times[segment.file][frames].numpy()
            needed = law.needs(self._rates[segment.file])
            last = segment.stop if segment.period is not None else float(times[-1]) - needed
            last = max(last, float(times[0])) if last > times[0] - 1e-9 * max(1.0, needed) else last
            room = times <= last if math.isfinite(needed) else np.zeros(len(times), dtype=bool)
            weights = repetition.weights[firsts[segment.file] + segment.first :][: segment.frames].numpy()
            latest = np.minimum(np.append(times[1:], segment.stop), last)
            masses = weights if weighted else np.ones(len(times))
            parts.append((np.full(room.sum(), number), times[room], latest[room], masses[room]))
        self._owners, self._starts, self._latest, masses = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._reached = np.cumsum(masses)
        if not len(self._reached):
            longest = max(segment.stop - segment.start for segment in self._segments)
            raise ValueError(f"No unique segment holds a window; the longest lasts {longest:.4g} s. Ask for less.")

    def draw(self, noise: Noise) -> list[UniqueWindow]:
        """A window for each sample, which depends on nothing but its seed and the footage."""
        places = noise.uniform("unique/frame", dtype=torch.float64).numpy() * self._reached[-1]
        moments = noise.uniform("unique/moment", dtype=torch.float64).numpy()
        frames = np.minimum(np.searchsorted(self._reached, places, side="right"), len(self._reached) - 1)
        starts = self._starts[frames] + moments * (self._latest[frames] - self._starts[frames])
        return [
            self._window(self._segments[owner], start, noise[n : n + 1])
            for n, (owner, start) in enumerate(zip(self._owners[frames].tolist(), starts.tolist(), strict=True))
        ]

    def _window(self, segment: Segment, start: float, noise: Noise) -> UniqueWindow:
        fps = self._rates[segment.file]
        needed = self._law.needs(fps)
        period = segment.period
        room = segment.stop - 1 / fps - start if period is None else max(needed, period)
        drawn = self._law.draw(Span(0.0, max(room, needed), fps), noise)
        assert drawn is not None, "a span as long as the law needs holds a window"
        times = start + (drawn.times - drawn.times[0])
        read = times
        if period is not None:
            read = torch.where(times < segment.stop, times, segment.stop - period + (times - segment.stop) % period)
        return UniqueWindow(segment.file, Window(times, drawn.known), read)


def _rates(repetition: Repetition) -> list[float]:
    """Mean frames per second of each file; one for a single picture."""
    return [(len(t) - 1) / float(t[-1] - t[0]) if len(t) > 1 else 1.0 for t in repetition.times]
