"""How far a multi-scale model's jumps disagree: semigroup gaps and seams of its flow map, in units of the latents.

`flowvid.metrics.rhythm` says what they are. They are measured under the condition of the task, from true states; a jump
counts if it ends within the horizon, as those of samplers do. The hidden velocity counts as the displacement over one
frame, so that both halves of a state are in the units of the latents.
"""

__all__ = ["seam_levels", "semigroup_levels"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowvid.dynamics.drift import MultiScaleField
from flowvid.dynamics.state import Surroundings
from flowvid.metrics.rhythm import seams, semigroup_gaps
from flowvid.models.continuous import MultiScale
from flowvid.video import Condition, Trajectory

_CLOSE = 1e-6


@dataclass(frozen=True, eq=False)
class _Scaled:
    """A field on states (z, p x frame)."""

    field: MultiScaleField
    frame: float

    @property
    def gaps(self) -> tuple[float, ...]:
        """Signed gaps in seconds."""
        return self.field.gaps

    def rates(
        self,
        times: Sequence[float] | Float64[Tensor, "batch n"],
        states: Float[Tensor, "batch n *state"],
        moving: Sequence[bool],
    ) -> Float[Tensor, "batch n gap *state"]:
        """Average velocities over every gap."""
        latent, shift = states.chunk(2, dim=2)
        rates = self.field.rates(times, torch.cat((latent, shift / self.frame), dim=2), moving)
        latent, shift = rates.chunk(2, dim=3)
        return torch.cat((latent, shift * self.frame), dim=3)


def _flow_map(model: MultiScale, condition: Condition, code: Float[Tensor, "batch code"] | None = None) -> _Scaled:
    return _Scaled(MultiScaleField(model.heads, Surroundings(condition, gap=model.frame, code=code)), model.frame)


def _states(latents: Trajectory) -> Trajectory:
    """Latents a frame apart with their displacements since the frame before, from the second one on."""
    z = latents.states
    return Trajectory(torch.cat((z[:, 1:], z.diff(dim=1)), dim=2), latents.times[1:])


@torch.no_grad()
def semigroup_levels(
    model: MultiScale, latents: Trajectory, condition: Condition, *, code: Float[Tensor, "batch code"] | None = None
) -> list[float]:
    """Mean distance between one jump of 2^j frames and two of half the length, for j = 1, 2, ...

    Arguments:
        model: The model; one with a single gap of each sign has no levels.
        latents: True latents a frame apart, from one frame before the start to the horizon.
        condition: What is known of them.
        code: The global code of each clip, of a model that is told one.
    """
    gaps = sorted(gap for gap in model.heads.gaps if gap > 0)
    states = _states(latents)
    stop = float(states.times[-1])
    if len(gaps) < 2:
        return []
    every = Trajectory(states.states[:, ::2], states.times[::2])
    found = semigroup_gaps(_flow_map(model, condition, code), every)
    inside = [every.times + gap <= stop + _CLOSE for gap in gaps[1:]]
    return [float(found[:, within, level].mean()) for level, within in enumerate(inside) if bool(within.any())]


@torch.no_grad()
def seam_levels(model: MultiScale, sampled: Trajectory, condition: Condition) -> list[float]:
    """Mean distance of sampled frames from where the one before jumps, by trailing zeros of their number.

    Arguments:
        model: What sampled them.
        sampled: Latents a frame apart, from one frame before the start on.
        condition: What they were sampled under.
    """
    return seams(_flow_map(model, condition), _states(sampled)).tolist()
