"""The trunk that every method shares: a small two-level convolutional network on latent grids.

Half of its blocks work at half resolution, where a convolution reaches across the frame at a quarter of the cost;
a skip connection keeps the fine grid. What differs between methods is only the number of channels that go in
and out and the scalars (gaps, spans, noise levels) that modulate it.

References:
    U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., 2015), https://arxiv.org/abs/1505.04597
"""

__all__ = ["Trunk", "count_parameters"]

from bisect import bisect_left

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.networks.layers import ModulatedBlock, ScalarEmbedding, coordinates, zeroed


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


class Trunk(nn.Module):
    """Latent grids and scalars in, latent grids out.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        scalars: Scalars per sample.
        width: Channels at full resolution, a multiple of 8; half resolution has twice as many.
        depth: Blocks at half resolution.
        features: Length of the embedding of the scalars; 2 * width by default. It hardly costs time, so it is
            what makes parameter counts equal between methods (see `Trunk.matching`).

    Raises:
        ValueError: The width is not a positive multiple of 8.
    """

    def __init__(
        self, inputs: int, outputs: int, *, scalars: int, width: int, depth: int = 3, features: int | None = None
    ) -> None:
        super().__init__()
        if width <= 0 or width % 8:
            raise ValueError(f"Width must be a positive multiple of 8; got {width}.")
        features = features or 2 * width
        self.embed = ScalarEmbedding(scalars, features)
        self.enter = nn.Conv2d(inputs + 2, width, 3, padding=1)
        self.fine_in = ModulatedBlock(width, features)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(ModulatedBlock(2 * width, features) for _ in range(depth))
        self.up = nn.Sequential(nn.Conv2d(2 * width, 8 * width, 1), nn.PixelShuffle(2))
        self.fine_out = ModulatedBlock(width, features)
        self.norm = nn.GroupNorm(8, 2 * width)
        self.leave = zeroed(nn.Conv2d(2 * width, outputs, 3, padding=1))

    @staticmethod
    def matching(parameters: int, inputs: int, outputs: int, *, scalars: int, width: int) -> "Trunk":
        """The trunk of this width whose embedding brings it closest to a number of parameters.

        Arguments:
            parameters: The number of parameters to come close to.
            inputs: Channels in.
            outputs: Channels out.
            scalars: Scalars per sample.
            width: Channels at full resolution.
        """

        def build(features: int) -> "Trunk":
            return Trunk(inputs, outputs, scalars=scalars, width=width, features=features)

        def count(features: int) -> int:
            with torch.device("meta"):
                return count_parameters(build(features))

        sizes = range(4, 16 * width, 4)
        above = bisect_left(sizes, parameters, key=count)
        nearest = sizes[max(0, above - 1) : above + 1]
        return build(min(nearest, key=lambda features: abs(count(features) - parameters)))

    def forward(
        self, grid: Float[Tensor, "batch inputs height width"], scalars: Float[Tensor, "batch scalar"]
    ) -> Float[Tensor, "batch outputs height width"]:
        embedding = self.embed(scalars)
        fine = self.fine_in(self.enter(torch.cat((grid, coordinates(grid)), dim=1)), embedding)
        coarse = self.down(F.silu(fine))
        for block in self.coarse:
            coarse = block(coarse, embedding)
        height, width = fine.shape[-2:]
        added, direct = self.up(coarse)[..., :height, :width].chunk(2, dim=1)
        fine = self.fine_out(fine + added, embedding)
        return self.leave(F.silu(self.norm(torch.cat((fine, direct), dim=1))))
