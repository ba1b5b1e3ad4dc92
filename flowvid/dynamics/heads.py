"""Transition heads: one trunk evaluation, K average velocities.

Head k answers for one signed gap: its output is the average rate of change of the state over that gap,

    u_k(s, t) ~ (s(t + gap_k) - s(t)) / gap_k,        s = (z, p).

The network predicts in units of the structure function D(gap) = E |s(t + gap) - s(t)|^2, so every head regresses a
target of unit variance: u_k = sqrt(D(gap_k)) / |gap_k| * net_k. Where an anchor lies in the direction of the gap,
at a distance span that the gap does not exceed, the latent part takes the endpoint-exact form

    u_k = (z_anchor - z) / span + (1 - gap_k / span) * sqrt(D(gap_k)) / |gap_k| * net_k,

which lands on the anchor when gap_k = span whatever the network says, and is the plain form for a far anchor.

References:
    Hierarchical Deep Learning of Multiscale Differential Equation Time-Steppers (Liu et al., 2020), https://arxiv.org/abs/2008.09768
    One Step Diffusion via Shortcut Models (Frans et al., 2024), https://arxiv.org/abs/2410.12557
"""

__all__ = ["TransitionHeads", "dyadic_gaps"]

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.dynamics.state import Anchor, Query, query_channels
from flowvid.networks.trunk import Trunk


def dyadic_gaps(shortest: float, count: int) -> tuple[float, ...]:
    """Gaps of both signs, doubling from the shortest: (-2^(count-1), ..., -1, 1, ..., 2^(count-1)) * shortest.

    Raises:
        ValueError: The shortest gap is not positive or there are no gaps.
    """
    if not shortest > 0 or count < 1:
        raise ValueError(f"Dyadic gaps need a positive shortest gap and at least one of them; got {shortest}, {count}.")
    forward = [shortest * 2.0**k for k in range(count)]
    return (*(-gap for gap in reversed(forward)), *forward)


class TransitionHeads(nn.Module):
    """K heads over one trunk.

    Arguments:
        channels: Channels of a latent z; a state has twice as many.
        gaps: Signed gaps in seconds, increasing, none of them zero.
        width: Width of the trunk.
        code: Numbers of the global code that the heads are told; 0: none.

    Raises:
        ValueError: The gaps are not increasing, or one is zero.
    """

    gap: Tensor
    scale: Tensor
    velocity_scale: Tensor

    def __init__(self, channels: int, gaps: Sequence[float], *, width: int, code: int = 0) -> None:
        super().__init__()
        if list(gaps) != sorted(set(gaps)) or 0.0 in gaps:
            raise ValueError(f"Gaps must be increasing seconds without zero; got {tuple(gaps)}.")
        self.gaps = tuple(float(gap) for gap in gaps)
        self.channels = channels
        self.code = code
        self.trunk = Trunk(query_channels(channels), 2 * channels * len(gaps), scalars=2 + code, width=width)
        self.register_buffer("gap", torch.tensor(self.gaps), persistent=False)
        self.register_buffer("scale", torch.ones(len(gaps), 2))
        self.register_buffer("velocity_scale", torch.ones(()))

    @property
    def shortest(self) -> float:
        """The shortest gap, in seconds; velocities are differences over it."""
        return min(abs(gap) for gap in self.gaps)

    @property
    def longest(self) -> float:
        """The longest gap, in seconds."""
        return max(abs(gap) for gap in self.gaps)

    def set_scales(self, structure: Float[Tensor, "gap 2"]) -> None:
        """Take the units of the outputs from the root structure function of (z, p) at every gap."""
        self.scale.copy_(structure)
        nearest = min(range(len(self.gaps)), key=lambda k: abs(self.gaps[k]))
        self.velocity_scale.copy_(structure[nearest, 0] / self.shortest)

    def forward(self, query: Query) -> Float[Tensor, "n gap state height width"]:
        """Average rates of change of the state (z, p) over every gap, per second.

        Raises:
            ValueError: The query has a code of another length than the heads were built for.
        """
        told = 0 if query.code is None else query.code.shape[1]
        if told != self.code:
            raise ValueError(f"These heads are told a global code of {self.code} numbers; got one of {told}.")
        grid, spans = query.packed(velocity_scale=self.velocity_scale, time_scale=self.longest)
        anchors = (query.past, query.future)
        ratios = torch.stack([self._ratio(anchor.span) for anchor in anchors], dim=2)
        slopes = torch.stack([self._slope(query, anchor) for anchor in anchors], dim=1)
        unit = (self.scale / self.gap.abs()[:, None]).expand(len(grid), -1, -1)
        free = torch.stack((unit[..., 0] * (1 - ratios).prod(dim=2), unit[..., 1]), dim=2)
        output = self.trunk(grid, spans).unflatten(1, (len(self.gaps), 2, self.channels))
        rates = torch.baddbmm((output * free[..., None, None, None]).flatten(2), (ratios > 0).to(slopes), slopes)
        return rates.unflatten(2, (2 * self.channels, *grid.shape[2:]))

    def _slope(self, query: Query, anchor: Anchor) -> Float[Tensor, "n entry"]:
        """Mean rate of change of the latent towards an anchor, flattened; zero for the velocity part."""
        distance = torch.where(anchor.span == 0, 1.0, anchor.span)
        slope = (anchor.latent - query.latent) / distance[:, None, None, None]
        return torch.cat((slope, torch.zeros_like(slope)), dim=1).flatten(1)

    def _ratio(self, span: Float[Tensor, "n"]) -> Float[Tensor, "n gap"]:
        """gap / span where the anchor lies at or beyond the gap in its direction; zero elsewhere."""
        ratio = self.gap / torch.where(span == 0, torch.inf, span)[:, None]
        return torch.where((ratio > 0) & (ratio <= 1 + 1e-6), ratio, 0.0)
