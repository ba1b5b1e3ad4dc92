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
- Evaluations are counted, an option that a method ignores is refused, and what is not finite is an error.

A tolerance bounds the estimated error of a step, not the error of the result: most methods were measured within
twenty times their tolerance, fehlberg2 140 times above it.

References:
    Neural Ordinary Differential Equations (Chen et al., 2018), https://arxiv.org/abs/1806.07366
"""

__all__ = ["Ode", "ode_methods"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchdiffeq
from jaxtyping import Float
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import AdaptiveStepsizeODESolver

from flowvid.dynamics.drift import Drift
from flowvid.solve.solution import Solution
from flowvid.video import Trajectory, as_times

_LEFT_OUT = {
    "explicit_adams": "is unstable: at its order of 12, more steps make the error grow without a word",
    "scipy_solver": "cuts gradients without a word",
}


def ode_methods() -> tuple[str, ...]:
    """Names of the installed torchdiffeq's methods, less those that go wrong silently."""
    return tuple(sorted(SOLVERS.keys() - _LEFT_OUT.keys()))


@dataclass(frozen=True, kw_only=True)
class Ode:
    """One of torchdiffeq's methods with its options.

    Arguments:
        method: A name from `ode_methods`.
        rtol: Relative tolerance of an adaptive method; 1e-3 when left out.
        atol: Absolute tolerance of an adaptive method; 1e-3 when left out.
        substeps: Steps that a fixed-step method takes between neighbouring output times; 1 when left out.

    Raises:
        ValueError: The method is unknown, or an option does not apply to it.
    """

    method: str = "dopri5"
    rtol: float | None = None
    atol: float | None = None
    substeps: int | None = None

    def __post_init__(self) -> None:
        if self.method in _LEFT_OUT:
            known = ", ".join(ode_methods())
            raise ValueError(f"torchdiffeq's {self.method} {_LEFT_OUT[self.method]}; use one of {known}.")
        if self.method not in ode_methods():
            raise ValueError(f"Unknown ODE method {self.method!r}; expected one of {', '.join(ode_methods())}.")
        if self.adaptive and self.substeps is not None:
            raise ValueError(f"{self.method} chooses its own steps and ignores substeps; give rtol and atol instead.")
        if not self.adaptive and (self.rtol is not None or self.atol is not None):
            raise ValueError(f"{self.method} takes fixed steps whatever the tolerances; give substeps instead.")
        given = [option for option in (self.substeps, self.rtol, self.atol) if option is not None]
        if not all(option > 0 for option in given):
            raise ValueError(f"Expected substeps >= 1 and positive tolerances; got {self}.")

    @property
    def adaptive(self) -> bool:
        """Whether the method controls its own error."""
        return issubclass(SOLVERS[self.method], AdaptiveStepsizeODESolver)

    def solve(self, drift: Drift, state: Float[Tensor, "batch *state"], times: Sequence[float]) -> Solution:
        """Move a state from the first of the times through the others.

        The error control of an adaptive method is joint: it looks at the whole batch, so a sample's steps depend
        on its neighbours.

        Arguments:
            drift: The vector field.
            state: The state at the first time.
            times: Increasing seconds; the solution holds all of them.

        Raises:
            ValueError: The times do not increase, the state is not finite, or the solver broke down.
        """
        points = as_times(times)
        if not bool(torch.isfinite(state).all()):
            raise ValueError("The initial state holds NaN or infinity; check the frames and the codec it came from.")
        if len(points) == 1:
            return Solution(Trajectory(state[:, None], points), 0, 0)
        counted = _Counted(drift, state.dtype, adaptive=self.adaptive)
        states = self._integrated(counted, state, points).transpose(0, 1).to(state.dtype)
        if not bool(torch.isfinite(states).all()):
            raise ValueError(
                f"{self.method} reached NaN or infinity; the drift is not finite or the steps are too long. Check the "
                "drift, or take more substeps."
            )
        steps = counted.accepted if self.adaptive else (len(points) - 1) * (self.substeps or 1)
        return Solution(Trajectory(states, points), counted.evaluations, counted.evaluations, steps, counted.rejected)

    def _integrated(self, counted: "_Counted", state: Tensor, points: Tensor) -> Tensor:
        """torchdiffeq's answer in float64, time first."""
        at = points.to(state.device)
        grid = _refined(at, self.substeps or 1)

        def constructor(func: object, y0: Tensor, t: Tensor) -> Tensor:
            return grid

        tolerances = {"rtol": self.rtol or 1e-3, "atol": self.atol or 1e-3} if self.adaptive else {}
        options = {"step_t": at[1:]} if self.adaptive else {"grid_constructor": constructor}
        try:
            return torchdiffeq.odeint(counted, state.double(), at, method=self.method, options=options, **tolerances)
        except AssertionError as error:
            if counted.asking:
                raise
            raise ValueError(
                f"{self.method} broke down after {counted.evaluations} evaluations ({error}); the drift may be stiff "
                "or not finite. Loosen the tolerances, or use a fixed-step method or the jump integrator."
            ) from error


class _Counted:
    """A drift in torchdiffeq's form that counts what it is asked.

    torchdiffeq calls the ``callback_`` attributes, and warns of any that a fixed-step method would not call.
    """

    def __init__(self, drift: Drift, dtype: torch.dtype, *, adaptive: bool) -> None:
        self.drift = drift
        self.dtype = dtype
        self.asking = False
        self.evaluations = 0
        self.accepted = 0
        self.rejected = 0
        if adaptive:
            self.callback_accept_step = self._accept
            self.callback_reject_step = self._reject

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        self.evaluations += 1
        self.asking = True
        velocity = self.drift(float(time), state.to(self.dtype)).double()
        self.asking = False
        return velocity

    def _accept(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.accepted += 1

    def _reject(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.rejected += 1


def _refined(points: Tensor, substeps: int) -> Tensor:
    """The points with ``substeps`` - 1 more between neighbours, every given point kept exactly."""
    fractions = torch.arange(substeps, dtype=points.dtype, device=points.device) / substeps
    inner = points[:-1, None] + points.diff()[:, None] * fractions
    return torch.cat((inner.flatten(), points[-1:]))
