"""Clips: what is drawn is what the closed forms say, and a clip depends on world, split and seed alone."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.clips import FAMILIES, Clip, World, clip_positions, render_clips
from flowvid.data.worlds.digits import SPLITS, ink_box, load_glyphs
from flowvid.data.worlds.motions import Flight, Orbit, Spin
from flowvid.data.worlds.scene import has_event
from flowvid.video import time_grid

IRREGULAR = [0.0, 0.1, 1 / 3, 1.0, math.sqrt(2), 2.71828, 4.5, 6.0]


def measured(frames: Tensor) -> Tensor:
    ink = (frames.double() + 1) / 2
    pixels = torch.arange(ink.shape[-1], dtype=torch.float64) + 0.5
    return torch.stack((ink.sum(-2) @ pixels, ink.sum(-1) @ pixels), dim=-1) / ink.sum((-2, -1))[..., None]


def same(one: Clip, other: Clip) -> bool:
    fields = ("motions", "labels", "canvas", "scale", "seed")
    return torch.equal(one.glyphs, other.glyphs) and all(getattr(one, f) == getattr(other, f) for f in fields)


@pytest.mark.parametrize("motion", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_measured_centroids_are_the_true_positions(motion: str, split: str) -> None:
    clips = World(motion=motion).clips(range(24), split)
    video, truth = render_clips(clips, IRREGULAR), clip_positions(clips, IRREGULAR)
    error = (measured(video.frames[:, :, 0]) - truth[:, :, 0]).abs().max().item()
    assert error < (0.1 if motion == "spin" else 1e-4)
    assert video.frames.shape == (24, 8, 1, 32, 32)
    assert video.frames.dtype == torch.float32
    assert video.frames.min() == -1
    assert 0 < video.frames.max() <= 1
    assert video.times.tolist() == IRREGULAR


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from((*FAMILIES, "mixed")),
    st.integers(1, 2),
    st.integers(0, 2**62),
    st.sampled_from(SPLITS),
    st.integers(2, 3),
)
def test_ink_never_leaves_the_canvas(motion: str, digits: int, seed: int, split: str, scale: int) -> None:
    clip = World(motion=motion, digits=digits, canvas=20 * scale, scale=scale).clip(seed, split)
    positions = clip.positions(time_grid(0.0, 6.0, 1 / 64))
    upright = clip.angles(time_grid(0.0, 6.0, 1 / 64)).abs().amax(0) == 0
    for digit in range(digits):
        left, right, up, down = (scale * side for side in ink_box(clip.glyphs[digit]))
        x, y = positions[:, digit].T
        if upright[digit]:
            assert x.min() >= left - 1e-9
            assert x.max() <= clip.canvas - right + 1e-9
            assert y.min() >= up - 1e-9
            assert y.max() <= clip.canvas - down + 1e-9


def test_turning_ink_never_leaves_the_canvas() -> None:
    world = World(motion="spin")
    for clip in world.clips(range(16), "train"):
        wide = dataclasses.replace(clip, canvas=64, motions=tuple(_moved(motion) for motion in clip.motions))
        inner = clip.frames(IRREGULAR)
        outer = wide.frames(IRREGULAR)
        torch.testing.assert_close(outer[..., 16:48, 16:48], inner, atol=1e-5, rtol=0)
        outer[..., 16:48, 16:48] = -1
        assert (outer == -1).all()


def _moved(spin: Spin) -> Spin:
    x, y = spin.path.start
    return Spin.at((x + 16, y + 16), frequency=spin.frequency, phase=spin.phase, direction=spin.direction)


def test_in_flight_the_ink_touches_the_walls() -> None:
    for clip in World().clips(range(16), "train"):
        left, right, up, down = (2 * side for side in ink_box(clip.glyphs[0]))
        events = clip.events(0.0, 20.0)
        assert len(events) > 0
        gaps = clip.positions(events)[:, 0, :, None] - torch.tensor([[left, 32 - right], [up, 32 - down]])
        assert gaps.abs().flatten(1).amin(1).max() < 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(SPLITS), st.sampled_from((*FAMILIES, "mixed")))
def test_a_clip_depends_on_world_split_and_seed_alone(seed: int, split: str, motion: str) -> None:
    world = World(motion=motion, digits=2)
    clip = world.clip(seed, split)
    assert same(clip, World(motion=motion, digits=2).clip(seed, split))
    assert same(clip, world.clips([5, seed, 7], split)[1])
    assert not same(clip, world.clip(seed ^ 1, split))
    assert all(not same(clip, world.clip(seed, other)) for other in SPLITS if other != split)


def test_splits_share_neither_glyphs_nor_motions() -> None:
    per_split = {split: World().clips(range(50), split) for split in SPLITS}
    motions = [clip.motions for clips in per_split.values() for clip in clips]
    assert len({motion[0].initial_velocity for motion in motions}) == 150
    for split, clips in per_split.items():
        bank = load_glyphs(split)
        for clip in clips:
            matches = (bank.images == clip.glyphs).all((1, 2))
            assert clip.labels[0] in bank.labels[matches].tolist()


def test_draws_are_spread_over_their_ranges() -> None:
    clips = World(motion="mixed", digits=2).clips(range(500), "train")
    counts = {name: 0 for name in ("Flight", "Spin", "Oscillation", "Orbit", "Pendulum")}
    for clip in clips:
        for motion in clip.motions:
            counts[type(motion).__name__] += 1
    assert all(140 < count < 260 for count in counts.values())
    for kind in (Orbit, Spin):
        senses = [motion.direction for clip in clips for motion in clip.motions if isinstance(motion, kind)]
        assert abs(sum(senses)) < 5 * math.sqrt(len(senses))
    assert {label for clip in clips for label in clip.labels} == set(range(10))
    velocity = torch.tensor([c.motions[0].initial_velocity for c in World().clips(range(500), "train")])
    speed, heading = velocity.norm(dim=1), torch.atan2(velocity[:, 1], velocity[:, 0])
    assert 4 <= speed.min() < 4.1
    assert 8.9 < speed.max() <= 9
    quadrants = torch.histc(heading, 4, -math.pi, math.pi)
    assert quadrants.min() > 90


def test_a_frame_does_not_depend_on_its_neighbours() -> None:
    clips = World(motion="mixed", digits=2).clips(range(6), "test")
    video = render_clips(clips, IRREGULAR)
    for row, clip in enumerate(clips):
        assert torch.equal(clip.frames(IRREGULAR), video.frames[row])
        assert torch.equal(clip.frames(IRREGULAR[2:5]), video.frames[row, 2:5])
        assert torch.equal(clip.positions(IRREGULAR), clip_positions(clips, IRREGULAR)[row])


def test_two_digits_combine_by_the_maximum() -> None:
    clip = World(digits=2).clip(3, "train")
    parts = [
        Clip(clip.glyphs[i : i + 1], (clip.motions[i],), (clip.labels[i],), clip.canvas, clip.scale, clip.seed)
        for i in range(2)
    ]
    one, other = (part.frames(IRREGULAR) for part in parts)
    assert torch.equal(clip.frames(IRREGULAR), torch.maximum(one, other))
    assert not torch.equal(one, other)


def test_velocities_and_events_are_those_of_the_motions() -> None:
    clip = World(digits=2).clip(11, "train")
    times, h = torch.tensor(IRREGULAR, dtype=torch.float64), 1e-6
    slopes = (clip.positions(times + h) - clip.positions(times - h)) / (2 * h)
    torch.testing.assert_close(clip.velocities(times), slopes, atol=1e-4, rtol=0)
    events = clip.events(0.0, 12.0)
    parts = sorted(time for motion in clip.motions for time in motion.events(0.0, 12.0))
    assert events.tolist() == parts
    assert len(parts) > 2
    assert all(len(motion.events(0.0, 12.0)) > 0 for motion in clip.motions)


def test_has_event_marks_the_clips_that_bounce() -> None:
    clips = World().clips(range(40), "validation")
    marked = has_event(clips, 0.5, 1.5)
    velocity = torch.stack([clip.velocities(time_grid(0.5, 1.5, 1 / 512)) for clip in clips])
    assert torch.equal(marked, (velocity.diff(dim=1) != 0).flatten(1).any(1))
    assert marked.any()
    assert not marked.all()
    assert not has_event(World(motion="orbit").clips(range(4), "train"), 0.0, 100.0).any()


def test_slower_and_faster_worlds_are_disjoint_from_their_own() -> None:
    world = World(speed=(6.0, 12.0), frequency=(0.2, 0.5))
    slow, fast = world.slower(), world.faster()
    assert slow.speed == pytest.approx((2.4, 4.8))
    assert fast.speed == pytest.approx((15.0, 21.0))
    assert slow.frequency == pytest.approx((0.08, 0.16))
    assert fast.frequency == pytest.approx((0.625, 0.875))
    speeds = [[_speed(clip) for clip in w.clips(range(200), "test")] for w in (slow, world, fast)]
    assert max(speeds[0]) < 6 <= min(speeds[1])
    assert max(speeds[1]) <= 12 < min(speeds[2])
    worlds = (dataclasses.replace(w, motion="orbit") for w in (slow, world, fast))
    rates = [[_rate(clip) for clip in w.clips(range(200), "test")] for w in worlds]
    assert max(rates[0]) < 0.2 <= min(rates[1])
    assert max(rates[1]) <= 0.5 < min(rates[2])


def _speed(clip: Clip) -> float:
    assert isinstance(clip.motions[0], Flight)
    return clip.velocities([0.3]).norm().item()


def _rate(clip: Clip) -> float:
    orbit = clip.motions[0]
    assert isinstance(orbit, Orbit)
    return clip.velocities([0.3]).norm().item() / (2 * math.pi * orbit.radius)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"motion": "jump"}, "motions are flight, spin, .* and mixed; got 'jump'"),
        ({"digits": 3}, "1 or 2 digits; got 3"),
        ({"canvas": 0}, "positive whole pixels; got 0 and 2"),
        ({"speed": (3.0, 2.0)}, r"speed must be a range .* got \(3.0, 2.0\)"),
        ({"speed": (-1.0, 2.0)}, "speed must be a range"),
        ({"frequency": (0.1, math.inf)}, "frequency must be a range"),
        ({"frequency": (math.nan, 1.0)}, "frequency must be a range"),
    ],
)
def test_impossible_worlds_are_refused(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        World(**fields)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"but the canvas has 12 x 12. Enlarge the canvas or lower the scale"):
        World(canvas=12).clip(0, "train")
    with pytest.raises(ValueError, match="train, validation, test; got 'dev'"):
        World().clip(0, "dev")
    with pytest.raises(ValueError, match="one canvas, scale and number of digits; got no clip"):
        render_clips([], [0.0])
    mixed = [World().clip(0, "train"), World(canvas=40).clip(0, "train")]
    with pytest.raises(ValueError, match=r"got \(canvas, scale, digits\) of \[\(32, 2, 1\), \(40, 2, 1\)\]"):
        clip_positions(mixed, [0.0])
    with pytest.raises(ValueError, match="increase strictly"):
        render_clips(mixed[:1], [1.0, 0.5])
    clip = mixed[0]
    with pytest.raises(ValueError, match=r"one motion and one label for each glyph, and a glyph; got \(1, 1, 2\)"):
        Clip(clip.glyphs, clip.motions, (1, 2), clip.canvas, clip.scale, clip.seed)
