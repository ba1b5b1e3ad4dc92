"""SqueezeNet 1.1, built from its published arrays: the image network behind LPIPS and ``fd_squeezenet``.

The stem and eight fire modules (a 1x1 "squeeze", then 1x1 and 3x3 "expand" side by side), with a max pool before
modules 1, 3 and 5. Layer names are those of torchvision's state dictionary, so either that file or the same arrays in
half precision will do. Sizes follow from the arrays.

References:
    SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size (Iandola et al., 2016),
        https://arxiv.org/abs/1602.07360
"""

__all__ = ["SQUEEZENET", "SqueezeNet", "as_rgb"]

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.metrics.weights import Source

SQUEEZENET = Source(
    "SqueezeNet 1.1 of torchvision (ImageNet, BSD-3), squeezenet1_1-b8a52dc0.pth, whose sha256 starts with b8a52dc0",
    "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
)

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_FIRES = (3, 4, 6, 7, 9, 10, 11, 12)
_POOLED_BEFORE = (3, 6, 9)
_TAPPED = (4, 7, 9, 10, 11, 12)
_LEAST = 17


@final
class SqueezeNet(nn.Module):
    """The convolutional part of SqueezeNet 1.1, frozen.

    Arguments:
        arrays: ``features.0`` and ``features.3`` to ``features.12`` by torchvision's names.

    Raises:
        KeyError: An array is missing.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = _conv(arrays, "features.0")
        self.fires = nn.ModuleDict({str(number): _Fire(arrays, f"features.{number}") for number in _FIRES})
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None])

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> list[Float[Tensor, "image _ _ _"]]:
        """The seven stages that LPIPS reads, from the stem to the last module.

        Arguments:
            images: RGB in [-1, 1].

        Raises:
            ValueError: Images are smaller than 17 x 17 pixels, of which nothing is left at the last stage.
        """
        if min(images.shape[-2:]) < _LEAST:
            raise ValueError(
                f"SqueezeNet needs images of at least {_LEAST} x {_LEAST} pixels; got {tuple(images.shape[-2:])}. "
                "Enlarge the frames first."
            )
        x = F.relu(self.stem(((images + 1) / 2 - self.mean) / self.deviation))
        stages = [x]
        for number in _FIRES:
            if number in _POOLED_BEFORE:
                x = F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)
            x = self.fires[str(number)](x)
            if number in _TAPPED:
                stages.append(x)
        return stages


class _Fire(nn.Module):
    def __init__(self, arrays: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.squeeze = _conv(arrays, f"{name}.squeeze")
        self.small = _conv(arrays, f"{name}.expand1x1")
        self.large = _conv(arrays, f"{name}.expand3x3", padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat((self.small(x), self.large(x)), dim=1))


def _conv(arrays: Mapping[str, Tensor], name: str, *, padding: int = 0) -> nn.Conv2d:
    weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
    outputs, inputs, side, _ = weight.shape
    stride = 2 if name == "features.0" else 1
    layer = nn.Conv2d(inputs, outputs, side, stride=stride, padding=padding)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def as_rgb(frames: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Colour frames as they are, and grey ones as colours.

    Raises:
        ValueError: There are neither one nor three channels.
    """
    if frames.shape[-3] not in (1, 3):
        raise ValueError(f"Networks for colour images take 1 or 3 channels; got {frames.shape[-3]}.")
    return frames.expand(*frames.shape[:-3], 3, *frames.shape[-2:])
