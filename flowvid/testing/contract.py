r"""Checks of what every solver promises: times, types, costs, refusals, and nothing changed behind one's back.

Times are given in seconds in float64 and are answered as they came, the first by the state that was given. Rounding to
float32 goes unseen near zero, so times are tried an hour on: at 4096 s float32 has a spacing of half a millisecond, and
a drift that is asked at a rounded time is asked outside an interval of a tenth of that.
"""

__all__ = [
    "check_dtype",
    "check_errors",
    "check_evaluations",
    "check_pure",
    "check_single_time",
    "check_times",
]

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from flowvid.noise import Noise
from flowvid.testing.fields import decay, hyperbola
from flowvid.testing.probe import Problem, Solves, Watch, expect, far, run, solved
from flowvid.testing.stochastic import KnownSde

_SHORT = tuple(4096.2 + 1e-4 * fraction for fraction in (0.0, 1 / 3, 1 / 2, 0.9, 1.0))
_LONG = (0.0, 0.1, 1 / 3, 1.0)
_HALVES = (torch.bfloat16, torch.float16)


def check_times(solver: Solves, problem: Problem | None = None, *, backward: bool = True) -> None:
    """Every time is answered once, as it was asked; the drift is asked inside them, in float64.

    Arguments:
        solver: The solver.
        problem: What to solve; `decay` when left out.
        backward: Whether the solver goes backward in time too.

    Raises:
        AssertionError: A time is missing, moved or rounded, the first state is another, or the drift is asked outside.
    """
    problem = problem or decay()
    for times in (_LONG, _SHORT, *((_LONG[::-1], _SHORT[::-1]) if backward else ())):
        for dtype in (torch.float64, *_HALVES):
            _check_times(solver, problem, times, dtype)


def _check_times(solver: Solves, problem: Problem, times: Sequence[float], dtype: torch.dtype) -> None:
    watch, state = Watch(), problem.states(2, dtype=dtype)
    trajectory = solved(solver, watch.over(problem.drift), state, times).trajectory
    shape = (len(state), len(times), *state.shape[1:])
    expect(trajectory.states.shape == shape, f"Expected states of shape {shape}; got {tuple(trajectory.states.shape)}.")
    apart = far(trajectory.states[:, 0], state)
    expect(apart == 0, f"Expected the given state at the first time, {times[0]} s; it is {apart:.2e} off.")
    asked = [time for call in watch.times for time in call]
    low, high = min(times), max(times)
    slack = 4 * float(np.spacing(max(abs(low), abs(high))))
    expect(
        all(low - slack <= time <= high + slack for time in asked),
        f"Expected the drift to be asked inside [{low!r}, {high!r}] s, with a state of {dtype}; it was asked from "
        f"{min(asked, default=math.nan)!r} to {max(asked, default=math.nan)!r}. Keep times in float64 on the host.",
    )
    least = min(watch.calls, len(times) - 1)
    expect(
        len(set(asked)) >= least > 0,
        f"Expected the drift to be asked at {least} different times or more; it was asked at {len(set(asked))}.",
    )


def check_single_time(solver: Solves, problem: Problem | None = None) -> None:
    """A solve of no length is the state as it is, at no cost.

    Raises:
        AssertionError: The state is another, or the drift was asked.
    """
    problem, watch = problem or decay(), Watch()
    state = problem.states(2)
    solution = solved(solver, watch.over(problem.drift), state, [0.3])
    apart = far(solution.trajectory.states, state[:, None])
    expect(apart == 0, f"Expected a single time to be answered by the given state; the answer is {apart:.2e} off.")
    cost = (solution.evaluations, solution.depth, solution.accepted, solution.rejected, watch.calls)
    expect(not any(cost), f"Expected a single time to cost nothing; evaluations, depth, steps and calls are {cost}.")


def check_dtype(
    solver: Solves,
    problem: Problem | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32, *_HALVES),
    factor: float = 16.0,
) -> None:
    """The drift sees the state's own type, the answer has it, and rounding is all that it costs.

    Arguments:
        solver: The solver.
        problem: What to solve; `hyperbola` when left out.
        dtypes: Types of states to try.
        factor: The greatest difference from the answer in float64, in units of the type's epsilon.

    Raises:
        AssertionError: A type is lost on the way, or accuracy beyond rounding.
    """
    problem = problem or hyperbola()
    for dtype in dtypes:
        watch, state = Watch(), problem.states(3, dtype=dtype)
        found = solved(solver, watch.over(problem.drift), state, _LONG).trajectory.states
        exact = solved(solver, problem.drift, state.double(), _LONG).trajectory.states
        expect(found.dtype == dtype, f"Expected states of {dtype}, the type that was given; got {found.dtype}.")
        expect(watch.dtypes == {dtype}, f"Expected a drift that sees states of {dtype}; it saw {watch.dtypes}.")
        allowed = factor * torch.finfo(dtype).eps * max(1.0, float(exact.abs().max()))
        expect(
            far(found, exact) <= allowed,
            f"Expected {dtype} to cost at most {allowed:.2e} against float64; it costs {far(found, exact):.2e}.",
        )


def check_evaluations(
    solver_of_steps: Callable[[int], Solves],
    per_step: int | Callable[[int], int] | None = None,
    counts: Sequence[int] = (1, 2, 6, 49),
    *,
    problem: Problem | None = None,
) -> None:
    """A solution says what it cost: the evaluations of the drift that really happened, averaged over the batch.

    Steps of 1/6 and 1/49 are among the counts because adding them up takes a step too many.

    Arguments:
        solver_of_steps: Number of steps between neighbouring times -> solver.
        per_step: Evaluations per step, or all of them as a function of the number of steps; None for solvers that
            choose their own steps.
        counts: Numbers of steps to try.
        problem: What to solve; `hyperbola` when left out.

    Raises:
        AssertionError: The count is not that of the drift's calls, or not that of the formula.
    """
    problem, times, batch = problem or hyperbola(), (0.0, 0.3, 1.0), 3
    for count in counts:
        watch = Watch()
        solution = solved(solver_of_steps(count), watch.over(problem.drift), problem.states(batch), times)
        really, steps = watch.rows / batch, count * (len(times) - 1)
        expect(
            math.isclose(solution.evaluations, really),
            f"Expected the {really} evaluations per sample that happened; the solution says {solution.evaluations}.",
        )
        expect(
            0 < solution.depth <= watch.calls,
            f"Expected a depth of 1 to {watch.calls}, the calls that happened; the solution says {solution.depth}.",
        )
        if per_step is not None:
            formula = per_step(steps) if callable(per_step) else per_step * steps
            expect(
                (solution.evaluations, solution.accepted, solution.rejected) == (formula, steps, 0),
                f"Expected {formula} evaluations in {steps} accepted steps; got {solution.evaluations} in "
                f"{solution.accepted}, and {solution.rejected} rejected.",
            )


def check_errors(solver: Solves, problem: Problem | None = None) -> None:
    """Times out of order, times that are not finite, no times, and a state that is not finite are ValueErrors.

    Raises:
        AssertionError: One of them is accepted, or is another error.
    """
    problem = problem or decay()
    state = problem.states(3)
    bad: list[list[float]] = [[], [0.0, 0.5, 0.3], [0.0, 0.5, 0.5], [0.0, math.nan], [0.0, math.inf]]
    for times in bad:
        _refused(solver, problem, state, times, f"the times {times}")
    for wrong in (math.nan, math.inf):
        broken = state.clone()
        broken[1].view(-1)[-1] = wrong
        _refused(solver, problem, broken, [0.0, 1.0], f"a state that holds {wrong}")


def _refused(solver: Solves, problem: Problem, state: Tensor, times: Sequence[float], what: str) -> None:
    try:
        run(solver, problem.drift, state, times)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"Expected a ValueError for {what}; got {type(error).__name__}: {error}") from error
    raise AssertionError(f"Expected a ValueError for {what}; it was accepted.")


def check_pure(solver: Solves, problem: Problem | None = None) -> None:
    """A solve changes neither its arguments nor any global random state, and gives the same answer twice.

    Raises:
        AssertionError: Something changed, or the second answer is another.
    """
    problem = problem or hyperbola()
    state, times = problem.states(3), torch.tensor(_LONG, dtype=torch.float64)
    given, asked, before = state.clone(), times.clone(), _random_state()
    first = solved(solver, problem.drift, state, times).trajectory.states.clone()
    expect(far(state, given) == 0, "Expected the given state to be left as it was; the solver wrote into it.")
    expect(far(times, asked) == 0, "Expected the given times to be left as they were; the solver wrote into them.")
    expect(_random_state() == before, "Expected global random states to be left alone; the solver drew from one.")
    again = solved(solver, problem.drift, state, times).trajectory.states
    expect(
        far(first, again) == 0,
        f"Expected the same answer from a second solve; it is {far(first, again):.2e} off. Something was kept.",
    )
    if isinstance(problem, KnownSde):
        other = solved(solver, problem.drift, state, times, Noise.batch(1, len(state))).trajectory.states
        expect(far(first[:, -1], other[:, -1]) > 0, "Expected other seeds to give other paths; they gave the same.")


def _random_state() -> tuple[bytes, str]:
    """The global random states of torch and NumPy; run-time type checkers draw from Python's own."""
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state())
