"""The multi-scale field: heads, bound to what is known, as a flow map and as a drift.

Heads and weights make one object with two readings. As a *flow map* it answers with all K average velocities of a
state, and an integrator that takes steps as long as the gaps uses them whole. As a *drift* it answers with one
instantaneous velocity, the heads combined by w(0), which is what Runge-Kutta and adaptive solvers need; a drift made
of a long head alone, or of any convex combination, is another vector field and no solver can repair that (SCIENCE P4,
P7).
"""

__all__ = ["Drift", "MultiScaleDrift", "MultiScaleField", "RowDrift", "RowWise", "SteppingDrift", "clock"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowvid.dynamics.heads import TransitionHeads
from flowvid.dynamics.state import Surroundings
from flowvid.dynamics.weights import ScaleWeights

Drift = Callable[[Any, Float[Tensor, "batch *state"]], Float[Tensor, "batch *state"]]
"""A vector field: (time in seconds, state) -> rate of change of the state per second.

The time is a float on the host where all samples share one clock; a float64 tensor of shape (batch,) from solvers that
step samples separately; and a float64 tensor of shape () inside a compiled step. `clock` makes one thing of the three.
"""


def clock(time: float | Tensor, like: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch"]:
    """One time per row of a state, in its type and on its device, whatever form the solver gives the time in."""
    if isinstance(time, Tensor):
        return time.to(like).expand(len(like))
    return torch.full((len(like),), time, dtype=like.dtype, device=like.device)


@runtime_checkable
class RowDrift(Protocol):
    """A drift that can be had for some rows of the batch alone, so that finished samples may be dropped."""

    def __call__(self, time: Any, state: Tensor) -> Tensor:
        """The rate of change of the state."""
        ...

    def rows(self, index: Int64[Tensor, "n"]) -> "RowDrift":
        """The drift of these rows."""
        ...


@dataclass(frozen=True, eq=False)
class RowWise:
    """A function of (time, state, *context) that treats every row alike, with what it knows of each row.

    A solver cannot tell whether a plain function holds something per sample, and so must always ask it for the whole
    batch. Wrapped, it can be asked for some rows, and the context is visible to solvers that need its gradients.

    Arguments:
        function: (time, state, *context) -> rate of change.
        context: Tensors with one row per sample.
    """

    function: Callable[..., Tensor]
    context: tuple[Tensor, ...] = ()

    def __call__(self, time: Any, state: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
        """The rate of change of the state."""
        return self.function(time, state, *self.context)

    def rows(self, index: Int64[Tensor, "n"]) -> "RowWise":
        """The drift of these rows."""
        return RowWise(self.function, tuple(tensor[index] for tensor in self.context))


class MultiScaleField:
    """Transition heads under a condition.

    Arguments:
        heads: The trained heads.
        surroundings: The known states of the condition.
    """

    def __init__(self, heads: TransitionHeads, surroundings: Surroundings) -> None:
        self.heads = heads
        self.surroundings = surroundings
        self.gaps = heads.gaps

    def rows(self, index: Int64[Tensor, "n"]) -> "MultiScaleField":
        """The field of some of the samples."""
        return MultiScaleField(self.heads, self.surroundings.rows(index))

    def rates(
        self,
        times: Sequence[float] | Float64[Tensor, "batch n"],
        states: Float[Tensor, "batch n state height width"],
        moving: Sequence[bool],
    ) -> Float[Tensor, "batch n gap state height width"]:
        """Average velocities of n states over every gap, all from one trunk evaluation.

        Arguments:
            times: Seconds of the states; or of the states of each sample.
            states: The states (z, p).
            moving: Whether p is known, for each state.
        """
        return self.heads(self.surroundings.query(times, states, moving)).unflatten(0, states.shape[:2])

    def drift(self, weights: ScaleWeights) -> "MultiScaleDrift":
        """The instantaneous velocity under a rule, w(0) applied to the heads."""
        return MultiScaleDrift(self, torch.tensor(weights(0.0)))

    def stepping(self, weights: ScaleWeights) -> "SteppingDrift":
        """The average velocity over the step that a solver announces, w(h) applied to the heads."""
        return SteppingDrift(self, weights)


@dataclass(frozen=True, eq=False)
class MultiScaleDrift:
    """The heads of a field, combined by fixed weights into one velocity.

    Arguments:
        field: The field.
        weights: One weight per gap.
    """

    field: MultiScaleField
    weights: Float64[Tensor, "gap"]

    def __call__(
        self, time: float | Tensor, state: Float[Tensor, "batch state height width"]
    ) -> Float[Tensor, "batch state height width"]:
        """The velocity of the state (z, p)."""
        at = time.expand(len(state))[:, None] if isinstance(time, Tensor) else [time]
        rates = self.field.rates(at, state[:, None], [True])[:, 0]
        return torch.einsum("k,bkchw->bchw", self.weights.to(rates), rates)

    def rows(self, index: Int64[Tensor, "n"]) -> "MultiScaleDrift":
        """The drift of some of the samples."""
        return MultiScaleDrift(self.field.rows(index), self.weights)


class SteppingDrift:
    """The heads of a field, combined by w(h) for the step h that a solver is about to take.

    So driven, Euler's method jumps: z + h sum_k w_k(h) u_k, exact for exact heads at the steps h = gap_k, which no
    vector field is. It is a flow map in a drift's clothes: one stage per step, and no adjoint equation.

    Arguments:
        field: The field.
        weights: The rule w(h).
    """

    def __init__(self, field: MultiScaleField, weights: ScaleWeights) -> None:
        self.field = field
        self.weights = weights
        self._now: MultiScaleDrift | None = None

    def callback_step(self, time: float, state: Tensor, step: float) -> None:
        """Told by the solver before each step."""
        self._now = MultiScaleDrift(self.field, torch.tensor(self.weights(step)))

    def __call__(self, time: float | Tensor, state: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
        """The average velocity over the announced step.

        Raises:
            ValueError: No step was announced.
        """
        if self._now is None:
            raise ValueError(
                "Weights w(h) need the step h: use a solver that announces its steps to callback_step, such as Euler's."
            )
        return self._now(time, state)
