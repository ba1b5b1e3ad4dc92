"""Anchors first: a model that decides samples a few states far apart, and one that moves fills in between them.

What happens is decided at coarse times, where futures branch: at the *end point* of the span asked for, or every
``spacing`` seconds as *stochastic anchors*. How one gets there is decided by both ends (SCIENCE P17), so a
deterministic model fills in, at any real time and in parallel. The chain of dependent evaluations is that of the
anchors and one filling, however many frames are asked for.

States that are known stay as they are, and anchors are sampled only after the last of them: with a first and a last
frame, or key frames, nothing is sampled and all is filled in. Words bear on what is sampled, so the anchors' model
alone reads them.

An anchor alone is a still frame. Where ``pair`` is given, each anchor is two states that many seconds apart, so that
the filling model knows the velocity there. That pays as far as sampled pairs tell the velocity: on a bouncing digit,
anchors 8 frames apart, it took the squared error of the filled frames from 0.21 to 0.11 where anchors were true, but
only from 0.66 to 0.64 (and 4 frames apart from 0.63 to 0.74) where a briefly trained `FrameFlow` had sampled them, at
up to twice the depth. So it is off by default.

References:
    Efficient Video Prediction via Sparsely Conditioned Flow Matching (Davtyan et al., 2023), https://arxiv.org/abs/2211.14575
    Flexible Diffusion Modeling of Long Videos (Harvey et al., 2022), https://arxiv.org/abs/2205.11495
"""

__all__ = ["AnchorsFirst"]

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from flowvid.models.frames import not_known, place_known
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory, as_times

_CLOSE = 1e-9


class AnchorsFirst(VideoModel):
    """Two models as one.

    Arguments:
        anchors: Samples states far apart, after the known ones.
        fill: Fills in between known states.
        spacing: Seconds between anchors, counted from the last known state; the last anchor lies at the end of what is
            asked for or beyond. None: one anchor, at that end.
        pair: Seconds before each anchor at which a second state is sampled; None: anchors are single states.

    Raises:
        ValueError: The spacing or the pair is not positive, or pairs overlap.
    """

    def __init__(
        self, anchors: VideoModel, fill: VideoModel, *, spacing: float | None = None, pair: float | None = None
    ) -> None:
        for name, value in (("spacing", spacing), ("pair", pair)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Expected {name} > 0 seconds, or None; got {value}.")
        if spacing is not None and pair is not None and pair > spacing - _CLOSE:
            raise ValueError(f"A pair must be shorter than the spacing of {spacing} s; got {pair} s.")
        self.anchors = anchors
        self.fill = fill
        self.spacing = spacing
        self.pair = pair

    @property
    def solvers(self) -> tuple[str, ...]:
        """ "ANCHORS/FILL": a solver of each model, of which either may be left out ("dpm++2m-10/", "/jump")."""
        ours, theirs = self.anchors.solvers, self.fill.solvers
        named = [f"{ours[0]}/{theirs[0]}", *(f"{name}/" for name in ours), *(f"/{name}" for name in theirs)]
        return (*named, *(f"{one}/{other}" for one in ours for other in theirs if (one, other) != (ours[0], theirs[0])))

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States at any times that the filling model answers; see `VideoModel.sample`.

        Raises:
            ValueError: Something is said, but nothing is left to sample; a solver is unknown; or one of the two models
                refuses what it is asked.
        """
        ours, theirs = self._solvers(solver)
        points = as_times(times).tolist()
        ends = self._anchor_times(condition.known, points)
        if condition.text is not None and not ends:
            raise ValueError(
                "Every time asked for lies between known frames and is filled in by a model that does not read; "
                "leave the text out."
            )
        parts: list[Solution] = []
        known = condition.known
        if ends:
            parts.append(self.anchors.sample(condition, ends, noise.fold("anchors"), solver=ours).require())
            known = _joined(known, parts[0].trajectory)
        assert known is not None
        wanted = not_known(points, known)
        found: dict[float, Tensor] = {}
        if wanted:
            parts.append(self.fill.sample(Condition(known), wanted, noise.fold("fill"), solver=theirs).require())
            found = dict(zip(wanted, parts[-1].trajectory.states.unbind(dim=1), strict=True))
        return Solution(
            place_known(found, points, known),
            sum(part.evaluations for part in parts),
            sum(part.depth for part in parts),
            sum(part.accepted for part in parts),
            sum(part.rejected for part in parts),
        )

    def _anchor_times(self, known: Trajectory | None, points: Sequence[float]) -> list[float]:
        """When anchors are sampled: after the last known state, or from the first time asked for where none is."""
        start = points[0] if known is None else known.times[-1].item()
        left = points[-1] - start
        spacing = left if self.spacing is None else self.spacing
        count = math.ceil(left / spacing - _CLOSE) if left > _CLOSE else 0
        ends = [start + spacing * number for number in range(1, count + 1)]
        before = [] if self.pair is None else [end - self.pair for end in ends if end - self.pair > start + _CLOSE]
        opening = [] if known is not None else [start] if self.pair is None else [start - self.pair, start]
        return sorted([*opening, *before, *ends])

    def _solvers(self, solver: str | None) -> tuple[str | None, str | None]:
        """The solver of each model; None is its default."""
        if solver is None:
            return None, None
        ours, slash, theirs = solver.partition("/")
        for model, name in ((self.anchors, ours), (self.fill, theirs)):
            if not slash or (name and not {name, re.sub("-[1-9][0-9]*$", "-N", name)} & set(model.solvers)):
                ours_known, theirs_known = (", ".join(part.solvers) for part in (self.anchors, self.fill))
                raise ValueError(
                    f'A solver is "ANCHORS/FILL", either of which may be left out, with {ours_known} for the anchors '
                    f"and {theirs_known} for filling in; got {solver!r}."
                )
        return ours or None, theirs or None


def _joined(known: Trajectory | None, later: Trajectory) -> Trajectory:
    """Known states and those sampled after them."""
    if known is None:
        return later
    states = torch.cat((known.states, later.states), dim=1)
    return Trajectory(states, torch.cat((known.times, later.times)))
