r"""F2: which combination of heads estimates a velocity best when frames are noisy.

Frames carry independent noise of deviation sigma, so heads share the noise of the frame they start from. Errors of the
heads are bias plus sigma times noise, and the mean square error of any weights w is w' S(sigma) w with

    S(sigma) = E[b b'] + sigma E[b n' + n b'] + sigma^2 E[n n'],

measured on held-out draws. Rules that are fitted see training draws only. One head of gap d has mean square error
d^2 M^2 / 4 + 2 sigma^2 / d^2, with M^2 = E z''^2, and Richardson's two heads 6.5 sigma^2 / d^2 and a bias of higher
order: they are better as long as sigma < d^2 M / sqrt(18), about 0.24 d^2 M (P5). With the bias b_k of both rules kept
the same equality reads sigma^2 = (b_1^2 - b_2^2) d^2 / 4.5. Calibrated weights minimise w' S w over all weights that
sum to one (P6), so on new draws no other rule should beat them by more than what they lose by having been fitted.

Three ways to calibrate differ in what stands for the true velocity: the velocity itself; the five-point central
difference of noisy frames that the heads did not see; and that of the very frames the heads were measured on, whose
noise the weights then learn to repeat.

References:
    Smoothing and Differentiation of Data by Simplified Least Squares Procedures (Savitzky and Golay, 1964), https://doi.org/10.1021/ac60214a047
"""

__all__ = ["Crossover", "bias_moment", "fixed_rules", "measure_crossover"]

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from experiments.claims import Interval, claim, fitted_slope, interval
from experiments.latents import dyadic, smooth_latents
from flowvid.dynamics.weights import Calibration, calibrated, lagrange, least_squares, one_hot, softmax, uniform
from flowvid.noise import Noise

Moment = Float64[np.ndarray, "gap gap"]
FITTED = ("best convex", "calibrated", "calibrated, other frames", "calibrated, same frames")
REACH = 2


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """What F2 measures.

    Arguments:
        seeds: Seeds of the trajectories and of the noise.
        draws: Trajectories for training, and as many held out, for each seed.
        length: Correlation length in seconds.
        heads: Number of heads.
        shortest: Their shortest gap in seconds.
        sigmas: Deviations of the frame noise; the latents have deviation one.
        crossings: Shortest gaps in seconds, increasing, at which the crossover of the two rules is looked for.
        level: Confidence, jointly over all rules and deviations, of "another rule is better".
        tolerance: Relative error allowed to the predicted crossover.
    """

    seeds: tuple[int, ...]
    draws: int
    length: float = 0.25
    heads: int = 4
    shortest: float = 1 / 16
    sigmas: tuple[float, ...] = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    crossings: tuple[float, ...] = (1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16)
    level: float = 0.95
    tolerance: float = 0.05


@dataclass(frozen=True, eq=False)
class _Sample:
    """Errors of perfect heads on noisy frames.

    Arguments:
        gaps: Gaps of the heads in seconds.
        velocity: True velocities.
        around: Displacements to the frames of the five-point difference, -2 to 2 shortest gaps.
        rates: Average velocities over the gaps without noise.
        noise: Noise of the heads for a deviation of one.
        noise_around: That of the displacements, from the frames that the heads were measured on.
        noise_other: The same from other frames.
    """

    gaps: tuple[float, ...]
    velocity: Float64[np.ndarray, "draw"]
    around: Float64[np.ndarray, "draw frame"]
    rates: Float64[np.ndarray, "draw gap"]
    noise: Float64[np.ndarray, "draw gap"]
    noise_around: Float64[np.ndarray, "draw frame"]
    noise_other: Float64[np.ndarray, "draw frame"]

    def moment(self, sigma: float) -> Moment:
        """Second moment of the heads' errors."""
        error = self.rates - self.velocity[:, None] + sigma * self.noise
        return error.T @ error / len(error)

    def calibration(self, sigma: float, *, same: bool) -> Calibration:
        """What calibration on noisy frames sees: those of the heads themselves, or others."""
        noise = self.noise_around if same else self.noise_other
        entries = np.concatenate((self.rates + sigma * self.noise, self.around + sigma * noise), axis=1)
        return Calibration(self.gaps, self.gaps[0], entries.T @ entries / len(entries))


def measure_crossover(crossover: Crossover) -> dict[str, Any]:
    """Errors relative to the root mean square velocity, crossovers and claims of F2.

    Arguments:
        crossover: What to measure.
    """
    gaps = dyadic(crossover.shortest, crossover.heads)
    errors: list[list[dict[str, float]]] = []
    flips: list[float] = []
    for seed in crossover.seeds:
        training, test = (_sample(crossover, seed, part, gaps) for part in ("training", "test"))
        flips.append(_flip(crossover, test))
        errors.append([_errors(training, test, sigma) for sigma in crossover.sigmas])
    rules = {name: _over_seeds(crossover, errors, name) for name in errors[0][0]}
    rivals = [name for name in rules if not name.startswith("calibrated")]
    excess = {name: _excess(crossover, errors, name, len(rivals)) for name in rivals}
    closest = min((found for name in rivals for found in excess[name]), key=lambda found: found.high)
    fixed = [name for name in rivals if name not in FITTED]
    crossings, claims = _crossings(crossover)
    says = "error of another rule over that of calibrated weights, less one: the lowest of all rules and noises"
    return {
        "gaps": list(gaps),
        "sigmas": list(crossover.sigmas),
        "rules": {name: [asdict(found) for found in of_rule] for name, of_rule in rules.items()},
        "excess": {name: [asdict(found) for found in excess[name]] for name in rivals},
        "best_fixed_rule": [min(fixed, key=lambda name: rules[name][n].mean) for n in range(len(crossover.sigmas))],
        "crossings": crossings,
        "flips": flips,
        "claims": [
            claim("F2", says, closest, least=0.0, strict=False),
            *claims,
            claim(
                "F2", "noise where the best fixed rule becomes a convex one, over 0.24 d^2 M", flips, least=0.5, most=2
            ),
        ],
    }


def fixed_rules(gaps: tuple[float, ...]) -> dict[str, Float64[np.ndarray, "gap"]]:
    """Weights that look at no data: single heads, equal weights, Richardson's rule and least squares.

    Arguments:
        gaps: Gaps of the heads in seconds, increasing.
    """
    count = len(gaps)
    padded = {k: np.append(lagrange(gaps[:k], 0.0), np.zeros(count - k)) for k in range(2, count + 1)}
    return (
        {"instant": one_hot(gaps, gaps[0])}
        | {f"head {k + 1}": one_hot(gaps, gaps[k]) for k in range(1, count)}
        | {"uniform": uniform(gaps)}
        | {f"Richardson, {k}": weights for k, weights in padded.items()}
        | {f"least squares, degree {degree}": least_squares(gaps, degree=degree) for degree in range(1, count)}
    )


def bias_moment(gaps: tuple[float, ...], length: float) -> Moment:
    """E[b b'] of perfect heads for the Gaussian process of this length, in closed form.

    Arguments:
        gaps: Gaps of the heads in seconds.
        length: Correlation length in seconds.
    """
    d = np.asarray(gaps)
    kernel, lags = np.exp(-(d**2) / (2 * length**2)), d[:, None] - d
    rates = (np.exp(-(lags**2) / (2 * length**2)) - kernel[:, None] - kernel + 1) / (d[:, None] * d)
    mixed = kernel / length**2
    return rates - mixed[:, None] - mixed + 1 / length**2


def _sample(crossover: Crossover, seed: int, part: str, gaps: tuple[float, ...]) -> _Sample:
    """Trajectories and noise of one seed."""
    latents = smooth_latents(seed, part, crossover.draws, length=crossover.length)
    source = Noise.batch(seed, crossover.draws).fold(f"frames, {part}")
    own = source.normal("own", 1 + len(gaps) + REACH, dtype=torch.float64).numpy()
    other = source.normal("other", 2 * REACH + 1, dtype=torch.float64).numpy()
    offsets = range(-REACH, REACH + 1)
    frame = {0: own[:, 0], 1: own[:, 1], 2: own[:, 2], -1: own[:, -1], -2: own[:, -2]}
    return _Sample(
        gaps=gaps,
        velocity=latents.rate(0.0),
        around=np.stack([latents.displacement(offset * gaps[0]) for offset in offsets], axis=1),
        rates=latents.rates(gaps),
        noise=(own[:, 1 : 1 + len(gaps)] - own[:, :1]) / np.asarray(gaps),
        noise_around=np.stack([frame[offset] - frame[0] for offset in offsets], axis=1),
        noise_other=other - other[:, REACH : REACH + 1],
    )


def _errors(training: _Sample, test: _Sample, sigma: float) -> dict[str, float]:
    """By rule: the mean square error on the held-out draws."""
    moment, held_out = training.moment(sigma), test.moment(sigma)
    rules = fixed_rules(test.gaps) | {
        "best convex": softmax(moment),
        "calibrated": calibrated(moment),
        "calibrated, other frames": training.calibration(sigma, same=False).weights(0.0),
        "calibrated, same frames": training.calibration(sigma, same=True).weights(0.0),
    }
    return {name: float(weights @ held_out @ weights) for name, weights in rules.items()}


def _flip(crossover: Crossover, test: _Sample) -> float:
    """The least noise, over 0.24 d^2 M, at which a convex fixed rule beats all of Richardson's."""
    rules = fixed_rules(test.gaps)
    convex = [weights for weights in rules.values() if weights.min() >= 0]
    signed = [weights for name, weights in rules.items() if name.startswith("Richardson")]
    for ratio in np.geomspace(1 / 8, 8, 193):
        moment = test.moment(ratio * _simple(crossover, test.gaps[0]))
        if min(w @ moment @ w for w in convex) < min(w @ moment @ w for w in signed):
            return float(ratio)
    raise ValueError(f"Richardson's rules stay best up to eight times 0.24 d^2 M for gaps of {test.gaps}.")


def _simple(crossover: Crossover, shortest: float) -> float:
    """The predicted crossover without Richardson's bias: d^2 M / sqrt(18)."""
    return shortest**2 * 3**0.5 / crossover.length**2 / 18**0.5


def _over_seeds(crossover: Crossover, errors: list[list[dict[str, float]]], name: str) -> list[Interval]:
    """Root mean square error over that of the velocity, for each deviation."""
    count = len(crossover.sigmas)
    return [interval([found[n][name] ** 0.5 * crossover.length for found in errors]) for n in range(count)]


def _excess(crossover: Crossover, errors: list[list[dict[str, float]]], name: str, rivals: int) -> list[Interval]:
    """Mean square error over that of calibrated weights, less one, jointly over all rules and deviations."""
    count = len(crossover.sigmas)
    return [
        interval(
            [found[n][name] / found[n]["calibrated"] - 1 for found in errors],
            level=crossover.level,
            comparisons=count * rivals,
        )
        for n in range(count)
    ]


def _crossings(crossover: Crossover) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Where Richardson's two heads stop beating the shortest alone, by shortest gap, with the claims about it."""
    found = [[_crossing(crossover, seed, shortest) for seed in crossover.seeds] for shortest in crossover.crossings]
    simple = [_simple(crossover, shortest) for shortest in crossover.crossings]
    whole = [_with_bias(crossover, shortest) for shortest in crossover.crossings]
    ratios = [[value / simple[n] for value in values] for n, values in enumerate(found)]
    exact = [[value / whole[n] for value in values] for n, values in enumerate(found)]
    slopes = [
        fitted_slope(crossover.crossings[:3], [values[s] for values in found[:3]]) for s in range(len(crossover.seeds))
    ]
    near = {"least": 1 - crossover.tolerance, "most": 1 + crossover.tolerance}
    says = "crossover of Richardson's two heads and one"
    return {
        "shortest": list(crossover.crossings),
        "sigma": [asdict(interval(values)) for values in found],
        "over_simple": [asdict(interval(values)) for values in ratios],
        "over_with_bias": [asdict(interval(values)) for values in exact],
        "simple": simple,
        "with_bias": whole,
    }, [
        claim("F2", f"{says} over 0.24 d^2 M at the shortest d", ratios[0], **near),
        claim("F2", f"{says} over its closed form with both biases at the longest d", exact[-1], **near),
        claim("F2", f"{says}: order in d", slopes, least=1.9, most=2.1),
    ]


def _crossing(crossover: Crossover, seed: int, shortest: float) -> float:
    """The positive root in sigma of the difference of two mean square errors, each a quadratic."""
    gaps = dyadic(shortest, 2)
    sample = _sample(crossover, seed, "test", gaps)
    error = sample.rates - sample.velocity[:, None]
    square, linear, constant = 0.0, 0.0, 0.0
    for sign, weights in ((1, lagrange(gaps, 0.0)), (-1, one_hot(gaps, shortest))):
        bias, noise = error @ weights, sample.noise @ weights
        square += sign * float(np.mean(noise**2))
        linear += sign * float(np.mean(noise * bias))
        constant += sign * float(np.mean(bias**2))
    return (-linear + (linear**2 - square * constant) ** 0.5) / square


def _with_bias(crossover: Crossover, shortest: float) -> float:
    """The crossover in closed form: where 4.5 sigma^2 / d^2 makes up for the difference of the squared biases."""
    gaps = dyadic(shortest, 2)
    moment = bias_moment(gaps, crossover.length)
    pair, single = lagrange(gaps, 0.0), one_hot(gaps, shortest)
    return float(((single @ moment @ single - pair @ moment @ pair) * shortest**2 / 4.5) ** 0.5)
