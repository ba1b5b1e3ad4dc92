"""Distortion: both conventions of errors, both means of PSNR, MS-SSIM, protocols for samples; published values."""

import math
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.metrics.distortion import (
    SampleScores,
    mean_absolute_error,
    mean_squared_error,
    ms_ssim,
    over_samples,
    psnr,
    psnr_of_mean,
    ssim,
    summed_absolute_error,
    summed_squared_error,
)
from flowvid.video import Video


def video(pixels: Tensor) -> Video:
    """A video of pixels in [0, 1], [batch time channel height width]."""
    return Video(pixels * 2 - 1, torch.arange(pixels.shape[1], dtype=torch.float64))


def flat(*values: float, side: int = 4) -> Video:
    """One clip of one-channel frames of constant values in [0, 1]."""
    return video(torch.tensor(values, dtype=torch.float64)[None, :, None, None, None].expand(1, -1, 1, side, side))


def noise(*shape: int, seed: int = 0) -> Video:
    return video(torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


# Errors


@given(st.integers(1, 2), st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))
def test_summed_errors_are_mean_errors_times_channels_and_pixels(
    batch: int, time: int, channels: int, height: int, width: int
) -> None:
    one, other = (noise(batch, time, channels, height, width, seed=seed) for seed in (1, 2))
    numbers = channels * height * width
    for mean, summed in ((mean_squared_error, summed_squared_error), (mean_absolute_error, summed_absolute_error)):
        assert mean(one, other).shape == (batch, time)
        torch.testing.assert_close(summed(one, other), mean(one, other) * numbers)


@given(st.floats(0, 1), st.floats(0, 1))
def test_errors_of_flat_frames(one: float, other: float) -> None:
    pair = flat(one, 0.5), flat(other, 0.5)
    assert mean_absolute_error(*pair)[0].tolist() == pytest.approx([abs(one - other), 0], abs=1e-12)
    assert summed_absolute_error(*pair)[0].tolist() == pytest.approx([16 * abs(one - other), 0], abs=1e-12)
    assert summed_squared_error(*pair)[0].tolist() == pytest.approx([16 * (one - other) ** 2, 0], abs=1e-12)


def test_the_two_means_of_psnr() -> None:
    """Errors 0.01 and 0.0001 have 20 and 40 dB, mean 30; the mean error 0.00505 has 23 dB."""
    pair = flat(0.1, 0.01), flat(0.0, 0.0)
    assert psnr(*pair)[0].tolist() == pytest.approx([20, 40])
    assert psnr_of_mean(*pair) == pytest.approx(-10 * math.log10(0.00505))
    assert psnr_of_mean(pair[0], pair[0]) == pytest.approx(100)


@given(st.integers(0, 100))
def test_the_mean_of_psnr_is_not_below_the_psnr_of_the_mean(seed: int) -> None:
    one, other = (noise(2, 4, 1, 3, 3, seed=2 * seed + number) for number in (0, 1))
    assert float(psnr(one, other).mean()) >= psnr_of_mean(one, other) - 1e-9


# Structure


def test_zeros_against_ones() -> None:
    pair = flat(0.0, side=16), flat(1.0, side=16)
    assert psnr(*pair).item() == pytest.approx(0, abs=1e-12)
    assert ssim(*pair).item() == pytest.approx(9.999e-05, abs=1e-8)


def test_ms_ssim_of_the_published_example() -> None:
    """torchmetrics documents 0.9628 for noise and three quarters of it; one number for each frame here."""
    pixels = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(42))[None]
    scores = ms_ssim(video(pixels), video(0.75 * pixels))
    assert scores.shape == (1, 3)
    assert float(scores.mean()) == pytest.approx(0.9628, abs=1e-4)
    assert float(ssim(video(pixels), video(0.75 * pixels)).mean()) == pytest.approx(0.9219, abs=2e-4)


def test_ms_ssim_belongs_to_frames_and_refuses_small_ones() -> None:
    frames = noise(1, 2, 1, 176, 177)
    spoilt = Video(torch.stack((frames.frames[:, 0], -frames.frames[:, 1]), dim=1), frames.times)
    scores = ms_ssim(spoilt, frames)[0]
    assert scores[0].item() == pytest.approx(1, abs=1e-5)
    assert scores[1].item() < 0.5
    with pytest.raises(ValueError, match=r"MS-SSIM needs frames of at least 176 x 176 pixels; got \(175, 200\)"):
        ms_ssim(noise(1, 1, 1, 175, 200), noise(1, 1, 1, 175, 200))


# Several samples


def test_a_sampler_of_both_outcomes_against_their_mean() -> None:
    """Truth 0.5 between samples 0 and 1: each is wrong by 1/4, their mean is right. And a clip where one is right."""
    truth = video(torch.tensor([0.5, 1.0])[:, None, None, None, None].expand(2, 3, 1, 2, 2).double())
    samples = [video(torch.full((2, 3, 1, 2, 2), value, dtype=torch.float64)) for value in (0.0, 1.0)]
    scores = over_samples(mean_squared_error, samples, truth, greater_is_better=False)
    assert scores.single.tolist() == pytest.approx([0.25, 0.5])
    assert scores.of_mean.tolist() == pytest.approx([0, 0.25])
    assert scores.best.tolist() == pytest.approx([0.25, 0])
    assert scores.samples == 2
    assert str(scores) == "single sample 0.375, mean of 2 samples 0.125, best of 2 samples 0.125 (2 clips)"
    decibels = over_samples(psnr, samples, truth, greater_is_better=True)
    assert decibels.best.tolist() == pytest.approx([-10 * math.log10(0.25), 100])


def test_the_best_is_chosen_by_clip_not_by_frame() -> None:
    """Either sample is right in one frame of two; no choice of one sample is right in both."""
    scores = over_samples(
        mean_absolute_error, [flat(0.0, 1.0), flat(1.0, 0.0)], flat(0.0, 0.0), greater_is_better=False
    )
    assert scores.best.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize(("score", "greater"), [(mean_squared_error, False), (psnr, True)])
def test_samples_in_any_order_and_more_of_them(score: Callable[[Video, Video], Tensor], greater: bool) -> None:
    truth, samples = noise(3, 2, 1, 4, 4, seed=9), [noise(3, 2, 1, 4, 4, seed=seed) for seed in range(3)]

    def scores(chosen: Iterator[Video]) -> SampleScores:
        return over_samples(score, chosen, truth, greater_is_better=greater)

    whole = scores(iter(samples))
    for order in permutations(samples):
        for name in ("single", "of_mean", "best"):
            torch.testing.assert_close(getattr(scores(iter(order)), name), getattr(whole, name))
    sign = 1 if greater else -1
    assert bool((sign * (whole.best - scores(iter(samples[:1])).best) >= 0).all())
    assert bool((sign * (whole.best - whole.single) >= 0).all())
    alone = scores(iter(samples[:1]))
    torch.testing.assert_close(alone.single, alone.best)
    torch.testing.assert_close(alone.single, alone.of_mean)


def test_no_samples_have_no_score() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        over_samples(psnr, [], flat(0.0), greater_is_better=True)


# All of them

METRICS = [
    mean_squared_error,
    mean_absolute_error,
    summed_squared_error,
    summed_absolute_error,
    psnr,
    psnr_of_mean,
    ssim,
    ms_ssim,
    lambda one, other: over_samples(psnr, [one, one], other, greater_is_better=True),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_metric_leaves_its_input_as_it_was(metric: Callable[[Video, Video], object], dtype: torch.dtype) -> None:
    pair = [
        Video(noise(1, 1, 1, 176, 176, seed=seed).frames.to(dtype), torch.zeros(1, dtype=torch.float64))
        for seed in (0, 1)
    ]
    before = [clip.frames.clone() for clip in pair]
    metric(*pair)
    for clip, kept in zip(pair, before, strict=True):
        assert torch.equal(clip.frames, kept)


@pytest.mark.parametrize("metric", METRICS)
def test_videos_of_different_shapes_are_not_compared(metric: Callable[[Video, Video], object]) -> None:
    with pytest.raises(ValueError, match=r"equal shapes|\(1, 1, 1, 176, 176\)"):
        metric(flat(0.0, side=176), flat(0.0, 0.0, side=176))


# Real footage


def _grey(path: Path) -> Video:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    return video(torch.from_numpy(frames)[None, :, None].double() / 255)


def test_errors_of_the_carphone_pair(data: Path) -> None:
    """Values of an independent implementation on grey frames of 0..255."""
    distorted, pristine = (_grey(data / "clips" / f"carphone_{name}.mp4") for name in ("distorted", "pristine"))
    assert distorted.frames.shape == (1, 120, 1, 144, 176)
    assert 255**2 * float(mean_squared_error(distorted, pristine).mean()) == pytest.approx(290.7302, abs=5e-5)
    assert 255 * float(mean_absolute_error(distorted, pristine).mean()) == pytest.approx(11.5159, abs=5e-5)
    assert float(psnr(distorted, pristine).mean()) == pytest.approx(23.50612, abs=5e-6)
    assert psnr_of_mean(distorted, pristine) == pytest.approx(10 * math.log10(255**2 / 290.7302), abs=1e-5)
