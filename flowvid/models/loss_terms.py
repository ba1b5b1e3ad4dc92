r"""What may be added to the regression of transition heads, each term for itself.

With s a state, d a gap and u(s, d) a head's answer:

- *Self-consistency*: u(s, 2 d) is drawn to sg [u(s, d) + u(s + d u(s, d), d)] / 2, the semigroup identity of a flow
  (SCIENCE P8), which bounds the seams between jumps (P10). It needs no data, so it also teaches states off the data.
  It holds only where the future is determined (P15): given a global code, or on data that are said to be deterministic.
  The teacher is the network itself without gradient. Its error is added to that of the data *inside* the logarithm of
  a head's error, so that it counts little as long as a head is far from the data: a warm-up that needs no clock.
- *Roll-out*: some random jumps, gradient through the last two (the pushforward trick), compared with the data.
- *Restoring rate* kappa (P16): a state s~ beside the data is asked for U + min(kappa, 1 / d) (s - s~) rather than for
  the whole way back, U + (s - s~) / d, which makes the drift of short gaps stiff.
- *Bending*: second differences d^2 s ~ s(2 d) - 2 s(d) + s of predictions shall be as large as those of the data. That
  compares a variance; it is no penalty of curvature, which would slow motion down.

All are zero for exact heads.

References:
    One Step Diffusion via Shortcut Models (Frans et al., 2024), https://arxiv.org/abs/2410.12557
    Message Passing Neural PDE Solvers (Brandstetter et al., 2022), the pushforward trick, https://arxiv.org/abs/2202.03376
    Extracting and Composing Robust Features with Denoising Autoencoders (Vincent et al., 2008), https://doi.org/10.1145/1390156.1390294
"""

__all__ = ["REGRESSION", "LossTerms", "bending_mismatch", "rollout_errors", "semigroup_errors", "wanted_displacements"]

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowvid.dynamics.heads import TransitionHeads
from flowvid.dynamics.state import Anchor, Query
from flowvid.models.frames import anchor_at, state_at
from flowvid.models.transitions import Transitions
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.video import Trajectory

_CLOSE = 1e-6
_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Which terms are added to the regression; by default none.

    Arguments:
        consistency: Weight of the squared error of self-consistency beside that of the data.
        deterministic: That the data's futures are determined by what is known. Without a global code only this makes
            self-consistency admissible.
        rollout: Weight of the error after some jumps.
        jumps: Most jumps of a roll-out.
        restoring: The rate kappa per second at which heads return to the data; None: the whole way at once.
        bending: Weight of the mismatch of second differences.

    Raises:
        ValueError: A weight or the rate is negative or not finite, or there are no jumps.
    """

    consistency: float = 0.0
    deterministic: bool = False
    rollout: float = 0.0
    jumps: int = 4
    restoring: float | None = None
    bending: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.consistency, self.rollout, self.bending, self.restoring or 0.0)
        if not all(0 <= number < math.inf for number in numbers) or self.jumps < 1:
            raise ValueError(
                f"Weights and the restoring rate are finite and not negative, jumps at least 1; got {self}."
            )

    def check(self, *, coded: bool) -> None:
        """Refuse self-consistency where futures may branch.

        Raises:
            ValueError: It is on, there is no global code, and nothing says that the data are deterministic.
        """
        if self.consistency and not (coded or self.deterministic):
            raise ValueError(
                "Self-consistency fights regression where futures branch: use it with a global code (CodedMultiScale), "
                "or say LossTerms(deterministic=True) if what is known determines the future."
            )


REGRESSION = LossTerms()
"""Regression alone."""


def wanted_displacements(
    heads: TransitionHeads, drawn: Transitions, trajectory: Trajectory, *, frame: float, restoring: float | None
) -> Float[Tensor, "n gap state height width"]:
    """Where each head shall take a state, as a displacement: to the data, or part of the way there.

    A head that lands on an anchor whatever its network says is asked for the whole way.

    Arguments:
        heads: The heads.
        drawn: States of the clips, on the data or beside them.
        trajectory: The clips, one for each state.
        frame: Seconds between their frames.
        restoring: The rate kappa per second; None: the whole way.
    """
    at = drawn.index[:, None] + (heads.gap / frame).round().long()
    ahead = state_at(trajectory, at.clamp(1, trajectory.states.shape[1] - 1), frame=frame)
    whole = ahead - drawn.query.state[:, None]
    if restoring is None:
        return whole
    part = (restoring * heads.gap.abs()).clamp(max=1.0).expand(len(whole), -1)
    for anchor in (drawn.query.past, drawn.query.future):
        meets = anchor.present[:, None] & ((heads.gap - anchor.span[:, None]).abs() < _CLOSE)
        part = torch.where(meets, 1.0, part)
    part = torch.where(drawn.query.moving[:, None], part, 1.0)
    astray = state_at(trajectory, drawn.index, frame=frame) - drawn.query.state
    return whole - (1 - part)[:, :, None, None, None] * astray[:, None]


def semigroup_errors(
    heads: TransitionHeads, drawn: Transitions, rates: Float[Tensor, "n gap state height width"], noise: Noise
) -> Float[Tensor, "gap 2"]:
    """Mean squared error of one jump against two of half the length, by head, of latents and of velocities.

    In the units of the heads; zero for the heads that are half of no other's gap. A jump that would pass an anchor, or
    that no sampler takes, does not count. The gradient is that of the long jump alone.

    Arguments:
        heads: The heads.
        drawn: States to start from.
        rates: What the heads answer to them.
        noise: Chooses a pair of gaps for each state.
    """
    halves, doubles = _pairs(heads)
    device = rates.device
    if not len(halves):
        return rates.new_zeros(len(heads.gaps), 2)
    rows, pair = torch.arange(len(rates), device=device), noise.integers("pair", 0, len(halves), device=device)
    half, double = halves[pair], doubles[pair]
    gap = heads.gap[half]
    with torch.no_grad():
        first = rates[rows, half].detach()
        query = _moved(drawn.query, drawn.query.state + first * _grid(gap), gap)
        target = (first + heads(query)[rows, half]) / 2
    past = torch.where(drawn.query.past.present & (gap < 0), drawn.query.past.span, -torch.inf)
    future = torch.where(drawn.query.future.present, drawn.query.future.span, torch.inf)
    inside = (gap > past + _CLOSE) & (gap < future - _CLOSE)
    weight = drawn.weight[rows, double] * (inside & (drawn.weight[rows, double] > 0.5))
    error = _in_units(heads, (rates[rows, double] - target) * _grid(heads.gap[double]), double)
    chosen = (double[:, None] == torch.arange(len(heads.gaps), device=device)) * weight[:, None]
    total, count = whole_batch_mean(chosen.T @ error), whole_batch_mean(chosen.sum(dim=0))
    return total / count.clamp(min=_LEAST)[:, None]


def rollout_errors(
    heads: TransitionHeads,
    trajectory: Trajectory,
    noise: Noise,
    *,
    frame: float,
    reach: int,
    jumps: int,
    bounded: float = 0.0,
    code: Float[Tensor, "n code"] | None = None,
) -> Float[Tensor, "n 2"]:
    """Squared error after one to ``jumps`` random forward jumps, of latents and of velocities, in the units of heads.

    The jumps cover at most ``reach`` frames; the gradient passes through the last two. The unit is that of the head
    whose gap is next to the distance covered.

    Arguments:
        heads: The heads.
        trajectory: Clips.
        noise: One seed per clip.
        frame: Seconds between frames.
        reach: Most frames that the jumps cover together.
        jumps: Most jumps.
        bounded: Share of roll-outs with a known later frame, ``reach`` frames after their start.
        code: The global code of each clip, if the heads are told one.
    """
    device, count = trajectory.states.device, trajectory.states.shape[1]
    chosen = _jumps(heads, noise, frame=frame, reach=reach, jumps=jumps, device=device)
    start = noise.integers("start", 1, count - reach, device=device)
    whole = torch.ones_like(start, dtype=torch.bool)
    past = anchor_at(trajectory, start, start, moving=whole, frame=frame)
    later = anchor_at(trajectory, start, start + reach, moving=~whole, frame=frame)
    later = later.where(noise.uniform("bounded", device=device) < bounded)
    query = Query(past.state, whole, past, later, code)
    frames = (heads.gap / frame).round().long()
    covered = torch.zeros_like(start)
    rows = torch.arange(len(start), device=device)
    for number, head in enumerate(chosen.unbind(dim=1)):
        goes = head >= 0
        gap = torch.where(goes, heads.gap[head], 0.0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and number >= jumps - 2):
            state = query.state + heads(query)[rows, head] * _grid(gap)
        query = _moved(query, state, gap)
        covered = covered + torch.where(goes, frames[head], 0)
    error = query.state - state_at(trajectory, start + covered, frame=frame)
    nearest = (frames - covered[:, None]).abs().argmin(dim=1)
    return _in_units(heads, error, nearest)


def bending_mismatch(
    heads: TransitionHeads,
    predicted: Float[Tensor, "n gap state height width"],
    wanted: Float[Tensor, "n gap state height width"],
    weight: Float[Tensor, "n gap"],
) -> Float[Tensor, ""]:
    """How far second differences of predicted latents are from the size of the data's: mean of (ratio - 1)^2.

    Of displacements D over a gap and over twice the gap from one state, the second difference is D(2 d) - 2 D(d). The
    ratio is that of root mean squares over the batch, for each pair of gaps.

    Arguments:
        heads: The heads.
        predicted: Displacements by the heads.
        wanted: True displacements.
        weight: How much each counts; only those that samplers ask for do.
    """
    halves, doubles = _pairs(heads)
    if not len(halves):
        return predicted.new_zeros(())
    counts = ((weight[:, halves] > 0.5) & (weight[:, doubles] > 0.5)).to(predicted)

    def energy(displacement: Tensor) -> Tensor:
        bend = (displacement[:, doubles] - 2 * displacement[:, halves])[:, :, : heads.channels]
        return whole_batch_mean((bend.square().mean(dim=(2, 3, 4)) * counts).sum(dim=0))

    floor = _LEAST * heads.scale[doubles, 0].square() * whole_batch_mean(counts.sum(dim=0)) + _LEAST**2
    ratio = ((energy(predicted) + floor) / (energy(wanted) + floor)).sqrt()
    return (ratio - 1).square().mean()


def _pairs(heads: TransitionHeads) -> tuple[Int64[Tensor, "pair"], Int64[Tensor, "pair"]]:
    """Numbers of the heads whose gap is half that of another, and of these others."""
    gaps = heads.gaps
    found = [(k, n) for k, d in enumerate(gaps) for n, e in enumerate(gaps) if abs(e - 2 * d) < _CLOSE * abs(d)]
    table = torch.tensor(found, dtype=torch.int64, device=heads.gap.device).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _jumps(
    heads: TransitionHeads, noise: Noise, *, frame: float, reach: int, jumps: int, device: torch.device
) -> Int64[Tensor, "n jump"]:
    """Numbers of forward heads, -1 where there is no jump: none comes after one."""
    frames = [round(gap / frame) for gap in heads.gaps if gap > 0]
    sizes, first = torch.tensor(frames, device=device), len(heads.gaps) - len(frames)
    number = noise.integers("jumps", 1, jumps + 1, device=device)
    draw = noise.uniform("gap", jumps, device=device)
    left = torch.full_like(number, reach)
    found = []
    for index in range(jumps):
        fitting = (sizes <= left[:, None]).sum(dim=1)
        head = (draw[:, index] * fitting).long().clamp(max=len(frames) - 1)
        goes = (index < number) & (fitting > 0)
        left = left - torch.where(goes, sizes[head], 0)
        found.append(torch.where(goes, first + head, -1))
    return torch.stack(found[::-1], dim=1)


def _moved(query: Query, state: Tensor, gap: Tensor) -> Query:
    """The query of the states that a jump reached, under the same anchors; a gap of zero leaves all as it is."""

    def shifted(anchor: Anchor) -> Anchor:
        span = torch.where(anchor.present, anchor.span - gap, 0.0)
        return Anchor(anchor.state, anchor.moving, span, anchor.present)

    return Query(state, query.moving | (gap != 0), shifted(query.past), shifted(query.future), query.code)


def _in_units(
    heads: TransitionHeads, error: Float[Tensor, "n state height width"], head: Int64[Tensor, "n"]
) -> Float[Tensor, "n 2"]:
    """Mean squares of latents and of velocities in the units of one head for each row."""
    scale = heads.scale[head][:, :, None, None, None]
    return (error.unflatten(1, (2, -1)) / scale).square().mean(dim=(2, 3, 4))


def _grid(values: Float[Tensor, "n"]) -> Float[Tensor, "n 1 1 1"]:
    return values[:, None, None, None]
