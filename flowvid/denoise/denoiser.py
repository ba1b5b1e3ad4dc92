r"""A network together with what it predicts and the schedule it was trained under.

A denoiser is also a drift over the clock of the noise level: called with (level, noisy) it answers with the rate

    dx / dlevel = signal'(level) E[clean | x] + noise'(level) E[eps | x]

of the probability flow, the ODE whose solutions have the law of the noisy data at every level. So any ODE solver
samples it, `solve(denoiser, noise, [1.0, 0.0], Grid(method="heun2", substeps=20))`, and times up from 0 encode. Under
the angle-uniform schedule the rate is (pi / 2) v, smooth at both ends. `Ddim` and `DpmSolverPlusPlus` take the same
denoiser and use more of what it knows.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2020), https://arxiv.org/abs/2011.13456
"""

__all__ = ["Denoiser"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.predictions import Prediction, check_prediction, convert, scaled
from flowvid.denoise.schedule import ANGLE_UNIFORM, Schedule


@dataclass(frozen=True, eq=False)
class Denoiser:
    """What a network says about noisy data.

    Arguments:
        network: (noisy, level) -> prediction of the shape of the noisy data. The level comes as the solver gives it: a
            float, or a float64 tensor of shape (batch,) or (); see `flowvid.dynamics.drift.clock`.
        predicts: What the prediction is: "v", "noise", "clean" or "velocity".
        schedule: The schedule of the levels.

    Raises:
        ValueError: The prediction is unknown.
    """

    network: Callable[[Tensor, Any], Tensor]
    predicts: Prediction = "v"
    schedule: Schedule = ANGLE_UNIFORM

    def __post_init__(self) -> None:
        check_prediction(self.predicts)

    def __call__(self, level: Any, noisy: Float[Tensor, "batch *x"]) -> Float[Tensor, "batch *x"]:
        """The drift of the probability flow, dx / dlevel.

        Raises:
            ValueError: It is not determined at this level.
        """
        return self.predict("velocity", noisy, level)

    def clean(self, noisy: Float[Tensor, "batch *x"], level: float | Tensor) -> Float[Tensor, "batch *x"]:
        """The expected clean data.

        Raises:
            ValueError: It is not determined at this level.
        """
        return self.predict("clean", noisy, level)

    def predict(
        self, wanted: Prediction, noisy: Float[Tensor, "batch *x"], level: float | Tensor
    ) -> Float[Tensor, "batch *x"]:
        """Any of the predictions, from one evaluation of the network.

        Arguments:
            wanted: Which of them.
            noisy: Noisy data.
            level: Its noise level, one or one per sample.

        Raises:
            ValueError: It is not determined at this level, or the network's answer does not fit.
        """
        said = self.ask(noisy, level)
        return convert(said, noisy, level, given=self.predicts, wanted=wanted, schedule=self.schedule)

    def ask(self, noisy: Float[Tensor, "batch *x"], level: float | Tensor) -> Float[Tensor, "batch *x"]:
        """The network's own prediction, checked for shape.

        Raises:
            ValueError: It has another shape, or lies on another device.
        """
        said = self.network(noisy, level)
        if said.shape != noisy.shape or said.device != noisy.device:
            raise ValueError(
                f"The network of a denoiser answers with the shape of the noisy data, {tuple(noisy.shape)} on "
                f"{noisy.device}; this one answered with shape {tuple(said.shape)} on {said.device}."
            )
        return said

    def under(self, schedule: Schedule) -> "Denoiser":
        """The same denoiser for noisy data of another schedule, at no cost but a scaling of its input."""
        if schedule == self.schedule:
            return self
        own: Prediction = "v" if self.predicts == "velocity" else self.predicts

        def network(noisy: Tensor, level: Any) -> Tensor:
            level_here = self.schedule.level(schedule.angle(level))
            ratio = self.schedule.scale(level_here) / schedule.scale(level)
            return self.predict(own, scaled(noisy, ratio), level_here)

        return Denoiser(network, own, schedule)
