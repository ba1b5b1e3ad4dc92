r"""Structure functions: how far a trajectory moves over a gap, and what that says about noise and roughness.

With $d$ entries per state, independent noise of deviation $\sigma$ in every entry, and increments that are stationary
and scale with an exponent $H$ (SCIENCE section 2),

    D(gap) = E |z(t + gap) - z(t)|^2 = 2 d sigma^2 + C gap^(2H).

The intercept is the noise. H near 1 means that velocities exist; near 1/2 paths are as rough as Brownian motion, mean
velocities over a gap grow like gap^(H - 1) as it shrinks, and short heads learn noise. The law holds while D is well
below its plateau, so the fit uses the short gaps only: those at which D has gone a fifth of the way from its value at
the shortest gap to the mean over all pairs of moments of a clip. For each H on a fine grid the other two numbers
follow from weighted least squares without negative values, with weights 1 / (D^2 gap), the inverse of how the
variance of an estimate grows. Errors are those of a jackknife over clips.

All sums over pairs of moments come from one matrix of inner products per clip. Second differences, which see curvature
rather than speed, do as well: noise contributes $6 d \sigma^2$ to their energy.

References:
    The Local Structure of Turbulence in Incompressible Viscous Fluid (Kolmogorov, 1941), https://www.jstor.org/stable/51980
    Fractional Brownian Motions, Fractional Noises and Applications (Mandelbrot and Van Ness, 1968), https://doi.org/10.1137/1010093
    Estimators of Fractal Dimension (Gneiting et al., 2012), https://doi.org/10.1214/11-STS370
"""

__all__ = ["PowerLaw", "StructureFunction", "even_step", "fit_power_law", "structure_function"]

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowvid.video import Trajectory

SHORTEST = 8
"""Fewest moments of a trajectory whose structure is measured."""

_RISE = 0.2
_FEWEST = 4
_HURST = np.linspace(0.02, 1, 491)
_GROUPS = 20
_BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class StructureFunction:
    """Mean squared differences over gaps, for every clip.

    Arguments:
        gaps: Seconds; the multiples 1, 2, ... of the time between moments, up to half of a clip.
        first: Mean over starts of |z(t + gap) - z(t)|^2.
        second: Mean over centres of |z(t + gap) - 2 z(t) + z(t - gap)|^2; as far as a clip holds two gaps.
        plateau: Mean of |z(s) - z(t)|^2 over all pairs of moments: twice the variance within the clip.
        entries: Entries of a state.
    """

    gaps: Float64[Tensor, "gap"]
    first: Float64[Tensor, "clip gap"]
    second: Float64[Tensor, "clip gap"]
    plateau: Float64[Tensor, "clip"]
    entries: int


@dataclass(frozen=True)
class PowerLaw:
    """A fit of D = 2 d noise^2 + scale gap^(2 hurst).

    Arguments:
        noise: Standard deviation of the noise per entry.
        hurst: The exponent H, between 0.02 and 1.
        scale: The factor C.
        fitted: How many of the gaps, from the shortest on, the fit used.
        noise_error: Standard error of the noise by a jackknife over clips; None of a single clip.
        hurst_error: The same of the exponent.
    """

    noise: float
    hurst: float
    scale: float
    fitted: int
    noise_error: float | None
    hurst_error: float | None


def even_step(times: Float64[Tensor, "time"], *, least: int = 2) -> float:
    """Seconds between evenly spaced times.

    Raises:
        ValueError: There are fewer than ``least`` of them, at least two, or they are not evenly spaced.
    """
    if len(times) < max(least, 2):
        raise ValueError(f"At least {max(least, 2)} moments are needed; got {len(times)}.")
    steps = times.diff()
    mean = float(steps.mean())
    if float((steps - mean).abs().max()) > 1e-6 * abs(mean):
        low, high = (value.item() for value in steps.aminmax())
        raise ValueError(f"Moments must be evenly spaced; their steps range from {low:g} s to {high:g} s.")
    return mean


def structure_function(trajectory: Trajectory) -> StructureFunction:
    """Mean squared first and second differences of a trajectory over all gaps up to half of its length.

    Raises:
        ValueError: There are fewer than 8 moments, they are not evenly spaced, or a state is not finite.
    """
    step, count = abs(even_step(trajectory.times, least=SHORTEST)), len(trajectory.times)
    if not bool(torch.isfinite(trajectory.states).all()):
        raise ValueError("A structure function needs finite states; some are NaN or infinite.")
    states = trajectory.states.detach().flatten(2)
    parts = states.split(max(1, _BLOCK // (count * max(count, states.shape[2]))))
    first, second, plateau = (torch.cat(found) for found in zip(*map(_differences, parts), strict=True))
    gaps = step * torch.arange(1, count // 2 + 1, dtype=torch.float64)
    return StructureFunction(gaps, first, second, plateau, states.shape[2])


def _differences(
    states: Float[Tensor, "clip time entry"],
) -> tuple[Float64[Tensor, "clip gap"], Float64[Tensor, "clip gap"], Float64[Tensor, "clip"]]:
    """Mean squared first and second differences of clips over every number of moments, and their plateaus."""
    centred = states.double() - states.double().mean(dim=1, keepdim=True)
    inner = (centred @ centred.mT).cpu()
    square = inner.diagonal(dim1=1, dim2=2)
    far = (square[:, :, None] + square[:, None, :] - 2 * inner).clamp(min=0)
    count = states.shape[1]
    lags = range(1, count // 2 + 1)
    first = [far.diagonal(lag, dim1=1, dim2=2).mean(dim=1) for lag in lags]
    second = [_second(far, lag) for lag in lags]
    return torch.stack(first, dim=1), torch.stack(second, dim=1), far.sum(dim=(1, 2)) / (count * (count - 1))


def _second(far: Float64[Tensor, "clip time time"], lag: int) -> Float64[Tensor, "clip"]:
    """Mean of |a - 2 b + c|^2 = 2 |a - b|^2 + 2 |b - c|^2 - |a - c|^2; NaN where a clip is too short."""
    near, wide = far.diagonal(lag, dim1=1, dim2=2), far.diagonal(2 * lag, dim1=1, dim2=2)
    return (2 * near[:, :-lag] + 2 * near[:, lag:] - wide).mean(dim=1).clamp(min=0)


def fit_power_law(structure: StructureFunction) -> PowerLaw:
    """Noise, exponent and scale of a structure function, averaged over clips.

    Raises:
        ValueError: Nothing moves.
    """
    first, plateau = structure.first.mean(dim=0), float(structure.plateau.mean())
    if not plateau > 0:
        raise ValueError("Nothing moves in these trajectories: all their states are equal.")
    start = float(first[0])
    below = first < start + _RISE * (plateau - start)
    fitted = len(below) if bool(below.all()) else int((~below).int().argmax())
    fitted = min(max(fitted, _FEWEST), len(first))
    gaps, entries = structure.gaps[:fitted].numpy(), structure.entries
    clips = structure.first[:, :fitted].numpy()
    noise, hurst, scale = _fit(gaps, clips.mean(axis=0), entries)
    noise_error, hurst_error = _jackknife(gaps, clips, entries)
    return PowerLaw(noise, hurst, scale, fitted, noise_error, hurst_error)


def _fit(gaps: np.ndarray, values: np.ndarray, entries: int) -> tuple[float, float, float]:
    """Noise, exponent and scale of values at gaps."""
    tiny = 1e-12 * values.max()
    unit = gaps[0]
    weight = 1 / (np.maximum(values, tiny) ** 2 * gaps / unit)
    power = (gaps / unit) ** (2 * _HURST[:, None])
    one, line, both = weight.sum(), (weight * power).sum(axis=1), (weight * power**2).sum(axis=1)
    flat, steep = (weight * values).sum(), (weight * values * power).sum(axis=1)
    scale = (one * steep - line * flat) / np.maximum(one * both - line**2, 1e-12 * one * both)
    scale = np.maximum(scale, 0)
    intercept = (flat - line * scale) / one
    scale = np.where(intercept < 0, steep / both, scale)
    intercept = np.maximum(intercept, 0)
    loss = (weight * (intercept[:, None] + scale[:, None] * power - values) ** 2).sum(axis=1)
    best = int(loss.argmin())
    hurst = float(_HURST[best])
    return (
        float(np.sqrt(intercept[best] / (2 * entries))),
        hurst,
        float(scale[best] / unit ** (2 * hurst)),
    )


def _jackknife(gaps: np.ndarray, clips: np.ndarray, entries: int) -> tuple[float | None, float | None]:
    """Standard errors of noise and exponent from fits without one group of clips at a time."""
    groups = np.array_split(np.arange(len(clips)), min(_GROUPS, len(clips)))
    if len(groups) < 2:
        return None, None
    fits = np.array([_fit(gaps, np.delete(clips, group, axis=0).mean(axis=0), entries)[:2] for group in groups])
    errors = np.sqrt((len(groups) - 1) * fits.var(axis=0))
    return float(errors[0]), float(errors[1])
