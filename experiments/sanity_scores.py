"""The metrics that the sanity experiment asks, each as one function from damaged and true clips to a number.

*Paired* metrics compare a clip with its truth, *alone* ones look at the clip by itself, *set* ones compare features of
all damaged clips with those of other clips. Every score is turned so that larger is worse.
"""

__all__ = ["ALONE", "FLICKER", "PAIRED", "Alone", "Paired", "digit_scores"]

import math
from collections.abc import Callable, Sequence

from experiments.corruptions import PERIOD
from flowvid.data.worlds.clips import Clip, clip_positions
from flowvid.metrics.distortion import mean_squared_error, psnr, ssim
from flowvid.metrics.identity import DigitClassifier, identity_kept
from flowvid.metrics.motion import position_error, second_difference_ratio, speed_uniformity
from flowvid.metrics.rhythm import flicker_line, heartbeat, sharpness
from flowvid.metrics.warping import flow_change, warping_error
from flowvid.video import Video

Paired = Callable[[Video, Video], float]
"""(one damaged clip, the truth) -> score."""

Alone = Callable[[Video], float]
"""One clip -> score."""

PAIRED: dict[str, Paired] = {
    "MSE": lambda video, truth: float(mean_squared_error(video, truth).mean()),
    "PSNR": lambda video, truth: 60 - float(psnr(video, truth).clamp(max=60).mean()),
    "SSIM": lambda video, truth: 1 - float(ssim(video, truth).mean()),
    "second differences": lambda video, truth: abs(math.log(max(second_difference_ratio(video, truth), 1e-6))),
}

ALONE: dict[str, Alone] = {
    "sharpness": lambda video: -math.log(float(sharpness(video).mean()) + 1e-8),
    "heartbeat": lambda video: 1 - float(heartbeat(video, video.times[::PERIOD].tolist())),
    "warping error": lambda video: float(warping_error(_opening(video)).mean()),
    "flow change": lambda video: float(flow_change(_opening(video)).mean()),
}

FLICKER: dict[str, Alone] = {"flicker line": lambda video: math.log(flicker_line(video, PERIOD))}
"""Asks for clips of more than eight periods."""


def _opening(video: Video) -> Video:
    """The first two periods, since flow takes long."""
    return Video(video.frames[:, : 2 * PERIOD + 1], video.times[: 2 * PERIOD + 1])


def digit_scores(clips: Sequence[Clip]) -> tuple[dict[str, Callable[[Video, int], float]], dict[str, Alone]]:
    """Scores that know the digits: with the number of the clip, and without.

    Arguments:
        clips: The clips, of one digit each.
    """
    classifier = DigitClassifier.fit(clips[0].scale)

    def position(video: Video, number: int) -> float:
        return float(position_error(video, clip_positions([clips[number]], video.times)[:, :, 0]).mean())

    def identity(video: Video, number: int) -> float:
        return 1 - float(identity_kept(video, clips[number].labels, classifier).mean())

    return (
        {"position error": position, "identity lost": identity},
        {"speed uniformity": lambda video: 1 - float(speed_uniformity(video)[0])},
    )
