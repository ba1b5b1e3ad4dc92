"""What samples owe to words: how much of a caption they show, and how near captions of moments bring them to the truth.

Of a branching world the law of what is told is known too: of all futures after the known frames, those remain at which
the same would be said at the same moments, and their probabilities add up to one again. If samples X follow that law,
and the truth Y is drawn from it, then averaged over clips

    E|X - Y| = E|X - X'|,    and    2 E|X - Y'| - E|X - X'| - E|Y' - Y''| = 0

with Y', Y'' drawn from the law: the position error is the spread, and the energy distance is zero. So an error above
that of the law is the model's own, and the error of the law is what words leave open.
"""

__all__ = ["WORDS", "Law", "law", "path_scores", "said_scores"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from flowvid.data.worlds.branching import futures
from flowvid.data.worlds.captions import Caption
from flowvid.data.worlds.clips import Clip
from flowvid.data.worlds.describe import describe_moment
from flowvid.metrics.reader import DigitReader, caption_score
from flowvid.video import Video

WORDS = ("digit", "direction", "speed", "events", "all")
"""What a caption says of a digit in flight; the last is everything at once."""


@dataclass(frozen=True, eq=False)
class Law:
    """The futures that remain when something is said of moments.

    Arguments:
        weights: Their probabilities.
        paths: Their positions in pixels.
    """

    weights: Float64[Tensor, "future"]
    paths: Float64[Tensor, "future time 2"]


def said_scores(reader: DigitReader, video: Video, captions: Sequence[Caption]) -> dict[str, list[float]]:
    """Of every clip, 1 where the reader finds what the caption says, else 0."""
    found = caption_score(reader, video, captions)
    return {word: getattr(found, word).tolist() for word in WORDS}


def law(clip: Clip, start: float, moments: Sequence[float], times: Sequence[float]) -> Law:
    """The futures of a clip of a branching world at which the same is said at some moments.

    Arguments:
        clip: The clip.
        start: What is known of it reaches up to here.
        moments: Of which something is said, after the start.
        times: At which positions are asked.
    """
    tree = futures(clip, start, times[-1])
    said = [describe_moment(clip, moment) for moment in moments]
    left = [
        (weight, future)
        for weight, future in tree
        if all(describe_moment(future, moment) == words for moment, words in zip(moments, said, strict=True))
    ]
    weights = torch.tensor([weight for weight, _ in left], dtype=torch.float64)
    paths = torch.stack([future.positions(times)[:, 0] for _, future in left])
    return Law(weights / weights.sum(), paths)


def path_scores(
    paths: Float64[Tensor, "sample time 2"], truth: Float64[Tensor, "time 2"], known: Law
) -> dict[str, float]:
    """Numbers of the samples of a clip, in pixels, means over times; and those of the law itself.

    Arguments:
        paths: Positions of at least two samples.
        truth: What happened.
        known: What could have.
    """
    count = len(paths)
    within = _apart(paths, paths).sum() / (count * (count - 1))
    across = (_apart(paths, known.paths).mean(dim=0) * known.weights).sum()
    lawful = known.weights @ _apart(known.paths, known.paths) @ known.weights
    return {
        "error": float(_apart(paths, truth[None]).mean()),
        "spread": float(within),
        "energy": float(2 * across - within - lawful),
        "law_error": float(known.weights @ _apart(known.paths, truth[None])[:, 0]),
        "law_spread": float(lawful),
        "futures": float(len(known.weights)),
    }


def _apart(one: Tensor, other: Tensor) -> Float64[Tensor, "row column"]:
    """Distances of paths, mean over times."""
    return (one[:, None] - other[None]).norm(dim=-1).mean(dim=-1)
