"""Buckets: footage in groups of one duration, resolution and aspect ratio, so that batches need no padding.

Training on native sizes keeps compositions whole. A tensor has one size, though; so footage is grouped, and a batch is
of one group. A size is height and width in multiples of what the network asks for, with nearly the area wanted; of
those each piece of footage takes the one nearest its own aspect ratio: the picture is scaled to cover it, and what
stands over is cut off. It takes the largest area that does not enlarge it, and the longest duration that it has. How
many samples make a batch follows from a budget of pixels, so that all batches cost alike.

An epoch holds every piece once, in an order that noise decides. Processes take equal parts of each batch: at every step
all of them hold the same size, so that none waits for another. Where a bucket's last batch has fewer samples than there
are processes, some get none.

References:
    Video generation models as world simulators (Brooks et al., 2024),
        https://openai.com/index/video-generation-models-as-world-simulators
    Patch n' Pack: NaViT (Dehghani et al., 2023), https://arxiv.org/abs/2307.06304
"""

__all__ = ["Bucket", "BucketBatch", "Buckets", "Native", "sizes_near"]

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from flowvid.noise import Noise


@dataclass(frozen=True)
class Native:
    """What footage is by itself.

    Arguments:
        seconds: How long it lasts.
        height: Rows of pixels.
        width: Columns of pixels.

    Raises:
        ValueError: It has no pixels or a negative duration.
    """

    seconds: float
    height: int
    width: int

    def __post_init__(self) -> None:
        if not (self.height > 0 and self.width > 0 and 0 <= self.seconds < math.inf):
            raise ValueError(
                f"Footage has pixels and a finite duration; got {self.height} x {self.width}, {self.seconds} s."
            )

    def cover(self, height: int, width: int) -> float:
        """By how much it is scaled to cover a size."""
        return max(height / self.height, width / self.width)


@dataclass(frozen=True, order=True)
class Bucket:
    """What the samples of a batch have in common.

    Arguments:
        frames: How many.
        height: Rows of pixels.
        width: Columns of pixels.
    """

    frames: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Pixels of a sample."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class BucketBatch:
    """A part of a batch: which pieces of footage, and at which size.

    Arguments:
        bucket: The size.
        indices: Pieces of footage by number; none for a process that has no part.
    """

    bucket: Bucket
    indices: tuple[int, ...]


def sizes_near(area: int, *, multiple: int = 8, widest: float = 4.0) -> list[tuple[int, int]]:
    """Heights and widths in multiples of a number whose product is nearly an area, from tall to wide.

    For every height the width that comes nearest to the area, if the result is within a quarter of it.

    Arguments:
        area: Pixels of a frame.
        multiple: What heights and widths are multiples of.
        widest: The greatest ratio of the longer side to the shorter.

    Raises:
        ValueError: An argument is not positive, or no such size is near.
    """
    if min(area, multiple) < 1 or not widest >= 1:
        raise ValueError(
            f"Expected area and multiple of at least 1, and widest >= 1; got {area}, {multiple} and {widest}."
        )
    tallest = math.sqrt(area * widest) * 1.25
    sizes = []
    for height in range(multiple, math.floor(tallest) + 1, multiple):
        width = max(round(area / height / multiple), 1) * multiple
        ratio = max(height, width) / min(height, width)
        if abs(height * width / area - 1) <= 0.25 and ratio <= widest * (1 + 1e-9):
            sizes.append((height, width))
    if not sizes:
        raise ValueError(f"No size in multiples of {multiple} has nearly {area} pixels; ask for more, or a divisor.")
    return sorted(sizes, key=lambda size: size[1] / size[0])


@dataclass(frozen=True)
class Buckets:
    """Footage in buckets.

    Arguments:
        footage: What is grouped.
        fps: Frames per second at which it is read.
        frames: The durations, in frames.
        areas: The resolutions, in pixels of a frame.
        budget: Pixels of a batch, over all its samples and frames and for one process.
        multiple: What heights and widths are multiples of.

    Raises:
        ValueError: There is no footage, or some is shorter than all durations, no size is near an area, a sample
            exceeds the budget, or an argument is not positive.
    """

    footage: tuple[Native, ...]
    fps: float
    frames: tuple[int, ...]
    areas: tuple[int, ...]
    budget: int
    multiple: int = 8

    def __post_init__(self) -> None:
        if not (self.footage and self.frames and self.areas and min(self.frames) >= 1 and 0 < self.fps < math.inf):
            raise ValueError("Buckets need footage, durations of at least one frame, areas and a positive rate.")
        short = [n for n, one in enumerate(self.footage) if self._longest(one) is None]
        if short:
            raise ValueError(
                f"{len(short)} of {len(self.footage)} pieces of footage, the first of them number {short[0]}, are "
                f"shorter than {min(self.frames)} frames at {self.fps} per second. Leave them out or add a duration."
            )
        largest = max(self.assigned, key=lambda bucket: bucket.pixels)
        if largest.pixels > self.budget:
            raise ValueError(f"A sample of {largest} has {largest.pixels} pixels, more than the budget {self.budget}.")

    @cached_property
    def assigned(self) -> tuple[Bucket, ...]:
        """The bucket of every piece of footage."""
        ladders = {area: sizes_near(area, multiple=self.multiple) for area in sorted(self.areas)}
        return tuple(self._bucket(one, ladders) for one in self.footage)

    @cached_property
    def members(self) -> dict[Bucket, tuple[int, ...]]:
        """The pieces of every bucket that has any, by number."""
        return {
            bucket: tuple(n for n, its in enumerate(self.assigned) if its == bucket)
            for bucket in sorted(set(self.assigned))
        }

    def size_of_batch(self, bucket: Bucket) -> int:
        """How many samples of a bucket a process takes at a time."""
        return self.budget // bucket.pixels

    def epoch(self, noise: Noise, *, rank: int = 0, world: int = 1) -> Iterator[BucketBatch]:
        """One process's batches of an epoch; those of all processes together hold every piece once.

        Arguments:
            noise: That of one sample, which decides the order; fold it with the number of the epoch.
            rank: The process, from 0.
            world: How many there are.

        Raises:
            ValueError: The noise is not that of one sample, or there is no such process.
        """
        if len(noise) != 1 or not 0 <= rank < world:
            raise ValueError(
                f"Expected noise of one sample and 0 <= rank < world; got {len(noise)}, rank={rank}, world={world}."
            )
        whole = [batch for bucket in self.members for batch in self._batches(bucket, noise, world)]
        for number in _shuffled(noise.fold("batches"), len(whole)):
            yield BucketBatch(whole[number].bucket, whole[number].indices[rank::world])

    def report(self) -> dict[str, float]:
        """What grouping costs and saves, in shares.

        ``padding``: none, by construction. ``padding_without``: of one tensor that holds all footage at the sizes of
        its buckets. ``cut``: pixels of the scaled pictures that are cut off, on average. ``enlarged``: footage that is
        scaled up. ``unread``: seconds of the footage that a window of its bucket does not reach. ``last``: samples in
        batches that are not full.
        """
        pairs = list(zip(self.footage, self.assigned, strict=True))
        longest = max(bucket.frames for bucket in self.assigned)
        room = longest * max(b.height for b in self.assigned) * max(b.width for b in self.assigned)
        shown = [b.height * b.width / (one.cover(b.height, b.width) ** 2 * one.height * one.width) for one, b in pairs]
        read = [min(b.frames / self.fps, one.seconds) for one, b in pairs]
        partial = sum(len(members) % self.size_of_batch(bucket) for bucket, members in self.members.items())
        count, seconds = len(pairs), sum(one.seconds for one in self.footage)
        return {
            "padding": 0.0,
            "padding_without": 1 - sum(b.pixels for b in self.assigned) / (count * room),
            "cut": 1 - sum(shown) / count,
            "enlarged": sum(one.cover(b.height, b.width) > 1 for one, b in pairs) / count,
            "unread": 1 - sum(read) / seconds if seconds else 0.0,
            "last": partial / count,
        }

    def _longest(self, one: Native) -> int | None:
        """The longest duration that footage has; its last frame may be the one on screen at its end."""
        return max((n for n in self.frames if (n - 1) / self.fps <= one.seconds * (1 + 1e-9)), default=None)

    def _bucket(self, one: Native, ladders: dict[int, list[tuple[int, int]]]) -> Bucket:
        frames = self._longest(one)
        assert frames is not None, "footage that is too short was refused"
        nearest = [
            min(sizes, key=lambda size: abs(math.log(size[1] / size[0] * one.height / one.width)))
            for sizes in ladders.values()
        ]
        kept = [size for size in nearest if one.cover(*size) <= 1]
        return Bucket(frames, *(kept[-1] if kept else nearest[0]))

    def _batches(self, bucket: Bucket, noise: Noise, world: int) -> Iterator[BucketBatch]:
        members = self.members[bucket]
        size = self.size_of_batch(bucket) * world
        order = [members[n] for n in _shuffled(noise.fold(f"members/{bucket}"), len(members))]
        for start in range(0, len(order), size):
            yield BucketBatch(bucket, tuple(order[start : start + size]))


def _shuffled(noise: Noise, count: int) -> list[int]:
    return noise.uniform("order", count, dtype=torch.float64)[0].argsort(stable=True).tolist()
