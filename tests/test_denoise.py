"""Schedules, predictions, denoisers and oracles: what is exact about noisy data at every level, both ends included."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.oracles import Gaussian, GaussianMixture
from flowvid.denoise.predictions import PREDICTIONS, add_noise, check_prediction, combined, convert, target
from flowvid.denoise.schedule import AngleUniform, Cosine, LinearPath, Schedule
from flowvid.noise import Noise
from flowvid.solve.grid import Grid

SCHEDULES = (AngleUniform(), Cosine(), LinearPath())
EACH_SCHEDULE = st.sampled_from(SCHEDULES)
LEVELS = st.floats(0.0, 1.0) | st.sampled_from([0.0, 1.0])
INNER = st.floats(0.02, 0.98)
SEEDS = st.integers(0, 2**31)
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
EPS = torch.finfo(torch.float64).eps


def pair(seed: int, *shape: int, batch: int = 3) -> tuple[Tensor, Tensor]:
    noise = Noise.batch(seed, batch)
    draws = (noise.normal(name, *shape, dtype=torch.float64) for name in ("clean", "noise"))
    clean, epsilon = draws
    return clean, epsilon


def defined(schedule: Schedule, kind: str, level: float) -> bool:
    """Whether a prediction exists at a level and determines the rest to more than rounding."""
    share = {"noise": schedule.signal(level), "clean": schedule.noise(level)}.get(kind, 1.0)
    return share >= EPS and not (kind == "velocity" and isinstance(schedule, Cosine) and schedule.noise(level) < EPS)


# Schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_both_ends_are_exact_in_every_type(schedule: Schedule, dtype: torch.dtype) -> None:
    assert (schedule.signal(0.0), schedule.noise(0.0)) == (1.0, 0.0)
    assert (schedule.signal(1.0), schedule.noise(1.0)) == (0.0, 1.0)
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert schedule.signal(ends).tolist() == [1.0, 0.0]
    assert schedule.noise(ends).tolist() == [0.0, 1.0]
    assert schedule.signal(ends).dtype == dtype


@settings(max_examples=20)
@given(EACH_SCHEDULE, st.lists(LEVELS, min_size=1, max_size=5))
def test_tensors_and_floats_agree(schedule: Schedule, levels: list[float]) -> None:
    functions = [schedule.signal, schedule.noise, schedule.signal_rate, schedule.angle, schedule.scale]
    if 0.0 not in levels or not isinstance(schedule, Cosine):
        functions.append(schedule.noise_rate)
    for function in functions:
        found = function(torch.tensor(levels, dtype=torch.float64))
        expected = torch.tensor([function(level) for level in levels], dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=4 * EPS, rtol=4 * EPS)


@given(EACH_SCHEDULE, st.floats(0.001, 1.0))
def test_rates_are_derivatives(schedule: Schedule, level: float) -> None:
    for value, rate in ((schedule.signal, schedule.signal_rate), (schedule.noise, schedule.noise_rate)):
        at = torch.tensor([level], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(value(at).sum(), at)
        torch.testing.assert_close(slope.item(), rate(level), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(slope.item(), rate(at.detach()).item(), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_signal_falls_and_noise_grows(schedule: Schedule) -> None:
    levels = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert (schedule.signal(levels).diff() < 0).all()
    assert (schedule.noise(levels).diff() > 0).all()


@pytest.mark.parametrize("schedule", [AngleUniform(), Cosine(), Cosine(offset=0.3)])
def test_variance_is_preserved_where_that_is_said(schedule: Schedule) -> None:
    levels = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.scale(levels), torch.ones_like(levels), atol=4 * EPS, rtol=0)


@given(st.floats(0, 1))
def test_the_schedules_are_the_published_ones(level: float) -> None:
    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    assert Cosine().signal(level) ** 2 == pytest.approx(f(level) / f(0), abs=1e-14)
    assert AngleUniform().angle(level) == pytest.approx(level * math.pi / 2, abs=1e-15)
    assert (LinearPath().signal(level), LinearPath().noise(level)) == (1 - level, level)
    assert (LinearPath().signal_rate(level), LinearPath().noise_rate(level)) == (-1, 1)


@given(EACH_SCHEDULE, LEVELS)
def test_levels_and_angles_are_inverse(schedule: Schedule, level: float) -> None:
    assert schedule.level(schedule.angle(level)) == pytest.approx(level, abs=1e-13)
    angles = schedule.angle(torch.tensor([level], dtype=torch.float64))
    assert schedule.level(angles).item() == pytest.approx(level, abs=1e-13)
    for end in (0.0, 1.0):
        assert schedule.level(end * math.pi / 2) == end


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("level", [-0.01, 1.01, math.nan, math.inf])
def test_levels_outside_their_range_are_refused_and_rounding_is_not(schedule: Schedule, level: float) -> None:
    for function in (schedule.signal, schedule.noise, schedule.signal_rate, schedule.noise_rate):
        with pytest.raises(ValueError, match=r"Noise levels lie in \[0, 1\].*got"):
            function(level)
    assert schedule.noise(-1e-12) == 0
    assert schedule.noise(1 + 1e-12) == 1


def test_the_cosine_schedule_refuses_its_infinite_rate_and_a_bad_offset() -> None:
    for level in (0.0, torch.tensor([0.5, 0.0])):
        with pytest.raises(ValueError, match="infinitely fast at level 0"):
            Cosine().noise_rate(level)
    assert math.isfinite(Cosine().signal_rate(0.0))
    for offset in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"offset is a positive number.*got {offset}"):
            Cosine(offset=offset)


# Predictions


@given(SEEDS, SHAPES, EACH_SCHEDULE, LEVELS, st.sampled_from(PREDICTIONS), st.sampled_from(PREDICTIONS))
def test_every_prediction_gives_every_other(
    seed: int, shape: tuple[int, ...], schedule: Schedule, level: float, given_kind: str, wanted: str
) -> None:
    assume(defined(schedule, given_kind, level))
    assume(wanted != "velocity" or schedule.noise(level) >= EPS or not isinstance(schedule, Cosine))
    clean, epsilon = pair(seed, *shape)
    noisy = add_noise(clean, epsilon, level, schedule)
    said, expected = (target(kind, clean, epsilon, level, schedule) for kind in (given_kind, wanted))
    found = convert(said, noisy, level, given=given_kind, wanted=wanted, schedule=schedule)
    small = {"noise": schedule.signal(level), "clean": schedule.noise(level)}.get(given_kind, 1.0)
    rate = 1 + abs(schedule.noise_rate(level)) if wanted == "velocity" else 1
    grown = 1 + abs(schedule.noise_rate(level)) if given_kind == "velocity" else 1
    tolerance = 50 * EPS * rate * grown / max(small, EPS)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@given(SEEDS, EACH_SCHEDULE, st.sampled_from([0.0, 1.0]), st.sampled_from(PREDICTIONS), st.sampled_from(PREDICTIONS))
def test_the_ends_round_trip_exactly_where_they_are_defined(
    seed: int, schedule: Schedule, level: float, first: str, second: str
) -> None:
    for kind in (first, second):
        assume(defined(schedule, kind, level))
    clean, epsilon = pair(seed, 4)
    noisy, said = add_noise(clean, epsilon, level, schedule), target(first, clean, epsilon, level, schedule)
    there = convert(said, noisy, level, given=first, wanted=second, schedule=schedule)
    back = convert(there, noisy, level, given=second, wanted=first, schedule=schedule)
    torch.testing.assert_close(back, said, atol=2 * EPS, rtol=2 * EPS)


@pytest.mark.parametrize("level", [1e-17, 2.4352329411645676e-175])
def test_what_is_determined_to_rounding_alone_is_refused(level: float) -> None:
    values, _ = pair(0, 2)
    for levels in (level, torch.tensor([0.5, level, 0.5], dtype=torch.float64)):
        with pytest.raises(ValueError, match="says nothing about the noise at level 0"):
            convert(values, values, levels, given="clean", wanted="v", schedule=AngleUniform())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("kind", "level", "missing"), [("noise", 1.0, "clean data"), ("clean", 0.0, "noise")])
def test_what_is_not_determined_is_refused_also_for_one_sample_of_a_batch(
    schedule: Schedule, kind: str, level: float, missing: str
) -> None:
    values, _ = pair(0, 2)
    other = {"noise": "clean", "clean": "noise"}[kind]
    for levels in (level, torch.tensor([0.5, level, 0.5])):
        for wanted in ("v", other):
            with pytest.raises(ValueError, match=f"says nothing about the {missing} at level {level:g}"):
                convert(values, values, levels, given=kind, wanted=wanted, schedule=schedule)
        assert convert(values, values, levels, given=kind, wanted=kind, schedule=schedule) is values


@given(SEEDS, EACH_SCHEDULE, LEVELS)
def test_v_turns_noisy_data_at_unit_scale(seed: int, schedule: Schedule, level: float) -> None:
    clean, epsilon = pair(seed, 5)
    unit = add_noise(clean, epsilon, level, schedule) / schedule.scale(level)
    v = target("v", clean, epsilon, level, schedule)
    torch.testing.assert_close(unit.square() + v.square(), clean.square() + epsilon.square())
    angle = torch.tensor(schedule.angle(level), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((torch.cos(angle) * clean + torch.sin(angle) * epsilon).sum(), angle)
    torch.testing.assert_close(slope, v.sum(), atol=1e-13, rtol=1e-13)


@given(SEEDS, EACH_SCHEDULE, st.floats(0.001, 1.0))
def test_velocity_is_the_derivative_of_noisy_data(seed: int, schedule: Schedule, level: float) -> None:
    clean, epsilon = pair(seed, 2)
    at = torch.tensor(level, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(add_noise(clean, epsilon, at, schedule).sum(), at)
    velocity = target("velocity", clean, epsilon, level, schedule)
    torch.testing.assert_close(slope, velocity.sum(), atol=1e-10, rtol=1e-10)


def test_the_ends_of_noising_are_data_and_noise() -> None:
    for schedule in SCHEDULES:
        clean, epsilon = (values.float() for values in pair(0, 2))
        assert torch.equal(add_noise(clean, epsilon, 0.0, schedule), clean)
        assert torch.equal(add_noise(clean, epsilon, 1.0, schedule), epsilon)
        assert torch.equal(target("v", clean, epsilon, 0.0, schedule), epsilon)
        assert torch.equal(target("v", clean, epsilon, 1.0, schedule), -clean)


@settings(max_examples=20)
@given(SEEDS, EACH_SCHEDULE, st.lists(INNER, min_size=4, max_size=4), st.sampled_from([(), (4,), (3, 5, 4), (4, 4)]))
def test_every_sample_has_its_own_level_whatever_the_shape(
    seed: int, schedule: Schedule, levels: list[float], shape: tuple[int, ...]
) -> None:
    clean, epsilon = pair(seed, *shape, batch=4)
    together = torch.tensor(levels, dtype=torch.float64)

    def of(part: slice, level: float | Tensor) -> list[Tensor]:
        noisy = add_noise(clean[part], epsilon[part], level, schedule)
        targets = [target(kind, clean[part], epsilon[part], level, schedule) for kind in PREDICTIONS]
        turned = [
            convert(targets[0], noisy, level, given="v", wanted=kind, schedule=schedule) for kind in PREDICTIONS[1:]
        ]
        return [noisy, *targets, *turned]

    alone = [of(slice(i, i + 1), level) for i, level in enumerate(levels)]
    for found, parts in zip(of(slice(None), together), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(parts), atol=1e-12, rtol=1e-12)


def test_shapes_types_and_names_that_do_not_fit_are_refused() -> None:
    clean, epsilon = pair(0, 2)
    for levels in (torch.rand(4), torch.rand(3, 2), torch.rand(3, 1)):
        with pytest.raises(ValueError, match=r"one number or one per sample, shape \(3,\); got shape"):
            add_noise(clean, epsilon, levels)
    with pytest.raises(ValueError, match=r"one shape; got \(3, 2\) and \(3, 1\)"):
        combined(1.0, clean, 1.0, epsilon[:, :1])
    with pytest.raises(ValueError, match="predicts v, noise, clean, velocity; got 'score'"):
        check_prediction("score")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept_whatever_the_type_of_the_level(dtype: torch.dtype) -> None:
    clean, epsilon = (values.to(dtype) for values in pair(0, 2))
    for level in (0.3, torch.tensor(0.3, dtype=torch.float64), torch.full((3,), 0.3, dtype=torch.float64)):
        assert add_noise(clean, epsilon, level).dtype == dtype
        assert target("v", clean, epsilon, level).dtype == dtype
        assert convert(clean, epsilon, level, given="v", wanted="clean").dtype == dtype


# Denoisers


@settings(max_examples=20)
@given(SEEDS, EACH_SCHEDULE, EACH_SCHEDULE, INNER, st.sampled_from(PREDICTIONS), st.booleans())
def test_a_denoiser_says_the_same_under_every_schedule(
    seed: int, schedule: Schedule, other: Schedule, level: float, predicts: str, rows: bool
) -> None:
    """Data, noise and v do not know by which schedule they were mixed."""
    oracle = GaussianMixture(torch.tensor([[-1.0], [2.0]]), [0.3, 0.6], schedule=schedule)
    here = oracle.denoiser(predicts)
    there = here.under(other)
    noisy = pair(seed, 1)[0]
    match_level = schedule.level(other.angle(level))
    at = torch.full((3,), level, dtype=torch.float64) if rows else level
    for wanted in ("clean", "noise", "v"):
        expected = here.predict(wanted, noisy * (schedule.scale(match_level) / other.scale(level)), match_level)
        torch.testing.assert_close(there.predict(wanted, noisy, at), expected, atol=1e-9, rtol=1e-9)
    assert here.under(schedule) is here


def test_a_denoiser_moved_to_another_schedule_is_finite_at_both_ends() -> None:
    noisy = pair(0, 1)[0]
    for schedule in SCHEDULES:
        there = Gaussian(0.5, 0.3, schedule).denoiser("v").under(AngleUniform())
        for level in (0.0, 1.0):
            assert there(level, noisy).isfinite().all()
            torch.testing.assert_close(
                there(level, noisy), Gaussian(0.5, 0.3).denoiser()(level, noisy), atol=1e-6, rtol=0
            )


def test_the_drift_is_v_in_the_angle_and_the_velocity_of_the_flow() -> None:
    noisy = pair(0, 2)[0]
    torch.testing.assert_close(Denoiser(lambda x, level: x.sin())(0.3, noisy), noisy.sin() * math.pi / 2)
    straight = Denoiser(lambda x, level: x.sin() + level, "velocity", LinearPath())
    for level in (0.0, 0.3, 1.0):
        assert torch.equal(straight(level, noisy), noisy.sin() + level)
    with pytest.raises(ValueError, match="says nothing about the noise at level 0"):
        Denoiser(lambda x, level: x, "clean")(0.0, noisy)


def test_a_network_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape of the noisy data, \(3, 2\).*answered with shape \(3, 1\)"):
        Denoiser(lambda noisy, level: noisy[:, :1]).clean(torch.ones(3, 2), 0.5)


# Oracles


@given(SEEDS, EACH_SCHEDULE, INNER, st.floats(0.1, 3), st.floats(-2, 2))
def test_the_gaussian_oracle_is_the_regression(
    seed: int, schedule: Schedule, level: float, deviation: float, mean: float
) -> None:
    """E[clean | x] and E[eps | x] are linear with the covariances of (clean, x) and (eps, x) over the variance of x."""
    noisy = pair(seed, 2)[0]
    signal, noise = schedule.signal(level), schedule.noise(level)
    variance = signal**2 * deviation**2 + noise**2
    clean, epsilon = Gaussian(mean, deviation, schedule).expected(noisy, level)
    torch.testing.assert_close(clean, mean + signal * deviation**2 / variance * (noisy - signal * mean))
    torch.testing.assert_close(epsilon, noise / variance * (noisy - signal * mean), atol=1e-13, rtol=1e-10)
    torch.testing.assert_close(signal * clean + noise * epsilon, noisy)


@given(SEEDS, EACH_SCHEDULE, st.floats(0.05, 1.0))
def test_tweedie_ties_the_density_to_the_noise(seed: int, schedule: Schedule, level: float) -> None:
    """grad log p(x) = -E[eps | x] / noise, for any data."""
    noisy = pair(seed, 2)[0].requires_grad_()
    means = torch.tensor([[-1.0, 0.5], [2.0, 1.0]], dtype=torch.float64)
    oracles = (
        Gaussian(torch.tensor([0.7, -0.2]), 0.4, schedule),
        GaussianMixture(means, [0.3, 0.6], [0.2, 0.8], schedule),
    )
    for oracle in oracles:
        (score,) = torch.autograd.grad(oracle.log_density(noisy, level).sum(), noisy)
        expected = -oracle.expected(noisy, level)[1] / schedule.noise(level)
        torch.testing.assert_close(score, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_densities_integrate_to_one_and_expectations_are_the_data_of_the_joint_law(
    schedule: Schedule, level: float
) -> None:
    grid = torch.linspace(-12, 12, 24001, dtype=torch.float64)[:, None]
    weights, means, deviations = [0.3, 0.7], [-1.5, 1.0], [0.3, 0.5]
    oracle = GaussianMixture(torch.tensor(means)[:, None], deviations, weights, schedule)
    density = oracle.log_density(grid, level).exp()
    mean = sum(w * m for w, m in zip(weights, means, strict=True))
    assert density.sum().item() * 1e-3 == pytest.approx(1, abs=1e-6)
    clean, epsilon = oracle.expected(grid, level)
    assert (density * clean[:, 0]).sum().item() * 1e-3 == pytest.approx(mean, abs=1e-6)
    assert (density * epsilon[:, 0]).sum().item() * 1e-3 == pytest.approx(0, abs=1e-6)


def test_one_component_is_a_gaussian_and_each_row_has_its_level() -> None:
    noisy = pair(0, 2)[0]
    levels = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for schedule in SCHEDULES:
        lone = Gaussian(torch.tensor([0.5, -1.0]), 0.5, schedule)
        mixed = GaussianMixture(torch.tensor([[0.5, -1.0]]), [0.5], schedule=schedule)
        for oracle in (lone, mixed):
            for row, level in enumerate(levels.tolist()):
                part = noisy[row : row + 1]
                torch.testing.assert_close(
                    oracle.log_density(noisy, levels)[row : row + 1], lone.log_density(part, level)
                )
                for found, expected in zip(oracle.expected(noisy, levels), lone.expected(part, level), strict=True):
                    torch.testing.assert_close(found[row : row + 1], expected)


def test_oracles_refuse_what_is_not_determined() -> None:
    values = torch.ones(3, 2)
    point = Gaussian(1.0, 0.0)
    for level in (0.0, torch.tensor([0.5, 0.0, 1.0])):
        for ask in (point.expected, point.log_density):
            with pytest.raises(ValueError, match="single point has neither noise nor a density at level 0"):
                ask(values, level)
    with pytest.raises(ValueError, match="finite and not negative; got -1"):
        Gaussian(0.0, -1.0)
    with pytest.raises(ValueError, match="got 2, 1 and 1"):
        GaussianMixture(torch.zeros(2, 1), [1.0], [1.0])
    for deviations, weights in (([1.0, 0.0], [0.5, 0.5]), ([1.0, 1.0], [0.5, 0.6]), ([1.0, 1.0], [0.0, 1.0])):
        with pytest.raises(ValueError, match="positive, and the weights sum to one"):
            GaussianMixture(torch.zeros(2, 1), deviations, weights)
    with pytest.raises(ValueError, match="flows nowhere"):
        point.flow(values, 0.0, 1.0)


# The probability flow


@given(SEEDS, EACH_SCHEDULE, LEVELS, LEVELS, LEVELS, st.floats(0.1, 3))
def test_the_exact_flow_composes_and_returns(
    seed: int, schedule: Schedule, start: float, middle: float, stop: float, deviation: float
) -> None:
    noisy = pair(seed, 2)[0]
    oracle = Gaussian(torch.tensor([1.0, -2.0]), deviation, schedule)
    halfway = oracle.flow(noisy, start, middle)
    torch.testing.assert_close(
        oracle.flow(halfway, middle, stop), oracle.flow(noisy, start, stop), atol=1e-12, rtol=1e-12
    )
    torch.testing.assert_close(oracle.flow(halfway, middle, start), noisy, atol=1e-12, rtol=1e-12)


@settings(max_examples=20)
@given(SEEDS, EACH_SCHEDULE, INNER, st.floats(0.1, 3))
def test_the_exact_flow_solves_the_flow_of_the_denoiser(
    seed: int, schedule: Schedule, level: float, deviation: float
) -> None:
    noisy = pair(seed, 2)[0]
    oracle = Gaussian(0.7, deviation, schedule)
    tick = 1e-5
    slope = (oracle.flow(noisy, level, level + tick) - oracle.flow(noisy, level, level - tick)) / (2 * tick)
    for predicts in PREDICTIONS:
        torch.testing.assert_close(oracle.denoiser(predicts)(level, noisy), slope, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("method", ["heun2", "rk4"])
@pytest.mark.parametrize(("schedule", "predicts"), [(AngleUniform(), "v"), (LinearPath(), "velocity"), (Cosine(), "v")])
def test_ode_solvers_sample_and_encode_a_gaussian(schedule: Schedule, predicts: str, method: str) -> None:
    oracle = Gaussian(torch.tensor([1.0, -2.0]), 0.4, schedule)
    denoiser = oracle.denoiser(predicts)
    clock = AngleUniform() if isinstance(schedule, Cosine) else schedule
    noisy = pair(0, 2)[0]
    solver = Grid(method=method, substeps=20)
    sampled = solver.solve(denoiser.under(clock), noisy, [1.0, 0.0]).trajectory.states[:, -1]
    tolerance = 0.015 if method == "heun2" else 1e-3
    torch.testing.assert_close(sampled, oracle.flow(noisy, 1.0, 0.0), atol=tolerance, rtol=0)
    encoded = solver.solve(denoiser.under(clock), sampled, [0.0, 1.0]).trajectory.states[:, -1]
    torch.testing.assert_close(encoded, noisy, atol=5 * tolerance, rtol=0)


def test_likelihood_by_the_change_of_variables_is_the_density() -> None:
    """log p0(x0) = log p1(x1) + integral of the divergence of the drift over the level, along the flow up from x0."""
    oracle = GaussianMixture(torch.tensor([[-1.5], [1.0]]), [0.4, 0.6], [0.3, 0.7])
    denoiser = oracle.denoiser("v")
    start = torch.linspace(-2.5, 2.5, 7, dtype=torch.float64)[:, None]

    def augmented(level: float, state: Tensor) -> Tensor:
        with torch.enable_grad():
            place = state[:, :1].detach().requires_grad_()
            rate = denoiser(level, place)
            (divergence,) = torch.autograd.grad(rate.sum(), place)
        return torch.cat((rate.detach(), divergence), dim=1)

    begin = torch.cat((start, torch.zeros_like(start)), dim=1)
    end = Grid(method="rk4", substeps=60).solve(augmented, begin, [0.0, 1.0]).trajectory.states[:, -1]
    standard = -0.5 * (end[:, 0].square() + math.log(2 * math.pi))
    torch.testing.assert_close(standard + end[:, 1], oracle.log_density(start, 0.0), atol=3e-4, rtol=0)
