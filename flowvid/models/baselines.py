"""Baselines without parameters: repeat the last known frame, or blend linearly between known ones."""

__all__ = ["CopyLast", "LinearBlend"]

from collections.abc import Sequence

import torch

from flowvid.models.video_model import VideoModel, refuse_solver
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory, as_times


class CopyLast(VideoModel):
    """The latest known state at or before each time; the first one before that."""

    @property
    def solvers(self) -> tuple[str, ...]:
        """Nothing is solved."""
        return ("copy",)

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """See `VideoModel.sample`."""
        refuse_solver(self, solver)
        known, wanted = condition.states_only(), as_times(times)
        index = (torch.searchsorted(known.times, wanted + 1e-9) - 1).clamp(min=0)
        return Solution(Trajectory(known.states[:, index], wanted), 0, 0)


class LinearBlend(VideoModel):
    """Known states blended linearly in time; constant outside them."""

    @property
    def solvers(self) -> tuple[str, ...]:
        """Nothing is solved."""
        return ("blend",)

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """See `VideoModel.sample`."""
        refuse_solver(self, solver)
        known, wanted = condition.states_only(), as_times(times)
        right = torch.searchsorted(known.times, wanted - 1e-9).clamp(max=len(known.times) - 1)
        left = (right - 1).clamp(min=0)
        width = (known.times[right] - known.times[left]).clamp(min=1e-12)
        share = ((wanted - known.times[left]) / width).clamp(0, 1)
        share = torch.where(wanted < known.times[right] - 1e-9, share, 1.0).to(known.states)
        blended = torch.lerp(known.states[:, left], known.states[:, right], share[:, None, None, None])
        return Solution(Trajectory(blended, wanted), 0, 0)
