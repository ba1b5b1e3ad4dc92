"""Windows of evenly spaced frames at any of several rates, how much moves in them, and single images beside them.

Frame rates are learned from high to low: the longest stride between the frames of a training window grows with the
progress of the training, from neighbouring frames, between which little changes, to the longest stride.

References:
    Make-A-Video: Text-to-Video Generation without Text-Video Data (Singer et al., 2022), https://arxiv.org/abs/2209.14792
"""

__all__ = ["Told", "draw_places", "even_grid", "motion_strength", "told_rates"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from flowvid.noise import Noise
from flowvid.video import Times

_CLOSE = 1e-6
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Told:
    """What the decoder is told beside noisy frames and their level.

    Arguments:
        times: Seconds of the frames.
        exists: Which frames are of a clip; the others are single images.
        known: Which frames are known.
        rates: Frames per second and motion, each with a flag that says whether it is told.
        context: Words and embeddings of each frame; None: the model reads neither.
        said: Which of those tokens exist.
    """

    times: Float[Tensor, "batch time"]
    exists: Bool[Tensor, "batch time"]
    known: Bool[Tensor, "batch time"]
    rates: Float[Tensor, "batch 4"]
    context: Float[Tensor, "batch time token feature"] | None = None
    said: Bool[Tensor, "batch time token"] | None = None


def draw_places(
    noise: Noise, total: int, places: int, *, strides: int, progress: float, device: torch.device
) -> tuple[Int64[Tensor, "batch place"], Bool[Tensor, "batch place"]]:
    """Frame numbers of each sample's window, and which of its places are frames of a clip.

    Half of the time all places are; else the first n are, n from 2 on, and the others are single images from anywhere.

    Arguments:
        noise: One seed per sample.
        total: Frames of the clips that windows are cut from.
        places: Places of a window, at most ``total``; of a single place no clip is made.
        strides: Longest stride.
        progress: From 0, where only stride 1 is drawn, to 1, where all are.
        device: Where to draw.

    Raises:
        ValueError: The progress is not within [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"The progress of a training goes from 0 to 1; got {progress}.")
    images = noise.integers("image", 0, total, places, device=device)
    if places < 2:
        return images, torch.zeros_like(images, dtype=torch.bool)
    fewer = noise.integers("count", 2, places + 1, device=device)
    count = torch.where(noise.uniform("full", device=device) < 0.5, places, fewer)
    longest = ((total - 1) // (count - 1)).clamp(max=1 + round(progress * (strides - 1)))
    stride = 1 + (noise.uniform("stride", device=device, dtype=torch.float64) * longest).long()
    room = total - (count - 1) * stride
    start = (noise.uniform("start", device=device, dtype=torch.float64) * room).long()
    place = torch.arange(places, device=device)
    exists = place < count[:, None]
    return torch.where(exists, start[:, None] + place * stride[:, None], images), exists


def even_grid(points: Sequence[float], *, most: int, frame: float, strides: int) -> Times:
    """The even grid that all points lie on, of their shortest distance; points on it stay what they are.

    Arguments:
        points: Increasing seconds.
        most: Most points of the grid.
        frame: Seconds of the shortest distance that a model was trained at.
        strides: The longest one in frames.

    Raises:
        ValueError: The points are not evenly spaced, or the grid has too many points or a distance out of range.
    """
    if len(points) == 1:
        return torch.tensor(points, dtype=torch.float64)
    given = torch.tensor(points, dtype=torch.float64)
    step = given.diff().min().item()
    numbers = ((given - given[0]) / step).round().long()
    count = int(numbers[-1]) + 1
    step = (given[-1] - given[0]).item() / (count - 1)
    grid = given[0] + step * torch.arange(count, dtype=torch.float64)
    if bool(((grid[numbers] - given).abs() > _CLOSE).any()):
        raise ValueError(
            f"This model answers evenly spaced times, with known ones on the same grid; got {list(points)}."
        )
    if count > most:
        raise ValueError(
            f"This model has windows of at most {most} frames; from {points[0]} s to {points[-1]} s in steps of "
            f"{step:g} s there are {count}. Ask for fewer, or extend a video window by window."
        )
    if not frame - _CLOSE <= step <= strides * frame + _CLOSE:
        raise ValueError(
            f"This model was trained at {1 / (strides * frame):g} to {1 / frame:g} frames per second; got "
            f"{1 / step:g} ({step:g} s between frames)."
        )
    grid[numbers] = given
    return grid


def motion_strength(
    states: Float[Tensor, "batch time channel height width"],
    times: Float[Tensor, "batch time"],
    exists: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch"]:
    """Logarithm of the root mean square of differences of neighbouring states per second.

    Arguments:
        states: The states.
        times: Seconds, increasing where frames exist.
        exists: Which frames count, the first ones of each sample; at least two of each.
    """
    pairs = exists[:, 1:] & exists[:, :-1]
    rates = states.diff(dim=1) / torch.where(pairs, times.diff(dim=1), 1.0).to(states)[:, :, None, None, None]
    squares = torch.where(pairs, rates.square().mean(dim=(2, 3, 4)), 0.0).sum(dim=1)
    return (squares / pairs.sum(dim=1).clamp(min=1)).clamp(min=_LEAST).log() / 2


def told_rates(
    rows: int, like: Tensor, *, step: float | Tensor | None = None, motion: float | Tensor | None = None
) -> Float[Tensor, "batch 4"]:
    """Half the logarithm of the frames per second, and motion, each with a flag that says whether it is told.

    Arguments:
        rows: Samples.
        like: Gives type and device.
        step: Seconds between frames, of all or of each sample; None: not told.
        motion: How much moves; None: not told.
    """
    rates = like.new_zeros(rows, 4)
    if step is not None:
        rates[:, 0] = -(step.log() if isinstance(step, Tensor) else math.log(step)) / 2
        rates[:, 1] = 1.0
    if motion is not None:
        rates[:, 2], rates[:, 3] = motion, 1.0
    return rates
