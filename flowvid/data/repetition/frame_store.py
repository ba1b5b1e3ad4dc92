"""Summaries of frames, kept while repetition is looked for: what is small in memory, the rest in a temporary file.

Frames pass once, as thumbnails: in memory remain some 200 bytes of each, on disk up to 24 kB.
"""

__all__ = ["SCALE", "FrameStore", "LocalMeans", "StoredFile"]

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int16, UInt8, UInt64
from torch import Tensor

from flowvid.data.repetition.perceptual_hash import RADIUS, SCALE, block_means, local_means, perceptual_hash, thumbnails
from flowvid.video import as_times

_QUIET = 0.2


@dataclass(frozen=True, eq=False)
class StoredFile:
    """What is kept in memory of the frames of a file."""

    name: str
    times: Float64[np.ndarray, "frame"]
    size: tuple[int, int]
    hashes: UInt64[np.ndarray, "frame"]
    blocks: UInt8[np.ndarray, "frame 192"]
    offset: int
    noise: float

    @property
    def ends(self) -> Float64[np.ndarray, "frame"]:
        """When each frame gives way to the next; the last stays as long as most do."""
        steps = np.diff(self.times)
        last = float(np.median(steps)) if len(steps) else 1.0
        return np.append(self.times[1:], self.times[-1] + last)


class FrameStore:
    """Summaries of frames: what is needed to find repetition, in bounded memory. A context manager.

    The larger part lies in a temporary file, which is gone when the store is closed.
    """

    def __init__(self) -> None:
        self._disk = tempfile.TemporaryFile()  # noqa: SIM115
        self._values = 0
        self.files: list[StoredFile] = []

    def __enter__(self) -> "FrameStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self._disk.close()

    def read(self, name: str, stream: Iterable[tuple[Tensor, UInt8[Tensor, "time 3 height width"]]]) -> None:
        """Read all frames of a file, a batch at a time; if the stream raises, the store is left as it was.

        Arguments:
            name: What the file is called in results.
            stream: (seconds, pixels) of successive batches.

        Raises:
            ValueError: There is no frame, the times do not increase, or frames differ in size.
        """
        begun = self._values
        times: list[Tensor] = []
        hashes: list[UInt64[np.ndarray, "time"]] = []
        blocks: list[UInt8[np.ndarray, "time 192"]] = []
        sizes: set[tuple[int, int]] = set()
        quiet: list[float] = []
        last: tuple[Int16[np.ndarray, "1 value"], UInt64[np.ndarray, "1"]] | None = None
        try:
            for seconds, pixels in stream:
                small = thumbnails(pixels)
                sizes.add((small.shape[2], small.shape[3]))
                if len(sizes) > 1:
                    raise ValueError(
                        f"The frames of a file have one size; {name} has frames of {sorted(sizes)} pixels."
                    )
                rows = local_means(small)
                self._disk.seek(2 * self._values)
                self._disk.write(rows.tobytes())
                self._values += rows.size
                codes = perceptual_hash(small)
                if last is not None:
                    rows, codes = (np.concatenate(pair) for pair in zip(last, (rows, codes), strict=True))
                quiet += _noise(rows, codes)
                fresh = len(small)
                last = rows[-1:], codes[-1:]
                times.append(torch.as_tensor(seconds, dtype=torch.float64))
                hashes.append(codes[-fresh:])
                blocks.append(block_means(small))
            if not times:
                raise ValueError(f"Expected at least one frame in {name}; got none.")
            found = as_times(torch.cat(times)).numpy()
        except BaseException:
            self._values = begun
            raise
        noise = float(np.quantile(quiet, _QUIET)) if quiet else 0.0
        self.files.append(
            StoredFile(name, found, sizes.pop(), np.concatenate(hashes), np.concatenate(blocks), begun, noise)
        )

    def rows(self, members: Sequence[StoredFile]) -> "LocalMeans":
        """Local means of all frames of files of one size, in order."""
        self._disk.flush()
        values = np.memmap(self._disk, dtype=np.int16, mode="r", shape=(self._values,))
        return LocalMeans(values, members)


class LocalMeans:
    """Local means by number of frame, read from the disk when asked for."""

    def __init__(self, values: Int16[np.ndarray, "value"], members: Sequence[StoredFile]) -> None:
        self._values = values
        self._length = 3 * members[0].size[0] * members[0].size[1]
        self._starts = np.concatenate([f.offset + self._length * np.arange(len(f.times)) for f in members])

    def __getitem__(self, frame: int) -> Int16[np.ndarray, "value"]:
        return self._values[self._starts[frame] : self._starts[frame] + self._length]


def _noise(rows: Int16[np.ndarray, "frame value"], hashes: UInt64[np.ndarray, "frame"]) -> list[float]:
    """Deviation of the noise of a local mean, in levels, from successive frames of one scene that are not equal.

    The median over the picture leaves out what moves, as long as most of it does not.
    """
    change = np.abs(rows[1:].astype(np.int32) - rows[:-1])
    scene = np.bitwise_count(hashes[1:] ^ hashes[:-1]) <= RADIUS
    moved = change[scene & change.any(axis=1)]
    return (1.4826 / math.sqrt(2) / SCALE * np.median(moved, axis=1)).tolist() if len(moved) else []
