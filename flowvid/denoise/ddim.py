r"""DDIM: keep the predicted clean data and noise, change the level.

A step from a level to the next keeps (clean, eps) as predicted and mixes them anew,

    x' = signal' clean + noise' eps,

which in the angle is the rotation x' = cos(phi' - phi) x + sin(phi' - phi) v: the trigonometric integrator, exact if
(clean, eps) stays constant along the trajectory (SCIENCE P13). It is linear in x and in whatever the network predicts,
so a step is one multiplication and one addition with coefficients from the host, finite everywhere, pure noise
included, and both ends are met exactly; nothing is clipped. Under straight paths it is Euler's method on the flow. It
is of first order in the steps: Gaussian data of unit deviation shrinks by cos(pi / 2S)^S in S uniform steps, about
1 - pi^2 / 8S. Few-step DDIM blurs.

With eta > 0 a part of the predicted noise is replaced by fresh noise, of deviation (at unit scale)

    eta * (noise' / noise) * sqrt(1 - (signal / signal')^2),

so that noise' keeps its size; eta = 1 is ancestral sampling (DDPM).

References:
    Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502
    Progressive Distillation for Fast Sampling of Diffusion Models, appendix D (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
"""

__all__ = ["Ddim", "Step", "ddim_step"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.predictions import Prediction, equations
from flowvid.denoise.schedule import Schedule
from flowvid.denoise.walk import check_walk, walk
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver


@dataclass(frozen=True)
class Step:
    """One step as coefficients: x' = keep * x + turn * prediction + fresh * new noise."""

    keep: float
    turn: float
    fresh: float = 0.0

    def __call__(
        self, noisy: Float[Tensor, "batch *x"], prediction: Float[Tensor, "batch *x"]
    ) -> Float[Tensor, "batch *x"]:
        """The step without its fresh noise, in the type of the noisy data."""
        return (noisy * self.keep).add(prediction, alpha=self.turn)


@lru_cache(maxsize=4096)
def ddim_step(predicts: Prediction, schedule: Schedule, level: float, following: float, eta: float = 0.0) -> Step:
    """The coefficients of a DDIM step; kept, since sampling again visits the same levels.

    Arguments:
        predicts: What the network predicts.
        schedule: The schedule of the levels.
        level: Where the step starts.
        following: Where it ends; lower than ``level`` if eta is positive.
        eta: Share of fresh noise, 0 for none and 1 for ancestral sampling.

    Raises:
        ValueError: The prediction does not determine clean data and noise at the level.
    """
    signal, noise, clean_share, noise_share, determinant = equations(predicts, level, schedule)
    signal_next, noise_next = schedule.signal(following), schedule.noise(following)
    fresh = 0.0
    if eta:
        start, stop = schedule.angle(level), schedule.angle(following)
        fresh = eta * noise_next * math.sqrt(1 - (math.cos(start) / math.cos(stop)) ** 2) / math.sin(start)
    kept = math.sqrt(max(noise_next**2 - fresh**2, 0.0)) if eta else noise_next
    return Step(
        (signal_next * noise_share - kept * clean_share) / determinant,
        (kept * signal - signal_next * noise) / determinant,
        fresh,
    )


@dataclass(frozen=True, kw_only=True)
class Ddim(Solver):
    """DDIM through given levels.

    Arguments:
        substeps: Steps between neighbouring output levels, equal in the angle.
        eta: Share of fresh noise, from 0, deterministic, to 1, ancestral.

    Raises:
        ValueError: There are no steps, or eta leaves [0, 1].
    """

    substeps: int = 50
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.substeps < 1:
            raise ValueError(f"DDIM needs substeps >= 1 between neighbouring levels; got {self.substeps}.")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta lies in [0, 1], 0 is deterministic and 1 ancestral; got {self.eta}.")

    def solve(
        self,
        drift: Callable[..., Tensor],
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Carry noisy data from the first of the levels through the others.

        Arguments:
            drift: A `Denoiser`; asked in the type of the state.
            state: Noisy data at the first level; standard noise at level 1.
            times: Noise levels, strictly decreasing to sample; strictly increasing to encode.
            noise: One seed per sample, for eta > 0; left unused otherwise.

        Raises:
            ValueError: The drift is no `Denoiser`, the levels are out of order or leave [0, 1], the state is not
                finite, the denoiser does not determine a step, or fresh noise is asked for without seeds or upwards.
        """
        denoiser, levels = check_walk(drift, state, times)
        if self.eta:
            self._check_fresh(state, levels, noise)
        number = count()

        def advance(noisy: Tensor, level: float, following: float) -> Tensor:
            step = ddim_step(denoiser.predicts, denoiser.schedule, level, following, self.eta)
            moved = step(noisy, denoiser.ask(noisy.to(state.dtype), level))
            if not (self.eta and noise is not None):
                return moved
            drawn = noise.fold(next(number)).normal("ddim", *noisy.shape[1:], device=noisy.device, dtype=noisy.dtype)
            return moved.add(drawn, alpha=step.fresh)

        return walk(advance, state, levels, substeps=self.substeps, schedule=denoiser.schedule)

    def _check_fresh(self, state: Tensor, levels: Tensor, noise: Noise | None) -> None:
        if noise is None or len(noise) != len(state):
            given = "none" if noise is None else str(len(noise))
            raise ValueError(
                f"DDIM with eta > 0 needs noise, one seed for each of the {len(state)} samples; got {given}."
            )
        if len(levels) > 1 and levels[1] > levels[0]:
            raise ValueError("Fresh noise belongs to sampling, where levels decrease; use eta=0 to encode.")
