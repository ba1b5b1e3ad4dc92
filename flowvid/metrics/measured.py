"""Measuring many clips one after another: bounded memory, nothing measured twice, interruptible.

A `Measure` gives every clip (or pair of clips) one tensor. Files are read a few at a time and only where a measure is
missing from the cache, in which tensors are filed under the content of the files, how they were read, and the identity
of the measure. So an interrupted run goes on where it stopped, a renamed file is known, and a finished run is repeated
without decoding anything.
"""

__all__ = ["Measure", "Measured", "measure_files"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from flowvid.data.cache import TensorCache, cache_key, file_identity
from flowvid.data.footage.reader import BrokenFootage, Skipped
from flowvid.metrics.clip_set import ClipProtocol, Progress, read_clip
from flowvid.video import Video

Files = tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Measure:
    """Something that is measured of every clip.

    Arguments:
        name: What it is called.
        identity: Equal only for equal measures: a version, a checksum of weights.
        apply: From batches of clips, one for each file of an item, to one row per item.
    """

    name: str
    identity: str
    apply: Callable[..., Tensor]


@dataclass(eq=False)
class Measured:
    """What was measured.

    Arguments:
        rows: One tensor per item, by name of the measure.
        contents: What each item's files hold, as a checksum.
        items: The files that were measured.
        skipped: Files that could not be read, with reasons.
    """

    rows: dict[str, list[Tensor]]
    contents: list[str] = field(default_factory=list)
    items: list[Files] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def stacked(self, name: str) -> Tensor:
        """All rows of a measure, in an order that depends on the contents alone."""
        order = sorted(range(len(self.contents)), key=self.contents.__getitem__)
        return torch.stack([self.rows[name][number] for number in order])


@dataclass(eq=False)
class _Item:
    """Files under way: what they hold, what is known of them, and what they show if something is not."""

    files: Files
    content: str
    found: dict[str, Tensor]
    videos: list[Video] = field(default_factory=list)


def measure_files(
    items: Sequence[Files],
    measures: Sequence[Measure],
    protocol: ClipProtocol,
    *,
    cache: TensorCache | None = None,
    batch: int = 4,
    progress: Progress | None = None,
) -> Measured:
    """Measure every item; files that cannot be read are listed, not raised.

    Arguments:
        items: The files of each item: one for a clip, two for a pair.
        measures: What to measure; may be nothing.
        protocol: How files are read.
        cache: Where what is known is read and what is new is written.
        batch: Items in memory at a time.
        progress: Told how many items are done, of how many.

    Raises:
        ValueError: The batch is not positive.
    """
    if batch < 1:
        raise ValueError(f"Clips are measured at least one at a time; got batch={batch}.")
    done = Measured({measure.name: [] for measure in measures})
    report = progress or (lambda number, total: None)
    for start in range(0, len(items), batch):
        chunk = [
            item for files in items[start : start + batch] if (item := _open(files, measures, protocol, cache, done))
        ]
        for measure in measures:
            _fill(measure, [item for item in chunk if measure.name not in item.found], protocol, cache)
        for item in chunk:
            done.items.append(item.files)
            done.contents.append(item.content)
            for measure in measures:
                done.rows[measure.name].append(item.found[measure.name])
        report(min(start + batch, len(items)), len(items))
    return done


def _open(
    files: Files, measures: Sequence[Measure], protocol: ClipProtocol, cache: TensorCache | None, done: Measured
) -> _Item | None:
    """What is known of an item, and its clips if that is not everything; None where a file cannot be read."""
    path = files[0]
    contents: list[str] = []
    videos: list[Video] = []
    try:
        for path in files:
            contents.append(file_identity(path, content=True))
        content = " ".join(contents)
        keys = {measure.name: _key(measure, content, protocol) for measure in measures}
        found = {name: seen for name, key in keys.items() if cache and (seen := cache.read(key)) is not None}
        if len(found) < len(measures):
            for path in files:
                videos.append(read_clip(path, protocol))
    except (BrokenFootage, OSError) as error:
        done.skipped.append(Skipped(path, str(error)))
        return None
    return _Item(files, content, found, videos)


def _fill(measure: Measure, items: list[_Item], protocol: ClipProtocol, cache: TensorCache | None) -> None:
    if not items:
        return
    times = items[0].videos[0].times
    sides = zip(*(item.videos for item in items), strict=True)
    videos = [Video(torch.cat([video.frames for video in side]), times) for side in sides]
    with torch.no_grad():
        rows = measure.apply(*videos).cpu()
    for item, row in zip(items, rows, strict=True):
        key = _key(measure, item.content, protocol)
        item.found[measure.name] = cache.get(key, row.clone) if cache else row.clone()


def _key(measure: Measure, content: str, protocol: ClipProtocol) -> str:
    how = [protocol.frames, protocol.fps, list(protocol.size)]
    return cache_key(measure=measure.identity, content=content, protocol=how)
