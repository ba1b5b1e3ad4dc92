"""Coupled pendulums: closed form, beats, energy, and bobs that are where they are drawn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowvid.data.worlds.drawing import object_centres
from flowvid.data.worlds.pendulums import CoupledPendulums, PendulumClip, PendulumWorld
from flowvid.data.worlds.scene import render_scenes, scene_positions

IRREGULAR = [-2.0, 0.0, 0.1, 1 / 3, 1.0, math.sqrt(2), 7.999, 8.0, 8.001, 16.0, 17.5]
ANGLES = st.floats(-0.5, 0.5)


@st.composite
def pendulums(draw: st.DrawFn, linear: bool) -> CoupledPendulums:
    pair = st.tuples(ANGLES, ANGLES)
    return CoupledPendulums(draw(st.floats(0.2, 1)), draw(st.floats(0, 0.3)), draw(pair), draw(pair), linear)


def second_derivative(motion: CoupledPendulums, times: np.ndarray) -> np.ndarray:
    step = 1e-4
    return (motion.state(times + step)[1] - motion.state(times - step)[1]) / (2 * step)


@pytest.mark.parametrize("linear", [True, False])
@settings(max_examples=6)
@given(st.data())
def test_the_equations_of_motion_hold(linear: bool, data: st.DataObject) -> None:
    motion = data.draw(pendulums(linear))
    times = np.array([0.3, 1.7, 2.9])
    angles, rates = motion.state(times)
    omega = 2 * math.pi * motion.frequency
    slow, fast = omega, 2 * math.pi * (motion.frequency + motion.beat)
    assert motion.coupling == pytest.approx((fast**2 - slow**2) / 2)
    pull = angles if linear else np.sin(angles)
    spring = motion.coupling * (angles - angles[:, ::-1])
    np.testing.assert_allclose(second_derivative(motion, times), -(omega**2) * pull - spring, atol=1e-4)
    step = 1e-5
    slopes = (motion.state(times + step)[0] - motion.state(times - step)[0]) / (2 * step)
    np.testing.assert_allclose(slopes, rates, atol=1e-6)
    first = motion.state(np.array([0.0]))
    np.testing.assert_allclose(np.concatenate(first), [motion.angles, motion.rates], atol=1e-12)


@pytest.mark.parametrize("linear", [True, False])
@settings(max_examples=4)
@given(st.data())
def test_energy_is_kept_forwards_and_backwards(linear: bool, data: st.DataObject) -> None:
    motion = data.draw(pendulums(linear))
    energy = motion.energy(*motion.state(np.linspace(-10, 10, 401)))
    np.testing.assert_allclose(energy, energy[0], rtol=1e-8, atol=1e-11)


def test_energy_is_what_its_definition_says() -> None:
    motion = CoupledPendulums(0.5, 0.1, (0.3, -0.2), (0.1, 0.4))
    spring = motion.coupling * 0.5**2 / 2
    kinetic = (0.1**2 + 0.4**2) / 2
    weight = math.pi**2 * (0.3**2 + 0.2**2) / 2
    state = motion.state(np.array([0.0]))
    assert motion.energy(*state)[0] == pytest.approx(kinetic + weight + spring)
    turned = CoupledPendulums(0.5, 0.1, (0.3, -0.2), (0.1, 0.4), linear=False)
    weight = math.pi**2 * (2 - math.cos(0.3) - math.cos(0.2))
    assert turned.energy(*state)[0] == pytest.approx(kinetic + weight + spring)


def test_the_modes_have_their_frequencies() -> None:
    times = np.linspace(0, 5, 51)
    together = CoupledPendulums(0.4, 0.15, (0.2, 0.2)).state(times)[0]
    np.testing.assert_allclose(together, 0.2 * np.cos(2 * math.pi * 0.4 * times)[:, None] * [1, 1], atol=1e-12)
    against = CoupledPendulums(0.4, 0.15, (0.2, -0.2)).state(times)[0]
    np.testing.assert_allclose(against, 0.2 * np.cos(2 * math.pi * 0.55 * times)[:, None] * [1, -1], atol=1e-12)


@pytest.mark.parametrize("beat", [0.05, 0.1])
def test_the_swing_wanders_over_in_half_a_beat(beat: float) -> None:
    motion = CoupledPendulums(0.5, beat, (0.2, 0.0))
    times = np.linspace(0, 2 / beat, 4001)
    angles = motion.state(times)[0]
    fast = math.pi * (2 * 0.5 + beat)
    expected = 0.2 * np.stack(
        (
            np.cos(math.pi * beat * times) * np.cos(fast * times),
            np.sin(math.pi * beat * times) * np.sin(fast * times),
        ),
        axis=1,
    )
    np.testing.assert_allclose(angles, expected, atol=1e-12)
    at_rest = np.abs(times - 0.5 / beat) < 0.1
    assert np.abs(angles[at_rest, 0]).max() < 0.02
    assert np.abs(angles[np.abs(times - 0.5 / beat) < 1.1, 1]).max() > 0.19
    assert np.abs(angles[np.abs(times - 1 / beat) < 1.1, 0]).max() > 0.19


def test_without_beat_they_do_not_know_each_other() -> None:
    motion = CoupledPendulums(0.5, 0.0, (0.3, 0.0), linear=False)
    assert motion.coupling == 0
    assert np.abs(motion.state(np.linspace(0, 9, 50))[0][:, 1]).max() == 0


def test_small_sines_are_small_angles_and_large_ones_are_slower() -> None:
    times = np.linspace(0, 10, 201)
    small = [CoupledPendulums(0.5, 0.1, (1e-3, 2e-4), linear=linear).state(times)[0] for linear in (True, False)]
    np.testing.assert_allclose(*small, atol=1e-8)
    lone = CoupledPendulums(0.5, 0.0, (1.2, 1.2), linear=False)
    # The period of a pendulum is 1 / agm(1, cos(swing / 2)) of the small swing's.
    a, b = 1.0, math.cos(0.6)
    for _ in range(6):
        a, b = (a + b) / 2, math.sqrt(a * b)
    np.testing.assert_allclose(lone.state(np.array([2.0 / a]))[0], [[1.2, 1.2]], atol=1e-9)


@settings(max_examples=5)
@given(pendulums(linear=False), st.floats(-10, 10))
def test_an_integrated_state_goes_on_and_back(motion: CoupledPendulums, span: float) -> None:
    angles, rates = (part[0] for part in motion.state(np.array([span])))
    moved = CoupledPendulums(motion.frequency, motion.beat, tuple(angles), tuple(rates), linear=False)
    np.testing.assert_allclose(moved.state(np.array([-span]))[0][0], motion.angles, atol=1e-8)
    np.testing.assert_allclose(moved.state(np.array([5.0]))[0], motion.state(np.array([span + 5]))[0], atol=1e-8)


@pytest.mark.parametrize("world", [PendulumWorld(), PendulumWorld(linear=False, canvas=24), PendulumWorld(canvas=64)])
def test_bobs_stay_inside_and_apart(world: PendulumWorld) -> None:
    times = torch.linspace(0, 15.9, 401, dtype=torch.float64)
    for clip in world.clips(range(6 if world.linear else 2), "train"):
        positions = clip.positions(times)
        assert positions.min() >= clip.radius + 1
        assert positions.max() <= clip.canvas - clip.radius - 1
        assert (positions[:, 0] - positions[:, 1]).norm(dim=1).min() > 2 * clip.radius
        rods = (positions - clip.pivots).norm(dim=2)
        torch.testing.assert_close(rods, torch.full_like(rods, clip.length))


@pytest.mark.parametrize("linear", [True, False])
def test_positions_follow_the_angles_and_velocities_the_positions(linear: bool) -> None:
    clip = PendulumWorld(linear=linear).clips([4], "test")[0]
    angles = clip.angles(IRREGULAR)
    offset = clip.positions(IRREGULAR) - clip.pivots
    torch.testing.assert_close(torch.atan2(offset[..., 0], offset[..., 1]), angles)
    step = 1e-6
    for time in (0.4, 3.3):
        near = clip.positions([time - step, time + step])
        torch.testing.assert_close((near[1] - near[0]) / (2 * step), clip.velocities([time])[0], atol=1e-5, rtol=0)
    assert len(clip.events(0.0, 100.0)) == 0


def test_bobs_are_measured_where_they_are() -> None:
    clips = PendulumWorld(colour=True, canvas=48).clips(range(8), "test")
    video = render_scenes(clips, IRREGULAR)
    assert video.frames.shape == (8, 11, 3, 48, 48)
    error = object_centres(video) - scene_positions(clips, IRREGULAR)
    assert error.abs().max() < 1e-3


def test_rods_hang_from_their_pivots_and_bobs_are_white() -> None:
    clip = PendulumClip(CoupledPendulums(0.5, 0.1, (0.0, 0.0)), 64, 0)
    ink = (clip.frames([0.0])[0, 0] + 1) / 2
    x, y = clip.pivots[0].tolist()
    top = int(y)
    assert ink[: top - 1].max() == 0
    rod = ink[top + 2 : int(y + clip.length - clip.radius) - 1]
    across = rod[:, : clip.canvas // 2]
    torch.testing.assert_close(across.sum(1), torch.full((len(rod),), 0.4), atol=1e-4, rtol=0)
    columns = torch.arange(32) + 0.5
    torch.testing.assert_close(across @ columns / across.sum(1), torch.full((len(rod),), x), atol=1e-3, rtol=0)
    bob = clip.positions([0.0])[0, 1].long()
    assert ink[bob[1], bob[0]] == pytest.approx(1, abs=1e-5)
    assert ink.sum() == pytest.approx(2 * (math.pi * 16 + 0.4 * (clip.length - clip.radius)), rel=1e-4)


@pytest.mark.parametrize("linear", [True, False])
def test_a_clip_depends_on_world_split_and_seed_alone(linear: bool) -> None:
    world = PendulumWorld(linear=linear)
    clips = world.clips([1, -7, 2**61], "validation")
    video = render_scenes(clips, IRREGULAR)
    for row, clip in enumerate(clips):
        alone = world.clips([clip.seed], "validation")[0]
        assert alone.motion == clip.motion
        assert torch.equal(alone.frames(IRREGULAR), video.frames[row])
        assert torch.equal(alone.frames(IRREGULAR[4:6]), video.frames[row, 4:6])
        assert world.clips([clip.seed], "test")[0].motion != clip.motion
    with pytest.raises(ValueError, match="splits are"):
        world.clips([1], "dev")


def test_draws_fill_their_ranges() -> None:
    motions = [clip.motion for clip in PendulumWorld().clips(range(300), "train")]
    for values, low, high in (
        ([m.frequency for m in motions], 0.3, 0.6),
        ([m.beat for m in motions], 0.05, 0.15),
    ):
        assert low <= min(values) < low + 0.02 < high - 0.02 < max(values) <= high
    for sign, rate in ((1, 0.0), (-1, 1.0)):
        omega = [2 * math.pi * (m.frequency + rate * m.beat) for m in motions]
        angle = np.array([m.angles[0] + sign * m.angles[1] for m in motions]) / 2
        speed = np.array([m.rates[0] + sign * m.rates[1] for m in motions]) / 2 / omega
        swing = np.hypot(angle, speed)
        assert 0.1 - 1e-9 <= swing.min() < 0.11
        assert 0.21 < swing.max() <= 0.22 + 1e-9
        assert np.histogram(np.arctan2(speed, angle), 4, (-math.pi, math.pi))[0].min() > 45


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoupledPendulums(0.0, 0.1, (0.0, 0.0)), "frequency > 0"),
        (lambda: CoupledPendulums(0.5, -0.1, (0.0, 0.0)), "beat >= 0"),
        (lambda: CoupledPendulums(0.5, 0.1, (math.nan, 0.0)), "finite numbers"),
        (lambda: PendulumWorld(canvas=23), "at least 24 pixels"),
        (lambda: PendulumWorld(frequency=(0.0, 0.5)), "frequency must be a range"),
        (lambda: PendulumWorld(beat=(0.2, 0.1)), "beat must be a range"),
        (lambda: PendulumClip(CoupledPendulums(0.5, 0.1, (0.0, 0.0)), 0, 0), "positive whole number"),
        (lambda: PendulumClip.draw([], [0.0]), "one canvas and look"),
        (
            lambda: PendulumClip.draw([PendulumWorld(canvas=c).clips([1], "test")[0] for c in (24, 32)], [0.0]),
            "one canvas and look",
        ),
        (
            lambda: CoupledPendulums(0.5, 0.1, (0.0, 0.0), linear=False).state(np.array([1000.5])),
            "up to 1000.0 s from time 0",
        ),
    ],
)
def test_pendulums_refuse_fields_out_of_range(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
