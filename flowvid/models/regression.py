"""The direct regressor: the frame at time t in one evaluation, from what is known.

It is asked for a state and a gap of any size and answers with the state after it, in units of the structure function
and in endpoint-exact form when a later frame is known. It has no state to carry on, so it has nothing to say beyond
the gaps it was trained on; asked nevertheless, it extrapolates in its time input.
"""

__all__ = ["DirectRegression"]

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.state import Anchor, Query, Surroundings, query_channels
from flowvid.models.frames import anchor_at, check_clips, draw_distance, not_known, place_known, state_at, still, take
from flowvid.models.video_model import LearnedModel, refuse_solver
from flowvid.networks.trunk import Trunk
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory, as_times


class DirectRegression(LearnedModel):
    """A network of (state, later frame, gap).

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames.
        reach: Longest trained gap in frames.
        width: Width of the trunk.
        parameters: The number of parameters to match.
    """

    scale: Tensor
    velocity_scale: Tensor

    def __init__(self, channels: int, *, frame: float, reach: int = 16, width: int = 48, parameters: int) -> None:
        super().__init__()
        self.channels = channels
        self.frame = frame
        self.reach = reach
        self.trunk = Trunk.matching(parameters, query_channels(channels), channels, scalars=3, width=width)
        self.register_buffer("scale", torch.ones(reach + 1))
        self.register_buffer("velocity_scale", torch.ones(()))

    @property
    def solvers(self) -> tuple[str, ...]:
        """One evaluation for each time."""
        return ("direct",)

    def prepare(self, trajectory: Trajectory) -> None:
        """Measure the root structure function at every gap.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short for the longest gap.
        """
        check_clips(trajectory, self.frame, least=self.reach + 2)
        latents = trajectory.states
        for gap in range(1, self.reach + 1):
            self.scale[gap] = (latents[:, gap:] - latents[:, :-gap]).square().mean().sqrt()
        self.scale[0] = 0
        self.velocity_scale.copy_(self.scale[1] / self.frame)

    def forward(self, query: Query, gap: Float[Tensor, "n"]) -> Float[Tensor, "n channel height width"]:
        """Latents ``gap`` seconds after the queried states."""
        unit = self.reach * self.frame
        grid, spans = query.packed(velocity_scale=self.velocity_scale, time_scale=unit)
        output = self.trunk(grid, torch.cat((spans, gap[:, None] / unit), dim=1))
        span = query.future.span
        ratio = torch.where((span > 0) & (gap <= span), gap / torch.where(span == 0, 1.0, span), 0.0)
        ratio = ratio[:, None, None, None]
        size = self._size(gap)[:, None, None, None] * (1 - ratio)
        return query.latent + ratio * (query.future.latent - query.latent) + size * output

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error at random gaps, in units of the structure function.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short for the longest gap.
        """
        check_clips(trajectory, self.frame, least=self.reach + 2)
        count = trajectory.states.shape[1]
        device = trajectory.states.device
        index = noise.integers("index", 1, count - self.reach, device=device)
        gap = noise.integers("gap", 1, self.reach + 1, device=device)
        beyond = draw_distance(noise, "future", self.reach, device)
        flags = noise.uniform("flags", 2, device=device)
        bounded = flags[:, 0] < 0.5
        gap = torch.where(bounded, 1 + (gap - 1) % beyond, gap)
        moving = ~(bounded & (flags[:, 1] < 0.15))
        state = still(state_at(trajectory, index, frame=self.frame), moving)
        lone = torch.zeros_like(bounded)
        future = anchor_at(trajectory, index, index + beyond, moving=lone, frame=self.frame).where(bounded)
        predicted = self(Query(state, moving, Anchor.none(state), future), gap.to(state.dtype) * self.frame)
        error = predicted - take(trajectory.states, index + gap)
        return (error / self.scale[gap][:, None, None, None]).square().mean()

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """Every time directly from the latest known state before it; see `VideoModel.sample`."""
        refuse_solver(self, solver)
        known = condition.states_only()
        around = Surroundings(condition, gap=self.frame)
        points = as_times(times).tolist()
        wanted = not_known(points, known)
        if not wanted:
            return Solution(known.at(*points), 0, 0)
        first = around.times[0]
        if wanted[0] < first:
            raise ValueError(f"This model answers times from {first} s on; got {wanted[0]} s.")
        sources = [max(i for i, at in enumerate(around.times) if at < time) for time in wanted]
        states = torch.stack([around.state(source) for source in sources], dim=1)
        query = around.query([around.times[i] for i in sources], states, [around.moving[i] for i in sources])
        query = Query(query.state, query.moving, Anchor.none(query.state), query.future)
        steps = [time - around.times[i] for time, i in zip(wanted, sources, strict=True)]
        gaps = torch.tensor(steps, dtype=torch.float64)
        latents = self(query, gaps.to(states).repeat(len(states))).unflatten(0, states.shape[:2])
        found = dict(zip(wanted, latents.unbind(dim=1), strict=True))
        return Solution(place_known(found, points, known), len(wanted), 1)

    def _size(self, gap: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The root structure function at real gaps, linear between frames, constant beyond the trained ones."""
        position = (gap / self.frame).clamp(0, self.reach)
        below = position.floor().long().clamp(max=self.reach - 1)
        return torch.lerp(self.scale[below], self.scale[below + 1], position - below)
