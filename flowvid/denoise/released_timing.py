r"""What the schedulers of released models say of noise levels, for `flowvid.denoise.released`.

    =========================  ======================================  ========  ==================================
    scheduler                  noisy data                              predicts  timestep
    =========================  ======================================  ========  ==================================
    flow matching              (1 - s) clean + s eps                   velocity  1000 s
    CogVideoX                  sqrt(a) clean + sqrt(1 - a) eps         v         where a stands in a table of 1000
    continuous Euler (SVD)     clean + s eps                           v         log(s) / 4
    =========================  ======================================  ========  ==================================

A flow's level is s itself; its scheduler's shift chooses levels and is no part of the model. The other two are put at
unit scale under equal angles, level = (2 / pi) atan2(noise, signal), which needs no table and no interpolation: there v
is dx / dphi, smooth at both ends, although pure noise is s = infinity for SVD. (Its network answers F in
clean = c_skip x + c_out F, which is cos(phi) c_in x - sin(phi) F, so F is the v of the scaled data.) Only the timesteps
of CogVideoX are discrete. Between them they are interpolated over the angle by a monotone cubic, which is exact at the
released ones. Beyond the levels of training, next to data and for SVD next to noise, the network is told the last
timestep. The loops of UniPC and DPM-Solver cut a flow's timesteps down to whole numbers, which is not done here.

References:
    CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer (Yang et al., 2024), https://arxiv.org/abs/2408.06072
    Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), https://arxiv.org/abs/2305.08891
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), https://arxiv.org/abs/2206.00364
    Monotone Piecewise Cubic Interpolation (Fritsch and Carlson, 1980), https://doi.org/10.1137/0717021
"""

__all__ = ["Timing", "released_levels", "timing_of"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float64
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from flowvid.denoise.predictions import Prediction
from flowvid.denoise.schedule import ANGLE_UNIFORM, LinearPath, Schedule

_FLOW = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
_TABLE = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
_CONTINUOUS = "EulerDiscreteScheduler"


@dataclass(frozen=True, eq=False)
class Timing:
    """How a network is told the noise level, and what it then predicts.

    Arguments:
        predicts: What it predicts.
        schedule: Of the levels.
        timestep: From levels to what the network is told.
        levels: The levels of a scheduler whose timesteps are set, the last one included.
    """

    predicts: Prediction
    schedule: Schedule
    timestep: Callable[[Float64[Tensor, "*n"]], Float64[Tensor, "*n"]]
    levels: Callable[[Any], list[float]]


def released_levels(scheduler: Any) -> list[float]:
    """The noise levels of a pipeline's loop, decreasing, for the timesteps that its scheduler is set to.

    `Ddim` with one substep through them is that loop, and any other solver may go through them as well. For CogVideoX
    that needs "trailing" timesteps and a number of steps that divides 1000: else its scheduler steps to another level
    than the one it names next, and these are the levels that it names.

    Arguments:
        scheduler: A scheduler of diffusers that `released_denoiser` takes, after ``set_timesteps``.

    Raises:
        ValueError: The scheduler is not known, or its timesteps are not set.
    """
    levels = timing_of(scheduler).levels
    if getattr(scheduler, "num_inference_steps", None) is None:
        raise ValueError("The scheduler has no timesteps yet; call its set_timesteps as the pipeline does.")
    return levels(scheduler)


def timing_of(scheduler: Any) -> Timing:
    """What a scheduler of diffusers says of levels.

    Raises:
        ValueError: It is of no known class, or configured for another kind of model.
    """
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if name in _FLOW and _is_flow(name, config):
        train = config["num_train_timesteps"]
        return Timing("velocity", LinearPath(), lambda level: level * train, _of_sigmas(lambda s: s))
    if name in _TABLE and config.get("prediction_type") == "v_prediction":
        return _of_table(scheduler)
    if name == _CONTINUOUS and (config.get("prediction_type"), config.get("timestep_type")) == (
        "v_prediction",
        "continuous",
    ):
        return _of_continuous(scheduler)
    raise ValueError(
        f"Schedulers of released models are {', '.join(_FLOW)}, which must be set to flow matching, "
        f"{', '.join(_TABLE)}, which must predict v, and {_CONTINUOUS} with continuous timesteps and v; got {name} "
        f"with {dict(config)}."
    )


def _is_flow(name: str, config: Any) -> bool:
    if name == _FLOW[0]:
        return not config.get("invert_sigmas")
    return bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == "flow_prediction"


def _of_sigmas(level_of: Callable[[float], float]) -> Callable[[Any], list[float]]:
    return lambda scheduler: [level_of(float(sigma)) for sigma in scheduler.sigmas]


def _of_continuous(scheduler: Any) -> Timing:
    """log(s) / 4 within the range of s that the configuration, or else the table, names."""
    kept = scheduler.alphas_cumprod.double()
    table = ((1 - kept) / kept).sqrt()
    given = [scheduler.config.get(name) for name in ("sigma_min", "sigma_max")]
    low, high = (end if end is not None else found for end, found in zip(given, table.aminmax(), strict=True))

    def timestep(level: Tensor) -> Tensor:
        sigma = ANGLE_UNIFORM.noise(level) / ANGLE_UNIFORM.signal(level)
        return sigma.clamp(float(low), float(high)).log() / 4

    return Timing("v", ANGLE_UNIFORM, timestep, _of_sigmas(lambda sigma: ANGLE_UNIFORM.level(math.atan(sigma))))


def _of_table(scheduler: Any) -> Timing:
    """Where the share of the signal stands in the table, interpolated over the level."""
    levels = _level(scheduler.alphas_cumprod)
    if any(low >= high for low, high in pairwise(levels.tolist())):
        raise ValueError("The noise of a scheduler must grow from each timestep to the next; this table's does not.")
    coefficients = torch.from_numpy(PchipInterpolator(levels.numpy(), range(len(levels))).c.copy())

    def timestep(level: Tensor) -> Tensor:
        knots, cubic = levels.to(level.device), coefficients.to(level.device)
        at = level.clamp(knots[0], knots[-1])
        piece = (torch.searchsorted(knots, at, right=True) - 1).clamp(0, len(knots) - 2)
        offset, total = at - knots[piece], torch.zeros_like(at)
        for power in cubic:
            total = total * offset + power[piece]
        return total

    def released(scheduled: Any) -> list[float]:
        last = _level(torch.as_tensor(scheduled.final_alpha_cumprod))
        return [*levels[scheduled.timesteps.cpu()].tolist(), float(last)]

    return Timing("v", ANGLE_UNIFORM, timestep, released)


def _level(kept: Tensor) -> Float64[Tensor, "*n"]:
    """The level at which the signal is the square root of a share."""
    share = kept.detach().cpu().double()
    return ANGLE_UNIFORM.level(torch.atan2((1 - share).sqrt(), share.sqrt()))
