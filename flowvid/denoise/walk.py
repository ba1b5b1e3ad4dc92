"""What the denoising solvers share: the levels they visit, the loop over them and the Solution they return.

Between neighbouring output levels the steps are equal in the angle of the schedule, so they do not depend on how the
schedule labels its levels. Levels and coefficients are float64 numbers of the host, and nothing is read from the device
before the end. The state is carried in float32 or better whatever the network runs in: in bfloat16 a fifty-step
DDIM was measured 2e-2 off and a thousand-step one 1.2.
"""

__all__ = ["check_walk", "finished", "walk"]

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.schedule import Schedule
from flowvid.solve.solution import COMPLETE, Solution
from flowvid.solve.solver import check_problem, named_samples, not_finite, without_lost
from flowvid.video import Times, Trajectory


def check_walk(drift: Callable[..., Tensor], state: Tensor, times: Sequence[float] | Tensor) -> tuple[Denoiser, Times]:
    """The denoiser and the levels of a problem.

    Raises:
        ValueError: The drift is no `Denoiser`, the levels are out of order or leave [0, 1], or the state is not finite.
    """
    if not isinstance(drift, Denoiser):
        raise ValueError(
            "A denoising solver needs a Denoiser, a network with what it predicts and its schedule; got "
            f"{type(drift).__name__}. Wrap the network, or use an ODE solver for a plain drift."
        )
    levels = check_problem(state, times)
    if not bool(((levels >= 0) & (levels <= 1)).all()):
        raise ValueError(f"Noise levels lie in [0, 1], 0 is data and 1 is noise; got {levels.tolist()}.")
    return drift, levels


def walk(
    advance: Callable[[Tensor, float, float], Tensor],
    state: Float[Tensor, "batch *state"],
    levels: Times,
    *,
    substeps: int,
    schedule: Schedule,
) -> Solution:
    """Carry a state through the levels, one evaluation a step.

    A sample that stops being finite is NaN from the first output level on at which it is not; the others are whole.

    Arguments:
        advance: (noisy, level, next level) -> noisy data at the next level.
        state: Noisy data at the first level.
        levels: Output levels.
        substeps: Steps between neighbours of them.
        schedule: The schedule of the levels.
    """
    kept = [state.to(torch.promote_types(state.dtype, torch.float32))]
    for start, stop in pairwise(levels.tolist()):
        noisy = kept[-1]
        for level, following in pairwise(_refined(schedule, start, stop, substeps)):
            noisy = advance(noisy, level, following)
        kept.append(noisy)
    return finished(kept, levels, state.dtype, (len(levels) - 1) * substeps)


def finished(kept: Sequence[Float[Tensor, "batch *state"]], levels: Times, dtype: torch.dtype, steps: int) -> Solution:
    """The solution of a walk: one state per output level, one evaluation per step."""
    states, status = _judged(torch.stack([state.to(dtype) for state in kept], dim=1), levels)
    return Solution(Trajectory(states, levels), steps, steps, steps, status=status)


@lru_cache(maxsize=64)
def _refined(schedule: Schedule, start: float, stop: float, substeps: int) -> tuple[float, ...]:
    """Levels from start to stop at equal angles, the ends exactly."""
    first, last = schedule.angle(start), schedule.angle(stop)
    inner = [schedule.level(first + (last - first) * step / substeps) for step in range(1, substeps)]
    return (start, *inner, stop)


def _judged(
    states: Float[Tensor, "batch time *state"], levels: Times
) -> tuple[Float[Tensor, "batch time *state"], str]:
    """The states, NaN from where a sample is not finite, and the status."""
    if not not_finite(states):
        return states, COMPLETE
    states, first, wrong = without_lost(states)
    return states, (
        f"NaN or infinity on the way to level {levels[first].item():g} in {named_samples(wrong)}; the network's "
        "predictions are not finite or far too large. Check the network, its type and what it was said to predict."
    )
