"""torchdiffeq's solvers on any drift, behind one result.

The names and the meaning of the tolerances are torchdiffeq's. What differs is deliberate:

- Every output time lies on the grid of the solver. Between its steps torchdiffeq interpolates: linearly for
  fixed-step methods, which costs the order, and by a quartic that no error control sees for adaptive ones, which was
  measured to miss a tolerance of 1e-6 by 7e-5 (bosh3). For the same reason no drift is asked beyond the last time.
- Times stay float64. torchdiffeq rounds a time to the type of the state, and in bfloat16 a thousand steps see only
  five hundred times; so it is handed the state in float64, while the drift sees the state's own type. A drift
  is asked at the times of the method's tableau to within the rounding of float64, whatever the type of the state; the
  state is accumulated in float64 too. The solver's own arithmetic was measured 1.1 to 2.6 times slower for it, which
  a network's evaluations hide.
- Evaluations are counted, an option that a method ignores is refused, and what is not finite is named.
- scipy's methods, which torchdiffeq wraps, are in `flowvid.solve.scipy_solver`.
- Adams methods have coefficients for equal steps, so they start anew in every interval between output times, and
  their order is limited to 4: at torchdiffeq's own limit of 12 the explicit one is unstable.
- The steps that an adaptive method chooses are constants of the derivative. torchdiffeq lets gradients through the
  choice of the first step, though not through the times that follow from it.
- The adjoint finds by itself everything that the drift depends on. torchdiffeq's knows the parameters of a module
  alone, and a condition held by the drift gets no gradient without a word.

The error control is joint: one norm over the whole batch, so that a sample's steps, and its answer within the
tolerance, depend on its neighbours; `flowvid.solve.adaptive` controls every sample by itself. A tolerance bounds the
estimated error of a step, not the error of the result: most methods were measured within twenty times their
tolerance, fehlberg2 140 times above it.

References:
    Neural Ordinary Differential Equations (Chen et al., 2018), https://arxiv.org/abs/1806.07366
"""

__all__ = ["Ode", "ode_methods"]

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
import torchdiffeq
from jaxtyping import Float
from torch import Tensor
from torchdiffeq._impl.fixed_adams import AdamsBashforthMoulton
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.scipy_wrapper import ScipyWrapperODESolver
from torchdiffeq._impl.solvers import AdaptiveStepsizeODESolver

from flowvid.dynamics.drift import Drift
from flowvid.noise import Noise
from flowvid.solve.asked import Asked, NotFiniteError
from flowvid.solve.solution import COMPLETE, Solution
from flowvid.solve.solver import Method, Solver, check_problem, named_samples, not_finite
from flowvid.video import Trajectory

_TOLERANCE = 1e-3
# Terms that give order 4: four earlier rates, and one fewer where the corrector adds its own.
_ADAMS_TERMS = {"explicit_adams": 5}
_METHODS = {name: kind for name, kind in SOLVERS.items() if not issubclass(kind, ScipyWrapperODESolver)}


@dataclass(frozen=True, kw_only=True)
class Ode(Solver):
    """One of torchdiffeq's methods with its options.

    Arguments:
        method: One of the methods that the installed torchdiffeq offers; `ode_methods` lists them.
        rtol: Relative tolerance of an adaptive method; 1e-3 when left out.
        atol: Absolute tolerance of an adaptive method; 1e-3 when left out.
        substeps: Steps that a fixed-step method takes between neighbouring output times; 1 when left out.
        max_steps: Most steps that an adaptive method attempts between neighbouring output times; no limit when left
            out.
        gradients: "direct" goes back through every step; "adjoint" solves a second equation backward and keeps
            nothing of the first, but its gradient is that of the exact flow, not of the steps taken.

    Raises:
        ValueError: The method is unknown, or an option does not apply to it.
    """

    method: str = "dopri5"
    rtol: float | None = None
    atol: float | None = None
    substeps: int | None = None
    max_steps: int | None = None
    gradients: str = "direct"

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ValueError(f"Unknown ODE method {self.method!r}; torchdiffeq offers {', '.join(sorted(_METHODS))}.")
        if self.adaptive and self.substeps is not None:
            raise ValueError(f"{self.method} chooses its own steps and ignores substeps; give rtol and atol instead.")
        if not self.adaptive and (self.rtol, self.atol, self.max_steps) != (None, None, None):
            raise ValueError(f"{self.method} takes fixed steps whatever the tolerances; give substeps instead.")
        if self.gradients not in ("direct", "adjoint"):
            raise ValueError(f"Gradients are direct or adjoint; got {self.gradients!r}.")
        given = [option for option in (self.substeps, self.rtol, self.atol, self.max_steps) if option is not None]
        if not all(option > 0 for option in given):
            raise ValueError(f"Expected substeps >= 1, max_steps >= 1 and positive tolerances; got {self}.")

    @property
    def adaptive(self) -> bool:
        """Whether the method controls its own error."""
        return issubclass(SOLVERS[self.method], AdaptiveStepsizeODESolver)

    @property
    def _adams(self) -> bool:
        return issubclass(SOLVERS[self.method], AdamsBashforthMoulton)

    def solve(
        self,
        drift: Drift,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others; see `Solver.solve`.

        A drift with a method ``callback_step(time, state, step)`` is told of every step before it is taken, which is
        how weights that depend on the step enter; only euler can use them.

        Arguments:
            drift: The vector field.
            state: The state at the first time.
            times: Strictly increasing or decreasing seconds.
            noise: Unused.
        """
        points = check_problem(state, times)
        if hasattr(drift, "callback_step") and (self.method != "euler" or self.gradients == "adjoint"):
            raise ValueError(
                f"This drift has weights for the whole step it is told of, a map rather than a vector field: only "
                f"euler takes it, with direct gradients. {self.method} asks inside a step, and the adjoint equation "
                "is not the gradient of such maps. Use w(0) for an instantaneous velocity."
            )
        if len(points) == 1:
            return Solution(Trajectory(state[:, None], points), 0, 0)
        sign = 1.0 if points[-1] > points[0] else -1.0
        asked = Asked(drift, state, sign, adaptive=self.adaptive)
        states, status = self._integrated(asked, state, sign * points)
        wrong = not_finite(states) if status == COMPLETE else asked.wrong()
        if wrong:
            status = self._diagnosed(drift, state, points, wrong)
        steps = asked.accepted if self.adaptive else (len(points) - 1) * (self.substeps or 1)
        trajectory = Trajectory(states.to(state.dtype), points)
        return Solution(trajectory, asked.evaluations, asked.evaluations, steps, asked.rejected, status)

    def _integrated(self, asked: Asked, state: Tensor, points: Tensor) -> tuple[Tensor, str]:
        """States in float64 at increasing times, the batch first, and how it ended."""
        at = points.to(state.device)
        asked.wanted, asked.last_time = frozenset(points.tolist()), points[-1].item()
        parts = [at[i : i + 2] for i in range(len(at) - 1)] if self._adams else [at]
        found = [state.double()[None]]
        try:
            for part in parts:
                found.append(self._solved(asked, found[-1][-1], part)[1:])
        except NotFiniteError as error:
            return _reached(asked, found, at), f"{self.method} stopped: {error}"
        except AssertionError as error:
            if asked.asking:
                raise
            return _reached(asked, found, at), f"{self.method} stopped: {asked.reason(error)}"
        return torch.cat(found).transpose(0, 1), COMPLETE

    def _solved(self, asked: Asked, state: Tensor, at: Tensor) -> Tensor:
        """torchdiffeq's answer, time first."""
        options: dict[str, Any] = {"step_t": at[1:]} if self.adaptive else {"grid_constructor": self._grid}
        if self._adams:
            options |= {"max_order": _ADAMS_TERMS.get(self.method, 4)}
        elif self.adaptive:
            options |= {"norm": _norm} | ({} if self.max_steps is None else {"max_num_steps": self.max_steps})
        # Adams methods iterate their corrector to rtol; a loose one would cost their order.
        tight = {"rtol": 1e-10, "atol": 1e-10} if self._adams else {}
        tolerances = {"rtol": self.rtol or _TOLERANCE, "atol": self.atol or _TOLERANCE} if self.adaptive else tight
        arguments = {"method": self.method, "options": options, **tolerances}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Functional iteration did not converge")
            if self.gradients == "direct":
                return torchdiffeq.odeint(asked, state, at, **arguments)
            backward: dict[str, Any] = {} if self.adaptive else {"grid_constructor": self._grid}
            knows = asked.leaves(float(at[0]), state)
            arguments |= {"adjoint_params": knows, "adjoint_options": backward}
            return cast(Tensor, torchdiffeq.odeint_adjoint(asked, state, at, **arguments))

    def _grid(self, func: object, y0: object, points: Tensor) -> Tensor:
        """The points with ``substeps`` - 1 more between neighbours, every given point kept exactly."""
        count = self.substeps or 1
        fractions = torch.arange(count, dtype=points.dtype, device=points.device) / count
        inner = points[:-1, None] + points.diff()[:, None] * fractions
        return torch.cat((inner.flatten(), points[-1:]))

    def _diagnosed(self, drift: Drift, state: Tensor, points: Tensor, wrong: Sequence[int]) -> str:
        """Solve once more, watching, to say when the drift was first not finite and for whom."""
        sign = 1.0 if points[-1] > points[0] else -1.0
        watching = Asked(drift, state, sign, adaptive=self.adaptive, watch=True)
        with torch.no_grad():
            _, status = self._integrated(watching, state, sign * points)
        if status != COMPLETE:
            return status
        return (
            f"{self.method} reached NaN or infinity in {named_samples(wrong)} although the drift stayed finite; the "
            "steps are too long. Take more substeps."
        )


def ode_methods() -> tuple[Method, ...]:
    """A line of the table for every method that the installed torchdiffeq offers."""
    return tuple(_line(name) for name in sorted(_METHODS))


@cache
def _line(name: str) -> Method:
    kind = SOLVERS[name]
    made = Ode(method=name)
    notes = [
        *(["joint error control over the batch"] if made.adaptive else []),
        *(["Kutta's 3/8 rule"] if name == "rk4" else []),
        *(["starts anew at every output time"] if made._adams else []),
        *(["an alias of implicit_adams"] if name == "fixed_adams" else []),
    ]
    return Method(
        name=name,
        family="ode",
        order=getattr(kind, "order", None),
        adaptive=made.adaptive,
        evaluations=_evaluations(made),
        gradients="direct, adjoint",
        source="torchdiffeq",
        make=partial(Ode, method=name),
        note="; ".join(notes),
    )


def _evaluations(solver: Ode) -> str:
    """Evaluations per step as counted on a small problem, past the first steps."""
    state = torch.ones(1, 1, dtype=torch.float64)

    def drift(time: float, state: Tensor) -> Tensor:
        return -state

    if solver.adaptive:
        found = solver.solve(drift, state, [0.0, 1.0])
        return str(round((found.evaluations - 2) / (found.accepted + found.rejected)))
    few, more = (Ode(method=solver.method, substeps=n).solve(drift, state, [0.0, 0.1]).evaluations for n in (8, 9))
    corrects = issubclass(SOLVERS[solver.method], AdamsBashforthMoulton) and more - few > 1
    return "2 to 5" if corrects else str(round(more - few))


def _norm(values: Tensor) -> Tensor:
    """Root mean square, without a gradient: steps are constants of the derivative."""
    return values.detach().square().mean().sqrt()


def _reached(asked: Asked, found: Sequence[Tensor], at: Tensor) -> Tensor:
    """The states that were reached, the batch first, NaN after."""
    whole = torch.cat([*found])
    rest = [asked.reached.get(float(time), torch.full_like(whole[0], torch.nan)) for time in at[len(whole) :]]
    return torch.cat((whole, *(state[None] for state in rest))).transpose(0, 1)
