r"""All frames that follow, in one evaluation, from all that are given: the direct network of whole clips.

Frames are folded, each square of p x p places into channels, and stacked: what was time is channels, and a
two-level convolutional network maps the given ones to those that follow. Nothing is carried from frame to frame, so
nothing drifts, and training takes one pass through the network. The answer is the mean of all futures. Beyond its
reach the model goes on from its own frames.

References:
    SimVP: Simpler yet Better Video Prediction (Gao et al., 2022), https://arxiv.org/abs/2206.05099
    OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning (Tan et al., 2023),
        https://arxiv.org/abs/2306.11249
"""

__all__ = ["ClipRegression"]

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowvid.models.frames import check_clips, take
from flowvid.models.prefix import continued
from flowvid.models.video_model import LearnedModel, refuse_solver
from flowvid.networks.trunk import Trunk
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory


class ClipRegression(LearnedModel):
    """A trunk from the given frames to those that follow.

    Arguments:
        channels: Channels of a latent, or of a frame.
        frame: Seconds between frames.
        given: Frames that it needs; of a longer prefix the last so many.
        ahead: Frames of one evaluation.
        fold: Side of the squares of places that become channels.
        width: Width of the trunk.
        depth: Blocks of the trunk at half resolution.

    Raises:
        ValueError: A number is not positive, or the trunk cannot have that width.
    """

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        given: int = 10,
        ahead: int = 10,
        fold: int = 1,
        width: int = 64,
        depth: int = 3,
    ) -> None:
        super().__init__()
        if min(channels, given, ahead, fold, depth) < 1 or not frame > 0:
            raise ValueError(
                f"Expected frame > 0 and channels, given, ahead, fold and depth >= 1; got frame={frame}, "
                f"channels={channels}, given={given}, ahead={ahead}, fold={fold}, depth={depth}."
            )
        self.channels = channels
        self.frame = frame
        self.given = given
        self.ahead = ahead
        self.fold = fold
        size = channels * fold**2
        self.trunk = Trunk(given * size, ahead * size, scalars=1, width=width, depth=depth)

    @property
    def solvers(self) -> tuple[str, ...]:
        """One evaluation for every `ahead` frames."""
        return ("direct",)

    def prepare(self, trajectory: Trajectory) -> None:
        """Check the clips; latents are normalised already.

        Raises:
            ValueError: The clips are not spaced by the model's frame, are too short, or cannot be folded.
        """
        check_clips(trajectory, self.frame, least=self.given + self.ahead)
        self._check(trajectory.states)

    def forward(
        self, states: Float[Tensor, "batch given channel height width"]
    ) -> Float[Tensor, "batch ahead channel height width"]:
        """The frames that follow.

        Raises:
            ValueError: The states cannot be folded.
        """
        folded = F.pixel_unshuffle(self._check(states), self.fold).flatten(1, 2)
        later = self.trunk(folded, folded.new_zeros(len(folded), 1)).unflatten(1, (self.ahead, -1))
        return F.pixel_shuffle(later, self.fold)

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of the frames after a random window.

        Raises:
            ValueError: The clips are not spaced by the model's frame, are too short, or cannot be folded.
        """
        check_clips(trajectory, self.frame, least=self.given + self.ahead)
        count, device = trajectory.states.shape[1], trajectory.states.device
        first = noise.integers("first", 0, count - self.given - self.ahead + 1, device=device)
        window = take(trajectory.states, first[:, None] + torch.arange(self.given + self.ahead, device=device))
        return (self(window[:, : self.given]) - window[:, self.given :]).square().mean()

    def predicted(
        self, states: Float[Tensor, "batch time channel height width"], count: int
    ) -> Float[Tensor, "batch {count} channel height width"]:
        """So many frames that follow, from the model's own beyond its reach.

        Arguments:
            states: At least `given` frames.
            count: How many frames.

        Raises:
            ValueError: The states cannot be folded.
        """
        start = states.shape[1]
        while states.shape[1] < start + count:
            states = torch.cat((states, self(states[:, -self.given :])), dim=1)
        return states[:, start : start + count]

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States after a prefix on the frame grid, linear between frames; see `VideoModel.sample`."""
        refuse_solver(self, solver)
        trajectory, count = continued(condition, times, self.predicted, frame=self.frame, least=self.given)
        windows = -(-count // self.ahead)
        return Solution(trajectory, windows, windows)

    def _check(
        self, states: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch time channel height width"]:
        channels, height, width = states.shape[2:]
        if channels != self.channels or height % self.fold or width % self.fold:
            raise ValueError(
                f"This model reads {self.channels} channels in squares of {self.fold} x {self.fold}; got states of "
                f"shape {tuple(states.shape[2:])}."
            )
        return states
