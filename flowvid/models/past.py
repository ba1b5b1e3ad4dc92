"""Earlier states as a sampler meets them: the latest before a state, and one other, drawn at random.

A distance of n frames is drawn with probability log(1 + 1/n) / log(1 + longest), about 1 / n: near states say most
about motion, and of far ones any will do.
"""

__all__ = ["Past", "draw_length", "draw_lengths", "draw_pasts"]

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from flowvid.models.frames import take
from flowvid.noise import Noise

_CLOSE = 1e-6
_NEXT = 0.5


@dataclass(frozen=True, eq=False)
class Past:
    """One earlier state of each sample.

    Arguments:
        state: The state.
        distance: Frames back to it, positive, any real number.
        present: Where there is one; elsewhere the rest says nothing.
    """

    state: Float[Tensor, "batch channel height width"]
    distance: Float[Tensor, "batch"]
    present: Bool[Tensor, "batch"]

    @staticmethod
    def none(like: Float[Tensor, "batch channel height width"]) -> "Past":
        """No earlier state for any sample."""
        ones = like.new_ones(len(like))
        return Past(torch.zeros_like(like), ones, torch.zeros_like(ones, dtype=torch.bool))


def draw_length(noise: Noise, stream: str, longest: Int64[Tensor, "batch"]) -> Int64[Tensor, "batch"]:
    """Whole numbers from 1 up to the longest of each sample, near ones more often."""
    drawn = noise.uniform(stream, device=longest.device, dtype=torch.float64)
    return torch.minimum((drawn * (1.0 + longest).log()).exp().long(), longest)


def draw_lengths(noise: Noise, at: Int64[Tensor, "batch"], memory: int) -> Int64[Tensor, "batch 2"]:
    """Frames back from a state to the latest before it, half the time one, and to another before that, in training.

    Arguments:
        noise: One seed per sample.
        at: Frame number of the state; a length may exceed it where there is no such earlier frame.
        memory: Most frames back.
    """
    latest = draw_length(noise, "latest", at.clamp(1, memory))
    latest = torch.where(noise.uniform("next", device=at.device) < _NEXT, 1, latest)
    other = latest + draw_length(noise, "other", (at.clamp(max=memory) - latest).clamp(min=1))
    return torch.stack((latest, other), dim=1)


def draw_pasts(
    history: Mapping[float, Float[Tensor, "batch channel height width"]], start: float, noise: Noise, memory: int
) -> tuple[Past, Past]:
    """The latest state before one, and another before that, in sampling; each where there is such within memory.

    Arguments:
        history: States by frame number; known ones may lie between the frames.
        start: Frame number of the state.
        noise: One seed per sample.
        memory: Most frames back.
    """
    none = Past.none(history[start])
    near = sorted((start - at, at) for at in history if _CLOSE < start - at < memory + _CLOSE)
    if not near:
        return none, none
    latest = Past(history[near[0][1]], torch.full_like(none.distance, near[0][0]), ~none.present)
    if len(near) == 1:
        return latest, none
    lengths = torch.tensor([length for length, _ in near[1:]], dtype=torch.float64)
    shares = torch.log1p(1 / lengths).cumsum(dim=0)
    drawn = noise.uniform("past", dtype=torch.float64) * shares[-1]
    chosen = torch.searchsorted(shares, drawn).clamp(max=len(lengths) - 1)
    states = torch.stack([history[at] for _, at in near[1:]], dim=1)
    other = take(states, chosen.to(states.device))
    return latest, Past(other, lengths[chosen].to(none.distance), ~none.present)
