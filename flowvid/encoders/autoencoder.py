"""A small convolutional autoencoder: each frame to a grid a quarter its size, and back.

Latents are normalised by statistics measured once after training, so that noise levels, structure functions and
losses mean the same in every channel. During training a little noise is added to the latents: the decoder then
maps the neighbourhood of the encoded frames back to frames, which is where a model's trajectories live.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2021), https://arxiv.org/abs/2112.10752
"""

__all__ = ["Autoencoder"]

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.encoders.normalised import NormalisedCodec, normal_like, wide
from flowvid.noise import Noise


class Autoencoder(NormalisedCodec):
    """Frames of side 4 n to latents of side n.

    Arguments:
        pixels: Channels of a frame.
        channels: Channels of a latent.
        width: Channels of the hidden layers at the coarse resolution.
        latent_noise: Standard deviation of the training noise, in units of the latents' own.

    Raises:
        ValueError: The width is not positive and even.
    """

    def __init__(self, pixels: int = 1, *, channels: int = 4, width: int = 48, latent_noise: float = 0.05) -> None:
        super().__init__(pixels, channels, factor=4)
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

    def raw(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """See `NormalisedCodec.raw`."""
        return self.encoder(frames)

    def decoded(self, raw: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """See `NormalisedCodec.decoded`."""
        return self.decoder(raw)

    def loss(self, frames: Float[Tensor, "n pixel height width"], noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of frames decoded from slightly noisy latents.

        Raises:
            ValueError: A side of the frames is not a multiple of 4, or they have other channels; or there is not
                one seed per frame.
        """
        raw = self.raw(self.check(frames))
        spread = raw.detach().std(dim=(0, 2, 3), keepdim=True)
        jitter = normal_like(raw, noise)
        return F.mse_loss(wide(self.decoder(raw + self.latent_noise * spread * jitter)), frames)
