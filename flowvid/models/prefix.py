"""Going on from a prefix of evenly spaced frames, linear between frames: what models of whole frames share."""

__all__ = ["check_prefix", "continued"]

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.models.baselines import LinearBlend
from flowvid.models.frames import not_known
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory, as_times

_CLOSE = 1e-6


def check_prefix(known: Trajectory, frame: float, *, least: int) -> None:
    """Refuse known states that are not a prefix of at least ``least`` frames, ``frame`` seconds apart.

    Raises:
        ValueError: They are not.
    """
    steps = known.times.diff()
    if len(steps) < least - 1 or bool(((steps - frame).abs() > _CLOSE).any()):
        raise ValueError(
            f"This model goes on from a prefix of at least {least} frames, {frame} s apart, without later frames; got "
            f"frames at {known.times.tolist()} s."
        )


def continued(
    condition: Condition,
    times: Sequence[float],
    predict: Callable[[Tensor, int], Tensor],
    *,
    frame: float,
    least: int,
) -> tuple[Trajectory, int]:
    """The states at some times, and how many frames had to be predicted.

    Arguments:
        condition: A prefix and nothing else.
        times: Increasing seconds from the first known frame on.
        predict: (known states, count) -> the states of so many frames that follow.
        frame: Seconds between frames.
        least: Frames of the shortest prefix.

    Raises:
        ValueError: The condition is no such prefix, or a time lies before it.
    """
    known, wanted = condition.states_only(), as_times(times)
    check_prefix(known, frame, least=least)
    start, last = known.times[0].item(), known.times[-1].item()
    if wanted[0] < start - _CLOSE:
        raise ValueError(f"This model answers times from {start} s on, the first known one; got {wanted[0].item()} s.")
    if not not_known(wanted.tolist(), known):
        return Trajectory(known.at(*wanted.tolist()).states, wanted), 0
    count, whole = max(0, math.ceil((wanted[-1].item() - last) / frame - _CLOSE)), known
    if count:
        later: Float[Tensor, "time"] = last + frame * torch.arange(1, count + 1, dtype=torch.float64)
        states = torch.cat((known.states, predict(known.states, count)), dim=1)
        whole = Trajectory(states, torch.cat((known.times, later)))
    blended = LinearBlend().sample(Condition(whole), wanted.tolist(), Noise.batch(0, len(known)))
    return blended.trajectory, count
