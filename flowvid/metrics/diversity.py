r"""Diversity: what many samples of one future tell that a single one does not.

- *Best of N*: the expected least error among N samples, estimated without bias from M >= N of them. The smallest of N
  chosen from M without replacement is the i-th smallest of all with probability C(M - i, N - 1) / C(M, N). Taking the
  least of all M and calling it "best of N" is biased, and so is using the first N only noisy.
- *Pairwise distance*: mean over all pairs of different samples; zero for a model that knows one future only.
- *Coverage*: the share of known futures that some sample comes close to. Of k equally likely futures, m independent
  samples that reach each of them with probability 1 / k cover 1 - (1 - 1/k)^m on average.
- *Energy distance*: 2 E|X - Y| - E|X - X'| - E|Y - Y'| >= 0, zero only for equal laws. The estimate leaves out
  the distance of a sample to itself, so it is unbiased, and may be negative.

Samples are flattened to vectors of any size: end positions in pixels, latent states, frames.

References:
    Stochastic Video Generation with a Learned Prior (Denton and Fergus, 2018), https://arxiv.org/abs/1802.07687
    Evaluating Large Language Models Trained on Code, section 2.1 (Chen et al., 2021), https://arxiv.org/abs/2107.03374
    Energy statistics (Szekely and Rizzo, 2013), https://doi.org/10.1016/j.jspi.2013.03.018
"""

__all__ = ["best_of", "coverage", "energy_distance", "pairwise_distance"]

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def best_of(errors: Float[Tensor, "batch sample"], counts: Sequence[int]) -> Float64[Tensor, "batch count"]:
    """Expected least error among N samples, for every N, without bias; N = 1 is the mean.

    Arguments:
        errors: Error of every sample of every clip; the smaller the better (negate a score such as PSNR).
        counts: Values of N, from 1 to the number of samples.

    Raises:
        ValueError: A count is out of range, or an error is NaN or infinite.
    """
    _check_finite(errors)
    samples = errors.shape[1]
    if not counts or not all(1 <= count <= samples for count in counts):
        raise ValueError(f"Best of N needs 1 <= N <= {samples}, the number of samples; got N = {list(counts)}.")
    ordered = errors.detach().double().cpu().sort(dim=1).values
    return torch.stack([(ordered * _order_weights(samples, count)).sum(dim=1) for count in counts], dim=1)


def _order_weights(samples: int, count: int) -> Float64[Tensor, "sample"]:
    """C(samples - i, count - 1) / C(samples, count) for i = 1, 2, ..."""
    weights: list[float] = []
    weight = count / samples
    for rank in range(1, samples + 1):
        weights.append(weight)
        weight *= max(samples - rank - count + 1, 0) / max(samples - rank, 1)
    return torch.tensor(weights, dtype=torch.float64)


def pairwise_distance(samples: Float[Tensor, "batch sample *state"]) -> Float64[Tensor, "batch"]:
    """Mean Euclidean distance between two different samples of a clip.

    Raises:
        ValueError: There are fewer than two samples, or a value is NaN or infinite.
    """
    _check_finite(samples)
    return _within(samples.detach().flatten(2).double(), "samples").cpu()


def coverage(
    samples: Float[Tensor, "batch sample *state"], futures: Float[Tensor, "batch future *state"], *, radius: float | int
) -> Float64[Tensor, "batch"]:
    """Share of the known futures with a sample at most a radius away.

    Arguments:
        samples: What a model samples, such as end positions.
        futures: What can happen.
        radius: Euclidean distance, in the units of the states.

    Raises:
        ValueError: The radius is not positive and finite, there are no samples or futures, or a value is not finite.
    """
    _check_finite(samples, futures)
    if not (0 < radius < math.inf):
        raise ValueError(f"The radius must be positive and finite; got {radius}.")
    if 0 in (samples.shape[1], futures.shape[1]):
        raise ValueError(f"Coverage needs samples and futures; got {samples.shape[1]} and {futures.shape[1]}.")
    far = _distances(futures.detach().flatten(2).double(), samples.detach().flatten(2).to(futures.device).double())
    return (far.amin(dim=2) <= radius).double().mean(dim=1).cpu()


def energy_distance(
    samples: Float[Tensor, "batch sample *state"], truth: Float[Tensor, "batch real *state"]
) -> Float64[Tensor, "batch"]:
    """Unbiased estimate of the energy distance between the laws of two sets of samples; may be negative.

    Raises:
        ValueError: There are fewer than two of one of them, or a value is NaN or infinite.
    """
    _check_finite(samples, truth)
    one, other = samples.detach().flatten(2).double(), truth.detach().flatten(2).to(samples.device).double()
    within = _within(one, "samples") + _within(other, "true samples")
    return (2 * _distances(one, other).mean(dim=(1, 2)) - within).cpu()


def _within(samples: Float64[Tensor, "batch sample entry"], name: str) -> Float64[Tensor, "batch"]:
    count = samples.shape[1]
    if count < 2:
        raise ValueError(f"Distances between {name} need at least two; got {count}.")
    return _distances(samples, samples).sum(dim=(1, 2)) / (count * (count - 1))


def _distances(
    one: Float64[Tensor, "batch row entry"], other: Float64[Tensor, "batch column entry"]
) -> Float64[Tensor, "batch row column"]:
    """Euclidean distances without the cancellation of inner products."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _check_finite(*values: Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise ValueError("Samples and errors must be finite; some are NaN or infinite.")
