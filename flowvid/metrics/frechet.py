r"""Frechet distance between sets of features: how far the Gaussians with their means and covariances are apart.

    d^2 = |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^{1/2}

is the squared Wasserstein-2 distance of N(m_1, S_1) and N(m_2, S_2); on features of the right network it is FID or
FVD. With S_i = A_i^T A_i the last trace is the sum of the singular values of A_1 A_2^T, so no square root of an
unsymmetric matrix is taken and nothing turns complex. A_i is the symmetric root of S_i, or, where the features
themselves are at hand, the centred features over the square root of N - 1.

`GaussianStatistics` holds count, mean and centred second moment in float64. Merging two is exact, so a set may be
streamed in batches, in any order and by several processes. Covariances divide by N - 1.

The estimate is biased upward, by about (1 / N_1 + 1 / N_2) times a term that grows with the number of features: compare
values only at equal N, and print N. With N not above the number of features the covariance is singular; a warning says
so. `bootstrap_frechet` resamples *videos* (all features of one stay together) and reports how much the estimate at
this N varies. A resample holds fewer distinct videos and is biased further, so the quantiles are shifted back by the
mean excess over the estimate, which is reported as ``excess`` and shows about how large the bias of the estimate is.
It keeps the features: 8 bytes x videos x vectors per video x features, 8.4 MB for 2048 videos of 512 features.

References:
    The Frechet Distance between Multivariate Normal Distributions (Dowson & Landau, 1982),
        https://doi.org/10.1016/0047-259X(82)90077-X
    GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), https://arxiv.org/abs/1706.08500
    Effectively Unbiased FID and Inception Score (Chong & Forsyth, 2020), https://arxiv.org/abs/1911.07023
    Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (Chan et al., 1979)
"""

__all__ = [
    "FrechetDistance",
    "FrechetInterval",
    "GaussianStatistics",
    "bootstrap_frechet",
    "check_sizes",
    "checked_features",
    "frechet_distance",
]

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowvid.noise import Noise


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Count, mean and centred second moment of a set of features, in float64 on the host.

    Arguments:
        count: Number of feature vectors.
        mean: Their mean.
        scatter: Sum of the outer products of their deviations from the mean.
    """

    count: int
    mean: Float64[Tensor, "feature"]
    scatter: Float64[Tensor, "feature feature"]

    @staticmethod
    def of(features: Float[Tensor, "*sample feature"]) -> "GaussianStatistics":
        """Statistics of features; all axes but the last count samples.

        Raises:
            ValueError: There are no features, or some are not finite.
        """
        rows = checked_features(features).flatten(0, -2)
        mean = rows.mean(dim=0)
        centred = rows - mean
        return GaussianStatistics(len(rows), mean, centred.T @ centred)

    @staticmethod
    def over(batches: Iterable[Float[Tensor, "*sample feature"]]) -> "GaussianStatistics":
        """Statistics of a stream of batches, of which one is held at a time.

        Raises:
            ValueError: There are no batches, one is empty or not finite, or the numbers of features differ.
        """
        parts = (GaussianStatistics.of(batch) for batch in batches)
        try:
            first = next(parts)
        except StopIteration:
            raise ValueError("Statistics need at least one batch of features; got none.") from None
        return functools.reduce(GaussianStatistics.merge, parts, first)

    def merge(self, other: "GaussianStatistics") -> "GaussianStatistics":
        """Statistics of both sets together.

        Raises:
            ValueError: The numbers of features differ.
        """
        check_sizes(self.mean, other.mean)
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return GaussianStatistics(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float64[Tensor, "feature feature"]:
        """Unbiased covariance, divided by N - 1.

        Raises:
            ValueError: There is only one sample.
        """
        return self.scatter / _freedom(self.count)


@dataclass(frozen=True)
class FrechetDistance:
    """A squared Frechet distance and what it was computed from.

    Arguments:
        value: The distance, squared as FID and FVD are.
        mean_term: The part due to the means.
        covariance_term: The part due to the covariances.
        counts: Feature vectors in either set.
        features: Length of a feature vector.
    """

    value: float
    mean_term: float
    covariance_term: float
    counts: tuple[int, int]
    features: int

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.counts[0]} and {self.counts[1]} samples of {self.features} features)"


@dataclass(frozen=True)
class FrechetInterval:
    """A Frechet distance and how much it varies with the videos at hand.

    Arguments:
        distance: The distance of the full sets.
        low: Lower end of the interval.
        high: Upper end of the interval.
        standard_error: Standard deviation over resamples.
        excess: Mean over resamples less the distance: about the estimate's own bias.
        level: Nominal coverage of the interval for estimates at these numbers of videos.
        videos: Videos in either set.
        resamples: How many resamples were drawn.
    """

    distance: FrechetDistance
    low: float
    high: float
    standard_error: float
    excess: float
    level: float
    videos: tuple[int, int]
    resamples: int

    def __str__(self) -> str:
        return (
            f"{self.distance}, {self.level:.0%} interval [{self.low:.4f}, {self.high:.4f}] over "
            f"{self.videos[0]} and {self.videos[1]} videos ({self.resamples} resamples, excess {self.excess:.4f})"
        )


def frechet_distance(one: GaussianStatistics, other: GaussianStatistics) -> FrechetDistance:
    """Squared Frechet distance of two sets by their statistics.

    Warns:
        UserWarning: A set has no more samples than features, so its covariance is singular.

    Raises:
        ValueError: A set has one sample only, or the numbers of features differ.
    """
    check_sizes(one.mean, other.mean)
    roots = [_symmetric_root(statistics.covariance) for statistics in (one, other)]
    _warn_of_few((one.count, other.count), len(one.mean))
    return _distance((one.mean, roots[0]), (other.mean, roots[1]), (one.count, other.count))


def bootstrap_frechet(
    one: Float[Tensor, "video *vector feature"],
    other: Float[Tensor, "video2 *vector2 feature2"],
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> FrechetInterval:
    """Squared Frechet distance with a bootstrap interval over videos.

    Arguments:
        one: Features by video; further axes before the last hold several vectors of a video (samples or frames).
        other: Features of the other set; its videos are resampled independently.
        resamples: How many times both sets are drawn anew, with replacement.
        level: Coverage, in (0, 1).
        seed: Of the resampling.

    Warns:
        UserWarning: A set has no more samples than features.

    Raises:
        ValueError: A set has fewer than two videos, features are not finite or differ in number, there are fewer than
            two resamples, or the level is not in (0, 1).
    """
    sets = [checked_features(features) for features in (one, other)]
    check_sizes(sets[0], sets[1])
    videos = len(one), len(other)
    if min(videos) < 2:
        raise ValueError(f"Resampling videos needs at least two in each set; got {videos[0]} and {videos[1]}.")
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(f"Expected resamples >= 2 and 0 < level < 1; got resamples={resamples}, level={level}.")
    counts = sets[0].shape[:-1].numel(), sets[1].shape[:-1].numel()
    _warn_of_few(counts, one.shape[-1])
    distance = _distance(_moments(sets[0]), _moments(sets[1]), counts)
    noise = Noise.of((seed,))
    draws = [noise.integers(f"videos {name}", 0, count, resamples, count)[0] for name, count in enumerate(videos)]
    values = torch.tensor(
        [
            _distance(_moments(sets[0][first]), _moments(sets[1][second]), counts).value
            for first, second in zip(*draws, strict=True)
        ],
        dtype=torch.float64,
    )
    excess = float(values.mean()) - distance.value
    tail = (1 - level) / 2
    low, high = (max(float(values.quantile(share)) - excess, 0.0) for share in (tail, 1 - tail))
    return FrechetInterval(distance, low, high, float(values.std()), excess, level, videos, resamples)


def checked_features(features: Float[Tensor, "*sample feature"]) -> Float64[Tensor, "*sample feature"]:
    """Features in float64 on the host.

    Raises:
        ValueError: There are none, they are not a list of vectors, or some are not finite.
    """
    if features.ndim < 2 or features.numel() == 0:
        raise ValueError(f"Expected at least one feature vector, shape [..., feature]; got {tuple(features.shape)}.")
    finite = features.isfinite()
    if not bool(finite.all()):
        spoilt = int((~finite.flatten(0, -2).all(dim=1)).sum())
        raise ValueError(
            f"Features must be finite; {spoilt} of {features.shape[:-1].numel()} vectors hold NaN or infinity. Look at "
            "the frames they came from."
        )
    return features.detach().to("cpu", torch.float64)


def check_sizes(one: Tensor, other: Tensor) -> None:
    """Refuse features of different networks.

    Raises:
        ValueError: The numbers of features differ.
    """
    if one.shape[-1] != other.shape[-1]:
        raise ValueError(
            f"Both sets need features of one network; got vectors of {one.shape[-1]} and {other.shape[-1]} numbers."
        )


def _warn_of_few(counts: tuple[int, int], features: int) -> None:
    if min(counts) <= features:
        warnings.warn(
            f"A covariance of {min(counts)} samples of {features} features is singular and the Frechet distance biased "
            f"upward; take more than {features} samples, and compare only values at equal numbers.",
            stacklevel=3,
        )


def _freedom(count: int) -> int:
    if count < 2:
        raise ValueError(f"A covariance needs at least two samples; got {count}.")
    return count - 1


def _symmetric_root(covariance: Float64[Tensor, "feature feature"]) -> Float64[Tensor, "feature feature"]:
    """The root of a covariance, without the directions that are rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    least = values[-1].clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
    return torch.where(values > least, values, 0.0).sqrt()[:, None] * vectors.T


def _moments(features: Float64[Tensor, "video *vector feature"]) -> tuple[Tensor, Tensor]:
    """Mean, and a factor A of the covariance A^T A with no more rows than features."""
    rows = features.flatten(0, -2)
    mean = rows.mean(dim=0)
    factor = (rows - mean) / _freedom(len(rows)) ** 0.5
    return mean, factor if len(rows) <= rows.shape[1] else torch.linalg.qr(factor, mode="r").R


def _distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], counts: tuple[int, int]) -> FrechetDistance:
    """The distance of two pairs of a mean and a factor of a covariance."""
    (mean1, factor1), (mean2, factor2) = one, other
    mean_term = float((mean1 - mean2).square().sum())
    spread = factor1.square().sum() + factor2.square().sum()
    covariance_term = max(float(spread - 2 * torch.linalg.svdvals(factor1 @ factor2.T).sum()), 0.0)
    return FrechetDistance(mean_term + covariance_term, mean_term, covariance_term, counts, len(mean1))
