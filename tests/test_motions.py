"""Motions are closed forms: each is checked against its defining equation, not against stored numbers."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowvid.data.worlds.motions import Flight, Motion, Orbit, Oscillation, Pendulum, Spin


def reals(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


@st.composite
def flights(draw: st.DrawFn) -> Flight:
    low = (draw(reals(-10, 10)), draw(reals(-10, 10)))
    high = tuple(edge + draw(reals(1, 30)) for edge in low)
    share = (draw(reals(0, 1)), draw(reals(0, 1)))
    start = tuple(min(a + s * (b - a), b) for a, b, s in zip(low, high, share, strict=True))
    speed, heading = draw(reals(0.5, 40)), draw(reals(0, 2 * math.pi))
    velocity = (speed * math.cos(heading), speed * math.sin(heading))
    return Flight(start, tuple(part if abs(part) > 1e-3 else 0.0 for part in velocity), low, high)


points = st.tuples(reals(-20, 20), reals(-20, 20))
frequencies, phases, senses = reals(0.05, 2), reals(-4, 4), st.sampled_from((1, -1))
oscillations = st.builds(Oscillation, points, points, frequencies, phases)
orbits = st.builds(Orbit, points, reals(0.5, 10), frequencies, phases, senses)
pendula = st.builds(Pendulum, points, reals(1, 20), reals(-0.8, 0.8), frequencies, reals(0, 0.5), phases, st.booleans())
paths = flights() | oscillations | orbits | pendula
spins = st.builds(Spin, paths, frequencies, phases, senses)
motions = paths | spins
moments = reals(-3, 6)


def at(motion: Motion, time: float) -> np.ndarray:
    return motion.position(np.array(time))


def bounced(flight: Flight, time: float) -> np.ndarray:
    """Where a flight is, by walking from wall to wall."""
    found = []
    for position, velocity, low, high in zip(
        flight.start, flight.initial_velocity, flight.low, flight.high, strict=True
    ):
        left = time
        while velocity != 0:
            needed = ((high if velocity > 0 else low) - position) / velocity
            if needed >= left:
                break
            position, velocity, left = (high if velocity > 0 else low), -velocity, left - needed
        found.append(position + velocity * left)
    return np.array(found)


@settings(deadline=None)
@given(motions, moments)
def test_velocity_is_the_derivative_of_position(motion: Motion, time: float) -> None:
    h = 1e-5
    assume(len(motion.events(time - 2 * h, time + 2 * h)) == 0)
    slope = (at(motion, time + h) - at(motion, time - h)) / (2 * h)
    np.testing.assert_allclose(motion.velocity(np.array(time)), slope, atol=2e-5, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(motions)
def test_times_of_any_shape_are_answered_elementwise(motion: Motion) -> None:
    assert isinstance(motion, Motion)
    times = np.linspace(-1, 2, 6)
    for name, tail in (("position", (2,)), ("velocity", (2,)), ("angle", ())):
        whole = getattr(motion, name)(times.reshape(2, 3))
        assert whole.shape == (2, 3, *tail)
        assert whole.dtype == np.float64
        for time, value in zip(times, whole.reshape(6, *tail), strict=True):
            alone = getattr(motion, name)(np.array(time))
            assert alone.shape == tail
            np.testing.assert_allclose(alone, value, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(flights(), reals(0, 6))
def test_flight_agrees_with_a_walk_from_wall_to_wall(flight: Flight, time: float) -> None:
    np.testing.assert_allclose(at(flight, time), bounced(flight, time), atol=1e-8)


@settings(deadline=None)
@given(flights())
def test_flight_stays_between_its_walls_and_keeps_its_speed(flight: Flight) -> None:
    times = np.linspace(-20, 20, 301)
    position, velocity = flight.position(times), flight.velocity(times)
    assert (position >= flight.low).all()
    assert (position <= flight.high).all()
    assert (np.abs(velocity) == np.abs(flight.initial_velocity)).all()
    np.testing.assert_allclose(at(flight, 0.0), flight.start, atol=1e-12)


@settings(deadline=None)
@given(flights(), reals(0, 10))
def test_flight_runs_backwards(flight: Flight, time: float) -> None:
    back = Flight(flight.start, tuple(-v for v in flight.initial_velocity), flight.low, flight.high)
    np.testing.assert_allclose(at(flight, -time), at(back, time), atol=1e-9)


@settings(deadline=None)
@given(flights())
def test_flight_is_continuous_across_its_events(flight: Flight) -> None:
    speed, h = math.hypot(*flight.initial_velocity), 1e-6
    for event in flight.events(-2.0, 6.0):
        jump = at(flight, event + h) - at(flight, event - h)
        assert np.abs(jump).max() <= 2 * h * speed + 1e-10


@settings(deadline=None)
@given(flights())
def test_events_are_exactly_where_the_velocity_flips(flight: Flight) -> None:
    start, stop = -2.0, 6.0
    events, times = flight.events(start - 0.1, stop + 0.1), np.linspace(start, stop, 2003)
    assert (np.diff(events) > 0).all()
    inner = flight.events(start, stop)
    assert inner.tolist() == [event for event in events if start <= event <= stop]
    flips = (np.diff(flight.velocity(times), axis=0) != 0).any(1)
    counts = np.diff(np.searchsorted(events, times))
    clear = np.ones(len(counts), dtype=bool)
    if len(events):
        distance = np.abs(times[:, None] - events).min(1)
        clear = (distance[:-1] > 1e-9) & (distance[1:] > 1e-9)
    assert (counts[clear & flips] > 0).all()
    assert flips[clear & (counts == 1)].all()


@settings(deadline=None)
@given(flights(), moments)
def test_events_of_adjoining_spans_add_up(flight: Flight, middle: float) -> None:
    assume(len(flight.events(middle - 1e-6, middle + 1e-6)) == 0)
    parts = np.concatenate((flight.events(-3.0, middle), flight.events(middle, 6.0)))
    np.testing.assert_allclose(parts, flight.events(-3.0, 6.0), atol=1e-12)


@pytest.mark.parametrize("velocity", [4.0, -4.0])
def test_velocity_at_an_event_is_the_one_after_it(velocity: float) -> None:
    flight = Flight((2.0, 1.0), (velocity, 0.0), (0.0, 0.0), (8.0, 2.0))
    wall = 1.5 if velocity > 0 else 0.5
    assert flight.events(0.0, 4.0).tolist() == [wall, wall + 2]
    assert flight.events(wall, wall + 2).tolist() == [wall, wall + 2]
    assert flight.events(wall, wall).tolist() == [wall]
    times = np.array([wall - 0.25, wall, wall + 2])
    assert flight.velocity(times)[:, 0].tolist() == [velocity, -velocity, velocity]


def test_a_corner_is_one_event_and_reverses_the_flight() -> None:
    flight = Flight((1.0, 1.0), (2.0, 2.0), (0.0, 0.0), (3.0, 3.0))
    assert flight.events(0.0, 2.0).tolist() == [1.0]
    assert flight.velocity(np.array(1.0)).tolist() == [-2.0, -2.0]
    np.testing.assert_array_equal(flight.position(np.array([0.5, 1.5])), [[2.0, 2.0], [2.0, 2.0]])


@settings(deadline=None)
@given(reals(0.1, 20), reals(0.1, 20), reals(0.1, 0.9))
def test_a_corner_is_one_event_whatever_the_rounding(right: float, down: float, time: float) -> None:
    flight = Flight((-right * time, -down * time), (right, down), (-right, -down), (0.0, 0.0))
    np.testing.assert_allclose(flight.events(0.0, 3.05), time + np.arange(3), atol=1e-12)


def test_flight_may_rest_or_be_held_between_equal_walls() -> None:
    times = np.linspace(-2, 2, 9)
    still = Flight((1.0, 2.0), (0.0, 0.0), (0.0, 0.0), (3.0, 3.0))
    held = Flight((1.0, 2.0), (5.0, 1.0), (1.0, 0.0), (1.0, 9.0))
    assert (still.position(times) == [1.0, 2.0]).all()
    assert not still.velocity(times).any()
    assert len(still.events(-9.0, 9.0)) == 0
    assert (held.position(times)[:, 0] == 1.0).all()
    assert not held.velocity(times)[:, 0].any()
    np.testing.assert_allclose(held.position(times)[:, 1], 2 + times)
    assert held.events(-9.0, 9.0).tolist() == [-2.0, 7.0]


@settings(deadline=None)
@given(oscillations | orbits | pendula)
def test_smooth_motions_have_no_events(motion: Motion) -> None:
    assert len(motion.events(-100.0, 100.0)) == 0


@settings(deadline=None)
@given(pendula, moments)
def test_pendulum_solves_its_equation(pendulum: Pendulum, time: float) -> None:
    h = 1e-3
    before2, before, now, after, after2 = pendulum.deflection(time + h * np.arange(-2.0, 3.0))
    first = (8 * (after - before) - (after2 - before2)) / (12 * h)
    second = (16 * (after + before) - (after2 + before2) - 30 * now) / (12 * h**2)
    omega = 2 * math.pi * pendulum.frequency
    residual = second + 2 * pendulum.damping * first + (omega**2 + pendulum.damping**2) * now
    assert abs(residual) < 1e-4


@settings(deadline=None)
@given(pendula)
def test_pendulum_hangs_from_its_rod(pendulum: Pendulum) -> None:
    times = np.linspace(0, 6, 25)
    theta, angle = pendulum.deflection(times), pendulum.angle(times)
    rod = pendulum.position(times) - np.array(pendulum.pivot)
    np.testing.assert_allclose(np.hypot(*rod.T), pendulum.length, rtol=1e-12)
    np.testing.assert_allclose(np.arctan2(rod[:, 0], rod[:, 1]), theta, atol=1e-12)
    assert (np.abs(theta) <= abs(pendulum.swing) * np.exp(-pendulum.damping * times) + 1e-15).all()
    turned_down = np.stack((-np.sin(angle), np.cos(angle)), axis=1)
    expected = rod / pendulum.length if pendulum.turns else np.broadcast_to([0.0, 1.0], rod.shape)
    np.testing.assert_allclose(turned_down, expected, atol=1e-12)


@settings(deadline=None)
@given(orbits)
def test_orbit_keeps_its_radius_speed_and_sense(orbit: Orbit) -> None:
    times = np.linspace(-2, 2, 41)
    arm, velocity = orbit.position(times) - np.array(orbit.centre), orbit.velocity(times)
    np.testing.assert_allclose(np.hypot(*arm.T), orbit.radius, rtol=1e-11)
    np.testing.assert_allclose(np.hypot(*velocity.T), 2 * math.pi * orbit.frequency * orbit.radius, rtol=1e-12)
    turning = arm[:, 0] * velocity[:, 1] - arm[:, 1] * velocity[:, 0]
    assert (np.sign(turning) == orbit.direction).all()
    np.testing.assert_allclose(at(orbit, 1.3 + 1 / orbit.frequency), at(orbit, 1.3), atol=1e-9)


@settings(deadline=None)
@given(oscillations, moments)
def test_oscillation_is_harmonic_about_its_centre(motion: Oscillation, time: float) -> None:
    half = 0.5 / motion.frequency
    centre, amplitude = np.array(motion.centre), np.array(motion.amplitude)
    np.testing.assert_allclose(at(motion, time + half) - centre, centre - at(motion, time), atol=1e-9)
    quarter = at(motion, time + half / 2) - centre
    energy = (at(motion, time) - centre) ** 2 + quarter**2
    np.testing.assert_allclose(energy, amplitude**2, atol=1e-8)


@settings(deadline=None)
@given(frequencies, st.integers(1, 12))
def test_oscillation_crosses_its_centre_twice_a_period(frequency: float, periods: int) -> None:
    motion = Oscillation((3.0, 0.0), (2.0, 0.0), frequency, 0.7)
    times = np.linspace(0, periods / frequency, 64 * periods + 1)
    side = np.sign(motion.position(times)[:, 0] - 3)
    assert (np.diff(side) != 0).sum() == 2 * periods


@settings(deadline=None)
@given(spins, moments, reals(0, 3))
def test_spin_turns_at_a_constant_rate_on_its_path(spin: Spin, time: float, span: float) -> None:
    times = np.array([time, time + span])
    turned = np.diff(spin.angle(times) - spin.path.angle(times)).item()
    assert turned == pytest.approx(spin.direction * 2 * math.pi * spin.frequency * span, abs=1e-9)
    assert (spin.position(times) == spin.path.position(times)).all()
    assert (spin.events(-3.0, 6.0) == spin.path.events(-3.0, 6.0)).all()


def test_spin_in_place_rests() -> None:
    spin, times = Spin.at((3.0, 4.0), frequency=0.25, phase=0.5, direction=-1), np.linspace(-5, 5, 11)
    assert (spin.position(times) == [3.0, 4.0]).all()
    assert not spin.velocity(times).any()
    np.testing.assert_allclose(spin.angle(times), 0.5 - math.pi / 2 * times)
    assert len(spin.events(-5.0, 5.0)) == 0


ORIGIN, NAN = (0.0, 0.0), math.nan


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (
            lambda: Flight(ORIGIN, ORIGIN, (1.0, 0.0), (0.0, 0.0)),
            "low <= high on both axes; got low=1.0, high=0.0 on axis x",
        ),
        (lambda: Flight((0.0, 5.0), ORIGIN, ORIGIN, (1.0, 1.0)), r"walls \[0.0, 1.0\] on axis y; got 5.0"),
        (lambda: Flight(ORIGIN, (NAN, 0.0), ORIGIN, (1.0, 1.0)), "Flight needs initial_velocity as two finite numbers"),
        (lambda: Flight(ORIGIN, ORIGIN, ORIGIN, (math.inf, 1.0)), "Flight needs high as two finite numbers"),
        (lambda: Spin.at(ORIGIN, frequency=-1.0), "Spin needs a finite frequency >= 0; got -1.0"),
        (lambda: Spin.at(ORIGIN, frequency=1.0, phase=NAN), "Spin needs a finite phase; got nan"),
        (lambda: Spin.at(ORIGIN, frequency=1.0, direction=0), "Spin needs direction 1 .* or -1; got 0"),
        (lambda: Oscillation(ORIGIN, (NAN, 0.0), 1.0), "Oscillation needs amplitude"),
        (lambda: Oscillation(ORIGIN, ORIGIN, NAN), "Oscillation needs a finite frequency >= 0; got nan"),
        (lambda: Orbit(ORIGIN, -2.0, 1.0), "Orbit needs a finite radius >= 0; got -2.0"),
        (lambda: Orbit(ORIGIN, 2.0, 1.0, 0.0, 2), "Orbit needs direction 1"),
        (lambda: Pendulum(ORIGIN, 1.0, NAN, 1.0), "Pendulum needs a finite swing; got nan"),
        (lambda: Pendulum(ORIGIN, 1.0, 0.5, 1.0, -0.1), "Pendulum needs a finite damping >= 0; got -0.1"),
        (lambda: Pendulum((NAN, 0.0), 1.0, 0.5, 1.0), "Pendulum needs pivot as two finite numbers"),
    ],
)
def test_impossible_motions_are_refused(build: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()
