r"""F1: the order of the combined velocity in the shortest gap, and how well w(h) fills the steps between gaps.

With perfect heads u_k on gaps d_k = 2^(k-1) d_1 the only error of sum_k w_k u_k is bias. Interpolation through K heads
leaves z^(K+1) prod_k |h - d_k| / (K + 1)! (P2), so at h = 0 it falls as d_1^K; non-negative weights leave at least
z'' d_1 / 2 (P4), so every convex gate, the best included, falls as d_1. Between gaps the three nearest heads are used,
and at any fixed h / d_1 the error falls as d_1^3.

Slopes are fitted in log-log over the shortest gaps, one fit for each seed.

References:
    The Deferred Approach to the Limit (Richardson and Gaunt, 1927), https://doi.org/10.1098/rsta.1927.0008
"""

__all__ = ["Order", "measure_order"]

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from experiments.claims import claim, fitted_slope, geometric, interval
from experiments.latents import SmoothLatents, dyadic, root_mean_square, smooth_latents
from flowvid.dynamics.weights import lagrange, least_squares, one_hot, softmax, uniform
from flowvid.noise import Noise

CONVEX = ("instant", "uniform", "longest", "best convex")
FINITE = ("nearest head", "three nearest", "all heads")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What F1 measures.

    Arguments:
        seeds: Seeds of the trajectories.
        draws: Trajectories for each seed.
        length: Correlation length in seconds.
        shortest: Shortest gaps in seconds, increasing.
        fitted: How many of the shortest of them a slope is fitted to.
        heads: Numbers of heads of Richardson's rule.
        convex_heads: Number of heads of the other rules.
        tolerance: How far a slope may lie from its prediction.
        finite_heads: Number of heads where w(h) is looked at.
        finite_shortest: Their shortest gap in seconds.
        head_error: Error of every head there, relative to the velocity, in the second of the two looks.
        ratios: Steps between gaps, as multiples of the shortest gap, whose order is measured.
    """

    seeds: tuple[int, ...]
    draws: int
    length: float = 0.25
    shortest: tuple[float, ...] = tuple(2.0 ** (exponent / 2) for exponent in range(-22, -9))
    fitted: int = 5
    heads: tuple[int, ...] = (1, 2, 3, 4, 5)
    convex_heads: int = 4
    tolerance: float = 0.1
    finite_heads: int = 6
    finite_shortest: float = 2.0**-7
    head_error: float = 0.01
    ratios: tuple[float, ...] = (0.5, 1.5, 3.0, 6.0)


def measure_order(order: Order) -> dict[str, Any]:
    """Errors relative to the root mean square velocity, slopes and claims of F1.

    Arguments:
        order: What to measure.
    """
    by_seed = [_biases(order, seed) for seed in order.seeds]
    slopes = {
        rule: [fitted_slope(order.shortest[: order.fitted], found[rule][: order.fitted]) for found in by_seed]
        for rule in by_seed[0]
    }
    expected = _expected(order)
    rules = {
        rule: {
            "bias": [asdict(geometric([found[rule][n] for found in by_seed])) for n in range(len(order.shortest))],
            "slopes": slopes[rule],
            "slope": asdict(interval(slopes[rule])),
            "expected": expected[rule],
        }
        for rule in slopes
    }
    floor = [found["best convex"][0] / found["instant"][0] for found in by_seed]
    finite, bound = _between(order)
    claims = [
        *(_slope_claim(f"{rule}: order in the shortest gap", slopes[rule], expected[rule], order) for rule in slopes),
        claim("F1", "best convex gate: bias over that of the shortest head alone", floor, least=1 - 1e-3),
        claim("P2", "three nearest heads: largest error over its bound", bound, most=1.0),
    ]
    return {"shortest": list(order.shortest), "rules": rules, "finite": finite, "claims": claims}


def _slope_claim(says: str, slopes: Sequence[float], expected: float, order: Order) -> dict[str, Any]:
    return claim("F1", says, slopes, least=expected - order.tolerance, most=expected + order.tolerance)


def _expected(order: Order) -> dict[str, float]:
    """The order each rule should have."""
    return (
        {f"Richardson, {count}": float(count) for count in order.heads}
        | dict.fromkeys(CONVEX, 1.0)
        | {"least squares, degree 2": 2.0}
        | {f"w(h) at {ratio:g} gaps": 3.0 for ratio in order.ratios}
    )


def _biases(order: Order, seed: int) -> dict[str, list[float]]:
    """By rule: the root mean square bias for each shortest gap, over that of the velocity."""
    training, test = (smooth_latents(seed, part, order.draws, length=order.length) for part in ("training", "test"))
    found: dict[str, list[float]] = {rule: [] for rule in _expected(order)}
    for shortest in order.shortest:
        gaps = dyadic(shortest, max(order.convex_heads, order.finite_heads, *order.heads))
        rates = test.rates(gaps)
        for rule, (h, weights) in _weights(order, shortest, training).items():
            error = rates[:, : len(weights)] @ weights - test.rate(h)
            found[rule].append(root_mean_square(error) / root_mean_square(test.rate(h)))
    return found


def _weights(
    order: Order, shortest: float, training: SmoothLatents
) -> dict[str, tuple[float, Float64[np.ndarray, "gap"]]]:
    """By rule: the step it is for, and its weights."""
    gaps, many = dyadic(shortest, order.convex_heads), dyadic(shortest, order.finite_heads)
    errors = training.rates(gaps) - training.rate(0.0)[:, None]
    return (
        {f"Richardson, {count}": (0.0, lagrange(dyadic(shortest, count), 0.0)) for count in order.heads}
        | {
            "instant": (0.0, one_hot(gaps, gaps[0])),
            "uniform": (0.0, uniform(gaps)),
            "longest": (0.0, one_hot(gaps, gaps[-1])),
            "best convex": (0.0, softmax(errors.T @ errors / len(errors))),
            "least squares, degree 2": (0.0, least_squares(gaps, degree=2)),
        }
        | {f"w(h) at {r:g} gaps": (r * shortest, lagrange(many, r * shortest, local=3)) for r in order.ratios}
    )


def _between(order: Order) -> tuple[dict[str, Any], list[float]]:
    """Errors of w(h) along h, without and with errors of the heads; and the largest share of P2's bound, by seed."""
    gaps = dyadic(order.finite_shortest, order.finite_heads)
    steps = [order.finite_shortest * 2.0 ** (n / 8) for n in range(-16, 8 * (order.finite_heads - 1) + 1)]
    used = {"nearest head": 1, "three nearest": 3, "all heads": order.finite_heads}
    by_seed: list[dict[str, dict[str, list[float]]]] = []
    bound = []
    for seed in order.seeds:
        latents = smooth_latents(seed, "test", order.draws, length=order.length)
        noise = Noise.batch(seed, order.draws).normal("head errors", len(gaps), dtype=torch.float64).numpy()
        clean = latents.rates(gaps)
        wrong = clean + order.head_error / order.length * noise
        found: dict[str, dict[str, list[float]]] = {name: {"clean": [], "wrong": []} for name in FINITE}
        share = 0.0
        for h in steps:
            target = latents.rate(h)
            for name, local in used.items():
                weights = lagrange(gaps, h, local=local)
                for heads, rates in (("clean", clean), ("wrong", wrong)):
                    found[name][heads].append(root_mean_square(rates @ weights - target) * order.length)
            share = max(share, _bound_share(gaps, h, clean, target, latents))
        by_seed.append(found)
        bound.append(share)
    curves = {
        name: {
            heads: [asdict(interval(v)) for v in zip(*(s[name][heads] for s in by_seed), strict=True)]
            for heads in ("clean", "wrong")
        }
        for name in FINITE
    }
    return {"gaps": list(gaps), "steps": steps, "rules": curves}, bound


def _bound_share(
    gaps: Sequence[float],
    h: float,
    rates: Float64[np.ndarray, "draw gap"],
    target: Float64[np.ndarray, "draw"],
    latents: SmoothLatents,
) -> float:
    """The largest error of the three nearest heads over M_4 / 4! prod |h - gap|; zero at a gap, where both vanish."""
    weights = lagrange(gaps, h, local=3)
    used = np.flatnonzero(weights)
    if len(used) < 3:
        return 0.0
    bound = latents.largest(4) / math.factorial(4) * np.abs(h - np.asarray(gaps)[used]).prod()
    return float((np.abs(rates @ weights - target) / bound).max())
