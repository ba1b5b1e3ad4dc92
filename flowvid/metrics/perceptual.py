"""LPIPS: how differently two images excite a network trained to recognise things.

At each of seven stages of SqueezeNet the excitations of a pixel are scaled to length one; squared differences are
weighted per channel by numbers fitted to human judgement, averaged over the image, and added over the stages. Zero for
equal images, and lower is closer. It belongs to one backbone (here SqueezeNet, version 0.1 of the weights): values of
other backbones are different numbers.

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (Zhang et al., 2018),
        https://arxiv.org/abs/1801.03924
"""

__all__ = ["LPIPS_LINEAR", "Lpips", "load_lpips", "lpips"]

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.metrics.squeezenet import SQUEEZENET, SqueezeNet, as_rgb
from flowvid.metrics.weights import Source, load_arrays, verified_digest
from flowvid.video import Video

LPIPS_LINEAR = Source(
    "the linear weights of LPIPS 0.1 for SqueezeNet (BSD-2)",
    "https://github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/squeeze.pth",
)
_STAGES = 7
_TINY = 1e-8


@final
class Lpips(nn.Module):
    """The distance as a module; differentiable in both images, its weights are frozen.

    Arguments:
        network: Gives the stages.
        linear: Weights of the channels of each stage.

    Raises:
        ValueError: There is not one vector of weights for each of the seven stages.
    """

    def __init__(self, network: SqueezeNet, linear: Sequence[Float[Tensor, "_"]]) -> None:
        super().__init__()
        if len(linear) != _STAGES:
            raise ValueError(f"LPIPS needs {_STAGES} vectors of weights, one per stage; got {len(linear)}.")
        self.network = network
        self.linear = nn.ParameterList(nn.Parameter(weights, requires_grad=False) for weights in linear)

    def forward(
        self, one: Float[Tensor, "image 3 height width"], other: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image"]:
        """Distance of pairs of RGB images in [-1, 1].

        Raises:
            ValueError: Images are smaller than 17 x 17 pixels.
        """
        total = one.new_zeros(len(one))
        for weights, here, there in zip(self.linear, self.network(one), self.network(other), strict=True):
            difference = (_unit(here) - _unit(there)).square()
            total = total + torch.einsum("c,nchw->nhw", weights, difference).mean(dim=(1, 2))
        return total


def load_lpips(squeezenet: Path, linear: Path) -> Lpips:
    """LPIPS from files of weights, ``.pth`` as published or ``.npz``.

    Arguments:
        squeezenet: torchvision's SqueezeNet 1.1.
        linear: Weights of the stages, ``lin0`` to ``lin6``.

    Raises:
        FileNotFoundError: A file is missing; says where to get it.
        ValueError: A file is neither ``.npz`` nor ``.pth``, or has not seven stages.
    """
    verified_digest(squeezenet, SQUEEZENET)
    verified_digest(linear, LPIPS_LINEAR)
    stages = {name.split(".")[0]: array.flatten() for name, array in load_arrays(linear).items()}
    return Lpips(SqueezeNet(load_arrays(squeezenet)), [stages[name] for name in sorted(stages)])


@torch.no_grad()
def lpips(network: Lpips, predicted: Video, truth: Video, *, batch: int = 16) -> Float[Tensor, "batch time"]:
    """LPIPS per frame, on the network's device; grey frames count as colour.

    Arguments:
        network: See `load_lpips`.
        predicted: Frames to judge.
        truth: The true frames, of the same shape.
        batch: Frames at a time, which bounds the memory.

    Raises:
        ValueError: Shapes differ, frames have neither 1 nor 3 channels or are smaller than 17 x 17 pixels, or the
            batch is not positive.
    """
    shapes = [tuple(video.frames.shape) for video in (predicted, truth)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Frames are compared one by one and need equal shapes; got {shapes[0]} and {shapes[1]}.")
    if batch < 1:
        raise ValueError(f"LPIPS takes at least one frame at a time; got batch={batch}.")
    device = network.network.mean.device
    pairs = zip(*(video.frames.flatten(0, 1).split(batch) for video in (predicted, truth)), strict=True)
    scores = [network(*(as_rgb(frames).to(device, torch.float32) for frames in pair)) for pair in pairs]
    return torch.cat(scores).cpu().reshape(shapes[0][:2])


def _unit(x: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image channel height width"]:
    return x / (x.square().sum(dim=1, keepdim=True) + _TINY).sqrt()
