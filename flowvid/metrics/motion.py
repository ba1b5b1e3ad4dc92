"""How well things move: where the ink is, how evenly it goes, how smooth the frames follow each other.

Position is the centroid of the ink above a small threshold, so that faint background noise does not pull it to the
middle of the frame. Thin strokes lose a little to the threshold: on true frames the centroid was measured to lie 0.08
pixels from the closed form on average and 0.3 at most, and that floor is reported with the results.

Evenness is measured twice: against the true motion, and against the clip's own mean speed, which needs no truth. The
latter is what users of frame interpolation call bounciness: with speeds s_n over steps h_n, that is

    (sum_n h_n s_n)^2 / (sum_n h_n  sum_n h_n s_n^2)  =  1 / (1 + variance(s) / mean(s)^2),

by Cauchy-Schwarz at most 1, and 1 exactly at constant speed.
"""

__all__ = ["centroid", "position_error", "second_difference_ratio", "speed_unevenness", "speed_uniformity"]

import torch
from jaxtyping import Float64
from torch import Tensor

from flowvid.video import Video

_INK = 0.1


def centroid(video: Video) -> Float64[Tensor, "batch time 2"]:
    """Centroid (x right, y down) of the ink in pixels; the middle of the frame where there is no ink.

    Ink is the pixel in [0, 1] less a threshold of 0.1, summed over channels.
    """
    ink = ((video.frames.double() + 1) / 2 - _INK).clamp(min=0).sum(dim=2)
    height, width = ink.shape[-2:]
    total = ink.sum(dim=(2, 3))
    x = (ink.sum(dim=2) * (torch.arange(width, device=ink.device) + 0.5)).sum(dim=2)
    y = (ink.sum(dim=3) * (torch.arange(height, device=ink.device) + 0.5)).sum(dim=2)
    middle = torch.tensor([width / 2, height / 2], dtype=torch.float64, device=ink.device)
    found = torch.stack((x, y), dim=2) / total.clamp(min=1e-12)[..., None]
    return torch.where(total[..., None] > 1e-6, found, middle)


def position_error(video: Video, positions: Float64[Tensor, "batch time 2"]) -> Float64[Tensor, "batch time"]:
    """Distance in pixels from the centroid of each frame to the true position."""
    return (centroid(video).cpu() - positions.cpu()).norm(dim=2)


def second_difference_ratio(video: Video, truth: Video) -> float:
    """Energy of second differences of evenly spaced frames relative to the truth; 1 is as smooth as the truth.

    Raises:
        ValueError: There are fewer than three frames.
    """
    if video.frames.shape[1] < 3:
        raise ValueError(f"Second differences need at least three frames; got {video.frames.shape[1]}.")
    energies = [clip.frames.double().diff(n=2, dim=1).square().mean() for clip in (video, truth)]
    return float(energies[0] / energies[1].clamp(min=1e-12))


def speed_unevenness(video: Video, positions: Float64[Tensor, "batch time 2"]) -> float:
    """Root mean square error of the frame-to-frame displacement, relative to its true root mean square; 0 is even.

    Motion that stutters, holds still or jumps has a large value even if it stays near the truth ("bounciness").

    Raises:
        ValueError: There are fewer than two frames, or nothing moves in truth.
    """
    if video.frames.shape[1] < 2:
        raise ValueError(f"Speed needs at least two frames; got {video.frames.shape[1]}.")
    true = positions.cpu().diff(dim=1)
    error = centroid(video).cpu().diff(dim=1) - true
    size = true.square().sum(dim=2).mean().sqrt()
    if not size > 0:
        raise ValueError("Speed unevenness is relative to the true speed, which is zero in these clips.")
    return float(error.square().sum(dim=2).mean().sqrt() / size)


def speed_uniformity(video: Video) -> Float64[Tensor, "batch"]:
    """Squared mean speed of the centroid over its mean squared speed; 1 at constant speed, at any times of the frames.

    A clip that stands still for a share q of the time and moves evenly else has 1 - q; one that never moves has 0.

    Raises:
        ValueError: There are fewer than three frames, so that there is only one speed.
    """
    if video.frames.shape[1] < 3:
        raise ValueError(f"Uniformity of speed needs at least three frames; got {video.frames.shape[1]}.")
    lengths, steps = centroid(video).cpu().diff(dim=1).norm(dim=2), video.times.diff()
    energy = (lengths.square() / steps).sum(dim=1) * steps.sum()
    return torch.where(energy > 1e-12, lengths.sum(dim=1).square() / energy.clamp(min=1e-12), 0.0)
