"""The methods of the comparison: a model with a way to sample it, and the tasks it can answer."""

__all__ = ["CHOSEN", "TASKS", "Method", "candidates", "methods"]

from dataclasses import dataclass

TASKS = ("predict", "extrapolate", "fill")
"""Two context frames inside the trained horizon; the same beyond it, up to twice as far; a later frame in addition."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    Arguments:
        name: Unique name.
        model: A learned model, "copy-last" or "linear-blend".
        solver: Passed to the model; None for its default.
        weights: Scale weights of the multi-scale model; None for its default.
        tasks: What it can answer.
        group: "main", "ablation" or "baseline".
    """

    name: str
    model: str
    solver: str | None = None
    weights: str | None = None
    tasks: tuple[str, ...] = TASKS
    group: str = "main"


CHOSEN = "multi-scale"
"""The row of the multi-scale model with the candidate that did best on validation clips, task by task."""


def candidates(longest: int) -> tuple[Method, ...]:
    """Ways to sample the multi-scale model that compete on validation clips.

    Arguments:
        longest: The longest gap in frames; some ways use shorter gaps alone.
    """
    solvers = [*(f"two-sided-{limit}" for limit in (8, 4)), "jump", *(f"jump-{limit}" for limit in (8, 4, 2, 1))]
    usable = [solver for solver in solvers if not solver[-1].isdigit() or int(solver.rsplit("-")[-1]) < longest]
    return tuple(Method(name=s, model="multiscale", solver=s, group="solver") for s in ("two-sided", *usable))


_ABLATIONS = tuple(
    Method(name=f"{weights} + rk4", model="multiscale", solver="rk4", weights=weights, group="ablation")
    for weights in ("calibrated", "richardson", "softmax", "uniform", "instant", "long")
)


def methods(ddim_steps: tuple[int, ...], models: tuple[str, ...], longest: int) -> tuple[Method, ...]:
    """All rows in the order of the table, without the chosen one.

    Arguments:
        ddim_steps: Numbers of DDIM steps; the last is the reference.
        models: Learned models that take part.
        longest: The longest gap in frames.
    """
    reference = ddim_steps[-1]
    rows = (
        Method(name="copy-last", model="copy-last", group="baseline"),
        Method(name="linear blend", model="linear-blend", tasks=("fill",), group="baseline"),
        *candidates(longest),
        Method(name="dopri5", model="multiscale", solver="dopri5", group="solver"),
        *_ABLATIONS,
        Method(name="bisection", model="bisection", tasks=("fill",)),
        Method(name="multi-scale, fill only", model="multiscale-fill", tasks=("fill",)),
        Method(name="direct", model="direct"),
        *(
            Method(
                name=f"ddim, {steps} steps", model="ddim", solver=f"ddim-{steps}", group=_ddim_group(steps, reference)
            )
            for steps in ddim_steps
        ),
    )
    return tuple(row for row in rows if row.group == "baseline" or row.model in models)


def _ddim_group(steps: int, reference: int) -> str:
    return "main" if steps == reference else "solver"
