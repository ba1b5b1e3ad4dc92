r"""torchsde's methods on any stochastic drift, behind one result.

The names are torchsde's. What differs is deliberate:

- Every output time lies on the grid of the solver, which is given as points: torchsde steps by a size, takes one step
  more for about half of all dt = 1/n, and draws straight lines between its steps.
- States of any shape are flattened to torchsde's (batch, channels) and back. Evaluations are counted.
- The noise is a function of each sample's seed and of time. Methods that need only increments walk along flowvid's own
  `BrownianPath`, the very one that `StochasticGrid` walks along for the same noise. Those that need space-time or Levy
  areas (srk; log_ode with general noise) get them from one ``BrownianInterval`` of torchsde per sample, on its dyadic
  tree, resolved to a millionth of the time; that costs about a millisecond per sample and step.
- milstein is taken without derivatives, except for diagonal Stratonovich noise. torchsde's default multiplies by the
  transposed Jacobian of the volatility, which is wrong for scalar noise unless that Jacobian is symmetric; its
  derivative-free form has strong order 1/2 only in the sense of Stratonovich, where diagonal noise needs no transpose.

Left out: adaptive steps, whose control is joint over the batch, so that a sample would depend on its neighbours; and
the adjoints, since gradients through the steps are exact.

References:
    Scalable Gradients for Stochastic Differential Equations (Li et al., 2020), https://arxiv.org/abs/2001.01328
    Runge-Kutta Methods for the Strong Approximation of Solutions of Stochastic Differential Equations (Roessler,
    2010), https://doi.org/10.1137/09076636X
    Efficient and Accurate Gradients for Neural SDEs (Kidger et al., 2021), https://arxiv.org/abs/2105.13493
"""

__all__ = ["Sde", "sde_methods"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchsde import BaseBrownian, BrownianInterval
from torchsde._core.base_sde import ForwardSDE
from torchsde._core.base_solver import BaseSDESolver
from torchsde._core.methods import select
from torchsde.settings import METHODS, SDE_TYPES

from flowvid.noise import Noise
from flowvid.solve.brownian import BrownianPath
from flowvid.solve.driven import Driven, checked_noise, finished
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Method, Solver, check_problem, check_substeps, refined

_LEFT_OUT = ("adjoint_reversible_heun",)
_ORDERS = {"euler": 0.5, "srk": 1.5}
_EVALUATIONS = {
    "euler": "1",
    "milstein": "1",
    "srk": "10; 3 with additive noise",
    "midpoint": "2",
    "heun": "2",
    "euler_heun": "1",
    "log_ode": "2",
    "reversible_heun": "1, and 1 at the start",
}
_TOLERANCE = 1e-6


def _names() -> tuple[str, ...]:
    return tuple(name for name in METHODS.all() if name not in _LEFT_OUT)


def _solvers(method: str) -> dict[str, type[BaseSDESolver]]:
    """The method's solvers by calculus."""
    found = {calculus: select(method, calculus) for calculus in SDE_TYPES.all()}
    return {calculus: solver for calculus, solver in found.items() if solver.sde_type == calculus}


def _noises(method: str) -> tuple[str, ...]:
    """The noise types that a method takes."""
    solver: Any = next(iter(_solvers(method).values()))
    return tuple(solver.noise_types)


@dataclass(frozen=True, kw_only=True)
class Sde(Solver):
    """One of torchsde's methods with its options.

    Arguments:
        method: One of torchsde's names: euler, milstein and srk for Ito equations; milstein, midpoint, heun,
            euler_heun, log_ode and reversible_heun for Stratonovich ones; any of them for additive noise.
        substeps: Steps between neighbouring output times.
        path: The Brownian path to walk along, one that covers the times; a path of the given noise, from the first to
            the last time, when left out.

    Raises:
        ValueError: The method is unknown, or the number of substeps is not positive.
    """

    method: str = "euler"
    substeps: int = 1
    path: BrownianPath | None = None

    def __post_init__(self) -> None:
        if self.method not in _names():
            raise ValueError(f"Unknown torchsde method {self.method!r}; expected one of {', '.join(_names())}.")
        check_substeps(self.substeps)

    def solve(
        self,
        drift: Any,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others.

        A sample that stops being finite is NaN from the first output time on at which it is not; others are whole.

        Arguments:
            drift: A `StochasticDrift`.
            state: The state at the first time.
            times: Strictly increasing seconds.
            noise: One seed per sample; needed unless the solver has a path.

        Returns:
            The solution; evaluations are those of the drift, one after the other.

        Raises:
            ValueError: The times do not increase, two steps are too close for the path, the state is not finite,
                there is no noise, or the field does not fit the state or the method.
        """
        points = check_problem(state, times).tolist()
        if points[-1] < points[0]:
            raise ValueError(f"torchsde's {self.method} runs forward in time only; give increasing times.")
        driven, solvers = Driven(drift, state), _solvers(self.method)
        driven.check(self.method, tuple(solvers), _noises(self.method), backward=False)
        kept = [state]
        if len(points) > 1:
            kept += self._walked(driven, state, points, noise)
        return finished(self.method, kept, points, driven.evaluations, (len(points) - 1) * self.substeps)

    def _walked(self, driven: Driven, state: Tensor, points: Sequence[float], noise: Noise | None) -> list[Tensor]:
        """States at the later points, by torchsde's steps."""
        moving = state.to(driven.carried)
        grid = refined(points, self.substeps)
        solvers = _solvers(self.method)
        calculus = driven.field.calculus if driven.field.calculus in solvers else next(iter(solvers))
        flat, area = _Flat(driven, moving, calculus), self._area(driven)
        if area is None:
            walk = driven.path(self.path, noise, points, moving).walk(grid)
            draws = (_Draw(increment.to(moving.dtype).reshape(len(moving), -1)) for increment in walk)
        else:
            channels = math.prod(driven.channels(points[0], moving))
            trees = _Trees(checked_noise(noise, state), channels, moving, area)
            draws = trees.walk(grid, areas=area == "foster")
        brownian = _Current(next(draws), area or "foster")
        # What torchsde's own loop would pass on; without adaptive steps nothing of it is used.
        unused: dict[str, Any] = {"dt": None, "adaptive": False, "rtol": 0.0, "atol": 0.0, "dt_min": 0.0}
        options = {"grad_free": calculus == "ito" or driven.field.noise != "diagonal"}
        solver = solvers[calculus](sde=ForwardSDE(flat), bm=brownian, options=options, **unused)
        clock = torch.tensor(grid, dtype=torch.float64)
        kept: list[Tensor] = []
        y = moving.reshape(len(moving), -1)
        extra = solver.init_extra_solver_state(clock[0], y)
        for number in range(1, len(grid)):
            y, extra = solver.step(clock[number - 1], clock[number], y, extra)
            y = y if flat.tracked else y.detach()
            if number % self.substeps == 0:
                kept.append(y.reshape(state.shape).to(state.dtype))
            brownian.draw = next(draws, brownian.draw)
        return kept

    def _area(self, driven: Driven) -> str | None:
        """Which of torchsde's approximations the method needs, if any.

        Raises:
            ValueError: It needs one, and a path was given.
        """
        columns = driven.field.noise == "general"
        needed = {"srk": "space-time", "log_ode": "foster" if columns else None}.get(self.method)
        if needed is not None and self.path is not None:
            raise ValueError(
                f"{self.method} needs areas under the path, and a BrownianPath gives increments only; leave the path "
                "out, or use milstein or heun."
            )
        return needed


@dataclass(frozen=True)
class _Draw:
    """What drives one step: increments of W, the integral of W - W(start) over the step, the Levy areas."""

    W: Float[Tensor, "batch channel"]
    U: Float[Tensor, "batch channel"] | None = None
    A: Float[Tensor, "batch channel channel"] | None = None


class _Current(BaseBrownian):
    """The current step's draw in the form in which torchsde asks for it."""

    def __init__(self, draw: _Draw, area: str) -> None:
        self.draw = draw
        self.area = area

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        draw = self.draw
        found = (draw.W, *([draw.U] if return_U else []), *([draw.A] if return_A else []))
        return found if len(found) > 1 else draw.W

    def __repr__(self) -> str:
        return f"_Current({self.area})"

    @property
    def dtype(self) -> torch.dtype:
        return self.draw.W.dtype

    @property
    def device(self) -> torch.device:
        return self.draw.W.device

    @property
    def shape(self) -> torch.Size:
        return self.draw.W.shape

    @property
    def levy_area_approximation(self) -> str:
        return self.area


class _Flat:
    """A stochastic field on states of shape (batch, channels), in torchsde's form.

    ``tracked`` tells whether gradients are wanted, of the state or of anything else the field depends on: torchsde
    differentiates the volatility for log_ode, and would leave a graph behind where nobody asked for one.
    """

    def __init__(self, driven: Driven, state: Tensor, calculus: str) -> None:
        self.driven = driven
        self.shape = state.shape
        self.noise_type = driven.field.noise
        self.sde_type = calculus
        self.tracked = state.requires_grad

    def f(self, time: Tensor, y: Tensor) -> Tensor:
        """The drift."""
        rate = self.driven.drift(float(time), y.reshape(self.shape))
        self.tracked |= rate.requires_grad and not y.requires_grad
        return rate.reshape(len(rate), -1)

    def g(self, time: Tensor, y: Tensor) -> Tensor:
        """The volatility, with a dimension for the noise unless that is diagonal."""
        strength = self.driven.volatility(float(time), y.reshape(self.shape))
        self.tracked |= strength.requires_grad and not y.requires_grad
        if self.noise_type == "diagonal":
            return strength.reshape(len(strength), -1)
        columns = 1 if self.noise_type == "scalar" else strength.shape[-1]
        return strength.reshape(len(strength), -1, columns)


class _Trees:
    """One of torchsde's Brownian intervals per sample, over the time from 0 to 1.

    They are drawn on the host, in the type of the state, so that a sample does not depend on its batch or device.
    """

    def __init__(self, noise: Noise, channels: int, like: Tensor, area: str) -> None:
        self.like = like
        self.trees = [
            BrownianInterval(
                t0=0.0,
                t1=1.0,
                size=(1, channels),
                dtype=like.dtype,
                entropy=seed % 2**64,
                halfway_tree=True,
                tol=_TOLERANCE,
                levy_area_approximation=area,
            )
            for seed in noise.fold("torchsde").seeds
        ]

    def walk(self, grid: Sequence[float], *, areas: bool) -> Iterator[_Draw]:
        """What drives each step of a grid; Brownian motion over other times is that over [0, 1], scaled."""
        span = grid[-1] - grid[0]
        ends = [(time - grid[0]) / span for time in grid]
        for left, right in pairwise(ends):
            parts = zip(*(tree(left, right, return_U=True, return_A=areas) for tree in self.trees), strict=True)
            W, U, *A = (torch.cat(part).to(self.like.device) for part in parts)
            yield _Draw(W * span**0.5, U * span**1.5, A[0] * span if areas else None)


def sde_methods() -> tuple[Method, ...]:
    """Lines for the table of solvers, one for each of torchsde's methods."""
    return tuple(
        Method(
            name=name,
            family="sde",
            order=_ORDERS.get(name, 1.0),
            adaptive=False,
            evaluations=_EVALUATIONS.get(name, "as counted"),
            gradients="direct",
            source="torchsde",
            make=partial(Sde, method=name),
            note=f"{' or '.join(_solvers(name))}; {', '.join(_noises(name))} noise",
        )
        for name in _names()
    )
