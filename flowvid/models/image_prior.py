r"""From words to the embedding of an image: what a text-to-image model asks first.

An image and what is said of it are each mapped to a direction, and trained so that the two agree where the words are
those of the image and disagree where they are another's. For images e_i, words c_j and learned numbers a, b, a pair
costs

    - log sigmoid(s_ij (a <e_i, c_j> + b)),    s_ij = +1 where both have the same words, else -1,

and the loss is the mean over pairs of one kind plus that over the other, halved. It needs no sum over a batch in a
denominator, and lets several images share their words. So an embedding holds of an image what words say of it. (Pairs
are those within a batch; of processes that train together, each within its part.)

The law of an image's embedding given the words is a diffusion model in v on a vector: a token that asks the words. A
decoder told of the embedding then makes the image. Trained with it but not by it, the embeddings cannot become a code
for pixels.

References:
    Hierarchical Text-Conditional Image Generation with CLIP Latents (Ramesh et al., 2022), prior and decoder, https://arxiv.org/abs/2204.06125
    Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021), https://arxiv.org/abs/2103.00020
    Sigmoid Loss for Language Image Pre-Training (Zhai et al., 2023), https://arxiv.org/abs/2303.15343
"""

__all__ = ["SILENT", "ImagePrior", "same_words"]

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.predictions import add_noise, target
from flowvid.dynamics.drift import clock
from flowvid.encoders.text import TextTokens
from flowvid.networks.layers import ScalarEmbedding, coordinates
from flowvid.networks.transformer import LastLayer, TransformerBlock
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver
from flowvid.solvers import solve

_LEAST = 1e-6

SILENT = 0.1
"""Share of training samples from which something that they could be told is left out."""


class ImagePrior(nn.Module):
    """Embeddings of images that agree with words, and their law given words.

    Arguments:
        channels: Channels of an image.
        words: Features of a token of the words.
        size: Numbers in an embedding, of unit mean square.
        tokens: Tokens beside those of the words by which a decoder is told of an embedding.
        width: Features of the networks, a multiple of 8.
        depth: Blocks of the network that predicts embeddings.
    """

    def __init__(
        self, channels: int, words: int, *, size: int = 16, tokens: int = 4, width: int = 64, depth: int = 3
    ) -> None:
        super().__init__()
        self.size = size
        self.image = nn.Sequential(
            nn.Conv2d(channels + 2, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, size),
        )
        self.words = nn.Linear(words, size)
        self.shown = nn.Linear(size, tokens * words)
        self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))
        self.offset = nn.Parameter(torch.zeros(()))
        self.level = ScalarEmbedding(1, 2 * width)
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, 4, 2 * width, context=words) for _ in range(depth))
        self.leave = LastLayer(width, 2 * width, size)

    def embed(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image size"]:
        """Embeddings, of unit mean square each."""
        seen = self.image(torch.cat((images, coordinates(images)), dim=1))
        return F.normalize(seen, dim=1) * math.sqrt(self.size)

    def direction(
        self, heard: Float[Tensor, "batch token feature"], said: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch size"]:
        """What words say, as an embedding; zero where nothing is said.

        Arguments:
            heard: Features of the words.
            said: Which of them exist.
        """
        there = said[:, :, None].to(heard.dtype)
        mean = (heard * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        some = said.any(dim=1)[:, None].to(heard.dtype)
        return F.normalize(self.words(mean), dim=1) * some * math.sqrt(self.size)

    def context(
        self,
        embedding: Float[Tensor, "batch time size"],
        heard: Float[Tensor, "batch token feature"],
        said: Bool[Tensor, "batch token"],
        told: Bool[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch time other feature"], Bool[Tensor, "batch time other"]]:
        """What a decoder may ask of every frame, the words and the embedding of its image, and what of it exists.

        Arguments:
            embedding: Of every frame.
            heard: Features of the words.
            said: Which of them exist.
            told: For which samples the embeddings do.
        """
        count = embedding.shape[1]
        shown = self.shown(embedding).unflatten(2, (-1, heard.shape[2]))
        words = heard[:, None].expand(-1, count, -1, -1)
        exists = torch.cat((said, told[:, None].expand(-1, shown.shape[2])), dim=1)
        return torch.cat((words, shown), dim=2), exists[:, None].expand(-1, count, -1)

    def trained_context(
        self,
        clips: Float[Tensor, "batch time channel height width"],
        exists: Bool[Tensor, "batch time"],
        heard: Float[Tensor, "batch token feature"],
        said: Bool[Tensor, "batch token"],
        same: Bool[Tensor, "batch batch"],
        noise: Noise,
    ) -> tuple[Float[Tensor, "batch time other feature"], Bool[Tensor, "batch time other"], Float[Tensor, ""]]:
        """A context of training clips, words and embeddings left out at random, and the losses of the prior.

        The frames of a clip share the embedding of one of them; single images have their own.

        Arguments:
            clips: Clean frames.
            exists: Which of them are of a clip; the others are single images.
            heard: Features of the words.
            said: Which of them exist.
            same: Which pairs of samples have the same words.
            noise: One seed per sample.
        """
        device = clips.device
        each = self.embed(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        chosen = (noise.uniform("shown", device=device) * exists.sum(dim=1).clamp(min=1)).long()
        one = each[torch.arange(len(clips), device=device), chosen]
        left_out = noise.uniform("silent", 3, device=device) < SILENT
        silent, hidden = left_out[:, 0] | left_out[:, 1], left_out[:, 0] | left_out[:, 2]
        spoken = said & ~silent[:, None]
        losses = self.agreement(one, heard, said, same) + self.loss(one, heard, spoken, noise.fold("prior"))
        shared = torch.where(exists[:, :, None], one[:, None], each).detach()
        return *self.context(shared, heard, spoken, ~hidden), losses

    def agreement(
        self,
        embedding: Float[Tensor, "batch size"],
        heard: Float[Tensor, "batch token feature"],
        said: Bool[Tensor, "batch token"],
        same: Bool[Tensor, "batch batch"],
    ) -> Float[Tensor, ""]:
        """How badly images of which something is said agree with their words, and disagree with those of others.

        Arguments:
            embedding: Of images.
            heard: Features of the words.
            said: Which of them exist.
            same: Which pairs of samples have the same words.
        """
        product = embedding @ self.direction(heard, said).T / self.size
        score = self.sharpness.exp() * product + self.offset
        some = said.any(dim=1)
        pairs = some[:, None] & some
        return (_mean(-F.logsigmoid(score), pairs & same) + _mean(-F.logsigmoid(-score), pairs & ~same)) / 2

    def loss(
        self,
        embedding: Float[Tensor, "batch size"],
        heard: Float[Tensor, "batch token feature"],
        said: Bool[Tensor, "batch token"],
        noise: Noise,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the predicted v of embeddings, at random levels; none of it trains the embeddings.

        Arguments:
            embedding: Of images.
            heard: Features of the words, silent for some samples so that the law without words is learned too.
            said: Which of them exist.
            noise: One seed per sample.
        """
        clean, device = embedding.detach(), embedding.device
        level = noise.uniform("level", device=device)
        epsilon = noise.normal("noise", self.size, device=device).to(clean)
        error = self.v(add_noise(clean, epsilon, level), level.to(clean), heard, said)
        return (error - target("v", clean, epsilon, level)).square().mean()

    def v(
        self,
        noisy: Float[Tensor, "batch size"],
        level: Float[Tensor, "batch"],
        heard: Float[Tensor, "batch token feature"],
        said: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "batch size"]:
        """Predicted v of noisy embeddings.

        Arguments:
            noisy: The noisy embeddings.
            level: Noise level in [0, 1].
            heard: Features of the words.
            said: Which of them exist.
        """
        features = self.level(level[:, None])
        token = self.enter(noisy)[:, None]
        nowhere = token.new_zeros(len(token), 1, 1)
        for block in self.blocks:
            token = block(token, features, angles=nowhere, context=heard, said=said)
        return self.leave(token, features)[:, 0]

    def sample(
        self,
        heard: Float[Tensor, "batch token feature"],
        said: Bool[Tensor, "batch token"],
        noise: Noise,
        solver: Solver,
    ) -> tuple[Float[Tensor, "batch size"], Solution]:
        """Embeddings given words, brought to unit mean square, and the solution that ends at them.

        Arguments:
            heard: Features of the words.
            said: Which of them exist.
            noise: One seed per sample.
            solver: Of a probability flow.
        """

        def network(noisy: Tensor, level: Any) -> Tensor:
            return self.v(noisy, clock(level, noisy), heard, said)

        begin = noise.normal("embedding", self.size, device=heard.device).to(heard)
        solution = solve(Denoiser(network), begin, [1.0, 0.0], solver)
        return F.normalize(solution.trajectory.states[:, -1], dim=1) * math.sqrt(self.size), solution


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of what counts; zero where nothing does."""
    total = whole_batch_mean(torch.where(counted, values, 0.0).sum())
    return total / whole_batch_mean(counted.sum().to(total.dtype)).clamp(min=_LEAST)


def same_words(tokens: TextTokens | None, count: int, device: torch.device) -> Bool[Tensor, "batch batch"]:
    """Which pairs of samples have the same words."""
    if tokens is None:
        return torch.eye(count, dtype=torch.bool, device=device)
    ids = torch.where(tokens.said, tokens.ids, -1).to(device)
    return (ids[:, None] == ids[None]).all(dim=2)
