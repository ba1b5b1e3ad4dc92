"""Every solver by name, and one call that solves.

    solve(lambda t, z: -z, torch.ones(1, 3), [0.0, 0.5, 1.0], "rk4")
    solve(drift, state, times, Grid(method="rk4", substeps=20))

A name stands for flowvid's own method where there is one, else for torchdiffeq's or torchsde's; with a prefix
("torchdiffeq:dopri5", "torchsde:milstein") it is theirs. The same name has the same order wherever it stands, and the
same tableau with one exception: torchdiffeq's rk4 is Kutta's 3/8 rule, here rk4-38.
"""

__all__ = ["make_solver", "solve", "solver_methods", "solver_table"]

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.methods import denoising_methods
from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.noise import Noise
from flowvid.solve.adaptive import adaptive_methods
from flowvid.solve.flow_map import jump_methods
from flowvid.solve.grid import grid_methods
from flowvid.solve.ode import ode_methods
from flowvid.solve.scipy_solver import scipy_methods
from flowvid.solve.sde import Sde, sde_methods
from flowvid.solve.sde_grid import StochasticGrid, sde_grid_methods
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Method, Solver


def solve(
    drift: Any,
    state: Float[Tensor, "batch *state"],
    times: Sequence[float] | Tensor,
    solver: str | Solver = "tsit5",
    *,
    noise: Noise | None = None,
    incomplete: bool = False,
) -> Solution:
    """Move a state along a field from the first of the times through the others.

    Arguments:
        drift: A `Drift`, for ODE solvers; a `StochasticDrift`, for SDE solvers; a flow map, for those that jump; a
            `Denoiser`, for denoising, whose times are noise levels from 1.0 down.
        state: The state at the first time, of any shape after the batch.
        times: Strictly increasing or strictly decreasing seconds; the solution holds all of them.
        solver: A name from `solver_methods`, or a solver with its options, such as ``Grid(method="rk4", substeps=4)``.
        noise: One seed per sample, for stochastic solvers.
        incomplete: Return what was reached, with its status, where the solver cannot finish.

    Raises:
        ValueError: The solver is unknown, or does not fit the drift, the state or the times.
        SolveError: The solver did not finish and ``incomplete`` is not set; the error holds what was reached.
    """
    chosen = make_solver(solver) if isinstance(solver, str) else solver
    if isinstance(drift, StochasticDrift) and not isinstance(chosen, Sde | StochasticGrid):
        named = ", ".join(name for name, method in solver_methods().items() if method.family == "sde")
        raise ValueError(f"A StochasticDrift needs an SDE solver, one of {named}; got {chosen}.")
    solution = chosen.solve(drift, state, times, noise)
    return solution if incomplete else solution.require()


@cache
def solver_methods() -> dict[str, Method]:
    """Every method by the name that `solve` takes, flowvid's own first."""
    ours = (*grid_methods(), *adaptive_methods(), *sde_grid_methods(), *jump_methods(), *denoising_methods())
    theirs = (*ode_methods(), *scipy_methods(), *sde_methods())
    named = {method.name: method for method in ours}
    for method in theirs:
        free = method.name not in named
        named[method.name if free else f"{method.source}:{method.name}"] = method
    return named


def make_solver(name: str, **options: Any) -> Solver:
    """The solver of a name, with options.

    Arguments:
        name: A name from `solver_methods`; the prefix "torchdiffeq:" or "torchsde:" asks for theirs.
        options: Options of that solver.

    Raises:
        ValueError: The name or an option is unknown, or an option does not apply.
    """
    known = solver_methods()
    bare = name.partition(":")[2]
    method = known.get(name) or next((m for m in known.values() if f"{m.source}:{m.name}" == name), None)
    if method is None:
        hint = f" {bare!r} is not one of its methods." if bare else ""
        raise ValueError(f"Unknown solver {name!r}.{hint} The solvers are {', '.join(known)}.")
    solver = method.make()
    fields = {field.name for field in dataclasses.fields(solver)} - {"method"}  # pyrefly: ignore[bad-argument-type]
    wrong = sorted(options.keys() - fields)
    if wrong:
        raise ValueError(f"The solver {name} has the options {', '.join(sorted(fields))}; got {', '.join(wrong)}.")
    return method.make(**options)


def solver_table() -> str:
    """All methods as aligned text: name, family, order, adaptive, evaluations per step, gradients, source, note."""
    rows = [("name", "family", "order", "adaptive", "evaluations per step", "gradients", "source", "note")]
    for name, method in solver_methods().items():
        order = "-" if method.order is None else f"{method.order:g}"
        adaptive = "yes" if method.adaptive else "no"
        rows.append(
            (name, method.family, order, adaptive, method.evaluations, method.gradients, method.source, method.note)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
