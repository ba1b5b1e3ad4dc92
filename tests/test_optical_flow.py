"""Optical flow, what moves along it, and what is measured along it: closed forms of translated patterns."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.clips import Clip, World, render_clips
from flowvid.data.worlds.digits import ink_box, load_glyphs
from flowvid.data.worlds.motions import Flight, Motion, Spin
from flowvid.metrics.distortion import psnr
from flowvid.metrics.warping import flow_change, warping_error
from flowvid.models import optical_flow as models
from flowvid.models.baselines import CopyLast, LinearBlend
from flowvid.models.optical_flow import FlowInterpolation, KnownMotion
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory, Video
from flowvid.warping import FLOW_METHODS, occluded, optical_flow, warp

SIDE, EDGE = 40, 8
INNER = (..., slice(EDGE, -EDGE), slice(EDGE, -EDGE))
METHODS = pytest.mark.parametrize("method", FLOW_METHODS)


def texture(shift: tuple[float, float], *, seed: int = 0, channels: int = 1, side: int = SIDE) -> Tensor:
    """A sum of waves of 6 to 25 pixels, moved by (x right, y down) pixels: [channel height width] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    angle, phase, length = torch.rand(3, 24, 1, 1, generator=generator, dtype=torch.float64)
    angle, wave = 2 * torch.pi * angle, 2 * torch.pi / (6 + 19 * length)
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64),) * 2, indexing="ij")
    along = torch.cos(angle) * (x - shift[0]) + torch.sin(angle) * (y - shift[1])
    shade = torch.tensor([1.0, 0.8, -0.5], dtype=torch.float64)[:channels, None, None]
    return shade * torch.cos(wave * along + 2 * torch.pi * phase).mean(0).mul(3).tanh()


def moving(
    times: list[float], velocity: tuple[float, float], *, seeds: tuple[int, ...] = (0,), channels: int = 1
) -> Video:
    """Textures in uniform motion, in pixels per second."""
    frames = [
        torch.stack([texture((velocity[0] * t, velocity[1] * t), seed=seed, channels=channels) for t in times])
        for seed in seeds
    ]
    return Video(torch.stack(frames), torch.tensor(times, dtype=torch.float64))


def known(video: Video) -> Trajectory:
    return Trajectory(video.frames, video.times)


def sampled(model: VideoModel, given_: Trajectory, times: list[float]) -> Tensor:
    return model.sample(Condition(given_), times, Noise.of(range(len(given_)))).trajectory.states


def error(found: Tensor, truth: Tensor) -> float:
    """Mean squared error away from the edge of the frame."""
    return float((found - truth)[INNER].square().mean())


def square(left: int, *, side: int = SIDE) -> Tensor:
    """A bright textured square of 12 pixels whose left edge is at ``left``, on a dark texture at rest."""
    frame = -0.75 + 0.2 * texture((0, 0), side=side)
    frame[:, 14:26, left : left + 12] = 0.75 + 0.2 * texture((0, 0), seed=1, side=12)
    return frame


def square_flow(left: int, step: int) -> Tensor:
    flow = torch.zeros(1, 2, SIDE, SIDE, dtype=torch.float64)
    flow[:, 0, 14:26, left : left + 12] = step
    return flow


def strip(start: int, stop: int) -> Tensor:
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 14:26, start:stop] = True
    return mask


# Flow and warping

SHIFTS = st.tuples(st.floats(-2.5, 2.5), st.floats(-2.5, 2.5))


@METHODS
@settings(max_examples=15)
@given(SHIFTS, st.integers(0, 5), st.sampled_from([1, 3]))
def test_the_flow_of_a_shift_is_the_shift(method: str, shift: tuple[float, float], seed: int, channels: int) -> None:
    first, second = (texture(at, seed=seed, channels=channels)[None] for at in ((0.0, 0.0), shift))
    flow = optical_flow(first, second, method=method)
    assert flow.shape == (1, 2, SIDE, SIDE)
    missed = (flow - torch.tensor(shift)[:, None, None])[INNER].norm(dim=1)
    assert float(missed.mean()) < 0.2
    assert float(missed.max()) < 0.6


@pytest.mark.parametrize(("method", "most"), [("dis", 0.0), ("farneback", 0.02)])
def test_equal_images_have_no_flow(method: str, most: float) -> None:
    """Farneback drifts by a fraction of a pixel at the edge of the frame."""
    image = texture((0, 0), channels=3)[None].float()
    flow = optical_flow(image, image, method=method)
    assert float(flow[INNER].abs().max()) <= most
    assert float(flow.abs().mean()) <= most


@settings(max_examples=20)
@given(st.tuples(st.floats(-6, 6), st.floats(-6, 6)))
def test_warping_reads_a_ramp_where_the_flow_points(shift: tuple[float, float]) -> None:
    """Bilinear reading of x + 100 y is exact, and stops at the edge."""
    y, x = torch.meshgrid(
        torch.arange(9.0, dtype=torch.float64), torch.arange(14.0, dtype=torch.float64), indexing="ij"
    )
    flow = torch.tensor(shift, dtype=torch.float64)[None, :, None, None].expand(1, 2, 9, 14)
    expected = (x + shift[0]).clamp(0, 13) + 100 * (y + shift[1]).clamp(0, 8)
    torch.testing.assert_close(warp((x + 100 * y)[None, None], flow)[0, 0], expected, rtol=0, atol=1e-9)


def test_warping_without_flow_is_the_image() -> None:
    image = texture((0, 0))[None]
    torch.testing.assert_close(warp(image, torch.zeros(1, 2, SIDE, SIDE, dtype=torch.float64)), image)


def test_what_a_square_covers_is_occluded_and_what_it_uncovers_on_the_way_back() -> None:
    forward, backward = square_flow(10, 5), square_flow(15, -5)
    assert torch.equal(occluded(forward, backward), strip(22, 27))
    assert torch.equal(occluded(backward, forward), strip(10, 15))


@pytest.mark.parametrize("sense", [1, -1])
def test_what_leaves_the_frame_is_occluded(sense: int) -> None:
    flow = sense * torch.tensor([4.0, -2.0])[None, :, None, None].expand(1, 2, SIDE, SIDE)
    expected = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    expected[:, :, -4:] = expected[:, :2] = True
    assert torch.equal(occluded(flow, -flow), expected if sense == 1 else expected.flip(1, 2))


@pytest.mark.parametrize(("missed", "hidden"), [(0.69, False), (0.75, True)])
def test_a_small_disagreement_of_both_flows_is_no_occlusion(missed: float, hidden: bool) -> None:
    """At rest the threshold is 0.5 pixels^2, and it grows with the lengths of the flows: 0.01 of their squares."""
    still = torch.zeros(1, 2, SIDE, SIDE)
    other = torch.tensor([0.0, missed])[None, :, None, None].expand(1, 2, SIDE, SIDE)
    assert bool(occluded(still, other)[INNER].any()) is hidden
    assert bool(occluded(still, other)[INNER].all()) is hidden
    fast = torch.tensor([6.0, 0.0])[None, :, None, None].expand(1, 2, SIDE, SIDE)
    assert not bool(occluded(fast, other - fast)[INNER].any())


def test_estimated_flow_finds_the_uncovered_side() -> None:
    """A square of 28 pixels moves to the right by 6; seen from the second frame, what it left is new."""

    def scene(left: int) -> Tensor:
        frame = -0.4 + 0.5 * texture((0, 0), side=64)
        frame[:, 20:48, left : left + 28] = 0.4 + 0.5 * texture((0, 0), seed=1, side=28)
        return frame[None]

    back, forth = (optical_flow(*pair, method="dis") for pair in ((scene(21), scene(15)), (scene(15), scene(21))))
    hidden = occluded(back, forth)[0, 20:48].double()
    left, square_, right = (float(hidden[:, start:stop].mean()) for start, stop in ((15, 21), (25, 43), (43, 49)))
    assert left > 0.6
    assert square_ < 0.1
    assert right < 0.1


# Interpolation


@METHODS
@settings(max_examples=6)
@given(st.tuples(st.floats(2.2, 3.3), st.floats(-3.3, -2.2)), st.sampled_from([1, 3]))
def test_a_translated_pattern_is_found_between_frames(method: str, shift: tuple[float, float], channels: int) -> None:
    """Bilinear reading blurs a little, which is what is left."""
    times = [0.25, 0.5, 0.75]
    ends, truth = (moving(at, shift, channels=channels) for at in ([0.0, 1.0], times))
    found, blended = (sampled(m, known(ends), times) for m in (FlowInterpolation(method), LinearBlend()))
    for n in range(3):
        assert error(found[:, n], truth.frames[:, n]) < 0.1 * error(blended[:, n], truth.frames[:, n])


@METHODS
def test_a_pattern_goes_on_outside_the_known_frames(method: str) -> None:
    shift, times = (1.6, -1.1), [-1.0, -0.4, 2.5, 3.5]
    ends, truth = (moving(at, shift) for at in ([0.0, 1.0, 2.0], times))
    found, copied = (sampled(m, known(ends), times) for m in (FlowInterpolation(method), CopyLast()))
    for n in range(4):
        assert error(found[:, n], truth.frames[:, n]) < 0.1 * error(copied[:, n], truth.frames[:, n])


@METHODS
@settings(max_examples=10)
@given(st.lists(st.floats(-0.5, 3.0), max_size=4, unique=True))
def test_known_frames_return_as_they_were_and_every_time_is_answered(method: str, others: list[float]) -> None:
    video = moving([0.0, 0.7, 2.0], (1.5, 0.8), seeds=(0, 1), channels=3)
    times = sorted({0.0, 0.7, 2.0, *(time for time in others if min(abs(time - t) for t in (0.0, 0.7, 2.0)) > 1e-6)})
    found = FlowInterpolation(method).sample(Condition(known(video)), times, Noise.of([0, 1])).trajectory
    assert found.times.tolist() == times
    assert torch.equal(found.at(0.0, 0.7, 2.0).states, video.frames)
    assert found.states.dtype == torch.float64
    assert float(found.states.abs().max()) <= 1 + 1e-6


@METHODS
def test_a_sample_does_not_depend_on_its_batch(method: str) -> None:
    video, times = moving([0.0, 1.0, 2.0], (1.7, -0.9), seeds=(3, 1, 2)), [0.3, 1.5, 2.4]
    together = sampled(FlowInterpolation(method), known(video), times)
    for n in range(3):
        alone = sampled(FlowInterpolation(method), Trajectory(video.frames[n : n + 1], video.times), times)
        torch.testing.assert_close(alone, together[n : n + 1], rtol=0, atol=1e-10)


def test_each_time_takes_the_flow_of_its_own_interval() -> None:
    """The pattern goes right, stands still, and goes down."""
    places = {0.0: (0.0, 0.0), 1.0: (2.0, 0.0), 3.0: (2.0, 0.0), 5.0: (2.0, 2.0)}
    between = {0.5: (1.0, 0.0), 2.2: (2.0, 0.0), 3.5: (2.0, 0.5), 7.0: (2.0, 4.0)}
    ends = Trajectory(torch.stack([texture(at) for at in places.values()])[None], torch.tensor([*places]).double())
    found = sampled(FlowInterpolation(), ends, list(between))
    for n, place in enumerate(between.values()):
        assert error(found[0, n], texture(place)) < 1e-2


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_with_true_flow_a_moving_square_is_exact_where_it_covers_and_uncovers(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each half-hidden pixel is read from the frame that shows it, and the square wins over the ground it covers."""
    first, second = square(10), square(18)
    flows = {"forward": square_flow(10, 8), "backward": square_flow(18, -8)}

    def true_flow(one: Tensor, other: Tensor, *, method: str) -> Tensor:
        return flows["forward" if torch.equal(one, first[None]) else "backward"].float()

    monkeypatch.setattr(models, "optical_flow", true_flow)
    ends = Trajectory(torch.stack((first, second))[None], torch.tensor([0.0, 1.0]).double())
    found = sampled(FlowInterpolation(), ends, [share])[0, 0]
    torch.testing.assert_close(found, square(10 + int(8 * share)), rtol=0, atol=0.01)
    blended = sampled(LinearBlend(), ends, [share])[0, 0]
    assert float((blended - square(10 + int(8 * share))).abs().max()) > 0.5


def test_what_a_square_leaves_behind_beyond_the_known_frames_is_filled_from_around() -> None:
    ends = Trajectory(torch.stack((square(8), square(10)))[None], torch.tensor([0.0, 1.0]).double())
    found = sampled(FlowInterpolation(), ends, [3.0])[0, 0]
    assert error(found, square(14)) < 0.25 * error(square(10), square(14))


@pytest.mark.parametrize(("time", "nearer", "moved"), [(2.0, 1, (2, 1)), (-1.0, 0, (-5, 3))])
def test_outside_only_the_nearer_frame_and_its_own_flow_are_used(
    time: float, nearer: int, moved: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two flows are told apart by contradicting each other."""
    ends = known(moving([0.0, 1.0], (0.4, 0.0)))

    def contradictory(one: Tensor, other: Tensor, *, method: str) -> Tensor:
        flow = (5.0, -3.0) if torch.equal(one, ends.states[:, 0]) else (-2.0, -1.0)
        return torch.tensor(flow)[None, :, None, None].expand(1, 2, SIDE, SIDE)

    monkeypatch.setattr(models, "optical_flow", contradictory)
    found = sampled(FlowInterpolation(), ends, [time])[0, 0]
    expected = ends.states[0, nearer].roll((moved[1], moved[0]), dims=(1, 2))
    torch.testing.assert_close(found[INNER], expected[INNER], rtol=0, atol=1e-5)


def test_one_known_frame_tells_no_motion() -> None:
    one = known(moving([0.5], (1, 1)))
    assert torch.equal(sampled(FlowInterpolation(), one, [0.5]), one.states)
    with pytest.raises(ValueError, match=r"two known frames.*got one"):
        sampled(FlowInterpolation(), one, [0.5, 0.7])


# The oracle


def digit(motion: Motion, *, canvas: int = 32) -> Clip:
    return Clip(load_glyphs("test").images[:1], (motion,), (0,), canvas=canvas, scale=2, seed=0)


@pytest.mark.parametrize("motion", ["flight", "spin", "oscillation", "orbit", "pendulum"])
def test_the_oracle_of_the_motion_loses_no_more_than_a_resampling(motion: str) -> None:
    clips, times = World(motion=motion).clips(range(6), "test"), [-0.2, 0.31, 0.64, 1.2]
    truth, ends = render_clips(clips, times), render_clips(clips, [0.0, 1.0])
    found, blended = (
        Video(sampled(model, known(ends), times).clamp(-1, 1), truth.times)
        for model in (KnownMotion(clips), LinearBlend())
    )
    assert float(psnr(found, truth).mean()) > 35
    assert float(psnr(found, truth).mean()) > float(psnr(blended, truth).mean()) + 8


def test_a_whole_number_of_pixels_is_exact_and_black_comes_in_from_outside() -> None:
    """The ink touches the left and the upper wall at first."""
    left, right, up, down = (2 * side for side in ink_box(load_glyphs("test").images[0]))
    clip = digit(Flight((left, up), (5.0, 3.0), (left, up), (32 - right, 32 - down)))
    assert float(clip.frames([0.0])[..., 0].max()) > -0.95
    found = sampled(KnownMotion([clip]), known(render_clips([clip], [0.0])), [0.0, 1.0, 2.0])
    torch.testing.assert_close(found, clip.frames([0.0, 1.0, 2.0])[None], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sense", [1, -1])
def test_a_quarter_turn_is_exact(sense: int) -> None:
    clip = digit(Spin.at((16.0, 16.0), frequency=0.25, direction=sense))
    found = sampled(KnownMotion([clip]), known(render_clips([clip], [0.0])), [1.0])
    torch.testing.assert_close(found, clip.frames([1.0])[None], rtol=0, atol=1e-4)


def test_the_oracle_takes_the_nearest_known_frame() -> None:
    """At 0.8 s the frame of 1 s is one pixel away; the one of 0 s, which is black, would show nothing."""
    clip = digit(Flight((12.0, 16.0), (5.0, 0.0), (8.0, 8.0), (24.0, 24.0)))
    states = clip.frames([0.0, 1.0])[None].clone()
    states[:, 0] = -1
    found = sampled(KnownMotion([clip]), Trajectory(states, torch.tensor([0.0, 1.0]).double()), [0.2, 0.8])
    assert bool((found[:, 0] == -1).all())
    torch.testing.assert_close(found[:, 1], clip.frames([0.8])[None, 0], rtol=0, atol=1e-5)


def test_the_oracle_moves_each_sample_by_its_own_clip() -> None:
    clips, times = World().clips(range(4), "test"), [0.4]
    together = sampled(KnownMotion(clips), known(render_clips(clips, [0.0])), times)
    for n, clip in enumerate(clips):
        alone = sampled(KnownMotion([clip]), known(render_clips([clip], [0.0])), times)
        torch.testing.assert_close(alone, together[n : n + 1])


def test_the_oracle_refuses_what_it_cannot_shift() -> None:
    clips = World().clips([0, 1], "test")
    with pytest.raises(ValueError, match="one digit"):
        KnownMotion(World(digits=2, canvas=48).clips([0], "test"))
    with pytest.raises(ValueError, match="one digit"):
        KnownMotion([])
    with pytest.raises(ValueError, match=r"have shape \(2, 1, 1, 32, 32\); got \(1,"):
        sampled(KnownMotion(clips), known(render_clips(clips[:1], [0.0])), [0.1])


# Metrics


@pytest.mark.parametrize(("method", "most"), [("dis", 1e-12), ("farneback", 2e-3)])
def test_a_static_clip_has_no_warping_error_and_no_change_of_flow(method: str, most: float) -> None:
    still = moving([0.0, 1.0, 2.0], (0, 0), seeds=(0, 1), channels=3)
    errors, changes = warping_error(still, method=method), flow_change(still, method=method)
    assert errors.shape == (2, 2)
    assert changes.shape == (2, 1)
    assert float(errors.max()) < most
    assert float(changes.max()) < most


@given(st.floats(0, 0.3))
@settings(max_examples=10)
def test_flicker_of_a_static_clip_is_its_square(size: float) -> None:
    still = Video(0.5 * moving([0.0, 1.0, 2.0], (0, 0)).frames, torch.arange(3.0).double())
    flicker = torch.tensor([size, -size, size], dtype=torch.float64)[:, None, None, None]
    errors = warping_error(Video(still.frames + flicker, still.times), reference=still)
    torch.testing.assert_close(errors, torch.full((1, 2), size**2, dtype=torch.float64), rtol=1e-6, atol=1e-10)


def test_warping_error_grows_with_flicker_of_a_moving_clip() -> None:
    true = moving([0.0, 1.0, 2.0, 3.0], (1.3, 0.6))
    true = Video(0.6 * true.frames, true.times)
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None, None]
    flickering = [Video(true.frames + size * sign, true.times) for size in (0.0, 0.03, 0.1, 0.3)]
    with_truth, alone = (
        [float(warping_error(clip, reference=guide).mean()) for clip in flickering] for guide in (true, None)
    )
    assert with_truth == sorted(with_truth)
    assert alone == sorted(alone)
    assert with_truth[0] < 0.02 * float((true.frames.diff(dim=1) / 2).square().mean())
    assert with_truth[3] == pytest.approx(0.3**2, rel=0.1)


def told(monkeypatch: pytest.MonkeyPatch, flow_of: Callable[[float, float], Tensor]) -> None:
    """Let the metrics take the flow from one mean brightness to another from a function."""

    def true_flow(one: Tensor, other: Tensor, *, method: str) -> Tensor:
        return flow_of(float(one.mean()), float(other.mean())).float()

    monkeypatch.setattr("flowvid.metrics.warping.optical_flow", true_flow)


def test_occluded_pixels_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the true flow of a moving square the error is zero on what stays visible, and is not where it does not."""
    frames, guide = (
        torch.stack((square(10), square(15)))[None],
        torch.stack([torch.full((1, SIDE, SIDE), b) for b in (0.1, 0.2)]),
    )
    clip, marks = (Video(x.double(), torch.tensor([0.0, 1.0]).double()) for x in (frames, guide[None]))
    told(monkeypatch, lambda one, other: square_flow(10, 5) if other > one else square_flow(15, -5))
    assert float(warping_error(clip, reference=marks)) < 1e-8
    told(monkeypatch, lambda one, other: square_flow(10, 5) if other > one else -square_flow(10, 5))
    assert float(warping_error(clip, reference=marks)) > 1e-3


def test_when_nothing_is_visible_all_pixels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.stack([torch.full((1, SIDE, SIDE), b) for b in (-0.4, 0.4)])[None].double()
    told(monkeypatch, lambda one, other: torch.full((1, 2, SIDE, SIDE), 1e3))
    assert float(warping_error(Video(frames, torch.tensor([0.0, 1.0]).double()))) == pytest.approx(0.4**2)


def test_changes_of_flow_are_followed_along_the_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the steady flow F = k x, what is seen accelerates by k F although F does not change in place."""
    k, marks = 0.02, torch.stack([torch.full((1, SIDE, SIDE), b) for b in (0.1, 0.2, 0.3)])[None].double()
    x = torch.arange(SIDE, dtype=torch.float64).expand(1, SIDE, SIDE)
    forward, backward = (torch.stack((rate * x, 0 * x), dim=1) for rate in (k, -k / (1 + k)))
    told(monkeypatch, lambda one, other: forward if other > one else backward)
    change = flow_change(Video(marks, torch.arange(3.0).double()))
    inside = x[0, 0, : int((SIDE - 0.5) / (1 + k) ** 2)]
    assert float(change) == pytest.approx(float(k**2 * inside.mean()), rel=0.03)


@METHODS
def test_acceleration_is_measured_and_jitter_is_rougher_than_smooth_motion(method: str) -> None:
    def clip(places: list[float]) -> Video:
        frames = torch.stack([texture((place, -0.5 * place)) for place in places])[None]
        return Video(frames, torch.arange(len(places)).double() / 10)

    uniform, accelerated = clip([0, 1.2, 2.4, 3.6, 4.8]), clip([0.5 * 0.5 * n**2 for n in range(5)])
    jittered = clip([0, 1.9, 2.0, 4.1, 4.8])
    assert float(flow_change(uniform, method=method).mean()) < 0.1
    expected = 0.5 * 1.25**0.5
    torch.testing.assert_close(
        flow_change(accelerated, method=method), torch.full((1, 3), expected).double(), rtol=0.15, atol=0
    )
    assert float(flow_change(jittered, method=method).mean()) > 3 * float(
        flow_change(accelerated, method=method).mean()
    )


def test_metrics_refuse_what_they_cannot_measure() -> None:
    clip = moving([0.0, 1.0, 2.0], (1, 0))
    with pytest.raises(ValueError, match="at least 2 frames; got 1"):
        warping_error(Video(clip.frames[:, :1], clip.times[:1]))
    with pytest.raises(ValueError, match="at least 3 frames; got 2"):
        flow_change(Video(clip.frames[:, :2], clip.times[:2]))
    with pytest.raises(ValueError, match="evenly spaced"):
        flow_change(Video(clip.frames, torch.tensor([0.0, 1.0, 2.1]).double()))
    with pytest.raises(ValueError, match="reference needs as many clips"):
        warping_error(clip, reference=moving([0.0, 1.0], (1, 0)))
    with pytest.raises(ValueError, match="dis, farneback; got 'raft'"):
        warping_error(clip, method="raft")
    rounded = torch.tensor([0.0, 1.0, 2.004]).double()
    assert torch.equal(flow_change(Video(clip.frames, rounded)), flow_change(clip))


# Refusals


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.2, -1.2])
def test_pixels_must_be_finite_and_in_range(bad: float) -> None:
    image = texture((0, 0))[None]
    spoilt = image.clone()
    spoilt[0, 0, 3, 5] = bad
    for pair in ((image, spoilt), (spoilt, image)):
        with pytest.raises(ValueError, match="finite"):
            optical_flow(*pair, method="dis")
        with pytest.raises(ValueError, match="finite"):
            sampled(FlowInterpolation(), Trajectory(torch.stack(pair, dim=1), torch.tensor([0.0, 1.0]).double()), [0.5])


def test_a_spoilt_known_frame_is_refused_even_if_it_is_not_moved() -> None:
    clips = World().clips([0], "test")
    states = clips[0].frames([0.0])[None].clone()
    states[..., 3, 4] = float("nan")
    for model in (FlowInterpolation(), KnownMotion(clips)):
        with pytest.raises(ValueError, match="finite frames"):
            sampled(model, Trajectory(states, torch.tensor([0.0]).double()), [0.0])


@pytest.mark.parametrize("shape", [(1, 2, 4, 16, 16), (1, 2, 2, 16, 16), (1, 2, 16)])
def test_states_must_be_images(shape: tuple[int, ...]) -> None:
    states = Trajectory(torch.zeros(shape), torch.tensor([0.0, 1.0]).double())
    for model in (FlowInterpolation(), KnownMotion(World().clips([0], "test"))):
        with pytest.raises(ValueError, match=r"1 or 3 channels, as IdentityCodec gives them; got states of shape"):
            sampled(model, states, [0.5])


def test_images_must_be_large_enough_and_methods_known() -> None:
    with pytest.raises(ValueError, match="at least 12 pixels a side; got 11 x 30"):
        optical_flow(torch.zeros(1, 1, 11, 30), torch.zeros(1, 1, 11, 30), method="dis")
    assert optical_flow(torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 12), method="dis").shape == (1, 2, 12, 12)
    with pytest.raises(ValueError, match="1 or 3 channels; got 2"):
        optical_flow(torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16), method="dis")
    with pytest.raises(ValueError, match="dis, farneback; got 'raft'"):
        FlowInterpolation("raft")
    with pytest.raises(ValueError, match="dis, farneback; got 'raft'"):
        optical_flow(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), method="raft")
    with pytest.raises(ValueError, match="knows the solvers warp"):
        FlowInterpolation().sample(Condition(known(moving([0.0], (0, 0)))), [0.0], Noise.of([0]), solver="rk4")
    oracle = KnownMotion(World().clips([0], "test"))
    with pytest.raises(ValueError, match="knows the solvers oracle"):
        oracle.sample(
            Condition(
                known(
                    moving(
                        [0.0],
                        (0, 0),
                    )
                )
            ),
            [0.0],
            Noise.of([0]),
            solver="rk4",
        )
    with pytest.raises(ValueError, match="starts from known frames"):
        FlowInterpolation().sample(Condition(None), [0.0], Noise.of([0]))


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'flowvid\[flow\]'"):
        sampled(FlowInterpolation(), known(moving([0.0, 1.0], (1, 0))), [0.5])
    with pytest.raises(ImportError, match=r"pip install 'flowvid\[flow\]'"):
        warping_error(moving([0.0, 1.0], (1, 0)))


def test_inputs_stay_as_they_are() -> None:
    video = moving([0.0, 1.0, 2.0], (1.2, 0.3))
    before = video.frames.clone()
    sampled(FlowInterpolation(), known(video), [0.4, 2.5])
    warping_error(video)
    flow_change(video)
    assert torch.equal(video.frames, before)


# Real footage


@METHODS
@pytest.mark.parametrize(("name", "gain"), [("world.mp4", 4.0), ("carphone_pristine.mp4", 0.1)])
def test_every_eighth_frame_of_real_footage_is_filled_better_than_by_a_blend(
    method: str, name: str, gain: float, data: Path
) -> None:
    video = footage(data / "clips" / name, count=25)
    ends, between = Trajectory(video.frames[:, ::8], video.times[::8]), [n for n in range(25) if n % 8]
    truth = Video(video.frames[:, between], video.times[between])
    found, blended = (
        psnr(Video(sampled(model, ends, truth.times.tolist()), truth.times), truth).mean()
        for model in (FlowInterpolation(method), LinearBlend())
    )
    assert float(found - blended) > gain


def footage(path: Path, *, count: int) -> Video:
    """The first frames of a clip."""
    import av

    with av.open(str(path)) as container:
        images = [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(count), strict=False)
        ]
    pixels = torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2)
    return Video(pixels[None] / 127.5 - 1, torch.arange(count).double() / 30)
