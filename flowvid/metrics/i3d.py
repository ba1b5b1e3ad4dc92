"""The first half of Inflated 3D Inception (I3D): video features up to and including the block Mixed_4d.

I3D is Inception with time as a third axis of every filter; its last layer is what Frechet video distance (FVD) uses.
The part here has 512 channels at 1/16 of the resolution and 1/4 of the frame rate, averaged over time and space.
A Frechet distance on them is *not* FVD and its values are not comparable with published ones; it is called
``fd_i3d_mixed4d`` everywhere.

Built from the arrays of DeepMind's checkpoint. Batch normalisation is folded into the convolutions (there is no scale,
epsilon is 1e-3). Padding is TensorFlow's "SAME": an axis of n points gives ceil(n / stride), and where the padding is
odd the extra point comes last, which for a stride of 2 depends on n. Pools ignore padding; their inputs are never
negative, so padding with zeros is the same.

References:
    Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset (Carreira & Zisserman, 2017),
        https://arxiv.org/abs/1705.07750
    Towards Accurate Generative Models of Video: A New Metric & Challenges (Unterthiner et al., 2018),
        https://arxiv.org/abs/1812.01717
"""

__all__ = ["I3D_MIXED_4D", "I3DMixed4d"]

from collections.abc import Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.metrics.weights import Source

I3D_MIXED_4D = Source(
    "the arrays of I3D `rgb_scratch` (Apache-2.0) up to Mixed_4d as .npz: '<layer>/conv_3d/w' and "
    "'<layer>/batch_norm/{beta,moving_mean,moving_variance}'",
    "https://github.com/google-deepmind/kinetics-i3d, data/checkpoints/rgb_scratch",
)

_EPSILON = 1e-3
_BRANCHES = (("Conv3d_0a_1x1",), ("Conv3d_0a_1x1", "Conv3d_0b_3x3"), ("Conv3d_0a_1x1", "Conv3d_0b_3x3"))


@final
class I3DMixed4d(nn.Module):
    """I3D up to Mixed_4d, frozen.

    Arguments:
        arrays: Filters and statistics by the checkpoint's names.

    Raises:
        KeyError: An array is missing.
    """

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Conv(arrays, "Conv3d_1a_7x7", stride=2),
            _MaxPool((1, 3, 3), (1, 2, 2)),
            _Conv(arrays, "Conv3d_2b_1x1"),
            _Conv(arrays, "Conv3d_2c_3x3"),
            _MaxPool((1, 3, 3), (1, 2, 2)),
            _Mixed(arrays, "Mixed_3b"),
            _Mixed(arrays, "Mixed_3c"),
            _MaxPool((3, 3, 3), (2, 2, 2)),
            _Mixed(arrays, "Mixed_4b"),
            _Mixed(arrays, "Mixed_4c"),
            _Mixed(arrays, "Mixed_4d"),
        )

    def forward(self, clips: Float[Tensor, "clip 3 time height width"]) -> Float[Tensor, "clip channel"]:
        """Features averaged over time and space.

        Arguments:
            clips: RGB in [-1, 1]; the network was trained on frames of 224 x 224 pixels.
        """
        return self.layers(clips).mean(dim=(2, 3, 4))


class _Conv(nn.Module):
    """Convolution, normalisation and rectifier."""

    def __init__(self, arrays: Mapping[str, Tensor], name: str, *, stride: int = 1) -> None:
        super().__init__()
        weight = arrays[f"{name}/conv_3d/w"].permute(4, 3, 0, 1, 2)
        shift, mean, variance = (
            arrays[f"{name}/batch_norm/{part}"] for part in ("beta", "moving_mean", "moving_variance")
        )
        scale = (variance + _EPSILON).rsqrt()
        self.stride = (stride,) * 3
        outputs, inputs, *kernel = weight.shape
        self.conv = nn.Conv3d(inputs, outputs, (kernel[0], kernel[1], kernel[2]), stride=stride)
        folded = {"weight": weight * scale[:, None, None, None, None], "bias": shift - mean * scale}
        self.conv.load_state_dict(folded)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(_same(x, self.conv.kernel_size, self.stride)))


class _MaxPool(nn.Module):
    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    """Four branches side by side: 1x1, two of 1x1 and 3x3, and a pool and 1x1."""

    def __init__(self, arrays: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        branches = [
            nn.Sequential(*(_Conv(arrays, f"{name}/Branch_{number}/{layer}") for layer in layers))
            for number, layers in enumerate(_BRANCHES)
        ]
        last = _Conv(arrays, f"{name}/Branch_3/Conv3d_0b_1x1")
        self.branches = nn.ModuleList([*branches, nn.Sequential(_MaxPool((3, 3, 3), (1, 1, 1)), last)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """``x`` with zeros around its last three axes as TensorFlow's SAME padding puts them."""
    padding: list[int] = []
    for size, width, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)
