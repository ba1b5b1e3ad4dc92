"""When two frames are the same, and the first frame that is the same as each.

Two frames are the same if no local mean (3 x 3 pixels of the thumbnail, each colour) and no block mean of theirs differ
by more than a tolerance. Perceptual hashes propose pairs and decide nothing: they take one digit for another.

The tolerance is derived from two measurements, and lies between `FLOOR` and `CEILING` levels of 0..255. One is what
noise does to local means from one frame to the next. The other is what compression does to a picture that comes back,
seen where a hash comes back after quite different ones. Compression alters a picture all over, and a new date on a
calendar in one place, so this is measured on the tenth of the picture that differs most and never on the single place
that does, only where half of it or more differs at all, and only where the picture that comes back is more alike than
those beside it. Two digits drawn at one place
differ by more than twice the ceiling. Every file has its own tolerance; frames of two files are the same within the
larger one.

Frames are compared with *representatives*, the first of their kind, never with frames that merely resemble one: so a
slow drift does not chain a morning to an evening.
"""

__all__ = ["CEILING", "FLOOR", "representatives", "tolerance_of"]

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from flowvid.data.repetition.frame_store import FrameStore, LocalMeans, StoredFile
from flowvid.data.repetition.perceptual_hash import RADIUS, SCALE, HammingIndex

FLOOR, CEILING = 8.0, 24.0

# The largest of some ten thousand normal differences, each of deviation sqrt(2) times the noise of a local mean.
_REACH = 5.0 * math.sqrt(2)
# In h264 of natural footage the greatest difference is 4 to 9 times that which nine tenths stay below.
_SPREAD, _SHARE, _SHARP, _PROBES, _LEAST_PROBES = 7.0, 0.9, 0.8, 128, 4


def tolerance_of(store: FrameStore, file: StoredFile) -> float:
    """Levels by which local means of the same picture may differ in a file."""
    rows = store.rows([file])
    found = []
    for frame in sorted(set(np.linspace(0, len(file.times) - 1, _PROBES).astype(int).tolist())):
        bits = np.bitwise_count(file.hashes ^ file.hashes[frame])
        left = np.cumsum(bits > 2 * RADIUS)
        others = np.flatnonzero((bits <= RADIUS) & (left != left[frame]))
        if len(others):
            apart = np.abs(file.blocks[others].astype(np.int16) - file.blocks[frame]).sum(axis=1)
            other = int(others[apart.argmin()])
            beside = [one for one in (other - 1, other + 1) if 0 <= one < len(bits)]
            half, spread = np.quantile(np.abs(rows[frame] - rows[other]), (0.5, _SHARE))
            least = min((np.quantile(np.abs(rows[frame] - rows[one]), _SHARE) for one in beside), default=math.inf)
            if half > 0 and spread <= _SHARP * least:
                found.append(spread / SCALE)
    compression = _SPREAD * float(np.median(found)) if len(found) >= _LEAST_PROBES else 0.0
    return min(max(FLOOR, _REACH * file.noise, compression), CEILING)


def representatives(
    store: FrameStore, tolerances: Sequence[float]
) -> tuple[Int64[np.ndarray, "frame"], Float64[np.ndarray, "frame"]]:
    """For each frame the number of the first frame that shows the same, and how far it is from it.

    Files of one size of thumbnail are searched together.
    """
    firsts = np.concatenate(([0], np.cumsum([len(file.times) for file in store.files])))
    found, away = np.empty(firsts[-1], dtype=np.int64), np.empty(firsts[-1])
    for size in sorted({file.size for file in store.files}):
        members = [number for number, file in enumerate(store.files) if file.size == size]
        numbers = np.concatenate([np.arange(firsts[number], firsts[number + 1]) for number in members])
        files = [store.files[number] for number in members]
        limits = np.repeat([tolerances[number] for number in members], [len(file.times) for file in files])
        leaders, away[numbers] = _leaders(store.rows(files), files, limits)
        found[numbers] = numbers[leaders]
    return found, away


def _leaders(
    rows: LocalMeans, files: Sequence[StoredFile], limits: Float64[np.ndarray, "frame"]
) -> tuple[Int64[np.ndarray, "frame"], Float64[np.ndarray, "frame"]]:
    """Each frame's leader: that of the frame before it if it is still near, else the nearest one, else itself.

    Returns:
        The number of each frame's leader, and the greatest difference from it in levels.
    """
    hashes = np.concatenate([file.hashes for file in files])
    blocks = np.concatenate([file.blocks for file in files]).astype(np.int16)
    leader, away = np.arange(len(hashes)), np.zeros(len(hashes))
    index, leaders = HammingIndex(), np.empty(len(hashes), dtype=np.int64)

    def distances(frame: int, others: Int64[np.ndarray, "other"]) -> list[tuple[float, int]]:
        most = np.maximum(limits[others], limits[frame])
        # Means rounded to whole levels differ by up to one more than the means do.
        near = np.abs(blocks[others] - blocks[frame]).max(axis=1, initial=0) <= most + 1
        found = [(float(np.abs(rows[frame] - rows[other]).max()) / SCALE, other) for other in others[near].tolist()]
        return [one for one, limit in zip(found, most[near], strict=True) if one[0] <= limit]

    for frame, value in enumerate(hashes.tolist()):
        found = distances(frame, leader[frame - 1 : frame]) or distances(frame, leaders[index.near(value)])
        if found:
            away[frame], leader[frame] = min(found)
        else:
            leaders[index.add(value)] = frame
    return leader, away
