"""Pieces of footage, and which of them are for training, validation and testing.

A file's split is decided by a hash of its name alone: it stays what it is when files are added, and shares hold on
average. Files of one name in different folders of a source are told apart by their path within it. Where there is one
long file, its time is divided instead: spans in order, apart by a gap so that no window of one split shows moments of
another.
"""

__all__ = ["Piece", "Shares", "pieces_of", "split_by_file", "split_by_span"]

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from flowvid.data.footage.reader import Catalogue, FootageInfo
from flowvid.data.footage.windows import Span
from flowvid.data.worlds.digits import SPLITS


@dataclass(frozen=True)
class Piece:
    """A span of one file, or of one folder of pictures.

    Arguments:
        path: The file.
        info: What is known of it.
        span: Which seconds.
        name: What its split is decided by.
    """

    path: Path
    info: FootageInfo
    span: Span
    name: str


class Shares(NamedTuple):
    """Parts of a whole, in the order of the splits."""

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1


_SHARES = Shares()


def pieces_of(catalogue: Catalogue, *, root: Path | None = None) -> list[Piece]:
    """Every file of a catalogue, whole.

    Arguments:
        catalogue: What can be read.
        root: The folder within which files are named; default: their own names count.

    Raises:
        ValueError: A file is not within ``root``.
    """
    return [
        Piece(path, info, Span(0.0, info.duration, info.fps), path.relative_to(root).as_posix() if root else path.name)
        for path, info in catalogue.entries
    ]


def split_by_file(pieces: Sequence[Piece], split: str, shares: Shares = _SHARES) -> list[Piece]:
    """The pieces whose names belong to a split; there may be none.

    Raises:
        ValueError: The split is unknown, or the shares are not parts of one.
    """
    low, high = _bounds(split, shares)
    return [piece for piece in pieces if low <= _place(piece.name) < high]


def split_by_span(
    pieces: Sequence[Piece],
    split: str,
    shares: Shares = _SHARES,
    *,
    gap: float = 0.0,
) -> list[Piece]:
    """A split's part of every piece's time.

    Arguments:
        pieces: What is divided.
        split: train, validation or test, which follow each other in this order.
        shares: Their parts of every piece.
        gap: Seconds between neighbouring splits, half of them on either side; pieces of which nothing is left are
            not there.

    Raises:
        ValueError: The split is unknown, the shares are not parts of one, or the gap is negative.
    """
    low, high = _bounds(split, shares)
    if not 0 <= gap < math.inf:
        raise ValueError(f"A gap is finite seconds, at least 0; got {gap}.")
    found = []
    for piece in pieces:
        span = piece.span
        start = span.start + low * span.seconds + (gap / 2 if low > 0 else 0)
        stop = span.stop if high >= 1 else span.start + high * span.seconds - gap / 2
        if start < stop:
            found.append(replace(piece, span=Span(start, stop, span.fps)))
    return found


def _bounds(split: str, shares: Shares) -> tuple[float, float]:
    if split not in SPLITS:
        raise ValueError(f"The splits are {', '.join(SPLITS)}; got {split!r}.")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"Shares must be at least 0 and sum to 1; got {tuple(shares)}.")
    edges = [0.0, shares.train, shares.train + shares.validation, 1.0]
    number = SPLITS.index(split)
    return edges[number], edges[number + 1]


def _place(name: str) -> float:
    """A name's own uniform number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
