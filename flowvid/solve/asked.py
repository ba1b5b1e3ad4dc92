"""A drift as torchdiffeq asks for it: counted, in float64, on a clock that runs forward."""

__all__ = ["Asked", "NotFiniteError"]

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowvid.dynamics.drift import Drift
from flowvid.solve.solver import check_rate, named_samples, not_finite


class NotFiniteError(ValueError):
    """A drift was not finite."""


class Asked:
    """A drift in torchdiffeq's form, on a clock that runs forward, that counts what it is asked.

    torchdiffeq calls the ``callback_`` attributes, and warns of any that a method would not call.
    """

    def __init__(
        self,
        drift: Drift,
        state: Tensor,
        sign: float,
        *,
        adaptive: bool,
        cuts_gradients: bool = False,
        watch: bool = False,
    ) -> None:
        self.drift, self.like, self.sign, self.watch = drift, state, sign, watch
        self.cuts_gradients = cuts_gradients and torch.is_grad_enabled()
        self.asking = False
        self.evaluations = self.accepted = self.rejected = 0
        self.reached: dict[float, Tensor] = {}
        self.wanted: frozenset[float] = frozenset()
        # Where the heuristic for the first step looks beyond the end, it is told of the end.
        self.last_time = math.inf
        self.last: tuple[float, Tensor] | None = None
        if adaptive:
            self.callback_step = self._begin
            self.callback_accept_step = self._accept
            self.callback_reject_step = self._reject
        self.told: Callable[[float, Tensor, float], None] | None = getattr(drift, "callback_step", None)
        if self.told is not None:
            self.callback_step = self._tell

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        return self.rate(min(float(time.detach()), self.last_time), state)

    def rate(self, time: float, state: Tensor) -> Tensor:
        """The drift in float64 at a time of the forward clock."""
        first = self.evaluations == 0
        self.evaluations += 1
        self.asking = True
        at = self.sign * time
        with torch.set_grad_enabled(torch.is_grad_enabled() or (first and self.cuts_gradients)):
            velocity = self.drift(at, state.to(self.like.dtype))
        self.asking = False
        if first:
            check_rate(velocity, self.like)
            self._refuse_gradients(velocity)
        velocity = velocity.detach() if self.cuts_gradients else velocity
        self.last = (at, velocity.detach())
        if self.watch and (wrong := not_finite(velocity)):
            raise NotFiniteError(f"the drift is not finite at {at} s in {named_samples(wrong)}. Check it there.")
        return self.sign * velocity.double()

    def leaves(self, time: float, state: Tensor) -> tuple[Tensor, ...]:
        """Every leaf of autograd that the drift depends on, found by asking it once."""
        with torch.enable_grad():
            velocity = self.rate(time, state.detach())
        found: list[Tensor] = []
        seen: set[Any] = set()
        waiting: list[Any] = [velocity.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                found.append(node.variable)
            waiting += [parent for parent, _ in node.next_functions]
        return tuple(found)

    def wrong(self) -> list[int]:
        """Samples for which the last rate of change was not finite."""
        return [] if self.last is None else not_finite(self.last[1])

    def reason(self, error: AssertionError) -> str:
        """What torchdiffeq's assertion means."""
        at = self.last[0] if self.last is not None else 0.0
        if "max_num_steps" in str(error):
            return f"the budget of steps is spent at {at} s. Raise max_steps, or loosen the tolerances."
        return (
            f"its step became too short at {at} s, after {self.evaluations} evaluations ({error}); the drift may be "
            "stiff or jump. Loosen the tolerances, or use a fixed-step method or the jump integrator."
        )

    def _refuse_gradients(self, velocity: Tensor) -> None:
        if self.cuts_gradients and (self.like.requires_grad or velocity.requires_grad):
            raise ValueError(
                "scipy cuts gradients: solve under torch.no_grad(), or use another method where they are needed."
            )

    def _tell(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        assert self.told is not None
        self.told(self.sign * float(t0.detach()), y0.to(self.like.dtype), self.sign * float(dt.detach()))

    def _begin(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        at = float(t0.detach())
        if at in self.wanted:
            self.reached[at] = y0

    def _accept(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.accepted += 1

    def _reject(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.rejected += 1
