r"""Checks against known flows: order, semigroup, reversal, strong order, consistency of heads.

A method of order p has an error C h^p, so the slope of log error against log h tells p. A flow obeys
flow(s -> t) = flow(u -> t) after flow(s -> u); a solver that keeps no memory between output times obeys it to the last
bit with u among its times. Average velocities of a flow obey

    (a + b) u(z, t, a + b) = a u(z, t, a) + b u(z + a u(z, t, a), t + a, b),

of which "two half steps are one" is the case a = b, and "there and back" the case b = -a.

References:
    One Step Diffusion via Shortcut Models (Frans et al., 2024), https://arxiv.org/abs/2410.12557
    How to Build a Consistency Model: Learning Flow Maps via Self-Distillation (Boffi et al., 2025),
    https://arxiv.org/abs/2505.18825
"""

__all__ = [
    "check_accuracy",
    "check_consistent_heads",
    "check_order",
    "check_reversible",
    "check_semigroup",
    "check_strong_order",
]

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.noise import Noise
from flowvid.solve.jump import FlowMap
from flowvid.testing.fields import KnownField, hyperbola, swing
from flowvid.testing.probe import Solves, expect, far, solved
from flowvid.testing.stochastic import KnownSde, geometric

_TIMES = (0.0, 0.3, 1.0)
_ROUNDING = 1e-12


def _error(solver: Solves, field: KnownField, times: Sequence[float]) -> float:
    """The greatest error over all output times, samples and entries."""
    start = field.states(3)
    states = solved(solver, field.drift, start, times).trajectory.states
    return max(far(states[:, n], field.flow(start, times[0], time)) for n, time in enumerate(times))


def _slope(steps: Sequence[int], errors: Sequence[float], name: str) -> float:
    """The observed order, where it can be observed."""
    measured = ", ".join(f"{error:.2e} with {n}" for n, error in zip(steps, errors, strict=True))
    expect(all(np.isfinite(errors)), f"Expected finite errors on {name}; measured {measured} steps.")
    expect(
        min(errors) > _ROUNDING,
        f"No order can be seen in errors of rounding: on {name} measured {measured} steps. Take fewer steps, or a "
        "field that the solver does not solve exactly.",
    )
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def check_order(
    solver_of_steps: Callable[[int], Solves],
    order: int | float,
    field: KnownField | None = None,
    *,
    tolerance: float = 0.3,
    steps: Sequence[int] = (8, 16, 32),
    times: Sequence[float] = _TIMES,
) -> None:
    """The order of convergence is what it is said to be, neither less nor more.

    Arguments:
        solver_of_steps: Number of steps between neighbouring times -> solver.
        order: The order that is claimed.
        field: A field with a known flow; `swing` when left out.
        tolerance: How far the observed order may be from it.
        steps: Numbers of steps to fit over.
        times: Seconds, increasing or decreasing; errors are measured at all of them.

    Raises:
        AssertionError: Another order is observed, or none can be.
    """
    field = field or swing()
    errors = [_error(solver_of_steps(n), field, times) for n in steps]
    slope = _slope(steps, errors, field.name)
    expect(
        abs(slope - order) <= tolerance,
        f"Expected order {order} within {tolerance} on {field.name} over times {tuple(times)}; measured {slope:.2f} "
        f"from errors {[f'{error:.2e}' for error in errors]} with {list(steps)} steps.",
    )


def check_accuracy(
    solver: Solves, field: KnownField | None = None, *, atol: float, times: Sequence[float] = _TIMES
) -> None:
    """Every requested time is answered to within a tolerance, for solvers that choose their own steps.

    Arguments:
        solver: The solver.
        field: A field with a known flow; `swing` when left out.
        atol: The greatest error.
        times: Seconds.

    Raises:
        AssertionError: An error is greater.
    """
    field = field or swing()
    error = _error(solver, field, times)
    expect(error <= atol, f"Expected errors of at most {atol:.2e} on {field.name}; measured {error:.2e}.")


def check_semigroup(
    solver: Solves, field: KnownField | None = None, *, atol: float = 0.0, times: Sequence[float] = (0.0, 0.375, 1.0)
) -> None:
    """Solving on from a solution gives what solving through in one call gives.

    Arguments:
        solver: The solver.
        field: The field; `hyperbola` when left out.
        atol: The greatest difference; zero for methods on a grid that keep no memory of earlier steps.
        times: Seconds; all but the first and the last are stops.

    Raises:
        AssertionError: The two differ.
    """
    field = field or hyperbola()
    state = field.states(3)
    through = solved(solver, field.drift, state, times).trajectory.states
    for n in range(1, len(times)):
        state = solved(solver, field.drift, state, times[n - 1 : n + 1]).trajectory.states[:, 1]
        apart = far(state, through[:, n])
        expect(
            apart <= atol,
            f"Expected the same state at {times[n]} s of {field.name} in one solve as in {n}, to within {atol:.2e}; "
            f"they differ by {apart:.2e}.",
        )


def check_reversible(
    solver: Solves, field: KnownField | None = None, *, atol: float, times: Sequence[float] = _TIMES
) -> None:
    """Forward and then backward in time comes back to every state on the way.

    Arguments:
        solver: The solver.
        field: The field; `swing` when left out.
        atol: The greatest difference between the way there and the way back.
        times: Seconds.

    Raises:
        AssertionError: The way back is another.
    """
    field = field or swing()
    there = solved(solver, field.drift, field.states(3), times).trajectory.states
    back = solved(solver, field.drift, there[:, -1].clone(), list(reversed(times))).trajectory.states
    apart = far(back.flip(1), there)
    expect(
        apart <= atol,
        f"Expected the way back along {field.name} to retrace the way there to within {atol:.2e}; they are "
        f"{apart:.2e} apart.",
    )


def check_strong_order(
    solver_of_steps: Callable[[int], Solves],
    order: int | float,
    sde: KnownSde | None = None,
    *,
    tolerance: float = 0.3,
    steps: Sequence[int] = (4, 16, 64),
    batch: int = 256,
) -> None:
    """The order of strong convergence, along the paths that the solver itself walks on, is what it is said to be.

    A solver that means another calculus than the equation converges to another solution, and shows an order near zero.

    Arguments:
        solver_of_steps: Number of steps between neighbouring times -> solver.
        order: The strong order that is claimed.
        sde: An equation with a known solution; Ito `geometric` when left out.
        tolerance: How far the observed order may be from it.
        steps: Numbers of steps to fit over.
        batch: Samples; with diagonal noise each has as many paths as entries.

    Raises:
        AssertionError: Another order is observed, or none can be.
    """
    sde, times = sde or geometric(), (0.0, 1.0)
    errors: list[float] = []
    start, noise = sde.states(batch), Noise.batch(0, batch)
    for n in steps:
        path = solved(solver_of_steps(n), sde.driver, torch.zeros_like(start), times, noise).trajectory.states[:, -1]
        found = solved(solver_of_steps(n), sde.drift, start, times, noise).trajectory.states[:, -1]
        exact = sde.solution(start, times[0], times[-1], path)
        errors.append(float((found - exact).abs().mean()))
    slope = _slope(steps, errors, sde.name)
    expect(
        abs(slope - order) <= tolerance,
        f"Expected strong order {order} within {tolerance} on {sde.name}; measured {slope:.2f} from mean errors "
        f"{[f'{error:.2e}' for error in errors]} with {list(steps)} steps. An order near zero is a solution of "
        "another equation: the wrong calculus, or noise of the wrong variance.",
    )


def check_consistent_heads(
    heads: FlowMap, states: Float[Tensor, "batch *state"], *, time: float = 0.0, atol: float = 1e-9
) -> None:
    """A jump over one gap and then another is the jump over their sum; there and back is no jump.

    Arguments:
        heads: Average velocities over signed gaps, as of `ExactHeads`; two gaps or more that add up to another.
        states: States to jump from.
        time: Their time in seconds.
        atol: The greatest difference of two displacements; trained heads meet only their own error.

    Raises:
        AssertionError: Two ways to the same time end apart, or no two gaps add up to a third, or to zero.
    """
    gaps = heads.gaps

    def displacements(at: float, state: Tensor) -> Tensor:
        rates = heads.rates([at], state[:, None], [True])
        expected = (len(state), 1, len(gaps), *state.shape[1:])
        expect(rates.shape == expected, f"Expected rates of shape {expected}; got {tuple(rates.shape)}.")
        return rates[:, 0] * torch.tensor(gaps, dtype=torch.float64).to(rates).reshape(-1, *[1] * (state.ndim - 1))

    near = 1e-9 * max(abs(gap) for gap in gaps)
    direct, compared = displacements(time, states), 0
    for k, first in enumerate(gaps):
        middle = states + direct[:, k]
        onwards = displacements(time + first, middle)
        for j, second in enumerate(gaps):
            sums = [i for i, gap in enumerate(gaps) if abs(gap - first - second) <= near]
            if not sums and abs(first + second) > near:
                continue
            target = direct[:, sums[0]] if sums else torch.zeros_like(states)
            apart, compared = far(direct[:, k] + onwards[:, j], target), compared + 1
            expect(
                apart <= atol,
                f"Expected the jumps over {first} s and {second} s to make the jump over {first + second:.6g} s to "
                f"within {atol:.2e}; they end {apart:.2e} apart.",
            )
    expect(compared > 0, f"No two of the gaps {gaps} add up to a third or to zero, so there is nothing to compare.")
