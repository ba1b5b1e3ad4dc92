r"""F7: how much few-step DDIM shrinks what it samples, in closed form for Gaussian data, and measured.

One DDIM step from angle p to q is E[x_q | x_p], since x_q = cos(q) x0 + sin(q) eps with the x0 and eps that made x_p.
For a Gaussian direction of standard deviation s that is C(p, q) / C(p, p) x_p with C(p, q) = s^2 cos p cos q +
sin p sin q, and relative to the true deviation sqrt C(q, q) each step multiplies by a correlation. With tan a =
tan(p) / s the correlation is the cosine of the change of a, so after S steps

    deviation / s = prod_j cos(a_j - a_(j+1)),    a_j = arctan(tan(p_j) / s),    p_j = (1 - j / S) pi / 2.

No step can widen. At s = 1 this is cos(pi / 2S)^S (P13), the best that any s attains, because the a_j are then equally
spaced. Expanding the cosines, with the integral of a'(p)^2 over [0, pi / 2] equal to pi (s + 1 / s) / 4,

    deviation / s = 1 - pi^2 / (8 S) (s + 1 / s) / 2 + O(1 / S^2).

A direction much narrower than pi / 2S is lost altogether. Euler's rule in the angle, the same evaluations without the
rotation, lacks pi^2 / (8 S) ((s + 1 / s) / 2 - 1): it is exact at s = 1, where v vanishes and DDIM still turns. Both
tend to the ODE dx / dp = v, whose flow has the exact deviation for any data, with error of order one in 1 / S; midpoint
and Heun with order two.

References:
    Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502
    Progressive Distillation for Fast Sampling of Diffusion Models, appendix D (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512
"""

__all__ = ["Gaussian", "Shrinkage", "gaussian_factor", "measure_shrinkage", "sampler"]

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from experiments.claims import claim, fitted_slope, interval
from flowvid.denoise.ddim import Ddim
from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.oracles import GaussianMixture
from flowvid.noise import Noise
from flowvid.solve.ode import Ode
from flowvid.solve.solver import Solver

HALF_TURN = math.pi / 2
ORDERS = {"ddim": 1.0, "euler": 1.0, "midpoint": 2.0, "heun2": 2.0}


@dataclass(frozen=True, kw_only=True)
class Shrinkage:
    """What F7 measures.

    Arguments:
        seeds: Seeds of the noise, and of the directions of the Gaussian.
        draws: Samples for each seed.
        steps: Numbers of steps, increasing.
        fitted: How many of the largest of them a slope is fitted to.
        deviations: Standard deviations of the Gaussian along its principal directions.
        weights: Of the components of the mixture.
        means: Of the components.
        spreads: Standard deviations of the components.
        reference_steps: Steps of rk4 that stand for the exact flow of the mixture.
        tolerance: How far a slope may lie from its prediction, and a ratio from one.
    """

    seeds: tuple[int, ...]
    draws: int
    steps: tuple[int, ...]
    fitted: int = 3
    deviations: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    weights: tuple[float, ...] = (0.35, 0.65)
    means: tuple[float, ...] = (-1.2, 0.8)
    spreads: tuple[float, ...] = (0.3, 0.4)
    reference_steps: int = 2048
    tolerance: float = 0.1


class Gaussian:
    """Centred Gaussian data with given deviations along random orthogonal directions.

    Arguments:
        seed: Of the directions.
        deviations: Standard deviations along them.
    """

    def __init__(self, seed: int, deviations: Sequence[float]) -> None:
        count = len(deviations)
        square = Noise.batch(seed, 1).normal("directions", count, count, dtype=torch.float64)[0]
        self.directions = torch.linalg.qr(square)[0]
        self.deviations = torch.tensor(deviations, dtype=torch.float64)
        self.covariance = self.directions * self.deviations**2 @ self.directions.T

    def denoiser(self) -> Denoiser:
        """The denoiser of least error, which predicts v."""
        return Denoiser(self._v)

    def _v(self, noisy: Float[Tensor, "batch entry"], level: float) -> Tensor:
        """E[v | x] from the covariance: sin cos (1 - C) (cos^2 C + sin^2)^-1 x."""
        sin, cos = math.sin(level * HALF_TURN), math.cos(level * HALF_TURN)
        unit = torch.eye(len(self.covariance), dtype=torch.float64)
        total = cos**2 * self.covariance + sin**2 * unit
        return sin * cos * torch.linalg.solve(total, (unit - self.covariance) @ noisy.T).T


def gaussian_factor(deviation: float, steps: int) -> float:
    """Standard deviation that DDIM reaches over the true one: the product of cosines.

    Arguments:
        deviation: The true one, of a Gaussian direction.
        steps: Number of equal steps of the angle.
    """
    angles = [math.atan2(math.sin(p), deviation * math.cos(p)) for p in _angles(steps)]
    return math.prod(math.cos(a - b) for a, b in pairwise(angles))


def leading(deviation: float, *, rotation: bool) -> float:
    """What is lacking times the number of steps, in the limit of many.

    Arguments:
        deviation: The true one, of a Gaussian direction.
        rotation: Whether steps are DDIM's rotations; otherwise Euler's.
    """
    return math.pi**2 / 8 * ((deviation + 1 / deviation) / 2 - (0 if rotation else 1))


def sampler(method: str, steps: int) -> Solver:
    """A solver from noise to data in so many equal steps of the angle.

    Arguments:
        method: One of `ORDERS`, or torchdiffeq's rk4.
        steps: Number of steps.
    """
    return Ddim(substeps=steps) if method == "ddim" else Ode(method=method, substeps=steps)


def _angles(steps: int) -> list[float]:
    return [HALF_TURN * (1 - step / steps) for step in range(steps)] + [0.0]


def _sampled(
    solver: Solver, denoiser: Denoiser, noise: Float64[Tensor, "batch entry"]
) -> Float64[Tensor, "batch entry"]:
    """Samples from pure noise."""
    return solver.solve(denoiser, noise, [1.0, 0.0]).require().trajectory.states[:, -1]


def measure_shrinkage(shrinkage: Shrinkage) -> dict[str, Any]:
    """Missing deviations, errors against the exact flow, slopes and claims of F7.

    Arguments:
        shrinkage: What to measure.
    """
    gaussian, gaussian_claims = _gaussian(shrinkage)
    mixture, mixture_claims = _mixture(shrinkage)
    return {
        "steps": list(shrinkage.steps),
        "gaussian": gaussian,
        "mixture": mixture,
        "claims": [*gaussian_claims, *mixture_claims],
    }


def _gaussian(shrinkage: Shrinkage) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Deviations reached along each direction, by method, beside the closed form; and the claims about them."""
    worlds = [
        (Gaussian(seed, shrinkage.deviations), _noise(shrinkage, seed, len(shrinkage.deviations)))
        for seed in shrinkage.seeds
    ]
    reached = {
        method: [[_reached(world, noise, method, steps) for world, noise in worlds] for steps in shrinkage.steps]
        for method in ORDERS
    }
    numbers: dict[str, Any] = {}
    claims: list[dict[str, Any]] = []
    for entry, deviation in enumerate(shrinkage.deviations):
        closed = [gaussian_factor(deviation, steps) for steps in shrinkage.steps]
        of_method = {method: [[of[entry] for of in by_seed] for by_seed in rows] for method, rows in reached.items()}
        numbers[f"{deviation:g}"] = {
            "closed_form": closed,
            "leading": {"ddim": leading(deviation, rotation=True), "euler": leading(deviation, rotation=False)},
            "reached": {method: [asdict(interval(values)) for values in rows] for method, rows in of_method.items()},
        }
        claims += _direction_claims(shrinkage, deviation, of_method, closed)
    return numbers, claims


def _reached(world: Gaussian, noise: Float64[Tensor, "batch entry"], method: str, steps: int) -> list[float]:
    """Deviation of the samples along each direction, over the true one.

    Each is compared with the deviation of the very noise it was made from, so that how many draws there are does not
    matter.
    """
    samples, given = (
        _sampled(sampler(method, steps), world.denoiser(), noise) @ world.directions,
        noise @ world.directions,
    )
    return (samples.square().mean(dim=0) / given.square().mean(dim=0)).sqrt().div(world.deviations).tolist()


def _direction_claims(
    shrinkage: Shrinkage, deviation: float, reached: dict[str, list[list[float]]], closed: Sequence[float]
) -> list[dict[str, Any]]:
    """Claims about one direction of the Gaussian."""
    says, many = f"deviation {deviation:g}", shrinkage.steps[-1]
    off = [max(abs(row[n] - closed[at]) for at, row in enumerate(reached["ddim"])) for n in range(len(shrinkage.seeds))]
    claims = [claim("F7", f"{says}: ddim, largest difference from the closed form", off, most=1e-9)]
    for method, order in ORDERS.items():
        missing = [[abs(1 - value) for value in row] for row in reached[method]]
        if deviation == 1 and method != "ddim":
            claims.append(
                claim(
                    "F7",
                    f"{says}: {method}, largest error",
                    [max(values) for values in zip(*missing, strict=True)],
                    most=1e-9,
                )
            )
            continue
        claims.append(_order_claim(shrinkage, f"{says}: {method}, order of what is missing", missing, order))
        if order == 1:
            constant = leading(deviation, rotation=method == "ddim") / many
            ratios = [(1 - value) / constant for value in reached[method][-1]]
            near = {"least": 1 - shrinkage.tolerance, "most": 1 + shrinkage.tolerance}
            claims.append(
                claim("F7", f"{says}: {method}, what is missing over its limit, {many} steps", ratios, **near)
            )
    return claims


def _mixture(shrinkage: Shrinkage) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Missing deviation and error against the exact flow of a mixture, by method; and the claims about them."""
    means = torch.tensor(shrinkage.means, dtype=torch.float64)[:, None]
    denoiser = GaussianMixture(means, shrinkage.spreads, shrinkage.weights).denoiser()
    noises = [_noise(shrinkage, seed, 1) for seed in shrinkage.seeds]
    exact = [_sampled(sampler("rk4", shrinkage.reference_steps), denoiser, noise) for noise in noises]
    numbers: dict[str, Any] = {}
    claims: list[dict[str, Any]] = []
    for method, order in ORDERS.items():
        missing: list[list[float]] = []
        error: list[list[float]] = []
        for steps in shrinkage.steps:
            samples = [_sampled(sampler(method, steps), denoiser, noise) for noise in noises]
            missing.append([1 - float(x.std() / y.std()) for x, y in zip(samples, exact, strict=True)])
            error.append([float((x - y).square().mean().sqrt() / y.std()) for x, y in zip(samples, exact, strict=True)])
        numbers[method] = {
            "missing": [asdict(interval(values)) for values in missing],
            "error": [asdict(interval(values)) for values in error],
        }
        claims.append(_order_claim(shrinkage, f"mixture: {method}, order of the error", error, order))
        if method == "ddim":
            claims.append(_order_claim(shrinkage, "mixture: ddim, order of the missing deviation", missing, order))
    return numbers, claims


def _order_claim(shrinkage: Shrinkage, says: str, rows: Sequence[Sequence[float]], order: float) -> dict[str, Any]:
    """The claim that a positive quantity falls with the steps at an order; ``rows`` holds the seeds for each count."""
    steps, last = shrinkage.steps[-shrinkage.fitted :], rows[-shrinkage.fitted :]
    orders = [-fitted_slope(steps, [row[n] for row in last]) for n in range(len(shrinkage.seeds))]
    return claim("F7", says, orders, least=order - shrinkage.tolerance, most=order + shrinkage.tolerance)


def _noise(shrinkage: Shrinkage, seed: int, entries: int) -> Float64[Tensor, "batch entry"]:
    return Noise.batch(seed, shrinkage.draws).normal("samples", entries, dtype=torch.float64)
