"""Balls: drawn where they are, moving by mechanics alone, and drawn from seeds as the protocols say."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.ball_clip import SIDE, BallClip, ball_errors
from flowvid.data.worlds.balls import FRAMES, INTERVAL, BallWorld, BouncingBalls
from flowvid.data.worlds.clips import World, clip_positions, render_clips
from flowvid.data.worlds.drawing import colour_layers, colour_mix, draw_discs, draw_rods, object_centres
from flowvid.data.worlds.hard_discs import HardDiscs
from flowvid.data.worlds.motions import Flight
from flowvid.data.worlds.pendulums import PendulumWorld
from flowvid.data.worlds.scene import Scene, check_split, render_scenes, scene_positions
from flowvid.video import Video

TIMES = [INTERVAL * n for n in range(FRAMES)]
IRREGULAR = [-0.7, 0.0, 0.1, 1 / 3, 1.0, math.sqrt(2), 2.71828, 3.1]


def moments(image: Tensor) -> tuple[float, float, float]:
    pixels = torch.arange(image.shape[-1], dtype=torch.float64) + 0.5
    ink = image.double()
    return ink.sum().item(), (ink.sum(0) @ pixels / ink.sum()).item(), (ink.sum(1) @ pixels / ink.sum()).item()


def in_a_box(seed: int, count: int = 3) -> HardDiscs:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(9)[:count]
    places = np.stack((cells % 3, cells // 3), axis=1) * 3.3 + 1.7 + rng.uniform(-0.3, 0.3, (count, 2))
    radii = rng.uniform(0.4, 1.2, count)
    return HardDiscs(places, rng.normal(size=(count, 2)) * 2, radii, radii**2, SIDE)


def energy(discs: HardDiscs, velocities: np.ndarray) -> np.ndarray:
    return (discs.masses[:, None] * velocities**2).sum((1, 2)) / 2


# Drawing


@settings(max_examples=60)
@given(st.floats(0.4, 9.0), st.floats(0, 1), st.floats(0, 1))
def test_a_disc_has_its_area_and_its_centre(radius: float, x: float, y: float) -> None:
    room = 32 - 2 * (radius + 1)
    centre = torch.tensor([[radius + 1 + room * x, radius + 1 + room * y]], dtype=torch.float64)
    image = draw_discs(centre, torch.tensor([radius], dtype=torch.float64), canvas=32)[0]
    area, across, down = moments(image)
    assert area == pytest.approx(math.pi * radius**2, rel=1e-5)
    assert (across, down) == pytest.approx(tuple(centre[0].tolist()), abs=1e-4)
    pixels = torch.arange(32) + 0.5
    distance = torch.hypot(pixels[None] - centre[0, 0], pixels[:, None] - centre[0, 1])
    assert (image[distance < radius - math.sqrt(2)] - 1).abs().max() < 1e-5 if radius > 2.5 else True
    assert image[distance > radius + math.sqrt(2)].abs().max() < 1e-6


def test_a_disc_moved_by_whole_pixels_is_the_moved_image() -> None:
    centres = torch.tensor([[9.3, 12.7], [14.3, 10.7]], dtype=torch.float64)
    one, other = draw_discs(centres, torch.full((2,), 4.2, dtype=torch.float64), canvas=32)
    torch.testing.assert_close(one.roll((-2, 5), (0, 1)), other, atol=1e-5, rtol=0)


def test_a_disc_turned_onto_its_side_is_nearly_the_same() -> None:
    centres = torch.tensor([[9.3, 12.7], [12.7, 9.3]], dtype=torch.float64)
    one, other = draw_discs(centres, torch.full((2,), 4.2, dtype=torch.float64), canvas=32)
    torch.testing.assert_close(one.mT, other, atol=0.02, rtol=0)


def test_discs_that_touch_add_to_one_at_most_and_keep_their_centres() -> None:
    centres = torch.tensor([[10.2, 15.1], [17.4, 15.1]], dtype=torch.float64)
    layers = draw_discs(centres, torch.tensor([4.0, 3.2], dtype=torch.float64), canvas=32)
    assert layers.sum(0).max() <= 1 + 1e-5
    video = Video(colour_mix(layers)[None, None] * 2 - 1, torch.tensor([0.0], dtype=torch.float64))
    torch.testing.assert_close(object_centres(video)[0, 0], centres, atol=1e-4, rtol=0)


@settings(max_examples=40)
@given(st.lists(st.floats(2, 30), min_size=4, max_size=4))
def test_a_rod_has_its_length_and_its_middle(ends: list[float]) -> None:
    start, stop = torch.tensor(ends, dtype=torch.float64).reshape(2, 1, 2)
    length = (stop - start).norm().item()
    image = draw_rods(start, stop, canvas=32)[0]
    if length > 0.1:
        ink, x, y = moments(image)
        assert ink == pytest.approx(length, rel=1e-4)
        assert (x, y) == pytest.approx(tuple(((start + stop) / 2)[0].tolist()), abs=1e-3)


def test_colours_are_taken_apart_as_they_were_mixed() -> None:
    layers = 0.5 * torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    shade = 0.5 * (1 - layers.sum(1))
    mixed = colour_mix(layers, shade) * 2 - 1
    torch.testing.assert_close(colour_layers(mixed), layers)
    red = colour_mix(torch.ones(1, 1, 1))
    assert red[:, 0, 0].tolist() == [1, 0, 0]
    assert colour_mix(torch.tensor([0.0, 1.0])[:, None, None])[:, 0, 0].tolist() == [0, 0, 1]


def test_what_is_not_seen_is_not_measured() -> None:
    white = Video(torch.ones(1, 1, 3, 8, 8), torch.tensor([0.0], dtype=torch.float64))
    assert object_centres(white).isnan().all()
    assert object_centres(white).shape == (1, 1, 2, 2)
    for ink, unseen in ((0.0, True), (0.14, True), (0.16, False)):
        speck = -torch.ones(1, 1, 1, 8, 8)
        speck[..., 2, 5] += 2 * ink
        centres = object_centres(Video(speck, white.times))
        assert centres.shape == (1, 1, 1, 2)
        assert bool(centres.isnan().all()) is unseen
    with pytest.raises(ValueError, match="1 or 3 channels; got 2"):
        object_centres(Video(torch.ones(1, 1, 2, 8, 8), white.times))


def test_drawing_refuses_what_it_cannot_draw() -> None:
    place = torch.tensor([[4.0, 4.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="positive radii"):
        draw_discs(place, torch.tensor([0.0], dtype=torch.float64), canvas=8)
    with pytest.raises(ValueError, match="whole number of pixels"):
        draw_discs(place, torch.tensor([1.0], dtype=torch.float64), canvas=0)
    with pytest.raises(ValueError, match="whole number of pixels"):
        draw_rods(place, place, canvas=0)
    with pytest.raises(ValueError, match="one or two objects apart; got 3"):
        colour_mix(torch.zeros(3, 4, 4))


# Mechanics


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_energy_is_kept_and_nothing_overlaps_or_leaves_the_box(seed: int, count: int) -> None:
    discs = in_a_box(seed, count)
    places, velocities = discs.state(np.linspace(-8, 12, 801))
    np.testing.assert_allclose(energy(discs, velocities), energy(discs, velocities)[0], rtol=1e-10)
    assert (np.minimum(places, SIDE - places).min(axis=2) >= discs.radii - 1e-9).all()
    for i in range(count):
        for j in range(i):
            apart = np.linalg.norm(places[:, i] - places[:, j], axis=1)
            assert apart.min() >= discs.radii[i] + discs.radii[j] - 1e-9


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_momentum_is_kept_in_open_space(seed: int) -> None:
    boxed = in_a_box(seed)
    inward = (SIDE / 2 - boxed.positions) * 0.5 + boxed.velocities * 0.1
    discs = HardDiscs(boxed.positions, inward, boxed.radii, boxed.masses)
    momenta = np.einsum("d,tdx->tx", discs.masses, discs.state(np.linspace(-5, 10, 301))[1])
    np.testing.assert_allclose(momenta, momenta[:1].repeat(301, 0), atol=1e-10)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.1, 6))
def test_turned_round_they_run_back(seed: int, span: float) -> None:
    discs = in_a_box(seed)
    places, velocities = discs.state(np.array([span]))
    back = HardDiscs(places[0], -velocities[0], discs.radii, discs.masses, SIDE)
    found = back.state(np.array([span]))
    np.testing.assert_allclose(found[0][0], discs.positions, atol=1e-5)
    np.testing.assert_allclose(found[1][0], -discs.velocities, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(-3, 3))
def test_states_compose(seed: int, first: float, second: float) -> None:
    discs = in_a_box(seed)
    places, velocities = discs.state(np.array([first]))
    later = HardDiscs(places[0], velocities[0], discs.radii, discs.masses, SIDE)
    events = discs.events(min(first, first + second) - 1.0, max(first, first + second) + 1.0)
    if np.abs(events - first - second).min(initial=1) > 1e-6 and np.abs(events - first).min(initial=1) > 1e-6:
        for one, other in zip(later.state(np.array([second])), discs.state(np.array([first + second])), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_one_disc_in_a_box_is_a_flight(seed: int) -> None:
    discs = in_a_box(seed, 1)
    radius, times = discs.radii[0], np.linspace(-9, 9, 181)
    walls = (radius, radius), (SIDE - radius, SIDE - radius)
    flight = Flight(tuple(discs.positions[0].tolist()), tuple(discs.velocities[0].tolist()), *walls)
    places, velocities = discs.state(times)
    np.testing.assert_allclose(places[:, 0], flight.position(times), atol=1e-9)
    np.testing.assert_allclose(velocities[:, 0], flight.velocity(times), atol=1e-9)
    np.testing.assert_allclose(discs.events(-9.0, 9.0), flight.events(-9.0, 9.0), atol=1e-9)


def test_a_head_on_collision_has_its_closed_form() -> None:
    radii, v = np.array([1.0, 0.5]), np.array([3.0, -2.0])
    masses = np.array([2.0, 0.7])
    discs = HardDiscs(np.array([[2.0, 5.0], [8.0, 5.0]]), np.stack((v, [0, 0]), axis=1), radii, masses)
    meeting = (8 - 2 - 1.5) / 5
    assert discs.events(-9.0, 9.0).tolist() == pytest.approx([meeting])
    total = masses.sum()
    after = [
        (masses[0] - masses[1]) / total * v[0] + 2 * masses[1] / total * v[1],
        (masses[1] - masses[0]) / total * v[1] + 2 * masses[0] / total * v[0],
    ]
    places, velocities = discs.state(np.array([meeting - 1e-9, meeting, meeting + 1]))
    np.testing.assert_allclose(velocities[:, :, 0], [v, after, after], rtol=1e-9)
    assert places[2, :, 0].tolist() == pytest.approx([2 + 3 * meeting + after[0], 8 - 2 * meeting + after[1]])
    assert not velocities[:, :, 1].any()


def test_velocities_jump_at_events_only_and_are_told_just_after_them() -> None:
    discs = in_a_box(5)
    events = discs.events(-6.0, 6.0)
    assert len(events) > 6
    assert (events < 0).sum() > 2
    jumps = [np.abs(np.diff(discs.state(np.array([at - 1e-7, at, at + 1e-7]))[1], axis=0)).max((1, 2)) for at in events]
    assert all(before > 1e-4 and after < 1e-9 for before, after in jumps)
    grid = np.linspace(-6, 6, 1001)
    changed = np.abs(np.diff(discs.state(grid)[1], axis=0)).max((1, 2)) > 1e-9
    held = np.histogram(events, grid)[0] > 0
    assert (changed == held).all()


def test_states_do_not_depend_on_what_was_asked_before() -> None:
    times = np.linspace(-4, 4, 33)
    fresh, asked = in_a_box(3), in_a_box(3)
    asked.state(np.array([30.0]))
    every = asked.events(-20.0, 20.0)
    first, last = float(every[2]), float(every[-3])
    assert asked.events(first, last).tolist() == every[2:-2].tolist()
    assert fresh.events(first, last).tolist() == every[2:-2].tolist()
    for one, other in zip(fresh.state(times), asked.state(times), strict=True):
        assert (one == other).all()
    single = np.concatenate([in_a_box(3).state(np.array([time]))[0] for time in times[::-1]])
    assert (single[::-1] == fresh.state(times)[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.array([[2.0, 2.0], [3.0, 2.0]])}, "overlap; discs 0 and 1 do at time 0, by 0.5"),
        ({"positions": np.array([[2.0, 2.0], [9.6, 2.0]])}, "Disc 1 must start inside the box; it sticks out by 0.1"),
        ({"radii": np.array([1.0, 0.0])}, "positive finite radii"),
        ({"masses": np.array([-1.0, 1.0])}, "positive finite radii and masses"),
        ({"velocities": np.array([[math.nan, 0.0], [0.0, 0.0]])}, "finite positions and velocities"),
    ],
)
def test_hard_discs_refuse_impossible_starts(change: dict[str, np.ndarray], message: str) -> None:
    good = {
        "positions": np.array([[2.0, 2.0], [6.0, 2.0]]),
        "velocities": np.zeros((2, 2)),
        "radii": np.array([1.0, 0.5]),
        "masses": np.ones(2),
    }
    HardDiscs(**good, side=SIDE)
    with pytest.raises(ValueError, match=message):
        HardDiscs(**{**good, **change}, side=SIDE)


def test_there_is_at_least_one_disc() -> None:
    with pytest.raises(ValueError, match="at least one disc"):
        HardDiscs(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))


# Worlds


@pytest.mark.parametrize("task", ["uniform", "bouncing", "collision"])
def test_speeds_and_radii_are_those_published(task: str) -> None:
    world = BallWorld(task=task)
    radii = {"small": (0.3, 0.4), "in": (0.5, 1.5), "large": (1.7, 2.0)}
    if task != "collision":
        radii = {"small": (0.3, 0.6), "in": (0.7, 1.4), "large": (1.5, 2.0)}
    cases = [
        (world, (1, 4), radii["in"]),
        (world.slower(), (0, 0.8), radii["in"]),
        (world.faster(), (4.5, 6), radii["in"]),
        (world.smaller(), (1, 4), radii["small"]),
        (world.larger().faster(), (4.5, 6), radii["large"]),
    ]
    for case, (slowest, fastest), (least, greatest) in cases:
        clips = case.clips(range(100), "test")
        speeds = np.concatenate([np.linalg.norm(clip.discs.velocities, axis=1) for clip in clips])
        sizes = np.concatenate([clip.discs.radii for clip in clips])
        assert slowest <= speeds.min() < slowest + 0.2 < fastest - 0.2 < speeds.max() <= fastest
        assert least <= sizes.min() < least + 0.04 < greatest - 0.04 < sizes.max() <= greatest
        assert all((clip.discs.masses == clip.discs.radii**2).all() for clip in clips)
        assert all(bool(clip.visible([0.0]).all()) for clip in clips)


def test_uniform_balls_fly_right_and_stay_while_there_is_room() -> None:
    clips = BallWorld().clips(range(100), "train")
    for clip in clips:
        (x, y), radius = clip.discs.positions[0], clip.discs.radii[0]
        speed = clip.discs.velocities[0, 0]
        assert clip.discs.velocities[0, 1] == 0
        assert speed >= 1
        assert len(clip.events(-10.0, 10.0)) == 0
        assert radius + 0.5 <= y <= SIDE - radius - 0.5
        last = x + 2.4 * speed + radius
        assert last <= SIDE + 1e-9 if SIDE - 2 * radius - 2.4 * speed > 0.5 else x <= radius + 0.5 + 1e-9


@pytest.mark.parametrize(
    "world",
    [BallWorld(task="collision"), BallWorld(task="collision").slower(), BallWorld(task="collision").faster().larger()],
)
def test_two_balls_meet_once_and_head_on(world: BallWorld) -> None:
    roomy = 0
    for clip in world.clips(range(100), "train"):
        closing = np.abs(clip.discs.velocities[:, 0]).sum()
        meeting = clip.events(0.0, 10.0)
        room = (SIDE - 2 * clip.discs.radii.sum()) / closing
        assert len(meeting) == 1
        assert meeting.item() <= min(2.4, room) + 1e-9
        if room > 0.8 / 0.75:
            roomy += 1
            assert meeting.item() >= 0.8
        assert clip.discs.velocities[0, 0] > 0 > clip.discs.velocities[1, 0]
        assert clip.discs.positions[0, 1] == clip.discs.positions[1, 1]
        before, after = clip.velocities([0.0, 3.0])[:, :, 0]
        momentum = [(clip.masses * v).sum().item() for v in (before, after)]
        assert momentum[0] == pytest.approx(momentum[1], abs=1e-9)
        assert (clip.masses * before**2).sum().item() == pytest.approx((clip.masses * after**2).sum().item())
        assert (after[0] - after[1]).item() == pytest.approx((before[1] - before[0]).item())
    assert roomy > 30 or world.speed[0] > 4


def test_a_bouncing_ball_stays_inside_and_flies_every_way() -> None:
    clips = BallWorld(task="bouncing").clips(range(200), "train")
    assert all(bool(clip.visible(TIMES).all()) for clip in clips)
    assert sum(len(clip.events(0.0, 3.2)) for clip in clips) > 100
    headings = [math.atan2(*clip.discs.velocities[0, ::-1]) for clip in clips]
    assert np.histogram(headings, 4, (-math.pi, math.pi))[0].min() > 30


def test_bouncing_balls_follow_their_protocol() -> None:
    clips = BouncingBalls().clips(range(64), "train")
    for clip in clips:
        assert np.linalg.norm(clip.discs.velocities) == pytest.approx(0.5)
        assert (clip.discs.radii == 1.2).all()
        assert (clip.discs.masses == 1).all()
        assert clip.discs.side == 10
    assert len(clips[0].discs.radii) == 3
    video = render_scenes(clips, [float(n) for n in range(20)])
    assert video.frames.shape == (64, 20, 1, 32, 32)
    pixels = (torch.arange(32, dtype=torch.float64) + 0.5) / 3.2
    place = torch.from_numpy(clips[4].discs.state(np.array([7.0]))[0][0])
    distance = torch.hypot(pixels - place[:, 0, None, None], pixels[:, None] - place[:, 1, None, None])
    expected = (-((distance / 1.2) ** 8)).exp().sum(0).clamp(max=1)
    torch.testing.assert_close(video.frames[4, 7, 0].double(), 2 * expected - 1, atol=1e-4, rtol=0)
    starts = np.stack([clip.discs.positions for clip in clips])
    assert starts.min() < 1.6
    assert starts.max() > 8.4


@pytest.mark.parametrize("canvas", [32, 64])
@pytest.mark.parametrize("task", ["uniform", "bouncing", "collision"])
def test_centres_and_velocities_are_recovered_from_frames(task: str, canvas: int) -> None:
    clips = BallWorld(task=task, colour=True, canvas=canvas).clips(range(12), "test")
    video = render_scenes(clips, TIMES)
    assert video.frames.shape == (12, 32, 3, canvas, canvas)
    errors = ball_errors(clips, video)
    # Within a pixel of the border the smoothed edge is cut.
    inside = torch.stack([BallClip.visible(clip, TIMES) for clip in clips])
    positions = scene_positions(clips, TIMES)
    room = torch.minimum(positions, canvas - positions).amin(3) - torch.stack([clip.radii for clip in clips])[:, None]
    assert (errors.position.isnan() == ~inside).all()
    assert errors.position[room >= 1].max() < 2e-5
    assert errors.position[inside].max() < 0.4 / canvas
    both = (room[:, 1:] >= 1) & (room[:, :-1] >= 1)
    assert errors.velocity[both].max() < 3e-4


def test_errors_are_in_units_of_the_world() -> None:
    clips = BallWorld(task="bouncing", canvas=64).clips(range(6), "test")
    video = render_scenes(clips, [0.0, 0.1, 0.2])
    moved = Video(torch.cat((video.frames[:, :1], video.frames[:, 1:].roll((0, 1), (3, 4))), dim=1), video.times)
    errors = ball_errors(clips, moved)
    x = scene_positions(clips, video.times)[..., 0, 0]
    safe = ((x < 50) & (x > 14)).all(1)
    assert safe.sum() > 2
    assert (errors.position[safe, 1:] - 10 / 64).abs().max() < 0.01
    assert (errors.velocity[safe, 0] - 100 / 64).abs().max() < 0.1
    assert errors.velocity[safe, 1].max() < 0.1
    with pytest.raises(ValueError, match="6 clips and 1 videos"):
        ball_errors(clips, Video(video.frames[:1], video.times))
    two = BallWorld(task="collision").clips(range(6), "test")
    with pytest.raises(ValueError, match="told apart by colour"):
        ball_errors(two, video)


@pytest.mark.parametrize(
    "world", [BallWorld(), BallWorld(task="collision", colour=True), BallWorld(task="bouncing"), BouncingBalls()]
)
def test_a_ball_clip_depends_on_world_split_and_seed_alone(world: BallWorld | BouncingBalls) -> None:
    seeds = [3, 2**62, -5, 7]
    clips = world.clips(seeds, "train")
    for row, seed in enumerate(seeds):
        alone = world.clips([seed], "train")[0]
        assert alone.seed == seed
        for name in ("positions", "velocities", "radii", "masses"):
            assert (getattr(alone.discs, name) == getattr(clips[row].discs, name)).all()
        other = world.clips([seed], "test")[0]
        assert not (other.discs.positions == alone.discs.positions).any()
    video = render_scenes(clips, IRREGULAR)
    for row, clip in enumerate(clips):
        assert torch.equal(clip.frames(IRREGULAR), video.frames[row])
        assert torch.equal(clip.frames(IRREGULAR[2:4]), video.frames[row, 2:4])
    with pytest.raises(ValueError, match="splits are"):
        world.clips([1], "dev")


def test_positions_are_pixels_of_the_frames() -> None:
    clip = BallWorld(task="bouncing", canvas=48).clips([1], "train")[0]
    assert clip.scale == pytest.approx(4.8)
    assert clip.radii.item() == pytest.approx(4.8 * clip.discs.radii[0])
    step = 1e-6
    for time in (0.05, 1.31):
        near = clip.positions([time - step, time + step])
        torch.testing.assert_close((near[1] - near[0]) / (2 * step), clip.velocities([time])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BallWorld(task="looming"), "tasks are uniform, bouncing, collision; got 'looming'"),
        (lambda: BallWorld(canvas=0), "positive whole number of pixels"),
        (lambda: BallWorld(speed=(2.0, 1.0)), "speed must be a range"),
        (lambda: BallWorld(radius=(0.5, 2.5)), "radius must be a range"),
        (lambda: BouncingBalls(balls=0), "positive whole numbers"),
        (lambda: BouncingBalls(radius=6.0), "0 < radius < 5"),
        (lambda: BouncingBalls(balls=12), "cannot be placed at random"),
        (lambda: BallClip(in_a_box(0), 0, 0), "positive whole number of pixels"),
        (lambda: BallClip(in_a_box(0), 32, 0, colour=True), "one or two balls apart; got 3"),
    ],
)
def test_ball_worlds_refuse_fields_out_of_range(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Scenes


def test_digits_balls_and_pendulums_are_scenes() -> None:
    for world in (World(motion="mixed", digits=2), BallWorld(), BouncingBalls(), PendulumWorld()):
        clips = world.clips(range(3), "train")
        assert all(isinstance(clip, Scene) for clip in clips)
        video = render_scenes(clips, IRREGULAR[1:])
        assert video.frames.dtype == torch.float32
        assert video.frames.shape[:2] == (3, 7)
        for row, clip in enumerate(clips):
            assert torch.equal(video.frames[row], clip.frames(IRREGULAR[1:]))
        assert torch.equal(scene_positions(clips, IRREGULAR[1:])[1], clips[1].positions(IRREGULAR[1:]))
    digits = World().clips(range(3), "test")
    assert torch.equal(render_scenes(digits, TIMES).frames, render_clips(digits, TIMES).frames)
    assert torch.equal(scene_positions(digits, TIMES), clip_positions(digits, TIMES))


def test_scenes_of_several_kinds_make_one_batch() -> None:
    scenes = [World().clips([1], "test")[0], BallWorld().clips([2], "test")[0], PendulumWorld().clips([3], "test")[0]]
    video = render_scenes(scenes, [0.0, 0.5])
    assert video.frames.shape == (3, 2, 1, 32, 32)
    assert torch.equal(video.frames[1], scenes[1].frames([0.0, 0.5]))
    with pytest.raises(ValueError, match="frames of one shape"):
        render_scenes([scenes[0], BallWorld(canvas=40).clips([2], "test")[0]], [0.0])
    with pytest.raises(ValueError, match="one canvas, number of balls and look"):
        render_scenes([scenes[1], BallWorld(canvas=40).clips([2], "test")[0]], [0.0])
    with pytest.raises(ValueError, match="at least one scene"):
        render_scenes([], [0.0])
    with pytest.raises(ValueError, match="one number of objects"):
        scene_positions([scenes[0], scenes[2]], [0.0])
    with pytest.raises(ValueError, match="one number of objects"):
        scene_positions([], [0.0])
    with pytest.raises(ValueError, match="splits are train, validation, test; got 'dev'"):
        check_split("dev")


def test_threads_that_ask_one_clip_at_once_get_its_one_truth() -> None:
    times = torch.linspace(0, 20, 40, dtype=torch.float64)
    world = BouncingBalls()
    truths = [clip.positions(times) for clip in world.clips(range(4), "train")]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for clip, truth in zip(world.clips(range(4), "train"), truths, strict=True):
            with ThreadPoolExecutor(4) as threads:
                found = list(threads.map(clip.positions, [times] * 8))
            assert all(torch.equal(positions, truth) for positions in found)
    finally:
        sys.setswitchinterval(before)
