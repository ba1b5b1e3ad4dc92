r"""Frame-wise flow matching: the next state is drawn by a flow in a second time, over a gap of one frame or of many.

What is learned is the law of z(t + gap) given z(t), the latest state before it, which tells the motion, and *one*
earlier state drawn at random, each with its distance in seconds: since any may be drawn, a sample leans on all of its
past at the cost of one more frame. The flow is a straight path between noise and data,

    x(level) = (1 - level) y + level eps,    y = (z(t + gap) - base) / unit,    network ~ E[eps - y | x, z(t), pasts].

With ``start="noise"``, base = 0 and unit = 1: the state itself is drawn, as in RIVER. With ``start="previous"``, base =
z(t) and unit = the typical displacement over the gap: the same as a path from N(z(t), unit^2), which begins where the
next state is already nearly found. Both learn the same law; the latter needs fewer steps and less training.

Gaps are any whole number of frames up to the reach, so a sampler asked for times far apart takes them in long steps:
*stochastic anchors*, to be filled in by a deterministic model (`flowvid.models.anchors_first`). Gaps and distances are
drawn with probability about 1 / length.

RIVER knows no latest state, and draws its random one anew for every evaluation, which mixes fields rather than laws.
Here it is kept while a state is drawn: the field does not jump, any solver may integrate it, and with an exact network
the state has exactly the law given all three. With exact networks, sixty frames of a damped oscillation driven by noise
of deviation 0.096 (an AR(2) process of variance 1) had innovations of 0.25 and a variance of 0.37 with a random state
drawn anew; 0.17 and 0.45 with probability about 1 / distance; 0.27 and 0.69 where it is kept; and with the latest state
too, which makes this process Markov, 0.096 and 0.995, at ten evaluations a frame (0.083 and 0.80 from noise).

References:
    Efficient Video Prediction via Sparsely Conditioned Flow Matching (RIVER; Davtyan et al., 2023), https://arxiv.org/abs/2211.14575
    Probabilistic Forecasting with Stochastic Interpolants and Foellmer Processes (Chen et al., 2024), https://arxiv.org/abs/2403.13724
    Flow Matching for Generative Modeling (Lipman et al., 2022), https://arxiv.org/abs/2210.02747
"""

__all__ = ["STARTS", "FrameFlow"]

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.predictions import add_noise, target
from flowvid.denoise.schedule import LinearPath
from flowvid.dynamics.drift import clock
from flowvid.models.frames import check_clips, not_known, place_known, take
from flowvid.models.past import Past, draw_length, draw_lengths, draw_pasts
from flowvid.models.samplers import flow_solver, flow_solvers
from flowvid.models.video_model import LearnedModel
from flowvid.networks.trunk import Trunk
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver
from flowvid.solvers import solve
from flowvid.video import Condition, Trajectory, as_times

STARTS = ("previous", "noise")
"""Where the path to the next state begins: around the previous state, or at standard normal noise."""

_CLOSE = 1e-6
_DEFAULT = "midpoint"
_ALONE, _PAIR = 0.1, 0.25
_LEAST_UNIT = 1e-6
_PATH = LinearPath()


class FrameFlow(LearnedModel):
    """The next state by flow matching, given the previous one, the latest before it and one random earlier one.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames.
        reach: Longest trained gap in frames; earlier states matter up to twice as far.
        width: Width of the trunk.
        start: One of `STARTS`.
        steps: Steps of a solver whose number of steps is not stated.
        parameters: The number of parameters to match; None: as the width gives.

    Raises:
        ValueError: The start is unknown, or there are no steps or gaps.
    """

    scale: Tensor

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        reach: int = 16,
        width: int = 48,
        start: str = "previous",
        steps: int = 5,
        parameters: int | None = None,
    ) -> None:
        super().__init__()
        if start not in STARTS:
            raise ValueError(f"A path starts at {' or '.join(STARTS)}; got {start!r}.")
        if steps < 1 or reach < 1:
            raise ValueError(f"Expected at least one step and a reach of at least one frame; got {steps} and {reach}.")
        self.frame = frame
        self.reach = reach
        self.start = start
        self.steps = steps
        inputs = 2 * channels + 2 * (2 * channels + 1)
        self.trunk = (
            Trunk(inputs, channels, scalars=4, width=width)
            if parameters is None
            else Trunk.matching(parameters, inputs, channels, scalars=4, width=width)
        )
        self.register_buffer("scale", torch.ones(reach))

    @property
    def solvers(self) -> tuple[str, ...]:
        """Those of a probability flow, with N steps or the model's own number; the midpoint rule first.

        Where the next state is nearly determined, few steps distort how far it spreads. With exact networks, ten
        evaluations and a deviation of 0.207 in units of 0.35, DDIM gives 0.173, DPM-Solver++ 0.194, Heun's rule 0.209
        and the midpoint rule 0.206; from standard normal noise they give 0.150, 0.161, 0.219 and 0.204.
        """
        return (_DEFAULT, *(name for name in flow_solvers() if name != _DEFAULT))

    def prepare(self, trajectory: Trajectory) -> None:
        """Measure the typical displacement over every gap.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or not two frames longer than the reach.
        """
        check_clips(trajectory, self.frame, least=self.reach + 2)
        states = trajectory.states
        for gap in range(1, self.reach + 1):
            unit = (states[:, gap:] - states[:, :-gap]).square().mean().sqrt()
            self.scale[gap - 1] = unit.clamp(min=_LEAST_UNIT)

    def velocity(
        self,
        noisy: Float[Tensor, "batch channel height width"],
        level: Float[Tensor, "batch"],
        previous: Float[Tensor, "batch channel height width"],
        pasts: tuple[Past, Past],
        gap: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "batch channel height width"]:
        """Predicted eps - y, the rate of the path per unit of the noise level.

        Arguments:
            noisy: x at the level.
            level: Noise level in [0, 1].
            previous: The state that the gap starts from.
            pasts: The latest state before that one, and another earlier one.
            gap: Frames from the previous state to the next.
        """
        parts = [noisy, previous]
        scalars = [level, _octaves(gap.to(level), self.reach)]
        for past in pasts:
            here = past.present.to(noisy.dtype)[:, None, None, None]
            distance = torch.where(past.present, past.distance, 1.0)
            earlier = past.state * here
            speed = (previous - earlier) * here / (distance[:, None, None, None] * self.scale[0])
            parts += [earlier, speed, here.expand_as(noisy[:, :1])]
            scalars.append(_octaves(distance.to(level), 2 * self.reach))
        return self.trunk(torch.cat(parts, dim=1), torch.stack(scalars, dim=1))

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of the velocity over random gaps, earlier states and levels.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or not two frames longer than the reach.
        """
        check_clips(trajectory, self.frame, least=self.reach + 2)
        count, device = trajectory.states.shape[1], trajectory.states.device
        gap = draw_length(noise, "gap", torch.full((len(noise),), self.reach, device=device))
        at = (noise.uniform("previous", device=device, dtype=torch.float64) * (count - gap)).long()
        before = draw_lengths(noise, at, 2 * self.reach)
        index = torch.cat((torch.stack((at, at + gap), dim=1), (at[:, None] - before).clamp(min=0)), dim=1)
        previous, following, *earlier = take(trajectory.states, index).unbind(dim=1)
        known = noise.uniform("known", device=device)
        present = [(at > 0) & (known > _ALONE), (before[:, 1] <= at) & (known > _PAIR)]
        latest, other = (
            Past(state, length.to(state.dtype), there)
            for state, length, there in zip(earlier, before.unbind(dim=1), present, strict=True)
        )
        base, unit = self._path(previous, gap)
        clean = (following - base) / unit
        level = noise.uniform("level", device=device)
        epsilon = noise.normal("noise", *clean.shape[1:], device=device)
        noisy = add_noise(clean, epsilon, level, _PATH)
        error = self.velocity(noisy, level.to(clean), previous, (latest, other), gap) - target(
            "velocity", clean, epsilon, level, _PATH
        )
        return error.square().mean()

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States after the known ones; see `VideoModel.sample`.

        They are drawn one after another on the grid of ``frame`` seconds from the last known state, each over the
        longest trained gap that meets the next time asked for; between frames of the grid latents are interpolated
        linearly. A single known state is enough: its motion is drawn.

        Raises:
            ValueError: A time before the last known state is asked for, which is not known, nothing is known,
                something is said, there is not one seed for each sample, or the solver is unknown.
        """
        sampler = flow_solver(solver, steps=self.steps, default=_DEFAULT)
        known, points = condition.states_only(), as_times(times).tolist()
        if len(noise) != len(known):
            raise ValueError(f"Sampling needs one seed for each of the {len(known)} samples; got {len(noise)}.")
        wanted, last = not_known(points, known), known.times[-1].item()
        if not wanted:
            return Solution(place_known({}, points, known), 0, 0)
        if wanted[0] < last:
            raise ValueError(
                f"This model predicts what comes after the last known frame, at {last} s, and does not fill in before "
                f"it; got {wanted[0]} s. Leave later frames out of the condition, or use a model that fills in."
            )
        positions = [(time - last) / self.frame for time in wanted]
        numbers = {bound for at in positions for bound in (math.floor(at + _CLOSE), math.ceil(at - _CLOSE))}
        history = {(time - last) / self.frame: known.states[:, i] for i, time in enumerate(known.times.tolist())}
        # The last known time, to the bit: the number zero is looked up below.
        history = {0.0 if abs(at) < _CLOSE else at: state for at, state in history.items()}
        solved: list[Solution] = []
        for start, stop in _hops(sorted(numbers - {0}), self.reach):
            history[float(stop)], solution = self._draw(history, start, stop, sampler, noise.fold(stop))
            solved.append(solution)
        found = {time: _between(history, at) for time, at in zip(wanted, positions, strict=True)}
        return Solution(
            place_known(found, points, known),
            sum(solution.evaluations for solution in solved),
            sum(solution.depth for solution in solved),
            sum(solution.accepted for solution in solved),
            sum(solution.rejected for solution in solved),
        )

    def _draw(
        self, history: dict[float, Tensor], start: int, stop: int, sampler: Solver, noise: Noise
    ) -> tuple[Tensor, Solution]:
        """The state at frame number ``stop``, from the one at ``start``."""
        previous = history[start]
        pasts = draw_pasts(history, float(start), noise, 2 * self.reach)
        gap = torch.full((len(previous),), stop - start, device=previous.device)
        begin = noise.normal("source", *previous.shape[1:], device=previous.device, dtype=previous.dtype)

        def field(noisy: Tensor, level: float | Tensor) -> Tensor:
            return self.velocity(noisy, clock(level, noisy), previous, pasts, gap)

        solution = solve(Denoiser(field, "velocity", _PATH), begin, [1.0, 0.0], sampler)
        base, unit = self._path(previous, gap)
        return base + unit * solution.trajectory.states[:, -1], solution

    def _path(
        self, previous: Float[Tensor, "batch channel height width"], gap: Int64[Tensor, "batch"]
    ) -> tuple[Tensor, Tensor]:
        """What a drawn y is added to, and its unit."""
        if self.start == "noise":
            return torch.zeros_like(previous), torch.ones_like(previous[:, :1, :1, :1])
        return previous, self.scale[gap - 1][:, None, None, None]


def _octaves(length: Tensor, longest: int) -> Tensor:
    """Lengths in frames on a logarithmic scale of order one."""
    return torch.log2(1 + length) / math.log2(1 + longest)


def _hops(numbers: Sequence[int], reach: int) -> list[tuple[int, int]]:
    """Steps (from, to) of at most ``reach`` frames that start at frame 0 and meet all numbers."""
    hops: list[tuple[int, int]] = []
    at = 0
    for number in numbers:
        while at < number:
            hops.append((at, min(number, at + reach)))
            at = hops[-1][1]
    return hops


def _between(history: dict[float, Tensor], at: float) -> Tensor:
    """The state at a position of the grid, linear between neighbours."""
    below = math.floor(at + _CLOSE)
    share = at - below
    return history[below] if share < _CLOSE else torch.lerp(history[below], history[below + 1], share)
