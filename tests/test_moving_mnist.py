"""Moving MNIST: the laws at the walls, how positions become pixels, and the protocols of published tables."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import flowvid.data.worlds.protocols as protocols
import flowvid.metrics.distortion as distortion
from flowvid.data.worlds.bounces import legacy_path, srvp_path, svg_path
from flowvid.data.worlds.clips import World, render_clips
from flowvid.data.worlds.digits import Glyphs, load_glyphs
from flowvid.data.worlds.mnist import load_mnist, mnist_like_glyphs
from flowvid.data.worlds.motions import Flight
from flowvid.data.worlds.moving_mnist import (
    FPS,
    ExactMovingMnist,
    LegacyMovingMnist,
    MovingDigits,
    SrvpMovingMnist,
    SvgMovingMnist,
    Variant,
    as_video,
)
from flowvid.data.worlds.protocols import OPENSTL_SCORES, TEST_CLIPS, MovingMnistFile, OpenStlMovingMnist
from flowvid.noise import Noise
from flowvid.video import Video

VARIANTS: tuple[Variant, ...] = (
    ExactMovingMnist(),
    LegacyMovingMnist(),
    SvgMovingMnist(),
    SvgMovingMnist(stochastic=False),
    SrvpMovingMnist(),
    SrvpMovingMnist(stochastic=True),
)
PUBLISHED = VARIANTS[1:]
ROOMS = (36, 31, 31, 36, 36)

seeds = st.integers(-(2**63), 2**63 - 1)
shares = st.floats(0, 1)
rates = st.floats(-0.3, 0.3)
names = [f"{type(variant).__name__}-{getattr(variant, 'stochastic', '')}" for variant in VARIANTS]
every = pytest.mark.parametrize("variant", VARIANTS, ids=names)
published = pytest.mark.parametrize(("variant", "room"), list(zip(PUBLISHED, ROOMS, strict=True)), ids=names[1:])


def one(x: float, y: float) -> Tensor:
    return torch.tensor([[[x, y]]], dtype=torch.float64)


def many(x: float, y: float, count: int) -> Tensor:
    return one(x, y).expand(count, 1, 2)


def same(found: MovingDigits, expected: MovingDigits) -> bool:
    fields = ("pixels", "positions", "velocities", "glyphs", "labels")
    return all(torch.equal(getattr(found, field), getattr(expected, field)) for field in fields)


def uniform_over(values: Tensor, support: list[int]) -> bool:
    """Whether a sample takes just the values of the support, with frequencies within five standard deviations."""
    counts = torch.tensor([int((values == value).sum()) for value in support], dtype=torch.float64)
    total, share = len(values), 1 / len(support)
    close = (counts - total * share).abs() < 5 * (total * share * (1 - share)) ** 0.5
    return int(counts.sum()) == total and bool(close.all())


# The legacy law.


def test_legacy_throws_the_overshoot_away() -> None:
    positions, velocities = legacy_path(one(0.95, 0.05), one(0.1, -0.2), frames=3)
    torch.testing.assert_close(positions[0, :, 0], torch.tensor([[1.0, 0.0], [0.9, 0.2], [0.8, 0.4]]).double())
    torch.testing.assert_close(velocities[0, :, 0], torch.tensor([[-0.1, 0.2]]).double().expand(3, 2))


def test_legacy_reverses_where_a_wall_is_just_touched() -> None:
    positions, velocities = legacy_path(one(0.75, 0.25), one(0.25, -0.25), frames=1)
    assert positions.flatten().tolist() == [1, 0]
    assert velocities.flatten().tolist() == [-0.25, 0.25]


@settings(max_examples=20)
@given(shares, shares, rates, rates)
def test_legacy_moves_straight_between_walls_and_stays_inside(x: float, y: float, u: float, v: float) -> None:
    start, velocity = one(x, y), one(u, v)
    positions, velocities = legacy_path(start, velocity, frames=40)
    assert positions.min() >= 0
    assert positions.max() <= 1
    assert torch.equal(velocities.abs(), velocity.abs()[:, None].expand_as(velocities))
    before = torch.cat((start[:, None], positions[:, :-1]), dim=1)
    arriving = torch.cat((velocity[:, None], velocities[:, :-1]), dim=1)
    at_wall = (positions == 0) | (positions == 1)
    assert torch.equal(positions, (before + arriving).clamp(0, 1))
    assert torch.equal(velocities, torch.where(at_wall, -arriving, arriving))


def test_legacy_depends_on_the_step_and_elastic_flight_does_not() -> None:
    start, velocity = one(0.93, 0.5), one(0.1, 0.03)
    whole, _ = legacy_path(start, velocity, frames=20)
    halves, _ = legacy_path(start, velocity / 2, frames=40)
    assert (whole[:, -1] - halves[:, -1])[..., 0].abs() > 0.01
    assert torch.allclose(whole[:, 0, :, 1], halves[:, 1, :, 1])
    elastic, _ = srvp_path(36 * start, 36 * velocity, None, frames=21, room=36, speed=4)
    finer, _ = srvp_path(36 * start, 18 * velocity, None, frames=41, room=36, speed=4)
    torch.testing.assert_close(elastic, finer[:, ::2], atol=1e-9, rtol=0)


def test_legacy_cannot_be_run_backwards() -> None:
    noise = Noise.of(range(300))
    start = noise.uniform("start", 1, 2, dtype=torch.float64)
    velocity = 0.2 * noise.uniform("velocity", 1, 2, dtype=torch.float64) - 0.1
    there, velocities = legacy_path(start, velocity, frames=20)
    back, _ = legacy_path(there[:, -1], -velocities[:, -1], frames=20)
    error = (back[:, -1] - start).abs().flatten(1).amax(1)
    inside = ((there > 0) & (there < 1)).flatten(1).all(1) & ((back > 0) & (back < 1)).flatten(1).all(1)
    assert error[inside].max() < 1e-12
    assert inside.sum() > 5
    assert (error[~inside] > 1e-3).float().mean() > 0.9


@settings(max_examples=20)
@given(seeds)
def test_legacy_draws_a_place_and_a_direction(seed: int) -> None:
    sample = LegacyMovingMnist(canvas=48, step=0.05, digits=3).sample([seed], "train")
    assert torch.allclose(sample.velocities.square().sum(-1).sqrt(), torch.tensor(1.0).double())
    assert sample.positions.shape == (1, 20, 3, 2)
    assert sample.positions.max() <= 20


def test_legacy_places_and_directions_are_uniform() -> None:
    sample = LegacyMovingMnist(frames=1, step=1e-9).sample(range(2000), "train")
    places, directions = sample.positions[:, 0] / 36, sample.velocities[:, 0] / 36e-9
    for share in (0.1, 0.5, 0.9):
        assert ((places < share).double().mean((0, 1)) - share).abs().max() < 0.04
    angles = torch.atan2(directions[..., 1], directions[..., 0]) / (2 * torch.pi) % 1
    for share in (0.1, 0.5, 0.9):
        assert abs((angles < share).double().mean().item() - share) < 0.04
    assert torch.corrcoef(torch.cat((places.flatten(1).T, angles.T))).fill_diagonal_(0).abs().max() < 0.1


# The law of SVG and MCVD.


@settings(max_examples=20)
@given(st.integers(0, 31), st.integers(0, 31), st.integers(-4, 4), st.integers(-4, 4), seeds)
def test_svg_stays_on_whole_pixels_and_draws_anew_only_at_walls(x: int, y: int, u: int, v: int, seed: int) -> None:
    positions, velocities = svg_path(one(x, y), one(u, v), Noise.of([seed]), frames=60, last=31, speed=4)
    assert torch.equal(positions, positions.round())
    assert positions.min() >= 0
    assert positions.max() <= 31
    assert velocities.abs().max() <= 4
    reached = positions[:, :-1] + velocities[:, :-1]
    assert torch.equal(positions[:, 1:], reached.clamp(0, 31))
    hit = (reached < 0) | (reached > 31)
    free = ~hit.any(-1)
    assert torch.equal(velocities[:, 1:][free], velocities[:, :-1][free])
    inwards = torch.where(reached < 0, velocities[:, 1:], -velocities[:, 1:])
    final = hit & torch.stack((torch.ones_like(free), ~hit[..., 0]), dim=-1)
    assert (inwards[final] >= 1).all()


@pytest.mark.parametrize(("place", "sign"), [(0, 1), (31, -1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_svg_velocities_after_a_wall(place: int, sign: int, axis: int) -> None:
    start, velocity = [16.0, 16.0], [0.0, 0.0]
    start[axis], velocity[axis] = place, -2 * sign
    count = 4000
    paths = svg_path(many(*start, count), many(*velocity, count), Noise.of(range(count)), frames=2, last=31, speed=4)
    positions, velocities = (path[:, 1, 0] for path in paths)
    assert (positions == torch.tensor(start)).all()
    assert uniform_over(sign * velocities[:, axis], [1, 2, 3, 4])
    assert uniform_over(velocities[:, 1 - axis], list(range(-4, 5)))


def test_svg_sides_override_in_a_corner() -> None:
    count = 4000
    paths = svg_path(many(31, 0, count), many(3, -3, count), Noise.of(range(count)), frames=2, last=31, speed=4)
    positions, velocities = (path[:, 1, 0] for path in paths)
    assert (positions == torch.tensor([31.0, 0.0])).all()
    assert uniform_over(-velocities[:, 0], [1, 2, 3, 4])
    assert uniform_over(velocities[:, 1], list(range(-4, 5)))


def test_svg_draws_are_new_at_every_wall_for_every_digit() -> None:
    start = torch.tensor([[[31.0, 16.0], [31.0, 16.0]]]).double().expand(500, 2, 2)
    velocity = torch.tensor([4.0, 0.0]).double().expand(500, 2, 2)
    _, velocities = svg_path(start, velocity, Noise.of(range(500)), frames=40, last=31, speed=4)
    after = velocities[:, 1]
    assert (after[:, 0] == after[:, 1]).all(-1).double().mean() < 0.06
    assert len({tuple(row) for row in velocities[0, :, 0].tolist()}) > 2
    changed = (velocities[:, 1:] != velocities[:, :-1]).any(-1)
    assert changed.sum(1).double().mean() > 2


def test_svg_without_noise_reverses() -> None:
    positions, velocities = svg_path(one(30, 1), one(3, -1), None, frames=4, last=31, speed=4)
    assert positions[0, :, 0].tolist() == [[30, 1], [31, 0], [28, 0], [25, 1]]
    assert velocities[0, :, 0].tolist() == [[3, -1], [-3, -1], [-3, 1], [-3, 1]]
    positions, velocities = svg_path(one(28, 3), one(3, -3), None, frames=3, last=31, speed=4)
    assert positions[0, :, 0].tolist() == [[28, 3], [31, 0], [31, 0]]
    assert velocities[0, :, 0].tolist() == [[3, -3], [3, -3], [-3, 3]]


@pytest.mark.parametrize(("variant", "places"), [(SvgMovingMnist(frames=1), 32), (SrvpMovingMnist(frames=1), 37)])
def test_whole_starts_are_uniform(variant: Variant, places: int) -> None:
    sample = variant.sample(range(3000), "train")
    for axis in (0, 1):
        assert uniform_over(sample.positions[..., axis].flatten(), list(range(places)))
        assert uniform_over(sample.velocities[..., axis].flatten(), list(range(-4, 5)))
    assert torch.corrcoef(sample.positions[:, 0].flatten(1).T).fill_diagonal_(0).abs().max() < 0.1


# The law of SRVP.


@settings(max_examples=20)
@given(shares, shares, st.floats(-90, 90), st.floats(-90, 90), st.integers(1, 36))
def test_srvp_without_noise_is_the_fold(x: float, y: float, u: float, v: float, room: int) -> None:
    start, velocity = one(room * x, room * y), one(u, v)
    positions, _ = srvp_path(start, velocity, None, frames=6, room=room, speed=4)
    flight = Flight((start[0, 0, 0].item(), start[0, 0, 1].item()), (u, v), (0.0, 0.0), (float(room), float(room)))
    expected = flight.position(np.arange(6.0))
    assert np.abs(positions[0, :, 0].numpy() - expected).max() < 1e-9


@settings(max_examples=20)
@given(seeds)
def test_srvp_without_noise_can_be_run_backwards(seed: int) -> None:
    there = SrvpMovingMnist(frames=50).sample([seed], "train")
    back, velocities = srvp_path(there.positions[:, -1], -there.velocities[:, -1], None, frames=50, room=36, speed=4)
    torch.testing.assert_close(back.flip(1), there.positions, atol=1e-9, rtol=0)
    assert torch.equal(velocities.abs(), there.velocities.abs())


@settings(max_examples=20)
@given(shares, shares, st.integers(-4, 4), st.integers(-4, 4), seeds)
def test_srvp_stays_inside_with_whole_speeds(x: float, y: float, u: int, v: int, seed: int) -> None:
    positions, velocities = srvp_path(one(36 * x, 36 * y), one(u, v), Noise.of([seed]), frames=60, room=36, speed=4)
    assert positions.min() >= 0
    assert positions.max() <= 36
    assert torch.equal(velocities, velocities.round())
    assert velocities.abs().max() <= 4
    reached = positions[:, :-1] + velocities[:, :-1]
    free = ((reached >= 0) & (reached <= 36)).all(-1)
    torch.testing.assert_close(positions[:, 1:][free], reached[free], atol=1e-9, rtol=0)
    assert torch.equal(velocities[:, 1:][free], velocities[:, :-1][free])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("place", "sign"), [(1, 1), (35, -1)])
def test_srvp_flies_the_rest_of_the_step_with_the_new_velocity(axis: int, place: int, sign: int) -> None:
    start, velocity = [18.0, 18.0], [0.0, 0.0]
    start[axis], velocity[axis] = place, -4 * sign
    count = 4000
    paths = srvp_path(many(*start, count), many(*velocity, count), Noise.of(range(count)), frames=2, room=36, speed=4)
    positions, velocities = (path[:, 1, 0] for path in paths)
    inwards, along = sign * velocities[:, axis], velocities[:, 1 - axis]
    wall = torch.tensor([18.0, 18.0]).double()
    wall[axis] = 0 if sign == 1 else 36
    torch.testing.assert_close(positions, wall + 0.75 * velocities, atol=1e-12, rtol=0)
    assert uniform_over(along, list(range(-4, 5)))
    still = (inwards == 0).double().mean().item()
    assert abs(still - 1 / 9) < 0.025
    assert uniform_over(inwards[inwards > 0], [1, 2, 3, 4])
    assert (inwards >= 0).all()


def test_srvp_turns_both_components_in_a_corner() -> None:
    count = 1000
    paths = srvp_path(many(34, 2, count), many(4, -4, count), Noise.of(range(count)), frames=2, room=36, speed=4)
    positions, velocities = (path[:, 1, 0] for path in paths)
    assert (velocities[:, 0] <= 0).all()
    assert (velocities[:, 1] >= 0).all()
    torch.testing.assert_close(positions, torch.tensor([36.0, 0.0]) + 0.5 * velocities, atol=1e-7, rtol=0)


def test_srvp_draws_are_new_at_every_wall_for_every_digit() -> None:
    start = torch.tensor([[[36.0, 16.0], [36.0, 16.0]]]).double().expand(500, 2, 2)
    velocity = torch.tensor([4.0, 0.0]).double().expand(500, 2, 2)
    _, velocities = srvp_path(start, velocity, Noise.of(range(500)), frames=60, room=36, speed=4)
    assert (velocities[:, 1, 0] == velocities[:, 1, 1]).all(-1).double().mean() < 0.06
    changed = (velocities[:, 1:] != velocities[:, :-1]).any(-1)
    assert changed.sum(1).double().mean() > 2


# Clips.


@every
@settings(max_examples=2)
@given(seed=seeds, split=st.sampled_from(("train", "validation", "test")))
def test_a_clip_depends_on_variant_split_and_seed_alone(variant: Variant, seed: int, split: str) -> None:
    alone = variant.sample([seed], split)
    among = variant.sample([3, seed, 4], split)
    chosen = MovingDigits(**{f.name: getattr(among, f.name)[1:2] for f in dataclasses.fields(among)})
    assert same(alone, chosen)
    assert alone.seeds == (seed,)
    assert len(among) == 3
    assert not torch.equal(variant.sample([seed ^ 1], split).positions, alone.positions)
    for other in {"train", "validation", "test"} - {split}:
        assert not torch.equal(variant.sample([seed], other).positions, alone.positions)


def test_the_digits_of_a_seed_are_the_same_in_all_variants() -> None:
    samples = [variant.sample(range(8), "test") for variant in VARIANTS]
    bank = mnist_like_glyphs("test")
    for sample in samples:
        assert torch.equal(sample.labels, samples[0].labels)
        if sample.glyphs.shape[-1] == 28:
            assert torch.equal(sample.glyphs, samples[0].glyphs)
            match = (bank.images == sample.glyphs[0, 0]).flatten(1).all(1)
            assert sample.labels[0, 0] in bank.labels[match]


@every
def test_glyphs_can_be_given(variant: Variant) -> None:
    images = torch.zeros(3, 28, 28)
    for index in range(3):
        images[index, 8 : 10 + 3 * index, 9:20] = 1 - 0.2 * index
    sample = variant.sample(range(40), "train", glyphs=Glyphs(images, torch.tensor([7, 8, 9])))
    assert set(sample.labels.flatten().tolist()) == {7, 8, 9}
    peaks = (sample.glyphs.amax((2, 3)) * 5).round()
    assert torch.equal(peaks, 12 - sample.labels.float())
    assert sample.pixels.amax((1, 2, 3)).float().sub(51 * peaks.amax(1)).abs().max() <= 255 - 153


@every
def test_videos_lie_between_minus_one_and_one_at_ten_frames_per_second(variant: Variant) -> None:
    sample = variant.sample(range(5), "train")
    video = sample.video()
    assert video.frames.shape == (5, 20, 1, 64, 64)
    assert video.times.tolist() == [frame / FPS for frame in range(20)]
    assert video.frames.min() == -1
    assert video.frames.max() <= 1
    assert torch.equal(((video.frames[:, :, 0] + 1) * 127.5).round().to(torch.uint8), sample.pixels)


def drawn(sample: MovingDigits, corner: np.ufunc, overlap: str) -> np.ndarray:
    """The frames of clips, drawn one glyph at a time."""
    frames = np.zeros((len(sample), 20, 64, 64))
    ink = np.rint(sample.glyphs.numpy().astype(float) * 255)
    side = ink.shape[-1]
    for clip, frame, digit in np.ndindex(len(sample), 20, 2):
        x, y = (int(value) for value in corner(sample.positions[clip, frame, digit].numpy()))
        window = frames[clip, frame, y : y + side, x : x + side]
        window[...] = np.maximum(window, ink[clip, digit]) if overlap == "maximum" else window + ink[clip, digit]
    return np.minimum(frames, 255)


@published
def test_positions_become_pixels_by_the_published_rules(variant: Variant, room: int) -> None:
    sample = variant.sample(range(60), "train")
    legacy = isinstance(variant, LegacyMovingMnist)
    expected = drawn(sample, np.trunc if legacy else np.rint, "maximum" if legacy else "sum")
    assert (sample.pixels.numpy() == expected).all()
    assert sample.positions.min() >= 0
    assert sample.positions.max() <= room
    assert sample.glyphs.shape[-1] == 64 - room - isinstance(variant, SvgMovingMnist)


def test_rounding_is_to_even_where_it_matters() -> None:
    positions = SrvpMovingMnist(stochastic=True).sample(range(60), "train").positions
    halves = positions[(positions % 1 - 0.5).abs() < 1e-12]
    assert len(halves) > 20
    assert (torch.floor(halves) % 2 == 0).any()
    assert (torch.floor(halves) % 2 == 1).any()


@published
def test_frames_follow_the_motion(variant: Variant, room: int) -> None:
    sample = variant.sample(range(60), "train")
    reached = sample.positions[:, :-1] + sample.velocities[:, :-1]
    free = ((reached > 0) & (reached < room)).all(-1)
    torch.testing.assert_close(sample.positions[:, 1:][free], reached[free], atol=1e-9, rtol=0)
    assert free.double().mean() > 0.6


def test_stochastic_variants_differ_from_the_others_only_after_a_wall() -> None:
    for kind in (SvgMovingMnist, SrvpMovingMnist):
        random, mirrored = (kind(stochastic=s).sample(range(20), "train") for s in (True, False))
        assert torch.equal(random.positions[:, 0], mirrored.positions[:, 0])
        assert torch.equal(random.velocities[:, 0], mirrored.velocities[:, 0])
        assert not torch.equal(random.positions, mirrored.positions)


# Ours.


def measured(pixels: Tensor) -> Tensor:
    ink = pixels.double()
    places = torch.arange(ink.shape[-1], dtype=torch.float64) + 0.5
    return torch.stack((ink.sum(-2) @ places, ink.sum(-1) @ places), dim=-1) / ink.sum((-2, -1))[..., None]


@pytest.mark.parametrize("speed", [(5.0, 90.0), (36.0, 36.0)])
def test_exact_centroids_are_the_true_ones(speed: tuple[float, float]) -> None:
    variant = ExactMovingMnist(world=World(canvas=64, scale=1, speed=speed), frames=30)
    sample = variant.sample(range(20), "validation")
    assert (measured(sample.pixels)[:, :, None] - sample.centroids()).abs().max() < 0.02
    clips = variant.clips(range(20), "validation")
    irregular = [0.0, 1 / 3, 0.5123, 2.0, 2.7]
    frames = render_clips(clips, irregular).frames[:, :, 0]
    truth = torch.stack([clip.positions(irregular)[:, 0] for clip in clips])
    assert (measured((frames + 1) / 2) - truth).abs().max() < 1e-4
    torch.testing.assert_close(sample.centroids()[:, 20, 0], truth[:, 3], atol=1e-9, rtol=0)


def test_exact_moves_at_its_speed_and_bounces_elastically() -> None:
    sample = ExactMovingMnist().sample(range(30), "train")
    assert torch.allclose(sample.velocities.norm(dim=-1), torch.tensor(3.6).double())
    same_way = (sample.velocities[:, 1:] == sample.velocities[:, :-1]).all(-1)
    steps = sample.positions.diff(dim=1)
    torch.testing.assert_close(steps[same_way], sample.velocities[:, 1:][same_way], atol=1e-9, rtol=0)
    assert 0.6 < same_way.double().mean() < 0.99


def test_exact_motion_runs_backwards() -> None:
    for clip in ExactMovingMnist().clips(range(10), "test"):
        there = clip.positions([0.0, 0.7, 3.1])
        velocity = clip.velocities([0.0, 3.1])[1]
        for digit, motion in enumerate(clip.motions):
            assert isinstance(motion, Flight)
            x, y = (
                max(low, min(high, at))
                for low, high, at in zip(motion.low, motion.high, there[2, digit].tolist(), strict=True)
            )
            u, v = (-velocity[digit]).tolist()
            back = Flight((x, y), (u, v), motion.low, motion.high).position(np.array([2.4, 3.1]))
            assert np.abs(back - there[[1, 0], digit].numpy()).max() < 1e-9


def test_exact_overlap_is_the_maximum() -> None:
    clip = ExactMovingMnist().clips([1], "train")[0]
    times = [0.0, 1.0, 1.7]
    each = [
        dataclasses.replace(clip, glyphs=clip.glyphs[i : i + 1], motions=clip.motions[i : i + 1], labels=(0,)).frames(
            times
        )
        for i in (0, 1)
    ]
    assert torch.equal(clip.frames(times), torch.maximum(*each))


def test_a_world_takes_glyphs_of_any_size() -> None:
    world, bank = World(canvas=64, scale=1, motion="mixed", digits=2), mnist_like_glyphs("train")
    clip = world.clip(5, "train", glyphs=bank)
    assert clip.glyphs.shape == (2, 28, 28)
    assert torch.equal(clip.glyphs, world.clips([4, 5], "train", glyphs=bank)[1].glyphs)
    plain = World().clip(5, "train")
    assert torch.equal(plain.glyphs, World().clip(5, "train", glyphs=load_glyphs("train")).glyphs)


# Refusals.


@every
def test_unknown_splits_and_odd_glyphs_are_refused(variant: Variant) -> None:
    with pytest.raises(ValueError, match="train, validation, test; got 'dev'"):
        variant.sample([0], "dev")
    with pytest.raises(ValueError, match="square glyphs; got 1 of 3 x 4 pixels"):
        variant.sample([0], "train", glyphs=Glyphs(torch.ones(1, 3, 4), torch.tensor([0])))
    with pytest.raises(ValueError, match="square glyphs; got 0 of 28 x 28"):
        variant.sample([0], "train", glyphs=Glyphs(torch.ones(0, 28, 28), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match="at least 1; got"):
        dataclasses.replace(variant, frames=0)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="seeds"):
        variant.sample([], "train")


@pytest.mark.parametrize(
    ("variant", "least"),
    [(LegacyMovingMnist(canvas=27), 28), (SrvpMovingMnist(canvas=28), 29), (SvgMovingMnist(canvas=32), 33)],
)
def test_a_canvas_must_hold_the_glyph(variant: Variant, least: int) -> None:
    with pytest.raises(ValueError, match=f"canvas of at least {least}; got {least - 1}"):
        variant.sample([0], "train")
    assert dataclasses.replace(variant, canvas=least).sample([0], "train").positions.max() <= 1  # type: ignore[type-var]


@pytest.mark.parametrize("field", ["canvas", "digits", "frames", "side", "speed", "step"])
def test_counts_must_be_positive(field: str) -> None:
    for kind in (LegacyMovingMnist, SvgMovingMnist, SrvpMovingMnist):
        if field in {f.name for f in dataclasses.fields(kind)}:
            with pytest.raises(ValueError, match="at least"):
                kind(**{field: -0.1 if field == "step" else -1})
    with pytest.raises(ValueError, match="finite"):
        LegacyMovingMnist(step=float("inf"))


# Protocols.


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """A test file of five clips, with the published number of clips set to that."""
    clips = np.random.default_rng(0).integers(0, 256, (20, 5, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", clips)
    monkeypatch.setattr(protocols, "_SHAPE", clips.shape)
    monkeypatch.setattr(protocols, "TEST_CLIPS", 5)
    return tmp_path / "mnist_test_seq.npy", clips


def test_the_test_file_is_read_clip_by_clip(small: tuple[Path, np.ndarray]) -> None:
    path, clips = small
    file = MovingMnistFile(path)
    assert len(file) == 5
    found = file.clips([4, 0, 4])
    assert found.dtype == torch.uint8
    assert (found.numpy() == clips[:, [4, 0, 4]].transpose(1, 0, 2, 3)).all()
    for wrong in ([5], [0, -1], []):
        with pytest.raises(ValueError, match="numbered 0 to 4; got"):
            file.clips(wrong)


def test_the_test_file_is_not_held_in_memory(small: tuple[Path, np.ndarray]) -> None:
    assert isinstance(MovingMnistFile(small[0])._open(), np.memmap)


def test_a_wrong_test_file_is_refused(small: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, clips = small
    with pytest.raises(FileNotFoundError, match=r"no .*absent.npy.*cs.toronto.edu.*mnist_test_seq.npy.*be083ec9"):
        MovingMnistFile(tmp_path / "absent.npy")
    other = tmp_path / "other.npy"
    for array in (clips[:19], clips.astype(np.float32)):
        np.save(other, array)
        with pytest.raises(ValueError, match=r"should hold uint8 of shape \(20, 5, 64, 64\); it holds"):
            MovingMnistFile(other)
    for content in (path.read_bytes()[:-1], b"", b"<html>", path.read_bytes()[:40]):
        other.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged or not a .npy file.*Fetch it from http"):
            MovingMnistFile(other)


def test_the_test_file_can_be_verified(small: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = small
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"has md5 {digest}, expected be083ec9.*again"):
        MovingMnistFile(path).verify()
    monkeypatch.setattr(protocols, "TEST_MD5", digest)
    MovingMnistFile(path).verify()


def test_openstl_gives_ten_frames_and_asks_for_ten(small: tuple[Path, np.ndarray]) -> None:
    path, clips = small
    protocol = OpenStlMovingMnist(mnist_like_glyphs("train"), MovingMnistFile(path))
    task = protocol.testing([3, 1])
    assert task.known.times.tolist() == [frame / FPS for frame in range(10)]
    assert task.target.times.tolist() == [frame / FPS for frame in range(10, 20)]
    both = torch.cat((task.known.frames, task.target.frames), dim=1)
    assert torch.equal(both, as_video(torch.from_numpy(clips[:, [3, 1]].swapaxes(0, 1).copy())).frames)
    assert protocol.source == "mnist_test_seq.npy of Srivastava et al."
    training = protocol.training(range(6))
    legacy = LegacyMovingMnist().sample(range(6), "train").video()
    assert torch.equal(torch.cat((training.known.frames, training.target.frames), dim=1), legacy.frames)


def test_openstl_without_the_file_generates_tests_from_stated_seeds() -> None:
    protocol = OpenStlMovingMnist(mnist_like_glyphs("train"), mnist_like_glyphs("test"))
    task = protocol.testing([0, 9999])
    legacy = LegacyMovingMnist().sample([0, 9999], "test").video()
    assert torch.equal(torch.cat((task.known.frames, task.target.frames), dim=1), legacy.frames)
    assert "seeds 0 to 9999; not the published file" in protocol.source
    for wrong in ([10_000], [-1], []):
        with pytest.raises(ValueError, match="numbered 0 to 9999"):
            protocol.testing(wrong)
    assert TEST_CLIPS == 10_000


def test_openstl_takes_the_file_where_it_is(
    small: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks = {split: mnist_like_glyphs(split) for split in ("train", "test")}
    asked: list[tuple[Path, str]] = []

    def load(folder: Path, split: str) -> Glyphs:
        asked.append((folder, split))
        return banks[split]

    monkeypatch.setattr(protocols, "load_mnist", load)
    with_file = OpenStlMovingMnist.load(tmp_path)
    assert isinstance(with_file.test, MovingMnistFile)
    assert with_file.train_glyphs is banks["train"]
    small[0].unlink()
    monkeypatch.setenv("FLOWVID_DATA", str(tmp_path))
    assert OpenStlMovingMnist.load().test is banks["test"]
    assert asked == [(tmp_path, "train"), (tmp_path / "mnist", "train"), (tmp_path / "mnist", "test")]


def test_openstl_scores_are_those_of_its_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, truth = (torch.rand(3, 10, 1, 16, 16, generator=generator).double() for _ in range(2))
    times = torch.arange(10).double()
    videos = Video(2 * predicted - 1, times), Video(2 * truth - 1, times)
    error = (predicted - truth).numpy()
    expected = {
        "MSE": np.square(error).mean((0, 1)).sum(),
        "MAE": np.abs(error).mean((0, 1)).sum(),
        "PSNR": np.mean([20 * np.log10(1 / np.sqrt(np.mean(np.square(e)))) for e in error.reshape(30, -1)]),
    }
    found = {name: getattr(distortion, score)(*videos).mean().item() for name, score in OPENSTL_SCORES.items()}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("variant", [LegacyMovingMnist(), SvgMovingMnist(), SrvpMovingMnist()])
def test_variants_draw_real_mnist(variant: Variant, data: Path) -> None:
    bank = load_mnist(data / "mnist", "test")
    sample = variant.sample(range(6), "test", glyphs=bank)
    assert sample.pixels.max() == 255
    if sample.glyphs.shape[-1] == 28:
        assert (bank.images == sample.glyphs[2, 1]).flatten(1).all(1).any()
