"""Clips as tokens: space-time patches, where they are, and back to clips."""

__all__ = ["grid", "pixels", "tubelets"]

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def tubelets(
    clip: Float[Tensor, "batch time channel height width"], tubelet: tuple[int, int, int]
) -> tuple[Float[Tensor, "batch token feature"], int, int]:
    """Patches as tokens, in the order of frames, rows and columns, with the numbers of rows and columns of them.

    Arguments:
        clip: The clip; where a side is no multiple, its last frame, row or column is repeated.
        tubelet: Frames, rows and columns of a patch.
    """
    missing = [-size % side for size, side in zip((clip.shape[1], *clip.shape[3:]), tubelet, strict=True)]
    if any(missing):
        pads = (0, missing[2], 0, missing[1], 0, missing[0])
        clip = F.pad(clip.transpose(1, 2), pads, mode="replicate").transpose(1, 2)
    frames, rows, columns = tubelet
    cells = clip.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(1, (-1, frames))
    # batch, depth, frame, channel, row of cells, row, column of cells, column
    tokens = cells.permute(0, 1, 4, 6, 2, 3, 5, 7)
    return tokens.flatten(4).flatten(1, 3), tokens.shape[2], tokens.shape[3]


def pixels(
    tokens: Float[Tensor, "batch token feature"], cells: tuple[int, int, int], tubelet: tuple[int, int, int]
) -> Float[Tensor, "batch time channel height width"]:
    """The clip of patches, with whatever `tubelets` repeated.

    Arguments:
        tokens: Patches in the order of `tubelets`, of any number of channels.
        cells: How many patches there are along time, rows and columns.
        tubelet: Frames, rows and columns of a patch.
    """
    parts = tokens.unflatten(1, cells).unflatten(4, (tubelet[0], -1, *tubelet[1:]))
    return parts.permute(0, 1, 4, 5, 2, 6, 3, 7).flatten(1, 2).flatten(3, 4).flatten(4, 5)


def grid(rows: int, columns: int, tubelet: tuple[int, int, int], like: Tensor) -> Float[Tensor, "place 2"]:
    """Rows and columns of the middles of patches, in pixels from the middle of the frame.

    Arguments:
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        tubelet: Frames, rows and columns of a patch.
        like: Gives type and device.
    """
    axes = [
        (torch.arange(count, device=like.device, dtype=like.dtype) - (count - 1) / 2) * side
        for count, side in ((rows, tubelet[1]), (columns, tubelet[2]))
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=2).flatten(0, 1)
