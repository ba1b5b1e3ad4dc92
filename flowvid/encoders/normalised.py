"""Learned codecs of single frames, in units of their own latents.

A network's raw latents have whatever mean and size training gave them. Measured once after training and divided out,
noise levels, structure functions and losses mean the same in every channel, and so for every codec.
"""

__all__ = ["NormalisedCodec", "normal_like", "wide"]

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.encoders.codec import Codec
from flowvid.noise import Noise

_LEAST = 1e-6
"""Least deviation of a channel, so that one that never changes is not divided by zero."""

_CHUNK = 64


def wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values in at least single precision, which sums over latents need under mixed precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def normal_like(values: Float[Tensor, "n *shape"], noise: Noise) -> Float[Tensor, "n *shape"]:
    """Standard normal numbers for the latents of every frame, in their type, whichever that is.

    Raises:
        ValueError: There is not one seed per frame.
    """
    if len(noise) != len(values):
        raise ValueError(f"Each frame needs a seed of its own; got {len(values)} frames and {len(noise)} seeds.")
    dtype = torch.promote_types(values.dtype, torch.float32)
    return noise.normal("latent", *values.shape[1:], device=values.device, dtype=dtype).to(values.dtype)


class NormalisedCodec(Codec):
    """A network from frames to raw latents, one back, and the units between raw and normalised latents.

    Arguments:
        pixels: Channels of a frame.
        channels: Channels of a latent.
        factor: Sides of a frame over sides of its latent.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, pixels: int, channels: int, factor: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.factor = factor
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    @abstractmethod
    def raw(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """Raw latents of frames that `check` has passed."""

    @abstractmethod
    def decoded(self, raw: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """Frames of raw latents, not clipped."""

    def latents(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """Normalised latents.

        Raises:
            ValueError: A side of the frames is not a multiple of the factor, or they have other channels.
        """
        return self.normalised(self.raw(self.check(frames)))

    def frames(self, latents: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """Frames of normalised latents, clipped to [-1, 1]."""
        return self.decoded(latents * self.deviation + self.mean).clamp(-1, 1)

    def normalised(self, raw: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n channel h w"]:
        """Raw latents in units of their mean and deviation."""
        return (raw - self.mean) / self.deviation

    @torch.no_grad()
    def normalise(self, frames: Float[Tensor, "n pixel height width"]) -> None:
        """Measure the mean and deviation of the latents of representative frames.

        Raises:
            ValueError: A side of the frames is not a multiple of the factor, or they have other channels.
        """
        raw = torch.cat([self.raw(part) for part in self.check(frames).split(_CHUNK)])
        self.mean.copy_(raw.mean(dim=(0, 2, 3))[:, None, None])
        self.deviation.copy_(raw.std(dim=(0, 2, 3)).clamp(min=_LEAST)[:, None, None])

    def check(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n pixel height width"]:
        """The frames, if they fit.

        Raises:
            ValueError: A side of the frames is not a multiple of the factor, or they have other channels.
        """
        if frames.shape[-1] % self.factor or frames.shape[-2] % self.factor:
            raise ValueError(
                f"The codec needs frames with sides that are multiples of {self.factor}; "
                f"got {tuple(frames.shape[-2:])}."
            )
        if frames.shape[1] != self.pixels:
            raise ValueError(f"The codec is one of frames of {self.pixels} channels; got {frames.shape[1]}.")
        return frames
