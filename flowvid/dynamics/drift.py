"""The multi-scale field: heads, bound to what is known, as a flow map and as a drift.

Heads and weights make one object with two readings. As a *flow map* it answers with all K average velocities of a
state, and an integrator that takes steps as long as the gaps uses them whole. As a *drift* it answers with one
instantaneous velocity, the heads combined by w(0), which is what Runge-Kutta and adaptive solvers need; a drift made
of a long head alone, or of any convex combination, is another vector field and no solver can repair that (SCIENCE P4,
P7).
"""

__all__ = ["Drift", "MultiScaleField"]

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.heads import TransitionHeads
from flowvid.dynamics.state import Surroundings
from flowvid.dynamics.weights import ScaleWeights

Drift = Callable[[float, Float[Tensor, "batch state height width"]], Float[Tensor, "batch state height width"]]
"""A vector field: (time in seconds, state) -> rate of change of the state per second."""


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

    def rates(
        self, times: Sequence[float], states: Float[Tensor, "batch n state height width"], moving: Sequence[bool]
    ) -> Float[Tensor, "batch n gap state height width"]:
        """Average velocities of n states over every gap, all from one trunk evaluation.

        Arguments:
            times: Seconds of the states.
            states: The states (z, p).
            moving: Whether p is known, for each state.
        """
        return self.heads(self.surroundings.query(times, states, moving)).unflatten(0, states.shape[:2])

    def drift(self, weights: ScaleWeights) -> Drift:
        """The instantaneous velocity under a rule, w(0) applied to the heads."""
        combined = torch.tensor(weights(0.0))

        def velocity(time: float, state: Tensor) -> Tensor:
            rates = self.rates([time], state[:, None], [True])[:, 0]
            return torch.einsum("k,bkchw->bchw", combined.to(rates), rates)

        return velocity
