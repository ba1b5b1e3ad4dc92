"""Filling in: every eighth frame of a clip is given, the seven between are asked, and the truth is in the clip.

Every gap between two given frames is filled from its two ends alone, by every method. What is judged as a clip holds
the given frames as they are and the answers between them, as whoever fills in a video would keep them; so what a codec
loses shows in the rhythm of its models' clips too.

A codec's loss at the given frames is known. *Detail kept* adds it to the decoded frames between, blended linearly in
time: what stands still is then as sharp as the given frames are, and only what moves has to pass through the codec.
"""

__all__ = [
    "EVERY",
    "Filler",
    "ceiling",
    "filled",
    "found_perceptual",
    "in_pixels",
    "kept_detail",
    "over_clips",
    "scores",
    "through_codec",
]

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.local_data import perceptual as local_perceptual
from flowvid.encoders.codec import Codec
from flowvid.generate.fill import with_detail
from flowvid.metrics.distortion import psnr, ssim
from flowvid.metrics.motion import second_difference_ratio
from flowvid.metrics.perceptual import Lpips, lpips
from flowvid.metrics.rhythm import heartbeat
from flowvid.metrics.warping import flow_change, warping_error
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory, Video, as_times

EVERY = 8
_CHUNK = 64

Frames = Float[Tensor, "clip time channel height width"]
Inner = Float[Tensor, "clip gap time channel height width"]

Filler = Callable[[Video, Sequence[float]], Inner]
"""(given frames, seconds after each but the last of them) -> the frames there."""


def in_pixels(model: VideoModel, *, solver: str | None = None) -> Filler:
    """A model that moves pixels."""
    return lambda given, inner: _between(model, given.frames, given.times, inner, solver).clamp(-1, 1)


def through_codec(codec: Codec, model: VideoModel, *, solver: str | None = None, detail: bool = False) -> Filler:
    """A model that moves latents.

    Arguments:
        codec: The codec.
        model: The model.
        solver: Passed to the model.
        detail: Whether what the codec loses of the given frames is added, blended in time.
    """

    def answer(given: Video, inner: Sequence[float]) -> Inner:
        latents = _parts(codec.latents, given.frames)
        found = _parts(codec.frames, _between(model, latents, given.times, inner, solver).flatten(1, 2))
        found = found.unflatten(1, (-1, len(inner)))
        return kept_detail(found, given, _parts(codec.frames, latents), inner) if detail else found

    return answer


def ceiling(codec: Codec, truth: Video, *, detail: bool = False) -> Filler:
    """The codec's own answer: true frames, coded and decoded. It answers the frames of ``truth`` alone."""

    def answer(given: Video, inner: Sequence[float]) -> Inner:
        decoded = _parts(codec.frames, _parts(codec.latents, truth.frames))
        found = decoded[:, :-1].unflatten(1, (-1, EVERY))[:, :, 1:]
        return kept_detail(found, given, decoded[:, ::EVERY], inner) if detail else found

    return answer


def kept_detail(found: Inner, given: Video, decoded: Frames, inner: Sequence[float]) -> Inner:
    """Decoded frames with what the codec loses of the given ones, blended linearly in time.

    Arguments:
        found: Decoded frames between given ones.
        given: Given frames.
        decoded: What the codec makes of them.
        inner: Seconds after each given frame.
    """
    lost = given.frames - decoded
    return with_detail(found, (lost[:, :-1], lost[:, 1:]), torch.tensor(inner).to(found) / _gap(given.times))


@torch.no_grad()
def filled(filler: Filler, truth: Video) -> Video:
    """A clip of which every eighth frame is given: these, and a method's answers at the times between.

    Raises:
        ValueError: The clip does not begin and end with a given frame.
    """
    count = len(truth.times)
    if count < EVERY + 1 or count % EVERY != 1:
        raise ValueError(f"Clips need one frame more than a multiple of {EVERY}; got {count} frames.")
    given = Video(truth.frames[:, ::EVERY], truth.times[::EVERY])
    found = filler(given, (truth.times[1:EVERY] - truth.times[0]).tolist())
    whole = torch.cat((given.frames[:, :-1, None], found), dim=2).flatten(1, 2)
    return Video(torch.cat((whole, given.frames[:, -1:]), dim=1), truth.times)


def scores(
    answer: Video, truth: Video, *, perceptual: Lpips | None = None, moving: bool = True
) -> dict[str, list[float]]:
    """Numbers of every clip: of the frames between alone where each is compared with its truth, else of all.

    Arguments:
        answer: What `filled` returned.
        truth: The truth.
        perceptual: LPIPS, where its weights are there.
        moving: Whether to look at the whole clip too, at how it moves and pulses; optical flow takes long.
    """
    between = [number for number in range(len(truth.times)) if number % EVERY]
    found, true = (Video(video.frames[:, between], video.times[between]) for video in (answer, truth))
    numbers = {"psnr": psnr(found, true).mean(dim=1), "ssim": ssim(found, true).mean(dim=1)}
    if perceptual is not None:
        numbers["lpips"] = lpips(perceptual, found, true, batch=32).mean(dim=1)
    if moving:
        numbers |= _motion(answer, truth)
    return {name: values.tolist() for name, values in numbers.items()}


def found_perceptual(data: Path) -> Lpips | None:
    """LPIPS where its weights are in the folder of real data, else None."""
    try:
        return local_perceptual(data)
    except FileNotFoundError:
        return None


def over_clips(numbers: dict[str, list[float]]) -> dict[str, float]:
    """The means over clips."""
    return {name: sum(values) / len(values) for name, values in numbers.items()}


def _motion(answer: Video, truth: Video) -> dict[str, Tensor]:
    """How every clip moves: along the flow, in its second differences, and in step with the given frames."""
    ratios = [
        second_difference_ratio(*(Video(video.frames[number : number + 1], video.times) for video in (answer, truth)))
        for number in range(len(truth))
    ]
    return {
        "warping_error": warping_error(answer, reference=truth).mean(dim=1),
        "flow_change": flow_change(answer).mean(dim=1),
        "second_difference_ratio": torch.tensor(ratios, dtype=torch.float64),
        "heartbeat": heartbeat(answer, truth.times[::EVERY].tolist()),
    }


def _between(model: VideoModel, states: Frames, times: Tensor, inner: Sequence[float], solver: str | None) -> Inner:
    """States in all gaps at once: a gap is a sample of its own, which begins at 0."""
    gap = _gap(times)
    pairs = torch.stack((states[:, :-1], states[:, 1:]), dim=2).flatten(0, 1)
    parts = []
    for chunk in pairs.split(_CHUNK):
        known = Condition(Trajectory(chunk, as_times([0.0, gap])))
        noise = Noise.batch(0, len(chunk)).fold("fill in")
        parts.append(model.sample(known, inner, noise, solver=solver).trajectory.states)
    return torch.cat(parts).unflatten(0, (len(states), -1))


def _gap(times: Tensor) -> float:
    """Seconds between given frames, which are evenly spaced."""
    return float(times[-1] - times[0]) / (len(times) - 1)


def _parts(function: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """A function of single frames, a few at a time, of all frames of all clips."""
    return torch.cat([function(part) for part in frames.flatten(0, 1).split(_CHUNK)]).unflatten(0, frames.shape[:2])
