"""Distance of frames to the truth: per-pixel error, PSNR and SSIM, on pixels rescaled to [0, 1]."""

__all__ = ["mean_squared_error", "psnr", "ssim"]

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from flowvid.video import Video


def _pixels(video: Video) -> Float[Tensor, "batch time channel height width"]:
    return (video.frames.double() + 1) / 2


def mean_squared_error(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Squared error per frame, mean over pixels in [0, 1]."""
    return (_pixels(predicted) - _pixels(truth)).square().mean(dim=(2, 3, 4))


def psnr(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Peak signal-to-noise ratio per frame in dB, for pixels in [0, 1]; at most 100 dB, for equal frames."""
    return -10 * torch.log10(mean_squared_error(predicted, truth).clamp(min=1e-10))


def ssim(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Structural similarity per frame by torchmetrics: Gaussian window of deviation 1.5, pixels in [0, 1]."""
    batch = predicted.frames.shape[:2]
    scores = structural_similarity_index_measure(
        _pixels(predicted).flatten(0, 1).float(), _pixels(truth).flatten(0, 1).float(), data_range=1.0, reduction="none"
    )
    assert isinstance(scores, Tensor)
    return scores.reshape(batch)
