"""Which frames a clip model sees at once: drawn at random in training, planned in time order in sampling.

Training draws, for every sample by itself, a set of frames and which of them are known. A set is one of

    run       frames at a stride, so that short windows of long clips are seen at every frame rate;
    subset    any increasing frames;
    far end   neighbouring frames and one later frame, any distance off;

and holds all places of the window half of the time, else any smaller number. Known are none, the first, the first two,
both ends, a prefix, key frames anywhere, or the first two and the last, with equal probability. A model of starts alone
sees whole windows of neighbouring frames, of which none, the first or the first two are known.

Sampling visits the points in time order, a window at a time. A window holds the states just before its first unknown
point (two, or more where places are free), the points that follow within the trained span, and, if it lies within that
span, the next known state, so that what is sampled heads for it. So any number of frames is sampled in constant memory.
Where a point is more than half the trained span away from the nearest one before it, and from the next known one,
points in between lead to it.
"""

__all__ = ["ClipWindow", "draw_frames", "draw_known", "draw_start", "plan_windows"]

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from flowvid.models.frames import not_known
from flowvid.noise import Noise
from flowvid.video import Trajectory

_CLOSE = 1e-6
_CONTEXT = 2


@dataclass(frozen=True)
class ClipWindow:
    """Moments that are sampled together.

    Arguments:
        times: Seconds, increasing.
        given: Which of their states are known or sampled before.
    """

    times: tuple[float, ...]
    given: tuple[bool, ...]


def plan_windows(wanted: Sequence[float], known: Trajectory | None, *, frames: int, span: float) -> list[ClipWindow]:
    """Windows in time order that together sample all wanted times that are not known.

    Arguments:
        wanted: Increasing seconds.
        known: The known states.
        frames: Most points of a window, at least 4.
        span: Most seconds of a window.
    """
    unknown = list(wanted) if known is None else not_known(wanted, known)
    given = set() if known is None else set(known.times.tolist())
    points = _bridged(sorted({*unknown, *given}), given, reach=span / 2)
    held = [point in given for point in points]
    windows: list[ClipWindow] = []
    for first in range(len(points)):
        if held[first]:
            continue
        inside = _inside(points, held, first, frames=frames, span=span)
        windows.append(ClipWindow(tuple(points[n] for n in inside), tuple(held[n] for n in inside)))
        for number in inside:
            held[number] = True
    return windows


def _inside(points: Sequence[float], held: Sequence[bool], first: int, *, frames: int, span: float) -> list[int]:
    """Numbers of the points of the window whose first unknown point is given."""
    begin = max(0, min(first - _CONTEXT, len(points) - frames))
    while points[first] - points[begin] > span / 2 + _CLOSE:
        begin += 1
    limit = points[begin] + span + _CLOSE
    inside = [number for number in range(begin, min(begin + frames, len(points))) if points[number] <= limit]
    ahead = next((number for number in range(inside[-1] + 1, len(points)) if held[number]), None)
    if not held[inside[-1]] and ahead is not None and points[ahead] <= limit:
        inside = [*inside[: frames - 1], ahead]
    return inside


def _bridged(points: list[float], given: set[float], *, reach: float) -> list[float]:
    """The points, with others between where one that is unknown has nothing near."""
    found: list[float] = []
    known = [*sorted(given), math.inf]
    for point in points:
        ahead = known[bisect_left(known, point)]
        gap = point - found[-1] if found else 0.0
        if point not in given and gap > reach + _CLOSE and ahead - point > reach:
            pieces = math.ceil(gap / reach - _CLOSE)
            start = found[-1]
            found += [start + gap * piece / pieces for piece in range(1, pieces)]
        found.append(point)
    return found


def draw_frames(
    noise: Noise, total: int, places: int, device: torch.device
) -> tuple[Int64[Tensor, "batch place"], Bool[Tensor, "batch place"]]:
    """Frame numbers of each sample's set, increasing where they exist, and which places of the window exist.

    Arguments:
        noise: One seed per sample.
        total: Frames of a clip.
        places: Places of the window, at most ``total``.
        device: Where to draw.
    """
    place = torch.arange(places, device=device)
    full = noise.uniform("full", device=device) < 0.5
    count = torch.where(full, places, noise.integers("count", 1, places + 1, device=device))[:, None]
    exists = place < count
    strides = (total - 1) // max(places - 1, 1)
    stride = noise.integers("stride", 1, max(strides, 1) + 1, device=device)[:, None]
    kind = noise.integers("kind", 0, 3, device=device)[:, None]
    stride = torch.where(kind == 2, 1, stride)
    draw = noise.uniform("start", 2, device=device)
    start = (draw[:, :1] * (total - (count - 1) * stride)).long()
    run = start + place * stride
    room = total - 1 - (start + count - 1)
    far = start + count - 1 + (draw[:, 1:] * (room + 1)).long()
    ended = torch.where((kind == 2) & (place == count - 1), far, run)
    rank = noise.uniform("subset", total, device=device).argsort(1).argsort(1)
    chosen = torch.where(rank < count, torch.arange(total, device=device), total).sort(1).values[:, :places]
    return torch.where(kind == 1, chosen, ended).clamp(max=total - 1), exists


def draw_known(noise: Noise, exists: Bool[Tensor, "batch place"]) -> Bool[Tensor, "batch place"]:
    """Which frames are known, never all that exist.

    Arguments:
        noise: One seed per sample.
        exists: Which places exist, the first ones of each sample.
    """
    device, places = exists.device, exists.shape[1]
    place, count = torch.arange(places, device=device), exists.sum(1, keepdim=True)
    first, last = place == 0, place == count - 1
    share = noise.uniform("share", device=device)[:, None]
    ways = (
        torch.zeros_like(exists),
        first.expand_as(exists),
        (place < 2).expand_as(exists),
        first | last,
        place < share * count,
        noise.uniform("keys", places, device=device) < share / 2,
        (place < 2) | last,
    )
    way = noise.integers("way", 0, len(ways), device=device)
    known = torch.stack(ways)[way, torch.arange(len(exists), device=device)] & exists
    spared = place == (noise.uniform("spared", device=device)[:, None] * count).long()
    return known & ~(spared & (known == exists).all(1, keepdim=True))


def draw_start(
    noise: Noise, total: int, places: int, device: torch.device
) -> tuple[Int64[Tensor, "batch place"], Bool[Tensor, "batch place"], Bool[Tensor, "batch place"]]:
    """Numbers of neighbouring frames that fill the window, that they all exist, and which are known at the start.

    Arguments:
        noise: One seed per sample.
        total: Frames of a clip.
        places: Places of the window, from 3 to ``total``.
        device: Where to draw.
    """
    place = torch.arange(places, device=device)
    first = noise.integers("start", 0, total - places + 1, device=device)[:, None]
    known = place < noise.integers("way", 0, 3, device=device)[:, None]
    return first + place, torch.ones_like(known), known
