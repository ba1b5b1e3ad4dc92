"""Distance of frames to the truth: errors, PSNR, SSIM and MS-SSIM, on pixels rescaled to [0, 1].

Every metric here gives one number per frame, except `psnr_of_mean`. Two conventions for errors are in use, a factor of
channels x height x width apart, and have their own names. ``mean_...`` averages over the pixels of a frame.
``summed_...`` sums over them: averaged over frames and clips this is what OpenSTL's tables print as MSE and MAE.

PSNR is concave in the error. The mean of the PSNR of the frames (``psnr(...).mean()``, what most tables print) is
therefore never below the PSNR of the mean error (`psnr_of_mean`), and the two differ by a decibel or so on real clips.

The mean squared error is least for the mean of all futures, which is blurred; a sampler that draws sharp ones loses.
So `over_samples` keeps three numbers apart: the score of a single sample, the score of the mean of N samples, and the
best of N samples, which grows with N and is comparable only at equal N.

References:
    Image Quality Assessment: From Error Visibility to Structural Similarity (Wang et al., 2004),
        https://doi.org/10.1109/TIP.2003.819861
    Multi-Scale Structural Similarity for Image Quality Assessment (Wang et al., 2003),
        https://doi.org/10.1109/ACSSC.2003.1292216
    OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning (Tan et al., 2023),
        https://arxiv.org/abs/2306.11249
"""

__all__ = [
    "SampleScores",
    "mean_absolute_error",
    "mean_squared_error",
    "ms_ssim",
    "over_samples",
    "psnr",
    "psnr_of_mean",
    "ssim",
    "summed_absolute_error",
    "summed_squared_error",
]

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from flowvid.video import Video

_WINDOW = 11
_SCALES = 5
_LEAST_ERROR = 1e-10


@dataclass(frozen=True, eq=False)
class SampleScores:
    """Scores of N samples of every clip, by protocol; each averaged over the frames of a clip.

    Arguments:
        single: Score of one sample, averaged over the N samples: what one draw gets on average.
        of_mean: Score of the pixelwise mean of the N samples.
        best: Best score among the N samples of each clip.
        samples: N.
    """

    single: Float64[Tensor, "clip"]
    of_mean: Float64[Tensor, "clip"]
    best: Float64[Tensor, "clip"]
    samples: int

    def __str__(self) -> str:
        means = [float(score.mean()) for score in (self.single, self.of_mean, self.best)]
        return (
            f"single sample {means[0]:.5g}, mean of {self.samples} samples {means[1]:.5g}, "
            f"best of {self.samples} samples {means[2]:.5g} ({len(self.single)} clips)"
        )


def mean_squared_error(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Squared error per frame, mean over pixels in [0, 1].

    Raises:
        ValueError: The videos have different shapes.
    """
    return _difference(predicted, truth).square().mean(dim=(2, 3, 4))


def mean_absolute_error(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Absolute error per frame, mean over pixels in [0, 1].

    Raises:
        ValueError: The videos have different shapes.
    """
    return _difference(predicted, truth).abs().mean(dim=(2, 3, 4))


def summed_squared_error(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Squared error per frame, summed over channels and pixels in [0, 1]; its mean is the MSE of OpenSTL's tables.

    Raises:
        ValueError: The videos have different shapes.
    """
    return _difference(predicted, truth).square().sum(dim=(2, 3, 4))


def summed_absolute_error(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Absolute error per frame, summed over channels and pixels in [0, 1]; its mean is the MAE of OpenSTL's tables.

    Raises:
        ValueError: The videos have different shapes.
    """
    return _difference(predicted, truth).abs().sum(dim=(2, 3, 4))


def psnr(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Peak signal-to-noise ratio per frame in dB, for pixels in [0, 1]; at most 100 dB, for equal frames.

    Raises:
        ValueError: The videos have different shapes.
    """
    return _decibels(mean_squared_error(predicted, truth))


def psnr_of_mean(predicted: Video, truth: Video) -> float:
    """PSNR in dB of the mean squared error over all clips and frames; at most 100 dB.

    Raises:
        ValueError: The videos have different shapes.
    """
    return float(_decibels(mean_squared_error(predicted, truth).mean()))


def ssim(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Structural similarity per frame by torchmetrics: Gaussian window of deviation 1.5, pixels in [0, 1].

    Raises:
        ValueError: The videos have different shapes, or frames smaller than the window of 11 x 11 pixels.
    """
    return _similarity(structural_similarity_index_measure, predicted, truth, name="SSIM", side=_WINDOW)


def ms_ssim(predicted: Video, truth: Video) -> Float[Tensor, "batch time"]:
    """Structural similarity per frame over five scales by torchmetrics, with the published weights of the scales.

    Raises:
        ValueError: The videos have different shapes, or frames smaller than 176 x 176 pixels: after four halvings they
            must still hold the window of 11 x 11 pixels.
    """
    side = _WINDOW * 2 ** (_SCALES - 1)
    return _similarity(multiscale_structural_similarity_index_measure, predicted, truth, name="MS-SSIM", side=side)


def over_samples(
    score: Callable[[Video, Video], Float[Tensor, "batch time"]],
    samples: Iterable[Video],
    truth: Video,
    *,
    greater_is_better: bool,
) -> SampleScores:
    """A score under the three protocols for several samples of the same clips.

    Samples are taken one by one, so a generator needs the memory of one of them.

    Arguments:
        score: A metric of this module: numbers per frame from predicted and true frames.
        samples: N videos of the shape of the truth.
        truth: The true frames.
        greater_is_better: True for PSNR and SSIM, False for errors.

    Raises:
        ValueError: There are no samples, or shapes differ.
    """
    scores: list[Tensor] = []
    total = torch.zeros_like(truth.frames, dtype=torch.float64)
    for sample in samples:
        scores.append(score(sample, truth).double().mean(dim=1))
        total += sample.frames
    if not scores:
        raise ValueError("Scores over samples need at least one sample of the clips; got none.")
    each = torch.stack(scores)
    of_mean = score(Video(total / len(each), truth.times), truth).double().mean(dim=1)
    best = each.amax(dim=0) if greater_is_better else each.amin(dim=0)
    return SampleScores(each.mean(dim=0), of_mean, best, len(each))


def _pixels(predicted: Video, truth: Video) -> tuple[Tensor, Tensor]:
    """Pixels of both in [0, 1]; refuses videos of different shapes, which would be broadcast."""
    shapes = [tuple(video.frames.shape) for video in (predicted, truth)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Frames are compared one by one and need equal shapes; got {shapes[0]} and {shapes[1]}.")
    return (predicted.frames.double() + 1) / 2, (truth.frames.double() + 1) / 2


def _difference(predicted: Video, truth: Video) -> Float64[Tensor, "batch time channel height width"]:
    one, other = _pixels(predicted, truth)
    return one - other


def _decibels(error: Tensor) -> Tensor:
    return -10 * torch.log10(error.clamp(min=_LEAST_ERROR))


def _similarity(
    measure: Callable[..., object], predicted: Video, truth: Video, *, name: str, side: int
) -> Float[Tensor, "batch time"]:
    one, other = _pixels(predicted, truth)
    if min(one.shape[-2:]) < side:
        raise ValueError(f"{name} needs frames of at least {side} x {side} pixels; got {tuple(one.shape[-2:])}.")
    scores = measure(one.flatten(0, 1).float(), other.flatten(0, 1).float(), data_range=1.0, reduction="none")
    assert isinstance(scores, Tensor)
    return scores.reshape(one.shape[:2])
