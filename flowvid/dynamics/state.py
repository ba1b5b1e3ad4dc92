"""The state that moves, and what a network is told about its surroundings.

One frame does not determine motion, so the state is s = (z, p): the latent z and its velocity p, the backward
difference p(t) = (z(t) - z(t - gap_1)) / gap_1 over the shortest gap, which two context frames give. A lone frame
(the last one of an interpolation) has no velocity: p is zero there and ``moving`` is false.

Beside its own state a network sees two anchors: the latest *known* state up to now, preferably one whose velocity is
known, and the nearest known state after, each with its signed distance in seconds. A known start is its own earlier
anchor, at distance zero, so that whatever a network learns to read off known frames it reads off in one place.
Prediction has no later anchor, interpolation has one; nothing
else distinguishes the tasks.

References:
    ODE2VAE: Deep generative second order ODEs (Yildiz et al., 2019), https://arxiv.org/abs/1905.10994
"""

__all__ = ["Anchor", "Query", "Surroundings", "query_channels"]

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from flowvid.video import Condition, Trajectory

_CLOSE = 1e-9
_OF_A_CODE = 0.25


def query_channels(channels: int) -> int:
    """How many channels a packed `Query` has for latents of ``channels`` channels."""
    return 6 * channels + 5


@dataclass(frozen=True)
class Anchor:
    """A known state near a queried one.

    Arguments:
        state: (z, p), shape (n, 2 * channel, height, width); p is zero where it is unknown.
        moving: Where p is known, shape (n,).
        span: Signed seconds from the queried state to this one, shape (n,).
        present: Where there is an anchor, shape (n,); elsewhere all else is zero.
    """

    state: Float[Tensor, "n state height width"]
    moving: Bool[Tensor, "n"]
    span: Float[Tensor, "n"]
    present: Bool[Tensor, "n"]

    @staticmethod
    def none(like: Float[Tensor, "n state height width"]) -> "Anchor":
        """No anchor for any of the states."""
        absent = like.new_zeros(len(like))
        return Anchor(torch.zeros_like(like), absent.bool(), absent, absent.bool())

    @property
    def latent(self) -> Float[Tensor, "n channel height width"]:
        """The latent part z of the anchor."""
        return self.state.chunk(2, dim=1)[0]

    def where(self, keep: Bool[Tensor, "n"]) -> "Anchor":
        """The anchor, kept only where ``keep`` holds."""
        grid = keep[:, None, None, None]
        span = torch.where(keep, self.span, 0.0)
        return Anchor(torch.where(grid, self.state, 0.0), self.moving & keep, span, self.present & keep)


@dataclass(frozen=True)
class Query:
    """A batch of states with their anchors: what every network of the continuous models is asked.

    Arguments:
        state: (z, p), shape (n, 2 * channel, height, width).
        moving: Where p is known, shape (n,).
        past: The nearest known state before.
        future: The nearest known state after.
        code: What the clip as a whole is said to be; None without a global code.
    """

    state: Float[Tensor, "n state height width"]
    moving: Bool[Tensor, "n"]
    past: Anchor
    future: Anchor
    code: Float[Tensor, "n code"] | None = None

    @property
    def latent(self) -> Float[Tensor, "n channel height width"]:
        """The latent part z of the states."""
        return self.state.chunk(2, dim=1)[0]

    def packed(
        self, *, velocity_scale: float | Tensor, time_scale: float
    ) -> tuple[Float[Tensor, "n packed height width"], Float[Tensor, "n scalar"]]:
        """Network inputs of order one: a grid of all states and flags; and the two spans, followed by the code.

        The code is made small, since networks tell scalars a sixteenth apart, and a code is of order one and noisy.

        Arguments:
            velocity_scale: Typical size of p, which it is divided by.
            time_scale: Seconds that make one unit of time.
        """
        height, width = self.state.shape[-2:]
        parts: list[Tensor] = []
        for state, moving in ((self.state, self.moving), self._of(self.past), self._of(self.future)):
            latent, velocity = state.chunk(2, dim=1)
            parts += [latent, velocity / velocity_scale, self._plane(moving, height, width)]
        parts += [self._plane(anchor.present, height, width) for anchor in (self.past, self.future)]
        scalars = torch.stack((self.past.span, self.future.span), dim=1) / time_scale
        if self.code is not None:
            scalars = torch.cat((scalars, self.code * _OF_A_CODE), dim=1)
        return torch.cat(parts, dim=1), scalars

    def _of(self, anchor: Anchor) -> tuple[Tensor, Tensor]:
        return anchor.state, anchor.moving

    def _plane(self, flag: Tensor, height: int, width: int) -> Tensor:
        return flag.to(self.state.dtype)[:, None, None, None].expand(-1, 1, height, width)


class Surroundings:
    """The known states of a condition as states (z, p), and the anchors of any time.

    A known frame that only supplies the velocity of the next one is context, not an anchor.

    Arguments:
        condition: What is known; at least one state.
        gap: Seconds between the two frames that make a velocity.
        code: The global code of each sample, if the networks are told one.

    Raises:
        ValueError: Nothing is known.
    """

    def __init__(self, condition: Condition, *, gap: float, code: Float[Tensor, "batch code"] | None = None) -> None:
        known = condition.require()
        self.code = code
        self.times: list[float] = []
        self.moving: list[bool] = []
        self._states: list[Tensor] = []
        for index, time in enumerate(known.times.tolist()):
            latent = known.states[:, index]
            before = self._find(known, time - gap)
            if before is None and self._find(known, time + gap) is not None:
                continue
            velocity = torch.zeros_like(latent) if before is None else (latent - known.states[:, before]) / gap
            self.times.append(time)
            self.moving.append(before is not None)
            self._states.append(torch.cat((latent, velocity), dim=1))

    def start(self, first: float) -> int:
        """Index of the state from which all times from ``first`` on are reached: the latest up to then that moves.

        Where none does so early it is the first one that moves, or the first of all.
        """
        early = [i for i, time in enumerate(self.times) if self.moving[i] and time <= first + _CLOSE]
        if early:
            return early[-1]
        return self.moving.index(True) if any(self.moving) else 0

    def state(self, index: int) -> Float[Tensor, "batch state height width"]:
        """One of the known states."""
        return self._states[index]

    def rows(self, index: Int64[Tensor, "n"]) -> "Surroundings":
        """What is known of some of the samples."""
        chosen = copy.copy(self)
        chosen._states = [state[index] for state in self._states]
        chosen.code = None if self.code is None else self.code[index]
        return chosen

    def query(
        self,
        times: Sequence[float] | Float64[Tensor, "batch n"],
        states: Float[Tensor, "batch n state height width"],
        moving: Sequence[bool],
    ) -> Query:
        """The query of one state at each of the times, flattened sample by sample.

        Arguments:
            times: Seconds of the states, n of them; or n for each sample.
            states: (z, p) at these times.
            moving: Whether p is known, for each time.
        """
        at = times if isinstance(times, Tensor) else torch.tensor(times, dtype=torch.float64)
        past, future = (self._anchor(at, states, self._nearest(at, side)) for side in (-1, 1))
        known = torch.tensor(moving).to(states.device, non_blocking=True).repeat(len(states))
        code = None if self.code is None else self.code.repeat_interleave(states.shape[1], dim=0)
        return Query(states.flatten(0, 1), known, past, future, code)

    def _anchor(self, at: Float64[Tensor, "*batch n"], states: Tensor, index: Int64[Tensor, "*batch n"]) -> Anchor:
        """The known states of these numbers as anchors of states at these times; a number of -1 is none."""
        flags = torch.tensor([*self.moving, False], device=index.device)
        places = torch.tensor([*self.times, 0.0], dtype=torch.float64, device=index.device)
        present = index >= 0
        spans = torch.where(present, places[index] - at, 0.0).to(states.dtype)
        facts = [values.to(states.device, non_blocking=True) for values in (index, flags[index], spans, present)]
        number, moving, span, there = (values.expand(states.shape[:2]) for values in facts)
        stacked = torch.stack((*self._states, torch.zeros_like(states[:, 0])), dim=1)
        grids = stacked[torch.arange(len(states), device=states.device)[:, None], number]
        return Anchor(*(values.flatten(0, 1) for values in (grids, moving, span, there)))

    def _nearest(self, at: Float64[Tensor, "*batch n"], side: int) -> Int64[Tensor, "*batch n"]:
        """The anchor on one side: the nearest later state; or the latest earlier one, at best one that moves.

        A state that moves is its own earlier anchor, and so is a state before which nothing is known.
        """
        known = torch.tensor(self.times, dtype=torch.float64, device=at.device)
        number = torch.arange(len(self.times), device=at.device)
        if side > 0:
            later = torch.where(known > at[..., None] + _CLOSE, number, len(self.times)).amin(dim=-1)
            return torch.where(later < len(self.times), later, -1)
        until = known <= at[..., None] + _CLOSE
        moving = until & torch.tensor(self.moving, device=at.device)
        earlier = known < at[..., None] - _CLOSE
        found = [torch.where(mask, number, -1).amax(dim=-1) for mask in (moving, earlier, until)]
        return torch.where(found[0] >= 0, found[0], torch.where(found[1] >= 0, found[1], found[2]))

    @staticmethod
    def _find(known: Trajectory, time: float) -> int | None:
        close = (known.times - time).abs() < _CLOSE
        return int(close.nonzero()[0]) if bool(close.any()) else None
