r"""Runge-Kutta methods that choose their own steps, for every sample separately.

Each sample has its own clock, step and error control, and is accepted or rejected on its own; the batch only shares
the calls of the drift. A step of size h has the estimated error e = h sum_i e_i k_i, measured by the norm

    norm = rms(e / (atol + rtol max(|z|, |z_new|)))     over the entries of one sample,

is accepted where norm <= 1, and sets the size of the next one (`flowvid.solve.control`).

The norms of all samples are the one thing read from the device in a step; what follows from them is worked out in
float64 on the host. A norm is summed in float64 and rounded to float32: the order of a sum depends on the size of the
batch, and what is rounded away is what would otherwise make a sample's steps depend, in the last bit, on its
neighbours.

Gradients pass through the steps that were taken, with their sizes as constants. A backward pass multiplies what a
rejected trial left by zero, and zero times NaN is NaN; so where gradients are recorded, a trial in which any sample is
not finite is taken back for all, and the others repeat it to the same end.

References:
    Solving Ordinary Differential Equations I, sections II.4 to II.6 (Hairer, Norsett and Wanner, 1993),
    https://doi.org/10.1007/978-3-540-78862-1
    torchode: A Parallel ODE Solver for PyTorch (Lienen and Gunnemann, 2022), https://arxiv.org/abs/2210.12375
"""

__all__ = ["Adaptive", "adaptive_methods"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowvid.dynamics.drift import Drift, RowDrift
from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.noise import Noise
from flowvid.solve.control import StepControl
from flowvid.solve.dense import DenseOutput, Pieces, beside, picked, sent
from flowvid.solve.solution import COMPLETE, SampleReport, Solution
from flowvid.solve.solver import Method, Solver, check_problem, check_rate, named_samples
from flowvid.solve.tableau import ADAPTIVE_TABLEAUS, Tableau
from flowvid.video import Trajectory


@dataclass(frozen=True, kw_only=True)
class Adaptive(Solver):
    """An embedded Runge-Kutta pair with error control per sample.

    What a sample becomes and what it costs does not depend on the rest of its batch, as far as the drift treats rows
    alike whatever their number (elementwise drifts do to the last bit; matrix products to rounding). Samples that are
    finished, or stopped, are dropped from the batch if the drift is a `RowDrift`. A plain function may hold something
    of each sample, so it is asked for the whole batch to the end, and answers for finished rows are ignored.

    A sample stops where its drift or its state is not finite, its step falls below the rounding of its time, or
    ``max_steps`` are used up. Its report says which and when, its states from there on are NaN, and the others go on.

    Arguments:
        method: A name from `adaptive_methods`.
        rtol: Error of a step relative to the state.
        atol: Absolute error of a step, in units of the state.
        first_step: Seconds of the first step; estimated, at the cost of one evaluation, when left out.
        longest_step: Seconds no step exceeds (by more than the 1 % that may end it on an output time).
        max_steps: Steps a sample may try, accepted and rejected.
        dense: Whether to keep all steps, so that `Solution.dense` gives the state at any time to the method's order.
            That holds one state and one rate per stage, in the solver's precision, for every step.

    Raises:
        ValueError: The method is unknown or an option is out of range.
    """

    method: str = "tsit5"
    rtol: float = 1e-3
    atol: float = 1e-4
    first_step: float | None = None
    longest_step: float | None = None
    max_steps: int = 10_000
    dense: bool = False

    def __post_init__(self) -> None:
        if self.method not in ADAPTIVE_TABLEAUS:
            raise ValueError(
                f"Unknown adaptive method {self.method!r}; expected one of {', '.join(ADAPTIVE_TABLEAUS)}."
            )
        if not (0 <= self.rtol < math.inf and 0 < self.atol < math.inf):
            raise ValueError(
                f"Expected finite rtol >= 0 and atol > 0; got rtol={self.rtol}, atol={self.atol}. "
                "An entry that crosses zero can meet no relative tolerance alone."
            )
        steps = [step for step in (self.first_step, self.longest_step) if step is not None]
        if not all(0 < step < math.inf for step in steps):
            raise ValueError(
                f"Steps are positive seconds, forward and backward in time; got first_step={self.first_step}, "
                f"longest_step={self.longest_step}. Leave them out to have them chosen."
            )
        if self.max_steps < 1:
            raise ValueError(f"Expected max_steps >= 1; got {self.max_steps}.")

    def solve(
        self,
        drift: Drift,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others.

        Half-precision states are carried in float32; the drift sees the state's own type. Solving never fails as a
        whole: see `Solution.status` and `Solution.samples`, or call `Solution.require`.

        Arguments:
            drift: The vector field, asked with one float64 time per row; one that changes with the solver's step is
                refused.
            state: The state at the first time.
            times: Strictly increasing or strictly decreasing seconds, met exactly.
            noise: Unused.

        Raises:
            ValueError: The times are out of order, the state is not finite, or the drift is stochastic or depends on
                the step.
        """
        points = check_problem(state, times)
        _check_drift(drift)
        tableau, field = ADAPTIVE_TABLEAUS[self.method], _Field(drift, state.dtype)
        longest = self.longest_step or math.inf
        control = StepControl(
            points.numpy(), len(state), order=tableau.order, longest=longest, max_steps=self.max_steps
        )
        rows, apart = np.arange(len(state)), isinstance(drift, RowDrift)
        now = state.to(torch.promote_types(state.dtype, torch.float32), copy=True)
        reached, dense = Pieces(now), DenseOutput(tableau, points.numpy(), now, state.dtype) if self.dense else None
        reached.add(now, rows, np.zeros_like(rows))
        rate = _begun(self, field, control, now) if control.moving.any() else now
        while control.moving.any():
            if apart and not control.moving[rows].all():
                left = np.flatnonzero(control.moving[rows])
                now, rate, rows = picked(now, left), picked(rate, left), rows[left]
                field.keep(sent(rows, now))
            control.plan()
            new, stages = _attempt(field, tableau, now, rate, control, rows)
            control.judge(rows, _read(_errors(self, tableau, now, new, stages)), together=new.requires_grad)
            if dense is not None:
                dense.add(rows, control.time, np.where(control.accepted, control.stop, math.nan), now, stages)
            arrived = np.flatnonzero((control.accepted & control.arriving)[rows])
            if len(arrived):
                reached.add(picked(new, arrived), rows[arrived], control.target[rows[arrived]])
            control.advance()
            now, rate = (_taken(control.accepted[rows], *both) for both in ((now, new), (rate, stages[-1])))
        trajectory = Trajectory(reached.gathered((len(state), len(points))).to(state.dtype), points)
        return _solution(trajectory, control, field, tableau, dense)


def adaptive_methods() -> tuple[Method, ...]:
    """The methods of `Adaptive`."""
    return tuple(
        Method(
            name=name,
            family="ode",
            order=float(tableau.order),
            adaptive=True,
            evaluations=f"{tableau.stages - 1} per step tried, and 2 to begin",
            gradients="direct",
            source="flowvid",
            make=partial(Adaptive, method=name),
            note=f"error control per sample; {tableau.source}",
        )
        for name, tableau in ADAPTIVE_TABLEAUS.items()
    )


class _Field:
    """The drift as the solver needs it: the state in the caller's type, the rate in the solver's, calls counted."""

    def __init__(self, drift: Drift, dtype: torch.dtype) -> None:
        self.drift = drift
        self.asked = drift
        self.dtype = dtype
        self.calls = 0
        self.rows = 0

    def keep(self, rows: Int64[Tensor, "rows"]) -> None:
        """From now on ask for some of the samples only."""
        assert isinstance(self.drift, RowDrift), "only a drift that has rows can be had for some of them"
        self.asked = self.drift.rows(rows)

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        self.calls += 1
        self.rows += state.shape[0]
        rate = self.asked(time, state if state.dtype == self.dtype else state.to(self.dtype))
        check_rate(rate, state)
        return rate if rate.dtype == state.dtype else rate.to(state.dtype)


def _check_drift(drift: object) -> None:
    if isinstance(drift, StochasticDrift):
        raise ValueError(
            "An adaptive ODE method has no use for a volatility; give the drift alone, or use an SDE solver."
        )
    if hasattr(drift, "callback_step"):
        raise ValueError(
            "This drift changes with the solver's step (it has a callback_step), and error control then compares "
            "different fields. Give the instantaneous velocity, weights w(0), or use a fixed-step method."
        )


def _begun(how: Adaptive, field: _Field, control: StepControl, state: Tensor) -> Tensor:
    """The rate at the first time; first steps are set so that an explicit Euler step would err little (II.4)."""
    span = np.abs(control.points[-1] - control.time)
    rate = field(sent(control.time, state), state)
    control.begun += 1
    with torch.no_grad():
        scale = state.abs().mul_(how.rtol).add_(how.atol)
        size, speed = _read(torch.stack((_mean_square(state / scale), _mean_square(rate / scale))))
        control.halt(~np.isfinite(speed), "the drift is not finite there")
        if how.first_step is not None:
            control.begin(np.minimum(how.first_step, span))
            return rate
        trial = np.where(np.minimum(size, speed) < 1e-5, 1e-6, 0.01 * size / np.maximum(speed, 1e-5))
        trial = np.where(control.moving, np.minimum(np.minimum(trial, span), control.longest), 0.0)
        step = control.sign * trial
        clocks = np.clip(control.time + step, control.points.min(), control.points.max())
        probe = field(sent(clocks, state), torch.addcmul(state, rate, beside(sent(step, state), state)))
        control.begun += control.moving
        bend = _read(_mean_square((probe - rate) / scale)) / np.maximum(trial, control.rounding)
    fastest = np.maximum(np.maximum(speed, np.where(np.isfinite(bend), bend, math.inf)), 1e-15)
    length = np.where(fastest > 1e-15, (0.01 / fastest) ** (1 / control.order), np.maximum(1e-6, 1e-3 * trial))
    control.begin(np.minimum(np.minimum(100 * trial, np.maximum(length, 1e-3 * trial)), span))
    return rate


def _attempt(
    field: _Field, tableau: Tableau, state: Tensor, rate: Tensor, control: StepControl, rows: Int64[np.ndarray, "rows"]
) -> tuple[Tensor, list[Tensor]]:
    """One step of every row: where it leads, and the rates at all stages; the last one is the rate there."""
    nodes = np.array((*tableau.c[1:], math.nan))[:, None]
    start, step, stop = control.time[rows], control.step[rows], control.stop[rows]
    clocks = sent(np.where(nodes < 1, start + nodes * step, np.where(nodes == 1, stop, step)), state)
    length = beside(clocks[-1], state)
    stages, new = [rate], state
    for weights, clock in zip(tableau.a[1:], clocks[:-1], strict=True):
        new = torch.addcmul(state, _combined(weights, stages), length)
        stages.append(field(clock, new))
    return new, stages


def _combined(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """The weighted sum of the stages."""
    total = weights[0] * stages[0]
    for weight, stage in zip(weights[1:], stages[1:], strict=True):
        if weight:
            total.add_(stage, alpha=weight)
    return total


@torch.no_grad()
def _errors(how: Adaptive, tableau: Tableau, state: Tensor, new: Tensor, stages: Sequence[Tensor]) -> Tensor:
    """The error per second of the step, in tolerances; NaN where the new state is not finite."""
    scale = torch.maximum(state.abs(), new.abs()).mul_(how.rtol).add_(how.atol)
    return _mean_square(_combined(tableau.error, stages).div_(scale).add_(new, alpha=0))


def _mean_square(values: Tensor) -> Tensor:
    return values.reshape(values.shape[0], -1).double().square().mean(dim=1)


def _read(mean_squares: Tensor) -> np.ndarray:
    """Norms on the host, rounded so that the order of summation is lost; the one place where the host waits."""
    with np.errstate(over="ignore"):
        return np.sqrt(mean_squares.cpu().numpy()).astype(np.float32).astype(np.float64)


def _taken(which: np.ndarray, old: Tensor, new: Tensor) -> Tensor:
    """The new rows where they are taken, the old ones elsewhere."""
    if which.all():
        return new
    return torch.where(sent(which, new).reshape(-1, *[1] * (new.ndim - 1)), new, old) if which.any() else old


def _solution(
    trajectory: Trajectory, control: StepControl, field: _Field, tableau: Tableau, dense: DenseOutput | None
) -> Solution:
    """The solution with its reports."""
    size = len(control.time)
    needed = control.begun + (tableau.stages - 1) * (control.taken + control.rejected)
    reports = zip(needed.tolist(), control.taken.tolist(), control.rejected.tolist(), control.status, strict=True)
    failed = [sample for sample, status in enumerate(control.status) if status != COMPLETE]
    reasons = "; ".join(f"sample {sample} {control.status[sample]}" for sample in failed[:8])
    return Solution(
        trajectory,
        evaluations=field.rows / size,
        depth=field.calls,
        accepted=float(control.taken.mean()),
        rejected=float(control.rejected.mean()),
        status=f"{named_samples(failed)} of {size} did not finish: {reasons}." if failed else COMPLETE,
        samples=tuple(SampleReport(*report) for report in reports),
        dense=dense,
    )
