"""Distance of frames to the truth: per-pixel error, PSNR and SSIM, on pixels rescaled to [0, 1]."""

__all__ = ["mean_squared_error", "psnr", "ssim"]

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from flowvid.video import Video

_WINDOW = 11


def _pixels(
    predicted: Video, truth: Video
) -> tuple[Float[Tensor, "batch time channel height width"], Float[Tensor, "batch time channel height width"]]:
    """Pixels of both in [0, 1]; refuses videos of different shapes, which would be broadcast."""
    shapes = [tuple(video.frames.shape) for video in (predicted, truth)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Frames are compared one by one and need equal shapes; got {shapes[0]} and {shapes[1]}.")
    return (predicted.frames.double() + 1) / 2, (truth.frames.double() + 1) / 2


def mean_squared_error(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Squared error per frame, mean over pixels in [0, 1].

    Raises:
        ValueError: The videos have different shapes.
    """
    one, other = _pixels(predicted, truth)
    return (one - other).square().mean(dim=(2, 3, 4))


def psnr(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Peak signal-to-noise ratio per frame in dB, for pixels in [0, 1]; at most 100 dB, for equal frames.

    Raises:
        ValueError: The videos have different shapes.
    """
    return -10 * torch.log10(mean_squared_error(predicted, truth).clamp(min=1e-10))


def ssim(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Structural similarity per frame by torchmetrics: Gaussian window of deviation 1.5, pixels in [0, 1].

    Raises:
        ValueError: The videos have different shapes, or frames smaller than the window of 11 x 11 pixels.
    """
    one, other = _pixels(predicted, truth)
    batch = one.shape[:2]
    if min(one.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs frames of at least {_WINDOW} x {_WINDOW} pixels; got {tuple(one.shape[-2:])}.")
    scores = structural_similarity_index_measure(
        one.flatten(0, 1).float(), other.flatten(0, 1).float(), data_range=1.0, reduction="none"
    )
    assert isinstance(scores, Tensor)
    return scores.reshape(batch)
