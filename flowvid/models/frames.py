"""States and anchors taken from training clips, and known frames put back: what the models share."""

__all__ = [
    "anchor_at",
    "check_clips",
    "check_frame_step",
    "draw_distance",
    "not_known",
    "place_known",
    "state_at",
    "still",
    "take",
]

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from flowvid.dynamics.state import Anchor
from flowvid.noise import Noise
from flowvid.video import Trajectory, as_times

_CLOSE = 1e-9


def check_frame_step(trajectory: Trajectory, frame: float) -> None:
    """Refuse a trajectory that is not evenly spaced by ``frame`` seconds.

    Raises:
        ValueError: It is not, or it has a single frame.
    """
    steps = trajectory.times.diff()
    if len(steps) == 0 or bool(((steps - frame).abs() > 1e-9).any()):
        raise ValueError(f"This model trains on frames {frame} s apart; got times {trajectory.times.tolist()} s.")


def check_clips(trajectory: Trajectory, frame: float, *, least: int) -> None:
    """Refuse training clips that are not evenly spaced by ``frame`` seconds or have fewer than ``least`` frames.

    Raises:
        ValueError: They are not, or have fewer.
    """
    check_frame_step(trajectory, frame)
    if len(trajectory.times) < least:
        raise ValueError(f"This model trains on clips of at least {least} frames; got {len(trajectory.times)}.")


def take(
    states: Float[Tensor, "batch time channel height width"], index: Int64[Tensor, "batch *n"]
) -> Float[Tensor, "batch *n channel height width"]:
    """The states of each sample at its own frame numbers."""
    rows = torch.arange(len(states), device=states.device)
    return states[rows.reshape(-1, *(1 for _ in index.shape[1:])), index]


def state_at(
    trajectory: Trajectory, index: Int64[Tensor, "batch *n"], *, frame: float
) -> Float[Tensor, "batch *n state height width"]:
    """States (z, p) at frame numbers from 1 on."""
    latent = take(trajectory.states, index)
    return torch.cat((latent, (latent - take(trajectory.states, index - 1)) / frame), dim=-3)


def still(
    state: Float[Tensor, "n state height width"], moving: Bool[Tensor, "n"]
) -> Float[Tensor, "n state height width"]:
    """The states with p set to zero where it is not known."""
    latent, velocity = state.chunk(2, dim=1)
    return torch.cat((latent, torch.where(moving[:, None, None, None], velocity, 0.0)), dim=1)


def anchor_at(
    trajectory: Trajectory,
    index: Int64[Tensor, "batch"],
    at: Int64[Tensor, "batch"],
    *,
    moving: Bool[Tensor, "batch"],
    frame: float,
) -> Anchor:
    """The states at frame numbers ``at`` as anchors of states at ``index``; numbers outside the clip are clamped."""
    at = at.clamp(1, trajectory.states.shape[1] - 1)
    state = still(state_at(trajectory, at, frame=frame), moving)
    return Anchor(state, moving, (at - index).to(state.dtype) * frame, torch.ones_like(moving))


def draw_distance(noise: Noise, stream: str, reach: int, device: torch.device) -> Int64[Tensor, "batch"]:
    """Frames to a known later frame, as every model meets it in training: half the time ``reach``, else 1 to reach."""
    anywhere = noise.integers(stream, 1, reach + 1, device=device)
    return torch.where(noise.uniform(f"{stream} at reach", device=device) < 0.5, reach, anywhere)


def not_known(times: Sequence[float], known: Trajectory) -> list[float]:
    """The times at which nothing is known."""
    given = known.times.tolist()
    return [time for time in times if _position(time, given) is None]


def place_known(
    found: Mapping[float, Float[Tensor, "batch channel height width"]], times: Sequence[float], known: Trajectory
) -> Trajectory:
    """The trajectory at ``times``: what is known as it is, and what was found everywhere else.

    Arguments:
        found: Latents by time, for every time that is not known.
        times: Increasing seconds.
        known: The known states.
    """
    points, given = as_times(times), known.times.tolist()
    at = [_position(time, given) for time in points.tolist()]
    states = [found[time] if i is None else known.states[:, i] for time, i in zip(points.tolist(), at, strict=True)]
    return Trajectory(torch.stack(states, dim=1), points)


def _position(time: float, given: Sequence[float]) -> int | None:
    """The index of a known time, met to within rounding."""
    nearest = min(range(len(given)), key=lambda index: abs(given[index] - time))
    return nearest if abs(given[nearest] - time) <= _CLOSE else None
