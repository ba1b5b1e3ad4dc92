"""Every way to make a video with one call: what is known and what is said decide which it is.

    text-to-video       nothing known, words
    image-to-video      a frame at 0 s
    first and last      frames at both ends; the same frame twice closes a loop
    key frames          frames at any times
    extension           the last frames of a video at -frame and 0 s, or `extend` for any length in constant memory

Known frames stand in the answer as they were given; the others are decoded.

`extend` goes on piece after piece. A piece starts from states that were sampled, not from decoded frames, so what the
codec loses does not pile up; it knows two states, a frame of the model apart. For a model that remembers no more than
these (a Markov kernel of the state and its velocity) the pieces together have the law of one long sample.
"""

__all__ = ["extend", "generate", "looped"]

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from flowvid.encoders.codec import Codec
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory, Video, as_times, time_grid

_DECODED = 64
_SAME = 1e-6


@torch.no_grad()
def generate(
    codec: Codec,
    model: VideoModel,
    times: Sequence[float] | torch.Tensor,
    noise: Noise,
    *,
    known: Video | None = None,
    text: Any = None,
    solver: str | None = None,
) -> Video:
    """Videos at the given times, one for each seed.

    Arguments:
        codec: The codec of the model's latents.
        model: What makes them.
        times: Increasing seconds.
        noise: One seed per video.
        known: Known frames and their times, of one video for all or of each.
        text: One string for all, or what `flowvid.video.as_text` takes; None: nothing is said.
        solver: One of the model's; None takes its first.

    Raises:
        ValueError: The numbers of known videos, texts and seeds do not go together; or from the codec or the model.
    """
    wanted = as_times(times)
    known = None if known is None else _for_all(known, len(noise))
    said = [text] * len(noise) if isinstance(text, str) else text
    if said is not None and len(said) != len(noise):
        raise ValueError(f"Text needs one entry for each of the {len(noise)} videos; got {len(said)}.")
    states = None if known is None else codec.encode(known)
    sampled = model.sample(Condition(states, said), wanted.tolist(), noise, solver=solver).require().trajectory
    return _shown(codec, sampled, known)


def looped(first: Video, seconds: float) -> Video:
    """What is known of a loop: its frame at the start, and again when it comes round.

    Arguments:
        first: One frame.
        seconds: How long the loop takes.

    Raises:
        ValueError: There is more than one frame, or the loop takes no time.
    """
    if len(first.times) != 1 or not 0 < seconds < math.inf:
        raise ValueError(f"A loop has one frame and takes positive seconds; got {len(first.times)} and {seconds} s.")
    start = first.times[0].item()
    return Video(first.frames.expand(-1, 2, -1, -1, -1), as_times([start, start + seconds]))


@torch.no_grad()
def extend(
    codec: Codec,
    model: VideoModel,
    known: Video,
    seconds: float,
    *,
    fps: float,
    frame: float,
    noise: Noise,
    text: Any = None,
    solver: str | None = None,
    piece: float = 1.0,
) -> Iterator[Video]:
    """What follows the last of the known frames, piece after piece; memory is that of one piece.

    Frames are 1 / fps apart, the first one that long after the last known frame.

    Arguments:
        codec: The codec of the model's latents.
        model: What makes it.
        known: The frames that the model starts from, the last ones of a video.
        seconds: How long to go on.
        fps: Frames per second.
        frame: Seconds between the two states that a piece hands on, as the model was trained.
        noise: One seed per video; each piece has noise of its own.
        text: One string for all, or what `flowvid.video.as_text` takes, times in the known frames' own seconds.
        solver: One of the model's; None takes its first.
        piece: Least seconds of a piece.

    Raises:
        ValueError: A number is not positive; or from the codec or the model.
    """
    if not all(0 < value < math.inf for value in (seconds, fps, frame, piece)):
        raise ValueError(f"Expected positive seconds, fps, frame and piece; got {seconds}, {fps}, {frame}, {piece}.")
    origin = known.times[-1].item()
    film = time_grid(0.0, seconds, 1 / fps)[1:].tolist()
    states = codec.encode(_for_all(known, len(noise)))
    count = max(1, math.ceil(max(piece, 2 * frame) * fps - 1e-9))
    said = [text] * len(noise) if isinstance(text, str) else text
    for number, first in enumerate(range(0, len(film), count)):
        own = [origin + time for time in film[first : first + count]]
        before = own[-1] - frame
        handed = min([*own, before], key=lambda time: (abs(time - before) > _SAME, time == before))
        more = first + count < len(film)
        wanted = sorted({*own, handed}) if more else own
        asked = model.sample(Condition(states, said), wanted, noise.fold(f"piece {number}"), solver=solver).require()
        yield _shown(codec, asked.trajectory.at(*own), None)
        states = asked.trajectory.at(*sorted({handed, own[-1]})) if more else states


def _for_all(known: Video, count: int) -> Video:
    if len(known) not in (1, count):
        raise ValueError(f"Known frames are of one video for all or of each of {count}; got {len(known)} videos.")
    return Video(known.frames.expand(count, -1, -1, -1, -1), known.times)


def _shown(codec: Codec, sampled: Trajectory, known: Video | None) -> Video:
    """Decoded frames, a few moments at a time, with the known ones as they are."""
    size = max(1, _DECODED // max(len(sampled), 1))
    parts = [
        codec.decode(Trajectory(states, times)).frames
        for states, times in zip(sampled.states.split(size, dim=1), sampled.times.split(size), strict=True)
    ]
    frames = torch.cat(parts, dim=1)
    for number, time in enumerate(sampled.times.tolist()):
        for index, moment in enumerate([] if known is None else known.times.tolist()):
            if known is not None and abs(moment - time) < 1e-9:
                frames[:, number] = known.frames[:, index].to(frames)
    return Video(frames, sampled.times)
