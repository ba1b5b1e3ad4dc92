r"""Kernel distance between sets of features: the squared maximum mean discrepancy, estimated without bias.

With k(x, y) = (x . y / d + 1)^3 for d features, the kernel of KID and KVD,

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

compares the moments of two distributions up to the third; a Frechet distance sees two. The estimate leaves out the
pairs of a vector with itself. Its mean is the true value at every N, so sets of different sizes may be compared, and it
may be negative where the sets are alike.

References:
    A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html
    Demystifying MMD GANs (Binkowski et al., 2018), https://arxiv.org/abs/1801.01401
"""

__all__ = ["KernelDistance", "kernel_distance"]

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flowvid.metrics.frechet import check_sizes, checked_features

_ROWS = 1024


@dataclass(frozen=True)
class KernelDistance:
    """A squared kernel distance and what it was computed from.

    Arguments:
        value: The unbiased estimate; published tables often print a thousand times this.
        counts: Feature vectors in either set.
        features: Length of a feature vector.
    """

    value: float
    counts: tuple[int, int]
    features: int

    def __str__(self) -> str:
        return f"{self.value:.6g} ({self.counts[0]} and {self.counts[1]} samples of {self.features} features)"


def kernel_distance(one: Float[Tensor, "*sample feature"], other: Float[Tensor, "*sample2 feature2"]) -> KernelDistance:
    """Squared kernel distance of two sets over all pairs of vectors, in memory linear in their numbers.

    Arguments:
        one: Features; all axes but the last count samples.
        other: Features of the same network.

    Raises:
        ValueError: A set has fewer than two vectors, features are not finite, or their numbers differ.
    """
    sets = [checked_features(features).flatten(0, -2) for features in (one, other)]
    check_sizes(*sets)
    counts = len(sets[0]), len(sets[1])
    if min(counts) < 2:
        raise ValueError(f"Pairs within a set need at least two samples; got {counts[0]} and {counts[1]}.")
    between = _pair_sum(*sets) / (counts[0] * counts[1])
    value = sum(_mean_within(rows) for rows in sets) - 2 * between
    return KernelDistance(value, counts, sets[0].shape[1])


def _mean_within(rows: Tensor) -> float:
    """Mean of the kernel over the pairs of different rows."""
    itself = float(_kernel(rows.square().sum(dim=1), rows.shape[1]).sum())
    return (_pair_sum(rows, rows) - itself) / (len(rows) * (len(rows) - 1))


def _kernel(products: Tensor, features: int) -> Tensor:
    return (products / features + 1) ** 3


def _pair_sum(one: Tensor, other: Tensor) -> float:
    return sum(float(_kernel(rows @ other.T, one.shape[1]).sum()) for rows in one.split(_ROWS))
