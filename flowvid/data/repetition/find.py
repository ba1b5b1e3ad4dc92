"""What repeats in footage, and the unique part of it, with a weight for how often it occurs.

A camera before a clock from the first of January to the fifth sees the same twelve hours eight times. Training on every
frame spends seven eighths of the work on what is known already; training on one turn alone forgets that it occurs eight
times. So every frame gets a *representative* (see `flowvid.data.repetition.same_frames`), the frames that are kept
get a *weight*, the number of frames that each stands for, and the weights add up to the number of frames.

**Slow change is not repetition.** A stretch of repeated frames shorter than ``shortest`` seconds stays in place, its
frames sharing the weight, and so does one that moves away from its representative by half the tolerance while it lasts:
slow motion remains footage, and a picture that stands still does not.

References:
    Near-Duplicate Video Retrieval: Current Research and Future Trends (Liu et al., 2013),
        https://doi.org/10.1145/2501654.2501658
"""

__all__ = ["FrameStore", "Repeat", "Repetition", "Segment", "find_repetition"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from flowvid.data.repetition.frame_store import FrameStore, StoredFile
from flowvid.data.repetition.recurrence import Run, fractional_period, repeated_runs
from flowvid.data.repetition.same_frames import representatives, tolerance_of


@dataclass(frozen=True)
class Segment:
    """A stretch of footage that is kept.

    Arguments:
        file: Number of its file.
        start: Seconds at which its first frame appears.
        stop: Seconds at which the frame after its last one appears.
        first: Number of its first frame in the file.
        frames: How many frames it holds.
        weight: How many frames it stands for.
        period: Seconds after which its end comes back, where it ends in a loop; else None.
    """

    file: int
    start: float
    stop: float
    first: int
    frames: int
    weight: float
    period: float | None


@dataclass(frozen=True)
class Repeat:
    """A stretch [start, stop) of footage that repeats an earlier one.

    Arguments:
        kind: "still" for one picture that stands; "loop" where original and copy overlap or touch; else "copy".
        file: Number of its file.
        start: Seconds.
        stop: Seconds.
        source: Number of the file of the original.
        source_start: Seconds at which the original starts in its file.
        period: Seconds of a turn of a loop, not always a whole number of frames; else None.
    """

    kind: str
    file: int
    start: float
    stop: float
    source: int
    source_start: float
    period: float | None


@dataclass(frozen=True, eq=False)
class Repetition:
    """What repeats in some files.

    Arguments:
        names: Of the files.
        times: Seconds of the frames of each file.
        representative: For each frame, all files in order, the number of the first frame that shows the same.
        weights: How many frames each frame stands for; 0 for those that are not kept.
        segments: What is kept, in order.
        repeats: What repeats an earlier stretch, in order.
        near_periods: For each file without a loop, the period in seconds at which it nearly comes back; else None.
        tolerances: For each file, levels of 0..255 by which local means of the same picture may differ.
    """

    names: tuple[str, ...]
    times: tuple[Float64[Tensor, "_"], ...]
    representative: Int64[Tensor, "frame"]
    weights: Float64[Tensor, "frame"]
    segments: tuple[Segment, ...]
    repeats: tuple[Repeat, ...]
    near_periods: tuple[float | None, ...]
    tolerances: tuple[float, ...]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.weights)

    @property
    def kept(self) -> int:
        """Number of frames that are kept."""
        return int((self.weights > 0).sum())

    @property
    def share(self) -> float:
        """Share of the frames that is kept."""
        return self.kept / self.frames

    def period(self, file: int) -> float | None:
        """Seconds of the longest loop of a file, or of its near period; None if it has neither."""
        loops = [repeat for repeat in self.repeats if repeat.file == file and repeat.period is not None]
        return max(loops, key=lambda loop: loop.stop - loop.start).period if loops else self.near_periods[file]

    def content(self) -> dict[str, Any]:
        """Everything as JSON holds it; frames are numbered from zero through all files in order."""
        first = 0
        files: list[dict[str, Any]] = []
        for number, (name, times) in enumerate(zip(self.names, self.times, strict=True)):
            here = slice(first, first + len(times))
            files.append(
                {
                    "file": name,
                    "frames": len(times),
                    "kept": int((self.weights[here] > 0).sum()),
                    "tolerance": self.tolerances[number],
                    "period": self.period(number),
                    "near_period": self.near_periods[number],
                    "segments": [_fields(one) for one in self.segments if one.file == number],
                    "repeats": [_fields(one) for one in self.repeats if one.file == number],
                    "representative": self.representative[here].tolist(),
                }
            )
            first = here.stop
        return {"frames": self.frames, "kept": self.kept, "share": self.share, "files": files}

    def table(self) -> str:
        """A line for each file: frames, kept, period, repeated stretches."""
        width = max(4, *(len(name) for name in self.names))
        lines = [f"{'file':<{width}}  {'frames':>7} {'kept':>7} {'share':>6} {'period':>10} {'repeats':>7}"]
        for file in self.content()["files"]:
            period = "-" if file["period"] is None else f"{file['period']:.4g} s"
            mark = "~" if file["near_period"] is not None else ""
            lines.append(
                f"{file['file']:<{width}}  {file['frames']:>7} {file['kept']:>7} "
                f"{file['kept'] / file['frames']:>6.1%} {mark + period:>10} {len(file['repeats']):>7}"
            )
        lines.append(f"{'all':<{width}}  {self.frames:>7} {self.kept:>7} {self.share:>6.1%}")
        return "\n".join(lines)


def find_repetition(store: FrameStore, *, tolerance: float | None = None, shortest: float = 0.25) -> Repetition:
    """What repeats within and across the files of a store.

    Arguments:
        store: With at least one file. Files are compared with each other where their thumbnails have one size.
        tolerance: Levels of 0..255 by which local means of the same picture may differ; by default derived from the
            noise.
        shortest: Seconds; repeated stretches that are shorter stay where they are.

    Raises:
        ValueError: The store is empty, or a number is negative or not finite.
    """
    if not store.files:
        raise ValueError("Expected at least one file to look for repetition in; the store holds none.")
    for name, value in (("tolerance", tolerance or 0.0), ("shortest", shortest)):
        if not 0 <= value < math.inf:
            raise ValueError(f"Expected {name} to be finite and not negative; got {value}.")
    tolerances = [tolerance_of(store, file) if tolerance is None else tolerance for file in store.files]
    representative, distance = representatives(store, tolerances)
    frames = _Frames(store, representative, shortest)
    kept = frames.kept(distance, tolerances)
    counts = np.bincount(representative, minlength=len(kept))
    stay = np.bincount(representative[kept], minlength=len(kept))
    weights = np.where(kept, counts[representative] / np.maximum(stay[representative], 1), 0.0)
    runs = [run for run in repeated_runs(representative, frames.owner) if frames.lasts(run.start, run.stop)]
    repeats = [frames.repeat(run) for run in runs] + frames.stills(runs, kept)
    repeats.sort(key=lambda repeat: (repeat.file, repeat.start))
    looping = {repeat.file for repeat in repeats if repeat.kind == "loop"}
    return Repetition(
        names=tuple(file.name for file in store.files),
        times=tuple(torch.from_numpy(file.times) for file in store.files),
        representative=torch.from_numpy(representative),
        weights=torch.from_numpy(weights),
        segments=tuple(frames.segments(weights, {run.start: run.lag for run in runs if run.loop})),
        repeats=tuple(repeats),
        near_periods=tuple(None if n in looping else _near_period(file) for n, file in enumerate(store.files)),
        tolerances=tuple(float(value) for value in tolerances),
    )


class _Frames:
    """All frames in order, with the file and the seconds of each."""

    def __init__(self, store: FrameStore, representative: Int64[np.ndarray, "frame"], shortest: float) -> None:
        counts = [len(file.times) for file in store.files]
        self.firsts = np.concatenate(([0], np.cumsum(counts)))
        self.owner = np.repeat(np.arange(len(counts)), counts)
        self.times = np.concatenate([file.times for file in store.files])
        self.ends = np.concatenate([file.ends for file in store.files])
        self.blocks = [file.blocks for file in store.files]
        self.representative = representative
        self.shortest = shortest

    def lasts(self, start: int, stop: int) -> bool:
        """Whether frames [start, stop) are on the screen for the shortest time that counts."""
        return bool(self.ends[stop - 1] - self.times[start] >= self.shortest - 1e-9)

    def stretches(self, values: np.ndarray) -> Iterator[tuple[int, int]]:
        """Unbroken stretches of equal values within a file."""
        edges = np.flatnonzero((values[1:] != values[:-1]) | (self.owner[1:] != self.owner[:-1])) + 1
        yield from zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True)

    def kept(self, distance: Float64[np.ndarray, "frame"], tolerances: Sequence[float]) -> Bool[np.ndarray, "frame"]:
        """Which frames are kept: all but stretches of repeated ones that last and do not move away."""
        again = self.representative != np.arange(len(self.owner))
        for start, stop in self.stretches(self.representative):
            moved = distance[stop - 1] - distance[min(start + 1, stop - 1)]
            if not again[start] and moved > tolerances[self.owner[start]] / 2:
                again[start:stop] = False
        kept = ~again
        for start, stop in self.stretches(again):
            if again[start] and not self.lasts(start, stop):
                kept[start:stop] = True
        return kept

    def segments(self, weights: Float64[np.ndarray, "frame"], lags: dict[int, int]) -> Iterator[Segment]:
        """Unbroken stretches of kept frames; ``lags`` are those of the loops, by their second turn's first frame."""
        kept = weights > 0
        for start, stop in self.stretches(kept):
            if not kept[start]:
                continue
            lag = lags.get(stop, 0)
            whole = 0 < lag <= stop - start and self.owner[stop] == self.owner[start]
            yield Segment(
                file=int(self.owner[start]),
                start=float(self.times[start]),
                stop=float(self.ends[stop - 1]),
                first=int(start - self.firsts[self.owner[start]]),
                frames=stop - start,
                weight=float(weights[start:stop].sum()),
                period=float(self.ends[stop - 1] - self.times[stop - lag]) if whole else None,
            )

    def stills(self, runs: Sequence[Run], kept: Bool[np.ndarray, "frame"]) -> list[Repeat]:
        """Pictures that stand and are left out, where no run explains them."""
        free = np.ones(len(self.owner), dtype=bool)
        for run in runs:
            free[run.start : run.stop] = False
        stretches = self.stretches(np.where(free, self.representative, -1))
        return [
            self._stretch("still", start + 1, stop, start, None)
            for start, stop in stretches
            if free[start] and not kept[stop - 1] and stop - start > 1 and self.lasts(start + 1, stop)
        ]

    def repeat(self, run: Run) -> Repeat:
        """A run in seconds; the period of a loop is sharpened, and divided where its lag holds several turns."""
        source, file = run.start - run.lag, int(self.owner[run.start])
        if not (run.loop and self.owner[source] == file):
            return self._stretch("copy", run.start, run.stop, source, None)
        states = self.blocks[file][source - self.firsts[file] : run.stop - self.firsts[file]].astype(np.float64)
        again = states[run.lag :] - states[: -run.lag]
        found = fractional_period(states, noise=float(np.sqrt(np.median((again**2).sum(axis=1)))))
        turns = round(run.lag / found) if found else 0
        frames = found if found and turns and abs(turns * found - run.lag) < 0.5 else float(run.lag)
        seconds = np.median(self.times[run.start : run.stop] - self.times[source : run.stop - run.lag])
        return self._stretch("loop", run.start, run.stop, source, float(frames * seconds / run.lag))

    def _stretch(self, kind: str, start: int, stop: int, source: int, period: float | None) -> Repeat:
        return Repeat(
            kind=kind,
            file=int(self.owner[start]),
            start=float(self.times[start]),
            stop=float(self.ends[stop - 1]),
            source=int(self.owner[source]),
            source_start=float(self.times[source]),
            period=period,
        )


def _near_period(file: StoredFile) -> float | None:
    found = fractional_period(file.blocks.astype(np.float64))
    return None if found is None else float(found * (file.times[-1] - file.times[0]) / (len(file.times) - 1))


def _fields(part: Segment | Repeat) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__dataclass_fields__ if name != "file"}
