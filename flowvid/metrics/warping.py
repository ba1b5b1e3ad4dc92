"""How consistent frames are along their optical flow: warping error, and how much the flow changes.

With F_n the flow from frame n to n + 1, what is seen at x in frame n is at x + F_n(x) in the next. The warping error of
a pair is

    sum_x M_n(x) |I_n(x) - I_{n+1}(x + F_n(x))|^2 / (channels sum_x M_n(x)),

where M_n leaves out what is occluded in frame n + 1. It sees flicker, and every change of brightness of what moves; it
does not see blur, which it rewards: a static clip has 0. The change of flow of a triple,

    mean_x |F_{n+1}(x + F_n(x)) - F_n(x)|  over pixels seen in all three frames,

is the second difference in time of the position of what is seen, in pixels per frame^2: 0 for uniform motion, and about
(1 / fps)^2 times the acceleration for a smooth one. A still background counts too, and lowers it.

Both inherit the errors of the estimated flow. Their floor is what true frames score; report it with them.

References:
    Learning Blind Video Temporal Consistency (Lai et al., 2018), arXiv:1808.00449. There the flow is that of FlowNet2
        and motion boundaries are left out as well as occlusions, so published numbers are not comparable with these.
"""

__all__ = ["flow_change", "warping_error"]

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowvid.video import Video
from flowvid.warping import occluded, optical_flow, warp

_UNEVEN = 0.01


def warping_error(video: Video, *, reference: Video | None = None, method: str = "dis") -> Float[Tensor, "batch pair"]:
    """Squared difference of each frame and the next one carried back along the flow, for pixels in [0, 1].

    Arguments:
        video: At least two frames.
        reference: The clip whose flow and occlusions are taken, usually the truth; None takes those of ``video``, which
            hides part of its flicker in the flow.
        method: How flow is estimated, one of `flowvid.warping.FLOW_METHODS`.

    Returns:
        In [0, 1]; 0 is consistent. If nothing is seen in both frames, all pixels count.

    Raises:
        ImportError: OpenCV is not installed.
        ValueError: There are fewer than two frames, the reference has another number or size of frames, the method is
            unknown, or frames do not have 1 or 3 channels or have a side of less than 12 pixels.
    """
    frames, guide = video.frames, (video if reference is None else reference).frames
    _check_count(video, least=2, what="Warping error")
    if [*guide.shape[:2], *guide.shape[3:]] != [*frames.shape[:2], *frames.shape[3:]]:
        raise ValueError(
            "The reference needs as many clips and frames of the same size; "
            f"got {tuple(guide.shape)} for {tuple(frames.shape)}."
        )
    pixels = (frames.double() + 1) / 2
    errors: list[Tensor] = []
    for now in range(frames.shape[1] - 1):
        flow, hidden = _flow(guide[:, now], guide[:, now + 1], method)
        squares = (pixels[:, now] - warp(pixels[:, now + 1], flow)).square().mean(dim=1)
        errors.append(_mean(squares, ~hidden))
    return torch.stack(errors, dim=1)


def flow_change(video: Video, *, method: str = "dis") -> Float[Tensor, "batch triple"]:
    """How much the flow changes from each frame to the next, followed along the motion.

    Arguments:
        video: At least three evenly spaced frames.
        method: How flow is estimated, one of `flowvid.warping.FLOW_METHODS`.

    Returns:
        Pixels per frame^2, at least 0; 0 is uniform motion. If nothing is seen in all three frames, all pixels count.

    Raises:
        ImportError: OpenCV is not installed.
        ValueError: There are fewer than three frames, they are not evenly spaced to within 1 %, the method is unknown,
            or frames do not have 1 or 3 channels or have a side of less than 12 pixels.
    """
    _check_count(video, least=3, what="A change of flow")
    steps = video.times.diff()
    if bool(((steps / steps.mean() - 1).abs() > _UNEVEN).any()):
        raise ValueError(f"A change of flow needs evenly spaced frames; got times {video.times.tolist()} s.")
    flows = [_flow(one, other, method) for one, other in pairwise(video.frames.unbind(1))]
    changes: list[Tensor] = []
    for (flow, hidden), (following, later) in pairwise(flows):
        change = (warp(following, flow) - flow).norm(dim=1)
        lost = warp(later[:, None].to(flow), flow)[:, 0] > 0
        changes.append(_mean(change, ~(hidden | lost)))
    return torch.stack(changes, dim=1)


def _flow(
    one: Float[Tensor, "batch channel height width"], other: Float[Tensor, "batch channel height width"], method: str
) -> tuple[Float[Tensor, "batch 2 height width"], Bool[Tensor, "batch height width"]]:
    """The flow from one frame to the other, and what is occluded there."""
    forward, backward = (optical_flow(*pair, method=method).double() for pair in ((one, other), (other, one)))
    return forward, occluded(forward, backward)


def _mean(
    values: Float[Tensor, "batch height width"], seen: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch"]:
    counted = seen | ~seen.any(dim=2, keepdim=True).any(dim=1, keepdim=True)
    return (values * counted).sum(dim=(1, 2)) / counted.sum(dim=(1, 2))


def _check_count(video: Video, *, least: int, what: str) -> None:
    if video.frames.shape[1] < least:
        raise ValueError(f"{what} needs at least {least} frames; got {video.frames.shape[1]}.")
