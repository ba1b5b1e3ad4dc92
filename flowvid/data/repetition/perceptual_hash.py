"""Perceptual hashes of frames, and a search among them that does not compare every pair.

A frame is looked at as a *thumbnail* of at most 64 x 64 pixels' area (smaller frames as they are). Three summaries of
it, from the coarsest:

- The *perceptual hash*: which of the 64 lowest cosine frequencies of the brightness lie above their median. It hardly
  changes under compression, noise and brightness, and that is why it also hardly changes when one digit becomes
  another: equal hashes are only a reason to look closer.
- *Block means*: the colour of each of 8 x 8 blocks.
- *Local means*: every pixel averaged with its neighbours, in sixteenths of a grey level. Averages are linear, so the
  largest difference of local means is the largest local mean of the difference: what a small thing that moved changes
  by much, and what independent noise changes by a third of itself.

`HammingIndex` finds hashes that differ in at most 7 of 64 bits. Cut into four words of 16 bits, two such hashes agree
in some word up to one bit, so 17 exact look-ups in each of four tables find them all.

References:
    Implementation and Benchmarking of Perceptual Image Hash Functions (Zauner, 2010), https://www.phash.org/docs/
    Fast Search in Hamming Space with Multi-Index Hashing (Norouzi et al., 2012), https://doi.org/10.1109/CVPR.2012.6248043
"""

__all__ = [
    "RADIUS",
    "SCALE",
    "HammingIndex",
    "block_means",
    "local_means",
    "perceptual_hash",
    "thumbnail_size",
    "thumbnails",
]

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int16, Int64, UInt8, UInt64
from torch import Tensor

from flowvid.video import luminance

RADIUS = 7
"""Most bits in which hashes may differ that `HammingIndex` finds."""

SCALE = 16
"""Parts of a grey level in which local means are counted."""

_AREA = 64 * 64
_SAMPLES, _FREQUENCIES, _BLOCKS = 32, 8, 8
_BANDS, _WORD = 4, 16
_DEAD = 0.01
_FLIPS = np.array([0, *(1 << bit for bit in range(_WORD))])
_UNSORTED = 256


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the thumbnail of a frame: its own if they hold at most 64 x 64 pixels.

    Raises:
        ValueError: A side is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"A frame has positive height and width; got {height} x {width}.")
    scale = math.sqrt(_AREA / (height * width))
    return (height, width) if scale >= 1 else (max(1, round(height * scale)), max(1, round(width * scale)))


def thumbnails(pixels: UInt8[Tensor, "frame 3 height width"]) -> UInt8[Tensor, "frame 3 low narrow"]:
    """Frames averaged down to `thumbnail_size`."""
    size = thumbnail_size(*pixels.shape[2:])
    if size == tuple(pixels.shape[2:]):
        return pixels
    return torch.nn.functional.interpolate(pixels.to(torch.float32), size=size, mode="area").round().to(torch.uint8)


def perceptual_hash(pixels: UInt8[Tensor, "frame 3 height width"]) -> UInt64[np.ndarray, "frame"]:
    """64 bits of each frame: whether its 8 x 8 lowest cosine frequencies lie above their median without the mean.

    Arguments:
        pixels: Thumbnails.
    """
    grey = luminance(pixels.to(torch.float64))
    square = torch.nn.functional.adaptive_avg_pool2d(grey, (_SAMPLES, _SAMPLES))[:, 0]
    waves = (_cosines() @ square @ _cosines().T).flatten(1).numpy()
    # Frequencies that a frame does not have are zero but for rounding, which must not decide a bit.
    bits = waves > np.median(waves[:, 1:], axis=1, keepdims=True) + _DEAD
    return (bits.astype(np.uint64) << np.arange(64, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


def block_means(pixels: UInt8[Tensor, "frame 3 height width"]) -> UInt8[np.ndarray, "frame 192"]:
    """Mean colour of 8 x 8 blocks of each frame, rounded to whole levels.

    Arguments:
        pixels: Thumbnails.
    """
    means = torch.nn.functional.adaptive_avg_pool2d(pixels.to(torch.float32), (_BLOCKS, _BLOCKS))
    return means.round().to(torch.uint8).flatten(1).numpy()


def local_means(pixels: UInt8[Tensor, "frame 3 height width"]) -> Int16[np.ndarray, "frame value"]:
    """Every pixel averaged with its neighbours inside the frame, in sixteenths of a level.

    Arguments:
        pixels: Thumbnails.
    """
    means = torch.nn.functional.avg_pool2d(pixels.to(torch.float32), 3, stride=1, padding=1, count_include_pad=False)
    return means.mul_(SCALE).round_().to(torch.int16).flatten(1).numpy()


class HammingIndex:
    """Hashes, and those among them that differ from a given one in at most `RADIUS` bits.

    New hashes wait in a short list that is searched as it is; when it has grown to the length of the tables, these are
    made anew, so that n hashes are sorted only log n times.
    """

    def __init__(self) -> None:
        self._hashes = np.zeros(_UNSORTED, dtype=np.uint64)
        self._count = 0
        self._indexed = 0
        self._tables: list[tuple[Int64[np.ndarray, "entry"], Int64[np.ndarray, "key"]]] = []

    def __len__(self) -> int:
        return self._count

    def add(self, value: int) -> int:
        """Append a hash of 64 bits; returns its number, counted from zero."""
        if self._count == len(self._hashes):
            self._hashes = np.concatenate((self._hashes, np.zeros_like(self._hashes)))
        self._hashes[self._count] = value
        self._count += 1
        if self._count - self._indexed > max(_UNSORTED, self._indexed):
            self._build()
        return self._count - 1

    def near(self, value: int) -> Int64[np.ndarray, "found"]:
        """Numbers, in increasing order, of the hashes that differ in at most `RADIUS` bits."""
        found = [np.arange(self._indexed, self._count)]
        for band, (order, starts) in enumerate(self._tables):
            keys = ((value >> (_WORD * band)) & 0xFFFF) ^ _FLIPS
            found += [order[a:b] for a, b in zip(starts[keys], starts[keys + 1], strict=True) if a < b]
        numbers = np.unique(np.concatenate(found))
        return numbers[np.bitwise_count(self._hashes[numbers] ^ np.uint64(value)) <= RADIUS]

    def _build(self) -> None:
        self._indexed = self._count
        self._tables = []
        for band in range(_BANDS):
            words = (self._hashes[: self._count] >> np.uint64(_WORD * band)) & np.uint64(0xFFFF)
            order = np.argsort(words, kind="stable")
            self._tables.append((order, np.searchsorted(words[order], np.arange((1 << _WORD) + 1))))


@cache
def _cosines() -> Float64[Tensor, "8 32"]:
    """Rows of the orthonormal cosine transform, from the lowest frequency."""
    angles = torch.outer(torch.arange(_FREQUENCIES), torch.arange(_SAMPLES) + 0.5).to(torch.float64)
    rows = torch.cos(angles * math.pi / _SAMPLES) * math.sqrt(2 / _SAMPLES)
    rows[0] /= math.sqrt(2)
    return rows
