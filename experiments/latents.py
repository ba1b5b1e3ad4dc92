r"""Latents whose trajectory is known in closed form at every time.

z(t) = sqrt(2 / F) sum_f cos(w_f t + p_f) with frequencies w_f ~ N(0, 1 / length^2) and phases p_f uniform. Whatever
the number of features F, values at any times have zero mean and exactly the covariance exp(-(t - s)^2 / 2 length^2)
of the Gaussian process of that length, and so have derivatives: E z^2 = 1, E z'^2 = 1 / length^2, E z''^2 =
3 / length^4. The process is stationary, so every draw is looked at around time zero.

References:
    Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007), https://papers.nips.cc/paper/3182
"""

__all__ = ["SmoothLatents", "dyadic", "root_mean_square", "smooth_latents"]

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from flowvid.noise import Noise


@dataclass(frozen=True, eq=False)
class SmoothLatents:
    """Independent scalar trajectories around time zero.

    Arguments:
        frequencies: Of each feature, in radians per second.
        phases: Of each feature, in radians.
    """

    frequencies: Float64[np.ndarray, "draw feature"]
    phases: Float64[np.ndarray, "draw feature"]

    @property
    def size(self) -> float:
        """Amplitude of one feature."""
        return float((2 / self.frequencies.shape[1]) ** 0.5)

    def displacement(self, step: float) -> Float64[np.ndarray, "draw"]:
        """z(step) - z(0), to full relative precision however short the step (seconds)."""
        half = self.frequencies * step / 2
        return -2 * self.size * (np.sin(half) * np.sin(half + self.phases)).sum(axis=1)

    def rate(self, step: float) -> Float64[np.ndarray, "draw"]:
        """Average velocity over a step in seconds; the instantaneous velocity at a step of zero."""
        if step == 0:
            return -self.size * (self.frequencies * np.sin(self.phases)).sum(axis=1)
        return self.displacement(step) / step

    def rates(self, gaps: tuple[float, ...]) -> Float64[np.ndarray, "draw gap"]:
        """Average velocities over gaps in seconds: what perfect heads answer."""
        return np.stack([self.rate(gap) for gap in gaps], axis=1)

    def largest(self, order: int) -> Float64[np.ndarray, "draw"]:
        """A bound on the absolute derivative of an order, at any time."""
        return self.size * (np.abs(self.frequencies) ** order).sum(axis=1)


def smooth_latents(seed: int, part: str, draws: int, *, length: float, features: int = 24) -> SmoothLatents:
    """Draw trajectories.

    Arguments:
        seed: The seed; draw i does not depend on how many there are.
        part: What they are for, "training" or "test"; parts are independent.
        draws: How many.
        length: Correlation length in seconds.
        features: Number of frequencies of a trajectory.
    """
    noise = Noise.batch(seed, draws).fold(part)
    frequencies = noise.normal("frequencies", features, dtype=torch.float64).numpy() / length
    phases = noise.uniform("phases", features, dtype=torch.float64).numpy() * 2 * np.pi
    return SmoothLatents(frequencies, phases)


def dyadic(shortest: float, count: int) -> tuple[float, ...]:
    """Gaps that double from the shortest, in seconds."""
    return tuple(shortest * 2.0**k for k in range(count))


def root_mean_square(values: Float64[np.ndarray, "..."]) -> float:
    """Root of the mean square of some numbers."""
    return float(np.sqrt(np.mean(values**2)))
