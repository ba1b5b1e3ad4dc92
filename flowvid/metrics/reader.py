"""Captions read from frames alone, and how well a video does what its caption says.

The reader knows nothing but pixels. It follows the ink (`flowvid.metrics.tracks`), fits a curve to where it goes
(`flowvid.metrics.paths`) and describes that curve by the words of `flowvid.data.worlds.captions`, with the same bounds
as the true captions. Digits are told by the Gaussian classes of `flowvid.metrics.identity`, trained on drawn glyphs; if
something stays where it is, by their likelihood marginalised over 24 angles, of which those that follow each other
evenly also give the rate of the spin. A kink of the curve is a bounce if the change of its velocity fits a wall.

What cannot be read: what happens between the last two frames; a spin of more than half a turn from frame to frame;
whether something turns as it flies; which is which of two things in frames where they overlap (left out), or whether
two that look alike passed through each other or met; a motion of which only a small part is seen (less than about a
third of a period looks like another family); a word on whose bound the truth lies.

Chance, which shuffled captions measure, is the sum over words of the product of how often the video's and the
caption's have them: 1/10 for digits, 1/8 for directions and about 1/3 for speeds that are equally frequent.
"""

__all__ = ["CaptionScore", "DigitReader", "caption_score"]

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from flowvid.data.worlds.captions import DIGITS, SENSES, TURN_BOUNDS, WALLS, Caption, Event, Part
from flowvid.data.worlds.describe import compass, mirror, pace, surface_hit
from flowvid.metrics.identity import DigitClassifier
from flowvid.metrics.paths import Kink, Path, fit_path
from flowvid.metrics.tracks import Track, ink_tracks
from flowvid.video import Video

_LEAST_FRAMES = 5
_STILL = 0.02
_ANGLES = 24
_FASTEST = 1.0
_MARGIN = 2
_FAINT = 0.1
_LEAST_KICK = 0.15
_STRAIGHT = 0.03
_MIRROR = math.radians(15)


@dataclass(frozen=True, eq=False)
class _Reading:
    """A part as a caption says it, and the way out of every bounce whether said or not."""

    part: Part
    ways: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class DigitReader:
    """Reads captions of clips of one or two digits.

    Arguments:
        classifier: Tells upright digits, one per frame.
        digits: How many digits move in a clip.

    Raises:
        ValueError: There are neither one nor two digits.
    """

    classifier: DigitClassifier
    digits: int = 1

    def __post_init__(self) -> None:
        if self.digits not in (1, 2):
            raise ValueError(f"The reader follows 1 or 2 digits; got {self.digits}.")

    @staticmethod
    def fit(scale: int = 2, *, digits: int = 1) -> "DigitReader":
        """A reader of digits drawn at a scale, as in a `World`; takes about a second.

        Raises:
            ValueError: The scale is below 1, or there are neither one nor two digits.
        """
        return DigitReader(DigitClassifier.fit(scale), digits)

    def read(self, video: Video) -> list[Caption | None]:
        """A caption of each clip, from its first to its last frame; None where too few frames show the digits apart.

        Parts are in no order. Events hold when they happened.

        Raises:
            ValueError: There are fewer than five frames, or they are not square.
        """
        return [
            None if found is None else Caption(tuple(reading.part for reading in found))
            for found in self._readings(video)
        ]

    def _readings(self, video: Video) -> list[list[_Reading] | None]:
        """What each thing does, in no order."""
        height, width = video.frames.shape[-2:]
        if height != width or len(video.times) < _LEAST_FRAMES:
            raise ValueError(
                f"Captions are read from at least {_LEAST_FRAMES} square frames; got {len(video.times)} of "
                f"{height} x {width} pixels."
            )
        span = float(video.times[0]), float(video.times[-1])
        return [
            None
            if min(len(track.times) for track in tracks) < _LEAST_FRAMES
            else [self._reading(track, span) for track in tracks]
            for tracks in ink_tracks(video, self.digits)
        ]

    def _reading(self, track: Track, span: tuple[float, float]) -> _Reading:
        canvas = track.ink.shape[-1]
        frames = torch.from_numpy(track.ink)[:, None] * 2 - 1
        if np.linalg.norm(track.positions - np.median(track.positions, axis=0), axis=1).max() < _STILL * canvas:
            return _Reading(self._still(frames, track.times), ())
        label = int(self.classifier(frames).clamp(min=1e-6).log().mean(dim=0).argmax())
        path = fit_path(track)
        motion, sense = _family(path, span, canvas)
        events, ways = _bounces(path, track, canvas) if motion == "flight" else ((), ())
        until = events[0].time if events and events[0].time is not None else span[1]
        speeds = np.linalg.norm(path.velocity(np.linspace(span[0], until, 200)), axis=1)
        part = Part(
            subject=DIGITS[label],
            motion=motion,
            direction=compass(path.velocity(np.array([span[0]]))[0]),
            sense=sense,
            speed=pace(float(speeds.mean()) / canvas),
            events=events,
        )
        return _Reading(part, ways)

    def _still(self, frames: Tensor, times: np.ndarray) -> Part:
        """A digit that rests or turns in place: the class, phase and rate of the greatest likelihood."""
        angles = 2 * math.pi * np.arange(_ANGLES) / _ANGLES
        likelihood = torch.stack([self.classifier.log_likelihoods(frames, angle=float(angle)) for angle in angles])
        label = int(likelihood.logsumexp(dim=0).sum(dim=0).argmax())
        turn = _turn(likelihood[:, :, label].numpy(), times)
        if turn == 0:
            return Part(subject=DIGITS[label], motion="rest")
        return Part(
            subject=DIGITS[label],
            motion="spin",
            sense=SENSES[0 if turn > 0 else 1],
            speed=pace(abs(turn), TURN_BOUNDS),
        )


@dataclass(frozen=True, eq=False)
class CaptionScore:
    """The share of what a caption says that the video shows, for each clip; a mean over digits where there are two.

    Arguments:
        digit: Whether the digit is the one named.
        motion: Whether it is the family named.
        direction: Whether direction and sense are those named.
        speed: Whether the speed is.
        events: Whether it bounces off what is named, in that order and nothing else, and on the way named if any is.
        all: 1 if everything is right for every digit, else 0.
    """

    digit: Float64[Tensor, "batch"]
    motion: Float64[Tensor, "batch"]
    direction: Float64[Tensor, "batch"]
    speed: Float64[Tensor, "batch"]
    events: Float64[Tensor, "batch"]
    all: Float64[Tensor, "batch"]


def caption_score(reader: DigitReader, video: Video, captions: Sequence[Caption]) -> CaptionScore:
    """What the reader reads, compared with what the captions say.

    Of two digits that one is compared with a part of the caption with which more agrees. Bounces that are read within
    two frames of each other may be in either order, and a corner counts as its two walls. A clip that cannot be read
    scores 0 throughout.

    Arguments:
        reader: For as many digits as the captions have parts.
        video: The clips.
        captions: One for each clip, of what happens from its first to its last frame.

    Raises:
        ValueError: There is not one caption for each clip, or a caption has not one part for each digit.
    """
    if len(captions) != len(video) or any(len(caption.parts) != reader.digits for caption in captions):
        raise ValueError(
            f"Expected {len(video)} captions of {reader.digits} part(s), one for each clip; got {len(captions)} with "
            f"{sorted({len(caption.parts) for caption in captions})} parts."
        )
    near = 2.5 * float(video.times.diff().max())
    rows = []
    for caption, read in zip(captions, reader._readings(video), strict=True):
        orders = list(itertools.permutations(read)) if read is not None else list[tuple[_Reading, ...]]()
        tables = [[_agreement(*pair, near) for pair in zip(caption.parts, order, strict=True)] for order in orders]
        best = np.array(max(tables, key=lambda table: np.sum(table), default=[[False] * 5]), dtype=float)
        rows.append([*best.mean(axis=0), float(best.all())])
    return CaptionScore(*torch.tensor(rows, dtype=torch.float64).T)


def _agreement(said: Part, reading: _Reading, near: float) -> list[bool]:
    read = reading.part
    return [
        said.subject == read.subject,
        said.motion == read.motion,
        (said.direction, said.sense) == (read.direction, read.sense),
        said.speed == read.speed,
        _same_events(said.events, reading, near),
    ]


def _same_events(said: Sequence[Event], reading: _Reading, near: float) -> bool:
    """Whether the same surfaces are bounced off in an order that the frames admit."""
    wanted = [(surface, event.then) for event in said for surface in _surfaces(event)]
    found = [
        (surface, way, event.time or 0.0)
        for event, way in zip(reading.part.events, reading.ways, strict=True)
        for surface in _surfaces(event)
    ]
    if len(wanted) != len(found):
        return False
    for surface, then in wanted:
        latest = found[0][2] + near
        fits = [n for n, one in enumerate(found) if one[0] == surface and one[2] <= latest]
        if not fits or then not in (None, found[fits[0]][1]):
            return False
        found.pop(fits[0])
    return True


def _surfaces(event: Event) -> list[str]:
    """A corner is two walls."""
    if not event.surface.endswith(" corner"):
        return [event.surface]
    return [f"{side} wall" for side in event.surface.removesuffix(" corner").split()]


def _family(path: Path, span: tuple[float, float], canvas: int) -> tuple[str, str | None]:
    """The family of a curve and, of an orbit, the sense."""
    if path.kind != "wave":
        return ("flight" if path.kind == "straight" else "pendulum"), None
    times = np.linspace(*span, 200)
    points, velocities = path.position(times), path.velocity(times)
    wide, narrow = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / math.sqrt(len(points))
    if narrow < max(_STRAIGHT * wide, 0.003 * canvas):
        return "oscillation", None
    turned = np.sum(velocities[:-1, 0] * velocities[1:, 1] - velocities[:-1, 1] * velocities[1:, 0])
    return "orbit", SENSES[0 if turned > 0 else 1]


def _bounces(path: Path, track: Track, canvas: int) -> tuple[tuple[Event, ...], tuple[str, ...]]:
    """The kinks that are more than the noise of the track, one for those within one and a half frames; the ways out."""
    pause = 1.5 * float(np.median(np.diff(track.times)))
    groups: list[list[Kink]] = []
    for kink in path.kinks:
        if groups and kink.time - groups[-1][-1].time < pause:
            groups[-1].append(kink)
        else:
            groups.append([kink])
    events: list[Event] = []
    ways: list[str] = []
    for group in groups:
        kink = dataclasses.replace(group[0], after=group[-1].after)
        if np.linalg.norm(kink.after - kink.before) > _LEAST_KICK * max(map(np.linalg.norm, (kink.before, kink.after))):
            surface = surface_hit(kink.before, kink.after, kink.position, canvas, _touched(track, kink))
            mirrored = mirror(kink.before, surface)
            between = abs(math.remainder(_heading(kink.after) - _heading(mirrored), 2 * math.pi))
            plain = surface != "another" and between < _MIRROR
            ways.append(compass(kink.after))
            events.append(Event(surface, None if plain else ways[-1], float(kink.time)))
    return tuple(events), tuple(ways)


def _heading(velocity: np.ndarray) -> float:
    return math.atan2(velocity[1], velocity[0])


def _touched(track: Track, kink: Kink) -> set[str]:
    """The walls that have ink within two pixels in the frames on both sides of a kink."""
    after = int(np.searchsorted(track.times, kink.time))
    ink = track.ink[max(after - 1, 0) : after + 1].max(axis=0) > _FAINT
    sides = (ink[:, :_MARGIN], ink[:, -_MARGIN:], ink[:_MARGIN], ink[-_MARGIN:])
    return {wall for wall, side in zip(WALLS, sides, strict=True) if side.any()}


def _turn(likelihood: np.ndarray, times: np.ndarray) -> float:
    """Turns per second, positive clockwise, at which likelihoods [angle, frame] add up to the most; 0 if it rests."""
    step = float(np.median(np.diff(times)))
    rates = np.arange(-1, 1 + 1e-9, 0.01) * min(_FASTEST, 0.5 / step)
    count, frames = likelihood.shape
    shift = rates[:, None] * (times - times[0]) * count
    whole = np.floor(shift).astype(int)
    part = shift - whole
    frame = np.arange(frames)
    best = np.full(len(rates), -np.inf)
    for phase in range(count):
        low, high = (likelihood[(phase + whole + more) % count, frame] for more in (0, 1))
        best = np.maximum(best, ((1 - part) * low + part * high).sum(axis=1))
    turn = float(rates[best.argmax()])
    return turn if abs(turn) * (times[-1] - times[0]) > 1 / count else 0.0
