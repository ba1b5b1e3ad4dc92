r"""Stochastic fields: a drift and a volatility,

    dz = drift(t, z) dt + volatility(t, z) dW.

The volatility is what others call the diffusion coefficient; that word is kept for denoising here. White noise on the
latent itself is the wrong model of video: over frames of length dt the second differences of a first-order equation
have E |z(t + dt) - 2 z(t) + z(t - dt)|^2 = 2 g^2 dt, white flicker that a finer grid makes worse than the motion.
`kinetic` puts the noise on the hidden velocity alone, which leaves the latent continuously differentiable, with second
differences of 2/3 g^2 dt^3.

`bridge` pins an equation to a known end. Adding (end - z) / (T - t) to the drift makes every path end there, whatever
the drift (Delyon and Hu); with no drift and a constant volatility the result is the Brownian bridge. `kinetic_bridge`
pins z alone, by a force on p. A free kinetic equation in steps of Euler and Maruyama, p' = p + g sqrt(h) xi and
z' = z + h p, reaches z(T) = z + r p + g sum_j sqrt(h_j) w_j xi_j with r = T - t seconds left and w_j the seconds after
step j. Given that z(T) = end, the next p' is normal, with

    mean p + h w (end - z - p r) / V,    variance g^2 h (1 - h w^2 / V),    V = sum_j h_j w_j^2 from this step on,

whatever g. As steps get short that is the force 3 (end - z - p r) / r^2, the control that lands there with the least
energy; but taken in steps of Euler the latter errs most at the end, where r is no longer than some of them, and the
velocity at the end spreads too far: its variance by half with 64 steps, here by 2 %. Both bridges keep the drift that
they are given, so they are the conditioned equation where that drift is zero, and near it where it is small.

References:
    Simulation of conditioned diffusion and application to parameter estimation (Delyon and Hu, 2006),
    https://doi.org/10.1016/j.spa.2006.04.004
    Simulation of elliptic and hypo-elliptic conditional diffusions (Bierkens et al., 2020),
    https://arxiv.org/abs/1810.01761
    Generative Modeling with Phase Stochastic Bridges (Chen et al., 2023), https://arxiv.org/abs/2310.07805
"""

__all__ = ["CALCULI", "NOISE_TYPES", "Calculus", "NoiseType", "StochasticDrift", "bridge", "kinetic", "kinetic_bridge"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.drift import Drift

NoiseType = Literal["diagonal", "additive", "scalar", "general"]
Calculus = Literal["ito", "stratonovich"]
NOISE_TYPES = ("diagonal", "additive", "scalar", "general")
CALCULI = ("ito", "stratonovich")


@dataclass(frozen=True)
class StochasticDrift:
    """A drift with a volatility.

    Arguments:
        drift: The deterministic part.
        volatility: (time, state) -> the noise coefficient, per root second. Diagonal: shape of the state, entry i
            driven by its own Brownian motion. Scalar: shape of the state, all entries driven by one Brownian motion
            per sample. Additive and general: shape (batch, *state, noise), every entry driven by all; additive
            promises not to depend on the state.
        noise: Which of these.
        calculus: How the stochastic integral is meant; with additive noise both mean the same.

    Raises:
        ValueError: The noise type or the calculus is unknown.
    """

    drift: Drift
    volatility: Callable[[Any, Tensor], Tensor]
    noise: NoiseType = "diagonal"
    calculus: Calculus = "ito"

    def __post_init__(self) -> None:
        if self.noise not in NOISE_TYPES:
            raise ValueError(f"The noise types are {', '.join(NOISE_TYPES)}; got {self.noise!r}.")
        if self.calculus not in CALCULI:
            raise ValueError(f"The calculus is {' or '.join(CALCULI)}; got {self.calculus!r}.")


def kinetic(
    drift: Drift, volatility: float | Callable[[Any, Tensor], Tensor], *, calculus: Calculus = "ito"
) -> StochasticDrift:
    """A kinetic equation: dz = (first half of the drift) dt, dp = (second half) dt + volatility dW.

    Arguments:
        drift: (time, (z, p)) -> (dz/dt, dp/dt); z and p are the halves of dimension 1.
        volatility: Noise coefficient of p: a number, or a function (time, (z, p)) -> shape of p. As long as it does
            not depend on p both calculi mean the same, and Euler-Maruyama converges with strong order 1.
        calculus: How it is meant.

    Returns:
        A field with diagonal noise.
    """

    def coefficient(time: Any, state: Float[Tensor, "batch both *rest"]) -> Float[Tensor, "batch both *rest"]:
        latent, velocity = _halves(state)
        strength = volatility(time, state) if callable(volatility) else torch.full_like(velocity, volatility)
        return torch.cat((torch.zeros_like(latent), strength), dim=1)

    return StochasticDrift(drift, coefficient, "diagonal", calculus)


def bridge(
    field: StochasticDrift, end: Float[Tensor, "batch *state"], time: float, *, landing: float
) -> StochasticDrift:
    """An Ito equation whose paths are at a given state at a given time.

    In the last ``landing`` seconds the paths move in a straight line, without drift and noise, so that a solver whose
    last step is no longer than that lands exactly. The deviation from the equation is of the size of the noise over
    those seconds. Solvers that ask for the drift at the last time itself, where the pull is 0 / 0, do not apply.

    Arguments:
        field: The equation to be pinned, meant in the sense of Ito.
        end: The state at the end.
        time: Seconds of the end; the field is defined before it.
        landing: Seconds of the straight line; the last step of the solver.

    Raises:
        ValueError: The field is not meant in the sense of Ito, or ``landing`` is not positive.
    """
    if field.calculus != "ito":
        raise ValueError("A bridge pins an equation meant in the sense of Ito; this one is meant as Stratonovich.")
    if not landing > 0:
        raise ValueError(f"A bridge lands in a positive number of seconds, the last step of the solver; got {landing}.")

    def remaining(now: Any) -> float:
        left = time - float(now)
        if left <= 0:
            raise ValueError(
                f"A bridge has no drift at its end, {time} s, or after; got {float(now)} s. Use a solver that looks "
                "only at the start of a step, such as euler-maruyama or milstein, and stop at the end."
            )
        return left

    def landed(left: float) -> bool:
        return left <= landing * (1 + 1e-9)

    def drift(now: Any, state: Tensor) -> Tensor:
        left = remaining(now)
        pull = (end - state) / left
        return pull if landed(left) else pull + field.drift(now, state)

    def volatility(now: Any, state: Tensor) -> Tensor:
        strength = field.volatility(now, state)
        return torch.zeros_like(strength) if landed(remaining(now)) else strength

    return replace(field, drift=drift, volatility=volatility)


def kinetic_bridge(
    field: StochasticDrift, end: Float[Tensor, "batch half *rest"], times: Sequence[float]
) -> StochasticDrift:
    """A kinetic equation whose latent is at a given place at a given time, with whatever velocity it gets there.

    It is meant for Euler-Maruyama steps between the given times and has no meaning elsewhere. In the last steps, of
    twice the length of the longest, the velocity is not subject to the drift of the equation, so that the latent lands
    exactly.

    Arguments:
        field: The equation to be pinned, as `kinetic` makes it, meant in the sense of Ito, with dz = p dt.
        end: The latent at the last time.
        times: Seconds of the steps, at least two of them.

    Raises:
        ValueError: The field is not meant in the sense of Ito, or there are fewer than two steps.
    """
    if field.calculus != "ito":
        raise ValueError("A bridge pins an equation meant in the sense of Ito; this one is meant as Stratonovich.")
    if len(times) < 3:
        raise ValueError(f"A kinetic bridge needs two steps, to turn and to land; got the times {list(times)} s.")
    steps = np.diff(times)
    after = times[-1] - np.array(times[1:])
    spread = np.cumsum((steps * after**2)[::-1])[::-1]
    landing = 2 * steps.max() * (1 + 1e-9)

    def at(now: Any) -> int:
        number = int(np.abs(np.array(times[:-1]) - float(now)).argmin())
        if abs(times[number] - float(now)) > 1e-9:
            raise ValueError(f"A kinetic bridge takes the steps it was made for; got {float(now)} s. Use Euler's.")
        return number

    def drift(now: Any, state: Tensor) -> Tensor:
        number = at(now)
        latent, velocity = _halves(state)
        left = times[-1] - times[number]
        pull = after[number] / spread[number] if spread[number] > 0 else 0.0
        force = (end - latent - velocity * left) * pull
        if left > landing:
            force = force + _halves(field.drift(now, state))[1]
        return torch.cat((velocity, force), dim=1)

    def volatility(now: Any, state: Tensor) -> Tensor:
        number = at(now)
        share = steps[number] * after[number] ** 2 / spread[number] if spread[number] > 0 else 0.0
        return field.volatility(now, state) * math.sqrt(max(0.0, 1 - share))

    return replace(field, drift=drift, volatility=volatility)


def _halves(state: Tensor) -> tuple[Tensor, Tensor]:
    """z and p of a state.

    Raises:
        ValueError: Dimension 1 cannot be halved.
    """
    if state.ndim < 2 or state.shape[1] % 2:
        raise ValueError(
            f"A kinetic state is (z, p), two halves of dimension 1, so that dimension has even length; got shape "
            f"{tuple(state.shape)}."
        )
    latent, velocity = state.chunk(2, dim=1)
    return latent, velocity
