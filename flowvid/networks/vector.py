"""Networks whose answer is a vector: what a set of frames at real times says together, and a field on vectors.

A set of frames has no order but their times. Each frame becomes features of its own, told its time; a few learned
queries weigh the frames by a softmax (attention pooling) and add up what they hold. The weight of a frame may be given:
the seconds it stands for make the answer depend on the trajectory rather than on how densely it was sampled, and a
weight of zero takes a frame out.

References:
    Progressive Growing of GANs (Karras et al., 2017), learning rates by stored scales, https://arxiv.org/abs/1710.10196
    Set Transformer (Lee et al., 2018), pooling by attention, https://arxiv.org/abs/1810.00825
    Flow Matching for Generative Modeling (Lipman et al., 2022), https://arxiv.org/abs/2210.02747
"""

__all__ = ["FrameSet", "VectorField", "seconds_shares", "slowed"]

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowvid.networks.layers import ScalarEmbedding, coordinates

_CELLS = 4


def seconds_shares(times: Float64[Tensor, "time"]) -> Float64[Tensor, "time"]:
    """The share of a span that each moment stands for: half the way to its neighbours on both sides (trapezoids).

    Arguments:
        times: Seconds in order; one alone has all.
    """
    if len(times) < 2:
        return torch.ones_like(times)
    steps = times.diff().abs()
    zero = steps.new_zeros(1)
    return (torch.cat((steps, zero)) + torch.cat((zero, steps))) / (2 * steps.sum())


class _Shrunk(nn.Module):
    """A parameter that is stored larger than it acts.

    Arguments:
        times: How many times larger.
    """

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times

    def forward(self, stored: Tensor) -> Tensor:
        return stored / self.times

    def right_inverse(self, acting: Tensor) -> Tensor:
        return acting * self.times


def slowed(module: nn.Module, times: float) -> nn.Module:
    """The module, whose linear layers and convolutions Adam changes some times more slowly than others.

    Adam's steps do not depend on the size of a gradient. An encoder whose answer nobody listens to yet would wander at
    full speed, and whoever is to listen could not follow. Its parameters are stored larger than they act.

    Arguments:
        module: What is slowed, in place.
        times: How many times.
    """
    for layer in [*module.modules()]:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for name in ("weight", "bias"):
                parametrize.register_parametrization(layer, name, _Shrunk(times))
    return module


class FrameSet(nn.Module):
    """Frames at real times to one vector.

    Arguments:
        inputs: Channels of a frame.
        features: Length of the vector.
        width: Channels of the first convolution.
        heads: Queries of the pooling; the features divide by it.
    """

    def __init__(self, inputs: int, features: int, *, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(inputs + 2, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(_CELLS),
            nn.Flatten(),
            nn.LayerNorm(2 * width * _CELLS**2),
            nn.Linear(2 * width * _CELLS**2, features),
        )
        self.heads = heads
        self.moment = ScalarEmbedding(1, features)
        self.join = _perceptron(2 * features, features)
        self.score = nn.Linear(features, heads)
        self.leave = _perceptron(features, features)

    def forward(
        self,
        frames: Float[Tensor, "batch time inputs height width"],
        times: Float[Tensor, "batch time"],
        weights: Float[Tensor, "batch time"],
    ) -> Float[Tensor, "batch feature"]:
        """The vector of each set.

        Arguments:
            frames: Frames of the set.
            times: Their times, of order one.
            weights: What each counts, not negative and not all zero; 0 leaves it out.
        """
        flat = frames.flatten(0, 1)
        seen = self.frame(torch.cat((flat, coordinates(flat)), dim=1)).unflatten(0, times.shape)
        moment = self.moment(times.reshape(-1, 1)).unflatten(0, times.shape)
        tokens = seen + self.join(torch.cat((seen, moment), dim=2))
        score = (self.score(tokens) + weights.log()[..., None]).softmax(dim=1)
        pooled = torch.einsum("bth,bthf->bhf", score, tokens.unflatten(2, (self.heads, -1))).flatten(1)
        return pooled + self.leave(pooled)


class VectorField(nn.Module):
    """A vector field on vectors over the noise level, given a context.

    Arguments:
        size: Length of the vectors.
        context: Features of the context.
        width: Features inside.
        depth: Residual blocks.
    """

    def __init__(self, size: int, context: int, *, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.told = ScalarEmbedding(1, width)
        self.context = nn.Linear(context, width)
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.leave = nn.Linear(width, size)

    def forward(
        self,
        vectors: Float[Tensor, "batch size"],
        level: Float[Tensor, "batch"],
        context: Float[Tensor, "batch context"],
    ) -> Float[Tensor, "batch size"]:
        """The rate of change of each vector."""
        told = self.told(level[:, None]) + self.context(context)
        hidden = self.enter(vectors)
        for block in self.blocks:
            hidden = hidden + block(F.silu(torch.cat((hidden, told), dim=1)))
        return self.leave(F.silu(hidden))


def _perceptron(inputs: int, features: int) -> nn.Sequential:
    """Two layers that start from inputs of unit variance, so that what tells inputs apart is not lost on the way."""
    return nn.Sequential(
        nn.LayerNorm(inputs),
        nn.Linear(inputs, features),
        nn.SiLU(),
        nn.LayerNorm(features),
        nn.Linear(features, features),
    )
