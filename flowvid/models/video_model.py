"""What experiments compare: anything that samples a video's latent trajectory from what is known of it.

A method that learns measures its units on data before training (`prepare`), has one loss, and may fit what follows
from the trained network in closed form afterwards (`finish`). Tasks differ only in the condition.
"""

__all__ = ["LearnedModel", "ReadingModel", "VideoModel", "refuse_solver"]

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from flowvid.data.model_files import ModelFiles
from flowvid.encoders.text import TextEncoder, TextTokens
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory


class VideoModel(ABC):
    """Samples latent trajectories."""

    @abstractmethod
    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States at the requested times, given what is known.

        Arguments:
            condition: The known states.
            times: Increasing seconds, any real values that the model can answer.
            noise: One seed per sample; deterministic models leave it unused.
            solver: One of `solvers`; None takes the first.

        Raises:
            ValueError: The model cannot answer this condition or these times, or does not know the solver.
        """

    @property
    @abstractmethod
    def solvers(self) -> tuple[str, ...]:
        """Names that ``sample`` accepts as solver; the first is the default."""


class LearnedModel(VideoModel, ModelFiles, nn.Module, ABC):
    """A model with parameters, which `save_pretrained` writes to a folder and `from_pretrained` reads from one."""

    @abstractmethod
    def prepare(self, trajectory: Trajectory) -> None:
        """Measure the units of inputs and outputs on training trajectories."""

    @abstractmethod
    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """The training loss on a batch of evenly spaced trajectories; all randomness comes from ``noise``."""

    def finish(self, trajectory: Trajectory) -> None:
        """Fit what follows from the trained network in closed form, on validation trajectories."""


class ReadingModel(LearnedModel, ABC):
    """A learned model that may be told words beside states."""

    text_encoder: TextEncoder | None

    @abstractmethod
    def loss(self, trajectory: Trajectory, noise: Noise, *, text: TextTokens | None = None) -> Float[Tensor, ""]:
        """The training loss; see `LearnedModel.loss`.

        Arguments:
            trajectory: Evenly spaced trajectories.
            noise: All randomness.
            text: What is said of each, as tokens of the model's own encoder; None: nothing.

        Raises:
            ValueError: The model has no text encoder but something is said.
        """


def refuse_solver(model: VideoModel, solver: str | None) -> str:
    """The solver to use, refusing names that the model does not know.

    Raises:
        ValueError: The name is unknown.
    """
    if solver is not None and solver not in model.solvers:
        raise ValueError(f"{type(model).__name__} knows the solvers {', '.join(model.solvers)}; got {solver!r}.")
    return solver or model.solvers[0]
