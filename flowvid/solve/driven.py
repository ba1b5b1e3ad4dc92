"""A stochastic field as its solvers ask for it, and what all of them do alike.

What is refused, and why: a calculus that is not the method's, since the same numbers then converge to another solution;
columns of noise that do not commute, where the method has no Levy areas; and an Ito integral backward in time, which is
not its own reversal. Additive noise means the same in both calculi, and passes everywhere.
"""

__all__ = ["Driven", "checked_noise", "finished"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.noise import Noise
from flowvid.solve.brownian import BrownianPath
from flowvid.solve.solution import COMPLETE, Solution
from flowvid.solve.solver import check_rate, named_samples, not_finite, without_lost
from flowvid.video import Trajectory


class Driven:
    """A stochastic field as steps ask for it: checked, counted, in float32 at least, with its products with noise.

    Arguments:
        field: The stochastic drift.
        state: A state of the solve; its type and shape are those that the field is asked in.

    Raises:
        ValueError: The field is no `StochasticDrift`.
    """

    def __init__(self, field: Any, state: Tensor) -> None:
        if not isinstance(field, StochasticDrift):
            raise ValueError(
                f"A stochastic solver moves along a StochasticDrift, a drift with a volatility; got "
                f"{type(field).__name__}. Wrap the drift, or use an ODE solver."
            )
        self.field: StochasticDrift = field
        self.asked = state.dtype
        self.carried = torch.promote_types(state.dtype, torch.float32)
        self.evaluations = 0

    def check(self, method: str, calculi: Sequence[str], noises: Sequence[str], *, backward: bool) -> None:
        """Refuse what a method does not integrate.

        Raises:
            ValueError: The noise type or the calculus is not the method's, or an Ito integral would run backward.
        """
        field = self.field
        if field.noise not in noises:
            why = "several columns that do not commute need Levy areas" if field.noise == "general" else "it is untried"
            raise ValueError(
                f"{method} takes {', '.join(noises)} noise, not {field.noise}: {why}. Use euler-maruyama for an Ito "
                "equation or heun for a Stratonovich one."
            )
        if field.noise == "additive":
            return
        if field.calculus not in calculi:
            better = "heun" if field.calculus == "stratonovich" else "euler-maruyama"
            raise ValueError(
                f"{method} integrates in the sense of {' or '.join(calculi)} and this field is meant in that of "
                f"{field.calculus}: it would converge to another solution. Use {better}, say, or convert the drift."
            )
        if backward and field.calculus == "ito":
            raise ValueError(
                "An Ito integral backward in time is another integral. Solve forward, or write the equation in the "
                "sense of Stratonovich, which retraces its path."
            )

    def channels(self, time: float, state: Tensor) -> tuple[int, ...]:
        """Shape of the noise of one sample; asks for the volatility where only that tells."""
        if self.field.noise == "diagonal":
            return tuple(state.shape[1:])
        if self.field.noise == "scalar":
            return ()
        with torch.no_grad():
            return (self.volatility(time, state).shape[-1],)

    def drift(self, time: float, state: Tensor) -> Tensor:
        """The rate of change of the state."""
        self.evaluations += 1
        rate = self.field.drift(time, state.to(self.asked))
        check_rate(rate, state)
        return self._fits(rate, "drift")

    def volatility(self, time: float, state: Tensor) -> Tensor:
        """The noise coefficient, of the shape that its type of noise asks for."""
        strength = self.field.volatility(time, state.to(self.asked))
        columns = self.field.noise in ("additive", "general")
        if (strength.shape[:-1] if columns else strength.shape) != state.shape or strength.device != state.device:
            wanted = f"{tuple(state.shape)} and one more dimension" if columns else f"{tuple(state.shape)}"
            raise ValueError(
                f"The volatility of {self.field.noise} noise has shape {wanted} on {state.device}; this one returned "
                f"shape {tuple(strength.shape)} on {strength.device}."
            )
        return self._fits(strength, "volatility")

    def product(self, volatility: Tensor, noise: Tensor) -> Tensor:
        """Volatility times noise, of the shape of the state."""
        if self.field.noise == "diagonal":
            return volatility * noise
        if self.field.noise == "scalar":
            return volatility * noise.reshape(-1, *[1] * (volatility.ndim - 1))
        return (volatility.flatten(1, -2) @ noise[..., None]).reshape(volatility.shape[:-1])

    def path(
        self, given: BrownianPath | None, noise: Noise | None, points: Sequence[float], state: Tensor
    ) -> BrownianPath:
        """The path to walk along: the given one, or one from the first to the last time.

        Raises:
            ValueError: There is no noise, it is not that of the path, or the path has other samples or shapes.
        """
        shape = self.channels(points[0], state)
        if given is None:
            return BrownianPath(
                checked_noise(noise, state),
                min(points),
                max(points),
                shape,
                device=state.device,
                dtype=self.carried,
            )
        if noise is not None and noise != given.noise:
            raise ValueError("Both noise and a path with other noise were given; leave one out.")
        if given.shape != shape or len(given.noise) != len(state):
            raise ValueError(
                f"This field needs a path of shape {shape} for {len(state)} samples; got one of shape {given.shape} "
                f"for {len(given.noise)}."
            )
        return given

    def _fits(self, values: Tensor, name: str) -> Tensor:
        if torch.promote_types(values.dtype, self.carried) != self.carried:
            raise ValueError(
                f"The {name} returned {values.dtype} for a state in {self.asked}; give a state as precise as the "
                f"{name}, or convert what it returns."
            )
        return values.to(self.carried)


def checked_noise(noise: Noise | None, state: Tensor) -> Noise:
    """Noise for every sample of a state.

    Raises:
        ValueError: There is none, or for another number of samples.
    """
    if noise is None:
        raise ValueError(
            f"A stochastic solver needs noise, one seed per sample; pass noise=Noise.batch(seed, {len(state)})."
        )
    if len(noise) != len(state):
        raise ValueError(f"Expected one seed for each of {len(state)} samples; the noise has {len(noise)}.")
    return noise


def finished(method: str, kept: Sequence[Tensor], points: Sequence[float], evaluations: int, steps: int) -> Solution:
    """The solution of these states, NaN from where a sample is not finite; one read of the device."""
    states, status = torch.stack(list(kept), dim=1), COMPLETE
    if not_finite(states):
        states, first, lost = without_lost(states)
        status = (
            f"{method} did not finish: {named_samples(lost)} of {len(states)} stopped being finite, the first between "
            f"{points[first - 1]:.6g} s and {points[first]:.6g} s, and are NaN from there on. Look at the drift and "
            "the volatility there, or take shorter steps."
        )
    trajectory = Trajectory(states, torch.tensor(points, dtype=torch.float64))
    return Solution(trajectory, evaluations, evaluations, accepted=steps, status=status)
