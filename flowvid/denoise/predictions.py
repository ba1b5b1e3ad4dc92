r"""What a denoising network may predict, and how to turn each into the others.

With noisy data x = signal * clean + noise * eps, every usual target is a mixture p = c * clean + e * eps:

    ==========  =================  ================  ==========================================================
    name        c                  e                 what it is
    ==========  =================  ================  ==========================================================
    "v"         -sin(phi)          cos(phi)          dx / dphi at unit scale; never singular
    "noise"     0                  1                 eps; says nothing about the clean data at level 1
    "clean"     1                  0                 x0; says nothing about the noise at level 0
    "velocity"  signal'            noise'            dx / dlevel, what an ODE solver integrates
    ==========  =================  ================  ==========================================================

x and p are two linear equations for (clean, eps) with determinant D = signal * e - noise * c, so any prediction
gives any other; D is the scale for v and scale^2 * dphi/dlevel for the velocity, never zero, while a predicted noise
has D = signal and a predicted clean D = -noise. Where D is zero the other quantities are not determined, and asking for
them is an error rather than an infinity.

Levels are floats or tensors of shape () or (batch,); each sample's level multiplies all of that sample, whatever the
shapes.

References:
    Progressive Distillation for Fast Sampling of Diffusion Models, appendix D (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512
    Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), https://arxiv.org/abs/2305.08891
"""

__all__ = [
    "PREDICTIONS",
    "Prediction",
    "add_noise",
    "check_prediction",
    "combined",
    "convert",
    "equations",
    "per_sample",
    "scaled",
    "shares",
    "target",
]

from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.schedule import ANGLE_UNIFORM, Level, Schedule, holds_zero, length

Prediction = Literal["v", "noise", "clean", "velocity"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


def add_noise(
    clean: Float[Tensor, "batch *x"],
    noise: Float[Tensor, "batch *x"],
    level: float | Tensor,
    schedule: Schedule = ANGLE_UNIFORM,
) -> Float[Tensor, "batch *x"]:
    """x = signal * clean + noise level * noise, for one level or one per sample.

    Raises:
        ValueError: A level leaves [0, 1], or there is not one for each sample.
    """
    return combined(schedule.signal(level), clean, schedule.noise(level), noise)


def target(
    predicts: Prediction,
    clean: Float[Tensor, "batch *x"],
    noise: Float[Tensor, "batch *x"],
    level: float | Tensor,
    schedule: Schedule = ANGLE_UNIFORM,
) -> Float[Tensor, "batch *x"]:
    """What a network that ``predicts`` this should answer about noisy data made of ``clean`` and ``noise``.

    Raises:
        ValueError: The prediction is unknown, a level leaves [0, 1], or there is not one for each sample.
    """
    if predicts == "clean":
        return clean
    if predicts == "noise":
        return noise
    clean_share, noise_share = shares(predicts, level, schedule)
    return combined(clean_share, clean, noise_share, noise)


def convert(
    prediction: Float[Tensor, "batch *x"],
    noisy: Float[Tensor, "batch *x"],
    level: float | Tensor,
    *,
    given: Prediction,
    wanted: Prediction,
    schedule: Schedule = ANGLE_UNIFORM,
) -> Float[Tensor, "batch *x"]:
    """One prediction from another, about the same noisy data.

    Tensor levels are read once from the device where ``given`` is "noise" or "clean", which can be undetermined.

    Arguments:
        prediction: What a network said.
        noisy: What it was asked about.
        level: The noise level of ``noisy``, one or one per sample.
        given: What the prediction is.
        wanted: What to return.
        schedule: The schedule of the levels.

    Raises:
        ValueError: The wanted quantity is not determined at a level, a prediction is unknown, a level leaves [0, 1],
            or there is not one for each sample.
    """
    check_prediction(wanted)
    check_prediction(given)
    if given == wanted:
        return prediction
    signal, noise, clean_given, noise_given, determinant = equations(given, level, schedule)
    clean_wanted, noise_wanted = shares(wanted, level, schedule)
    return combined(
        (clean_wanted * noise_given - noise_wanted * clean_given) / determinant,
        noisy,
        (noise_wanted * signal - clean_wanted * noise) / determinant,
        prediction,
    )


def shares(predicts: Prediction, level: Level, schedule: Schedule) -> tuple[Level, Level]:
    """How much clean data and how much noise a prediction is made of.

    Raises:
        ValueError: The prediction is unknown.
    """
    signal: Any = schedule.signal(level)
    noise: Any = schedule.noise(level)
    match check_prediction(predicts):
        case "v":
            scale = length(signal, noise)
            return -noise / scale, signal / scale
        case "noise":
            return 0.0 * signal, 0.0 * signal + 1.0
        case "clean":
            return 0.0 * signal + 1.0, 0.0 * signal
        case "velocity":
            return schedule.signal_rate(level), schedule.noise_rate(level)


def equations(predicts: Prediction, level: Level, schedule: Schedule) -> tuple[Level, Level, Level, Level, Level]:
    """Signal, noise, the shares (c, e) of clean data and noise in a prediction, and signal * e - noise * c.

    Raises:
        ValueError: That determinant is zero.
    """
    signal: Any = schedule.signal(level)
    noise: Any = schedule.noise(level)
    clean_share, noise_share = shares(predicts, level, schedule)
    determinant = signal * noise_share - noise * clean_share
    if predicts in ("noise", "clean") and holds_zero(determinant):
        missing, end = ("clean data", 1) if predicts == "noise" else ("noise", 0)
        raise ValueError(
            f"A network that predicts the {'noise' if predicts == 'noise' else 'clean data'} says nothing about the "
            f"{missing} at level {end}. Predict v, or stay {'below' if end else 'above'} that level."
        )
    return signal, noise, clean_share, noise_share, determinant


def combined(first: float | Tensor, x: Tensor, second: float | Tensor, y: Tensor) -> Tensor:
    """first * x + second * y, with coefficients for the batch or for each of its samples.

    Raises:
        ValueError: The shapes differ, or a coefficient has neither one value nor one per sample.
    """
    if x.shape != y.shape:
        raise ValueError(f"Both tensors need one shape; got {tuple(x.shape)} and {tuple(y.shape)}.")
    if isinstance(second, Tensor):
        return scaled(x, first) + scaled(y, second)
    return scaled(x, first).add(y, alpha=second)


def scaled(x: Float[Tensor, "batch *x"], factor: float | Tensor) -> Float[Tensor, "batch *x"]:
    """factor * x, with a factor for the batch or for each of its samples.

    Raises:
        ValueError: The factor has neither one value nor one per sample.
    """
    return per_sample(factor, x) * x


def check_prediction(predicts: str) -> Prediction:
    """The prediction, if there is such.

    Raises:
        ValueError: There is none.
    """
    if predicts not in PREDICTIONS:
        raise ValueError(f"A denoiser predicts {', '.join(PREDICTIONS)}; got {predicts!r}.")
    return predicts


def per_sample(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A coefficient shaped to multiply every entry of its sample."""
    if not isinstance(value, Tensor) or value.shape == ():
        return value if not isinstance(value, Tensor) else value.to(like)
    if value.shape != like.shape[:1]:
        raise ValueError(
            f"A level is one number or one per sample, shape ({len(like)},); got shape {tuple(value.shape)}."
        )
    return value.to(like).reshape(-1, *(1 for _ in like.shape[1:]))
