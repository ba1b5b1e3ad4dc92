"""Where things are, from frames alone.

Ink that hangs together belongs to one thing; of more pieces than things the nearest are joined. A frame in which there
are fewer pieces than things, because some overlap, or in which one gets far less ink than another, says nothing about
where each of them is, and is left out. What is told apart is followed from frame to frame by where it should be next
and, after a gap, also by what it looks like.
"""

__all__ = ["Track", "ink_tracks"]

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from flowvid.video import Video

_INK = 0.1
_LEVELS = (0.1, 0.25, 0.4)
_SMALL = 0.2
_PIECES = 2
_SHARE = 0.6
_ODD = 0.25


@dataclass(frozen=True, eq=False)
class Track:
    """One thing, in the frames in which it is seen by itself.

    Arguments:
        times: Seconds of those frames.
        positions: Centroids (x right, y down) in pixels.
        ink: Its ink alone, in [0, 1].
    """

    times: Float[np.ndarray, "seen"]
    positions: Float[np.ndarray, "seen 2"]
    ink: Float[np.ndarray, "seen height width"]


class _Patch(NamedTuple):
    """The ink of one thing in one frame."""

    number: int
    centre: np.ndarray
    mask: np.ndarray


def ink_tracks(video: Video, things: int) -> list[list[Track]]:
    """The tracks of the things in each clip; a clip without a frame that shows them apart has empty ones.

    Arguments:
        video: Frames with light ink on a dark ground; ink is the pixel in [0, 1] less 0.1, as the mean over channels.
        things: How many things move in each clip.
    """
    shown = (video.frames.detach().double().cpu().mean(dim=2).numpy() + 1) / 2
    return [_tracks(clip, video.times.numpy(), things) for clip in shown]


def _tracks(frames: np.ndarray, times: np.ndarray, things: int) -> list[Track]:
    rows: list[list[_Patch]] = [[] for _ in range(things)]
    for number, frame in enumerate(frames):
        masks = _patches(frame, things)
        if masks is not None:
            found = [_Patch(number, _centre(frame * mask), mask) for mask in masks]
            for row, patch in zip(rows, _in_order(rows, found, frames), strict=True):
                row.append(patch)
    return [_track([row[n] for n in _usual(row, frames)], frames, times) for row in rows]


def _in_order(rows: list[list[_Patch]], found: list[_Patch], frames: np.ndarray) -> tuple[_Patch, ...]:
    """The patches in the order in which they continue the rows best."""

    def strangeness(order: tuple[_Patch, ...]) -> float:
        return sum(_strangeness(row, patch, frames) for row, patch in zip(rows, order, strict=True))

    return min(itertools.permutations(found), key=strangeness)


def _track(row: list[_Patch], frames: np.ndarray, times: np.ndarray) -> Track:
    numbers = [patch.number for patch in row]
    masks = np.array([patch.mask for patch in row]).reshape(-1, *frames.shape[1:])
    return Track(times[numbers], np.array([patch.centre for patch in row]).reshape(-1, 2), frames[numbers] * masks)


def _patches(frame: np.ndarray, things: int) -> Bool[np.ndarray, "thing height width"] | None:
    """As many masks as things, if the frame shows them apart."""
    if things == 1:
        return np.ones((1, *frame.shape), dtype=bool) if (frame > _INK).any() else None
    for level in _LEVELS:
        labels, count = ndimage.label(frame > level, structure=np.ones((3, 3)))
        index = np.arange(1, count + 1)
        mass = np.atleast_1d(ndimage.sum_labels(frame, labels, index)) if count else np.zeros(0)
        large = index[mass > _SMALL * mass.sum() / things]
        if things <= len(large) <= things + _PIECES:
            # Faint ink around the pieces belongs to the nearest one, so that a mask cuts off no strokes.
            away = np.stack([np.asarray(ndimage.distance_transform_edt(labels != label)) for label in large])
            owner = _joined([labels == label for label in large], away, things)[away.argmin(axis=0)]
            masks = np.stack([owner == thing for thing in range(things)])
            if (frame * masks).sum(axis=(1, 2)).min() > _SHARE * frame.sum() / things:
                return masks
    return None


def _joined(pieces: list[np.ndarray], away: np.ndarray, things: int) -> np.ndarray:
    """Which thing each piece belongs to, if the nearest ones are joined until there are as many as things."""
    owner = np.arange(len(pieces))
    pairs = sorted(itertools.combinations(range(len(pieces)), 2), key=lambda pair: away[pair[0]][pieces[pair[1]]].min())
    for one, other in pairs:
        if len(np.unique(owner)) > things:
            owner[owner == owner[other]] = owner[one]
    return np.unique(owner, return_inverse=True)[1]


def _centre(ink: np.ndarray) -> np.ndarray:
    weight = np.clip(ink - _INK, 0, None)
    y, x = (np.arange(side) + 0.5 for side in weight.shape)
    return np.array([weight.sum(axis=0) @ x, weight.sum(axis=1) @ y]) / max(weight.sum(), 1e-12)


def _strangeness(row: list[_Patch], patch: _Patch, frames: np.ndarray) -> float:
    """How little a patch is the continuation of a row: pixels from where it should be, more if it looks different."""
    if not row:
        return 0.0
    number, position, _ = patch
    last, place, _ = row[-1]
    if len(row) > 1 and row[-2][0] == last - 1:
        place = place + (place - row[-2][1]) * min(number - last, 4)
    distance = float(np.linalg.norm(position - place))
    if number == last + 1:
        return distance
    looks = [_look(frames[n] * m, p) for n, p, m in (*row[-3:], patch)]
    alike = np.mean([np.corrcoef(look, looks[-1])[0, 1] for look in looks[:-1]])
    return distance + frames.shape[-1] * (1 - float(alike))


def _look(ink: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The ink with its centroid in the middle, slightly blurred."""
    middle = np.array(ink.shape[::-1]) / 2
    return ndimage.gaussian_filter(ndimage.shift(ink, (middle - position)[::-1], order=1), 1.0).flatten()


def _usual(row: list[_Patch], frames: np.ndarray) -> np.ndarray:
    """The frames in which a thing has about as much ink as in most."""
    mass = np.array([(frames[number] * mask).sum() for number, _, mask in row])
    return np.nonzero(np.abs(mass - np.median(mass)) <= _ODD * np.median(mass))[0] if len(row) else np.zeros(0, int)
