"""What every synthetic clip offers, whatever moves in it, and how many of them become one batch.

A scene is known in closed form at every real time: its frames are drawn, and its positions, velocities and events
told, at whatever times are asked for. Models see the frames only; metrics and captions read the rest. Digits, balls
and pendulums are scenes, and so is anything else with these methods.
"""

__all__ = ["Scene", "Scenes", "check_split", "has_event", "render_scenes", "scene_positions"]

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from flowvid.data.worlds.clips import Clip, render_clips
from flowvid.data.worlds.digits import SPLITS
from flowvid.video import Video, as_times

Seconds = Tensor | Sequence[float]


@runtime_checkable
class Scene(Protocol):
    """A clip that is known exactly at every real time; x points right and y down, in pixels."""

    @property
    def canvas(self) -> int:
        """Side of the frames in pixels."""
        ...

    @property
    def seed(self) -> int:
        """What the clip was drawn from."""
        ...

    def frames(self, times: Seconds) -> Float32[Tensor, "time channel height width"]:
        """Frames in [-1, 1] at ``times`` seconds."""
        ...

    def positions(self, times: Seconds) -> Float64[Tensor, "time object 2"]:
        """Pixels (x, y) of every object at ``times`` seconds."""
        ...

    def velocities(self, times: Seconds) -> Float64[Tensor, "time object 2"]:
        """Pixels per second of every object at ``times`` seconds; at an event those just after it."""
        ...

    def events(self, start: float, stop: float) -> Float64[Tensor, "event"]:
        """The times in [start, stop], in increasing order, at which the velocity of some object jumps."""
        ...


@runtime_checkable
class DrawnTogether(Protocol):
    """A scene whose kind draws a whole batch at once."""

    @staticmethod
    def draw(scenes: Sequence[Any], times: Seconds) -> Float32[Tensor, "batch time channel height width"]:
        """Frames in [-1, 1] of scenes of one kind and canvas at ``times`` seconds."""
        ...


class Scenes(Protocol):
    """A family of scenes, drawn from seeds."""

    def clips(self, seeds: Iterable[int], split: str) -> Sequence[Scene]:
        """The scenes of many seeds; each depends on this family, its own seed and the split alone."""
        ...


def render_scenes(scenes: Sequence[Scene], times: Seconds) -> Video:
    """The scenes at ``times`` seconds as one batch of frames in [-1, 1].

    Digits are drawn by `render_clips`; scenes of one kind that offers ``draw`` together; others one by one.

    Raises:
        ValueError: There are no scenes, their frames differ in shape, or the times are not finite and strictly
            increasing.
    """
    times = as_times(times)
    if not scenes:
        raise ValueError("A batch needs at least one scene; got none.")
    digits = [scene for scene in scenes if isinstance(scene, Clip)]
    if len(digits) == len(scenes):
        return render_clips(digits, times)
    first = scenes[0]
    if isinstance(first, DrawnTogether) and all(type(scene) is type(first) for scene in scenes):
        return Video(first.draw(scenes, times), times)
    frames = [scene.frames(times) for scene in scenes]
    shapes = sorted({tuple(one.shape[1:]) for one in frames})
    if len(shapes) > 1:
        raise ValueError(f"A batch needs frames of one shape; got (channel, height, width) of {shapes}.")
    return Video(torch.stack(frames), times)


def scene_positions(scenes: Sequence[Scene], times: Seconds) -> Float64[Tensor, "batch time object 2"]:
    """Pixels (x, y) of every object of every scene at ``times`` seconds.

    Raises:
        ValueError: There are no scenes, they differ in the number of objects, or the times are not finite and
            strictly increasing.
    """
    times = as_times(times)
    positions = [scene.positions(times) for scene in scenes]
    counts = sorted({one.shape[1] for one in positions})
    if len(counts) != 1:
        raise ValueError(f"A batch needs scenes with one number of objects; got numbers {counts}.")
    return torch.stack(positions)


def has_event(scenes: Sequence[Scene], start: float, stop: float) -> Bool[Tensor, "batch"]:
    """Which scenes hold a jump of velocity in [start, stop] seconds."""
    return torch.tensor([len(scene.events(start, stop)) > 0 for scene in scenes], dtype=torch.bool)


def check_split(split: str) -> None:
    """Refuse what is not the name of a split.

    Raises:
        ValueError: The split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"The splits are {', '.join(SPLITS)}; got {split!r}.")
