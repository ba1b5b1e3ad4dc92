r"""A variational autoencoder of whole frames: one vector for a frame, as of a generator of single images.

The latent of a frame is a grid of one place, so whatever moves on latents moves in the latent space of the image
generator, the decoder, whose every vector gives a whole image. The decoder is trained on single frames, and may then
be frozen while motion is learned on vectors alone. Two fully connected layers stand between vectors and a grid a
quarter of the frame; without them nothing but a group norm would see a whole vector. The objective is minus
the evidence lower bound in nats per pixel value, with Gaussian errors at their best scale (Rybkin et al.):

    log(2 pi e E) / 2 + beta KL / pixel values,        E = mean (frame - decoded)^2

Squared errors rather than the absolute ones of `flowvid.encoders.vae`: a vector must first learn where things are, and
the median of a mostly black frame is black wherever they are.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114
    Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2020), https://arxiv.org/abs/2006.13202
    A Good Image Generator Is What You Need for High-Resolution Video Synthesis (Tian et al., 2021),
        https://arxiv.org/abs/2104.15069
"""

__all__ = ["VectorVae"]

import math
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from flowvid.encoders.normalised import NormalisedCodec, normal_like, wide
from flowvid.encoders.vae import gaussian_divergence
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise

_NARROW = -6.0
_LOGARITHMS = (-30.0, 20.0)
_LEAST_ERROR = 1e-6


@final
class VectorVae(NormalisedCodec):
    """Square frames to vectors of mean zero and deviation one.

    Arguments:
        side: Side of the frames in pixels, a multiple of 4.
        pixels: Channels of a frame.
        channels: Length of a vector.
        width: Channels of the convolutions at half the resolution.
        hidden: Width of the fully connected layers.
        beta: Weight of the divergence.

    Raises:
        ValueError: The side is no positive multiple of 4, a number is not positive, or beta is negative.
    """

    def __init__(
        self,
        side: int,
        *,
        pixels: int = 1,
        channels: int = 16,
        width: int = 16,
        hidden: int = 256,
        beta: float = 0.01,
    ) -> None:
        super().__init__(pixels, channels, factor=side)
        if side < 4 or side % 4 or min(pixels, channels, width, hidden) < 1 or not beta >= 0:
            raise ValueError(
                "Expected a side that is a positive multiple of 4, positive numbers and beta >= 0; got "
                f"side={side}, pixels={pixels}, channels={channels}, width={width}, hidden={hidden}, beta={beta}."
            )
        self.beta = beta
        grid = 2 * width * (side // 4) ** 2
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(grid, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * channels),
        )
        last = self.encoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight[channels:])
        nn.init.constant_(last.bias[channels:], _NARROW)
        self.decoder = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.SiLU(),
            nn.Linear(hidden, grid),
            nn.SiLU(),
            nn.Unflatten(1, (2 * width, side // 4, side // 4)),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width, 4 * pixels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def posterior(
        self, frames: Float[Tensor, "n pixel height width"]
    ) -> tuple[Float[Tensor, "n channel 1 1"], Float[Tensor, "n channel 1 1"]]:
        """Mean and logarithm of the variance of raw latents.

        Raises:
            ValueError: The frames have other sides or channels than the codec.
        """
        if self.check(frames).shape[-2:] != (self.factor, self.factor):
            raise ValueError(
                f"The codec is one of frames of {self.factor} x {self.factor} pixels; got {tuple(frames.shape[-2:])}."
            )
        mean, log_variance = self.encoder(frames)[:, :, None, None].chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOGARITHMS)

    def raw(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel 1 1"]:
        """The mean of the posterior; see `NormalisedCodec.raw`."""
        return self.posterior(frames)[0]

    def decoded(self, raw: Float[Tensor, "n channel 1 1"]) -> Float[Tensor, "n pixel height width"]:
        """See `NormalisedCodec.decoded`."""
        return self.decoder(raw[:, :, 0, 0])

    def loss(self, frames: Float[Tensor, "n pixel height width"], noise: Noise) -> Float[Tensor, ""]:
        """Minus the evidence lower bound in nats per pixel value; the scale of errors is the best one for the batch.

        Raises:
            ValueError: The frames have other sides or channels than the codec, or there is not one seed per frame.
        """
        mean, log_variance = self.posterior(frames)
        drawn = mean + (log_variance / 2).exp() * normal_like(mean, noise)
        error = whole_batch_mean((wide(self.decoded(drawn)) - frames).square().mean())
        divergence = gaussian_divergence(wide(mean), wide(log_variance)).sum() / frames.numel()
        return 0.5 * (error + _LEAST_ERROR).log() + 0.5 * math.log(2 * math.pi * math.e) + self.beta * divergence
