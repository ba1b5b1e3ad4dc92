"""A clip model under guidance, as a model of its own, so that whatever takes a model takes a guided one."""

__all__ = ["Guided"]

from collections.abc import Sequence

from flowvid.models.clip_generator import ClipGenerator
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition


class Guided(VideoModel):
    """Samples as the model does under guidance.

    Arguments:
        model: The model.
        scale: 0 leaves words out, 1 is the model told the words, more goes beyond; see `ClipGenerator.sample`.
    """

    def __init__(self, model: ClipGenerator, scale: float) -> None:
        self.model = model
        self.scale = scale

    @property
    def solvers(self) -> tuple[str, ...]:
        """Those of the model."""
        return self.model.solvers

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """See `ClipGenerator.sample`."""
        return self.model.sample(condition, times, noise, solver=solver, guidance=self.scale)
