"""The problems that solvers are measured on: fields that cost as little as possible, and small networks."""

__all__ = ["SMALL_AND_LARGE", "TOLERANCE", "Attention", "Convolutions", "decay", "turning", "wandering"]

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.dynamics.drift import clock
from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.networks.trunk import Trunk

SMALL_AND_LARGE = (64, 4096)
"""Entries of a sample, in batches of 16."""
TOLERANCE = 1e-5


def decay(time: Any, state: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
    """The cheapest field: dz/dt = -z, one operation."""
    return -state


def turning(time: Any, state: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
    """Waves on a ring, dz/dt = the neighbour behind minus the one ahead: steps that never change."""
    return state.roll(1, 1) - state.roll(-1, 1)


def wandering() -> StochasticDrift:
    """Decay with a constant volatility."""
    return StochasticDrift(decay, lambda time, state: torch.full_like(state, 0.1))


class Attention(nn.Module):
    """A small transformer over the rows of a state, as a drift.

    Arguments:
        width: Entries of a token.
        depth: Layers.
    """

    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True) for _ in range(depth)
        )

    def forward(self, time: Any, state: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """The rate of change of the state."""
        moved = state + torch.sin(clock(time, state))[:, None, None]
        for layer in self.layers:
            moved = layer(moved)
        return moved - state


class Convolutions(nn.Module):
    """flowvid's trunk as a drift, told the time.

    Arguments:
        channels: Channels of the state.
        width: Channels inside.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.trunk = Trunk(channels, channels, scalars=1, width=width)
        for parameter in self.trunk.leave.parameters():
            nn.init.normal_(parameter, std=0.01)

    def forward(
        self, time: Any, state: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """The rate of change of the state."""
        return self.trunk(state, clock(time, state)[:, None])
