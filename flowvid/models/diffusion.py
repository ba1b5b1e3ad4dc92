"""The other rival: a whole clip denoised at once, in v, sampled by DDIM or by any ODE solver.

All frames of a window are one sample. Known frames enter through a mask: they replace the noisy ones at the input,
and a binary channel per frame says which they are. Masks are drawn at random in training (context, context and last
frame, first and last frame), so the same network predicts and interpolates. Beyond its window a clip is continued
from its own last frames. Between frames of its grid the model has no answer of its own; latents are interpolated
linearly there.

References:
    Video Diffusion Models (Ho et al., 2022), https://arxiv.org/abs/2204.03458
    Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512
"""

__all__ = ["ClipDiffusion"]

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.predictions import add_noise, target
from flowvid.dynamics.drift import clock
from flowvid.models.frames import check_clips, draw_distance, not_known, take
from flowvid.models.samplers import flow_solver, flow_solvers
from flowvid.models.video_model import LearnedModel
from flowvid.networks.trunk import Trunk
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver
from flowvid.solvers import solve
from flowvid.video import Condition, Trajectory, as_times

_CLOSE = 1e-6


class ClipDiffusion(LearnedModel):
    """A v-predicting clip denoiser.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between frames.
        frames: Frames of the window: one context frame, the first frame and those after it.
        width: Width of the trunk.
        parameters: The number of parameters to match.
        steps: Steps of a solver whose number of steps is not stated.

    Raises:
        ValueError: There are no steps, or fewer than three frames.
    """

    def __init__(
        self, channels: int, *, frame: float, frames: int = 18, width: int = 48, parameters: int, steps: int = 50
    ) -> None:
        super().__init__()
        if steps < 1 or frames < 3:
            raise ValueError(f"Expected at least one step and a window of at least 3 frames; got {steps} and {frames}.")
        self.frame = frame
        self.window = frames
        self.channels = channels
        self.steps = steps
        inputs = frames * (channels + 1)
        self.trunk = Trunk.matching(parameters, inputs, frames * channels, scalars=1, width=width)

    @property
    def solvers(self) -> tuple[str, ...]:
        """DDIM and its few-step rivals, with N steps or the model's own number; any ODE solver on the v-field too."""
        return flow_solvers()

    def prepare(self, trajectory: Trajectory) -> None:
        """Check the clips; latents are normalised already.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or shorter than the window.
        """
        check_clips(trajectory, self.frame, least=self.window)

    def v(
        self,
        noisy: Float[Tensor, "batch time channel height width"],
        level: Float[Tensor, "batch"],
        known: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch time channel height width"]:
        """Predicted v of a clip whose known frames are already in place.

        Arguments:
            noisy: The noisy clip with clean known frames.
            level: Noise level in [0, 1].
            known: Which frames are known.
        """
        flags = known[:, :, None, None, None].to(noisy.dtype).expand(-1, -1, 1, *noisy.shape[-2:])
        grid = torch.cat((noisy, flags), dim=2).flatten(1, 2)
        return self.trunk(grid, level[:, None]).unflatten(1, (self.window, self.channels))

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of v on the unknown frames of random windows at random levels.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or shorter than the window.
        """
        check_clips(trajectory, self.frame, least=self.window)
        count = trajectory.states.shape[1]
        device = trajectory.states.device
        first = noise.integers("first", 0, count - self.window + 1, device=device)
        index = first[:, None] + torch.arange(self.window, device=device)
        clean = take(trajectory.states, index)
        known = self._training_mask(noise, device)
        level = noise.uniform("level", device=device)
        epsilon = noise.normal("noise", *clean.shape[1:], device=device)
        mask = known[:, :, None, None, None]
        noisy = torch.where(mask, clean, add_noise(clean, epsilon, level))
        error = self.v(noisy, level, known) - target("v", clean, epsilon, level)
        total = whole_batch_mean(torch.where(mask, 0.0, error.square()).sum())
        return total / whole_batch_mean((~known).sum().to(total.dtype)) / clean[0, 0].numel()

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States on the frame grid of the known frames, linear between; see `VideoModel.sample`."""
        sampler = flow_solver(solver, steps=self.steps)
        known, wanted = condition.states_only(), as_times(times)
        first = known.times[0].item()
        if wanted[0] < first - _CLOSE:
            raise ValueError(
                f"This model answers times from the first known frame on, {first} s; got {wanted[0].item()} s."
            )
        if len(noise) != len(known):
            raise ValueError(f"Sampling needs one seed for each of the {len(known)} samples; got {len(noise)}.")
        has_context = bool(((known.times - first - self.frame).abs() < _CLOSE).any())
        origin = first if has_context else first - self.frame
        numbers = [self._number(time - origin) for time in known.times.tolist()]
        last = math.ceil((wanted[-1].item() - origin) / self.frame - _CLOSE)
        if not not_known(wanted.tolist(), known):
            return Solution(Trajectory(known.at(*wanted.tolist()).states, wanted), 0, 0)
        frames = {number: known.states[:, index] for index, number in enumerate(numbers)}
        windows, start = 0, 0
        solved: list[Solution] = []
        while windows == 0 or start + self.window <= last:
            start = 0 if windows == 0 else start + self.window - 2
            found, solution = self._window(frames, start, sampler, noise.fold(windows))
            frames |= found
            solved.append(solution)
            windows += 1
        grid = torch.stack([frames[number] for number in range(max(frames) + 1)], dim=1)
        trajectory = Trajectory(_linear(grid, (wanted - origin) / self.frame), wanted)
        return Solution(
            trajectory,
            sum(solution.evaluations for solution in solved),
            sum(solution.depth for solution in solved),
            sum(solution.accepted for solution in solved),
            sum(solution.rejected for solution in solved),
        )

    def _window(
        self, frames: dict[int, Tensor], start: int, sampler: Solver, noise: Noise
    ) -> tuple[dict[int, Tensor], Solution]:
        """Sample the window that begins at a frame number, given the frames known so far."""
        numbers = range(start, start + self.window)
        like = next(iter(frames.values()))
        clean = torch.stack([frames.get(number, torch.zeros_like(like)) for number in numbers], dim=1)
        known = torch.tensor([number in frames for number in numbers], device=like.device).expand(len(like), -1)
        mask = known[:, :, None, None, None]
        begin = noise.normal("sample", *clean.shape[1:], device=like.device, dtype=like.dtype)

        def v_field(noisy: Tensor, level: float | Tensor) -> Tensor:
            return self.v(torch.where(mask, clean, noisy), clock(level, noisy), known)

        solution = solve(Denoiser(v_field), begin, [1.0, 0.0], sampler)
        sampled = torch.where(mask, clean, solution.trajectory.states[:, -1])
        return dict(zip(numbers, sampled.unbind(dim=1), strict=True)), solution

    def _training_mask(self, noise: Noise, device: torch.device) -> Bool[Tensor, "batch time"]:
        """Context frames, with or without a later frame; or the first frame and a later one alone."""
        draw = noise.uniform("mask", 2, device=device)
        number = torch.arange(self.window, device=device)
        bounded = draw[:, :1] < 0.5
        lone = bounded & (draw[:, 1:] < 0.15)
        end = 1 + draw_distance(noise, "future", self.window - 2, device)[:, None]
        return (number == 1) | ((number == 0) & ~lone) | ((number == end) & bounded)

    def _number(self, offset: float) -> int:
        number = round(offset / self.frame)
        if abs(number * self.frame - offset) > _CLOSE or number >= self.window:
            raise ValueError(
                f"Known frames must lie on a grid of {self.frame} s within {self.window} frames of the first one; "
                f"one lies {offset} s after it."
            )
        return number


def _linear(grid: Float[Tensor, "batch time channel height width"], positions: Tensor) -> Tensor:
    """Frames at real positions of a grid, linear between neighbours."""
    below = (positions + _CLOSE).floor().clamp(0, grid.shape[1] - 1)
    share = (positions - below).clamp(min=0).to(grid.dtype).to(grid.device)
    lower, upper = below.long(), (below.long() + 1).clamp(max=grid.shape[1] - 1)
    return torch.lerp(grid[:, lower], grid[:, upper], share[:, None, None, None].expand_as(grid[:, lower]))
