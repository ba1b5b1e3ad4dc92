"""The multi-scale model: transition heads, calibrated weights, and any integrator on top.

All K heads are regressed at once on states drawn the way samplers meet them (`draw_transitions`). Beside a state the
network sees the nearest known states before and after it, so prediction and interpolation are one model.

After training, Gram matrices of head outputs and true displacements on validation clips give the calibrated weights
w(h) and the error of a jump for every real step h in closed form (SCIENCE P6), separately for the situations whose
errors differ: nothing known ahead, a later anchor known, or a lone known frame whose velocity is unknown. A step
combines the heads of its own sign up to the first gap that is not shorter than it; h = 0, the drift, combines all
forward heads.
"""

__all__ = ["WEIGHTS", "MultiScale"]

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.drift import MultiScaleField
from flowvid.dynamics.heads import TransitionHeads, dyadic_gaps
from flowvid.dynamics.state import Surroundings
from flowvid.dynamics.weights import Calibration, lagrange, least_squares, one_hot, softmax, uniform
from flowvid.models.frames import check_frame_step, not_known, place_known, take
from flowvid.models.loss_terms import (
    REGRESSION,
    LossTerms,
    bending_mismatch,
    rollout_errors,
    semigroup_errors,
    wanted_displacements,
)
from flowvid.models.transitions import Transitions, draw_transitions
from flowvid.models.video_model import LearnedModel, refuse_solver
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.solve.jump import integrate
from flowvid.solve.plans import Node, fenwick_plan, two_sided_plan
from flowvid.solve.solution import Solution
from flowvid.solvers import solve, solver_methods
from flowvid.video import Condition, Trajectory, as_times

WEIGHTS = ("calibrated", "lagrange", "richardson", "least-squares", "instant", "long", "uniform", "softmax")
"""Rules by name. The first is the default; the last four are ablations."""

Value = TypeVar("Value")

_CONTEXTS = ("open", "bounded", "still")
_ROUNDS = 8
_LEAST_CLIPS = 64
_LEAST_ERROR = 1e-6


class MultiScale(LearnedModel):
    """Transition heads with every way to move along them.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames, also the shortest gap.
        scales: Number of gaps of one sign; the longest is 2^(scales - 1) frames.
        reach: Frames that training looks ahead to a later anchor; at least the longest gap.
        width: Width of the trunk.
        bounded: Share of training states with a later anchor: 0 trains for prediction alone, 1 for filling in alone.
        velocity_weight: Weight of the hidden velocity in the loss.
        input_noise: Standard deviation of the noise on inner states, in latent units.
        terms: What the loss holds beside the regression; by default nothing.
        code: Numbers of a global code that the heads are told; 0: none. See `flowvid.models.coded`.

    Raises:
        ValueError: Self-consistency is wanted without a code and without saying that the data are deterministic.
    """

    gram: Tensor

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        scales: int = 5,
        reach: int = 16,
        width: int = 48,
        bounded: float = 0.5,
        velocity_weight: float = 0.1,
        input_noise: float = 0.05,
        terms: LossTerms = REGRESSION,
        code: int = 0,
    ) -> None:
        super().__init__()
        terms.check(coded=code > 0)
        self.terms = terms
        self.frame = frame
        self.reach = reach
        self.longest = 2 ** (scales - 1)
        self.bounded = bounded
        self.velocity_weight = velocity_weight
        self.input_noise = input_noise
        self.heads = TransitionHeads(channels, dyadic_gaps(frame, scales), width=width, code=code)
        size = scales + 2 * self.longest + 1
        self.register_buffer("gram", torch.zeros(len(_CONTEXTS), 2, size, size, dtype=torch.float64))
        self._memory_of: tuple[int, int] | None = None
        self._memory: dict[tuple[str, bool], Any] = {}

    @property
    def solvers(self) -> tuple[str, ...]:
        """Flow-map integrators, with all gaps or with the longest one limited to some frames, and every ODE solver."""
        limits = [2**k for k in range(len(self.heads.gaps) // 2 - 1)]
        limited = [f"{name}-{limit}" for name in ("two-sided", "jump") for limit in reversed(limits)]
        odes = (name for name, method in solver_methods().items() if method.family == "ode")
        return ("two-sided", "jump", *limited, *odes)

    def prepare(self, trajectory: Trajectory) -> None:
        """Measure the structure function of states on training trajectories.

        Raises:
            ValueError: The trajectories are not spaced by the model's frame.
        """
        check_frame_step(trajectory, self.frame)
        latents = trajectory.states
        velocities = latents.diff(dim=1) / self.frame
        rows = []
        for gap in self.heads.gaps:
            shift = round(abs(gap) / self.frame)
            rows.append(torch.stack([_rms(x[:, shift:] - x[:, :-shift]) for x in (latents, velocities)]))
        self.heads.set_scales(torch.stack(rows))

    def loss(
        self, trajectory: Trajectory, noise: Noise, *, code: Float[Tensor, "batch code"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean over the heads of the logarithm of their mean squared error, and what `LossTerms` add to it.

        The logarithm makes a relative improvement of every head count alike, near or far; with plain squared errors
        the far heads, which are the least predictable, would drown the near ones that integrators build on. It is
        the likelihood of Gaussian errors with one unknown variance per head (Kendall et al., 2018, arXiv 1705.07115).

        Arguments:
            trajectory: Evenly spaced clips.
            noise: One seed per clip.
            code: The global code of each clip, of a model that is told one.
        """
        terms, heads = self.terms, self.heads
        drawn = self._draw(trajectory, noise, code)
        wanted = wanted_displacements(heads, drawn, trajectory, frame=self.frame, restoring=terms.restoring)
        rates = heads(drawn.query)
        displacement = rates * heads.gap[:, None, None, None]
        scaled = (displacement - wanted).unflatten(2, (2, -1)) / heads.scale[:, :, None, None, None]
        weighted = scaled.square().mean(dim=(3, 4, 5)) * drawn.weight[:, :, None]
        per_head = whole_batch_mean(weighted.sum(dim=0)) / whole_batch_mean(drawn.weight.sum(dim=0))[:, None]
        if terms.consistency:
            per_head = per_head + terms.consistency * semigroup_errors(heads, drawn, rates, noise.fold("semigroup"))
        total = self._logarithm(per_head)
        if terms.rollout:
            total = total + terms.rollout * self._logarithm(self._rolled_out(trajectory, noise, code))
        if terms.bending:
            total = total + terms.bending * bending_mismatch(heads, displacement, wanted, drawn.weight)
        return total

    @torch.no_grad()
    def explained(
        self, trajectory: Trajectory, noise: Noise, *, code: Float[Tensor, "batch code"] | None = None
    ) -> Float[Tensor, "gap"]:
        """Share of the mean square of true displacements of latents that each head explains, at most one.

        Arguments:
            trajectory: Clips as for training.
            noise: Draws the states, as in training.
            code: The global code of each clip, of a model that is told one.
        """
        drawn = self._draw(trajectory, noise, code)
        wanted = wanted_displacements(self.heads, drawn, trajectory, frame=self.frame, restoring=None)
        error = self.heads(drawn.query) * self.heads.gap[:, None, None, None] - wanted
        parts = (values[:, :, : self.heads.channels].square().mean(dim=(2, 3, 4)) for values in (error, wanted))
        missing, whole = ((part * drawn.weight).sum(dim=0) for part in parts)
        return 1 - missing / whole.clamp(min=_LEAST_ERROR)

    def _rolled_out(self, trajectory: Trajectory, noise: Noise, code: Tensor | None) -> Float[Tensor, "1 2"]:
        errors = rollout_errors(
            self.heads,
            trajectory,
            noise.fold("roll-out"),
            frame=self.frame,
            reach=self.reach,
            jumps=self.terms.jumps,
            bounded=self.bounded,
            code=code,
        )
        return whole_batch_mean(errors.mean(dim=0, keepdim=True))

    def _logarithm(self, errors: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
        """Mean logarithm of the errors of latents, and with its weight that of velocities."""
        logarithms = (errors + _LEAST_ERROR).log().mean(dim=0)
        return logarithms[0] + self.velocity_weight * logarithms[1]

    @torch.no_grad()
    def finish(self, trajectory: Trajectory, *, code: Float[Tensor, "batch code"] | None = None) -> None:
        """Measure the Gram matrices behind the calibrated weights on validation trajectories.

        Arguments:
            trajectory: Validation clips.
            code: The global code of each, of a model that is told one.
        """
        count, half = trajectory.states.shape[1], len(self.heads.gaps) // 2
        offsets = torch.arange(-self.longest, self.longest + 1, device=self.gram.device)
        index = torch.arange(max(_LEAST_CLIPS, len(trajectory)), device=self.gram.device) % len(trajectory)
        trajectory = Trajectory(trajectory.states[index], trajectory.times)
        code = None if code is None else code[index]
        gram = torch.zeros_like(self.gram)
        seen = torch.zeros_like(gram[..., 0, 0])
        for number in range(_ROUNDS):
            drawn = self._draw(trajectory, Noise.batch(number, len(trajectory)).fold("calibration"), code)
            inside = (drawn.index >= self.longest) & (drawn.index < count - self.longest)
            velocities = self.heads(drawn.query)[:, :, : self.heads.channels]
            around = take(trajectory.states, (drawn.index[:, None] + offsets).clamp(0, count - 1))
            around = around - drawn.query.latent[:, None]
            moving, bounded = drawn.query.moving, drawn.query.future.present
            for context, rows in enumerate((moving & ~bounded, moving & bounded, ~moving)):
                for sign, chosen in enumerate((slice(half, None), slice(0, half))):
                    trained = (drawn.weight[:, chosen] > 0).any(dim=1)
                    mask = (rows & inside & trained).double()
                    vectors = torch.cat((velocities[:, chosen], around), dim=1).flatten(2).double()
                    flat = (vectors * mask[:, None, None]).transpose(0, 1).flatten(1)
                    gram[context, sign] += flat @ flat.T / vectors.shape[2]
                    seen[context, sign] += mask.sum()
        self.gram.copy_(gram / seen.clamp(min=1)[..., None, None])

    def calibration(self, *, context: str = "open", forward: bool = True) -> Calibration:
        """The measured calibration of the heads of one sign.

        Arguments:
            context: "open" (nothing known ahead), "bounded" (a later anchor) or "still" (no velocity).
            forward: Which sign.

        Raises:
            ValueError: The model was not calibrated, or not in this context.
        """
        half = len(self.heads.gaps) // 2
        gaps = self.heads.gaps[half:] if forward else self.heads.gaps[:half]
        gram = self.gram[_CONTEXTS.index(context), 0 if forward else 1]
        if not bool(gram.any()):
            raise ValueError(
                f"This model has no calibration for {'forward' if forward else 'backward'} steps in the context "
                f"{context!r}: train it to the end, or call finish(validation data) with more clips; a model trained "
                "for one task alone cannot answer another."
            )
        return Calibration(gaps, self.frame, gram.cpu().numpy())

    def sample(
        self,
        condition: Condition,
        times: Sequence[float],
        noise: Noise,
        *,
        solver: str | None = None,
        weights: str = "calibrated",
        code: Float[Tensor, "batch code"] | None = None,
    ) -> Solution:
        """States at the requested times; see `VideoModel.sample`.

        Arguments:
            condition: Known states: two frames one shortest gap apart, or a frame and a later one, or more.
            times: Increasing seconds from the first known state on; known times are returned as they are.
            noise: Unused; the model is deterministic.
            solver: One of `solvers`. "two-sided" combines jumps of both signs, "jump" goes forward on the Fenwick
                tree, both with all gaps or, with a suffix, with gaps of at most so many frames.
            weights: One of `WEIGHTS`.
            code: The global code of each sample, of a model that is told one.
        """
        solver = refuse_solver(self, solver)
        if weights not in WEIGHTS:
            raise ValueError(f"The weights are {', '.join(WEIGHTS)}; got {weights!r}.")
        known, points = condition.states_only(), as_times(times).tolist()
        field = self.field(condition, code=code)
        around = field.surroundings
        if len(around.times) == 1 and not around.moving[0]:
            raise ValueError(
                f"One frame does not determine motion: give a second one {self.frame} s before it, or a later one."
            )
        wanted = not_known(points, known)
        if not wanted:
            return Solution(known.at(*points), 0, 0)
        move = self._jumps if solver.startswith(("two-sided", "jump")) else self._ode
        solution = move(field, wanted, solver, weights)
        latents = solution.trajectory.states[:, :, : self.heads.channels].unbind(dim=1)
        found = dict(zip(wanted, latents, strict=True))
        return dataclasses.replace(solution, trajectory=place_known(found, points, known))

    def field(self, condition: Condition, *, code: Float[Tensor, "batch code"] | None = None) -> MultiScaleField:
        """The heads under a condition: a flow map, and drifts.

        Arguments:
            condition: Known states, at least one.
            code: The global code of each sample, of a model that is told one.
        """
        return MultiScaleField(self.heads, Surroundings(condition, gap=self.frame, code=code))

    def _draw(self, trajectory: Trajectory, noise: Noise, code: Tensor | None) -> Transitions:
        return draw_transitions(
            self.heads,
            trajectory,
            noise,
            frame=self.frame,
            reach=self.reach,
            bounded=self.bounded,
            input_noise=self.input_noise,
            code=code,
        )

    def _jumps(self, field: MultiScaleField, wanted: list[float], solver: str, weights: str) -> Solution:
        around = field.surroundings
        name, _, limit = solver.rpartition("-") if solver[-1].isdigit() else (solver, "", "")
        longest = int(limit) * self.frame if limit else self.heads.longest
        gaps = [gap for gap in self.heads.gaps if 0 < gap <= longest + 1e-9]
        first = around.start(wanted[0]) if name == "jump" else 0
        roots = [first] if name == "jump" else list(range(len(around.times)))
        if name == "jump":
            plan = fenwick_plan(around.times[first], wanted, gaps)
        else:
            offsets = [(time - around.times[first]) / self.frame for time in wanted]
            on_grid = all(abs(offset - round(offset)) < 1e-6 for offset in offsets)
            plan = two_sided_plan([around.times[i] for i in roots], wanted, gaps, spacing=4 if on_grid else 2)
        bounded = around.times[-1] >= max(wanted)
        known = torch.stack([around.state(index) for index in roots], dim=1)
        moving = [around.moving[index] for index in roots]
        rule, error = self._rule(weights, bounded=bounded), self._error(bounded=bounded)
        states, evaluations, depth = integrate(field, plan, known, moving, weights=rule, error=error)
        chosen = [_nearest(plan, time) for time in wanted]
        return Solution(Trajectory(states[:, chosen], as_times(wanted)), evaluations, depth)

    def _ode(self, field: MultiScaleField, wanted: list[float], solver: str, weights: str) -> Solution:
        around = field.surroundings
        start = around.start(wanted[0])
        if not around.moving[start]:
            raise ValueError(
                "An ODE solver needs the velocity at the start: give two context frames one shortest gap apart "
                f"({self.frame} s), or use the solver two-sided."
            )
        rule = self._rule(weights, bounded=around.times[-1] >= max(wanted))
        drift = field.drift(lambda h: rule(h, True))
        solution = solve(drift, around.state(start), [around.times[start], *wanted], solver)
        trajectory = Trajectory(solution.trajectory.states[:, 1:], solution.trajectory.times[1:])
        return dataclasses.replace(solution, trajectory=trajectory)

    def _calibration(self, h: float, *, moving: bool, bounded: bool) -> Calibration:
        context = ("bounded" if bounded else "open") if moving else "still"
        return self.calibration(context=context, forward=h >= 0).among(_reaching(self.heads.gaps, h))

    def _error(self, *, bounded: bool) -> Callable[[float, bool], float]:
        """Error of a jump over h from a state whose velocity is known or not."""

        def error(h: float, moving: bool) -> float:
            return self._calibration(h, moving=moving, bounded=bounded).error(h)

        return self._remembered(("error", bounded), error)

    def _rule(self, name: str, *, bounded: bool) -> Callable[[float, bool], np.ndarray]:
        """Weights over all gaps of a step h from a state whose velocity is known or not."""
        gaps = self.heads.gaps

        def weights(h: float, moving: bool) -> np.ndarray:
            measured = name in ("calibrated", "softmax")
            chosen = _reaching(gaps, h) if measured else _signed(gaps, h)
            spread = np.zeros(len(gaps))
            spread[np.isin(gaps, chosen)] = self._values(name, h, chosen, moving=moving, bounded=bounded)
            return spread

        return self._remembered((name, bounded), weights)

    def _remembered(self, key: tuple[str, bool], function: Callable[[float, bool], Value]) -> Callable[..., Value]:
        """The function, whose values are kept until the calibration changes."""
        if self._memory_of != (self.gram.data_ptr(), self.gram._version):
            self._memory_of = (self.gram.data_ptr(), self.gram._version)
            self._memory = {}
        return self._memory.setdefault(key, cache(function))

    def _values(self, name: str, h: float, gaps: tuple[float, ...], *, moving: bool, bounded: bool) -> np.ndarray:
        """Weights of some of the gaps, all of the sign of h, by the name of the rule.

        From a state of unknown velocity the hidden velocity appears at once, so its rates over different gaps do not
        combine; there the measured rules give way to interpolation, which is exact at a gap.
        """
        match name if moving or name not in ("calibrated", "softmax") else "lagrange":
            case "calibrated":
                return self._calibration(h, moving=moving, bounded=bounded).weights(h)
            case "lagrange":
                return lagrange(gaps, h, local=min(3, len(gaps)))
            case "richardson":
                return lagrange(gaps, h)
            case "least-squares":
                return least_squares(gaps, degree=min(2, len(gaps)))
            case "instant":
                return one_hot(gaps, min(gaps, key=abs))
            case "long":
                return one_hot(gaps, max(gaps, key=abs))
            case "uniform":
                return uniform(gaps)
            case _:
                return softmax(self._calibration(h, moving=moving, bounded=bounded).moment(h))


def _signed(gaps: Sequence[float], h: float) -> tuple[float, ...]:
    """The gaps of the sign of a step; forward ones for zero."""
    return tuple(gap for gap in gaps if (gap > 0) == (h >= 0))


def _reaching(gaps: Sequence[float], h: float) -> tuple[float, ...]:
    """The gaps of the sign of a step up to the first that is not shorter than it, at least two; all for zero."""
    signed = sorted(_signed(gaps, h), key=abs)
    count = len(signed) if h == 0 else 1 + sum(abs(gap) < abs(h) * (1 - 1e-9) for gap in signed)
    return tuple(sorted(signed[: max(2, count)]))


def _nearest(plan: Sequence[Node], time: float) -> int:
    return min(range(len(plan)), key=lambda index: abs(plan[index].time - time))


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()
