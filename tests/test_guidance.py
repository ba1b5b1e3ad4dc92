"""Guidance against closed forms: tilted scores, extrapolated means, posteriors of linear-Gaussian data."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.denoise.ddim import Ddim
from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.dpm import DpmSolverPlusPlus
from flowvid.denoise.guidance import (
    Evaluations,
    averaged,
    classifier_free,
    flow_denoiser,
    gaussian_weight,
    reconstruction_guided,
    replaced,
    shown,
)
from flowvid.denoise.oracles import Gaussian, GaussianMixture
from flowvid.denoise.predictions import PREDICTIONS, Prediction, add_noise, combined, shares
from flowvid.denoise.schedule import ANGLE_UNIFORM, AngleUniform, Cosine, LinearPath, Schedule
from flowvid.noise import Noise
from flowvid.solve.grid import Grid
from flowvid.solve.solver import Solver
from flowvid.solvers import solve

EACH_SCHEDULE = st.sampled_from((AngleUniform(), Cosine(), LinearPath()))
EACH_PREDICTION = st.sampled_from(PREDICTIONS)
INNER = st.floats(0.05, 0.95)
SCALES = st.floats(-1.0, 8.0)
SEEDS = st.integers(0, 2**31)
DOUBLE = torch.float64


def draw(seed: int, *shape: int, batch: int = 3) -> Tensor:
    return Noise.batch(seed, batch).normal("draw", *shape, dtype=DOUBLE)


def correlated(covariance: Tensor, schedule: Schedule = ANGLE_UNIFORM, predicts: Prediction = "v") -> Denoiser:
    """Of centred Gaussian data whose entries on the last axis have a covariance."""

    def network(noisy: Tensor, level: Any) -> Tensor:
        signal, noise = (
            torch.as_tensor(part, dtype=DOUBLE) for part in (schedule.signal(level), schedule.noise(level))
        )
        signal, noise = signal[..., None, None], noise[..., None, None]
        inverse = torch.linalg.inv(signal**2 * covariance + noise**2 * torch.eye(len(covariance), dtype=DOUBLE))
        whitened = (inverse @ noisy[..., None])[..., 0]
        clean, eps = (signal * (covariance @ whitened[..., None]))[..., 0], noise[..., 0] * whitened
        clean_share, noise_share = shares(predicts, level, schedule)
        return combined(clean_share, clean, noise_share, eps)

    return Denoiser(network, predicts, schedule)


def exact_weight(covariance: Tensor, schedule: Schedule = ANGLE_UNIFORM) -> Callable[[Tensor], Tensor]:
    """noise^2 / (signal s)^2, with s^2 the variance of the first entry given all noisy ones."""

    def weight(level: Tensor) -> Tensor:
        signal, noise = schedule.signal(level), schedule.noise(level)
        if signal < 1e-9 or noise < 1e-9:
            return torch.ones((), dtype=DOUBLE)
        precision = torch.linalg.inv(covariance) + (signal / noise) ** 2 * torch.eye(len(covariance), dtype=DOUBLE)
        return (noise / signal) ** 2 / torch.linalg.inv(precision)[0, 0]

    return weight


def some_covariance(seed: int, size: int = 3) -> Tensor:
    root = draw(seed, size, batch=size)
    return root @ root.T + 0.3 * torch.eye(size, dtype=DOUBLE)


# Classifier-free guidance


@settings(max_examples=15)
@given(EACH_PREDICTION, EACH_PREDICTION, EACH_SCHEDULE, INNER)
def test_scale_one_is_the_conditional_and_zero_the_unconditional(
    one: Prediction, other: Prediction, schedule: Schedule, level: float
) -> None:
    conditional = Gaussian(0.4, 0.5).denoiser(one)
    unconditional = Gaussian(-1.0, 1.5, schedule).denoiser(other)
    noisy = draw(0, 2, 2)
    assert classifier_free(conditional, unconditional, 1.0, rescale=0.7) is conditional
    none = classifier_free(conditional, unconditional, 0.0)
    expected = unconditional.under(conditional.schedule).predict(one, noisy, level)
    assert torch.equal(none.ask(noisy, level), expected)
    assert (none.predicts, none.schedule) == (conditional.predicts, conditional.schedule)


@settings(max_examples=8)
@given(EACH_PREDICTION, EACH_PREDICTION, EACH_SCHEDULE, EACH_SCHEDULE, SCALES, INNER)
def test_gaussians_of_one_deviation_make_one_whose_mean_is_extrapolated(
    one: Prediction, other: Prediction, schedule: Schedule, second: Schedule, scale: float, level: float
) -> None:
    guided = classifier_free(
        Gaussian(1.0, 0.7, schedule).denoiser(one), Gaussian(-0.5, 0.7, second).denoiser(other), scale
    )
    truth = Gaussian(-0.5 + 1.5 * scale, 0.7, schedule).denoiser("v")
    noisy = draw(1, 3)
    for wanted in PREDICTIONS:
        found, expected = (x.predict(wanted, noisy, level) for x in (guided, truth))
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    levels = torch.tensor([level, 0.3, 0.8], dtype=DOUBLE)
    torch.testing.assert_close(guided.clean(noisy, levels), truth.clean(noisy, levels), atol=1e-9, rtol=1e-9)


@settings(max_examples=12)
@given(SCALES, INNER, EACH_SCHEDULE)
def test_the_score_is_that_of_the_tilted_density_at_every_level(scale: float, level: float, schedule: Schedule) -> None:
    told = GaussianMixture(torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=DOUBLE), [0.5, 0.8], [0.3, 0.7], schedule)
    free = GaussianMixture(torch.tensor([[1.0, 1.0], [-2.0, 0.0]], dtype=DOUBLE), [1.0, 0.6], schedule=schedule)
    noisy = draw(2, 2).requires_grad_()
    density = scale * told.log_density(noisy, level) + (1 - scale) * free.log_density(noisy, level)
    (score,) = torch.autograd.grad(density.sum(), noisy)
    guided = classifier_free(told.denoiser(), free.denoiser(), scale)
    found = guided.predict("noise", noisy.detach(), level) / -schedule.noise(level)
    torch.testing.assert_close(found, score, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.6)])
def test_the_flow_of_centred_gaussians_has_the_product_of_powers_and_not_the_tilted_deviation(
    interval: tuple[float, float],
) -> None:
    scale, own, other = 2.5, 0.5, 1.3
    guided = classifier_free(Gaussian(0.0, own).denoiser(), Gaussian(0.0, other).denoiser(), scale, interval=interval)

    def spread(deviation: float, level: float) -> float:
        return math.hypot(ANGLE_UNIFORM.signal(level) * deviation, ANGLE_UNIFORM.noise(level))

    low, high = interval
    inside = [spread(deviation, low) / spread(deviation, high) for deviation in (own, other)]
    expected = own * inside[0] ** (scale - 1) * inside[1] ** (1 - scale)
    levels = sorted({1.0, high, low, 0.0}, reverse=True)
    if interval == (0.0, 1.0):
        assert expected == pytest.approx(own**scale * other ** (1 - scale))
        assert expected != pytest.approx((scale / own**2 + (1 - scale) / other**2) ** -0.5, rel=0.2)
    end = solve(guided, torch.ones(1, 1, dtype=DOUBLE), levels, Grid(method="midpoint", substeps=50))
    assert end.trajectory.states[0, -1].item() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(("interval", "asked"), [((0.0, 1.0), 20), ((0.35, 0.7), 14), ((0.95, 0.97), 10)])
def test_outside_the_interval_the_unconditional_network_is_not_asked(interval: tuple[float, float], asked: int) -> None:
    told, free = Gaussian(1.0, 0.5).denoiser(), Gaussian(0.0, 1.0).denoiser()
    count = Evaluations()
    guided = classifier_free(count.of(told), count.of(free), 3.0, interval=interval)
    noisy = draw(3, 2, batch=4).float()
    solution = solve(guided, noisy, [1.0, 0.0], Ddim(substeps=10))
    assert solution.evaluations == 10
    assert count.rows == 4 * asked
    if interval != (0.0, 1.0):
        for level in (interval[0] - 0.01, interval[1] + 0.01):
            assert torch.equal(guided.ask(noisy, level), told.ask(noisy, level))
        for level in interval:
            assert not torch.equal(guided.ask(noisy, level), told.ask(noisy, level))


def test_each_sample_has_its_own_place_in_the_interval() -> None:
    told, free = Gaussian(1.0, 0.5).denoiser(), Gaussian(0.0, 1.0).denoiser()
    count = Evaluations()
    guided = classifier_free(told, count.of(free), 3.0, interval=(0.3, 0.6), rescale=0.5)
    noisy = draw(4, 2, 2)
    for levels, rows in (([0.1, 0.4, 0.9], 3), ([0.1, 0.2, 0.9], 0), ([0.3, 0.4, 0.6], 3)):
        count.rows = 0
        found = guided.ask(noisy, torch.tensor(levels, dtype=DOUBLE))
        assert count.rows == rows
        for n, level in enumerate(levels):
            torch.testing.assert_close(found[n : n + 1], guided.ask(noisy[n : n + 1], level), atol=1e-12, rtol=1e-12)
    one = torch.tensor(0.4, dtype=DOUBLE)
    torch.testing.assert_close(guided.ask(noisy, one), guided.ask(noisy, 0.4), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_gives_back_the_deviation_of_the_conditional_prediction(rescale: float) -> None:
    told, free = Gaussian(1.0, 0.5).denoiser(), GaussianMixture(draw(5, 4, 2), [0.4, 1.0, 0.7]).denoiser()
    noisy = draw(6, 4, 2)
    plain = classifier_free(told, free, 6.0).ask(noisy, 0.5)
    found = classifier_free(told, free, 6.0, rescale=rescale).ask(noisy, 0.5)
    wanted, given_ = (x.flatten(1).std(dim=1)[:, None, None] for x in (told.ask(noisy, 0.5), plain))
    torch.testing.assert_close(found, rescale * plain * wanted / given_ + (1 - rescale) * plain, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(found, plain, rtol=0.05)
    alone = classifier_free(told, free, 6.0, rescale=rescale).ask(noisy[1:2], 0.5)
    torch.testing.assert_close(alone, found[1:2], atol=1e-12, rtol=1e-12)


def test_rescaling_leaves_a_prediction_without_deviation_alone() -> None:
    told, free = (Denoiser(lambda noisy, level, c=c: torch.full_like(noisy, c)) for c in (1.0, 3.0))
    for shape in ((2, 3), (2,)):
        assert torch.equal(
            classifier_free(told, free, 2.0, rescale=1.0).ask(torch.ones(shape), 0.5), -torch.ones(shape)
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": math.inf},
        {"scale": math.nan},
        {"interval": (0.6, 0.4)},
        {"interval": (-0.1, 0.4)},
        {"interval": (0.5, 1.1)},
        {"rescale": -0.1},
        {"rescale": 1.5},
    ],
)
def test_guidance_refuses_what_it_cannot_mean(wrong: dict[str, Any]) -> None:
    told = Gaussian(1.0, 0.5).denoiser()
    with pytest.raises(ValueError, match="finite scale, an interval"):
        classifier_free(told, told, **{"scale": 2.0, **wrong})


# Velocity fields


@settings(max_examples=10)
@given(EACH_SCHEDULE, INNER, SCALES)
def test_velocity_fields_are_guided_like_denoisers(schedule: Schedule, level: float, scale: float) -> None:
    told, free = Gaussian(1.0, 0.5, schedule), GaussianMixture(draw(7, 2), [0.4, 1.0, 0.7], schedule=schedule)
    noisy, known = draw(8, 2), draw(9, 2)
    mask, eps = torch.tensor([[True, False]] * 3), draw(10, 2)
    there = torch.where(mask, add_noise(known, eps, level, schedule), noisy)

    def guides(one: Denoiser, other: Denoiser) -> list[Denoiser]:
        return [
            classifier_free(one, other, scale),
            reconstruction_guided(other, shown(mask)(known), shown(mask), 2.0),
            replaced(other, known, mask, eps),
        ]

    fields = [flow_denoiser(oracle.denoiser(), schedule) for oracle in (told, free)]
    for field, denoiser in zip(guides(*fields), guides(told.denoiser(), free.denoiser()), strict=True):
        assert field.predicts == "velocity"
        torch.testing.assert_close(field(level, there), denoiser(level, there), atol=1e-8, rtol=1e-8)


def test_a_plain_velocity_field_goes_along_straight_paths_and_mixes_as_it_is() -> None:
    one, other = (flow_denoiser(lambda level, noisy, c=c: c * noisy * (1 + level)) for c in (1.0, -2.0))
    assert one.schedule == LinearPath()
    noisy = draw(11, 2)
    torch.testing.assert_close(classifier_free(one, other, 3.0)(0.5, noisy), (-2 + 3 * 3) * 1.5 * noisy)


# Reconstruction guidance


@settings(max_examples=15)
@given(EACH_SCHEDULE, EACH_PREDICTION, INNER, st.floats(0.0, 5.0), SEEDS)
def test_the_clean_data_move_by_the_published_term(
    schedule: Schedule, predicts: Prediction, level: float, weight: float, seed: int
) -> None:
    data = GaussianMixture(draw(seed, 2, 2), [0.5, 0.9, 0.7], schedule=schedule)
    noisy, known = draw(seed + 1, 2, 2), draw(seed + 2, 2, 2)
    mask = torch.tensor([[True, False], [False, True], [False, False]])
    plain = data.denoiser(predicts)

    def error(at: Tensor) -> Tensor:
        return (shown(mask)(known) - shown(mask)(plain.clean(at, level))).square().flatten(1).sum(1)

    slope = torch.zeros_like(noisy)
    for place in range(4):
        moved = torch.zeros_like(noisy)
        moved.flatten(1)[:, place] = 1e-5
        slope.flatten(1)[:, place] = (error(noisy + moved) - error(noisy - moved)) / 2e-5
    guided = reconstruction_guided(plain, shown(mask)(known), shown(mask), weight)
    expected = plain.clean(noisy, level) - weight * schedule.signal(level) / 2 * slope
    torch.testing.assert_close(guided.clean(noisy, level), expected, atol=1e-5, rtol=1e-5)
    assert (guided.predicts, guided.schedule) == (predicts, schedule)
    assert torch.equal(guided.ask(noisy, level)[2], plain.ask(noisy, level)[2])


@settings(max_examples=15)
@given(EACH_SCHEDULE, EACH_PREDICTION, INNER, SEEDS)
def test_with_the_exact_weight_it_is_the_posterior_mean(
    schedule: Schedule, predicts: Prediction, level: float, seed: int
) -> None:
    covariance = some_covariance(seed)
    signal, noise = schedule.signal(level), schedule.noise(level)
    noisy, known = draw(seed + 1, 3), draw(seed + 2, 1)
    weight = exact_weight(covariance, schedule)
    guided = reconstruction_guided(
        correlated(covariance, schedule, predicts), known, lambda clean: clean[:, :1], lambda at: weight(at)
    )
    # The first entry is known, so its noisy value tells no more.
    told = torch.cat((known, noisy[:, 1:]), dim=1)
    map_ = torch.diag(torch.tensor([1.0, signal, signal], dtype=DOUBLE))
    heard = map_ @ covariance @ map_ + torch.diag(torch.tensor([0.0, noise**2, noise**2], dtype=DOUBLE))
    mean = told @ torch.linalg.solve(heard, map_ @ covariance)
    torch.testing.assert_close(guided.clean(noisy, level), mean, atol=1e-7, rtol=1e-7)


@settings(max_examples=15)
@given(EACH_SCHEDULE, INNER, st.floats(0.3, 2.0))
def test_gaussian_weights_are_exact_for_independent_entries(schedule: Schedule, level: float, deviation: float) -> None:
    plain = Gaussian(0.3, deviation, schedule).denoiser()
    noisy, known = draw(12, 2, 4, 6), draw(13, 2, 2, 3)
    own = gaussian_weight(deviation**2, schedule)
    guided = reconstruction_guided(plain, known, averaged(2), lambda at: 4 * own(at))
    clean = plain.clean(noisy, level)
    means = clean.reshape(3, 2, 2, 2, 3, 2).mean(dim=(3, 5))
    expected = clean + (known - means).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(guided.clean(noisy, level), expected, atol=1e-8, rtol=1e-8)
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    shot = reconstruction_guided(plain, shown(mask)(noisy), shown(mask), own)
    expected = torch.where(mask[:, :, None, None], noisy, clean)
    torch.testing.assert_close(shot.clean(noisy, level), expected, atol=1e-8, rtol=1e-8)


RHO = 0.9
PAIR = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=DOUBLE)


def second_frame(weight: float | Callable[..., Any] | None, solver: Solver, start: float = 1.0) -> tuple[float, float]:
    """Mean and deviation of the second frame, the first being 1; both are exact, since the flow is affine."""
    known, mask = torch.tensor([[1.0, 0.0]] * 2, dtype=DOUBLE), torch.tensor([[True, False]] * 2)
    inner = correlated(PAIR)
    if weight is not None:
        inner = reconstruction_guided(inner, known, shown(mask), weight)
    signal = ANGLE_UNIFORM.signal(start)
    spread = math.hypot(signal * math.sqrt(1 - RHO**2), ANGLE_UNIFORM.noise(start))
    begin = torch.tensor([[signal, signal * RHO], [signal, signal * RHO + spread]], dtype=DOUBLE)
    guided = replaced(inner, known, mask, torch.zeros_like(known))
    end = solve(guided, begin, [start, 0.0], solver).trajectory.states[:, -1]
    assert end[:, 0].tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    return end[0, 1].item(), (end[1, 1] - end[0, 1]).item()


@pytest.mark.parametrize(
    "solver", [Ddim(substeps=100), DpmSolverPlusPlus(substeps=60), Grid(method="heun2", substeps=60)], ids=repr
)
def test_the_guided_flow_ends_at_the_posterior(solver: Solver) -> None:
    mean, deviation = second_frame(exact_weight(PAIR), solver, 0.98)
    assert mean == pytest.approx(RHO, abs=2e-3)
    assert deviation == pytest.approx(math.sqrt(1 - RHO**2), abs=1e-2)


@pytest.mark.parametrize(
    ("weight", "mean", "deviation"),
    [
        (None, 0.45, 0.66),
        (1.0, 0.59, 0.56),
        (2.0, 0.70, 0.48),
        (5.0, 0.94, 0.30),
        (10.0, 1.13, 0.13),
        (gaussian_weight(), 0.85, 0.47),
    ],
)
def test_constant_weights_are_biased_as_the_documentation_says(
    weight: float | Callable[..., Any] | None, mean: float, deviation: float
) -> None:
    found = second_frame(weight, Grid(method="heun2", substeps=80))
    assert found == pytest.approx((mean, deviation), abs=6e-3)


@pytest.mark.parametrize("schedule", [AngleUniform(), LinearPath()])
@pytest.mark.parametrize("weight", [2.0, "gaussian"])
def test_at_both_ends_the_term_is_left_out(schedule: Schedule, weight: float | str) -> None:
    plain = Gaussian(0.3, 0.8, schedule).denoiser("velocity")
    rule = gaussian_weight(0.64, schedule) if isinstance(weight, str) else weight
    guided = reconstruction_guided(plain, draw(14, 4), lambda clean: clean, rule)
    noisy = draw(15, 4)
    for level in (0.0, 1.0):
        assert torch.equal(guided.ask(noisy, level), plain.ask(noisy, level))
    levels = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)
    found = guided.ask(noisy, levels)
    assert torch.equal(found[::2], plain.ask(noisy, levels)[::2])
    torch.testing.assert_close(
        found[1:2], reconstruction_guided(plain, draw(14, 4)[1:2], lambda clean: clean, rule).ask(noisy[1:2], 0.5)
    )


class Net(nn.Module):
    """A small network of clips."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, noisy: Tensor, level: Any) -> Tensor:
        return self.layers(noisy.flatten(0, 1)).unflatten(0, noisy.shape[:2]) + noisy.mean(dim=1, keepdim=True)


def test_gradients_are_taken_whatever_the_caller_tracks_and_pass_where_it_tracks_them() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    noisy, known = (draw(seed, 3, 2, 4, 4, batch=2).float() for seed in (16, 17))
    mask = torch.tensor([True, False, False]).expand(2, 3)
    guided = reconstruction_guided(Denoiser(net), shown(mask)(known), shown(mask), 3.0)
    tracked = guided.clean(noisy, 0.5)
    assert tracked.dtype == torch.float32
    with torch.no_grad():
        untracked = guided.clean(noisy, 0.5)
    assert not untracked.requires_grad
    with torch.inference_mode():
        inferred = guided.clean(noisy, 0.5)
    torch.testing.assert_close(untracked, tracked.detach())
    torch.testing.assert_close(inferred.clone(), tracked.detach())
    assert not torch.allclose(tracked, Denoiser(net).clean(noisy, 0.5), atol=1e-3)
    assert all(parameter.grad is None for parameter in net.parameters())
    alone = reconstruction_guided(Denoiser(net), shown(mask)(known)[1:], shown(mask[1:]), 3.0)
    torch.testing.assert_close(alone.clean(noisy[1:], 0.5), tracked[1:])
    at = noisy.double().requires_grad_()
    double = reconstruction_guided(Denoiser(net.double()), shown(mask)(known).double(), shown(mask), 3.0)
    assert torch.autograd.gradcheck(lambda x: double.clean(x, 0.5)[:, 0].sum(), (at,))
    (slope,) = torch.autograd.grad(double.clean(at, 0.5).sum(), net.layers[0].weight)
    assert slope.abs().sum() > 0


def test_a_network_that_ignores_its_input_is_not_guided() -> None:
    steady = Denoiser(lambda noisy, level: torch.ones(2, 3).requires_grad_(), "clean")
    found = reconstruction_guided(steady, torch.zeros(2, 3), lambda clean: clean).clean(torch.zeros(2, 3), 0.5)
    assert torch.equal(found, torch.ones(2, 3))


def test_reconstruction_guidance_refuses_what_does_not_fit() -> None:
    plain = Gaussian(0.0, 1.0).denoiser()
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            reconstruction_guided(plain, torch.zeros(2, 1), lambda clean: clean, weight)
    with pytest.raises(ValueError, match=r"Known has shape \(2, 1\), but what is measured \(2, 3\)"):
        reconstruction_guided(plain, torch.zeros(2, 1), lambda clean: clean).ask(torch.zeros(2, 3), 0.5)
    with pytest.raises(ValueError, match="side of at least one"):
        averaged(0)
    with pytest.raises(ValueError, match="2 x 2 pixels do not divide 3 x 4"):
        averaged(2)(torch.zeros(1, 3, 4))
    for variance in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="variance is positive"):
            gaussian_weight(variance)


# Replacement


@settings(max_examples=12)
@given(EACH_SCHEDULE, EACH_PREDICTION, INNER, SEEDS)
def test_known_entries_are_asked_at_their_level_and_answered_by_the_truth(
    schedule: Schedule, predicts: Prediction, level: float, seed: int
) -> None:
    plain = correlated(some_covariance(seed), schedule, predicts)
    known, eps, noisy = (draw(seed + n, 3) for n in (1, 2, 3))
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    held = replaced(plain, known, mask, eps)
    there = torch.where(mask, add_noise(known, eps, level, schedule), noisy)
    found = held.clean(there, level)
    torch.testing.assert_close(found[mask], known[mask], atol=1e-7, rtol=1e-7)
    assert torch.equal(held.ask(noisy, level)[~mask], plain.ask(there, level)[~mask])
    elsewhere = torch.where(mask, known, 7.0), torch.where(mask, eps, -3.0)
    assert torch.equal(replaced(plain, elsewhere[0], mask, elsewhere[1]).ask(noisy, level), held.ask(noisy, level))


@pytest.mark.parametrize("solver", [Ddim(substeps=7), Grid(method="rk4", substeps=20)], ids=repr)
def test_a_solution_has_the_known_frames_at_their_level_and_ends_on_them(solver: Solver) -> None:
    plain = correlated(some_covariance(3, 4))
    known, eps = draw(18, 2, 4), draw(19, 2, 4)
    mask = torch.tensor([[True, False], [False, True], [False, False]])
    states = solve(replaced(plain, known, mask, eps), eps, [1.0, 0.5, 0.0], solver).trajectory.states
    for n, level in enumerate((1.0, 0.5, 0.0)):
        torch.testing.assert_close(states[:, n][mask], add_noise(known, eps, level)[mask], atol=1e-6, rtol=1e-6)
    free = solve(plain, eps, [1.0, 0.5, 0.0], solver).trajectory.states[:, -1]
    torch.testing.assert_close(states[2, -1], free[2], atol=1e-6, rtol=1e-4)


def test_replacement_refuses_other_shapes() -> None:
    plain, clip = Gaussian(0.0, 1.0).denoiser(), torch.zeros(2, 3, 1)
    for known, mask, noise in ((clip, (2, 3), clip[:, :2]), (clip, (2, 2), clip), (clip, (2, 3, 1, 1), clip)):
        with pytest.raises(ValueError, match="need one shape, and the mask its first axes"):
            replaced(plain, known, torch.zeros(mask, dtype=torch.bool), noise)
