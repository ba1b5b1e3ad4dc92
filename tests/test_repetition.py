"""Repetition: hashes and their search, what counts as the same frame, periods, weights, windows of the unique part."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.cli import dedupe
from flowvid.data.footage.windows import FixedRate, RandomRate
from flowvid.data.repetition.find import FrameStore, Repetition, find_repetition
from flowvid.data.repetition.perceptual_hash import (
    RADIUS,
    SCALE,
    HammingIndex,
    block_means,
    local_means,
    perceptual_hash,
    thumbnail_size,
    thumbnails,
)
from flowvid.data.repetition.recurrence import Run, fractional_period, lag_distances, repeated_runs
from flowvid.data.repetition.same_frames import CEILING, FLOOR, tolerance_of
from flowvid.data.repetition.unique_windows import UniqueWindows
from flowvid.data.worlds.digits import load_glyphs, render
from flowvid.noise import Noise

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=40)


def texture(seed: int, side: int = 24) -> Tensor:
    """A smooth random picture."""
    coarse = Noise.of([seed]).uniform("texture", 1, 3, 6, 6)[0]
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (fine * 255).clamp(0, 255).round().to(torch.uint8)[0]


def pictures(labels: Sequence[int], side: int = 24) -> Tensor:
    """One frame for each label, equal labels alike."""
    bank = {label: texture(label, side) for label in set(labels)}
    return torch.stack([bank[label] for label in labels])


def found(*files: Tensor, fps: float = 10.0, tolerance: float | None = None, shortest: float = 0.0) -> Repetition:
    with FrameStore() as store:
        for number, frames in enumerate(files):
            times = torch.arange(len(frames), dtype=torch.float64) / fps
            store.read(f"file {number}", zip(times.split(7), frames.split(7), strict=True))
        return find_repetition(store, tolerance=tolerance, shortest=shortest)


# Hashes


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_thumbnails_keep_their_shape_and_their_area(height: int, width: int) -> None:
    low, narrow = thumbnail_size(height, width)
    if height * width <= 64 * 64:
        assert (low, narrow) == (height, width)
    elif min(low, narrow) > 8:
        assert low * narrow == pytest.approx(64 * 64, rel=0.08)
        assert low / narrow == pytest.approx(height / width, rel=0.1)


def test_sizes_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="0 x 4"):
        thumbnail_size(0, 4)


def test_thumbnails_are_means_of_areas() -> None:
    large = texture(0, 64).repeat_interleave(2, 1).repeat_interleave(2, 2)[None]
    assert torch.equal(thumbnails(large), texture(0, 64)[None])


def test_summaries_do_not_depend_on_the_batch() -> None:
    frames = torch.cat([pictures(range(9)), torch.zeros(2, 3, 24, 24, dtype=torch.uint8)])
    for summary in (perceptual_hash, block_means, local_means):
        alone = np.concatenate([summary(frame[None]) for frame in frames])
        assert np.array_equal(summary(frames), alone)


def test_the_hash_forgives_brightness_and_noise_and_nothing_else() -> None:
    frames = pictures(range(12), 48)
    hashes = perceptual_hash(frames)
    noisy = (frames + 4 * Noise.of([5]).normal("noise", *frames.shape)[0]).clamp(0, 255).round().to(torch.uint8)
    brighter = (frames.float() * 0.8 + 10).round().to(torch.uint8)
    for same in (noisy, brighter):
        assert np.bitwise_count(perceptual_hash(same) ^ hashes).max() <= RADIUS
    apart = np.bitwise_count(hashes[:, None] ^ hashes)[~np.eye(len(hashes), dtype=bool)]
    assert apart.min() > RADIUS
    assert 24 < apart.mean() < 40


def test_a_hash_says_which_low_frequencies_lie_above_the_median() -> None:
    wave = torch.cos(math.pi * 3 * (torch.arange(32) + 0.5) / 32)
    frame = (128 + 100 * wave).round().to(torch.uint8).expand(3, 32, 32)[None]
    across, down = (int(perceptual_hash(one)[0]) for one in (frame, frame.transpose(2, 3)))
    assert (across & 0b1001, across >> 8) == (0b1001, 0)
    assert (down & (1 << 24), down & 0xFE) == (1 << 24, 0)


def test_local_means_are_means_over_neighbours_in_the_frame() -> None:
    frame = texture(1, 8)
    means = local_means(frame[None]).reshape(3, 8, 8) / SCALE
    assert means[1, 3, 4] == pytest.approx(frame[1, 2:5, 3:6].float().mean().item(), abs=0.5 / SCALE)
    assert means[2, 0, 7] == pytest.approx(frame[2, :2, 6:].float().mean().item(), abs=0.5 / SCALE)


def test_block_means() -> None:
    frame = texture(2, 16)
    means = block_means(frame[None]).reshape(3, 8, 8)
    assert means[1, 2, 5] == round(frame[1, 4:6, 10:12].float().mean().item())


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 900))
def test_the_index_finds_what_comparing_all_finds(seed: int, count: int) -> None:
    words = np.random.default_rng(seed).integers(0, 2**64, size=(count, 3), dtype=np.uint64)
    flips = (words[:, 1] & words[:, 2] & (words[:, 1] >> np.uint64(7)) & (words[:, 2] << np.uint64(9))).astype(
        np.uint64
    )
    hashes = words[0, 0] ^ flips
    index = HammingIndex()
    for number, value in enumerate(hashes.tolist()):
        near = np.flatnonzero(np.bitwise_count(hashes[:number] ^ np.uint64(value)) <= RADIUS)
        assert np.array_equal(index.near(value), near)
        assert index.add(value) == number
    assert len(index) == count


def test_the_index_finds_flips_in_every_place() -> None:
    index = HammingIndex()
    for value in range(600):
        index.add((value * 0x9E3779B97F4A7C15) & (2**64 - 1))
    for bits in ([0, 16, 32, 48, 1, 17, 33], [63, 62, 47, 46, 31, 30, 15], list(range(7)), list(range(57, 64))):
        flipped = (17 * 0x9E3779B97F4A7C15) & (2**64 - 1)
        for bit in bits:
            flipped ^= 1 << bit
        assert 17 in index.near(flipped)
        assert 17 not in index.near(flipped ^ (1 << 40))


def test_two_digits_at_one_place_are_never_one_frame() -> None:
    """All pairs of different digits of a third of the bank; the experiment does them all."""
    bank = load_glyphs("test")
    places = torch.full((len(bank), 1, 2), 16.0, dtype=torch.float64)
    ink = render(bank.images, places, torch.zeros(len(bank), 1, dtype=torch.float64), canvas=32, scale=2)
    frames = (ink * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    means = torch.from_numpy(local_means(frames)[:, : 32 * 32]).float() / SCALE
    other = bank.labels[:, None] != bank.labels
    apart = torch.cdist(means, means, p=math.inf)[other]
    assert apart.min() > 2 * CEILING
    hashes = perceptual_hash(frames)
    assert (np.bitwise_count(hashes[:, None] ^ hashes) <= RADIUS)[other.numpy()].mean() > 0.003
    merged = found(frames, tolerance=CEILING)
    assert torch.equal(bank.labels[merged.representative], bank.labels)


# What comes back


@given(LABELS, st.integers(0, 3))
def test_runs_repeat_what_they_say(labels: list[int], gap: int) -> None:
    array = np.array(labels)
    owner = (np.arange(len(array)) >= len(array) // 2).astype(np.int64)
    taken = np.zeros(len(array), dtype=bool)
    for run in repeated_runs(array, owner, gap=gap):
        copy, source = np.arange(run.start, run.stop), np.arange(run.start, run.stop) - run.lag
        assert source[0] >= 0
        assert run.stop - run.start >= 2
        assert len(set(owner[copy])) == len(set(owner[source])) == 1
        same = array[copy] == array[source]
        assert same[0]
        assert same[-1]
        assert "0" * (gap + 1) not in "".join(str(int(value)) for value in same)
        assert not taken[copy].any()
        taken[copy] = True


@given(st.integers(2, 15), st.integers(2, 8), st.integers(0, 5))
def test_loops_are_found_whole(period: int, turns: int, more: int) -> None:
    labels = np.array([*range(100, 100 + more), *(list(range(period)) * turns), *range(200, 200 + more)])
    assert repeated_runs(labels, np.zeros_like(labels)) == [Run(more + period, more + turns * period, period)]


def test_a_segment_comes_back_in_another_file() -> None:
    labels = np.array([1, 2, 3, 4, 5, 9, 8, 2, 3, 4, 7])
    owner = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    (run,) = repeated_runs(labels, owner)
    assert (run, run.loop) == (Run(7, 10, 6), False)


def test_pictures_that_stand_are_not_runs() -> None:
    labels = np.array([0] * 9 + [1] * 3 + [2] * 9 + [3, 3, 4, 4, 4, 5, 5])
    assert repeated_runs(labels, np.zeros_like(labels)) == []


def test_a_missed_match_does_not_end_a_run() -> None:
    labels = np.tile(np.arange(10), 3)
    labels[17] = 77
    (run,) = repeated_runs(labels, np.zeros_like(labels))
    assert run == Run(10, 30, 10)


@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 10**6))
def test_lag_distances_are_those_of_the_definition(frames: int, entries: int, seed: int) -> None:
    states = np.random.default_rng(seed).normal(size=(frames, entries)) + 50
    measured = lag_distances(states, frames - 1)
    for lag in range(frames):
        change = states[lag:] - states[: frames - lag]
        assert measured[lag] == pytest.approx(np.sqrt((change**2).sum(axis=1).mean()), abs=1e-5)


@given(st.floats(5.5, 60), st.floats(0, 6), st.sampled_from([0.0, 0.02]))
def test_periods_between_frames(period: float, phase: float, noise: float) -> None:
    turn = 2 * math.pi * np.arange(300) / period + phase
    states = np.stack([np.cos(turn), np.sin(turn), 0.4 * np.cos(2 * turn), 0.3 * np.sin(2 * turn + 1)], axis=1)
    states = states + noise * np.random.default_rng(0).normal(size=states.shape)
    reached = fractional_period(states, noise=noise * math.sqrt(8))
    assert reached == pytest.approx(period, rel=4e-3)


def test_what_does_not_come_back_has_no_period() -> None:
    draws = np.random.default_rng(1).normal(size=(300, 6))
    assert fractional_period(draws) is None
    assert fractional_period(np.cumsum(draws, axis=0)) is None
    assert fractional_period(np.arange(300.0)[:, None]) is None
    assert fractional_period(np.ones((300, 2))) is None
    assert fractional_period(draws[:5]) is None


# Frames that are the same


@given(LABELS)
def test_frames_go_to_the_first_that_shows_the_same(labels: list[int]) -> None:
    merged = found(pictures(labels))
    first = [labels.index(label) for label in labels]
    assert merged.representative.tolist() == first
    assert merged.kept == len(set(labels))
    assert merged.weights.sum().item() == pytest.approx(len(labels))
    assert merged.weights.tolist() == [labels.count(x) if first[n] == n else 0 for n, x in enumerate(labels)]


@given(LABELS, LABELS, st.sampled_from([0.0, 0.25, 0.5, 10.0]))
def test_weights_add_up_and_segments_hold_what_is_kept(one: list[int], two: list[int], shortest: float) -> None:
    merged = found(pictures(one), pictures(two), shortest=shortest)
    total = len(one) + len(two)
    assert merged.frames == total
    assert merged.weights.sum().item() == pytest.approx(total)
    assert sum(part.weight for part in merged.segments) == pytest.approx(total)
    assert sum(part.frames for part in merged.segments) == merged.kept
    assert merged.share == merged.kept / total
    represented = torch.zeros(total, dtype=torch.float64).index_add_(0, merged.representative, merged.weights)
    count = torch.bincount(merged.representative, minlength=total)
    assert torch.allclose(represented, count.to(torch.float64))
    for part in merged.segments:
        times = merged.times[part.file][part.first : part.first + part.frames]
        assert part.start == times[0].item()
        assert part.stop == pytest.approx(times[-1].item() + (0.1 if len(merged.times[part.file]) > 1 else 1.0))
    if shortest == 10.0:
        assert merged.kept == total
    left_out = merged.weights == 0
    for file, times in zip(range(2), left_out.split([len(one), len(two)]), strict=True):
        gone = "".join(str(int(value)) for value in times).split("0")
        lengths = [len(run) for run in gone if run]
        least = 1.0 if len(merged.times[file]) == 1 else 0.1
        assert all(least * length >= shortest - 1e-9 for length in lengths)


def test_a_small_thing_that_moves_is_not_lost() -> None:
    frames = texture(3, 64).repeat(30, 1, 1, 1)
    for n in range(30):
        frames[n, :, 2 * n + 2 : 2 * n + 4, 30:31] = 255
    assert np.bitwise_count(perceptual_hash(frames) ^ perceptual_hash(frames[:1])).max() <= RADIUS
    assert found(frames).kept == 30


def test_a_drift_is_not_chained() -> None:
    levels = torch.arange(0, 200, 2, dtype=torch.uint8)
    frames = torch.maximum(texture(4).expand(100, -1, -1, -1) // 8, levels[:, None, None, None])
    merged = found(frames, tolerance=8.0)
    difference = (frames[merged.representative].int() - frames.int()).abs().amax((1, 2, 3))
    assert difference.max() <= 8
    assert 20 <= len(merged.representative.unique()) <= 27
    # It moves all the time, so that nothing stands and nothing is left out.
    assert merged.kept == 100
    assert merged.repeats == ()


def test_noise_raises_the_tolerance_and_is_merged() -> None:
    frames = pictures([*range(8), *([8] * 12), *range(8)], 48).float()
    noisy = (frames + 6 * Noise.of([1]).normal("noise", *frames.shape)[0]).clamp(0, 255).round().to(torch.uint8)
    with FrameStore() as store:
        times = torch.arange(len(noisy), dtype=torch.float64) / 10
        store.read("noisy", [(times, noisy)])
        store.read("clean", [(times, frames.to(torch.uint8))])
        assert store.files[0].noise == pytest.approx(2.0, rel=0.25)
        assert store.files[1].noise == 0 or tolerance_of(store, store.files[1]) == pytest.approx(CEILING)
        assert FLOOR < tolerance_of(store, store.files[0]) <= CEILING
    merged = found(noisy)
    assert len(merged.representative.unique()) == 9


def test_a_date_is_not_taken_for_compression() -> None:
    """A turn comes back with another digit in a corner: the tolerance stays where it is."""
    turn = pictures(range(20), 48)
    later = turn.clone()
    later[:, :, 40:46, 40:46] = 255 - turn[:, :, 40:46, 40:46] // 3
    merged = found(torch.cat([turn, later, turn]))
    assert merged.tolerances == (FLOOR,)
    assert merged.representative.tolist() == [*range(40), *range(20)]


def test_compression_is_measured_where_a_picture_comes_back() -> None:
    turn = pictures(range(20), 48).float()
    shift = [2 * Noise.of([seed]).normal("blocks", 20, 3, 12, 12)[0] for seed in (0, 2)]
    coded = [turn + one.repeat_interleave(4, 2).repeat_interleave(4, 3) for one in shift]
    merged = found(torch.cat(coded).clamp(0, 255).round().to(torch.uint8))
    assert FLOOR < merged.tolerances[0] <= CEILING
    assert merged.representative.tolist() == [*range(20)] * 2
    assert found(torch.cat(coded).clamp(0, 255).round().to(torch.uint8), tolerance=FLOOR).kept > 20


def test_kinds_of_repeats() -> None:
    still, loop, copy = [0] * 10, [*range(10, 15)] * 4, [*range(20, 30)]
    labels = [*still, *loop, *copy, 99, *copy[2:8]]
    merged = found(pictures(labels), shortest=0.25)
    kinds = {repeat.kind: repeat for repeat in merged.repeats}
    assert [repeat.kind for repeat in merged.repeats] == ["still", "loop", "copy"]
    assert (kinds["still"].start, kinds["still"].stop) == pytest.approx((0.1, 1.0))
    assert (kinds["loop"].start, kinds["loop"].stop, kinds["loop"].source_start) == pytest.approx((1.5, 3.0, 1.0))
    assert kinds["loop"].period == pytest.approx(0.5)
    assert (kinds["copy"].start, kinds["copy"].stop, kinds["copy"].source_start) == pytest.approx((4.1, 4.7, 3.2))
    assert merged.period(0) == pytest.approx(0.5)
    assert [(part.first, part.frames, part.period) for part in merged.segments] == [
        (0, 1, None), (10, 5, pytest.approx(0.5)), (30, 11, None)
    ]  # fmt: skip


def test_a_period_between_frames_is_told_in_seconds() -> None:
    """A blob on a circle of 12.5 frames: no frame comes back before the 25th."""
    angles = 2 * math.pi * torch.arange(100) / 12.5
    axis = torch.arange(32) + 0.5
    x, y = 16 + 9 * angles.cos(), 16 + 9 * angles.sin()
    ink = torch.exp(-((axis - x[:, None])[:, None] ** 2 + (axis - y[:, None])[:, :, None] ** 2) / 18)
    frames = (255 * ink).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()
    merged = found(frames, fps=25.0)
    assert merged.kept == 25
    assert merged.period(0) == pytest.approx(0.5, rel=1e-3)
    assert merged.segments[0].period == pytest.approx(1.0)
    near = found(frames[:37], fps=25.0, tolerance=0.0)
    assert (near.repeats[0].kind, near.period(0)) == ("copy", pytest.approx(0.5, rel=0.01))


def test_files_of_different_shape_are_searched_apart() -> None:
    merged = found(pictures([1, 2, 3]), pictures([1, 2], side=16), pictures([3, 1, 4]))
    assert merged.representative.tolist() == [0, 1, 2, 3, 4, 2, 0, 7]
    assert merged.names == ("file 0", "file 1", "file 2")


# The store


def test_a_stream_that_breaks_leaves_the_store_as_it_was() -> None:
    def broken() -> object:
        yield torch.tensor([0.0, 0.1], dtype=torch.float64), pictures([5, 6])
        raise OSError("gone")

    times = torch.tensor([0.0, 0.1], dtype=torch.float64)
    with FrameStore() as store:
        store.read("a", [(times, pictures([1, 2]))])
        with pytest.raises(OSError, match="gone"):
            store.read("broken", broken())
        store.read("b", [(times, pictures([2, 7]))])
        assert find_repetition(store).representative.tolist() == [0, 1, 1, 3]


def test_what_cannot_be_read_is_refused() -> None:
    times = torch.tensor([0.0, 0.1], dtype=torch.float64)
    with FrameStore() as store:
        with pytest.raises(ValueError, match="store holds none"):
            find_repetition(store)
        with pytest.raises(ValueError, match="Expected at least one frame in x; got none"):
            store.read("x", [])
        with pytest.raises(ValueError, match="increase strictly"):
            store.read("x", [(times.flip(0), pictures([1, 2]))])
        with pytest.raises(ValueError, match="one size; x has frames of"):
            store.read("x", [(times, pictures([1, 2])), (times + 1, pictures([1, 2], side=16))])
        store.read("x", [(times, pictures([1, 2]))])
        with pytest.raises(ValueError, match="tolerance to be finite and not negative; got -1"):
            find_repetition(store, tolerance=-1.0)
        with pytest.raises(ValueError, match="shortest to be finite and not negative; got inf"):
            find_repetition(store, shortest=math.inf)


# Windows of the unique part


def unique_part() -> Repetition:
    return found(pictures([*range(40, 60), *([*range(8)] * 5), 99, *range(45, 55)]), pictures(range(70, 90)))


def test_windows_never_straddle_a_cut_unless_the_period_joins() -> None:
    merged = unique_part()
    windows = UniqueWindows(merged, FixedRate(10.0, 5)).draw(Noise.batch(0, 200))
    wrapped = 0
    for one in windows:
        times = merged.times[one.file]
        part = max((p for p in merged.segments if p.file == one.file and p.start <= one.read[0]), key=lambda p: p.start)
        shown = torch.searchsorted(times, one.read + 1e-9, right=True) - 1
        assert (merged.weights[shown + (len(merged.times[0]) if one.file else 0)] > 0).all()
        assert (one.read < part.stop).all()
        assert (one.read >= part.start).all()
        jumps = one.window.times - one.read
        assert torch.allclose(jumps / 0.8, (jumps / 0.8).round(), atol=1e-9)
        assert torch.allclose(one.window.times.diff(), torch.full((4,), 0.1, dtype=torch.float64))
        if part.period is None:
            assert torch.equal(one.read, one.window.times)
        else:
            assert part.period == pytest.approx(0.8)
            wrapped += int(jumps[-1] > 0)
            # What a wrapped window reads is what the footage itself shows at the window's own times.
            later = torch.searchsorted(times, one.window.times + 1e-9, right=True) - 1
            if later[-1] < len(times) and one.window.times[-1] < 6.0 - 1e-6:
                assert torch.equal(merged.representative[shown], merged.representative[later])
    assert wrapped > 20


@pytest.mark.parametrize("weighted", [True, False])
def test_windows_start_as_often_as_their_frames_occur(weighted: bool) -> None:
    merged = unique_part()
    windows = UniqueWindows(merged, FixedRate(10.0, 3), weighted=weighted).draw(Noise.batch(1, 800))
    starts = np.array([int((merged.times[one.file] <= one.read[0]).sum()) - 1 for one in windows])
    first = np.array([one.file == 0 for one in windows])
    loop = first & (starts >= 20) & (starts < 28)
    # Valid starts: the last two frames of a plain segment hold no window, save that its latest moment is a frame's.
    masses = {"before": 20, "loop": 8 * (5 if weighted else 1), "other": 18}
    weight = merged.weights[:20].sum().item() if weighted else 20
    masses["before"] = weight
    expected = masses["loop"] / sum(masses.values())
    assert loop.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 800))


def test_windows_are_a_function_of_the_seed_alone() -> None:
    windows = UniqueWindows(unique_part(), RandomRate(4, slowest=2.0, fastest=10.0))
    many = windows.draw(Noise.batch(3, 30))
    for number in (0, 7, 29):
        (alone,) = windows.draw(Noise.batch(3, 30)[number : number + 1])
        assert torch.equal(alone.read, many[number].read)
        assert torch.equal(alone.window.times, many[number].window.times)
    assert len({one.read[0].item() for one in many}) == 30


def test_windows_too_long_for_every_segment_are_refused() -> None:
    merged = found(pictures(range(10)))
    assert len(UniqueWindows(merged, FixedRate(10.0, 10)).draw(Noise.batch(0, 3))) == 3
    with pytest.raises(ValueError, match="the longest lasts 1 s"):
        UniqueWindows(merged, FixedRate(10.0, 11))
    for fps in (25.0, 30.0, 29.97, 60.0):
        many = found(*(pictures(range(first, first + 10)) for first in (0, 20, 40)), fps=fps)
        assert len(UniqueWindows(many, FixedRate(fps, 10)).draw(Noise.batch(0, 3))) == 3
    loop = found(pictures([*range(10)] * 2))
    assert len(UniqueWindows(loop, FixedRate(10.0, 25)).draw(Noise.batch(0, 1))[0].read) == 25


# The command


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    dedupe.add(parser.add_subparsers())
    options = parser.parse_args(["dedupe", *arguments])
    options.command(options)


def write(path: Path, frames: Tensor, *, codec: str = "libx264", crf: str = "18") -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": crf, "preset": "veryfast"}
        for image in frames.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_the_command_reports_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "footage"
    folder.mkdir()
    write(folder / "loop.mp4", pictures([*range(12)] * 3, side=128), crf="18")
    write(folder / "plain.mp4", pictures(range(100, 118), side=128))
    (folder / "broken.mp4").write_bytes(b"not a video")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    run(str(folder), "--report", str(tmp_path / "r" / "report.json"), "--sheet", str(tmp_path / "sheet.png"))
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    shown = capsys.readouterr().out
    assert "Skipped 1 of 3" in shown
    assert "broken.mp4: " in shown
    content = json.loads((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    assert (content["frames"], content["kept"]) == (54, 30)
    loop, plain = content["files"]
    assert (loop["kept"], plain["kept"]) == (12, 18)
    assert loop["period"] == pytest.approx(0.48, rel=5e-3)
    assert loop["representative"] == [*range(12)] * 3
    assert plain["representative"] == list(range(36, 54))
    assert loop["segments"] == [
        {"start": 0.0, "stop": 0.48, "first": 0, "frames": 12, "weight": 36.0, "period": pytest.approx(0.48)}
    ]
    assert [one["reason"] for one in content["skipped"]] != [""]
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"No footage can be read. Skipped 1 of 1"):
        run(str(tmp_path))
    with pytest.raises(ValueError, match=r"--report to end in \.json"):
        run(str(tmp_path), "--report", "report.txt")
    with pytest.raises(SystemExit):
        run(str(tmp_path), "--tolerance", "-2")


def test_real_footage_without_repetition_is_kept(data: Path) -> None:
    from flowvid.data.footage.reader import Footage

    with FrameStore() as store:
        for name in ("flower", "bigbuckbunny", "carphone_pristine"):
            with Footage(data / "clips" / f"{name}.mp4") as footage:
                size = thumbnail_size(footage.info.height, footage.info.width)
                store.read(name, footage.stream(size=size, fit="stretch"))
        merged = find_repetition(store)
    assert merged.share > 0.99
