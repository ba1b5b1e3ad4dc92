"""What is measured of every clip of a folder, and of every pair of a clip with its truth.

*Alone*: sharpness (the variance of the Laplacian), the energy of second differences in time, the sizes of the
differences of frames, whose spectrum shows flicker; with OpenCV also the warping error and the change of the optical
flow. They need no truth; what true footage scores stands beside them. *Paired*: errors per pixel and summed over the
frame (`flowvid.metrics.distortion` says which is which), PSNR, SSIM, MS-SSIM, LPIPS.
"""

__all__ = ["ALONE", "ERRORS", "FLOW", "alone_measures", "feature_measures", "paired_measures"]

import importlib.util
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.metrics.clip_set import ClipProtocol
from flowvid.metrics.distortion import (
    mean_absolute_error,
    mean_squared_error,
    ms_ssim,
    psnr,
    ssim,
    summed_absolute_error,
    summed_squared_error,
)
from flowvid.metrics.features import FeatureNetwork, extract
from flowvid.metrics.found_weights import Networks
from flowvid.metrics.measured import Measure
from flowvid.metrics.perceptual import lpips
from flowvid.metrics.rhythm import sharpness
from flowvid.metrics.warping import flow_change, warping_error
from flowvid.video import Video

ALONE = ("sharpness", "second_difference_energy")
FLOW = ("warping_error", "flow_change")
ERRORS = ("mean_squared_error", "mean_absolute_error", "summed_squared_error", "summed_absolute_error", "psnr")

_SCORES = (mean_squared_error, mean_absolute_error, summed_squared_error, summed_absolute_error, psnr)
_VERSION = 1
_SSIM_SIDE, _FLOW_SIDE, _LPIPS_SIDE, _MS_SSIM_SIDE = 11, 12, 17, 176


def feature_measures(networks: Networks, protocol: ClipProtocol) -> tuple[list[Measure], dict[str, str]]:
    """Features by the networks that clips are long enough for, and why the others cannot be had."""
    reasons = {
        network.name: f"its clips have at least {network.least_frames} frames; these have {protocol.frames}"
        for network in networks.features
        if protocol.frames < network.least_frames
    }
    return [_feature(network) for network in networks.features if network.name not in reasons], reasons


def alone_measures(protocol: ClipProtocol) -> tuple[list[Measure], dict[str, str]]:
    """What clips show by themselves, and why the rest cannot be had.

    "sizes" holds the root mean squares of the differences of consecutive frames, in pixels of [0, 1].
    """
    measures: list[Measure] = []
    reasons: dict[str, str] = {}
    if protocol.frames < 3 or min(protocol.size) < 3:
        reasons["sharpness, differences of frames"] = "they need 3 frames of 3 x 3 pixels"
        return measures, reasons
    measures += [Measure("alone", f"alone/{_VERSION}", _alone), Measure("sizes", f"sizes/{_VERSION}", _sizes)]
    if importlib.util.find_spec("cv2") is None:
        reasons["warping error, change of flow"] = "they need OpenCV: pip install 'flowvid[flow]'"
    elif min(protocol.size) < _FLOW_SIDE:
        reasons["warping error, change of flow"] = f"they need sides of at least {_FLOW_SIDE} pixels"
    else:
        measures.append(Measure("flow", f"flow/{_VERSION}", _flow))
    return measures, reasons


def paired_measures(networks: Networks, protocol: ClipProtocol) -> tuple[list[Measure], dict[str, str]]:
    """What tells a clip from its truth, and why the rest cannot be had; means over the frames of a clip."""
    network = networks.lpips
    wanted: list[tuple[str, int, str, Callable[[Video, Video], Tensor]]] = [
        ("ssim", _SSIM_SIDE, "", ssim),
        ("ms_ssim", _MS_SSIM_SIDE, "", ms_ssim),
    ]
    if network is not None:
        wanted.append(("lpips", _LPIPS_SIDE, networks.lpips_digest, lambda one, other: lpips(network, one, other)))
    measures = [Measure("errors", f"errors/{_VERSION}", _errors)]
    reasons: dict[str, str] = {}
    for name, side, digest, score in wanted:
        if min(protocol.size) < side:
            reasons[name] = f"it needs sides of at least {side} pixels"
        else:
            measures.append(Measure(name, f"{name}/{_VERSION}/{digest}", _mean_over_frames(score)))
    return measures, reasons


def _mean_over_frames(score: Callable[[Video, Video], Tensor]) -> Callable[[Video, Video], Tensor]:
    return lambda one, other: score(one, other).double().mean(dim=1)


def _feature(network: FeatureNetwork) -> Measure:
    def describe(video: Video) -> Tensor:
        return extract(network, video, batch=len(video))

    return Measure(network.name, network.identity, describe)


def _alone(video: Video) -> Float[Tensor, "batch 2"]:
    curved = (video.frames.double().diff(n=2, dim=1) / 2).square().flatten(1).mean(dim=1)
    return torch.stack((sharpness(video).mean(dim=1), curved.cpu()), dim=1)


def _sizes(video: Video) -> Float[Tensor, "batch step"]:
    return (video.frames.double().diff(dim=1) / 2).flatten(2).square().mean(dim=2).sqrt()


def _flow(video: Video) -> Float[Tensor, "batch 2"]:
    return torch.stack((warping_error(video).mean(dim=1), flow_change(video).mean(dim=1)), dim=1).double()


def _errors(one: Video, other: Video) -> Float[Tensor, "batch score"]:
    return torch.stack([score(one, other).double().mean(dim=1) for score in _SCORES], dim=1)
