r"""The LSTM composite: one network reads a prefix, one tells it again backwards, one tells how it goes on.

The encoder reads frames one by one. Both decoders start from the memory that it ends with, and nothing else: what the
future predictor needs, such as velocities, and what the reconstruction needs, the looks of all frames, must both be
in it. The reconstruction runs in reverse, last frame first, since it then starts with what is easiest to recall. The
loss is the sum of both mean squared errors; either decoder can be left out.

A decoder may be conditional: it is shown the frame before, in training the true one, in sampling its own. Its first
step is shown nothing, nor is any step of an unconditional one.

A frame is cut into patches of p x p places, each read by an LSTM of its own, all with the same weights. With patches
as large as the frame that is the LSTM of whole frames, which the authors use for digits; of small patches, without
sight of each other, none can know what comes in from beside it, unless the kernel lets cells see their neighbours.

The model is deterministic and answers with about the mean of all futures. It moves from frame to frame; between
frames states are interpolated linearly.

References:
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), https://arxiv.org/abs/1502.04681
    Convolutional LSTM Network (Shi et al., 2015), https://arxiv.org/abs/1506.04214
"""

__all__ = ["DECODERS", "RecurrentComposite"]

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.models.frames import check_clips, take
from flowvid.models.prefix import check_prefix, continued
from flowvid.models.video_model import LearnedModel, refuse_solver
from flowvid.networks.recurrent import GridLstm, Memory
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory

DECODERS = ("conditional", "unconditional", "off")

_LEAST = 2


class RecurrentComposite(LearnedModel):
    """An encoder and two decoders.

    Arguments:
        channels: Channels of a latent, or of a frame.
        frame: Seconds between frames.
        patch: Side of a patch in places of the latent; its side for whole frames, 1 for latents that are vectors.
        width: Channels that a cell remembers.
        layers: Layers of the encoder and of each decoder.
        kernel: Side of the square of patches that a cell sees, odd.
        given: Frames of the longest prefix; of a longer one the last so many are read.
        ahead: Frames that training looks ahead.
        reconstruction: One of `DECODERS`.
        prediction: One of `DECODERS`.

    Raises:
        ValueError: A number is too small, the kernel even, a decoder unknown, or both are off.
    """

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        patch: int,
        width: int = 256,
        layers: int = 1,
        kernel: int = 1,
        given: int = 10,
        ahead: int = 10,
        reconstruction: str = "unconditional",
        prediction: str = "conditional",
    ) -> None:
        super().__init__()
        if min(channels, patch, ahead) < 1 or given < _LEAST or not frame > 0:
            raise ValueError(
                f"Expected frame > 0, channels, patch and ahead >= 1 and given >= {_LEAST}; got frame={frame}, "
                f"channels={channels}, patch={patch}, ahead={ahead}, given={given}."
            )
        kinds = (reconstruction, prediction)
        if any(kind not in DECODERS for kind in kinds) or kinds == ("off", "off"):
            raise ValueError(f"Decoders are {', '.join(DECODERS)}, and not both are off; got {kinds}.")
        self.channels = channels
        self.frame = frame
        self.patch = patch
        self.given = given
        self.ahead = ahead
        size = channels * patch**2
        self.encoder = GridLstm(size, width, layers=layers, kernel=kernel)
        self.backward_decoder, self.forward_decoder = (
            None if kind == "off" else _Decoder(size, width, layers, kernel, conditional=kind == "conditional")
            for kind in kinds
        )

    @property
    def solvers(self) -> tuple[str, ...]:
        """One step for each frame."""
        return ("recurrent",)

    def prepare(self, trajectory: Trajectory) -> None:
        """Check the clips; latents are normalised already.

        Raises:
            ValueError: The clips are not spaced by the model's frame, are too short, or do not divide into patches.
        """
        check_clips(trajectory, self.frame, least=self.given + self.ahead)
        self._patches(trajectory.states)

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared errors of reconstruction and prediction, summed; half of all prefixes are of random length.

        Raises:
            ValueError: The clips are not spaced by the model's frame, are too short, or do not divide into patches.
        """
        check_clips(trajectory, self.frame, least=self.given + self.ahead)
        count, device = trajectory.states.shape[1], trajectory.states.device
        first = noise.integers("first", 0, count - self.given - self.ahead + 1, device=device)
        window = first[:, None] + torch.arange(self.given + self.ahead, device=device)
        before, after = self._patches(take(trajectory.states, window)).split((self.given, self.ahead), dim=1)
        length = noise.integers("length", _LEAST, self.given + 1, device=device)
        length = torch.where(noise.uniform("whole", device=device) < 0.5, self.given, length)
        memory = self.encoder.empty(before[:, 0])
        for number, patches in enumerate(before.unbind(dim=1)):
            memory = self.encoder(patches, memory).where(number >= self.given - length, memory)
        total = before.new_zeros(())
        if self.backward_decoder is not None:
            reverse = before.flip(1)
            error = (self.backward_decoder(memory, self.given, shown=reverse) - reverse).square().flatten(2).mean(dim=2)
            told = torch.arange(self.given, device=device) < length[:, None]
            total = total + (torch.where(told, error, 0.0).sum(dim=1) / length).mean()
        if self.forward_decoder is not None:
            total = total + (self.forward_decoder(memory, self.ahead, shown=after) - after).square().mean()
        return total

    def predicted(
        self, states: Float[Tensor, "batch time channel height width"], count: int
    ) -> Float[Tensor, "batch {count} channel height width"]:
        """The frames that follow, each from the model's own before; gradients pass through all of them.

        Arguments:
            states: The prefix; at most the last `given` of its frames are read.
            count: How many frames.

        Raises:
            ValueError: The prediction decoder is off, or the states do not divide into patches.
        """
        if self.forward_decoder is None:
            raise ValueError("This model only reconstructs; build it with prediction='conditional' to look ahead.")
        return self._frames(self.forward_decoder(self._read(states), count))

    def reconstructed(self, known: Trajectory) -> Trajectory:
        """What the model's memory of a prefix still holds of it, in the order of the prefix.

        Raises:
            ValueError: The reconstruction decoder is off, or the prefix is not one that the model can read.
        """
        if self.backward_decoder is None:
            raise ValueError("This model only predicts; build it with reconstruction='unconditional' to look back.")
        check_prefix(known, self.frame, least=_LEAST)
        prefix = Trajectory(known.states[:, -self.given :], known.times[-self.given :])
        told = self.backward_decoder(self._read(prefix.states), len(prefix.times))
        return Trajectory(self._frames(told).flip(1), prefix.times)

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States after a prefix on the frame grid, linear between frames; see `VideoModel.sample`."""
        refuse_solver(self, solver)
        trajectory, count = continued(condition, times, self.predicted, frame=self.frame, least=_LEAST)
        steps = min(self.given, len(condition.require().times)) + count if count else 0
        return Solution(trajectory, steps, steps)

    def _read(self, states: Float[Tensor, "batch time channel height width"]) -> Memory:
        """The memory after a prefix."""
        prefix = self._patches(states[:, -self.given :])
        memory = self.encoder.empty(prefix[:, 0])
        for patches in prefix.unbind(dim=1):
            memory = self.encoder(patches, memory)
        return memory

    def _patches(
        self, states: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch time value rows columns"]:
        channels, height, width = states.shape[2:]
        if channels != self.channels or height % self.patch or width % self.patch:
            raise ValueError(
                f"This model reads {self.channels} channels in patches of {self.patch} x {self.patch}; got states of "
                f"shape {tuple(states.shape[2:])}."
            )
        return F.pixel_unshuffle(states, self.patch)

    def _frames(
        self, patches: Float[Tensor, "batch time value rows columns"]
    ) -> Float[Tensor, "batch time channel height width"]:
        return F.pixel_shuffle(patches, self.patch)


class _Decoder(nn.Module):
    """Goes on from a memory, step by step."""

    def __init__(self, size: int, width: int, layers: int, kernel: int, *, conditional: bool) -> None:
        super().__init__()
        self.inputs = size if conditional else 0
        self.lstm = GridLstm(self.inputs, width, layers=layers, kernel=kernel)
        self.leave = nn.Conv2d(width, size, 1)

    def forward(
        self, memory: Memory, count: int, *, shown: Float[Tensor, "batch time value rows columns"] | None = None
    ) -> Float[Tensor, "batch {count} value rows columns"]:
        """So many steps; a conditional decoder sees what is shown, or else its own answers."""
        like = memory.shown[:, 0]
        last = like.new_zeros(len(like), self.inputs, *like.shape[-2:])
        answers: list[Tensor] = []
        for number in range(count):
            memory = self.lstm(last, memory)
            answers.append(self.leave(memory.shown[:, -1]))
            if self.inputs:
                last = answers[-1] if shown is None else shown[:, number]
        return torch.stack(answers, dim=1)
