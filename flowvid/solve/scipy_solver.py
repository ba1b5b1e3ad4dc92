"""scipy's solvers on any drift: stiff methods, on the host and without gradients.

torchdiffeq has them too, as "scipy_solver", but hands a drift its times rounded to float32 and cuts gradients without
a word; so they are called here directly. The whole batch is one system under one error norm, states travel between the
device and the host at every evaluation, and output times are read off scipy's dense output, of about the order of the
method. What they are for: a reference, and fields too stiff for explicit methods.

References:
    SciPy 1.0: Fundamental Algorithms for Scientific Computing in Python (Virtanen et al., 2020), https://doi.org/10.1038/s41592-019-0686-2
"""

__all__ = ["Scipy", "scipy_methods"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from flowvid.dynamics.drift import Drift
from flowvid.noise import Noise
from flowvid.solve.asked import Asked, NotFiniteError
from flowvid.solve.solution import COMPLETE, Solution
from flowvid.solve.solver import Method, Solver, check_problem
from flowvid.video import Trajectory

_ORDERS = {"RK23": 3, "RK45": 5, "DOP853": 8, "Radau": 5, "BDF": None, "LSODA": None}


@dataclass(frozen=True, kw_only=True)
class Scipy(Solver):
    """One of scipy's methods with its tolerances.

    Arguments:
        method: RK23, RK45 or DOP853, which are explicit; Radau or BDF, which are implicit; LSODA, which switches.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Raises:
        ValueError: The method is unknown, or a tolerance is not positive.
    """

    method: str = "LSODA"
    rtol: float = 1e-3
    atol: float = 1e-3

    def __post_init__(self) -> None:
        if self.method not in _ORDERS:
            raise ValueError(f"Unknown scipy method {self.method!r}; expected one of {', '.join(_ORDERS)}.")
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"Expected positive tolerances; got {self}.")

    def solve(
        self,
        drift: Drift,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others; see `Solver.solve`.

        Arguments:
            drift: The vector field; without ``callback_step``, for these methods ask inside a step.
            state: The state at the first time.
            times: Strictly increasing or decreasing seconds.
            noise: Unused.

        Raises:
            ValueError: Gradients are asked for, or the drift's weights depend on the step.
        """
        points = check_problem(state, times)
        if hasattr(drift, "callback_step"):
            raise ValueError("This drift has weights for a whole step, and scipy asks inside it; use w(0), or euler.")
        if len(points) == 1:
            return Solution(Trajectory(state[:, None], points), 0, 0)
        # scipy can loop without end on what is not finite.
        asked = Asked(drift, state, 1.0, adaptive=False, cuts_gradients=True, watch=True)
        start = state.detach().double()

        def rate(time: float, flat: np.ndarray) -> np.ndarray:
            now = torch.as_tensor(flat, device=state.device).reshape(state.shape)
            with torch.no_grad():
                return asked.rate(float(time), now).cpu().numpy().reshape(-1)

        options: dict[str, Any] = {"method": self.method, "rtol": self.rtol, "atol": self.atol}
        seconds, status, steps = points.tolist(), COMPLETE, 0
        states = torch.full((len(points), *state.shape), torch.nan, dtype=torch.float64)
        states[0] = start.cpu()
        try:
            found = solve_ivp(
                rate, (seconds[0], seconds[-1]), states[0].numpy().reshape(-1), dense_output=True, **options
            )
            reached = [
                i for i, time in enumerate(seconds) if i and abs(time - seconds[0]) <= abs(found.t[-1] - seconds[0])
            ]
            for i in reached:
                states[i] = torch.from_numpy(found.sol(seconds[i])).reshape(state.shape)
            steps = len(found.t) - 1
            if not found.success:
                status = f"{self.method} stopped at {found.t[-1]} s: {found.message}"
        except NotFiniteError as error:
            status = f"{self.method} stopped: {error}"
        trajectory = Trajectory(states.transpose(0, 1).to(state), points)
        return Solution(trajectory, asked.evaluations, asked.evaluations, steps, 0, status)


def scipy_methods() -> tuple[Method, ...]:
    """Lines of the table: torchdiffeq's name for the default, and one for each method."""
    names = {"scipy_solver": "LSODA", **{f"scipy:{method}": method for method in _ORDERS}}
    return tuple(
        Method(
            name=name,
            family="ode",
            order=_ORDERS[method],
            adaptive=True,
            evaluations="varies",
            gradients="none",
            source="scipy",
            make=partial(Scipy, method=method),
            note=f"{method}; joint error control over the batch; on the host",
        )
        for name, method in names.items()
    )
