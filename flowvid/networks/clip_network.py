"""Networks of noisy clips of which some frames are known: they are told which, the noise level and the spacing.

A channel says of every frame whether it is known, and two say where in the frame a pixel is, since attention sees
differences of places alone, and a frame has walls. Besides the seconds of all frames, of which attention sees the
differences too, their mean distance is told as one number, so that a clip at a stride is one of its own kind.
"""

__all__ = ["ClipNetwork"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowvid.networks.layers import coordinates
from flowvid.networks.transformer import PatchTransformer, SpaceTimeTransformer


class ClipNetwork(nn.Module):
    """Clips of noisy and known frames in, clips out.

    Arguments:
        kind: "patches", a `PatchTransformer`; or "factorised", a `SpaceTimeTransformer`.
        channels: Channels of a frame.
        frame: Seconds between frames at which the spacing told is zero.
        tubelet: Frames, rows and columns of a patch; one frame and a square for the factorised network.
        options: Sizes of the transformer, by its own names.

    Raises:
        ValueError: The kind is unknown, or a size does not fit.
    """

    def __init__(self, kind: str, channels: int, *, frame: float, tubelet: Sequence[int], **options: Any) -> None:
        super().__init__()
        frames, rows, columns = tubelet
        if kind not in ("patches", "factorised") or (kind == "factorised" and (frames != 1 or rows != columns)):
            raise ValueError(
                f"The networks are patches and factorised, which cuts single frames into squares; got {kind!r} with "
                f"patches of {tuple(tubelet)}."
            )
        self.frame = frame
        self.inner = (
            PatchTransformer(channels + 3, channels, scalars=2, tubelet=(frames, rows, columns), **options)
            if kind == "patches"
            else SpaceTimeTransformer(channels + 3, channels, scalars=2, patch=rows, **options)
        )

    def forward(
        self,
        clip: Float[Tensor, "batch time channel height width"],
        times: Float[Tensor, "batch time"],
        level: Float[Tensor, "batch"],
        known: Bool[Tensor, "batch time"],
        *,
        exists: Bool[Tensor, "batch time"] | None = None,
        **words: Tensor,
    ) -> Float[Tensor, "batch time channel height width"]:
        """What is predicted of every frame; of known ones it means nothing.

        Arguments:
            clip: Noisy frames, and clean ones where they are known.
            times: Seconds, increasing, on the clock of the words.
            level: Noise level in [0, 1] of the noisy frames.
            known: Which frames are known.
            exists: Which frames exist, the first ones of each sample; None: all. The others change nothing.
            words: A context, by the arguments of the transformer.
        """
        there = torch.ones_like(known) if exists is None else exists
        flags = known[:, :, None, None, None].to(clip.dtype).expand(-1, -1, 1, *clip.shape[-2:])
        duration = torch.where(there, times, -math.inf).amax(1) - torch.where(there, times, math.inf).amin(1)
        spacing = duration / self.frame / (there.sum(1) - 1).clamp(min=1)
        # Octaves from the frame, of order one; a lone frame has no spacing.
        octaves = torch.where(spacing > 0, spacing, 1.0).log2() / 4
        told = torch.stack((level, octaves.to(level.dtype)), dim=1).to(clip.dtype)
        where = coordinates(clip[:, 0])[:, None].expand(-1, clip.shape[1], -1, -1, -1)
        return self.inner(torch.cat((clip, flags, where), dim=2), times, told, exists=exists, **words)
