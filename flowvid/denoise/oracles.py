r"""Data whose denoising is known in closed form: Gaussians and their mixtures.

For data N(m, s^2 I) noisy data at a level is N(signal m, V I) with V = signal^2 s^2 + noise^2, and

    E[clean | x] = m + signal s^2 (x - signal m) / V,        E[eps | x] = noise (x - signal m) / V,

from which every prediction follows without dividing by signal or noise. The probability flow carries a level to another
by x' = signal' m + sqrt(V' / V) (x - signal m), the affine map between the two Gaussians. A mixture weighs the answers
of its components by their posterior probabilities; in one dimension its flow keeps quantiles. So solvers, samplers and
likelihoods can be held against the truth, and what a network adds to their error told apart.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models, appendix B (Karras et al., 2022), https://arxiv.org/abs/2206.00364
"""

__all__ = ["Gaussian", "GaussianMixture", "Oracle"]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.predictions import Prediction, check_prediction, combined, shares
from flowvid.denoise.schedule import ANGLE_UNIFORM, Schedule, holds_zero


class Oracle(ABC):
    """Data of which the expectation given noisy data is known."""

    schedule: Schedule

    @abstractmethod
    def expected(
        self, noisy: Float[Tensor, "batch *x"], level: float | Tensor
    ) -> tuple[Float[Tensor, "batch *x"], Float[Tensor, "batch *x"]]:
        """Expected clean data and expected noise, given noisy data at a level, one or one per sample."""

    @abstractmethod
    def log_density(self, noisy: Float[Tensor, "batch *x"], level: float | Tensor) -> Float[Tensor, "batch"]:
        """Logarithm of the density of noisy data at a level, in nats."""

    def denoiser(self, predicts: Prediction = "v") -> Denoiser:
        """The denoiser of least error, in a parameterisation.

        Raises:
            ValueError: The prediction is unknown.
        """
        check_prediction(predicts)

        def network(noisy: Tensor, level: Any) -> Tensor:
            clean, noise = self.expected(noisy, level)
            clean_share, noise_share = shares(predicts, level, self.schedule)
            return combined(clean_share, clean, noise_share, noise)

        return Denoiser(network, predicts, self.schedule)


class Gaussian(Oracle):
    """Independent normal entries of one deviation.

    Arguments:
        mean: Mean of the data, a number or a tensor of the shape of a sample.
        deviation: Standard deviation; zero is a single point.
        schedule: The schedule of the levels.

    Raises:
        ValueError: The deviation is negative.
    """

    def __init__(self, mean: float | Tensor, deviation: float, schedule: Schedule = ANGLE_UNIFORM) -> None:
        if not (deviation >= 0 and math.isfinite(deviation)):
            raise ValueError(f"A standard deviation is finite and not negative; got {deviation}.")
        self.mean = mean if isinstance(mean, Tensor) else torch.tensor(mean, dtype=torch.float64)
        self.deviation = deviation
        self.schedule = schedule

    def expected(
        self, noisy: Float[Tensor, "batch *x"], level: float | Tensor
    ) -> tuple[Float[Tensor, "batch *x"], Float[Tensor, "batch *x"]]:
        """Expected clean data and expected noise; see `Oracle.expected`.

        Raises:
            ValueError: The data are a single point and a level is 0, where the noise is not determined.
        """
        clean, noise, _ = self._conditioned(noisy, level)
        return clean[:, 0], noise[:, 0]

    def log_density(self, noisy: Float[Tensor, "batch *x"], level: float | Tensor) -> Float[Tensor, "batch"]:
        """Logarithm of the density of noisy data at a level, in nats.

        Raises:
            ValueError: The data are a single point and a level is 0, where there is no density.
        """
        return self._conditioned(noisy, level)[2][:, 0]

    def flow(self, noisy: Float[Tensor, "batch *x"], start: float, stop: float) -> Float[Tensor, "batch *x"]:
        """The exact probability flow from one level to another.

        Raises:
            ValueError: The data are a single point and the start is 0, where no two samples differ.
        """
        signals, noises = zip(
            *((self.schedule.signal(at), self.schedule.noise(at)) for at in (start, stop)), strict=True
        )
        before, after = (
            math.hypot(signal * self.deviation, noise) for signal, noise in zip(signals, noises, strict=True)
        )
        if before == 0:
            raise ValueError("Noisy data at level 0 of a single point is that point, and flows nowhere in particular.")
        mean = self.mean.to(noisy)
        return signals[1] * mean + (noisy - signals[0] * mean) * (after / before)

    def _conditioned(self, noisy: Tensor, level: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = self.mean.expand(noisy.shape[1:])
        return _conditioned(noisy, level, self.schedule, mean[None], [self.deviation])


class GaussianMixture(Oracle):
    """A mixture of Gaussians, each with independent entries of one deviation.

    Arguments:
        means: Means of the components.
        deviations: Standard deviation of each component, positive.
        weights: Probability of each component; equal when left out.
        schedule: The schedule of the levels.

    Raises:
        ValueError: The lengths differ, a deviation or weight is not positive, or the weights do not sum to one.
    """

    def __init__(
        self,
        means: Float[Tensor, "component *x"],
        deviations: Sequence[float],
        weights: Sequence[float] | None = None,
        schedule: Schedule = ANGLE_UNIFORM,
    ) -> None:
        weights = [1 / len(means)] * len(means) if weights is None else weights
        if not len(means) == len(deviations) == len(weights):
            raise ValueError(
                f"Each component has a mean, a deviation and a weight; got {len(means)}, {len(deviations)} and "
                f"{len(weights)}."
            )
        if not min(*deviations, *weights) > 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(
                f"Deviations and weights must be positive, and the weights sum to one; got {deviations} and {weights}."
            )
        self.means = means
        self.deviations = tuple(deviations)
        self.weights = tuple(weights)
        self.schedule = schedule

    def expected(
        self, noisy: Float[Tensor, "batch *x"], level: float | Tensor
    ) -> tuple[Float[Tensor, "batch *x"], Float[Tensor, "batch *x"]]:
        """Expected clean data and expected noise; see `Oracle.expected`."""
        clean, noise, joint = self._conditioned(noisy, level)
        posterior = torch.softmax(joint, dim=1)
        posterior = posterior.reshape(*posterior.shape, *(1 for _ in noisy.shape[1:]))
        return (posterior * clean).sum(dim=1), (posterior * noise).sum(dim=1)

    def log_density(self, noisy: Float[Tensor, "batch *x"], level: float | Tensor) -> Float[Tensor, "batch"]:
        """Logarithm of the density of noisy data at a level, in nats."""
        return torch.logsumexp(self._conditioned(noisy, level)[2], dim=1)

    def _conditioned(self, noisy: Tensor, level: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answers of the components, and the log density of noisy data together with each of them."""
        clean, noise, density = _conditioned(noisy, level, self.schedule, self.means, self.deviations)
        return clean, noise, density + torch.tensor(self.weights, dtype=noisy.dtype, device=noisy.device).log()


def _conditioned(
    noisy: Tensor, level: float | Tensor, schedule: Schedule, means: Tensor, deviations: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Expected clean data and noise under each component, (batch, component, *x), and log densities of noisy data."""
    spread = torch.tensor(deviations, dtype=noisy.dtype, device=noisy.device)
    signal, noise = (
        torch.as_tensor(part, dtype=noisy.dtype, device=noisy.device).reshape(-1, 1)
        for part in (schedule.signal(level), schedule.noise(level))
    )
    variance = (signal * spread) ** 2 + noise**2
    if min(deviations) == 0 and holds_zero(variance):
        raise ValueError("A single point has neither noise nor a density at level 0; ask above it.")

    def wide(values: Tensor) -> Tensor:
        return values.reshape(*values.shape, *(1 for _ in noisy.shape[1:]))

    means = means.to(noisy)
    off = noisy[:, None] - wide(signal) * means
    distance = (off.square() / wide(variance)).reshape(*off.shape[:2], -1).sum(dim=2)
    entries = math.prod(noisy.shape[1:])
    density = -0.5 * (distance + entries * torch.log(2 * math.pi * variance))
    return means + off * wide(signal * spread**2 / variance), off * wide(noise / variance), density
