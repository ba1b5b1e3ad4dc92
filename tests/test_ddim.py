"""Denoising solvers (P13): DDIM in the angle, DPM-Solver++, and what both promise at their ends and in between."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowvid.denoise.ddim import Ddim, ddim_step
from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.dpm import DpmSolverPlusPlus
from flowvid.denoise.methods import denoising_methods
from flowvid.denoise.oracles import Gaussian, GaussianMixture
from flowvid.denoise.predictions import PREDICTIONS, add_noise, target
from flowvid.denoise.schedule import AngleUniform, Cosine, LinearPath, Schedule
from flowvid.noise import Noise
from flowvid.solve.grid import Grid

SCHEDULES = (AngleUniform(), Cosine(), LinearPath())
EACH_SCHEDULE = st.sampled_from(SCHEDULES)
EACH_SOLVER = st.sampled_from([Ddim, DpmSolverPlusPlus])
SEEDS = st.integers(0, 2**31)
MEANS = torch.tensor([[-1.5], [1.0]], dtype=torch.float64)
WEIGHTS, DEVIATIONS = (0.3, 0.7), (0.4, 0.6)


def pair(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    noise = Noise.batch(seed, 3)
    return noise.normal("clean", *shape, dtype=dtype), noise.normal("noise", *shape, dtype=dtype)


def last(solver: Ddim | DpmSolverPlusPlus | Grid, denoiser: Denoiser, noisy: Tensor, *levels: float) -> Tensor:
    return solver.solve(denoiser, noisy, levels or [1.0, 0.0]).require().trajectory.states[:, -1]


def wavy(noisy: Tensor, level: float) -> Tensor:
    """A smooth prediction that is no rotation."""
    return torch.sin(1.3 * noisy + 2 * level) + 0.2 * noisy.flip(-1)


def mixture_error(
    solver: Ddim | DpmSolverPlusPlus | Grid, schedule: Schedule, start: float = 1.0, stop: float = 0.0
) -> float:
    """How far samples of a mixture in one dimension land from their quantile, which the exact flow keeps."""

    def quantile(noisy: Tensor, level: float) -> Tensor:
        signal, noise = schedule.signal(level), schedule.noise(level)
        spreads = [math.hypot(signal * deviation, noise) for deviation in DEVIATIONS]
        offsets = [(noisy - signal * mean) / spread for mean, spread in zip(MEANS, spreads, strict=True)]
        return sum(weight * torch.special.ndtr(off) for weight, off in zip(WEIGHTS, offsets, strict=True))

    begin = torch.linspace(-1.8, 1.8, 16, dtype=torch.float64)[:, None]
    found = last(solver, GaussianMixture(MEANS, DEVIATIONS, WEIGHTS, schedule).denoiser(), begin, start, stop)
    return (quantile(found, stop) - quantile(begin, start)).abs().mean().item()


def slope(error: Callable[[int], float], counts: list[int]) -> float:
    return -np.polyfit(np.log(counts), np.log([error(count) for count in counts]), 1)[0]


# What a step is


@given(SEEDS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_p13_a_step_in_v_turns_by_the_angle(seed: int, level: float, following: float) -> None:
    turn = (following - level) * math.pi / 2
    step = ddim_step("v", AngleUniform(), level, following)
    assert (step.keep, step.turn) == pytest.approx((math.cos(turn), math.sin(turn)), abs=1e-15)


@given(SEEDS, EACH_SCHEDULE, st.sampled_from(PREDICTIONS), st.floats(0.02, 0.98), st.floats(0.0, 1.0))
def test_a_step_keeps_the_predicted_pair(
    seed: int, schedule: Schedule, predicts: str, level: float, following: float
) -> None:
    clean, epsilon = pair(seed, 4)
    noisy, said = add_noise(clean, epsilon, level, schedule), target(predicts, clean, epsilon, level, schedule)
    found = ddim_step(predicts, schedule, level, following)(noisy, said)
    torch.testing.assert_close(found, add_noise(clean, epsilon, following, schedule), atol=1e-11, rtol=1e-11)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 12), st.floats(0.02, 0.98), st.floats(0.0, 0.98))
def test_equals_the_algebraic_form(seed: int, steps: int, start: float, stop: float) -> None:
    """x' = alpha' (x - sigma eps) / alpha + sigma' eps, with eps = sigma x + alpha v."""
    noisy = pair(seed, 2, 4)[0]
    expected = noisy
    levels = np.linspace(start, stop, steps + 1)
    for level, following in pairwise(levels):
        alpha, sigma = math.cos(level * math.pi / 2), math.sin(level * math.pi / 2)
        epsilon = sigma * expected + alpha * wavy(expected, float(level))
        data = (expected - sigma * epsilon) / alpha
        expected = math.cos(following * math.pi / 2) * data + math.sin(following * math.pi / 2) * epsilon
    if start != stop:
        found = last(Ddim(substeps=steps), Denoiser(wavy), noisy, start, stop)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@settings(max_examples=20)
@given(SEEDS, st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6, unique=True), st.booleans())
def test_under_straight_paths_it_is_euler_on_the_flow(seed: int, levels: list[float], upwards: bool) -> None:
    noisy = pair(seed, 4)[0]
    denoiser = Denoiser(wavy, "velocity", LinearPath())
    levels = sorted(levels, reverse=not upwards)
    found = last(Ddim(substeps=1), denoiser, noisy, *levels)
    torch.testing.assert_close(found, last(Grid(method="euler"), denoiser, noisy, *levels), atol=1e-12, rtol=1e-12)


# Exactness


@settings(max_examples=20)
@given(SEEDS, EACH_SOLVER, EACH_SCHEDULE, st.integers(1, 12), st.sampled_from(["v", "clean", "velocity"]))
def test_p13_a_point_is_recovered_by_any_number_of_steps(
    seed: int, solver: type, schedule: Schedule, steps: int, predicts: str
) -> None:
    point, epsilon = pair(seed, 2)
    oracle = Gaussian(point[0], 0.0, schedule)
    found = last(solver(substeps=steps), oracle.denoiser(predicts), epsilon)
    torch.testing.assert_close(found, point[:1].expand(3, 2), atol=1e-12, rtol=1e-12)


@settings(max_examples=20)
@given(SEEDS, EACH_SOLVER, EACH_SCHEDULE, st.floats(0.05, 1.0), st.floats(0.0, 0.95), st.integers(1, 9))
def test_p13_a_point_is_left_and_reached_at_any_level(
    seed: int, solver: type, schedule: Schedule, start: float, part: float, steps: int
) -> None:
    point, epsilon = pair(seed, 2)
    oracle, stop = Gaussian(point[0], 0.0, schedule), start * part
    noisy = add_noise(point[:1].expand(3, 2), epsilon, start, schedule)
    found = last(solver(substeps=steps), oracle.denoiser("v"), noisy, start, stop)
    torch.testing.assert_close(
        found, add_noise(point[:1].expand(3, 2), epsilon, stop, schedule), atol=1e-11, rtol=1e-11
    )


@given(SEEDS, EACH_SOLVER, EACH_SCHEDULE, st.sampled_from(["v", "clean", "velocity"]))
def test_one_step_from_pure_noise_is_the_predicted_data(seed: int, solver: type, schedule: Schedule, kind: str) -> None:
    noisy = pair(seed, 3)[0]
    denoiser = Denoiser(wavy, kind, schedule)
    torch.testing.assert_close(
        last(solver(substeps=1), denoiser, noisy), denoiser.clean(noisy, 1.0), atol=1e-14, rtol=0
    )


@pytest.mark.parametrize("solver", [Ddim, DpmSolverPlusPlus])
def test_the_first_step_from_pure_noise_is_the_limit_of_first_steps_near_it(solver: type) -> None:
    noisy = pair(0, 3)[0]
    for schedule in SCHEDULES:
        denoiser = Denoiser(wavy, "v", schedule)
        limit = last(solver(substeps=1), denoiser, noisy, 1.0, 0.2)
        near = last(solver(substeps=1), denoiser, noisy, 1 - 1e-9, 0.2)
        torch.testing.assert_close(near, limit, atol=1e-6, rtol=0)


@settings(max_examples=20)
@given(st.integers(1, 60))
def test_p13_a_gaussian_shrinks_by_the_stated_factor(steps: int) -> None:
    noisy = pair(0, 2)[1]
    found = last(Ddim(substeps=steps), Denoiser(lambda x, level: torch.zeros_like(x)), noisy)
    torch.testing.assert_close(found, math.cos(math.pi / (2 * steps)) ** steps * noisy, atol=1e-12, rtol=1e-12)


@settings(max_examples=20)
@given(SEEDS, EACH_SOLVER, EACH_SCHEDULE, EACH_SCHEDULE, st.integers(1, 8))
def test_samples_do_not_depend_on_the_schedule(
    seed: int, solver: type, schedule: Schedule, other: Schedule, steps: int
) -> None:
    """The data have no scale to differ by, and equal angles are equal steps under any schedule."""
    noisy = pair(seed, 3)[0]
    denoiser = Denoiser(lambda x, level: wavy(x / schedule.scale(level), 0.3), "v", schedule)
    here = last(solver(substeps=steps), denoiser, noisy)
    torch.testing.assert_close(last(solver(substeps=steps), denoiser.under(other), noisy), here, atol=1e-9, rtol=1e-9)


# Orders


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.0])
def test_p13_the_missing_deviation_falls_as_one_over_the_steps(deviation: float) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    denoiser = Gaussian(0.0, deviation).denoiser()

    def missing(steps: int) -> float:
        short = 1 - last(Ddim(substeps=steps), denoiser, one).item() / deviation
        assert short > 0
        return short

    assert slope(missing, [32, 64, 128]) == pytest.approx(1, abs=0.05)


def test_p13_the_constant_of_the_rate() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    missing = 1 - last(Ddim(substeps=200), Gaussian(0.0, 1.0).denoiser(), one).item()
    assert 200 * missing == pytest.approx(math.pi**2 / 8, rel=1e-2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("solver", "order"), [(Ddim, 1), (DpmSolverPlusPlus, 2)])
def test_observed_orders_between_inner_levels(solver: type, order: int, schedule: Schedule) -> None:
    def error(steps: int) -> float:
        return mixture_error(solver(substeps=steps), schedule, 0.9, 0.1)

    assert slope(error, [24, 48, 96]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("solver", "order"), [(Ddim, 1.0), (DpmSolverPlusPlus, 1.85)])
def test_observed_orders_from_pure_noise_to_data(solver: type, order: float) -> None:
    """From pure noise the second order holds up to a logarithm."""

    def error(steps: int) -> float:
        return mixture_error(solver(substeps=steps), AngleUniform())

    assert slope(error, [16, 32, 64]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("steps", [8, 16, 32])
def test_second_order_beats_first_at_equal_evaluations(steps: int) -> None:
    rough = mixture_error(Ddim(substeps=steps), AngleUniform())
    assert mixture_error(DpmSolverPlusPlus(substeps=steps), AngleUniform()) < 0.5 * rough
    assert mixture_error(Grid(method="heun2", substeps=steps // 2), AngleUniform()) < 0.5 * rough


def test_ddim_converges_to_the_flow_that_ode_solvers_follow() -> None:
    noisy = pair(0, 3)[0]
    denoiser = Denoiser(wavy)
    exact = last(Grid(method="rk4", substeps=64), denoiser, noisy)

    def error(steps: int) -> float:
        return (last(Ddim(substeps=steps), denoiser, noisy) - exact).abs().max().item()

    assert slope(error, [32, 64, 128]) == pytest.approx(1, abs=0.1)


def test_encoding_returns_to_the_noise_in_the_limit() -> None:
    denoiser, noisy = Gaussian(0.5, 0.7).denoiser(), pair(0, 2)[1]

    def error(steps: int) -> float:
        there = last(Ddim(substeps=steps), denoiser, noisy, 1.0, 0.0)
        return (last(Ddim(substeps=steps), denoiser, there, 0.0, 1.0) - noisy).abs().max().item()

    assert slope(error, [16, 32, 64]) == pytest.approx(1, abs=0.25)


# Fresh noise


@given(EACH_SCHEDULE, st.floats(0.0, 1.0), st.floats(0.05, 1.0), st.floats(0.0, 0.99))
def test_fresh_noise_replaces_as_much_as_it_brings(schedule: Schedule, eta: float, level: float, part: float) -> None:
    """Of a point at zero predicted v is noise alone: (keep + turn * share)^2 + fresh^2 must be noise'^2."""
    following = level * part
    step = ddim_step("clean", schedule, level, following, eta)
    kept = step.keep * schedule.noise(level)
    assert kept**2 + step.fresh**2 == pytest.approx(schedule.noise(following) ** 2, abs=1e-12)
    assert step.keep * schedule.signal(level) + step.turn == pytest.approx(schedule.signal(following), abs=1e-12)


@given(st.floats(0.05, 1.0), st.floats(0.0, 0.99))
def test_eta_is_that_of_the_paper_and_one_is_ancestral_sampling(level: float, part: float) -> None:
    """sigma^2 = (1 - a') / (1 - a) * (1 - a / a') with a = signal^2, the posterior variance of DDPM at eta 1."""
    schedule, following = AngleUniform(), level * part
    here, there = schedule.signal(level) ** 2, schedule.signal(following) ** 2
    variance = (1 - there) / (1 - here) * (1 - here / there)
    for eta in (1.0, 0.4):
        fresh = ddim_step("v", schedule, level, following, eta).fresh
        assert fresh == pytest.approx(eta * math.sqrt(variance), abs=1e-7)
    posterior = (
        schedule.noise(following) ** 2
        / schedule.noise(level) ** 2
        * schedule.signal(level)
        / schedule.signal(following)
    )
    assert ddim_step("clean", schedule, level, following, 1.0).keep == pytest.approx(posterior, abs=1e-7)


def gaussian_law(steps: int, eta: float, deviation: float) -> tuple[float, float]:
    """Deviation of DDIM's samples of N(0, deviation^2) and their correlation with the noise they began from."""
    schedule, variance, kept = AngleUniform(), 1.0, 1.0
    for step in range(steps):
        level, following = 1 - step / steps, 1 - (step + 1) / steps
        taken = ddim_step("clean", schedule, level, following, eta)
        signal, noise = schedule.signal(level), schedule.noise(level)
        factor = taken.keep + taken.turn * signal * deviation**2 / (signal**2 * deviation**2 + noise**2)
        variance, kept = factor**2 * variance + taken.fresh**2, factor * kept
    return math.sqrt(variance), kept / math.sqrt(variance)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_samples_have_the_law_of_the_data_in_the_limit(eta: float) -> None:
    def error(steps: int) -> float:
        return abs(gaussian_law(steps, eta, 0.7)[0] - 0.7)

    assert slope(error, [32, 64, 128]) == pytest.approx(1, abs=0.1)
    noise = Noise.batch(0, 2)
    begin = noise.normal("begin", 20_000, dtype=torch.float64)
    deviation, overlap = gaussian_law(6, eta, 0.7)
    for schedule in SCHEDULES:
        denoiser = Gaussian(0.5, 0.7, schedule).denoiser()
        ends = Ddim(substeps=6, eta=eta).solve(denoiser, begin, [1.0, 0.0], noise).require().trajectory.states[:, -1]
        assert ends.std().item() == pytest.approx(deviation, rel=0.015)
        found = torch.corrcoef(torch.stack((begin.flatten(), ends.flatten())))[0, 1].item()
        assert found == pytest.approx(overlap, abs=0.02)


def test_fresh_noise_depends_on_the_seed_and_the_step_and_not_on_the_batch() -> None:
    noise, denoiser = Noise.batch(0, 3), Denoiser(wavy)
    begin = noise.normal("begin", 4)
    solver = Ddim(substeps=3, eta=1.0)
    together = solver.solve(denoiser, begin, [1.0, 0.3], noise).trajectory.states
    alone = solver.solve(denoiser, begin[1:2], [1.0, 0.3], noise[1:2]).trajectory.states
    assert torch.equal(together[1:2], alone)
    again = solver.solve(denoiser, begin, [1.0, 0.3], noise.fold("other")).trajectory.states
    assert not torch.isclose(again[:, -1], together[:, -1]).any()
    zero = Denoiser(lambda x, level: torch.zeros_like(x), "clean")
    walked = Ddim(substeps=1, eta=1.0).solve(zero, begin, [1.0, 0.9, 0.8], noise).trajectory.states
    first = walked[:, 1] / ddim_step("clean", AngleUniform(), 1.0, 0.9, 1.0).fresh
    step = ddim_step("clean", AngleUniform(), 0.9, 0.8, 1.0)
    second = (walked[:, 2] - step.keep * walked[:, 1]) / step.fresh
    assert not torch.isclose(first, second, atol=1e-2).any()


# Cost and precision


@settings(max_examples=20)
@given(st.integers(1, 12), EACH_SOLVER, EACH_SCHEDULE, st.floats(0.3, 1.0), st.floats(0.0, 0.29))
def test_the_network_is_asked_once_a_step_at_equal_angles(
    steps: int, solver: type, schedule: Schedule, start: float, stop: float
) -> None:
    asked: list[float] = []

    def network(noisy: Tensor, level: float) -> Tensor:
        asked.append(level)
        return torch.zeros_like(noisy)

    middle = (start + stop) / 2
    solution = solver(substeps=steps).solve(Denoiser(network, "v", schedule), torch.ones(1, 2), [start, middle, stop])
    assert solution.evaluations == solution.depth == solution.accepted == len(asked) == 2 * steps
    assert asked[0] == start
    assert asked[steps] == middle
    for part, ends in ((asked[:steps], (start, middle)), (asked[steps:], (middle, stop))):
        even = np.linspace(*map(schedule.angle, ends), steps + 1)[:-1]
        assert [schedule.angle(level) for level in part] == pytest.approx(even, abs=1e-12)
    assert solution.trajectory.times.tolist() == [start, middle, stop]


@settings(max_examples=20)
@given(SEEDS, EACH_SOLVER, st.integers(1, 6), st.integers(1, 6))
def test_parts_of_the_way_compose(seed: int, solver: type, first: int, second: int) -> None:
    noisy, denoiser = pair(seed, 4)[0], Denoiser(wavy)
    levels = [1 - step / (first + second) for step in range(first + second)]
    outputs = solver(substeps=1).solve(denoiser, noisy, [*levels, 0.0]).trajectory.states
    torch.testing.assert_close(
        outputs[:, -1], last(solver(substeps=first + second), denoiser, noisy), atol=1e-11, rtol=0
    )
    middle = last(solver(substeps=first), denoiser, noisy, 1.0, *levels[first : first + 1])
    torch.testing.assert_close(outputs[:, first], middle, atol=1e-11, rtol=0)


class Operations(TorchDispatchMode):
    """Counts what reaches the device, and what comes back from it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("predicts", ["v", "clean", "velocity"])
def test_a_ddim_step_is_two_operations_and_no_reads(schedule: Schedule, predicts: str) -> None:
    noisy = torch.ones(2, 3)
    denoiser = Denoiser(lambda x, level: x, predicts, schedule)

    def counted(steps: int) -> list[str]:
        with Operations() as operations:
            Ddim(substeps=steps).solve(denoiser, noisy, [1.0, 0.0])
        return operations.names

    few, many = counted(2), counted(12)
    assert len(many) - len(few) == 20
    reads = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item"}
    assert sum(name in reads for name in many) == sum(name in reads for name in few)


@pytest.mark.parametrize("solver", [Ddim(substeps=100), DpmSolverPlusPlus(substeps=100)])
def test_the_state_keeps_its_precision_whatever_the_network_runs_in(solver: Ddim | DpmSolverPlusPlus) -> None:
    """A bfloat16 network that says zero is exact, so what is lost is lost by the state."""
    noisy = pair(0, 8, dtype=torch.float32)[0]

    def zero(x: Tensor, level: float) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bfloat16)

    exact = last(solver, Denoiser(zero), noisy.double())
    found = last(solver, Denoiser(zero), noisy)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=2e-5, rtol=2e-5)
    asked: list[torch.dtype] = []

    def half(x: Tensor, level: float) -> Tensor:
        asked.append(x.dtype)
        return torch.zeros_like(x)

    rough = last(solver, Denoiser(half), noisy.bfloat16())
    assert {rough.dtype, *asked} == {torch.bfloat16}
    torch.testing.assert_close(rough.double(), exact, atol=1e-2, rtol=1e-2)


@settings(max_examples=20)
@given(st.integers(1, 40), EACH_SOLVER, EACH_SCHEDULE, st.sampled_from([torch.float32, torch.float64]))
def test_finite_from_pure_noise_with_a_network_that_says_zero(
    steps: int, solver: type, schedule: Schedule, dtype: torch.dtype
) -> None:
    noisy = pair(0, 2, dtype=dtype)[1]
    found = last(solver(substeps=steps), Denoiser(lambda x, level: torch.zeros_like(x), "v", schedule), noisy)
    assert found.isfinite().all()
    assert found.dtype == dtype
    assert (found.abs() <= noisy.abs() * 1.001).all()


def test_gradients_reach_the_noise_and_the_network() -> None:
    noisy, gain = pair(0, 2)[0].requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for solver in (Ddim(substeps=3), DpmSolverPlusPlus(substeps=3)):

        def sample(x: Tensor, g: Tensor, solver: Ddim | DpmSolverPlusPlus = solver) -> Tensor:
            return last(solver, Denoiser(lambda at, level: g * wavy(at, level)), x)

        assert torch.autograd.gradcheck(sample, (noisy, gain))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    noisy, denoiser = pair(0, 4)[0], Denoiser(wavy)
    for solver in (Ddim(substeps=4), DpmSolverPlusPlus(substeps=4)):
        assert torch.equal(last(solver, denoiser, noisy)[1:2], last(solver, denoiser, noisy[1:2]))


def test_a_single_level_is_a_way_of_no_length() -> None:
    noisy = pair(0, 2)[0]
    for solver in (Ddim(), DpmSolverPlusPlus()):
        solution = solver.solve(Denoiser(wavy), noisy, [0.4])
        assert torch.equal(solution.trajectory.states[:, 0], noisy)
        assert (solution.evaluations, solution.depth) == (0, 0)


# Failures and refusals


@pytest.mark.parametrize("solver", [Ddim, DpmSolverPlusPlus])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_a_sample_that_breaks_down_is_named_and_the_others_are_whole(solver: type, shape: tuple[int, ...]) -> None:
    noisy = pair(0, *shape)[0]

    def network(x: Tensor, level: float) -> Tensor:
        said = wavy(x.reshape(3, -1), level).reshape(x.shape)
        said[1] = torch.inf if level <= 0.5 else said[1]
        return said

    solution = solver(substeps=2).solve(Denoiser(network), noisy, [1.0, 0.5, 0.25, 0.0])
    assert not solution.complete
    assert "on the way to level 0.25 in sample 1;" in solution.status
    states = solution.trajectory.states
    assert states[:, :2].isfinite().all()
    assert states[1, 2:].isnan().all()
    assert states[[0, 2]].isfinite().all()


def test_problems_that_do_not_fit_are_refused() -> None:
    noisy, denoiser = torch.ones(2, 3), Denoiser(wavy)
    for solver in (Ddim(), DpmSolverPlusPlus()):
        with pytest.raises(ValueError, match=r"needs a Denoiser.*got function"):
            solver.solve(wavy, noisy, [1.0, 0.0])
        for levels in ([1.1, 0.0], [1.0, -0.1]):
            with pytest.raises(ValueError, match=r"Noise levels lie in \[0, 1\].*got \["):
                solver.solve(denoiser, noisy, levels)
        with pytest.raises(ValueError, match="strictly"):
            solver.solve(denoiser, noisy, [1.0, 0.2, 0.5])
        with pytest.raises(ValueError, match="NaN or infinity in sample 0"):
            solver.solve(denoiser, torch.full((1, 2), math.nan), [1.0, 0.0])
        with pytest.raises(ValueError, match="says nothing about the clean data at level 1"):
            solver.solve(Denoiser(wavy, "noise"), noisy, [1.0, 0.0])
        assert last(solver, Denoiser(wavy, "noise"), noisy, 0.99, 0.0).isfinite().all()
    with pytest.raises(ValueError, match="from noise to data, so levels decrease"):
        DpmSolverPlusPlus().solve(denoiser, noisy, [0.0, 1.0])
    stochastic = Ddim(eta=0.5)
    for noise, given_seeds in ((None, "none"), (Noise.batch(0, 3), "3")):
        with pytest.raises(ValueError, match=f"one seed for each of the 2 samples; got {given_seeds}"):
            stochastic.solve(denoiser, noisy, [1.0, 0.0], noise)
    with pytest.raises(ValueError, match="use eta=0 to encode"):
        stochastic.solve(denoiser, noisy, [0.0, 1.0], Noise.batch(0, 2))


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_and_a_wrong_eta_are_refused(steps: int) -> None:
    for solver in (Ddim, DpmSolverPlusPlus):
        with pytest.raises(ValueError, match=f"needs substeps >= 1.*got {steps}"):
            solver(substeps=steps)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"eta lies in \[0, 1\].*got {eta}"):
            Ddim(eta=eta)


def test_the_table_lists_what_is_made() -> None:
    methods = {method.name: method for method in denoising_methods()}
    assert {name: (method.order, type(method.make())) for name, method in methods.items()} == {
        "ddim": (1, Ddim),
        "dpm++2m": (2, DpmSolverPlusPlus),
    }
    assert {method.family for method in methods.values()} == {"denoising"}
