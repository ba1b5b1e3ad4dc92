"""Metrics: closed forms on rendered clips, published reference values, and counts of what is computed and held."""

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.data.worlds.clips import FAMILIES, World, clip_positions, render_clips
from flowvid.metrics.cost import cost, median_seconds
from flowvid.metrics.distortion import mean_squared_error, psnr, ssim
from flowvid.metrics.motion import centroid, position_error, second_difference_ratio, speed_unevenness
from flowvid.video import Video


def video(pixels: Tensor) -> Video:
    """A video of pixels in [0, 1], [batch time channel height width]."""
    return Video(pixels * 2 - 1, torch.arange(pixels.shape[1], dtype=torch.float64))


def one(pixels: object) -> Video:
    """A single frame of a single channel."""
    return video(torch.as_tensor(pixels, dtype=torch.float64)[None, None, None])


def dots(places: list[tuple[int, int]], *, side: int = 16) -> Video:
    """A clip of one bright pixel at (x, y)."""
    frames = torch.zeros(1, len(places), 1, side, side, dtype=torch.float64)
    for number, (x, y) in enumerate(places):
        frames[0, number, 0, y, x] = 1
    return video(frames)


# Where things are


@pytest.mark.parametrize("motion", FAMILIES)
def test_the_centroid_of_a_rendered_clip_is_its_position(motion: str) -> None:
    times = [0.0, 0.31, 0.77, 1.5]
    clips = World(motion=motion).clips(range(40), "test")
    positions = clip_positions(clips, times)[:, :, 0]
    error = position_error(render_clips(clips, times), positions)
    assert error.shape == (40, 4)
    assert float(error.mean()) < 0.1
    assert float(error.max()) < 0.3
    assert float(position_error(render_clips(clips, times), positions + torch.tensor([3.0, 4.0])).mean()) == (
        pytest.approx(5, abs=0.15)
    )


@given(st.integers(0, 15), st.integers(0, 15))
def test_the_centroid_of_a_pixel_is_its_centre(x: int, y: int) -> None:
    assert centroid(dots([(x, y)]))[0, 0].tolist() == pytest.approx([x + 0.5, y + 0.5])


def test_faint_ink_does_not_pull_and_strong_ink_pulls_by_its_excess() -> None:
    frame = torch.full((8, 8), 0.1, dtype=torch.float64)
    frame[2, 1], frame[2, 5] = 1.0, 0.4
    share = 0.9 / (0.9 + 0.3)
    x, y = centroid(one(frame))[0, 0].tolist()
    assert x == pytest.approx(1.5 * share + 5.5 * (1 - share))
    assert y == pytest.approx(2.5)


@pytest.mark.parametrize("level", [0.0, 0.05, 0.1])
def test_a_frame_without_ink_counts_as_its_middle(level: float) -> None:
    assert centroid(one(torch.full((6, 10), level)))[0, 0].tolist() == [5.0, 3.0]


# How close


def test_psnr_of_the_published_example() -> None:
    """torchmetrics documents 2.5527 dB for these values and a range of 3: 10 log10(9 / 5), 5 the mean square."""
    predicted, truth = ([[0.0, 1.0], [2.0, 3.0]], [[3.0, 2.0], [1.0, 0.0]])
    frames = [one(torch.tensor(values) / 3) for values in (predicted, truth)]
    assert mean_squared_error(*frames).item() == pytest.approx(5 / 9)
    assert psnr(*frames).item() == pytest.approx(2.5527, abs=5e-5)
    assert psnr(*frames).item() == pytest.approx(10 * math.log10(9 / 5))


@given(st.floats(0.01, 1.0))
def test_errors_of_a_uniform_offset(offset: float) -> None:
    flat = [one(torch.full((4, 4), value, dtype=torch.float64)) for value in (0.0, offset)]
    assert mean_squared_error(*flat).item() == pytest.approx(offset**2)
    assert psnr(*flat).item() == pytest.approx(-20 * math.log10(offset), abs=1e-9)


def test_equal_frames_have_no_error_and_the_greatest_scores() -> None:
    frames = video(torch.rand(2, 3, 1, 12, 12, generator=torch.Generator().manual_seed(0)))
    assert mean_squared_error(frames, frames).tolist() == [[0.0] * 3] * 2
    assert psnr(frames, frames).tolist() == [[pytest.approx(100.0)] * 3] * 2
    assert ssim(frames, frames).flatten().tolist() == [pytest.approx(1.0)] * 6


def test_ssim_of_the_published_example() -> None:
    """torchmetrics documents 0.9219 for noise and three quarters of it; one number for each frame here."""
    pixels = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(42))
    scores = ssim(video(pixels[None]), video(0.75 * pixels[None]))
    assert scores.shape == (1, 3)
    assert float(scores.mean()) == pytest.approx(0.9219, abs=2e-4)


def test_scores_belong_to_their_frames() -> None:
    pixels = torch.rand(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    spoilt = pixels.clone()
    spoilt[1, 0] = 1 - spoilt[1, 0]
    for score in (psnr, ssim):
        found = score(video(spoilt), video(pixels))
        assert found.argmin().item() == 2
        assert (found == found.max()).sum() == 3


@pytest.mark.parametrize("metric", [mean_squared_error, psnr, ssim])
def test_videos_of_different_shapes_are_not_compared(metric: object) -> None:
    few, many = (video(torch.zeros(batch, 2, 1, 16, 16)) for batch in (1, 3))
    with pytest.raises(ValueError, match="equal shapes"):
        metric(few, many)


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        ssim(one(torch.zeros(10, 12)), one(torch.zeros(10, 12)))


# How smooth


@pytest.mark.parametrize("every", [2, 3, 4])
def test_second_differences_of_a_blend_between_key_frames_of_an_accelerating_clip(every: int) -> None:
    """Truth t^2 has second differences 2 everywhere; the blend 2 * every at each of its inner knots, else 0."""
    knots = 4
    count = every * knots + 1
    t = np.arange(count)
    truth = t**2 / count**2
    blend = np.interp(t, t[::every], truth[::every])
    clips = [video(torch.tensor(x)[None, :, None, None, None].expand(2, -1, 1, 3, 3)) for x in (blend, truth)]
    expected = every**2 * (knots - 1) / (count - 2)
    assert second_difference_ratio(*clips) == pytest.approx(expected)
    assert second_difference_ratio(clips[1], clips[1]) == pytest.approx(1)


def test_second_differences_need_three_frames() -> None:
    with pytest.raises(ValueError, match="at least three frames; got 2"):
        second_difference_ratio(dots([(0, 0)] * 2), dots([(0, 0)] * 2))


def test_true_motion_is_even_and_stutter_is_not() -> None:
    """Moving two pixels every other frame instead of one every frame is off by one pixel per frame: ratio one."""
    even, stuttering = [(n, 3) for n in range(9)], [(2 * (n // 2), 3) for n in range(9)]
    positions = centroid(dots(even))
    assert speed_unevenness(dots(even), positions) == pytest.approx(0, abs=1e-12)
    assert speed_unevenness(dots(stuttering), positions) == pytest.approx(1)
    assert speed_unevenness(dots([(4, 3)] * 9), positions) == pytest.approx(1)
    offset = [(n + 2, 5) for n in range(9)]
    assert speed_unevenness(dots(offset), positions) == pytest.approx(0, abs=1e-12)


def test_unevenness_needs_frames_and_motion() -> None:
    still = dots([(3, 3)] * 4)
    with pytest.raises(ValueError, match="speed, which is zero"):
        speed_unevenness(still, centroid(still))
    with pytest.raises(ValueError, match="at least two frames; got 1"):
        speed_unevenness(dots([(3, 3)]), centroid(dots([(3, 3)])))


# What it costs


def multiply_adds(work: Callable[[], object]) -> int:
    return cost(work).multiply_adds


def peak_bytes(work: Callable[[], object]) -> int:
    return cost(work).peak_bytes


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=15)
def test_multiply_adds_of_layers(batch: int, inputs: int, outputs: int) -> None:
    linear, grid = nn.Linear(inputs, outputs), torch.zeros(batch, inputs, 6, 8)
    assert multiply_adds(lambda: linear(torch.zeros(batch, inputs))) == batch * inputs * outputs
    padded = nn.Conv2d(inputs, outputs, 3, padding=1)
    assert multiply_adds(lambda: padded(grid)) == batch * outputs * inputs * 9 * 6 * 8
    strided = nn.Conv2d(inputs, outputs, 3, padding=1, stride=2)
    assert multiply_adds(lambda: strided(strided.weight.new_zeros(batch, inputs, 6, 8))) == (
        batch * outputs * inputs * 9 * 3 * 4
    )
    assert multiply_adds(lambda: grid + grid) == 0


def test_multiply_adds_add_up() -> None:
    weight = torch.zeros(5, 7)
    assert multiply_adds(lambda: [weight @ weight.T for _ in range(3)]) == 3 * 5 * 7 * 5


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["make", "copy", "view", "change", "drop"]), st.integers(0, 7), st.integers(1, 50)),
    max_size=25,
)


@given(ACTIONS)
def test_peak_bytes_of_any_programme_of_copies_views_and_changes(actions: list[tuple[str, int, int]]) -> None:
    """A programme on a list of tensors, and what it should hold: storages by number, each with its users."""
    most = 0

    def programme() -> None:
        nonlocal most
        tensors: list[Tensor] = []
        storages: list[int] = []
        sizes: list[int] = []
        for action, where, size in actions:
            at = where % len(tensors) if tensors else 0
            if action == "make" or not tensors:
                tensors.append(torch.zeros(size, dtype=torch.float64))
                storages.append(len(sizes))
                sizes.append(8 * size)
            elif action == "copy":
                tensors.append(tensors[at] + 1)
                storages.append(len(sizes))
                sizes.append(8 * tensors[at].numel())
            elif action == "view":
                tensors.append(tensors[at].view(1, -1)[0])
                storages.append(storages[at])
            elif action == "change":
                tensors[at].mul_(2)
            else:
                del tensors[at], storages[at]
            most = max(most, sum(sizes[number] for number in set(storages)))

    assert peak_bytes(programme) == most


def test_peak_bytes_of_a_chain_are_those_of_two_links() -> None:
    start = torch.zeros(1000)

    def chain() -> Tensor:
        found = start
        for _ in range(10):
            found = found + 1
        return found

    assert peak_bytes(chain) == 2 * 4000
    assert peak_bytes(lambda: start.clone().add_(1).mul_(2).relu_()) == 4000


def test_what_was_there_before_does_not_count() -> None:
    weight, grid = torch.zeros(100, 100), torch.zeros(3, 100)
    assert peak_bytes(lambda: weight.view(-1)) == 0
    assert peak_bytes(lambda: weight.add_(1)) == 0
    assert peak_bytes(lambda: F.linear(grid, weight)) == 3 * 100 * 4
    assert peak_bytes(lambda: weight[0] + weight[1]) == 100 * 4


def test_peak_bytes_count_what_a_graph_keeps() -> None:
    """Without gradients sin(sin(...)) holds two arrays, with them one for each operation."""
    start = torch.zeros(500, requires_grad=True)

    def chain() -> Tensor:
        found = start
        for _ in range(6):
            found = found.sin()
        return found

    assert peak_bytes(chain) == 6 * 2000
    with torch.no_grad():
        assert peak_bytes(chain) == 2 * 2000


def test_times_are_medians() -> None:
    pauses = [0.3, 0.001, 0.06, 0.001, 0.3]
    assert 0.06 <= median_seconds(lambda: time.sleep(pauses.pop(0)), repeats=5) < 0.3
    assert pauses == []


def test_work_is_called_once_to_be_counted() -> None:
    calls: list[int] = []
    cost(lambda: calls.append(0))
    assert len(calls) == 1


def test_longer_work_takes_longer() -> None:
    short, long = (median_seconds(lambda: time.sleep(pause), repeats=1) for pause in (0.0, 0.1))  # noqa: B023
    assert short < 0.1 <= long


def test_timing_needs_a_repetition() -> None:
    with pytest.raises(ValueError, match="at least one repetition; got 0"):
        median_seconds(lambda: None, repeats=0)
