"""The rival: recursive bisection of the time axis with a learned midpoint.

The network sees two states and their distance and predicts the state halfway, in curvature form: the mean of the
ends plus a correction in units of the deviation that midpoints have at this distance (SCIENCE P11). It carries the
hidden velocity along, like the multi-scale model, and half of its training intervals have an end that the model's own
midpoint reached, so that it too has seen its own errors.
"""

__all__ = ["RecursiveBisection"]

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowvid.dynamics.state import Anchor, Query, Surroundings, query_channels
from flowvid.models.frames import check_clips, not_known, place_known, state_at, still
from flowvid.models.video_model import LearnedModel, refuse_solver
from flowvid.networks.trunk import Trunk
from flowvid.noise import Noise
from flowvid.solve.bisect import Bisection, bisect
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory, as_times


class RecursiveBisection(LearnedModel):
    """A midpoint network and the recursion.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames.
        reach: Longest trained distance in frames, a power of two.
        width: Width of the trunk.
        parameters: The number of parameters to match.
        options: When the recursion stops; by default it splits everything down to the training frames.
        velocity_weight: Weight of the hidden velocity in the loss.

    Raises:
        ValueError: The reach is not a power of two.
    """

    scale: Tensor
    velocity_scale: Tensor

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        reach: int = 16,
        width: int = 48,
        parameters: int,
        options: Bisection | None = None,
        velocity_weight: float = 0.3,
    ) -> None:
        super().__init__()
        if reach < 2 or reach & (reach - 1):
            raise ValueError(f"Bisection trains on distances that are powers of two; got a reach of {reach} frames.")
        self.channels = channels
        self.frame = frame
        self.levels = reach.bit_length() - 1
        self.options = options or Bisection(shortest=frame)
        self.velocity_weight = velocity_weight
        self.trunk = Trunk.matching(parameters, query_channels(channels), 2 * channels, scalars=2, width=width)
        self.register_buffer("scale", torch.ones(self.levels, 2))
        self.register_buffer("velocity_scale", torch.ones(()))

    @property
    def solvers(self) -> tuple[str, ...]:
        """The recursion is the only way to move."""
        return ("bisection",)

    def prepare(self, trajectory: Trajectory) -> None:
        """Measure how far midpoints lie from the mean of their ends, at every distance.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short for the longest distance.
        """
        check_clips(trajectory, self.frame, least=2**self.levels + 2)
        latents = trajectory.states
        velocities = latents.diff(dim=1) / self.frame
        rows = []
        for level in range(self.levels):
            half = 2**level
            parts = [x[:, half:-half] - (x[:, : -2 * half] + x[:, 2 * half :]) / 2 for x in (latents, velocities)]
            rows.append(torch.stack([part.square().mean().sqrt() for part in parts]))
        self.scale.copy_(torch.stack(rows))
        self.velocity_scale.copy_(velocities.square().mean().sqrt())

    def midpoint(
        self,
        left: Float[Tensor, "n state height width"],
        right: Float[Tensor, "n state height width"],
        gap: Float[Tensor, "n"],
        left_moving: Tensor,
        right_moving: Tensor,
    ) -> Float[Tensor, "n state height width"]:
        """States halfway between two states, ``gap`` seconds apart."""
        gap = gap.to(left.dtype)
        query = Query(
            left, left_moving, Anchor.none(left), Anchor(right, right_moving, gap, torch.ones_like(right_moving))
        )
        grid, spans = query.packed(velocity_scale=self.velocity_scale, time_scale=2**self.levels * self.frame)
        level = (gap / self.frame).log2().round().long().sub(1).clamp(0, self.levels - 1)
        correction = self.trunk(grid, spans).unflatten(1, (2, -1)) * self.scale[level][:, :, None, None, None]
        return self._mean(left, right, left_moving, right_moving) + correction.flatten(1, 2)

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of midpoints of random intervals, in units of their typical deviation.

        An interval lies anywhere in its clip; one with an end of the model's own is half of a longer one that does.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short for the longest distance.
        """
        check_clips(trajectory, self.frame, least=2**self.levels + 2)
        count = trajectory.states.shape[1]
        device = trajectory.states.device
        level = noise.integers("level", 0, self.levels, device=device)
        gap = 2 ** (level + 1)
        flags = noise.uniform("flags", 3, device=device)
        moving = [flags[:, 0] < 0.85, (flags[:, 1] < 0.5) & (level < self.levels - 1)]
        own = (flags[:, 2] < 0.5) & (level < self.levels - 1)
        side = noise.uniform("side", device=device) < 0.5
        whole = torch.where(own, 2 * gap, gap)
        start = 1 + (noise.uniform("start", device=device, dtype=torch.float64) * (count - 1 - whole)).long()
        left = torch.where(own & side, start + gap, start)
        ends = [self._state(trajectory, left), self._state(trajectory, left + gap)]
        with torch.no_grad():
            reached = self.midpoint(
                still(self._state(trajectory, start), moving[0]),
                still(self._state(trajectory, start + whole), moving[1]),
                whole * self.frame,
                moving[0],
                moving[1],
            )
        ends[0] = torch.where((own & side)[:, None, None, None], reached, ends[0])
        ends[1] = torch.where((own & ~side)[:, None, None, None], reached, ends[1])
        moving = [moving[0] | (own & side), moving[1] | (own & ~side)]
        ends = [still(state, flag) for state, flag in zip(ends, moving, strict=True)]
        predicted = self.midpoint(ends[0], ends[1], gap * self.frame, moving[0], moving[1])
        errors = (predicted - self._state(trajectory, left + gap // 2)).unflatten(1, (2, -1))
        errors = (errors / self.scale[level][:, :, None, None, None]).square().mean(dim=(0, 2, 3, 4))
        return errors[0] + self.velocity_weight * errors[1]

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States between known ones; see `VideoModel.sample`. Bisection cannot extrapolate."""
        refuse_solver(self, solver)
        known = condition.states_only()
        around = Surroundings(condition, gap=self.frame)
        states = torch.stack([around.state(index) for index in range(len(around.times))], dim=1)
        points = as_times(times).tolist()
        wanted = not_known(points, known)
        if not wanted:
            return Solution(known.at(*points), 0, 0)
        found, evaluations, depth = bisect(
            self.midpoint,
            around.times,
            states,
            around.moving,
            wanted,
            options=self.options,
            observed=lambda state: state[:, : self.channels],
        )
        latents = dict(zip(wanted, found[:, :, : self.channels].unbind(dim=1), strict=True))
        return Solution(place_known(latents, points, known), evaluations, depth)

    def _state(self, trajectory: Trajectory, index: Int64[Tensor, "batch"]) -> Tensor:
        return state_at(trajectory, index, frame=self.frame)

    def _mean(self, left: Tensor, right: Tensor, left_moving: Tensor, right_moving: Tensor) -> Tensor:
        """The mean of two states; of their velocities only those that are known."""
        share = left_moving.to(left.dtype) / (left_moving.int() + right_moving.int()).clamp(min=1)
        shares = torch.stack((torch.full_like(share, 0.5), share), dim=1)[:, :, None, None, None]
        (a, b) = (state.unflatten(1, (2, -1)) for state in (left, right))
        known = torch.stack((torch.ones_like(share), (left_moving | right_moving).to(left.dtype)), dim=1)
        return ((shares * a + (1 - shares) * b) * known[:, :, None, None, None]).flatten(1, 2)
