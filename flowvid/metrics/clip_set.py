"""Folders of videos as sets of clips that may be compared: what is read of each file, what is cut off, what pairs.

Numbers of two sets mean something only if both are read alike. A `ClipProtocol` says how: so many frames from the start
of every file, at one rate by presentation time, scaled to cover one size and cut in the middle. What is not asked for
follows from the files: the rate and the sides are the lower of the two sets' medians, the shorter side at most 256
pixels. Whatever this cuts off, repeats or rescales is stated in words (`ClipSets.statements`), and files that are
broken, or too short, are listed with the reason. What a file is may be kept in a cache, under its content.
"""

__all__ = ["ClipProtocol", "ClipSet", "ClipSets", "Sampling", "common_sets", "read_clip"]

import dataclasses
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flowvid.data.cache import TensorCache, cache_key, file_identity
from flowvid.data.footage.reader import BrokenFootage, Catalogue, Footage, FootageInfo, Skipped, as_video, find_footage
from flowvid.video import Video

Source = str | Path | Sequence[str | Path]
Progress = Callable[[int, int], None]

_SIDES = ("generated", "reference")
_SHORT_SIDE = 256
_EARLY = 5e-4
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What is asked for.

    Arguments:
        frames: Frames of a clip.
        fps: Frames per second; None takes a rate that most files have.
        size: Height and width; None takes a size that most files have.

    Raises:
        ValueError: A number is not positive.
    """

    frames: int = 16
    fps: float | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or not (self.fps is None or 0 < self.fps < float("inf")) or min(self.size or (1,)) < 1:
            raise ValueError(f"Clips need at least one frame, a positive rate and a positive size; got {self}.")


@dataclass(frozen=True)
class ClipProtocol:
    """How every file is read.

    Arguments:
        frames: Frames of a clip.
        fps: Frames per second.
        size: Height and width.
    """

    frames: int
    fps: float
    size: tuple[int, int]

    @property
    def times(self) -> list[float]:
        """Seconds of the frames."""
        return [number / self.fps for number in range(self.frames)]

    def __str__(self) -> str:
        height, width = self.size
        return (
            f"the first {self.frames} frames at {self.fps:.5g} per second ({self.times[-1]:.3g} s), scaled to cover "
            f"{width} x {height} pixels and cut in the middle, RGB"
        )


@dataclass(frozen=True)
class ClipSet:
    """The files of one side.

    Arguments:
        name: "generated" or "reference".
        clips: Files that are read.
        skipped: Files that are not, with reasons.
        infos: What is known of the files that are read.
    """

    name: str
    clips: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    infos: tuple[FootageInfo, ...]

    def names(self) -> Counter[str]:
        """Names of the files that are read, without endings, and how many have them."""
        return Counter(path.stem for path in self.clips)


@dataclass(frozen=True)
class ClipSets:
    """Two sets read alike.

    Arguments:
        generated: What is judged.
        reference: What it is judged against.
        protocol: How both are read.
    """

    generated: ClipSet
    reference: ClipSet
    protocol: ClipProtocol

    @property
    def sides(self) -> tuple[ClipSet, ClipSet]:
        """Both."""
        return self.generated, self.reference

    def statements(self) -> list[str]:
        """What the protocol cuts off, resamples and rescales, in words."""
        return [line for side in self.sides for line in _statements(side, self.protocol)]

    def unmatched(self) -> list[str]:
        """What keeps the two sides from being pairs of files of the same name; empty where they are.

        A file that could not be read takes its partner with it, and is no reason against the others.
        """
        problems: list[str] = []
        for side, other, where in ((*self.sides, "in the reference"), (*reversed(self.sides), "generated")):
            known = other.names().keys() | {one.path.stem for one in other.skipped}
            for name, count in side.names().items():
                if name not in known:
                    problems.append(f"{name}: none {where}")
                elif count > 1:
                    problems.append(f"{name}: {count} files on the {side.name} side")
        return problems

    def pairs(self) -> list[tuple[Path, Path]]:
        """Readable files of the same name; asks for `unmatched` to be empty."""
        theirs = {path.stem: path for path in self.reference.clips}
        return [(path, theirs[path.stem]) for path in self.generated.clips if path.stem in theirs]


def common_sets(
    generated: Source,
    reference: Source,
    sampling: Sampling,
    *,
    cache: TensorCache | None = None,
    stage: Callable[[str], Progress] | None = None,
) -> ClipSets:
    """Find the files of both sides and how to read them alike.

    Arguments:
        generated: A folder, a pattern, a file, or a list of these.
        reference: Likewise.
        sampling: What is asked for.
        cache: Where what is known of files is kept.
        stage: Announces what begins and returns what to tell its progress to.

    Raises:
        ValueError: Nothing is found or can be read on a side, or all files of a side are too short.
    """
    found: list[Catalogue] = []
    for name, source in zip(_SIDES, (generated, reference), strict=True):
        found.append(_look(find_footage(source), cache, stage(f"looking, {name}") if stage else None))
        if not found[-1].entries:
            raise ValueError(f"Nothing on the {name} side can be read. {found[-1].report()}")
    infos = [[info for _, info in one.entries] for one in found]
    fps = sampling.fps or min(statistics.median_low([info.fps for info in side]) for side in infos)
    protocol = ClipProtocol(sampling.frames, fps, sampling.size or _common_size(infos))
    sides = [_long_enough(name, one, protocol) for name, one in zip(_SIDES, found, strict=True)]
    return ClipSets(sides[0], sides[1], protocol)


def read_clip(path: Path, protocol: ClipProtocol) -> Video:
    """The clip of a file, one in a batch.

    Raises:
        BrokenFootage: It cannot be read.
        ValueError: It is too short.
    """
    with Footage(path) as footage:
        pixels = footage.at(protocol.times, size=protocol.size)
    return as_video(pixels[None], protocol.times)


def _look(paths: Sequence[Path], cache: TensorCache | None, progress: Progress | None) -> Catalogue:
    """What every file is, by its first and last frame or from the cache, and what cannot be read."""
    report = progress or (lambda done, total: None)
    report(0, len(paths))
    entries: list[tuple[Path, FootageInfo]] = []
    skipped: list[Skipped] = []
    for number, path in enumerate(paths):
        try:
            entries.append((path, _info(path, cache)))
        except (BrokenFootage, OSError) as error:
            skipped.append(Skipped(path, str(error)))
        report(number + 1, len(paths))
    return Catalogue(tuple(entries), tuple(skipped))


def _info(path: Path, cache: TensorCache | None) -> FootageInfo:
    def find() -> torch.Tensor:
        with Footage(path) as footage:
            footage.check()
            text = json.dumps(dataclasses.asdict(footage.info))
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    key = cache_key(footage=_VERSION, content=file_identity(path, content=True)) if cache else ""
    found = cache.get(key, find) if cache else find()
    return FootageInfo(**json.loads(bytes(found.tolist())))


def _common_size(infos: Sequence[Sequence[FootageInfo]]) -> tuple[int, int]:
    height = min(statistics.median_low([info.height for info in side]) for side in infos)
    width = min(statistics.median_low([info.width for info in side]) for side in infos)
    scale = min(1.0, _SHORT_SIDE / min(height, width))
    return round(height * scale), round(width * scale)


def _long_enough(name: str, found: Catalogue, protocol: ClipProtocol) -> ClipSet:
    last = protocol.times[-1]
    kept = [(path, info) for path, info in found.entries if _reaches(info, last)]
    short = [
        Skipped(path, f"too short: it lasts {info.duration:.3g} s, and frame {protocol.frames} is at {last:.3g} s")
        for path, info in found.entries
        if not _reaches(info, last)
    ]
    if not kept:
        longest = max(info.duration for _, info in found.entries)
        raise ValueError(
            f"No clip on the {name} side lasts {last:.3g} s ({protocol.frames} frames at {protocol.fps:.5g} per "
            f"second); the longest has {longest:.3g} s. Ask for fewer frames or a higher rate."
        )
    return ClipSet(name, tuple(path for path, _ in kept), (*found.skipped, *short), tuple(info for _, info in kept))


def _reaches(info: FootageInfo, last: float) -> bool:
    """Whether a frame of its own is shown then: the last one stays for a while and must not count twice."""
    return info.duration - 0.5 / info.fps >= last


def _statements(side: ClipSet, protocol: ClipProtocol) -> list[str]:
    count, used = len(side.infos), protocol.frames / protocol.fps
    lines = []
    longer = [info.duration - used for info in side.infos if info.duration > used + 0.5 / protocol.fps]
    if longer:
        total = sum(info.duration for info in side.infos)
        lines.append(
            f"{side.name}: {len(longer)} of {count} clips are longer; {sum(longer):.3g} of {total:.3g} s are cut off"
        )
    shown = [(info, _shown(info, protocol)) for info in side.infos]
    rates = Counter(f"{info.fps:.5g}" for info, numbers in shown if numbers != list(range(protocol.frames)))
    if rates:
        repeating = sum(len(set(numbers)) < len(numbers) for _, numbers in shown)
        repeated = f"; {repeating} are slower, so frames repeat" if repeating else ""
        lines.append(
            f"{side.name}: {rates.total()} of {count} clips are resampled in time, from {_listed(rates)} frames per "
            f"second{repeated}"
        )
    sizes = Counter(f"{i.width} x {i.height}" for i in side.infos if (i.height, i.width) != protocol.size)
    if sizes:
        lines.append(f"{side.name}: {sizes.total()} of {count} clips are scaled and cut, from {_listed(sizes)} pixels")
    return lines


def _shown(info: FootageInfo, protocol: ClipProtocol) -> list[int]:
    """Which frames are read, at the file's mean rate; a frame counts as shown from half a millisecond before it is."""
    return [math.floor((time + _EARLY) * info.fps) for time in protocol.times]


def _listed(values: Counter[str]) -> str:
    most = [value for value, _ in values.most_common(3)]
    return ", ".join(most) + (f" and {len(values) - 3} others" if len(values) > 3 else "")
