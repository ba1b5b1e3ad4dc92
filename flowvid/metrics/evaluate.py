"""A folder of videos against another: distances between the sets, errors of pairs, and what clips show by themselves.

Both sides are read by one `ClipProtocol`. *Set metrics* compare features of all generated clips with those of all
reference clips, whatever their names: squared Frechet distances with a bootstrap interval over videos, and the unbiased
kernel distance, by every network whose weights are there; FVD and FID only by their own networks. *Paired metrics* are
computed where the names of the files match one to one. *Alone* needs neither; both sides stand beside each other.

A Frechet distance is biased upward by an amount that grows with the number of features over that of samples, so the
counts belong to the number: compare it at equal counts only. Frames of one video are not independent samples, which is
why intervals resample videos. PSNR comes as the mean over frames and as that of the mean error; see
`flowvid.metrics.distortion`. A flicker line is the power of the sizes of frame differences at one over a period,
relative to the local floor: about 1 where there is none.

References:
    On Aliased Resizing and Surprising Subtleties in GAN Evaluation (Parmar et al., 2022),
        https://arxiv.org/abs/2104.11222
    On the Content Bias in Frechet Video Distance (Ge et al., 2024), https://arxiv.org/abs/2404.12391
"""

__all__ = ["Evaluation", "evaluate"]

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvid.data.cache import TensorCache, cache_key
from flowvid.data.footage.reader import Skipped
from flowvid.metrics.clip_measures import ALONE, ERRORS, FLOW, alone_measures, feature_measures, paired_measures
from flowvid.metrics.clip_set import ClipSets, Progress, Sampling, Source, common_sets
from flowvid.metrics.features import FeatureNetwork
from flowvid.metrics.found_weights import Networks
from flowvid.metrics.frechet import GaussianStatistics, bootstrap_frechet, frechet_distance
from flowvid.metrics.kernel import kernel_distance
from flowvid.metrics.measured import Measured, measure_files
from flowvid.metrics.rhythm import line_strength

_LEVEL = 0.95
_DISTANCE = ("value", "mean_term", "covariance_term", "low", "high", "standard_error", "excess", "kernel")
_LEAST_ERROR = 1e-10


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is asked for.

    Arguments:
        sampling: How clips are read.
        paired: Whether names must match one to one; without it paired metrics are computed where they do.
        periods: Periods of flicker, in frames.
        resamples: Of the bootstrap; 0 leaves intervals out.
        batch: Clips in memory at a time.

    Raises:
        ValueError: A period is below 2, or there is one resample alone.
    """

    sampling: Sampling = field(default_factory=Sampling)
    paired: bool = False
    periods: tuple[int, ...] = ()
    resamples: int = 100
    batch: int = 4

    def __post_init__(self) -> None:
        if any(period < 2 for period in self.periods) or self.resamples < 0 or self.resamples == 1:
            raise ValueError(
                f"Expected periods of at least 2 frames and 0 or at least 2 resamples; got {self.periods} and "
                f"{self.resamples}."
            )


def evaluate(
    generated: Source,
    reference: Source,
    networks: Networks,
    *,
    asked: Evaluation | None = None,
    cache: TensorCache | None = None,
    stage: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """All numbers of a set of videos against another, ready for JSON, with the protocol behind them.

    Arguments:
        generated: A folder, a pattern, a file, or a list of these.
        reference: Likewise.
        networks: Networks for distances between sets and for LPIPS.
        asked: What is asked for.
        cache: Where what is measured of single files is kept.
        stage: Announces what begins and returns what to tell its progress to.

    Raises:
        ValueError: A side holds nothing that can be read, all its clips are too short, or names must match and do not.
    """
    asked = asked or Evaluation()
    sets = common_sets(generated, reference, asked.sampling, cache=cache, stage=stage)
    unmatched = sets.unmatched()
    if asked.paired and unmatched:
        raise ValueError(f"Paired metrics need one file of each name on both sides. {_some(unmatched)}")
    work = _Work(sets, networks, asked, cache, stage or _silent)
    sides = [work.side(index) for index in (0, 1)]
    content: dict[str, Any] = {
        "protocol": {"frames": sets.protocol.frames, "fps": sets.protocol.fps, "size": list(sets.protocol.size)},
        "protocol_in_words": str(sets.protocol),
        "cut": sets.statements(),
        "clips": {side.name: len(done.items) for side, done in zip(sets.sides, sides, strict=True)},
        "sets": {network.name: work.distances(network, sides) for network in work.used},
        "alone": {side.name: work.alone(done) for side, done in zip(sets.sides, sides, strict=True)},
    }
    if unmatched:
        work.reasons["paired metrics"] = f"names do not match one to one (--paired lists them): {len(unmatched)} differ"
    else:
        content["paired"] = work.paired()
    return {
        **content,
        "not_computed": work.reasons | dict(networks.missing),
        "skipped": _skipped(sets, work.skipped),
        "warnings": work.warnings,
    }


class _Work:
    """One evaluation under way, with what it could not do and what it warns of."""

    def __init__(
        self,
        sets: ClipSets,
        networks: Networks,
        asked: Evaluation,
        cache: TensorCache | None,
        stage: Callable[[str], Progress],
    ) -> None:
        self.sets, self.networks, self.asked, self.cache, self.stage = sets, networks, asked, cache, stage
        self.skipped: dict[str, list[Skipped]] = {}
        self.warnings: list[str] = []
        features, no_features = feature_measures(networks, sets.protocol)
        alone, not_alone = alone_measures(sets.protocol)
        self.reasons = no_features | not_alone
        self.used = [network for network in networks.features if network.name not in no_features]
        self.measures = [*features, *alone]

    def side(self, index: int) -> Measured:
        """Everything that single clips of a side are asked."""
        side = self.sets.sides[index]
        done = self._measured(side.name, [(path,) for path in side.clips], self.measures)
        if not done.items:
            raise ValueError(f"No clip of the {side.name} side can be read: {_some(_reasons(done.skipped))}")
        return done

    def alone(self, done: Measured) -> dict[str, Any]:
        """What clips of a side show by themselves: mean, standard deviation over clips, and flicker of all of them."""
        content: dict[str, Any] = {}
        for measure, names in (("alone", ALONE), ("flow", FLOW)):
            if measure in done.rows:
                values = done.stacked(measure)
                content |= {name: _summary(values[:, column]) for column, name in enumerate(names)}
        if "sizes" not in done.rows:
            return content
        sizes = done.stacked("sizes")
        for period in self.asked.periods:
            needed = max(8 * period, 24) + 1
            if sizes.shape[1] + 1 < needed:
                self.reasons[f"flicker line at period {period}"] = f"it needs {needed} frames: --frames {needed}"
            else:
                content[f"flicker_line_{period}"] = {"mean": line_strength(sizes, period)}
        return content

    def distances(self, network: FeatureNetwork, sides: Sequence[Measured]) -> dict[str, Any]:
        """Frechet and kernel distance of the features of both sides."""
        name = network.name
        one, other = (side.stacked(name) for side in sides)
        videos = len(one), len(other)
        samples, features = [rows.shape[0] * rows.shape[1] for rows in (one, other)], one.shape[2]
        content: dict[str, Any] = {"videos": list(videos), "samples": samples, "features": features}
        if min(samples) < 2:
            self.reasons[name] = f"a distance needs at least two samples on each side; there are {samples}"
            return content
        if min(samples) <= features:
            self.warnings.append(
                f"{name}: {samples[0]} and {samples[1]} samples of {features} features; a covariance of no more "
                f"samples than features is singular and the distance biased upward. Take more than {features} samples "
                "on each side, and compare values at equal numbers only."
            )
        resamples = self.asked.resamples if min(videos) >= 2 else 0
        if self.asked.resamples and not resamples:
            self.warnings.append(f"{name}: no interval, which resamples videos and needs two on each side.")
        key = cache_key(
            distance="1",
            network=network.identity,
            contents=[sorted(side.contents) for side in sides],
            protocol=str(self.sets.protocol),
            resamples=resamples,
        )
        report = self.stage(f"{name}, distances")
        report(0, 1)

        def make() -> Tensor:
            return _distances(one, other, resamples)

        values = self.cache.get(key, make) if self.cache else make()
        report(1, 1)
        found = {label: value for label, value in zip(_DISTANCE, values.tolist(), strict=True) if math.isfinite(value)}
        return {**content, **found, "resamples": resamples, "level": _LEVEL}

    def paired(self) -> dict[str, Any]:
        """Errors of the clips against those of the same name."""
        measures, reasons = paired_measures(self.networks, self.sets.protocol)
        self.reasons |= reasons
        done = self._measured("pairs", self.sets.pairs(), measures)
        if not done.items:
            self.reasons["paired metrics"] = "no pair of files can be read"
            return {"pairs": 0}
        errors = done.stacked("errors")
        content: dict[str, Any] = {"pairs": len(done.items)}
        content |= {name: _summary(errors[:, column]) for column, name in enumerate(ERRORS)}
        mean = float(errors[:, ERRORS.index("mean_squared_error")].mean())
        content["psnr_of_mean"] = {"mean": -10 * math.log10(max(mean, _LEAST_ERROR))}
        content |= {name: _summary(done.stacked(name)) for name in done.rows if name != "errors"}
        return content

    def _measured(self, name: str, items: Sequence[tuple[Path, ...]], measures: Sequence[Any]) -> Measured:
        done = measure_files(
            items,
            measures,
            self.sets.protocol,
            cache=self.cache,
            batch=self.asked.batch,
            progress=self.stage(f"measuring, {name}"),
        )
        self.skipped[name] = done.skipped
        return done


def _distances(one: Tensor, other: Tensor, resamples: int) -> Tensor:
    """The numbers named in `_DISTANCE`; NaN where there is none."""
    nan = math.nan
    interval = (nan,) * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if resamples:
            found = bootstrap_frechet(one, other, resamples=resamples, level=_LEVEL)
            distance = found.distance
            interval = found.low, found.high, found.standard_error, found.excess
        else:
            distance = frechet_distance(GaussianStatistics.of(one), GaussianStatistics.of(other))
    kernel = kernel_distance(one, other).value
    numbers = (distance.value, distance.mean_term, distance.covariance_term, *interval, kernel)
    return torch.tensor(numbers, dtype=torch.float64)


def _summary(values: Tensor) -> dict[str, float]:
    spread = float(values.std()) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "deviation": spread}


def _skipped(sets: ClipSets, reading: dict[str, list[Skipped]]) -> list[dict[str, str]]:
    """Files that were left out, once each."""
    found = {one.path: one.reason for side in sets.sides for one in side.skipped}
    for skipped in reading.values():
        found |= {one.path: one.reason for one in skipped}
    return [{"file": str(path), "reason": reason} for path, reason in found.items()]


def _reasons(skipped: Sequence[Skipped]) -> list[str]:
    return [f"{one.path}: {one.reason}" for one in skipped]


def _some(lines: Sequence[str], most: int = 20) -> str:
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more + "."


def _silent(name: str) -> Progress:
    return lambda done, total: None
