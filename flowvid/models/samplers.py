"""Solvers of a probability flow by name, with the number of steps in the name: "ddim-10", "heun2-20", "dopri5"."""

__all__ = ["flow_solver", "flow_solvers"]

import re

from flowvid.solve.solver import Method, Solver
from flowvid.solvers import make_solver, solver_methods


def flow_solvers() -> tuple[str, ...]:
    """DDIM and its few-step rivals, with N steps or the model's own number; any ODE solver too."""
    offered = _offered()
    return (*offered, *(f"{name}-N" for name, method in offered.items() if not method.adaptive))


def flow_solver(solver: str | None, *, steps: int, default: str = "ddim") -> Solver:
    """The solver of a name, with the number of steps that may follow it.

    Arguments:
        solver: A name; None: the default.
        steps: Steps of a solver whose number is not stated.
        default: The default.

    Raises:
        ValueError: The name is unknown.
    """
    offered, name = _offered(), solver or default
    stated = None if name in offered else re.fullmatch("(.+)-([1-9][0-9]*)", name)
    if stated is not None:
        name, steps = stated[1], int(stated[2])
    if name not in offered or (stated is not None and offered[name].adaptive):
        known = ", ".join(flow_solvers())
        raise ValueError(f"The solvers of a probability flow are {known}, with N steps, N >= 1; got {solver!r}.")
    return make_solver(name) if offered[name].adaptive else make_solver(name, substeps=steps)


def _offered() -> dict[str, Method]:
    """Solvers of a probability flow by name, DDIM first."""
    families = {name: method for name, method in solver_methods().items() if method.family in ("denoising", "ode")}
    return dict(sorted(families.items(), key=lambda pair: pair[1].family != "denoising"))
