"""Small shared layers: embeddings of real scalars, residual blocks modulated by them, a grid of coordinates.

Every block starts as the identity (its last convolution is zero) and takes what it is told about times, gaps or
noise levels through a scale and a shift of its features.

References:
    FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2017), https://arxiv.org/abs/1709.07871
    Scalable Diffusion Models with Transformers (Peebles and Xie, 2022), https://arxiv.org/abs/2212.09748
"""

__all__ = ["ModulatedBlock", "ScalarEmbedding", "coordinates", "zeroed"]

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to zero, so that what it feeds starts unchanged."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def coordinates(like: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 2 height width"]:
    """Pixel-centre coordinates in (-1, 1), (x, y) as two channels."""
    batch, _, height, width = like.shape
    axes = [(torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) * (2 / n) - 1 for n in (width, height)]
    x, y = torch.meshgrid(*axes, indexing="xy")
    return torch.stack((x, y)).expand(batch, 2, height, width)


class ScalarEmbedding(nn.Module):
    """Real scalars of order one to a feature vector: the raw values, sines and cosines of octaves, two layers.

    Arguments:
        scalars: How many scalars one sample has.
        features: Length of the feature vector.
        octaves: Highest frequency is 2^(octaves - 1) / 2 cycles per unit.
    """

    def __init__(self, scalars: int, features: int, *, octaves: int = 5) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(scalars * (1 + 2 * octaves), features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )

    def forward(self, scalars: Float[Tensor, "batch scalar"]) -> Float[Tensor, "batch feature"]:
        angles = (scalars[:, :, None] * self.frequencies).flatten(1)
        return self.layers(torch.cat((scalars, angles.sin(), angles.cos()), dim=1))


class ModulatedBlock(nn.Module):
    """Two 3x3 convolutions around a residual path, modulated by an embedding.

    Arguments:
        channels: Channels in and out.
        features: Length of the embedding.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = zeroed(nn.Linear(features, 2 * channels))
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(
        self, grid: Float[Tensor, "batch channel height width"], embedding: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch channel height width"]:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.first(F.silu(self.norm(grid)))
        return grid + self.second(F.silu(hidden * (1 + scale) + shift))
