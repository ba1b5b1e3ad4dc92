r"""Rhythm: artefacts that return at the period of the frames a method was given, or of the chunks it works in.

- *Heartbeat*: frames between given ones are blurrier than these. Sharpness is the variance of the Laplacian.
- *Flicker*: some steps between frames are larger than others. The size of the frame differences, as a signal in
  time, then has a line in its spectrum at one over the period. Its power is compared with the local floor, the median
  up to the neighbouring multiples on both sides, corrected to a mean; of noise the ratio is about one. A train of
  period p has lines at every multiple of 1 / p, so the longest period with a line is its period.
- *Seams*: where frame n is reached from frame n - lowbit(n), SCIENCE P10 bounds |z_n - Phi_1(z_(n-1))| by
  kappa_1 + ... + kappa_m, with m the trailing zeros of n and kappa_j the semigroup gap of level j: how far one jump of
  2^j frames ends from two of half the length. So frames with many trailing zeros flicker, as much as the kappa_j allow.

Distances between states are root mean squares per entry.

References:
    Diatom autofocusing in brightfield microscopy (Pech-Pacheco et al., 2000), https://doi.org/10.1109/ICPR.2000.903548
    The Use of Fast Fourier Transform for the Estimation of Power Spectra (Welch, 1967), https://doi.org/10.1109/TAU.1967.1161901
"""

__all__ = ["flicker_line", "heartbeat", "line_strength", "seams", "semigroup_gaps", "sharpness"]

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.special import gammaincinv
from torch import Tensor

from flowvid.metrics.structure import even_step
from flowvid.solve.jump import FlowMap
from flowvid.video import Trajectory, Video

_LOBE = 2.0
_BINS = 4


def sharpness(video: Video) -> Float64[Tensor, "batch time"]:
    """Variance of the Laplacian of every frame, of pixels in [0, 1] without their border, mean over channels.

    Raises:
        ValueError: Frames are smaller than 3 x 3 pixels.
    """
    if min(video.frames.shape[-2:]) < 3:
        raise ValueError(f"A Laplacian needs frames of at least 3 x 3 pixels; got {tuple(video.frames.shape[-2:])}.")
    pixels = (video.frames.double() + 1) / 2
    sides = pixels[..., :-2, 1:-1] + pixels[..., 2:, 1:-1] + pixels[..., 1:-1, :-2] + pixels[..., 1:-1, 2:]
    return (sides - 4 * pixels[..., 1:-1, 1:-1]).var(dim=(-2, -1), correction=0).mean(dim=-1).cpu()


def heartbeat(video: Video, given: Sequence[float | int]) -> Float64[Tensor, "batch"]:
    """Sharpness of the frames between given ones, relative to the given ones around them; 1 is no heartbeat.

    What a frame is compared with is blended linearly in time between the given frames before and after it. Frames
    before the first and after the last given one do not count.

    Arguments:
        video: Sampled frames, with the given ones among them.
        given: Times of at least two given frames, in seconds.

    Raises:
        ValueError: A given time is not among those of the video, nothing lies between, or given frames are flat.
    """
    times, wanted = video.times.numpy(), np.sort(np.asarray(given, dtype=np.float64))
    places = [int(np.abs(times - time).argmin()) for time in wanted]
    missing = [time for time, place in zip(wanted.tolist(), places, strict=True) if abs(times[place] - time) > 1e-9]
    if missing or len(set(places)) < 2:
        raise ValueError(
            f"Expected the times of at least two given frames, all among those of the video; got {wanted.tolist()}, "
            f"of which {missing} are not."
        )
    between = [place for place in range(places[0], places[-1]) if place not in places]
    if not between:
        raise ValueError("No frame lies between the given ones; sample at times between them.")
    found = sharpness(video).numpy()
    around = np.stack([np.interp(times[between], times[places], row[places]) for row in found]).sum(axis=1)
    if not (around > 0).all():
        raise ValueError("The sharpness of given frames is zero: they are flat, and nothing can be compared with them.")
    return torch.from_numpy(found[:, between].sum(axis=1) / around)


def line_strength(signal: Float64[Tensor, "batch time"], period: float | int) -> float:
    """Power of evenly sampled signals at one over a period, relative to the local floor; about 1 without a line.

    Each signal is freed of its straight trend and tapered (Hann); powers are averaged over the batch. A signal that
    does not vary has 1.

    Arguments:
        signal: One row per clip.
        period: In samples, at least 2.

    Raises:
        ValueError: The period is below 2, the signal is too short for it, or a value is not finite.
    """
    count = signal.shape[1]
    if not 2 <= period < math.inf or count < max(8 * period, 24):
        raise ValueError(
            f"A line needs a period of at least 2 samples, and 8 periods of at least 24 samples together; got a period "
            f"of {period:g} and {count} samples."
        )
    if not bool(torch.isfinite(signal).all()):
        raise ValueError("A spectrum needs finite values; some are NaN or infinite.")
    values = signal.cpu().numpy()
    ramp = np.linspace(-1, 1, count)
    values = values - values.mean(axis=1, keepdims=True)
    values = values - np.outer(values @ ramp / (ramp @ ramp), ramp)
    scale = np.abs(signal.cpu().numpy()).max()
    if np.abs(values).max() <= 1e-12 * scale:
        return 1.0
    values *= np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 2
    frequencies = np.arange(1, count // 2 + 1) / count
    away = np.abs(frequencies - 1 / period) * count
    near = frequencies[(away > _LOBE) & (away < count / period - _LOBE)]
    assert len(near) >= _BINS, "eight periods leave room for a floor"
    waves = np.exp(-2j * np.pi * np.outer(np.arange(count), np.append(near, 1 / period)))
    power = (np.abs(values @ waves) ** 2).mean(axis=0)
    median_of_mean = gammaincinv(len(values), 0.5) / len(values)
    floor = np.median(power[:-1]) / median_of_mean
    return float(power[-1] / max(floor, 1e-12 * power.max()))


def flicker_line(video: Video, period: float | int) -> float:
    """The line of the sizes of frame differences at a period, over its floor; about 1 without flicker.

    Arguments:
        video: Evenly spaced frames, at least 8 periods and one more.
        period: In frames, at least 2: that of chunks, of given frames, or of a level of a dyadic tree.

    Raises:
        ValueError: Frames are not evenly spaced, or there are too few for the period.
    """
    even_step(video.times)
    sizes = video.frames.double().diff(dim=1).flatten(2).square().mean(dim=2).sqrt()
    return line_strength(sizes, period)


def semigroup_gaps(flow_map: FlowMap, trajectory: Trajectory) -> Float64[Tensor, "batch time level"]:
    """How far one jump over a gap ends from two over half of it, from every state of a trajectory.

    Level j = 1, 2, ... compares the forward gap 2^j with the gap 2^(j-1), in units of the shortest one. The largest
    over the states estimates kappa_j from below, the mean says what is typical.

    Arguments:
        flow_map: What jumps, with forward gaps that double.
        trajectory: The states to jump from; their velocity counts as known.

    Raises:
        ValueError: There are fewer than two forward gaps, or they do not double.
    """
    gaps = _forward(flow_map)
    if len(gaps) < 2 or any(abs(later / gap - 2) > 1e-6 for gap, later in pairwise(gaps)):
        raise ValueError(f"Semigroup gaps need two or more forward gaps, each twice the one before; got {gaps} s.")
    ends = _jumps(flow_map, trajectory.times, trajectory.states)
    levels = []
    for gap, later in pairwise(gaps):
        twice = _jumps(flow_map, trajectory.times + gap, ends[gap])[gap]
        levels.append(_size(twice - ends[later]))
    return torch.stack(levels, dim=2)


def seams(flow_map: FlowMap, trajectory: Trajectory) -> Float64[Tensor, "level"]:
    """Mean of |z_n - Phi_1(z_(n-1))| over the frames whose number has 0, 1, 2, ... trailing zeros.

    Arguments:
        flow_map: What sampled the trajectory; Phi_1 jumps over its shortest forward gap.
        trajectory: Sampled frames 0, 1, ..., the shortest forward gap apart.

    Raises:
        ValueError: The flow map has no forward gap, or the frames are not that far apart.
    """
    gaps = _forward(flow_map)
    step = even_step(trajectory.times)
    if not gaps or abs(step / gaps[0] - 1) > 1e-6:
        raise ValueError(
            f"Seams need frames as far apart as the shortest forward gap; the frames are {step:g} s apart and the "
            f"forward gaps are {gaps} s."
        )
    reached = _jumps(flow_map, trajectory.times[:-1], trajectory.states[:, :-1])[gaps[0]]
    sizes = _size(trajectory.states[:, 1:] - reached)
    zeros = torch.tensor([(n & -n).bit_length() - 1 for n in range(1, len(trajectory.times))])
    return torch.stack([sizes[:, zeros == level].mean() for level in range(int(zeros.max()) + 1)])


def _forward(flow_map: FlowMap) -> list[float]:
    return sorted(gap for gap in flow_map.gaps if gap > 0)


def _jumps(
    flow_map: FlowMap, times: Float64[Tensor, "time"], states: Float[Tensor, "batch time *state"]
) -> dict[float, Float[Tensor, "batch time *state"]]:
    """Where each forward gap leads."""
    rates = flow_map.rates(times.tolist(), states, [True] * len(times))
    return {gap: states + gap * rates[:, :, index] for index, gap in enumerate(flow_map.gaps) if gap > 0}


def _size(difference: Float[Tensor, "batch time *state"]) -> Float64[Tensor, "batch time"]:
    return difference.detach().double().flatten(2).square().mean(dim=2).sqrt().cpu()
