r"""Schedules: how much signal and how much noise there is at a noise level.

Noisy data at a level in [0, 1] is x = signal(level) * clean + noise(level) * eps; level 0 is data and level 1 noise,
both exactly, in every type. A schedule is a curve in the (signal, noise) plane, and up to scale and clock all of them
are the same one: x / scale at the angle phi = atan2(noise, signal) is cos(phi) clean + sin(phi) eps whatever the
schedule. So a denoiser trained under one schedule answers under any other (`Denoiser.under`).

    ==============  ==========================================  ==========================================
    `AngleUniform`  signal cos(phi), noise sin(phi)             phi = level * pi / 2
    `Cosine`        signal^2 + noise^2 = 1                      signal ~ cos((level + s) / (1 + s) * pi / 2)
    `LinearPath`    signal 1 - level, noise level               straight lines, as in flow matching
    ==============  ==========================================  ==========================================

A level is a float on the host, and then the answer is one in double precision; or a tensor, and then so is the answer.
Floats outside [0, 1] are refused beyond rounding; tensors are not looked at.

References:
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), https://arxiv.org/abs/2102.09672
    Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512
    Flow Matching for Generative Modeling (Lipman et al., 2022), https://arxiv.org/abs/2210.02747
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), https://arxiv.org/abs/2206.00364
"""

__all__ = ["ANGLE_UNIFORM", "AngleUniform", "Cosine", "Level", "LinearPath", "Schedule", "holds_zero", "length"]

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

Level = TypeVar("Level", float, Tensor, float | Tensor)
_QUARTER = math.pi / 2
_ROUNDING = 1e-9


class Schedule(ABC):
    """A curve of (signal, noise) over the noise level."""

    @abstractmethod
    def signal(self, level: Level) -> Level:
        """Coefficient of the clean data, from 1 down to 0."""

    @abstractmethod
    def noise(self, level: Level) -> Level:
        """Coefficient of the noise, from 0 up to 1."""

    @abstractmethod
    def signal_rate(self, level: Level) -> Level:
        """Derivative of the signal with respect to the level."""

    @abstractmethod
    def noise_rate(self, level: Level) -> Level:
        """Derivative of the noise with respect to the level."""

    @abstractmethod
    def level(self, angle: Level) -> Level:
        """The level of an angle in [0, pi / 2]; the inverse of `angle`."""

    def angle(self, level: Level) -> Level:
        """phi = atan2(noise, signal), from 0 to pi / 2."""
        return _atan2(self.noise(level), self.signal(level))

    def scale(self, level: Level) -> Level:
        """sqrt(signal^2 + noise^2); 1 throughout if the variance is preserved."""
        return length(self.noise(level), self.signal(level))


@dataclass(frozen=True)
class AngleUniform(Schedule):
    """The angle grows in proportion to the level: signal cos(phi), noise sin(phi), phi = level * pi / 2."""

    def signal(self, level: Level) -> Level:
        """cos(phi), written so that it is exactly zero at level 1."""
        return _sin((1 - _checked(level)) * _QUARTER)

    def noise(self, level: Level) -> Level:
        """sin(phi)."""
        return _sin(_checked(level) * _QUARTER)

    def signal_rate(self, level: Level) -> Level:
        """-(pi / 2) sin(phi)."""
        return _sin(_checked(level) * _QUARTER) * -_QUARTER

    def noise_rate(self, level: Level) -> Level:
        """(pi / 2) cos(phi)."""
        return _sin((1 - _checked(level)) * _QUARTER) * _QUARTER

    def level(self, angle: Level) -> Level:
        """phi / (pi / 2)."""
        return _checked(angle / _QUARTER)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Nichol and Dhariwal's cosine schedule in continuous time.

    With h = (pi / 2) / (1 + offset), signal is sin((1 - level) h) / sin(h), and noise, from signal^2 + noise^2 = 1, is
    sqrt(sin(level h) sin((2 - level) h)) / sin(h). Both ends are exact: pure noise holds no signal, which the
    published discretisation avoids by cutting its last step short. Near data the noise grows like the square root
    of the level, so its derivative at level 0 is infinite and is refused there: an ODE solver that asks at level 0
    needs `Denoiser.under` another schedule. `Ddim` and `DpmSolverPlusPlus` use no derivative.

    Arguments:
        offset: The published s, positive.

    Raises:
        ValueError: The offset is not positive.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        if not (self.offset > 0 and math.isfinite(self.offset)):
            raise ValueError(f"The offset is a positive number, 0.008 as published; got {self.offset}.")

    @property
    def _span(self) -> float:
        return _QUARTER / (1 + self.offset)

    def signal(self, level: Level) -> Level:
        """sin((1 - level) h) / sin(h)."""
        return _sin((1 - _checked(level)) * self._span) / math.sin(self._span)

    def noise(self, level: Level) -> Level:
        """sqrt(1 - signal^2), without cancellation."""
        level = _checked(level)
        return _sqrt(_positive(_sin(level * self._span) * _sin((2 - level) * self._span))) / math.sin(self._span)

    def signal_rate(self, level: Level) -> Level:
        """-h cos((1 - level) h) / sin(h)."""
        return _cos((1 - _checked(level)) * self._span) * (-self._span / math.sin(self._span))

    def noise_rate(self, level: Level) -> Level:
        """-signal signal' / noise.

        Raises:
            ValueError: The level is 0, where the rate is infinite.
        """
        noise: Any = self.noise(level)
        if holds_zero(noise):
            raise ValueError(
                "The noise of the cosine schedule grows infinitely fast at level 0. Stop above it, ask the denoiser "
                "under another schedule (`Denoiser.under`), or sample with DDIM, which needs no rates."
            )
        return self.signal(level) * self.signal_rate(level) / noise * -1.0

    def level(self, angle: Level) -> Level:
        """1 - asin(cos(phi) sin(h)) / h."""
        return _positive(1 - _asin(_sin(_QUARTER - angle) * math.sin(self._span)) / self._span)


@dataclass(frozen=True)
class LinearPath(Schedule):
    """Straight lines from noise to data, as in flow matching: signal 1 - level, noise level."""

    def signal(self, level: Level) -> Level:
        """1 - level."""
        return 1 - _checked(level)

    def noise(self, level: Level) -> Level:
        """The level."""
        return _checked(level)

    def signal_rate(self, level: Level) -> Level:
        """-1."""
        return _checked(level) * 0.0 - 1.0

    def noise_rate(self, level: Level) -> Level:
        """1."""
        return _checked(level) * 0.0 + 1.0

    def level(self, angle: Level) -> Level:
        """sin(phi) / (sin(phi) + cos(phi))."""
        noise, signal = _sin(angle), _sin(_QUARTER - angle)
        return noise / (noise + signal)


ANGLE_UNIFORM = AngleUniform()
"""The default schedule."""


def _either(of_tensors: Callable[..., Tensor], of_floats: Callable[..., float]) -> Callable[..., Any]:
    """One function for tensors and for floats."""

    def function(*values: Any) -> Any:
        return (of_tensors if isinstance(values[0], Tensor) else of_floats)(*values)

    return function


def _unseen(level: Tensor) -> Tensor:
    return level


def _within(level: float) -> float:
    if not -_ROUNDING <= level <= 1 + _ROUNDING:
        raise ValueError(f"Noise levels lie in [0, 1], 0 is data and 1 is noise; got {level}.")
    return min(max(level, 0.0), 1.0)


_checked = _either(_unseen, _within)
_sin = _either(torch.sin, math.sin)
_cos = _either(torch.cos, math.cos)
_asin = _either(torch.asin, math.asin)
_positive = _either(torch.relu, partial(max, 0.0))
_sqrt = _either(torch.sqrt, math.sqrt)
_atan2 = _either(torch.atan2, math.atan2)
length = _either(torch.hypot, math.hypot)
"""sqrt(x^2 + y^2)."""


def holds_zero(values: float | Tensor) -> bool:
    """Whether a number, or one of a tensor, is zero to rounding; compiled code cannot ask, and does not."""
    if isinstance(values, Tensor):
        return not torch.compiler.is_compiling() and bool((values.abs() < torch.finfo(values.dtype).eps).any())
    return abs(values) < sys.float_info.epsilon
