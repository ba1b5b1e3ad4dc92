r"""Stochastic differential equations whose solution is known on every path.

Strong convergence is about paths: the error of a solver is |z_h(t) - z(t)| with z the solution *driven by the same
Brownian motion*. Each equation here has a solution that is a function of W(t) - W(s) alone, so that it can be told
without knowing how a solver draws its noise: the same solver, with the same noise, on the equation's *driver*
dz = c dW, constant c, which every consistent method solves exactly, gives away the path it walks on.

    geometric   dz = mu z dt + sigma z dW                  z exp((mu - sigma^2 / 2) h + sigma dW)     (Ito)
                                                           z exp(mu h + sigma dW)                     (Stratonovich)
    arcsinh     dz = sigma sqrt(1 + z^2) o dW              sinh(asinh z + sigma dW)
    settling    dz = -z / (2 a^2) dt + sigma / a dW        (a(s) z + sigma dW) / a(t), with a(t) = sqrt(1 + t)

`geometric` tells Ito from Stratonovich; `arcsinh` has a volatility with a derivative that varies, which shows wrong
correction terms; `settling` has additive noise, with which the two calculi agree.

References:
    Numerical Solution of Stochastic Differential Equations (Kloeden and Platen, 1992),
    https://doi.org/10.1007/978-3-662-12616-5
"""

__all__ = ["KnownSde", "arcsinh", "geometric", "settling"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.drift import RowWise, clock
from flowvid.dynamics.stochastic import Calculus, NoiseType, StochasticDrift
from flowvid.testing.fields import spread

_MIX = (0.6, 0.8)


@dataclass(frozen=True, eq=False)
class KnownSde:
    """A stochastic field with its solution on every path.

    Arguments:
        name: What messages call it.
        drift: The drift and the volatility.
        driver: The equation dz = c dW, c constant, driven by the same noise.
        solution: (state, start, stop, path) -> the state at the stop, with path the driver's displacement over them.
        shape: Shape of one sample's state that the field accepts.
        low: Entries of the states it is tried on are at least this.
        high: And at most this.
    """

    name: str
    drift: StochasticDrift
    driver: StochasticDrift
    solution: Callable[[Tensor, float, float, Tensor], Tensor]
    shape: tuple[int, ...] = (16,)
    low: float = 0.5
    high: float = 1.5

    def states(self, batch: int, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, "batch ..."]:
        """Unequal states for the field to be tried on, always the same ones."""
        return spread(batch, self.shape, self.low, self.high, dtype)


def _driven(
    drift: Callable[[Any, Tensor], Tensor],
    volatility: Callable[[Any, Tensor], Tensor],
    noise: NoiseType,
    calculus: Calculus,
) -> tuple[StochasticDrift, StochasticDrift]:
    """A field with one volatility per entry, given the columns that its type of noise asks for; and its driver."""

    def columns(value: Tensor) -> Tensor:
        if noise == "additive":
            return value[..., None]
        return value[..., None] * torch.tensor(_MIX, dtype=torch.float64).to(value) if noise == "general" else value

    def still(time: Any, state: Tensor) -> Tensor:
        return torch.zeros_like(state)

    field = StochasticDrift(RowWise(drift), lambda time, state: columns(volatility(time, state)), noise, calculus)
    driver = StochasticDrift(RowWise(still), lambda time, state: columns(torch.ones_like(state)), noise, calculus)
    return field, driver


def geometric(
    rate: float = 0.5,
    volatility: float = 0.6,
    *,
    noise: Literal["diagonal", "scalar", "general"] = "diagonal",
    calculus: Calculus = "ito",
) -> KnownSde:
    """Geometric Brownian motion.

    Arguments:
        rate: The drift mu, per second.
        volatility: sigma, per root second.
        noise: Its type; "general" is two commuting columns.
        calculus: How it is meant.
    """
    growth = rate - volatility**2 / 2 if calculus == "ito" else rate

    def solution(state: Tensor, start: float, stop: float, path: Tensor) -> Tensor:
        return state * torch.exp(growth * (stop - start) + volatility * path)

    fields = _driven(lambda time, z: rate * z, lambda time, z: volatility * z, noise, calculus)
    return KnownSde(f"geometric({rate}, {volatility}, {noise}, {calculus})", *fields, solution)


def arcsinh(volatility: float = 0.6, *, calculus: Calculus = "stratonovich") -> KnownSde:
    """dz = sigma sqrt(1 + z^2) o dW, with diagonal noise; the Ito form has the drift sigma^2 z / 2.

    Arguments:
        volatility: sigma, per root second.
        calculus: How it is meant.
    """
    correction = volatility**2 / 2 if calculus == "ito" else 0.0

    def solution(state: Tensor, start: float, stop: float, path: Tensor) -> Tensor:
        return torch.sinh(torch.asinh(state) + volatility * path)

    fields = _driven(
        lambda time, z: correction * z, lambda time, z: volatility * torch.sqrt(1 + z * z), "diagonal", calculus
    )
    return KnownSde(f"arcsinh({volatility}, {calculus})", *fields, solution)


def settling(volatility: float = 0.6, *, calculus: Calculus = "ito") -> KnownSde:
    """dz = -z / (2 + 2 t) dt + sigma / sqrt(1 + t) dW from time 0 on, with additive noise.

    Arguments:
        volatility: sigma, per root second.
        calculus: How it is meant; with additive noise both mean the same.
    """

    def age(time: Any, state: Tensor) -> Tensor:
        return 1 + clock(time, state).reshape(-1, *[1] * (state.ndim - 1))

    def solution(state: Tensor, start: float, stop: float, path: Tensor) -> Tensor:
        return (math.sqrt(1 + start) * state + volatility * path) / math.sqrt(1 + stop)

    fields = _driven(
        lambda time, z: -z / (2 * age(time, z)),
        lambda time, z: volatility / torch.sqrt(age(time, z)) * torch.ones_like(z),
        "additive",
        calculus,
    )
    return KnownSde(f"settling({volatility}, {calculus})", *fields, solution)
