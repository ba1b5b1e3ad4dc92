"""Evenness, heartbeat, flicker and seams: closed forms of planted artefacts, and the bound of SCIENCE P10."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.clips import World, render_clips
from flowvid.dynamics.weights import lagrange
from flowvid.metrics.motion import speed_uniformity
from flowvid.metrics.rhythm import flicker_line, heartbeat, line_strength, seams, semigroup_gaps, sharpness
from flowvid.solve.jump import integrate
from flowvid.solve.plans import fenwick_plan
from flowvid.video import Trajectory, Video, time_grid


def video(pixels: Tensor, times: Tensor | None = None) -> Video:
    """A video of pixels in [0, 1], [batch time channel height width]."""
    return Video(pixels * 2 - 1, torch.arange(pixels.shape[1], dtype=torch.float64) if times is None else times)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blob(places: Sequence[float], times: Sequence[float] | None = None) -> Video:
    """One clip of a pixel's ink shared by two columns, so that its centroid is where it is told."""
    frames = torch.zeros(1, len(places), 1, 4, 32, dtype=torch.float64)
    for number, place in enumerate(places):
        left, share = int(place), place - int(place)
        frames[0, number, 0, 1, left] = 0.1 + 0.8 * (1 - share)
        frames[0, number, 0, 1, left + 1] = 0.1 + 0.8 * share
    return video(frames, None if times is None else torch.tensor(times, dtype=torch.float64))


# Uniform speed


@given(
    st.lists(st.floats(0.05, 3.0), min_size=2, max_size=12),
    st.floats(0.2, 1.0),
    st.floats(1.0, 5.0),
)
def test_constant_velocity_is_uniform_at_any_times(steps: list[float], speed: float, start: float) -> None:
    times = torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
    places = [start + speed * 25 / float(times[-1]) * float(time) for time in times]
    found = speed_uniformity(blob(places, times.tolist()))
    assert found.tolist() == pytest.approx([1.0], rel=1e-6)


@pytest.mark.parametrize(("every", "expected"), [(1, 1), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)])
def test_motion_that_waits_is_as_uniform_as_the_share_of_time_it_moves(every: int, expected: float) -> None:
    places = [2.0 + n // every * every for n in range(12 // every * every + 1)]
    assert float(speed_uniformity(blob(places))) == pytest.approx(expected)


@given(st.lists(st.floats(0.0, 2.0), min_size=2, max_size=12).filter(lambda steps: sum(steps) > 0.5))
def test_uniformity_is_one_over_one_plus_the_squared_variation(steps: list[float]) -> None:
    speeds = torch.tensor(steps, dtype=torch.float64)
    places = torch.cat((torch.zeros(1, dtype=torch.float64), speeds)).cumsum(0) + 1
    variation = speeds.var(correction=0) / speeds.mean().square()
    assert float(speed_uniformity(blob(places.tolist()))) == pytest.approx(float(1 / (1 + variation)), rel=1e-6)


def test_a_frozen_clip_is_not_uniform_and_two_frames_say_nothing() -> None:
    assert speed_uniformity(blob([3.0] * 5)).tolist() == [0.0]
    with pytest.raises(ValueError, match="at least three frames; got 2"):
        speed_uniformity(blob([3.0, 4.0]))


# Sharpness and heartbeat


@given(st.floats(0.0, 0.5), st.floats(0.05, 1.0))
def test_sharpness_of_a_checkerboard(low: float, contrast: float) -> None:
    """Each pixel differs from its four neighbours by c, so the Laplacian is +-4 c: variance 16 c^2."""
    high = low + contrast * (1 - low)
    board = (torch.arange(8)[:, None] + torch.arange(6)).remainder(2).double()
    frames = (low + (high - low) * board).expand(2, 3, 1, 8, 6)
    assert torch.allclose(sharpness(video(frames)), torch.full((2, 3), 16 * (high - low) ** 2, dtype=torch.float64))


def test_sharpness_is_a_mean_over_channels_and_blind_to_linear_ramps() -> None:
    ramp = (torch.arange(8, dtype=torch.float64)[:, None] + 2 * torch.arange(8)) / 30
    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).double() / 2
    assert sharpness(video(ramp.expand(1, 2, 1, 8, 8))).abs().max() < 1e-24
    both = torch.stack((ramp, board))[None, None]
    assert sharpness(video(both)).tolist() == [[pytest.approx((0 + 4) / 2)]]
    with pytest.raises(ValueError, match=r"at least 3 x 3 pixels; got \(2, 5\)"):
        sharpness(video(torch.zeros(1, 1, 1, 2, 5)))


def pulsing(contrasts: Sequence[float], times: Tensor | None = None) -> Video:
    """Two equal clips of a checkerboard whose contrast changes: sharpness 16 c^2."""
    board = (torch.arange(6)[:, None] + torch.arange(6)).remainder(2).double() - 0.5
    frames = 0.5 + torch.tensor(contrasts, dtype=torch.float64)[:, None, None, None] * board
    return video(frames.expand(2, -1, -1, -1, -1), times)


@pytest.mark.parametrize("loss", [1.0, 0.8, 0.5])
def test_heartbeat_is_the_sharpness_lost_between_given_frames(loss: float) -> None:
    contrasts = [1.0 if n % 4 == 0 else loss for n in range(17)]
    found = heartbeat(pulsing(contrasts), [0, 4, 8, 12, 16])
    assert found.tolist() == pytest.approx([loss**2] * 2)


def test_heartbeat_follows_a_trend_of_the_given_frames_at_uneven_times() -> None:
    """Sharpness that is linear in time has no heartbeat wherever the given frames lie; frames outside do not count."""
    times = torch.tensor([0.0, 0.1, 0.5, 0.6, 1.7, 2.0, 3.0], dtype=torch.float64)
    contrasts = [math.sqrt(0.2 + 0.1 * float(time)) for time in times]
    contrasts[0] = contrasts[-1] = 0.01
    assert heartbeat(pulsing(contrasts, times), [0.1, 0.6, 2.0]).tolist() == pytest.approx([1.0] * 2)
    assert heartbeat(pulsing(contrasts, times), [2.0, 0.1]).tolist() == pytest.approx([1.0] * 2)


def test_blending_frames_of_a_moving_digit_makes_a_heartbeat_and_a_line() -> None:
    times = time_grid(0.0, 8.0, 0.125)
    clips = World().clips(range(8), "train")
    truth = render_clips(clips, times)
    given_times = times[::4]
    share = (torch.arange(len(times)) % 4 / 4)[:, None, None, None]
    before = truth.frames[:, torch.arange(len(times)) // 4 * 4]
    after = truth.frames[:, (-(-torch.arange(len(times)) // 4) * 4)]
    blended = Video(torch.lerp(before, after, share.to(before)), times)
    assert float(heartbeat(truth, given_times.tolist()).mean()) == pytest.approx(1, abs=0.05)
    assert float(heartbeat(blended, given_times.tolist()).mean()) < 0.8
    assert line_strength(sharpness(blended), 4) > 10 * line_strength(sharpness(truth), 4)
    assert float(speed_uniformity(truth).mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("given_times", "message"),
    [
        ([0, 2.5], r"\[2.5\] are not"),
        ([0], "at least two given frames"),
        ([1, 1], "at least two given frames"),
        ([1, 2], "No frame lies between"),
    ],
)
def test_heartbeat_refuses_what_leaves_nothing_to_compare(given_times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heartbeat(pulsing([1.0] * 5), given_times)


def test_heartbeat_refuses_flat_given_frames() -> None:
    with pytest.raises(ValueError, match="they are flat"):
        heartbeat(pulsing([0.0, 1.0, 0.0]), [0, 2])


# Lines


@pytest.mark.parametrize("period", [2, 3, 4, 8, 16])
def test_white_noise_has_no_line(period: int) -> None:
    """The ratio is one on average over signals, for batches of any size."""
    for clips, repeats in ((1, 150), (8, 40)):
        ratios = [line_strength(normal(seed, clips, 24 * period) + 3, period) for seed in range(repeats)]
        spread = math.sqrt((2 if period == 2 else 1) / (clips * repeats))
        assert sum(ratios) / repeats == pytest.approx(1, abs=4 * spread + 0.1)


@pytest.mark.parametrize("period", [4, 8, 16])
def test_a_train_of_impulses_has_the_line_of_its_period(period: int) -> None:
    """Its transform at 1 / p is the height over p times the sum of the window; Hann's sum of squares is 3 / 8."""
    count, clips, height = 512, 64, 3.0
    signal = normal(0, clips, count)
    signal[:, ::period] += height
    signal_of_line = (height / period) ** 2 * (count / 2) ** 2 / (count * 3 / 8)
    assert line_strength(signal, period) == pytest.approx(1 + signal_of_line, rel=0.2)
    assert line_strength(signal, period / 2) > 5
    assert line_strength(signal, period * 2) == pytest.approx(1, abs=0.6)
    assert line_strength(signal, period * 1.37) == pytest.approx(1, abs=0.6)


@given(st.floats(-5, 5), st.floats(-1, 1), st.floats(0.01, 100))
def test_a_line_does_not_depend_on_trend_and_scale(level: float, slope: float, scale: float) -> None:
    signal = normal(1, 3, 80)
    moved = scale * (signal + level + slope * torch.arange(80, dtype=torch.float64))
    assert line_strength(moved, 6) == pytest.approx(line_strength(signal, 6), rel=1e-6)


def test_a_signal_that_does_not_vary_has_no_line_and_a_pure_one_a_huge_one() -> None:
    assert line_strength(torch.full((2, 80), 0.1, dtype=torch.float64), 8) == 1
    assert line_strength(torch.zeros(2, 80, dtype=torch.float64), 8) == 1
    assert line_strength(torch.cos(torch.arange(128) * math.pi / 4).double()[None], 8) > 1e4


@pytest.mark.parametrize(("period", "count"), [(8, 63), (2, 23), (1.9, 500), (math.inf, 500), (math.nan, 500), (0, 99)])
def test_a_line_needs_eight_periods(period: float, count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 samples, and 8 periods.* and {count} samples"):
        line_strength(normal(0, 1, count), period)
    line_strength(normal(0, 1, 64), 8)
    line_strength(normal(0, 1, 24), 2)


def test_a_line_refuses_nan() -> None:
    with pytest.raises(ValueError, match="finite"):
        line_strength(torch.full((1, 80), math.nan, dtype=torch.float64), 4)


@pytest.mark.parametrize("period", [4, 8])
def test_planted_seams_flicker(period: int) -> None:
    times = time_grid(0.0, 8.0, 1 / 16)
    truth = render_clips(World(motion="orbit").clips(range(6), "train"), times)
    shift = ((torch.arange(len(times)) // period) % 2 * 0.2)[:, None, None, None]
    cut = Video((truth.frames * 0.8 + shift - 0.1).clamp(-1, 1), times)
    before = truth.frames.clone()
    assert flicker_line(cut, period) > 20
    assert flicker_line(cut, period) > 5 * flicker_line(truth, period)
    assert flicker_line(cut, 2 * period) < 5
    assert torch.equal(truth.frames, before)


def test_flicker_needs_evenly_spaced_frames() -> None:
    times = torch.arange(80, dtype=torch.float64)
    times[-1] += 0.5
    with pytest.raises(ValueError, match=r"evenly spaced; their steps range from 1 s to 1\.5 s"):
        flicker_line(Video(torch.zeros(1, 80, 1, 2, 2), times), 4)


# Seams and semigroup gaps

GAPS = (-0.1, 0.1, 0.2, 0.4, 0.8)


class Maps:
    """A displacement for every gap."""

    def __init__(self, displacement: Callable[[Tensor, Tensor, float], Tensor], gaps: Sequence[float] = GAPS) -> None:
        self.gaps = tuple(gaps)
        self.displacement = displacement
        self.asked: list[tuple[float, ...]] = []

    def rates(self, times: Sequence[float], states: Tensor, moving: Sequence[bool]) -> Tensor:
        assert len(times) == states.shape[1] == len(moving)
        assert all(moving)
        self.asked.append(tuple(times))
        at = torch.tensor(times, dtype=torch.float64)[:, None]
        return torch.stack([self.displacement(at, states, gap) / gap for gap in self.gaps], dim=2)


def growth(times: Tensor, states: Tensor, gap: float) -> Tensor:
    """The exact flow of dz/dt = -2 z + t."""

    def forced(time: Tensor) -> Tensor:
        return time / 2 - 0.25

    return (states - forced(times)) * math.exp(-2 * gap) + forced(times + gap) - states


def sampled(maps: Maps, start: Tensor, frames: int) -> Trajectory:
    """Frames on the Fenwick tree."""
    times = [0.1 * n for n in range(frames)]
    nodes = fenwick_plan(0.0, times, maps.gaps)
    states, _, _ = integrate(
        maps,
        nodes,
        start[:, None],
        [True],
        weights=lambda step, moving: lagrange(maps.gaps, step),
        error=lambda step, moving: 1.0,
    )
    order = sorted(range(len(nodes)), key=lambda index: nodes[index].time)
    return Trajectory(states[:, order], torch.tensor(times, dtype=torch.float64))


def test_an_exact_flow_has_neither_seams_nor_semigroup_gaps() -> None:
    maps = Maps(growth, GAPS[1:])
    trajectory = sampled(maps, normal(0, 3, 5), 17)
    assert semigroup_gaps(maps, trajectory).shape == (3, 17, 3)
    assert semigroup_gaps(maps, trajectory).max() < 1e-12
    assert seams(maps, trajectory).shape == (5,)
    assert seams(maps, trajectory).max() < 1e-12


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_bent_gap_shows_at_its_own_level_and_the_next(level: int) -> None:
    """Gap 2^j is off by one in every entry: from two of half of it by one, and twice it from two of it by two."""
    bent = GAPS[1 + level]
    shuffled = (0.8, -0.1, 0.2, 0.1, 0.4)
    maps = Maps(lambda times, states, gap: growth(times, states, gap) + (gap == bent), shuffled)
    states = normal(1, 2, 4, 3)
    found = semigroup_gaps(maps, Trajectory(states, torch.arange(4, dtype=torch.float64)))
    expected = [0.0] * 3
    expected[level - 1] = 1.0
    if level < 3:
        expected[level] = 1 + math.exp(-2 * bent)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64).expand(2, 4, 3))
    assert sorted(maps.asked, key=len)[0] == (0.0, 1.0, 2.0, 3.0)


@given(st.integers(0, 10_000))
def test_seams_lie_below_the_sum_of_semigroup_gaps(seed: int) -> None:
    """SCIENCE P10 for maps that are no flow at all, with the gaps measured where the proof needs them."""
    mixing = {gap: normal(seed, 4, 4) * (index + 1) for index, gap in enumerate(GAPS)}
    maps = Maps(lambda times, states, gap: gap * torch.tanh(states @ mixing[gap]), GAPS[1:])
    trajectory = sampled(maps, normal(seed + 1, 1, 4), 16)
    found = seams(maps, trajectory)
    kappa = semigroup_gaps(maps, trajectory)
    assert found[0] < 1e-12
    for level in range(1, 4):
        bounds = []
        for frame in range(2**level, 16, 2 ** (level + 1)):
            start = frame - 2**level
            places = [start + 2**level - 2**rung for rung in range(1, level + 1)]
            bounds.append(sum(float(kappa[0, place, rung]) for rung, place in enumerate(places)))
        assert float(found[level]) <= sum(bounds) / len(bounds) + 1e-12


def test_seams_are_grouped_by_trailing_zeros() -> None:
    """Frame n stands n's trailing zeros away from where a map that does not move leads to."""
    zeros = [(n & -n).bit_length() - 1 if n else 0 for n in range(17)]
    places = torch.tensor(zeros, dtype=torch.float64).cumsum(0)[None, :, None].expand(2, -1, 3)
    still = Maps(lambda times, states, gap: torch.zeros_like(states), (-0.1, 0.1))
    trajectory = Trajectory(places, 0.1 * torch.arange(17, dtype=torch.float64))
    assert seams(still, trajectory).tolist() == pytest.approx([0, 1, 2, 3, 4])


def test_seams_refuse_other_spacings_and_semigroups_other_gaps() -> None:
    states, times = torch.zeros(1, 5, 2), torch.arange(5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"frames are 1 s apart and the forward gaps are \[0.1, 0.2, 0.4, 0.8\]"):
        seams(Maps(growth), Trajectory(states, times))
    with pytest.raises(ValueError, match="apart"):
        seams(Maps(growth, (-1.0,)), Trajectory(states, times))
    for gaps in ((0.1,), (0.1, 0.3), (-0.2, -0.1, 0.1), (0.1, 0.2, 0.8)):
        with pytest.raises(ValueError, match="each twice the one before"):
            semigroup_gaps(Maps(growth, gaps), Trajectory(states, times))


def test_states_of_any_shape_and_type_are_measured_and_left_alone() -> None:
    """Root mean squares per entry do not care how the entries are arranged."""
    maps = Maps(lambda times, states, gap: gap * states + gap**2, GAPS)
    states = normal(3, 2, 9, 6).float()
    times = 0.1 * torch.arange(9, dtype=torch.float64)
    before = states.clone()
    flat = seams(Maps(lambda times, states, gap: gap * states), Trajectory(states, times))
    cube = seams(Maps(lambda times, states, gap: gap * states), Trajectory(states.unflatten(2, (1, 2, 3)), times))
    assert torch.allclose(flat, cube)
    assert semigroup_gaps(maps, Trajectory(states, times)).dtype == torch.float64
    assert torch.equal(states, before)
