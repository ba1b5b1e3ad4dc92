"""A small convolutional autoencoder: each frame to a grid a quarter its size, and back.

Latents are normalised by statistics measured once after training, so that noise levels, structure functions and
losses mean the same in every channel. During training a little noise is added to the latents: the decoder then
maps the neighbourhood of the encoded frames back to frames, which is where a model's trajectories live.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2021), https://arxiv.org/abs/2112.10752
"""

__all__ = ["Autoencoder"]

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.encoders.codec import Codec
from flowvid.noise import Noise

_LEAST = 1e-6
"""Least deviation of a channel, so that one that never changes is not divided by zero."""


class Autoencoder(Codec):
    """Frames of side 4 n to latents of side n.

    Arguments:
        pixels: Channels of a frame.
        channels: Channels of a latent.
        width: Channels of the hidden layers at the coarse resolution.
        latent_noise: Standard deviation of the training noise, in units of the latents' own.

    Raises:
        ValueError: The width is not positive and even.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, pixels: int = 1, *, channels: int = 4, width: int = 48, latent_noise: float = 0.05) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"The width of the codec must be positive and even; got {width}.")
        self.latent_noise = latent_noise
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, width // 2, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width // 2, 4 * pixels, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    def latents(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """Normalised latents.

        Raises:
            ValueError: The side of the frames is not a multiple of 4.
        """
        return (self._raw(frames) - self.mean) / self.deviation

    def frames(self, latents: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """Frames of normalised latents, clipped to [-1, 1]."""
        return self.decoder(latents * self.deviation + self.mean).clamp(-1, 1)

    def loss(self, frames: Float[Tensor, "n pixel height width"], noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of frames decoded from slightly noisy latents.

        Raises:
            ValueError: The side of the frames is not a multiple of 4.
        """
        raw = self._raw(frames)
        spread = raw.detach().std(dim=(0, 2, 3), keepdim=True)
        jitter = noise.normal("latent", *raw.shape[1:], device=raw.device, dtype=raw.dtype)
        return F.mse_loss(self.decoder(raw + self.latent_noise * spread * jitter), frames)

    @torch.no_grad()
    def normalise(self, frames: Float[Tensor, "n pixel height width"]) -> None:
        """Measure the mean and deviation of the latents of representative frames.

        Raises:
            ValueError: The side of the frames is not a multiple of 4.
        """
        raw = self._raw(frames)
        self.mean.copy_(raw.mean(dim=(0, 2, 3))[:, None, None])
        self.deviation.copy_(raw.std(dim=(0, 2, 3)).clamp(min=_LEAST)[:, None, None])

    def _raw(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        if frames.shape[-1] % 4 or frames.shape[-2] % 4:
            raise ValueError(
                f"The codec needs frames with sides that are multiples of 4; got {tuple(frames.shape[-2:])}."
            )
        return self.encoder(frames)
