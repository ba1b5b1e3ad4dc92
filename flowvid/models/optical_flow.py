"""Baselines that move pixels: interpolation along optical flow, and the oracle that is told the motion.

Between two known frames I_0 and I_1, at the share s of the time from one to the other, motion is assumed to be straight
and uniform. With F the flow from I_0 to I_1 and B the opposite one, every pixel carries its displacement over the whole
interval, F or -B, to where it is at s; there displacements are averaged with weights that fall off exponentially with
the difference of the colours that the flow connects, so that what lies in front wins, and holes take those of their
surroundings. The displacement v(x) found at s reads both frames,

    I_s(x) = w_0 I_0(x - s v) + w_1 I_1(x + (1 - s) v),    w_0 : w_1 = 1 - s : s,

and where one of the two is occluded in the other, by the forward-backward check, only that one.

Outside the known frames the same motion goes on: s < 0 or s > 1 with the flow of the two nearest known frames, the
nearer of which alone is read. What a moving object uncovers is then filled by stretching its surroundings.

References:
    A Database and Evaluation Methodology for Optical Flow (Baker et al., 2011), https://doi.org/10.1007/s11263-010-0390-2
    Softmax Splatting for Video Frame Interpolation (Niklaus and Liu, 2020), arXiv:2003.05534
"""

__all__ = ["FlowInterpolation", "KnownMotion"]

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from flowvid.data.worlds.clips import Clip
from flowvid.models.frames import not_known, place_known
from flowvid.models.video_model import VideoModel, refuse_solver
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory, as_times
from flowvid.warping import FLOW_METHODS, occluded, optical_flow, warp

_COLOUR = 0.1
_LEAST_WEIGHT = 1e-4
_HOLE = 1e-8


class FlowInterpolation(VideoModel):
    """Frames moved along the optical flow between the two known frames around each time, at any real time.

    Before the first and after the last known frame the motion of the nearest pair goes on unchanged.

    Arguments:
        method: How flow is estimated, one of `FLOW_METHODS`.

    Raises:
        ValueError: The method is unknown; or, from ``sample``, a time is asked for that is not known and fewer than two
            frames are, or the states are not images: 1 or 3 channels, at least 12 pixels a side, finite, in [-1, 1].
        ImportError: From ``sample``: OpenCV is not installed.
    """

    def __init__(self, method: str = "dis") -> None:
        if method not in FLOW_METHODS:
            raise ValueError(f"The methods of optical flow are {', '.join(FLOW_METHODS)}; got {method!r}.")
        self.method = method

    @property
    def solvers(self) -> tuple[str, ...]:
        """Nothing is solved."""
        return ("warp",)

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """See `VideoModel.sample`."""
        refuse_solver(self, solver)
        known, wanted = _frames(condition), as_times(times).tolist()
        asked = not_known(wanted, known)
        if asked and len(known.times) < 2:
            raise ValueError(f"Flow needs two known frames to tell a motion; got one, and was asked for {asked[0]} s.")
        left = (torch.searchsorted(known.times, torch.tensor(asked, dtype=torch.float64)) - 1).tolist()
        left = [min(max(index, 0), len(known.times) - 2) for index in left]
        found: dict[float, Tensor] = {}
        for index, group in groupby(zip(left, asked, strict=True), key=itemgetter(0)):
            pair = _Pair(known.states[:, index], known.states[:, index + 1], self.method)
            start, stop = known.times[index : index + 2].tolist()
            found |= {time: pair.at((time - start) / (stop - start)) for _, time in group}
        return Solution(place_known(found, wanted, known), 0, 0)


class KnownMotion(VideoModel):
    """The oracle of a digit's motion: the nearest known frame, shifted and turned by the closed form of its clip.

    What it loses is one bilinear resampling of a known frame: it shows what perfect knowledge of the motion is worth to
    a method that moves pixels so.

    Arguments:
        clips: The clip of each sample, in the order of the batch; one digit each.

    Raises:
        ValueError: There is no clip, or a clip holds more than one digit, which a shift cannot separate; or, from
            ``sample``, the known frames are not finite or not one canvas for each clip.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        counts = sorted({len(clip.motions) for clip in clips})
        if counts != [1]:
            raise ValueError(f"A known frame is shifted as a whole and needs clips of one digit; got {counts} digits.")
        self.clips = tuple(clips)

    @property
    def solvers(self) -> tuple[str, ...]:
        """Nothing is solved."""
        return ("oracle",)

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """See `VideoModel.sample`."""
        refuse_solver(self, solver)
        known, wanted = _frames(condition), as_times(times).tolist()
        canvas = self.clips[0].canvas
        shape, expected = tuple(known.states.shape), (len(self.clips), len(known.times), 1, canvas, canvas)
        if shape != expected:
            raise ValueError(f"The known frames of these clips have shape {expected}; got {shape}.")
        found: dict[float, Tensor] = {}
        for time in not_known(wanted, known):
            nearest = int((known.times - time).abs().argmin())
            found[time] = self._moved(known.states[:, nearest], known.times[nearest].item(), time)
        return Solution(place_known(found, wanted, known), 0, 0)

    def _moved(
        self, frames: Float[Tensor, "batch 1 canvas canvas"], known: float, time: float
    ) -> Float[Tensor, "batch 1 canvas canvas"]:
        """Frames at ``known`` seconds carried to ``time``, on a black ground that goes on outside of them."""
        padded = F.pad(frames, (1, 1, 1, 1), value=-1.0)
        return warp(padded, F.pad(self._flow(known, time, frames), (1, 1, 1, 1), mode="replicate"))[..., 1:-1, 1:-1]

    def _flow(
        self, known: float, time: float, frames: Float[Tensor, "batch 1 canvas canvas"]
    ) -> Float[Tensor, "batch 2 canvas canvas"]:
        """From each pixel at ``time`` to where its ink was at ``known`` seconds."""
        (here, angle), (there, other) = (
            (
                torch.stack([clip.positions([at])[0, 0] for clip in self.clips]).to(frames)[:, :, None, None],
                torch.stack([clip.angles([at])[0, 0] for clip in self.clips]).to(frames)[:, None, None],
            )
            for at in (time, known)
        )
        centres = torch.arange(frames.shape[-1], dtype=frames.dtype, device=frames.device) + 0.5
        pixels = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))
        x, y = (pixels - here).unbind(1)
        cos, sin = torch.cos(other - angle), torch.sin(other - angle)
        return there + torch.stack((cos * x - sin * y, sin * x + cos * y), dim=1) - pixels


class _Pair:
    """Two known frames with the flows between them, what of each is hidden in the other, and how far colours agree."""

    def __init__(
        self,
        first: Float[Tensor, "batch channel height width"],
        second: Float[Tensor, "batch channel height width"],
        method: str,
    ) -> None:
        self.frames = first, second
        forward = optical_flow(first, second, method=method).to(first)
        backward = optical_flow(second, first, method=method).to(first)
        self.motions = forward, -backward
        self.hidden = occluded(forward, backward), occluded(backward, forward)
        self.weights = _agreement(first, warp(second, forward)), _agreement(second, warp(first, backward))

    def at(self, share: float) -> Float[Tensor, "batch channel height width"]:
        """The frame at a share of the time from the first to the second."""
        inside = min(max(share, 0.0), 1.0)
        nearness = 1 - inside, inside
        motion = self._motion(share, nearness)
        flows = -share * motion, (1 - share) * motion
        gone, new = (warp(mask[:, None].to(motion), flow) for mask, flow in zip(self.hidden, flows, strict=True))
        only_first, only_second = gone * (1 - new), new * (1 - gone)
        weights = nearness[0] * (1 - 0.999 * only_second), nearness[1] * (1 - 0.999 * only_first)
        read = [warp(frame, flow) for frame, flow in zip(self.frames, flows, strict=True)]
        return (weights[0] * read[0] + weights[1] * read[1]) / (weights[0] + weights[1])

    def _motion(self, share: float, nearness: tuple[float, float]) -> Float[Tensor, "batch 2 height width"]:
        """The displacement from the first to the second frame of what is seen at a share of the time."""
        carried = [
            _splat(torch.cat((motion, torch.ones_like(motion[:, :1])), dim=1) * (near * weight)[:, None], part * motion)
            for motion, weight, near, part in zip(self.motions, self.weights, nearness, (share, share - 1), strict=True)
        ]
        total = carried[0] + carried[1]
        return _filled(total[:, :2], total[:, 2:])


def _frames(condition: Condition) -> Trajectory:
    """The known states, if they are images."""
    known = condition.states_only()
    shape = tuple(known.states.shape)
    if len(shape) != 5 or shape[2] not in (1, 3):
        raise ValueError(
            "This model moves pixels: it needs frames [batch, time, channel, height, width] of 1 or 3 channels, as "
            f"IdentityCodec gives them; got states of shape {shape}."
        )
    if not bool(known.states.isfinite().all()):
        raise ValueError("This model moves pixels and needs finite frames; some are NaN or infinite.")
    return known


def _agreement(
    one: Float[Tensor, "batch channel height width"], other: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch height width"]:
    """Near 1 where colours agree, falling off exponentially with their difference."""
    return torch.exp(-(one - other).abs().mean(dim=1) / _COLOUR).clamp(min=_LEAST_WEIGHT)


def _splat(
    values: Float[Tensor, "batch channel height width"], flow: Float[Tensor, "batch 2 height width"]
) -> Float[Tensor, "batch channel height width"]:
    """Values carried along the flow and added up, each shared bilinearly by the four pixels around its target."""
    batch, channels, height, width = values.shape
    x = torch.arange(width, dtype=flow.dtype, device=flow.device) + flow[:, 0]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None] + flow[:, 1]
    result = values.new_zeros(batch, channels, height * width)
    for column, row in ((x.floor() + i, y.floor() + j) for j in (0, 1) for i in (0, 1)):
        share = (1 - (x - column).abs()) * (1 - (y - row).abs())
        within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        part = (values * torch.where(within, share, 0.0)[:, None]).flatten(2)
        result.scatter_add_(2, place.flatten(1)[:, None].expand(-1, channels, -1), part)
    return result.unflatten(2, (height, width))


def _filled(
    total: Float[Tensor, "batch 2 height width"], weight: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch 2 height width"]:
    """Total over weight; where there is no weight, that of the surroundings, ever coarser until some is found."""
    if max(weight.shape[-2:]) == 1:
        return total / weight.clamp(min=_HOLE)
    coarse = _filled(*(F.avg_pool2d(part, 2, ceil_mode=True) for part in (total, weight)))
    around = F.interpolate(coarse, size=weight.shape[-2:], mode="bilinear", align_corners=False)
    return (total + _HOLE * around) / (weight + _HOLE)
