"""What transition heads are trained on: random states of random clips, drawn the way samplers meet them.

- *start*: a known state, sometimes without velocity when a later anchor is known.
- *inner*: a state the model's own jump reached, from the known anchor before it or from a state between, under the
  same anchors (the pushforward trick: the target is still the data, so the heads pull drifted states back); where
  such a jump is impossible, the true state with a little noise.
- *end*: a lone known last frame, whose velocity is unknown and from which only backward jumps are of use.

Heads that no sampler asks in a situation (backward ones at the start, forward ones at the end) carry no loss, and
those that would jump beyond an anchor carry little.

References:
    Message Passing Neural PDE Solvers, section 3.1 (Brandstetter et al., 2022), https://arxiv.org/abs/2202.03376
"""

__all__ = ["SITUATIONS", "Transitions", "draw_transitions"]

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from flowvid.dynamics.heads import TransitionHeads
from flowvid.dynamics.state import Anchor, Query
from flowvid.models.frames import anchor_at, draw_distance, state_at, still
from flowvid.noise import Noise
from flowvid.video import Trajectory

SITUATIONS = {"start": 0.52, "inner": 0.36, "end": 0.12}
"""Shares of a training batch."""

_BEYOND = 0.1
_FROM_ANCHOR = 0.45
_STILL = 0.15


@dataclass(frozen=True)
class Transitions:
    """Queries with what they should lead to.

    Arguments:
        query: The states and their anchors.
        clip: The clip of each state.
        index: The frame number of each state.
        weight: How much each head counts.
    """

    query: Query
    clip: Int64[Tensor, "n"]
    index: Int64[Tensor, "n"]
    weight: Float[Tensor, "n gap"]

    @staticmethod
    def concatenated(parts: "list[Transitions]") -> "Transitions":
        """Several batches as one."""

        def join(*tensors: Tensor) -> Tensor:
            return torch.cat(tensors)

        def anchors(name: str) -> Anchor:
            found = [getattr(part.query, name) for part in parts]
            return Anchor(
                *(
                    join(*(getattr(anchor, field) for anchor in found))
                    for field in ("state", "moving", "span", "present")
                )
            )

        codes = [part.query.code for part in parts if part.query.code is not None]
        query = Query(
            join(*(part.query.state for part in parts)),
            join(*(part.query.moving for part in parts)),
            anchors("past"),
            anchors("future"),
            torch.cat(codes) if codes else None,
        )
        return Transitions(
            query,
            join(*(part.clip for part in parts)),
            join(*(part.index for part in parts)),
            join(*(part.weight for part in parts)),
        )


def draw_transitions(
    heads: TransitionHeads,
    trajectory: Trajectory,
    noise: Noise,
    *,
    frame: float,
    reach: int,
    bounded: float,
    input_noise: float,
    code: Float[Tensor, "batch code"] | None = None,
) -> Transitions:
    """One transition for each clip of the batch, the situations in their shares.

    Arguments:
        heads: The heads in training, whose jumps make the inner states.
        trajectory: Clips of at least twice as many frames as the reach, and two more.
        noise: One seed per clip.
        frame: Seconds between the frames.
        reach: Most frames to a later anchor, and half of those to an earlier one; at least the longest gap.
        bounded: Share of the start and inner states that have a later anchor.
        input_noise: Standard deviation of the noise on inner states that no jump reached.
        code: The global code of each clip, if the heads are told one.

    Raises:
        ValueError: The clips are too short, or the reach is shorter than the longest gap.
    """
    if reach < round(heads.longest / frame):
        raise ValueError(f"The reach must be at least the longest gap, {heads.longest / frame:g} frames; got {reach}.")
    if trajectory.states.shape[1] < 2 * reach + 2:
        raise ValueError(
            f"Clips need at least {2 * reach + 2} frames, twice the reach of {reach} frames and two more; "
            f"got {trajectory.states.shape[1]}."
        )
    drawer = _Drawer(heads, frame, reach, bounded, input_noise, code)
    parts: list[Transitions] = []
    first, share = 0, 0.0
    for name, draw in (("start", drawer.start), ("inner", drawer.inner), ("end", drawer.end)):
        share += SITUATIONS[name]
        last = round(share * len(trajectory))
        if last > first:
            rows = slice(first, last)
            parts.append(draw(Trajectory(trajectory.states[rows], trajectory.times), noise[rows], first))
        first = last
    return Transitions.concatenated(parts)


class _Drawer:
    def __init__(
        self,
        heads: TransitionHeads,
        frame: float,
        reach: int,
        bounded: float,
        input_noise: float,
        code: Tensor | None,
    ) -> None:
        self.heads = heads
        self.bounded = bounded
        self.frame = frame
        self.reach = reach
        self.input_noise = input_noise
        self.code = code
        self.frames = (heads.gap / frame).round().long()

    def start(self, trajectory: Trajectory, noise: Noise, first: int) -> Transitions:
        """Known states, half of them with a later anchor."""
        device, count = trajectory.states.device, trajectory.states.shape[1]
        index = noise.integers("index", 1, count - self.reach, device=device)
        bounded, future = self._future(trajectory, noise, index, draw_distance(noise, "future", self.reach, device))
        moving = ~(bounded & (noise.uniform("still", device=device) < _STILL))
        state = still(state_at(trajectory, index, frame=self.frame), moving)
        past = Anchor(state, moving, torch.zeros_like(future.span), torch.ones_like(moving))
        query = Query(state, moving, past, future, self._told(first, state))
        weight = self._weight(None, self._beyond(future)) * (self.frames > 0)
        return self._transitions(query, index, weight, first)

    def inner(self, trajectory: Trajectory, noise: Noise, first: int) -> Transitions:
        """States between anchors, mostly where one jump of the model put them."""
        device, count = trajectory.states.device, trajectory.states.shape[1]
        index = noise.integers("index", self.reach + 1, count - self.reach, device=device)
        gap = self.frames[noise.integers("gap", 0, len(self.frames), device=device)]
        distance = 1 + (noise.uniform("distance", device=device) * (index - 1).clamp(max=2 * self.reach)).long()
        from_anchor = noise.uniform("source", device=device) < _FROM_ANCHOR
        distance = torch.where(from_anchor, gap.abs(), distance)
        gap = torch.where(from_anchor, gap.abs(), gap)
        past_at, source = index - distance, index - gap
        rest = torch.where(distance < self.reach, self.reach - distance, self.reach)
        ahead = torch.where(
            noise.uniform("interval", device=device) < 0.5, rest, draw_distance(noise, "future", self.reach, device)
        )
        bounded, future = self._future(trajectory, noise, index, ahead)
        future_at = index + self._beyond(future)
        anchored = ~(bounded & (noise.uniform("still", device=device) < _STILL))
        past = anchor_at(trajectory, index, past_at, moving=anchored, frame=self.frame)
        whole = torch.ones_like(bounded)
        with torch.no_grad():
            source_moving = anchored | (source != past_at)
            origin = still(state_at(trajectory, source.clamp(1, count - 1), frame=self.frame), source_moving)
            at_source = Query(
                origin,
                source_moving,
                anchor_at(trajectory, source, past_at, moving=anchored, frame=self.frame),
                anchor_at(trajectory, source, future_at, moving=~whole, frame=self.frame).where(bounded),
                self._told(first, origin),
            )
            head = (self.frames == gap[:, None]).long().argmax(dim=1)
            rates = self.heads(at_source)[torch.arange(len(head), device=device), head]
            jumped = origin + rates * self.heads.gap[head][:, None, None, None]
        possible = (source >= past_at) & (~bounded | (source < future_at))
        exact = state_at(trajectory, index, frame=self.frame)
        jitter = self.input_noise * noise.normal("input", *exact.shape[1:], device=device).unflatten(1, (2, -1))
        unit = torch.stack((torch.ones_like(self.heads.velocity_scale), self.heads.velocity_scale))
        noisy = exact + (jitter * unit[:, None, None, None]).flatten(1, 2)
        state = torch.where(possible[:, None, None, None], jumped, noisy)
        query = Query(state, whole, past, future, self._told(first, state))
        return self._transitions(query, index, self._weight(distance, self._beyond(future)), first)

    def end(self, trajectory: Trajectory, noise: Noise, first: int) -> Transitions:
        """Lone known states after a known one."""
        device, count = trajectory.states.device, trajectory.states.shape[1]
        index = noise.integers("index", self.reach + 1, count, device=device)
        distance = draw_distance(noise, "distance", self.reach, device)
        moving = torch.zeros_like(index, dtype=torch.bool)
        state = still(state_at(trajectory, index, frame=self.frame), moving)
        anchored = noise.uniform("still", device=device) >= _STILL
        past = anchor_at(trajectory, index, index - distance, moving=anchored, frame=self.frame)
        weight = self._weight(distance, None) * (self.frames < 0)
        query = Query(state, moving, past, Anchor.none(state), self._told(first, state))
        return self._transitions(query, index, weight, first)

    def _future(
        self, trajectory: Trajectory, noise: Noise, index: Tensor, distance: Tensor
    ) -> tuple[Bool[Tensor, "n"], Anchor]:
        """A later anchor for a share of the states."""
        bounded = noise.uniform("bounded", device=index.device) < self.bounded
        lone = torch.zeros_like(bounded)
        anchor = anchor_at(trajectory, index, index + distance, moving=lone, frame=self.frame)
        return bounded, anchor.where(bounded)

    def _told(self, first: int, like: Tensor) -> Tensor | None:
        """The codes of the clips from the first on."""
        return None if self.code is None else self.code[first : first + len(like)]

    def _beyond(self, future: Anchor) -> Int64[Tensor, "n"]:
        """Frames to the later anchor; zero where there is none."""
        return (future.span / self.frame).round().long()

    def _weight(self, before: Tensor | None, after: Tensor | None) -> Float[Tensor, "n gap"]:
        """One for heads of use between anchors, up to the next gap beyond; little for longer ones."""
        useful = torch.ones(1, len(self.frames), dtype=torch.bool, device=self.frames.device)
        if before is not None:
            useful = useful & (self.frames > -2 * before[:, None])
        if after is not None:
            useful = useful & ((self.frames < 2 * after[:, None]) | (after == 0)[:, None])
        return useful.to(self.heads.gap.dtype) * (1 - _BEYOND) + _BEYOND

    @staticmethod
    def _transitions(query: Query, index: Tensor, weight: Tensor, first: int) -> Transitions:
        clip = torch.arange(first, first + len(index), device=index.device)
        return Transitions(query, clip, index, weight.expand(len(index), -1))
