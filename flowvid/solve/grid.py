r"""Explicit Runge-Kutta methods on a grid of given points.

The grid is the output times themselves, with equal substeps between neighbours, so nothing is interpolated and the
number of steps never depends on rounding. Points and stage times are float64 numbers of the host: a thousand steps are
a thousand times whatever the type of the state, and a stage at the end of its step is asked at the very next point. A
state in half precision is carried in float32, because steps too small for it would be lost, while the drift sees and
answers in its own type.

The loop reads nothing from the device, so work is queued ahead of a GPU and `Grid.march` can be captured as a CUDA
graph. Whether the result is finite is one read at the end; only if it is not are the steps that went wrong walked again
to name the time and the samples. Only the states at output times are kept.

Gradients are those of the discrete method, by backpropagation through the steps; with ``checkpoint`` each step is
computed again in the backward pass, and memory is one state per step instead of all that the drift keeps.

References:
    Solving Ordinary Differential Equations I (Hairer, Norsett and Wanner, 1993), https://doi.org/10.1007/978-3-540-78862-1
    Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016), https://arxiv.org/abs/1604.06174
"""

__all__ = ["Grid", "grid_methods"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowvid.dynamics.drift import Drift
from flowvid.noise import Noise
from flowvid.solve.runge_kutta import Program, advance, compiled, compiling
from flowvid.solve.solution import COMPLETE, Solution
from flowvid.solve.solver import (
    Method,
    Solver,
    check_problem,
    check_rate,
    check_substeps,
    named_samples,
    not_finite,
    refined,
    without_lost,
)
from flowvid.solve.tableau import GRID_TABLEAUS, Tableau
from flowvid.video import Trajectory


@dataclass(frozen=True, kw_only=True)
class Grid(Solver):
    """An explicit Runge-Kutta method with its options.

    A drift with a method ``callback_step(time, state, step)`` has it called before every step, with floats for the
    time and the step, so that the weights of heads can follow the step.

    Arguments:
        method: One of the names in `GRID_TABLEAUS`, or a tableau. Last stages without weight, which others have for
            an error estimate, are not evaluated.
        substeps: Steps between neighbouring output times.
        checkpoint: Compute each step again in the backward pass instead of keeping what it needs.
        compiled: Compile one step and use it for all; the drift then gets times as float64 tensors of shape (). What
            ``callback_step`` sets should be tensors too: for a number that changes, the step is compiled again.

    Raises:
        ValueError: The method is unknown, or the number of substeps is not positive.
    """

    method: str | Tableau = "rk4"
    substeps: int = 1
    checkpoint: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.method, str) and self.method not in GRID_TABLEAUS:
            raise ValueError(
                f"Unknown grid method {self.method!r}; expected one of {', '.join(GRID_TABLEAUS)}, or a Tableau."
            )
        check_substeps(self.substeps)

    @property
    def tableau(self) -> Tableau:
        """The Runge-Kutta method."""
        return GRID_TABLEAUS[self.method] if isinstance(self.method, str) else self.method

    @property
    def stages(self) -> int:
        """Stages that a step evaluates."""
        return max(stage for stage, weight in enumerate(self.tableau.b, 1) if weight != 0)

    def solve(
        self,
        drift: Drift,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others.

        A sample that stops being finite is NaN from the first output time on at which it is not; others are whole.

        Arguments:
            drift: The vector field.
            state: The state at the first time.
            times: Strictly increasing or strictly decreasing seconds.
            noise: Left unused.

        Raises:
            ValueError: The times are out of order, the state is not finite, or the drift does not fit the state or
                the method.
        """
        points = check_problem(state, times)
        outputs = _Outputs(len(points), state.dtype)
        self._walk(drift, state, points.tolist(), outputs.append)
        states, status = outputs.states(), COMPLETE
        if not_finite(states):
            states, status = self._diagnosed(drift, states, points.tolist())
        steps = (len(points) - 1) * self.substeps
        evaluations = steps * self.stages
        return Solution(Trajectory(states, points), evaluations, evaluations, accepted=steps, status=status)

    def march(
        self, drift: Drift, state: Float[Tensor, "batch *state"], points: Sequence[float]
    ) -> list[Float[Tensor, "batch *state"]]:
        """The bare loop: states at the points, with nothing read from the device and no look at what is finite.

        Arguments:
            drift: The vector field.
            state: The state at the first point.
            points: Output times in seconds, in order.

        Returns:
            One state for each point, in float32 if the given one has less precision.

        Raises:
            ValueError: The drift does not fit the state or the method.
        """
        kept: list[Tensor] = []
        self._walk(drift, state, points, kept.append)
        return kept

    def _walk(self, drift: Drift, state: Tensor, points: Sequence[float], keep: Callable[[Tensor], None]) -> None:
        if not self.compiled:
            self._march(drift, state, points, keep, dtype=state.dtype, advance=advance)
            return
        with compiling():
            self._march(drift, state, points, keep, dtype=state.dtype, advance=compiled)

    def _march(
        self,
        drift: Drift,
        state: Tensor,
        points: Sequence[float],
        keep: Callable[[Tensor], None],
        *,
        dtype: torch.dtype,
        advance: Callable[..., Tensor],
    ) -> None:
        program, own = Program.of(self.tableau, self.stages), torch.promote_types(dtype, torch.float32) == dtype
        prepare = getattr(drift, "callback_step", None)
        if prepare is not None and len(program.stages) > 1:
            raise ValueError(
                f"This drift has a callback_step, which sets its weights for a whole step, but {self.tableau.name} "
                "asks it inside the step, where those weights are wrong. Use euler, or a drift with fixed weights."
            )

        def prepared(program: Program, asked: Drift, state: Tensor, left: Any, right: Any) -> Tensor:
            # Here and not in the loop, since a checkpoint takes the step a second time, after all others.
            if prepare is not None:
                prepare(float(left), state.to(dtype), float(right) - float(left))
            return advance(program, asked, state, left, right)

        step = advance if prepare is None else prepared
        if self.checkpoint and torch.is_grad_enabled():
            step = partial(checkpoint, step, use_reentrant=False)
        state = state if own else state.float()
        asked: Drift = partial(_checked, drift, dtype)
        keep(state)
        first = True
        for start, stop in pairwise(points):
            ends = refined((start, stop), self.substeps)
            moments = torch.tensor(ends, dtype=torch.float64).unbind() if self.compiled else ends
            for left, right in pairwise(moments):
                state = step(program, asked, state, left, right)
                if first and not self.compiled:
                    asked, first = drift if own else partial(_rounded, drift, dtype), False
            keep(state)

    def _diagnosed(self, drift: Drift, states: Tensor, points: Sequence[float]) -> tuple[Tensor, str]:
        """States without what is not finite, and where that began, found by walking its interval again."""
        finite, first, lost = without_lost(states)
        watch = _Watch(drift)
        with torch.no_grad():
            interval = points[first - 1 : first + 1]
            self._march(watch, states[:, first - 1], interval, _ignore, dtype=states.dtype, advance=advance)
            watch.look_at_state(points[first], states[:, first])
        status = (
            f"{self.tableau.name} did not finish: {watch.found} In all, {named_samples(lost)} (of {len(states)}) "
            f"stopped being finite by {points[-1]:.6g} s; their states are NaN from there on."
        )
        return finite, status


def grid_methods() -> tuple[Method, ...]:
    """Lines for the table of solvers, one for each tableau in `GRID_TABLEAUS`."""
    return tuple(
        Method(
            name=name,
            family="ode",
            order=float(tableau.order),
            adaptive=False,
            evaluations=str(Grid(method=name).stages),
            gradients="direct, checkpoint",
            source="flowvid",
            make=partial(Grid, method=name),
            note=tableau.source,
        )
        for name, tableau in GRID_TABLEAUS.items()
    )


def _ignore(state: Tensor) -> None:
    """Keep nothing."""


class _Outputs:
    """States at output times, in one block of memory from the start unless gradients must pass through them."""

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self.count, self.dtype = count, dtype
        self.kept: list[Tensor] = []
        self.block: Tensor | None = None
        self.filled = 0

    def append(self, state: Tensor) -> None:
        """The state at the next time."""
        if self.filled == 1 and not state.requires_grad:
            first = self.kept.pop()
            self.block = torch.empty(len(state), self.count, *state.shape[1:], dtype=self.dtype, device=state.device)
            self.block[:, 0] = first
        if self.block is None:
            self.kept.append(state.to(self.dtype))
        else:
            self.block[:, self.filled] = state
        self.filled += 1

    def states(self) -> Float[Tensor, "batch time *state"]:
        """All of them."""
        return torch.stack(self.kept, dim=1) if self.block is None else self.block


def _rounded(drift: Drift, dtype: torch.dtype, time: Any, state: Tensor) -> Tensor:
    """The drift in its own type."""
    return drift(time, state.to(dtype))


def _checked(drift: Drift, dtype: torch.dtype, time: Any, state: Tensor) -> Tensor:
    """The same, with a look at what comes back."""
    rate = drift(time, state.to(dtype))
    check_rate(rate, state)
    if rate.dtype != state.dtype and torch.promote_types(rate.dtype, state.dtype) != state.dtype:
        raise ValueError(
            f"The drift returned {rate.dtype} for a state in {dtype}; give a state as precise as the drift, or convert "
            "what the drift returns."
        )
    return rate


class _Watch:
    """A drift that remembers where something first was not finite."""

    def __init__(self, drift: Drift) -> None:
        self.drift = drift
        self.callback_step = getattr(drift, "callback_step", None)
        self.found = ""

    def __call__(self, time: Any, state: Tensor) -> Tensor:
        self.look_at_state(time, state)
        rate = self.drift(time, state)
        self._look(time, rate, "the drift returned NaN or infinity at {}; look there.")
        return rate

    def look_at_state(self, time: Any, state: Tensor) -> None:
        """Remember a state that is not finite."""
        self._look(time, state, f"the state left the range of {state.dtype} at {{}}; take shorter steps.")

    def _look(self, time: Any, values: Tensor, what: str) -> None:
        wrong = not_finite(values)
        if wrong and not self.found:
            self.found = what.format(f"{float(time):.6g} s in {named_samples(wrong)}")
