"""All checks that apply to a solver, in one call."""

__all__ = ["check_solver"]

from collections.abc import Callable
from functools import partial

from flowvid.testing.accuracy import (
    check_accuracy,
    check_order,
    check_reversible,
    check_semigroup,
    check_strong_order,
)
from flowvid.testing.contract import (
    check_dtype,
    check_errors,
    check_evaluations,
    check_pure,
    check_single_time,
    check_times,
)
from flowvid.testing.fields import KnownField
from flowvid.testing.independence import check_batch_invariance, check_noise_invariance
from flowvid.testing.probe import Problem, Solves
from flowvid.testing.stochastic import KnownSde

_STEPS = 32


def check_solver(
    solver_of_steps: Callable[[int], Solves],
    *,
    order: int | float | None = None,
    per_step: int | Callable[[int], int] | None = None,
    problem: Problem | None = None,
    accuracy: float | None = None,
    batch_atol: float = 0.0,
    backward: bool = True,
) -> None:
    """Run every check that applies, and report all that fail together.

    For a method with steps of its own, give ``accuracy`` instead of ``order`` and ``per_step``, and a function that
    returns the same solver whatever the number of steps. For a stochastic one, give an equation as the problem.

    Arguments:
        solver_of_steps: Number of steps between neighbouring times -> solver.
        order: The order that is claimed; the strong order for an equation.
        per_step: Evaluations per step, or all of them as a function of the number of steps.
        problem: A known field or equation; each check's own field when left out.
        accuracy: How far answers of a solver that chooses its own steps may be from exact ones, and from each other.
        batch_atol: How far a sample may be from itself in another batch.
        backward: Whether the solver goes backward in time too; stochastic ones are not asked to.

    Raises:
        AssertionError: Checks failed; the message holds all of theirs.
        ValueError: Neither an order nor an accuracy is given; or an accuracy for an equation, which has none.
    """
    if order is None and accuracy is None:
        raise ValueError("Give check_solver the order that is claimed, or the accuracy of a solver without one.")
    if isinstance(problem, KnownSde) and (order is None or accuracy is not None):
        raise ValueError("An equation is solved along the paths of the solver itself; give its strong order alone.")
    solver, sde = solver_of_steps(4), problem if isinstance(problem, KnownSde) else None
    field = problem if isinstance(problem, KnownField) else None
    checks: list[Callable[[], None]] = [
        partial(check_times, solver, problem, backward=backward and sde is None),
        partial(check_single_time, solver, problem),
        partial(check_dtype, solver, problem),
        partial(check_errors, solver, problem),
        partial(check_pure, solver, problem),
        partial(check_evaluations, solver_of_steps, per_step, problem=problem),
        partial(check_batch_invariance, solver, problem, atol=batch_atol),
    ]
    if sde is not None:
        checks.append(partial(check_noise_invariance, solver, sde, atol=batch_atol))
        checks.append(partial(check_strong_order, solver_of_steps, order or 0, sde))
    else:
        checks += _deterministic(solver_of_steps, order, field, accuracy, backward=backward)
    failed = [message for check in checks if (message := _failure(check))]
    if failed:
        raise AssertionError(f"{len(failed)} of {len(checks)} checks failed.\n" + "\n".join(failed))


def _deterministic(
    solver_of_steps: Callable[[int], Solves],
    order: int | float | None,
    field: KnownField | None,
    accuracy: float | None,
    *,
    backward: bool,
) -> list[Callable[[], None]]:
    """The checks against known flows."""
    checks: list[Callable[[], None]] = [partial(check_semigroup, solver_of_steps(4), field, atol=accuracy or 0.0)]
    if accuracy is not None:
        checks.append(partial(check_accuracy, solver_of_steps(_STEPS), field, atol=accuracy))
    if order is not None:
        checks.append(partial(check_order, solver_of_steps, order, field))
    if backward:
        error = accuracy if accuracy is not None else _STEPS ** -(order or 0)
        checks.append(partial(check_reversible, solver_of_steps(_STEPS), field, atol=max(10 * error, 1e-10)))
        if order is not None:
            checks.append(partial(check_order, solver_of_steps, order, field, times=(1.0, 0.3, 0.0)))
    return checks


def _failure(check: Callable[[], None]) -> str:
    """What a check says when it fails; nothing when it passes."""
    try:
        check()
    except AssertionError as error:
        assert isinstance(check, partial)
        return f"- {check.func.__name__}: {error}"
    return ""
