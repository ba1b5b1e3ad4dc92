"""Footage whose repetition is known: a clock over days, the same with a date, a loop, a flight that never comes back.

Every frame carries its *content*: two frames show the same if and only if their contents are equal, by construction.
"""

__all__ = ["Footing", "clock", "flight", "loop", "mixture"]

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from flowvid.data.worlds.clips import Clip, World
from flowvid.data.worlds.digits import load_glyphs
from flowvid.data.worlds.motions import Orbit
from flowvid.video import to_bytes

_HALF_DAY = 12 * 3600.0


@dataclass(frozen=True, eq=False)
class Footing:
    """Frames with what they show.

    Arguments:
        pixels: RGB of 0..255.
        times: Seconds.
        content: Equal where frames show the same.
        period: Seconds after which everything comes back; None if nothing does.
    """

    pixels: UInt8[Tensor, "frame 3 height width"]
    times: Float64[Tensor, "frame"]
    content: Int64[np.ndarray, "frame"]
    period: float | None


def clock(*, days: int, step: float, side: int, start: float = 0.0, dated: bool = False) -> Footing:
    """An analogue clock with two hands, drawn without jagged edges, seen every ``step`` seconds.

    Arguments:
        days: How many.
        step: Seconds between frames, a part of twelve hours.
        side: Pixels.
        start: Seconds after midnight of the first frame.
        dated: Whether a window below the centre shows the day, a handwritten digit.
    """
    turn = round(_HALF_DAY / step)
    number = np.arange(2 * turn * days)
    phase = number[:turn] * step + start
    faces = _face(side) * _hand(side, 2 * math.pi * phase / _HALF_DAY, 0.5, 0.06)
    faces = faces * _hand(side, 2 * math.pi * phase / 3600, 0.82, 0.035)
    ink = faces[number % turn]
    content = number % turn
    if dated:
        # The day changes at midnight, which need not be where the footage starts.
        day = ((number * step + start) // (2 * _HALF_DAY)).astype(np.int64)
        ink = ink.copy()
        low, left = round(0.62 * side), round(0.5 * side) - 4
        ink[:, low : low + 8, left : left + 8] = 1 - _days()[day % 10]
        content = content + turn * day
    pixels = torch.from_numpy((ink * 255).round().astype(np.uint8))[:, None].expand(-1, 3, -1, -1).contiguous()
    times = torch.from_numpy(number * step)
    return Footing(pixels, times, content, None if dated else _HALF_DAY)


def loop(*, turns: int, frames: int, fps: float, seed: int, offset: float = 0.0) -> Footing:
    """A digit on a circle, one turn of ``frames`` frames shown ``turns`` times.

    Arguments:
        turns: How often.
        frames: In one turn.
        fps: Frames per second.
        seed: Draws the digit.
        offset: By how many frames everything is shown later than it would be.
    """
    glyph = load_glyphs("train")
    pick = seed % len(glyph)
    motion = Orbit((16.0, 16.0), 7.0, fps / frames, 0.3 + seed, 1)
    clip = Clip(glyph.images[pick : pick + 1], (motion,), (int(glyph.labels[pick]),), 32, 2, seed)
    number = np.arange(turns * frames)
    content = number % frames
    shown = _pixels(clip.frames((torch.arange(frames, dtype=torch.float64) + offset) / fps))
    return Footing(shown[content], torch.from_numpy(number / fps), content, frames / fps)


def flight(*, frames: int, fps: float, seed: int, offset: float = 0.0) -> Footing:
    """A digit that flies and bounces, and is nowhere twice.

    Arguments:
        frames: How many.
        fps: Frames per second.
        seed: Of the clip.
        offset: By how many frames everything is shown later than it would be.
    """
    clip = World(speed=(11.0, 15.0)).clip(seed, "train")
    times = torch.arange(frames, dtype=torch.float64) / fps
    return Footing(_pixels(clip.frames(times + offset / fps)), times, np.arange(frames), None)


def mixture(first: Footing, second: Footing) -> Footing:
    """One after the other, with the rate of the first."""
    step = float(first.times[1] - first.times[0])
    later = second.times + float(first.times[-1]) + step
    content = np.concatenate((first.content, second.content + first.content.max() + 1))
    return Footing(torch.cat((first.pixels, second.pixels)), torch.cat((first.times, later)), content, first.period)


def _pixels(frames: Tensor) -> UInt8[Tensor, "frame 3 height width"]:
    return to_bytes(frames).expand(-1, 3, -1, -1).contiguous()


def _plane(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of the pixels from the centre, in half sides."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    return np.meshgrid(axis, axis)


def _face(side: int) -> np.ndarray:
    """A white disc with a rim and twelve marks, as light in [0, 1]."""
    x, y = _plane(side)
    light = 1 - _cover(np.abs(np.hypot(x, y) - 0.95) - 0.03, side)
    for hour in range(12):
        sin, cos = math.sin(hour * math.pi / 6), math.cos(hour * math.pi / 6)
        light = light * (1 - _cover(np.hypot(x - 0.84 * sin, y + 0.84 * cos) - 0.03, side))
    return light


def _hand(side: int, angles: np.ndarray, length: float, width: float) -> np.ndarray:
    """Light left by a hand at angles from twelve o'clock, clockwise."""
    x, y = (plane[None] for plane in _plane(side))
    sin, cos = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    along, across = x * sin - y * cos, x * cos + y * sin
    return 1 - _cover(np.hypot(across, along - np.clip(along, 0, length)) - width, side)


def _cover(distance: np.ndarray, side: int) -> np.ndarray:
    """Share of a pixel covered by a shape whose edge is ``distance`` half sides away, negative inside."""
    return np.clip(0.5 - distance * side / 2, 0, 1)


def _days() -> np.ndarray:
    """One handwritten digit for each of 0..9, ink in [0, 1]."""
    glyphs = load_glyphs("train")
    return np.stack([glyphs.images[int((glyphs.labels == digit).nonzero()[0, 0])].numpy() for digit in range(10)])
