"""Optical flow between frames, and images carried along it.

The flow F from a first to a second image is the displacement in pixels (x right, y down) of what is seen at each pixel
of the first:

    first(x) = second(x + F(x)).

It is estimated by OpenCV on 8-bit luminance: by inverse search on dense patches with variational refinement (DIS), or
from polynomial expansions of both neighbourhoods (Farneback). Neither learns anything. Both find motion only where
there is texture, follow displacements of a fraction of the frame, and may go wrong on periodic patterns moved by more
than half of a period, for which there are several right answers.

A pixel of the first image is occluded in the second if following the flow there and the opposite flow back misses the
start, |F(x) + B(x + F(x))|^2 > 0.01 (|F(x)|^2 + |B(x + F(x))|^2) + 0.5, or if it leaves the frame.

References:
    Fast Optical Flow using Dense Inverse Search (Kroeger et al., 2016), arXiv:1603.03590
    Two-Frame Motion Estimation Based on Polynomial Expansion (Farneback, 2003), https://doi.org/10.1007/3-540-45103-X_50
    Dense Point Trajectories by GPU-Accelerated Large Displacement Optical Flow (Sundaram et al., 2010),
        https://doi.org/10.1007/978-3-642-15549-9_32
"""

__all__ = ["FLOW_METHODS", "occluded", "optical_flow", "warp"]

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional as F

from flowvid.video import luminance, to_bytes

FLOW_METHODS = ("dis", "farneback")

_LEAST_SIDE = 12


def optical_flow(
    first: Float[Tensor, "n channel height width"], second: Float[Tensor, "n channel height width"], *, method: str
) -> Float32[Tensor, "n 2 height width"]:
    """The flow from each first to its second image, in pixels (x right, y down); estimated on the host.

    Arguments:
        first: Pixels in [-1, 1], of 1 or 3 (red, green, blue) channels.
        second: Likewise.
        method: One of `FLOW_METHODS`.

    Raises:
        ImportError: OpenCV is not installed.
        ValueError: The method is unknown, or the images are not finite, leave [-1, 1], have other channels or a side of
            less than 12 pixels.
    """
    if method not in FLOW_METHODS:
        raise ValueError(f"The methods of optical flow are {', '.join(FLOW_METHODS)}; got {method!r}.")
    pairs = zip(_luminance(first), _luminance(second), strict=True)
    cv2 = _opencv()
    flows = [_ESTIMATORS[method](cv2, one, other) for one, other in pairs]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(first.device)


def warp(
    images: Float[Tensor, "n channel height width"], flow: Float[Tensor, "n 2 height width"]
) -> Float[Tensor, "n channel height width"]:
    """The images read bilinearly at x + flow(x); beyond the frame they continue with the values of its edge."""
    height, width = images.shape[-2:]
    size = torch.tensor([width, height], dtype=images.dtype, device=images.device)
    grid = (_targets(flow.to(images)) * 2 + 1) / size - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def occluded(
    forward: Float[Tensor, "n 2 height width"], backward: Float[Tensor, "n 2 height width"]
) -> Bool[Tensor, "n height width"]:
    """Which pixels of the first image are not seen in the second.

    Arguments:
        forward: Flow from the first to the second image.
        backward: Flow from the second to the first.
    """
    returned = warp(backward, forward)
    missed = (forward + returned).square().sum(dim=1)
    lengths = forward.square().sum(dim=1) + returned.square().sum(dim=1)
    target, (height, width) = _targets(forward), forward.shape[-2:]
    x, y = target.unbind(-1)
    outside = (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)
    return (missed > 0.01 * lengths + 0.5) | outside


def _targets(flow: Float[Tensor, "n 2 height width"]) -> Float[Tensor, "n height width 2"]:
    """Where each pixel goes: (x, y) with the centre of the first pixel at 0."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device) + flow[:, 0]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None] + flow[:, 1]
    return torch.stack((x, y), dim=-1)


def _luminance(images: Float[Tensor, "n channel height width"]) -> np.ndarray:
    """Luminance as 0..255, [n height width]."""
    channels, height, width = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(
            f"Optical flow is estimated on images of 1 or 3 channels; got {channels}. Give it frames, not latents."
        )
    if min(height, width) < _LEAST_SIDE:
        raise ValueError(f"Optical flow needs images of at least {_LEAST_SIDE} pixels a side; got {height} x {width}.")
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low >= -1 - 1e-4 and high <= 1 + 1e-4):
        raise ValueError(f"Optical flow needs finite pixels in [-1, 1]; these range from {low:.4g} to {high:.4g}.")
    grey = luminance(images.detach()) if channels == 3 else images.detach()
    return to_bytes(grey[:, 0]).cpu().numpy()


def _dis(cv2: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Refined down to single pixels, which the presets leave out for speed."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    return search.calc(first, second, None)


def _farneback(cv2: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 4, 15, 5, 5, 1.1, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)


_ESTIMATORS = {"dis": _dis, "farneback": _farneback}


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "Optical flow needs OpenCV; install it with the extra: pip install 'flowvid[flow]'."
        ) from error
    return cv2
