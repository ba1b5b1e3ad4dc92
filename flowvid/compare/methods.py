"""The methods of the comparison: a model with a way to sample it, and the tasks it can answer."""

__all__ = ["CANDIDATES", "CHOSEN", "TASKS", "Method", "methods"]

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

CANDIDATES = tuple(
    Method(name=f"{solver}", model="multiscale", solver=solver, group="solver")
    for solver in ("two-sided", "two-sided-8", "two-sided-4", "jump", "jump-8", "jump-4", "jump-2", "jump-1")
)
"""Ways to sample the multi-scale model that compete on validation clips."""

_ABLATIONS = tuple(
    Method(name=f"{weights} + rk4", model="multiscale", solver="rk4", weights=weights, group="ablation")
    for weights in ("calibrated", "richardson", "softmax", "uniform", "instant", "long")
)


def methods(ddim_steps: tuple[int, ...], models: tuple[str, ...]) -> tuple[Method, ...]:
    """All rows in the order of the table, without the chosen one.

    Arguments:
        ddim_steps: Numbers of DDIM steps; the last is the reference.
        models: Learned models that take part.
    """
    reference = ddim_steps[-1]
    rows = (
        Method(name="copy-last", model="copy-last", group="baseline"),
        Method(name="linear blend", model="linear-blend", tasks=("fill",), group="baseline"),
        *CANDIDATES,
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
