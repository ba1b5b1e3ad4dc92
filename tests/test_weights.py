"""Scale weights: the propositions P1 to P6, and calibration from a Gram matrix of known trajectories."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowvid.dynamics.weights import Calibration, calibrated, lagrange, least_squares, one_hot, softmax, uniform

DYADIC = [2.0**k for k in range(8)]


@st.composite
def well_spaced(draw: st.DrawFn, count: int | None = None) -> list[float]:
    """Distinct gaps of either sign, each a multiple of 0.1 s, none of them zero."""
    size = count or draw(st.integers(1, 6))
    ticks = st.integers(-20, 20).filter(bool)
    return [0.1 * tick for tick in draw(st.lists(ticks, min_size=size, max_size=size, unique=True))]


@st.composite
def moments(draw: st.DrawFn) -> np.ndarray:
    """Positive definite second moments of errors with differing sizes and correlations."""
    count = draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    factor = generator.normal(size=(count, count + 2)) * np.exp(generator.uniform(-2, 2, size=(count, 1)))
    bias = generator.normal(size=count) * draw(st.sampled_from([0.0, 1.0, 5.0]))
    return factor @ factor.T + np.outer(bias, bias)


def velocities(position, gaps) -> np.ndarray:
    """Average velocities from time 0 of a scalar trajectory."""
    return np.array([(position(gap) - position(0.0)) / gap for gap in gaps])


def polynomial(coefficients):
    return lambda t: float(np.polynomial.polynomial.polyval(t, coefficients))


# P1


@given(well_spaced(), st.floats(-2.0, 2.0))
def test_p1_weights_sum_to_one(gaps: list[float], h: float) -> None:
    weights = lagrange(gaps, h)
    assert math.isclose(weights.sum(), 1.0, abs_tol=1e-12 * np.abs(weights).sum())


@given(well_spaced(), st.data())
def test_p1_weights_are_one_hot_at_a_gap(gaps: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(gaps) - 1))
    local = data.draw(st.integers(1, len(gaps)))
    assert np.array_equal(lagrange(gaps, gaps[k], local=local), np.eye(len(gaps))[k])


@given(well_spaced(), st.floats(-2.0, 2.0), st.data())
def test_p1_exact_on_polynomials_up_to_degree_k(gaps: list[float], h: float, data: st.DataObject) -> None:
    coefficients = data.draw(st.lists(st.floats(-1, 1), min_size=len(gaps) + 1, max_size=len(gaps) + 1))
    position, weights = polynomial(coefficients), lagrange(gaps, h)
    expected = sum(c * h ** (m - 1) for m, c in enumerate(coefficients) if m)
    rates = velocities(position, gaps)
    assert weights @ rates == pytest.approx(
        expected, abs=1e-12 * (1 + np.abs(weights) @ (1 + np.abs(1 / np.array(gaps))))
    )


@given(well_spaced(count=4), st.floats(-2.0, 2.0), st.integers(1, 4))
def test_p1_local_weights_are_exact_up_to_their_number_and_use_no_more_gaps(
    gaps: list[float], h: float, local: int
) -> None:
    weights = lagrange(gaps, h, local=local)
    assert np.count_nonzero(weights) <= local
    rates = velocities(lambda t: t**local, gaps)
    assert weights @ rates == pytest.approx(h ** (local - 1), abs=1e-12 * (1 + np.abs(weights) @ np.abs(rates)))


def test_p1_weights_at_zero_are_richardson() -> None:
    assert lagrange([1.0, 2.0], 0.0) == pytest.approx([2, -1])
    assert lagrange([1.0, 2.0, 4.0], 0.0) == pytest.approx([8 / 3, -2, 1 / 3])


@given(well_spaced(), st.floats(0.1, 10.0))
def test_p1_weights_do_not_depend_on_the_unit_of_time(gaps: list[float], unit: float) -> None:
    scaled = lagrange([unit * gap for gap in gaps], 0.3 * unit)
    assert np.allclose(scaled, lagrange(gaps, 0.3), rtol=1e-9, atol=1e-9 * np.abs(scaled).sum())


@pytest.mark.parametrize(("gaps", "local"), [([1.0, 1.0], None), ([1.0, 2.0], 0), ([1.0, 2.0], 3)])
def test_interpolation_refuses_equal_gaps_and_bad_numbers(gaps: list[float], local: int | None) -> None:
    with pytest.raises(ValueError, match="gaps"):
        lagrange(gaps, 0.0, local=local)


# P2


@given(well_spaced(), st.floats(-2.0, 2.0), st.floats(0.1, 3.0), st.floats(-3.0, 3.0))
def test_p2_error_bound_on_a_sine(gaps: list[float], h: float, omega: float, phase: float) -> None:
    def position(t: float) -> float:
        return math.sin(omega * t + phase)

    count, weights = len(gaps), lagrange(gaps, h)
    true = omega * math.cos(omega * h / 2 + phase) * np.sinc(omega * h / 2 / math.pi)
    bound = omega ** (count + 1) / math.factorial(count + 1) * math.prod(abs(h - gap) for gap in gaps)
    rounding = 1e-14 * np.abs(weights) @ (2 / np.abs(gaps)) + 1e-14
    assert abs(weights @ velocities(position, gaps) - true) <= bound + rounding


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_p2_bound_is_sharp_at_zero_on_the_next_power(count: int) -> None:
    gaps = DYADIC[:count]
    assert abs(lagrange(gaps, 0.0) @ velocities(lambda t: t ** (count + 1), gaps)) == pytest.approx(math.prod(gaps))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_p2_observed_order_in_the_gap_is_the_number_of_gaps(count: int) -> None:
    shortest = np.array([0.02, 0.01, 0.005])
    errors = []
    for first in shortest:
        gaps = [first * 2**k for k in range(count)]
        errors.append(abs(lagrange(gaps, 0.0) @ velocities(lambda t: math.sin(2 * t + 1), gaps) - 2 * math.cos(1)))
    slope = np.polyfit(np.log(shortest), np.log(errors), 1)[0]
    assert slope == pytest.approx(count, abs=0.2)


@pytest.mark.parametrize("total", [0.9, 1.1])
def test_p2_weights_that_do_not_sum_to_one_keep_their_error(total: float) -> None:
    for first in (1e-2, 1e-4):
        gaps = [first, 2 * first]
        found = total * lagrange(gaps, 0.0) @ velocities(math.sin, gaps)
        assert abs(found - 1) == pytest.approx(abs(total - 1), abs=1e-3)


# P3


def test_p3_amplification_of_dyadic_gaps_is_bounded_for_any_number() -> None:
    for count in range(1, 30):
        amplification = np.abs(lagrange([2.0**k for k in range(count)], 0.0)).sum()
        assert amplification == pytest.approx(math.prod((2**j + 1) / (2**j - 1) for j in range(1, count)))
        assert amplification < 8.26


@pytest.mark.parametrize("count", range(1, 9))
def test_p3_amplification_of_uniform_gaps_is_exponential(count: int) -> None:
    weights = lagrange([float(k) for k in range(1, count + 1)], 0.0)
    assert np.abs(weights).sum() == pytest.approx(2**count - 1)
    assert weights == pytest.approx([(-1) ** (k + 1) * math.comb(count, k) for k in range(1, count + 1)])


@given(st.integers(1, 16), st.floats(1e-3, 1e3))
def test_p3_weights_over_gaps_sum_to_the_sum_of_inverse_gaps(count: int, shortest: float) -> None:
    gaps = shortest * 2.0 ** np.arange(count)
    total = (lagrange(gaps.tolist(), 0.0) / gaps).sum()
    assert total == pytest.approx((1 / gaps).sum())
    assert total < 2 / shortest


@pytest.mark.parametrize("count", range(3, 9))
def test_p3_three_nearest_gaps_stay_tame_between_dyadic_gaps(count: int) -> None:
    steps = np.exp(np.linspace(0, (count - 1) * math.log(2), 2001))
    signed = [-gap for gap in DYADIC[:count]] + DYADIC[:count]
    local = max(np.abs(lagrange(DYADIC[:count], float(h), local=3)).sum() for h in steps)
    both = max(np.abs(lagrange(signed, float(h), local=3)).sum() for h in np.append(steps, steps - 1))
    full = max(np.abs(lagrange(DYADIC[:count], float(h))).sum() for h in steps)
    assert local <= 1.67
    assert both <= 1.67
    if count >= 5:
        assert full > 20


# P4


@given(well_spaced(), st.data())
def test_p4_convex_weights_are_biased_at_first_order(gaps: list[float], data: st.DataObject) -> None:
    gaps = sorted({abs(gap) for gap in gaps})
    parts = data.draw(st.lists(st.floats(1e-3, 1.0), min_size=len(gaps), max_size=len(gaps)))
    weights = np.array(parts) / sum(parts)
    acceleration = data.draw(st.floats(0.1, 10.0))
    bias = weights @ velocities(lambda t: acceleration * t**2 / 2, gaps)
    assert bias >= gaps[0] * acceleration / 2 * (1 - 1e-12)


@pytest.mark.parametrize("count", range(2, 9))
def test_p4_best_convex_gate_collapses_onto_the_shortest_gap_without_noise(count: int) -> None:
    bias = velocities(lambda t: t**2, DYADIC[:count])
    weights = softmax(np.outer(bias, bias))
    assert abs(weights @ bias) >= bias[0] * (1 - 1e-12)
    assert weights == pytest.approx(np.eye(count)[0], abs=1e-3)


@given(moments(), st.data())
def test_p4_best_convex_gate_is_convex_and_no_convex_gate_is_better(moment: np.ndarray, data: st.DataObject) -> None:
    best = softmax(moment, ridge=0.0)
    parts = data.draw(st.lists(st.floats(0, 1), min_size=len(moment), max_size=len(moment)).filter(any))
    other = np.array(parts) / sum(parts)
    assert best.min() >= 0
    assert best.sum() == pytest.approx(1)
    assert best @ moment @ best <= other @ moment @ other * (1 + 1e-9)


@given(moments())
def test_p4_best_convex_gate_meets_the_conditions_of_optimality(moment: np.ndarray) -> None:
    best = softmax(moment, ridge=0.0)
    slope = moment @ best
    least = best @ moment @ best
    assert slope.min() >= least * (1 - 1e-8)
    assert np.allclose(slope[best > 0], least, rtol=1e-8)


# P5


@given(well_spaced(), st.data())
def test_p5_least_squares_is_the_slope_of_a_polynomial_fit(gaps: list[float], data: st.DataObject) -> None:
    degree = data.draw(st.integers(1, len(gaps)))
    values = np.array(data.draw(st.lists(st.floats(-1, 1), min_size=len(gaps) + 1, max_size=len(gaps) + 1)))
    weights = least_squares(gaps, degree=degree)
    slope = np.polyfit([0.0, *gaps], values, degree)[-2]
    rounding = 1e-9 * (1 + np.abs(weights) @ np.abs(1 / np.array(gaps)))
    assert weights.sum() == pytest.approx(1, abs=1e-9 * (1 + np.abs(weights).sum()))
    assert weights @ ((values[1:] - values[0]) / gaps) == pytest.approx(slope, abs=rounding)


@given(well_spaced())
def test_p5_least_squares_of_full_degree_is_richardson(gaps: list[float]) -> None:
    expected = lagrange(gaps, 0.0)
    assert np.allclose(least_squares(gaps, degree=len(gaps)), expected, atol=1e-7 * np.abs(expected).sum())


@given(well_spaced().filter(lambda gaps: abs(np.var([0.0, *gaps])) > 1e-6))
def test_p5_least_squares_of_degree_one_in_closed_form(gaps: list[float]) -> None:
    nodes = np.array(gaps)
    expected = nodes * (nodes - nodes.sum() / (len(nodes) + 1))
    assert np.allclose(least_squares(gaps, degree=1), expected / expected.sum(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("count", "amplitude"), [(1, 2.0), (2, 6.5), (3, 11.2), (4, 14.6), (5, 16.7)])
def test_p5_noise_of_richardson_weights(count: int, amplitude: float) -> None:
    gaps = np.array(DYADIC[:count])
    covariance = np.diag(gaps**-2) + np.outer(1 / gaps, 1 / gaps)
    weights = lagrange(gaps.tolist(), 0.0)
    assert weights @ covariance @ weights == pytest.approx(amplitude, abs=0.05)


@pytest.mark.parametrize("degree", [0, 3])
def test_least_squares_refuses_a_degree_out_of_range(degree: int) -> None:
    with pytest.raises(ValueError, match=f"number of gaps, 2; got {degree}"):
        least_squares([1.0, 2.0], degree=degree)


# P6


@given(moments(), st.data())
def test_p6_calibrated_is_never_worse_on_its_own_moment(moment: np.ndarray, data: st.DataObject) -> None:
    count = len(moment)
    gaps = DYADIC[:count]
    parts = np.array(data.draw(st.lists(st.floats(-3, 3), min_size=count, max_size=count)))
    rivals = [softmax(moment), uniform(gaps), lagrange(gaps, 0.0), parts + (1 - parts.sum()) / count]
    rivals += [one_hot(gaps, gap) for gap in gaps]
    best = calibrated(moment, ridge=0.0)
    assert best.sum() == pytest.approx(1)
    assert all(best @ moment @ best <= rival @ moment @ rival * (1 + 1e-8) for rival in rivals)


@given(moments(), st.floats(1e-3, 1e3))
def test_p6_calibrated_does_not_depend_on_the_unit_of_errors(moment: np.ndarray, unit: float) -> None:
    assert np.allclose(calibrated(moment * unit), calibrated(moment), rtol=1e-7)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_p6_calibrated_tends_to_richardson_without_noise_and_to_the_line_with_much(count: int) -> None:
    gaps = np.array(DYADIC[:count])
    bias = np.stack([gaps**power for power in range(1, count)])
    noise = np.diag(gaps**-2) + np.outer(1 / gaps, 1 / gaps)
    exact = calibrated(bias.T @ bias + 1e-10 * noise, ridge=0.0)
    noisy = calibrated(bias.T @ bias + 1e12 * noise, ridge=0.0)
    assert exact == pytest.approx(lagrange(gaps.tolist(), 0.0), abs=1e-4)
    assert noisy == pytest.approx(least_squares(gaps.tolist(), degree=1), abs=1e-4)


@pytest.mark.parametrize("rule", [calibrated, softmax])
@pytest.mark.parametrize(
    "moment", [np.full((2, 2), np.nan), np.array([[1.0, 2.0], [2.0, 1.0]]), -np.eye(2), np.diag([1.0, np.inf])]
)
def test_calibration_refuses_what_is_no_moment(rule, moment: np.ndarray) -> None:
    with pytest.raises(ValueError, match="positive semidefinite error moment"):
        rule(moment)


@pytest.mark.parametrize("rule", [calibrated, softmax])
def test_perfect_heads_get_equal_weights(rule) -> None:
    assert rule(np.zeros((5, 5))) == pytest.approx(np.full(5, 0.2))


def test_one_hot_names_the_gaps_it_has() -> None:
    assert np.array_equal(one_hot([-0.1, 0.1, 0.2], 0.2), [0, 0, 1])
    with pytest.raises(ValueError, match=r"no head for a gap of 0\.3"):
        one_hot([0.1, 0.2], 0.3)


# Calibration

FRAME = 0.1
GAPS = (-0.2, -0.1, 0.1, 0.2, 0.4)
REACH = 6


def gathered(trajectories, estimates) -> Calibration:
    """Calibration from the mean over trajectories of the outer product of estimates and displacements."""
    moves = np.array([[z(j * FRAME) - z(0.0) for j in range(-REACH, REACH + 1)] for z in trajectories])
    entries = np.concatenate((estimates, moves), axis=1)
    return Calibration(GAPS, FRAME, entries.T @ entries / len(entries))


def harmonics(seed: int, count: int = 12):
    """Random sums of harmonic motions, and noisy estimates of their average velocities over the gaps."""
    generator = np.random.default_rng(seed)
    draws = generator.uniform([0.5, 1.0, 0.0], [2.0, 6.0, 6.3], size=(count, 3))
    found = [lambda t, a=a, w=w, p=p: a * math.sin(w * t + p) for a, w, p in draws]
    estimates = np.array([velocities(z, GAPS) for z in found]) + 0.1 * generator.normal(size=(count, len(GAPS)))
    return found, estimates


@given(st.integers(0, 2**32 - 1), st.integers(-REACH, REACH).filter(bool))
def test_calibration_moment_is_the_direct_one_at_every_frame(seed: int, frame: int) -> None:
    trajectories, estimates = harmonics(seed)
    errors = estimates - np.array([[(z(frame * FRAME) - z(0.0)) / (frame * FRAME)] for z in trajectories])
    moment = gathered(trajectories, estimates).moment(frame * FRAME)
    assert np.allclose(moment, errors.T @ errors / len(errors), rtol=1e-9, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_calibration_at_zero_is_against_the_five_point_difference(seed: int) -> None:
    trajectories, estimates = harmonics(seed)
    slopes = [(z(-2 * FRAME) - 8 * z(-FRAME) + 8 * z(FRAME) - z(2 * FRAME)) / (12 * FRAME) for z in trajectories]
    errors = estimates - np.array(slopes)[:, None]
    assert np.allclose(gathered(trajectories, estimates).moment(0.0), errors.T @ errors / len(errors), atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(-REACH * FRAME, REACH * FRAME))
def test_calibration_is_exact_at_any_step_for_quartic_motion(seed: int, h: float) -> None:
    generator = np.random.default_rng(seed)
    trajectories = [polynomial(generator.normal(size=5)) for _ in range(10)]
    estimates = np.array([velocities(z, GAPS) for z in trajectories]) + 0.1 * generator.normal(size=(10, len(GAPS)))
    step = h if abs(h) > 1e-3 else 1e-3
    errors = estimates - np.array([[(z(step) - z(0.0)) / step] for z in trajectories])
    moment = gathered(trajectories, estimates).moment(step)
    assert np.allclose(moment, errors.T @ errors / len(errors), rtol=1e-8, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(-2 * REACH + 1, 2 * REACH - 1))
def test_calibration_is_continuous_in_the_step(seed: int, half: int) -> None:
    calibration = gathered(*harmonics(seed))
    h = half * FRAME / 2
    before, here, after = (calibration.moment(h + offset) for offset in (-1e-9, 0.0, 1e-9))
    assert np.allclose(before, here, atol=1e-6)
    assert np.allclose(after, here, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(-REACH * FRAME, REACH * FRAME))
def test_calibration_weights_and_error_follow_from_the_moment(seed: int, h: float) -> None:
    calibration = gathered(*harmonics(seed))
    weights, moment = calibration.weights(h), calibration.moment(h)
    assert weights.sum() == pytest.approx(1)
    assert calibration.error(h) == pytest.approx(abs(h) * math.sqrt(weights @ moment @ weights))
    best_alone = abs(h) * math.sqrt(moment.diagonal().min())
    assert calibration.error(h) <= best_alone * (1 + 1e-3)


def test_calibration_uses_the_head_of_the_step_when_heads_are_exact() -> None:
    trajectories, _ = harmonics(0, count=60)
    calibration = gathered(trajectories, np.array([velocities(z, GAPS) for z in trajectories]))
    for k, gap in enumerate(GAPS):
        others = np.delete(np.sqrt(calibration.moment(gap).diagonal()), k)
        assert calibration.error(gap) < 1e-3 * abs(gap) * others.min()
        assert calibrated(calibration.moment(gap), ridge=1e-12) == pytest.approx(np.eye(len(GAPS))[k], abs=1e-3)


@given(st.integers(0, 2**32 - 1))
def test_calibration_survives_motion_on_which_every_head_is_exact(seed: int) -> None:
    generator = np.random.default_rng(seed)
    trajectories = [polynomial(generator.normal(size=2)) for _ in range(10)]
    calibration = gathered(trajectories, np.array([velocities(z, GAPS) for z in trajectories]))
    for h in (0.0, FRAME, 0.37 * FRAME):
        assert np.isfinite(calibration.weights(h)).all()
        assert calibration.error(h) < 1e-6


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(GAPS), min_size=1, unique=True),
    st.floats(-REACH * FRAME, REACH * FRAME),
)
def test_calibration_among_some_heads_is_that_part_of_the_moment(seed: int, gaps: list[float], h: float) -> None:
    calibration = gathered(*harmonics(seed))
    chosen = [GAPS.index(gap) for gap in gaps]
    expected = calibration.moment(h)[np.ix_(chosen, chosen)]
    assert np.allclose(calibration.among(gaps).moment(h), expected, atol=1e-9)
    assert calibration.error(h) <= calibration.among(gaps).error(h) + 1e-2 * abs(h)


def test_calibration_refuses_steps_beyond_its_frames_and_foreign_matrices() -> None:
    calibration = gathered(*harmonics(0))
    for h in (-0.601, 0.601):
        with pytest.raises(ValueError, match=r"Calibrated for steps up to 0\.6"):
            calibration.moment(h)
    with pytest.raises(ValueError, match="R >= 2"):
        Calibration(GAPS, FRAME, np.eye(len(GAPS) + 3))
    with pytest.raises(ValueError, match="R >= 2"):
        Calibration(GAPS, FRAME, np.eye(len(GAPS) + 6))
    with pytest.raises(ValueError, match="NaN"):
        Calibration(GAPS, FRAME, np.full((len(GAPS) + 5, len(GAPS) + 5), np.nan))
