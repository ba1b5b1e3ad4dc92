r"""Guidance: denoisers that wrap denoisers and lean towards what is said, or towards what is known.

Given noisy data, every prediction is the same mixture of clean data and noise (`flowvid.denoise.predictions`), so what
is said of the clean data holds for v, noise and velocity alike: all of these wrap velocity fields too.

*Classifier-free*: unconditional + scale (conditional - unconditional). Since the weights sum to one it is the same in
every prediction, and its score that of p(x | text)^scale p(x)^(1 - scale) at every level. Its samples have another law:
for centred Gaussians of deviations s and s0 the flow ends at deviation s^scale s0^(1 - scale), while the tilted density
has (scale / s^2 + (1 - scale) / s0^2)^(-1/2).

*Reconstruction*: where a part a = measure(clean) is known, with clean^ the expected clean data given noisy data z,

    clean~(z) = clean^(z) - (w signal / 2) grad_z || a - measure(clean^(z)) ||^2.

The truth is E[clean | z, a] = clean^(z) + (noise^2 / signal) grad_z log p(a | z). Both are equal where a given z is
normal about measure(clean^) with one variance s^2 and w = noise^2 / (signal s)^2, a function of the level: exact for
Gaussian data. The published w = 1 takes s = noise / signal, which is right near data and too wide elsewhere, so that
guidance is too weak at high noise; a larger constant is too strong near data. At levels 0 and 1 exactly the term is
left out: at 1 the estimate no longer depends on z, and at 0 dividing by the noise leaves it undetermined.

*Replacement*: known entries are held at signal * known + noise * eps at every level. Alone it tells the other entries
of them only through their noise. Equation 7 of Ho et al., which moves the unknown entries alone, is
``replaced(reconstruction_guided(...))``.

The bias of both: of two frames of unit variance and correlation 0.9 the first is known to be 1. The second then has
mean 0.9 and deviation 0.44; solving the flow in 400 steps gave

    ====================  =====  =========        ====================  =====  =========
    guidance, replaced    mean   deviation        guidance, replaced    mean   deviation
    ====================  =====  =========        ====================  =====  =========
    none                  0.45   0.66             w = 5                 0.94   0.30
    w = 1                 0.59   0.56             w = 10                1.13   0.13
    w = 2                 0.70   0.48             `gaussian_weight`     0.85   0.47
    ====================  =====  =========        exact w(level)        0.90   0.43

References:
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), https://arxiv.org/abs/2207.12598
    Applying Guidance in a Limited Interval Improves Sample and Distribution Quality (Kynkaanniemi et al., 2024), https://arxiv.org/abs/2404.07724
    Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), rescaling, https://arxiv.org/abs/2305.08891
    Video Diffusion Models (Ho et al., 2022), equation 7, https://arxiv.org/abs/2204.03458
    Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023), https://openreview.net/forum?id=9_gsMA8MRKQ
"""

__all__ = [
    "Evaluations",
    "averaged",
    "classifier_free",
    "flow_denoiser",
    "gaussian_weight",
    "reconstruction_guided",
    "replaced",
    "shown",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.predictions import add_noise, convert, scaled, shares, target
from flowvid.denoise.schedule import ANGLE_UNIFORM, LinearPath, Schedule
from flowvid.dynamics.drift import Drift

Measure = Callable[[Tensor], Tensor]
_ROUNDING = 1e-9
_STRAIGHT = LinearPath()


def classifier_free(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: float,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Denoiser:
    """unconditional + scale (conditional - unconditional), in what the conditional denoiser predicts.

    Every evaluation asks both networks, but outside the interval only the conditional one. A solver counts it as one;
    `Evaluations` counts what the networks were asked.

    Arguments:
        conditional: Knows what is said.
        unconditional: Does not; may predict something else, under another schedule.
        scale: 1 is the conditional denoiser, and returned as it is; 0 the unconditional one; above 1 exaggerates.
        interval: Lowest and highest noise level with guidance, both included.
        rescale: Share, from 0 to 1, of rescaling what is predicted to the deviation, sample by sample, that the
            conditional prediction has. Other than guidance itself this depends on what is predicted.

    Raises:
        ValueError: The scale is not finite, the interval is none within [0, 1], or the rescaling leaves [0, 1].
    """
    low, high = interval
    if not (math.isfinite(scale) and 0 <= low <= high <= 1 and 0 <= rescale <= 1):
        raise ValueError(
            "Guidance needs a finite scale, an interval 0 <= low <= high <= 1 of levels and 0 <= rescale <= 1; got "
            f"scale={scale}, interval={interval}, rescale={rescale}."
        )
    if scale == 1:
        return conditional
    other = unconditional.under(conditional.schedule)

    def guided(noisy: Tensor, level: Any) -> Tensor:
        told = conditional.ask(noisy, level)
        inside = _inside(level, low, high)
        if inside is False:
            return told
        mixed = torch.lerp(other.predict(conditional.predicts, noisy, level), told, scale)
        if rescale:
            mixed = scaled(mixed, 1 - rescale + rescale * _ratio(told, mixed))
        return mixed if inside is True else torch.where(_wide(inside, noisy).to(noisy.device), mixed, told)

    return Denoiser(guided, conditional.predicts, conditional.schedule)


def reconstruction_guided(
    denoiser: Denoiser,
    known: Float[Tensor, "batch *y"],
    measure: Callable[[Tensor], Tensor],
    weight: float | Callable[[Any], Any] = 1.0,
) -> Denoiser:
    """The denoiser, its clean data moved down the gradient of the squared error of what is known; see the module.

    An evaluation is one of the network and one of its gradient, about three times the work. Gradients are taken inside
    `torch.no_grad` too; where the caller tracks them, they pass.

    Arguments:
        denoiser: Of any prediction that determines clean data at the levels asked.
        known: What ``measure`` gives of the truth.
        measure: A linear function of clean data that keeps samples apart, such as `shown` or `averaged`.
        weight: w, or a function that gives it for a tensor of levels; see `gaussian_weight`. Averages over k entries
            need k times the weight of single ones, since their gradient is that much smaller.

    Raises:
        ValueError: A fixed weight is negative or not finite; or when asked: the measured data have another shape than
            the known.
    """
    if not callable(weight) and not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"The weight of reconstruction guidance is finite and not negative; got {weight}.")

    def guided(noisy: Tensor, level: Any) -> Tensor:
        tracked = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            at = noisy if tracked and noisy.requires_grad else noisy.detach().clone().requires_grad_()
            said = denoiser.ask(at, level)
            clean = convert(said, at, level, given=denoiser.predicts, wanted="clean", schedule=denoiser.schedule)
            seen = measure(clean)
            if seen.shape != known.shape:
                raise ValueError(f"Known has shape {tuple(known.shape)}, but what is measured {tuple(seen.shape)}.")
            error = (known.to(seen) - seen).square().sum()
            (slope,) = torch.autograd.grad(error, at, create_graph=tracked, materialize_grads=True)
        return said + scaled(slope, _share(denoiser, level, weight))

    return Denoiser(guided, denoiser.predicts, denoiser.schedule)


def replaced(
    denoiser: Denoiser, known: Float[Tensor, "batch *x"], mask: Bool[Tensor, "batch ..."], noise: Tensor
) -> Denoiser:
    """The denoiser asked with known entries in place, at its noise level, and answering for them with the truth.

    So a solution that starts at level 1 from ``noise`` at the known entries has signal * known + noise level * noise
    there at every level, and the known data itself at level 0.

    Arguments:
        denoiser: Asked about all entries.
        known: Clean data; only what the mask shows is used.
        mask: Which entries are known, by the first axes: (batch, time) for frames of a clip.
        noise: Standard noise of the shape of the known, one draw for all levels, so that the flow is smooth.

    Raises:
        ValueError: Shapes differ.
    """
    if known.shape != noise.shape or mask.shape != known.shape[: mask.ndim]:
        raise ValueError(
            "Known data and their noise need one shape, and the mask its first axes; got "
            f"{tuple(known.shape)}, {tuple(noise.shape)} and {tuple(mask.shape)}."
        )

    def held(noisy: Tensor, level: Any) -> Tensor:
        place, clean, eps = _wide(mask, known).to(noisy.device), known.to(noisy), noise.to(noisy)
        said = denoiser.ask(torch.where(place, add_noise(clean, eps, level, denoiser.schedule), noisy), level)
        return torch.where(place, target(denoiser.predicts, clean, eps, level, denoiser.schedule), said)

    return Denoiser(held, denoiser.predicts, denoiser.schedule)


def flow_denoiser(drift: Drift, schedule: Schedule = _STRAIGHT) -> Denoiser:
    """A velocity field as a denoiser, so that guidance can wrap it.

    It is one exactly if the field is the marginal velocity of a schedule whose level is the field's time, data at 0 and
    noise at 1. `classifier_free` mixes velocities as they are and needs none of this.

    Arguments:
        drift: (level, noisy) -> dx / dlevel.
        schedule: Of the paths, straight lines by default.
    """
    return Denoiser(lambda noisy, level: drift(level, noisy), "velocity", schedule)


def shown(mask: Bool[Tensor, "batch ..."]) -> Measure:
    """Measures the entries that a mask shows, by the first axes, and zero elsewhere."""
    return lambda clean: torch.where(_wide(mask, clean).to(clean.device), clean, 0.0)


def averaged(side: int) -> Measure:
    """Measures means over squares of side x side pixels, which must divide the last two axes.

    Raises:
        ValueError: The side is not positive; or when asked: it does not divide them.
    """
    if side < 1:
        raise ValueError(f"Squares have a side of at least one pixel; got {side}.")

    def means(clean: Tensor) -> Tensor:
        height, width = clean.shape[-2:]
        if height % side or width % side:
            raise ValueError(f"Squares of {side} x {side} pixels do not divide {height} x {width} pixels.")
        return clean.unflatten(-2, (-1, side)).unflatten(-1, (-1, side)).mean(dim=(-3, -1))

    return means


def gaussian_weight(variance: float = 1.0, schedule: Schedule = ANGLE_UNIFORM) -> Callable[[Any], Any]:
    """w = 1 + noise^2 / (signal^2 variance): exact for normal entries of which only their own noisy value tells.

    It grows without bound towards level 1 as the gradient shrinks, which asks more of a network there than 1 does.

    Arguments:
        variance: Of clean data; normalised latents have 1.
        schedule: That of the denoiser.

    Raises:
        ValueError: The variance is not positive.
    """
    if not (variance > 0 and math.isfinite(variance)):
        raise ValueError(f"A variance is positive and finite; got {variance}.")

    def weight(level: Any) -> Any:
        signal, noise = schedule.signal(level), schedule.noise(level)
        return 1 + noise**2 / (signal**2 * variance)

    return weight


@dataclass(eq=False)
class Evaluations:
    """Counts what networks are really asked, where an evaluation of a guided denoiser takes several or none.

    Arguments:
        rows: Samples that networks were asked about so far; divided by the batch, evaluations of one sample.
    """

    rows: int = 0

    def of(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser, counted."""

        def network(noisy: Tensor, level: Any) -> Tensor:
            self.rows += len(noisy)
            return denoiser.network(noisy, level)

        return Denoiser(network, denoiser.predicts, denoiser.schedule)


def _inside(level: float | Tensor, low: float, high: float) -> bool | Tensor:
    """Whether levels lie in an interval: all, none, or which."""
    if (low, high) == (0.0, 1.0):
        return True
    if not isinstance(level, Tensor):
        return low - _ROUNDING <= level <= high + _ROUNDING
    within = (level >= low - _ROUNDING) & (level <= high + _ROUNDING)
    if torch.compiler.is_compiling() or bool(within.any()) != bool(within.all()):
        return within
    return bool(within.all())


def _ratio(told: Tensor, mixed: Tensor) -> Float[Tensor, "batch"]:
    wanted, given = (x.reshape(len(x), -1).float().std(dim=1, correction=0) for x in (told, mixed))
    return torch.where(given > 0, wanted / given, 1.0)


def _share(denoiser: Denoiser, level: float | Tensor, weight: float | Callable[[Any], Any]) -> Tensor:
    """Change of the prediction for a unit of the gradient: that of clean data, at unchanged noisy data."""
    at = torch.as_tensor(level, dtype=torch.float64)
    schedule, predicts = denoiser.schedule, denoiser.predicts
    signal, noise = schedule.signal(at), schedule.noise(at)
    clean_share, noise_share = shares(predicts, at, schedule)
    strength = (weight(at) if callable(weight) else weight) * signal / 2
    inner = torch.minimum(signal, noise) > torch.finfo(at.dtype).eps
    return torch.where(inner, strength * (noise_share * signal / noise - clean_share), 0.0)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(*values.shape, *(1 for _ in range(like.ndim - values.ndim)))
