r"""A convolutional variational autoencoder for real footage: frames to grids 1 / factor their size, and back.

The encoder gives every latent a Gaussian posterior N(m, s^2); training decodes a draw from it and minimises minus the
evidence lower bound in nats per pixel value, with beta on the divergence of the posterior from N(0, 1):

    log(2 e E) + beta KL / pixel values,        E = mean |frame - decoded|  (+ a perceptual distance)
    KL = sum of (m^2 + s^2 - 1 - log s^2) / 2

The first term is the negative log-likelihood of Laplace errors of one scale at its best value, which is E itself
(Rybkin et al.; they do it for the Gaussian): the scale is learned without a parameter that would lag behind, and the
relative weight of errors and divergence needs no retuning as errors shrink. Absolute errors and a perceptual
distance added inside the logarithm follow Rombach et al. A small beta leaves the posterior narrow, and its mean, which
is what `latents` gives, faithful.

The first layer folds 2 x 2 pixels into channels: no residual block works at full resolution.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114
    beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017),
        https://openreview.net/forum?id=Sy2fzU9gl
    Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2020), https://arxiv.org/abs/2006.13202
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2021), https://arxiv.org/abs/2112.10752
"""

__all__ = ["ConvVae", "PerceptualDistance", "gaussian_divergence"]

import math
from collections.abc import Callable, Sequence
from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.encoders.normalised import NormalisedCodec, normal_like, wide
from flowvid.networks.layers import zeroed
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
"""(decoded, frames), both (n, pixel, height, width) in about [-1, 1], to n differentiable distances."""

_GROUPS = 8
_HEAD = 64
_NARROW = -6.0
_LOGARITHMS = (-30.0, 20.0)
_LEAST_ERROR = 1e-6


def gaussian_divergence(
    mean: Float[Tensor, "*shape"], log_variance: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Kullback-Leibler divergence of N(mean, variance) from N(0, 1), in nats, of every entry."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


@final
class ConvVae(NormalisedCodec):
    """Frames with sides that are multiples of the factor to latents of mean zero and deviation one.

    Arguments:
        pixels: Channels of a frame, 1 or 3.
        factor: Sides of a frame over sides of its latent: a power of two, at least 2.
        channels: Channels of a latent.
        width: Channels at half the resolution of the frames, a multiple of 8; doubled at every halving, at most twice.
        blocks: Residual blocks at each resolution, in the encoder and in the decoder.
        attention: Whether latents attend to each other across the frame, at their own resolution.
        beta: Weight of the divergence.

    Raises:
        ValueError: A number is not as described.
    """

    def __init__(
        self,
        pixels: int = 3,
        *,
        factor: int = 4,
        channels: int = 4,
        width: int = 32,
        blocks: int = 1,
        attention: bool = False,
        beta: float = 0.01,
    ) -> None:
        super().__init__(pixels, channels, factor)
        if pixels not in (1, 3) or factor < 2 or factor & (factor - 1):
            raise ValueError(
                f"Expected frames of 1 or 3 channels and a factor that is a power of two, at least 2; got "
                f"pixels={pixels}, factor={factor}."
            )
        if width < _GROUPS or width % _GROUPS or min(channels, blocks) < 1 or not beta >= 0:
            raise ValueError(
                f"Expected a width that is a positive multiple of {_GROUPS}, at least one channel and one block, and "
                f"beta >= 0; got width={width}, channels={channels}, blocks={blocks}, beta={beta}."
            )
        self.beta = beta
        widths = [width * 2 ** min(level, 2) for level in range(factor.bit_length() - 1)]
        self.encoder = _encoder(pixels, 2 * channels, widths, blocks=blocks, attention=attention)
        self.decoder = _decoder(channels, pixels, widths[::-1], blocks=blocks, attention=attention)

    def posterior(
        self, frames: Float[Tensor, "n pixel height width"]
    ) -> tuple[Float[Tensor, "n channel h w"], Float[Tensor, "n channel h w"]]:
        """Mean and logarithm of the variance of raw latents.

        Raises:
            ValueError: A side of the frames is not a multiple of the factor, or they have other channels.
        """
        mean, log_variance = self.encoder(self.check(frames)).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOGARITHMS)

    def raw(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """The mean of the posterior; see `NormalisedCodec.raw`."""
        return self.posterior(frames)[0]

    def decoded(self, raw: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """See `NormalisedCodec.decoded`."""
        return self.decoder(raw)

    def sample(self, frames: Float[Tensor, "n pixel height width"], noise: Noise) -> Float[Tensor, "n channel h w"]:
        """Normalised latents drawn from the posterior, one seed per frame.

        Raises:
            ValueError: A side of the frames is not a multiple of the factor, or they have other channels; or there is
                not one seed per frame.
        """
        return self.normalised(_drawn(*self.posterior(frames), noise))

    def loss(
        self,
        frames: Float[Tensor, "n pixel height width"],
        noise: Noise,
        *,
        perceptual: PerceptualDistance | None = None,
    ) -> Float[Tensor, ""]:
        """Minus the evidence lower bound in nats per pixel value; the scale of errors is the best one for the batch.

        Arguments:
            frames: Frames in [-1, 1].
            noise: One seed per frame.
            perceptual: A distance to add to the absolute error, LPIPS say, already weighted.

        Raises:
            ValueError: A side of the frames is not a multiple of the factor, or they have other channels; or there is
                not one seed per frame.
        """
        mean, log_variance = self.posterior(frames)
        decoded = wide(self.decoder(_drawn(mean, log_variance, noise)))
        error = (decoded - frames).abs().mean()
        if perceptual is not None:
            error = error + perceptual(decoded, frames).mean()
        divergence = gaussian_divergence(wide(mean), wide(log_variance)).sum() / frames.numel()
        return (whole_batch_mean(error) + _LEAST_ERROR).log() + math.log(2) + 1 + self.beta * divergence


class _Block(nn.Module):
    """Two 3x3 convolutions around a residual path, each after a group norm; starts as the identity or as a 1x1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = nn.GroupNorm(_GROUPS, inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.between = nn.GroupNorm(_GROUPS, outputs)
        self.second = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.direct = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, grid: Float[Tensor, "n inputs h w"]) -> Float[Tensor, "n outputs h w"]:
        hidden = self.first(F.silu(self.before(grid)))
        return self.direct(grid) + self.second(F.silu(self.between(hidden)))


class _Attention(nn.Module):
    """Every place of a grid attends to all others; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD)
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.enter = nn.Conv2d(channels, 3 * channels, 1)
        self.leave = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, grid: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n channel h w"]:
        parts = self.enter(self.norm(grid)).unflatten(1, (3, self.heads, -1)).flatten(4).transpose(3, 4)
        query, key, value = parts.unbind(dim=1)
        answer = F.scaled_dot_product_attention(query, key, value).transpose(2, 3)
        return grid + self.leave(answer.flatten(1, 2).unflatten(2, grid.shape[2:]))


def _middle(width: int, *, attention: bool) -> list[nn.Module]:
    return [_Block(width, width), *([_Attention(width)] if attention else []), _Block(width, width)]


def _encoder(pixels: int, outputs: int, widths: Sequence[int], *, blocks: int, attention: bool) -> nn.Sequential:
    """Fold pixels, then blocks at each resolution with halvings between; the posterior starts narrow."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * pixels, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
        layers += [_Block(width, width) for _ in range(blocks)]
    last = nn.Conv2d(widths[-1], outputs, 3, padding=1)
    assert last.bias is not None
    nn.init.zeros_(last.weight[outputs // 2 :])
    nn.init.constant_(last.bias[outputs // 2 :], _NARROW)
    return nn.Sequential(*layers, *_middle(widths[-1], attention=attention), _leave(widths[-1]), last)


def _decoder(channels: int, pixels: int, widths: Sequence[int], *, blocks: int, attention: bool) -> nn.Sequential:
    """Blocks at each resolution with doublings between, then unfold pixels."""
    layers = [nn.Conv2d(channels, widths[0], 3, padding=1), *_middle(widths[0], attention=attention)]
    for level, width in enumerate(widths):
        if level:
            layers += [nn.Conv2d(widths[level - 1], 4 * width, 3, padding=1), nn.PixelShuffle(2)]
        layers += [_Block(width, width) for _ in range(blocks)]
    last = nn.Conv2d(widths[-1], 4 * pixels, 3, padding=1)
    return nn.Sequential(*layers, _leave(widths[-1]), last, nn.PixelShuffle(2))


def _leave(width: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU())


def _drawn(mean: Tensor, log_variance: Tensor, noise: Noise) -> Tensor:
    return mean + (log_variance / 2).exp() * normal_like(mean, noise)
