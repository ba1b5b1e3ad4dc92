r"""Likelihoods of a probability flow: how probable data is under what a model samples.

The flow carries data at level 0 to standard noise at level 1, so with z(level) the path that starts at the data,

    log p(data) = log N(z(1); 0, I) + integral over the level from 0 to 1 of div f(level, z(level)),

by one solve upward, with whichever ODE solver. The divergence is exact, or estimated by probes without bias: then only
the mean over probes is the log likelihood. What is exact is the likelihood of the flow as solved by that solver; the
error of the solver adds to it. Bits per dimension are -log2 p per entry, and for latents they are those of the latents.

References:
    Neural Ordinary Differential Equations (Chen et al., 2018), https://arxiv.org/abs/1806.07366
    FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et al., 2018), https://arxiv.org/abs/1810.01367
    Score-Based Generative Modeling through Stochastic Differential Equations, section 4.3 (Song et al., 2020), https://arxiv.org/abs/2011.13456
"""

__all__ = ["ACCURATE", "Likelihood", "log_likelihood"]

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.density import apart, signs, with_log_density
from flowvid.dynamics.drift import Drift
from flowvid.noise import Noise
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.solver import Solver
from flowvid.solvers import solve

ACCURATE = Adaptive(rtol=1e-5, atol=1e-5)
"""The default solver of likelihoods, whose errors add to them."""


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What a flow says of data.

    Arguments:
        nats: Natural logarithm of the density of each sample.
        latent: Where each sample is at the last level; standard noise if the flow fits the data.
        evaluations: Evaluations of the drift that one sample needed; each pulls one vector per probe back through it.
    """

    nats: Float[Tensor, "batch"]
    latent: Float[Tensor, "batch *x"]
    evaluations: int | float

    @property
    def bits_per_dimension(self) -> Float[Tensor, "batch"]:
        """-log2 p per entry of a sample."""
        return -self.nats / (math.log(2) * math.prod(self.latent.shape[1:]))


def log_likelihood(
    flow: Drift,
    clean: Float[Tensor, "batch *x"],
    noise: Noise | None = None,
    *,
    solver: str | Solver = ACCURATE,
    probes: int = 1,
    levels: tuple[float, float] = (0.0, 1.0),
) -> Likelihood:
    """Log likelihood of data under a probability flow.

    It has gradients with respect to the data and the flow's parameters, and keeps what they need, evaluation by
    evaluation; where none are wanted, call it under `torch.no_grad`.

    Arguments:
        flow: A `Denoiser`, or any drift over the noise level from data at 0 to standard noise at 1.
        clean: The data.
        noise: One seed per sample, to estimate the divergence with probes; None: the exact divergence, at the price of
            one backward pass per entry of a sample and evaluation.
        solver: Any ODE solver, by name or with its options.
        probes: Probes of each sample.
        levels: From where to where the flow is solved. A network that predicts the clean data says nothing at 0, one
            that predicts the noise nothing at 1: start or stop just beside. The data are then taken for noisy data of
            the first level, and what arrives at the last for standard noise.

    Raises:
        ValueError: There is not one seed for each sample, no probes, the levels are not 0 <= first < last <= 1, or the
            solver cannot solve this.
        SolveError: The solver did not finish.
    """
    if not 0 <= levels[0] < levels[1] <= 1:
        raise ValueError(f"A likelihood follows noise levels upward within [0, 1]; got {levels}.")
    if noise is not None and (len(noise) != len(clean) or probes < 1):
        raise ValueError(
            f"An estimate needs one seed for each of the {len(clean)} samples and at least one probe; got "
            f"{len(noise)} and {probes}."
        )
    shape = clean.shape[1:]
    drawn = None if noise is None else signs(noise, probes, *shape, device=clean.device)
    start = torch.cat((clean.flatten(1), clean.new_zeros(len(clean), 1)), dim=1)
    solution = solve(with_log_density(flow, shape, probes=drawn), start, levels, solver)
    latent, gained = apart(solution.trajectory.states[:, -1], shape)
    standard = -0.5 * (latent.square() + math.log(2 * math.pi)).flatten(1).sum(1)
    return Likelihood(standard + gained, latent, solution.evaluations)
