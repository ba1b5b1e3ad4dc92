"""Frames between the frames of a video, at any times: each gap is filled from its two ends by a trained model.

A video of any length is filled in constant memory, gap after gap: what is known stays as it is. A codec loses detail,
but what it loses of the known frames is known. *Detail kept* adds it to the decoded frames between, blended linearly in
time: what stands still is then as sharp as the known frames are, and only what moves has to pass through the codec.
"""

__all__ = ["fill_gap", "fill_video", "with_detail"]

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.encoders.codec import Codec
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.video import Condition, Video, as_times

_SAME = 1e-3
"""Seconds within which two times are one, if frames are not much closer: Matroska rounds stamps to milliseconds."""


def with_detail(
    decoded: Float[Tensor, "*batch time channel height width"],
    lost: tuple[Float[Tensor, "*batch channel height width"], Float[Tensor, "*batch channel height width"]],
    share: Float[Tensor, "time"],
) -> Float[Tensor, "*batch time channel height width"]:
    """Decoded frames with what the codec loses at the two ends added, blended linearly.

    Arguments:
        decoded: Frames between two known ones, in [-1, 1].
        lost: Known frame less its decoded one, at both ends.
        share: Where each frame is between them, 0 to 1.
    """
    first, last = (part.unsqueeze(-4) for part in lost)
    return (decoded + torch.lerp(first, last, share.to(decoded)[:, None, None, None])).clamp(-1, 1)


@torch.no_grad()
def fill_gap(
    codec: Codec, model: VideoModel, ends: Video, times: Sequence[float], *, solver: str | None = None, seed: int = 0
) -> Video:
    """Frames between two known ones.

    Arguments:
        codec: The codec of the model's latents.
        model: Fills in, given its first and last state.
        ends: The two known frames, with their times.
        times: Seconds strictly between them, increasing.
        solver: One of the model's; None takes its first.
        seed: Seed of stochastic models.

    Raises:
        ValueError: There are not two known frames, or a time is not between them; or from the model.
    """
    if len(ends.times) != 2:
        raise ValueError(f"A gap has two ends; got {len(ends.times)} frames.")
    start, stop = ends.times.tolist()
    asked = as_times(times)
    if not (start < float(asked[0]) and float(asked[-1]) < stop):
        raise ValueError(f"Times must lie between {start} s and {stop} s; got {asked.tolist()}.")
    # A model knows differences of times only; counting from the gap's start keeps them exact.
    own = Video(ends.frames, as_times([0.0, stop - start]))
    known = codec.encode(own)
    noise = Noise.batch(seed, len(ends)).fold(f"fill {start}")
    offsets = (asked - start).tolist()
    decoded = codec.decode(model.sample(Condition(known), offsets, noise, solver=solver).trajectory).frames
    lost = ends.frames - codec.decode(known).frames
    share = (asked - start) / (stop - start)
    return Video(with_detail(decoded, (lost[:, 0], lost[:, 1]), share), asked)


def fill_video(
    codec: Codec,
    model: VideoModel,
    known: Sequence[float],
    frames: Callable[[Sequence[float]], Video],
    *,
    fps: float,
    solver: str | None = None,
    seed: int = 0,
) -> Iterator[Video]:
    """A film of any rate from known frames, piece after piece; two known frames are held at a time.

    The film starts at the first known frame and ends with the last one at the latest. A known frame at whose time the
    film has a frame stands in it as it is.

    Arguments:
        codec: The codec of the model's latents.
        model: Fills in, given its first and last state.
        known: When frames are known, at least two increasing times in seconds.
        frames: The known frames at two neighbouring times.
        fps: Frames per second of the film.
        solver: One of the model's; None takes its first.
        seed: Seed of stochastic models.

    Raises:
        ValueError: The rate is not positive, or there are fewer than two times; or from the model.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"The rate must be positive and finite; got fps={fps}.")
    if len(known) < 2:
        raise ValueError(f"A gap needs two known times; got {len(known)}.")
    same = min(_SAME, 0.25 / fps)
    for before, after in pairwise(known):
        numbers = range(math.ceil((before - known[0] - same) * fps), math.floor((after - known[0] + same) * fps) + 1)
        times = [known[0] + number / fps for number in numbers]
        inside = [time for time in times if before + same < time < after - same]
        ends = frames([before, after])
        if any(abs(time - before) <= same for time in times):
            yield Video(ends.frames[:, :1], ends.times[:1])
        if inside:
            yield fill_gap(codec, model, ends, inside, solver=solver, seed=seed)
        if after == known[-1] and any(abs(time - after) <= same for time in times):
            yield Video(ends.frames[:, 1:], ends.times[1:])
