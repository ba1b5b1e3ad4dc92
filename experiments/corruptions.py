"""Known damage to videos, each named for what it breaks, for telling which metric sees it.

Content is damaged by `noise`, `blur` and `between` (blur of every frame but each eighth, as interpolators do); order
alone by `shuffled` and `reversed`, which keep every frame; timing by `frozen` (every other frame shown twice),
`dropped` (a stretch left out and the rest moved up) and `late` (everything one frame later: no damage, the yardstick);
place by `jitter` (each frame shifted by up to two pixels); brightness by `seam` (each eighth frame a little brighter).

Everything random comes from `Noise`, so a clip is damaged alike whatever batch it is in.
"""

__all__ = ["CORRUPTIONS", "PERIOD", "Corruption", "undamaged"]

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from flowvid.noise import Noise
from flowvid.video import Video

PERIOD = 8
"""Frames from one seam, or one frame left sharp, to the next."""

Corruption = Callable[[Video, Noise], Video]
"""A video of N + 1 frames to a damaged one of its first N, at their times; noise has one seed for each clip."""

_NOISE = 0.1
_BLUR = 1.0
_SHIFT = 2
_SEAM = 0.06


def undamaged(video: Video, _: Noise) -> Video:
    """The first N frames as they are."""
    return _first(video, video.frames[:, :-1])


def _late(video: Video, _: Noise) -> Video:
    return _first(video, video.frames[:, 1:])


def _noise(video: Video, noise: Noise) -> Video:
    frames = video.frames[:, :-1]
    return _first(video, frames + _NOISE * noise.normal("noise", *frames.shape[1:], dtype=frames.dtype))


def _blur(video: Video, _: Noise) -> Video:
    return _first(video, _blurred(video.frames[:, :-1]))


def _between(video: Video, _: Noise) -> Video:
    frames = video.frames[:, :-1]
    kept = torch.arange(frames.shape[1]) % PERIOD == 0
    return _first(video, torch.where(kept[:, None, None, None], frames, _blurred(frames)))


def _frozen(video: Video, _: Noise) -> Video:
    index = torch.arange(video.frames.shape[1] - 1) // 2 * 2
    return _first(video, video.frames[:, index])


def _shuffled(video: Video, noise: Noise) -> Video:
    order = noise.uniform("order", video.frames.shape[1] - 1).argsort(dim=1)
    return _first(video, video.frames[torch.arange(len(video))[:, None], order])


def _reversed(video: Video, _: Noise) -> Video:
    return _first(video, video.frames[:, :-1].flip(1))


def _dropped(video: Video, _: Noise) -> Video:
    """Of every sixteen frames the last four are left out; the last frame stands still where the clip runs out."""
    count = video.frames.shape[1] - 1
    index = torch.arange(count)
    return _first(video, video.frames[:, (index + 4 * (index // 12)).clamp(max=count - 1)])


def _jitter(video: Video, noise: Noise) -> Video:
    frames = video.frames[:, :-1]
    height, width = frames.shape[-2:]
    shifts = noise.integers("shift", 0, 2 * _SHIFT + 1, frames.shape[1], 2)
    wide = F.pad(frames.flatten(0, 1), (_SHIFT,) * 4, mode="replicate").unflatten(0, frames.shape[:2])
    rows = shifts[..., 0, None] + torch.arange(height)
    columns = shifts[..., 1, None] + torch.arange(width)
    clip = torch.arange(len(frames))[:, None, None, None]
    time = torch.arange(frames.shape[1])[None, :, None, None]
    moved = wide.movedim(2, -1)[clip, time, rows[:, :, :, None], columns[:, :, None, :]]
    return _first(video, moved.movedim(-1, 2))


def _seam(video: Video, _: Noise) -> Video:
    frames = video.frames[:, :-1]
    lifted = (torch.arange(frames.shape[1]) % PERIOD == 0).to(frames.dtype)
    return _first(video, frames + _SEAM * lifted[:, None, None, None])


CORRUPTIONS: dict[str, Corruption] = {
    "late": _late,
    "noise": _noise,
    "blur": _blur,
    "between": _between,
    "frozen": _frozen,
    "shuffled": _shuffled,
    "reversed": _reversed,
    "dropped": _dropped,
    "jitter": _jitter,
    "seam": _seam,
}
"""By name."""


def _first(video: Video, frames: Tensor) -> Video:
    return Video(frames.clamp(-1, 1), video.times[:-1])


def _blurred(frames: Tensor) -> Tensor:
    """Gaussian blur, to three standard deviations, with edges repeated."""
    reach = round(3 * _BLUR)
    place = torch.arange(-reach, reach + 1, dtype=frames.dtype)
    kernel = torch.exp(-0.5 * (place / _BLUR).square())
    kernel = kernel / kernel.sum()
    flat = F.pad(frames.flatten(0, 2)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel[None, None, None]), kernel[None, None, :, None])[:, 0].reshape(frames.shape)
