r"""Denoising step by step, in the form of diffusers' schedulers, in both directions.

`Scheduler` is DDIM on its own grid behind ``set_timesteps``, ``timesteps`` and ``step``, for pipelines with a loop:

    scheduler.set_timesteps(30)
    for timestep in scheduler.timesteps:
        sample = scheduler.step(network(sample, timestep), timestep, sample).prev_sample

A timestep is level * train_timesteps, so 1000 is pure noise. The grid starts there and ends at data, in equal steps of
the level ("trailing" spacing), and the step from an entry leads to the next entry of that grid, also where the number
of steps does not divide the number of timesteps. Nothing is clipped, no state is kept between steps, and a step that
is not on the grid is refused. Under straight paths with "flow_prediction" it is Euler's method on the flow.

`Scheduled` is the way back: a solver that lets such a scheduler, of diffusers or of one's own, sample a `Denoiser`.

References:
    Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), https://arxiv.org/abs/2305.08891
"""

__all__ = ["Scheduled", "Scheduler", "SchedulerStep"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.ddim import ddim_step
from flowvid.denoise.predictions import Prediction, add_noise, convert
from flowvid.denoise.schedule import ANGLE_UNIFORM, LinearPath, Schedule
from flowvid.denoise.walk import check_walk, finished
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver

_PREDICTIONS: dict[str, Prediction] = {
    "v_prediction": "v",
    "epsilon": "noise",
    "sample": "clean",
    "flow_prediction": "velocity",
}
_NEAR = 1e-3


class SchedulerStep(NamedTuple):
    """What one step of a `Scheduler` answers.

    Arguments:
        prev_sample: Noisy data at the next level of the grid.
        pred_original_sample: The clean data as predicted.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class Scheduler:
    """DDIM as a diffusers-style scheduler.

    Arguments:
        prediction_type: "v_prediction", "epsilon", "sample" or "flow_prediction".
        schedule: The schedule of the levels; straight paths for "flow_prediction" and equal angles for the others when
            left out.
        train_timesteps: The timestep of pure noise.
        start: The level of the first timestep. "epsilon" needs one below 1, as pure noise says nothing of the data.

    Raises:
        ValueError: The prediction type is unknown, the start is not in (0, 1], or "epsilon" starts at pure noise.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self,
        prediction_type: str = "v_prediction",
        *,
        schedule: Schedule | None = None,
        train_timesteps: int = 1000,
        start: float = 1.0,
    ) -> None:
        if prediction_type not in _PREDICTIONS:
            raise ValueError(f"The prediction types are {', '.join(_PREDICTIONS)}; got {prediction_type!r}.")
        if not 0 < start <= 1 or train_timesteps < 1:
            raise ValueError(f"Expected a start in (0, 1] and train_timesteps >= 1; got {start} and {train_timesteps}.")
        self.predicts = _PREDICTIONS[prediction_type]
        self.schedule = schedule or (LinearPath() if self.predicts == "velocity" else ANGLE_UNIFORM)
        if self.predicts == "noise" and self.schedule.signal(start) == 0:
            raise ValueError(
                "A network that predicts the noise says nothing about the clean data at pure noise; start below level "
                "1, at 0.999 say, or use a network that predicts v."
            )
        self.train_timesteps = train_timesteps
        self.start = start
        self._levels: list[float] = []
        self._timesteps = torch.empty(0)

    @property
    def timesteps(self) -> Float[Tensor, "n"]:
        """The timesteps at which the network is asked, decreasing.

        Raises:
            ValueError: `set_timesteps` was not called.
        """
        self._ready()
        return self._timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        *,
        levels: Sequence[float] | None = None,
    ) -> None:
        """Choose the grid.

        Arguments:
            num_inference_steps: Number of equal steps of the level, from the start down to 0.
            device: Where `timesteps` are put.
            levels: A grid of one's own instead: decreasing levels in (0, 1]; the last step leads from the last to 0.

        Raises:
            ValueError: Neither or both are given, there are no steps, or the levels do not decrease within (0, 1].
        """
        if (num_inference_steps is None) == (levels is None):
            raise ValueError("Give the number of steps or the levels, one of the two.")
        if num_inference_steps is not None and num_inference_steps < 1:
            raise ValueError(f"Sampling needs at least one step; got {num_inference_steps}.")
        steps = num_inference_steps or 0
        even = [self.start * (1 - step / steps) for step in range(steps)]
        grid = [*(even if levels is None else levels), 0.0]
        if len(grid) < 2 or grid[0] > 1 or not all(left > right for left, right in pairwise(grid)):
            raise ValueError(f"Levels must decrease within (0, 1]; got {levels}.")
        self._levels = [float(level) for level in grid]
        at = torch.tensor(self._levels[:-1], dtype=torch.float64) * self.train_timesteps
        self._timesteps = at.to(torch.float32).to(device or "cpu")

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample as it is; networks here are asked about noisy data unscaled."""
        return sample

    def add_noise(
        self, original_samples: Float[Tensor, "batch *x"], noise: Float[Tensor, "batch *x"], timesteps: float | Tensor
    ) -> Float[Tensor, "batch *x"]:
        """Noisy data at timesteps anywhere in [0, train_timesteps], one or one per sample."""
        at = timesteps.to(torch.float64) if isinstance(timesteps, Tensor) else timesteps
        return add_noise(original_samples, noise, at / self.train_timesteps, self.schedule)

    def step(
        self,
        model_output: Float[Tensor, "batch *x"],
        timestep: float | Tensor,
        sample: Float[Tensor, "batch *x"],
        return_dict: bool = True,
    ) -> SchedulerStep:
        """Carry noisy data from a timestep of the grid to the next.

        The step is computed in float32 or better and returned in the type of the sample: keep samples in float32. A
        timestep on a device is read from there; as a number, or on the host, it costs nothing.

        Arguments:
            model_output: What the network said.
            timestep: One of `timesteps`.
            sample: Noisy data at the timestep.
            return_dict: Accepted for pipelines; the answer is a named tuple, which serves both ways.

        Raises:
            ValueError: `set_timesteps` was not called, or the timestep is not on the grid.
        """
        index = self._index(timestep)
        level, following = self._levels[index], self._levels[index + 1]
        carried = sample.to(torch.promote_types(sample.dtype, torch.float32))
        moved = ddim_step(self.predicts, self.schedule, level, following)(carried, model_output)
        clean = convert(model_output, carried, level, given=self.predicts, wanted="clean", schedule=self.schedule)
        return SchedulerStep(moved.to(sample.dtype), clean.to(sample.dtype))

    def _index(self, timestep: float | Tensor) -> int:
        self._ready()
        at = float(timestep)
        distance = [abs(level * self.train_timesteps - at) for level in self._levels[:-1]]
        index = min(range(len(distance)), key=distance.__getitem__)
        if not distance[index] <= _NEAR:
            first, last = (level * self.train_timesteps for level in (self._levels[0], self._levels[-2]))
            raise ValueError(
                f"Timestep {at:g} is not on the schedule; its {len(distance)} timesteps run from {first:g} to "
                f"{last:g}. Take them from `timesteps`."
            )
        return index

    def _ready(self) -> None:
        if not self._levels:
            raise ValueError("The scheduler has no timesteps yet; call set_timesteps first.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheduled(Solver):
    """Samples a `Denoiser` with somebody else's scheduler.

    The scheduler decides the levels and the update, so it must fit the denoiser's schedule: at its timestep t, its
    signal and noise are those of the level that ``level_of`` names. For diffusers' DDIM family that is
    (t + 1) / num_train_timesteps, for its flow-matching schedulers t / num_train_timesteps.

    Arguments:
        scheduler: An object with set_timesteps, timesteps and step.
        steps: Number of steps to set.
        level_of: From a timestep to the noise level.
        predicts: What the scheduler's step takes as the model's output.

    Raises:
        ValueError: There are no steps, or the scheduler works on scaled samples (init_noise_sigma other than 1).
    """

    scheduler: Any
    steps: int
    level_of: Callable[[float], float]
    predicts: Prediction = "v"

    def __post_init__(self) -> None:
        sigma = float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        if self.steps < 1 or abs(sigma - 1) > 1e-6:
            raise ValueError(
                "Expected steps >= 1 and a scheduler whose samples are signal * clean + noise * eps, with "
                f"init_noise_sigma 1; got {self.steps} and {sigma:g}."
            )

    def solve(
        self,
        drift: Callable[..., Tensor],
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Carry noisy data from the first of two levels to the second.

        Arguments:
            drift: A `Denoiser`.
            state: Noisy data at the level of the scheduler's first timestep.
            times: That level, and 0.
            noise: Left unused.

        Raises:
            ValueError: The drift is no `Denoiser`, the state is not finite, or the levels are not the scheduler's.
        """
        denoiser, levels = check_walk(drift, state, times)
        self.scheduler.set_timesteps(self.steps)
        first = self.level_of(float(self.scheduler.timesteps[0]))
        if len(levels) != 2 or levels[1] != 0 or abs(levels[0].item() - first) > 1e-6:
            raise ValueError(
                f"This scheduler goes from level {first:g} to 0 in one sweep, so the times are [{first:g}, 0.0]; got "
                f"{levels.tolist()}."
            )
        noisy = state
        for timestep in self.scheduler.timesteps:
            said = denoiser.predict(self.predicts, noisy, self.level_of(float(timestep)))
            noisy = self.scheduler.step(said, timestep, noisy).prev_sample
        return finished([state, noisy], levels, state.dtype, len(self.scheduler.timesteps))
