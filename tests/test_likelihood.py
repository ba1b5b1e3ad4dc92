"""Divergences and likelihoods: traces that are known, estimates without bias, densities in closed form."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.denoise.oracles import Gaussian, GaussianMixture, Oracle
from flowvid.denoise.schedule import AngleUniform, LinearPath, Schedule
from flowvid.dynamics.density import apart, signs, with_divergence, with_log_density
from flowvid.models.likelihood import log_likelihood
from flowvid.noise import Noise
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.grid import Grid
from flowvid.solvers import solve

SEEDS = st.integers(0, 2**31)
PRECISE = Adaptive(rtol=1e-6, atol=1e-6)
SCHEDULES = [LinearPath(), AngleUniform()]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracles(schedule: Schedule) -> list[Oracle]:
    mixture = GaussianMixture(normal(3, 2, 2), [0.6, 1.1, 0.8], [0.5, 0.2, 0.3], schedule)
    return [Gaussian(normal(2, 2, seed=4), 0.7, schedule), mixture]


# Divergences


@given(SEEDS)
def test_the_divergence_of_a_linear_field_is_its_trace(seed: int) -> None:
    matrix, state = normal(6, 6, seed=seed), normal(3, 2, 3, seed=seed + 1)
    rate, divergence = with_divergence(lambda z: (z.flatten(1) @ matrix.T).reshape(z.shape), state)
    torch.testing.assert_close(rate, (state.flatten(1) @ matrix.T).reshape(state.shape))
    torch.testing.assert_close(divergence, matrix.trace().expand(3))


def test_each_sample_has_the_divergence_of_its_place() -> None:
    state = normal(4, 3)
    _, divergence = with_divergence(lambda z: z**3 + z.roll(1, 1) ** 2, state)
    torch.testing.assert_close(divergence, 3 * state.square().sum(1))


@given(SEEDS)
@settings(max_examples=10)
def test_over_all_signs_the_estimate_is_the_trace_and_spreads_as_stated(seed: int) -> None:
    matrix, state = normal(4, 4, seed=seed), normal(1, 4, seed=seed + 1)
    every = torch.tensor(list(product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    _, mean = with_divergence(lambda z: z @ matrix.T, state, probes=every[None])
    torch.testing.assert_close(mean[0], matrix.trace())
    each = torch.cat(
        [with_divergence(lambda z: z @ matrix.T, state, probes=probe[None, None])[1] for probe in every.unbind()]
    )
    torch.testing.assert_close(each.var(correction=0), (matrix + matrix.T).triu(1).square().sum())


def test_signs_are_fair_and_belong_to_their_seeds() -> None:
    drawn = signs(Noise.batch(3, 50), 40, 2, 5)
    assert drawn.shape == (50, 40, 2, 5)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(drawn.mean().item()) < 5 / math.sqrt(drawn.numel())
    assert abs((drawn[:, 0] * drawn[:, 1]).mean().item()) < 5 / math.sqrt(drawn.numel() / 40)
    assert torch.equal(signs(Noise.batch(3, 50)[7:8], 40, 2, 5), drawn[7:8])


def test_a_field_that_ignores_the_state_has_no_divergence() -> None:
    state = normal(2, 3)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            assert torch.equal(with_divergence(torch.ones_like, state)[1], torch.zeros(2, dtype=torch.float64))


def test_gradients_pass_where_they_are_recorded_and_nowhere_else() -> None:
    slope = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    state = normal(2, 3).requires_grad_()
    _, divergence = with_divergence(lambda z: slope * z**3, state)
    by_state, by_slope = torch.autograd.grad(divergence.sum(), [state, slope])
    torch.testing.assert_close(by_state, 6 * slope * state)
    torch.testing.assert_close(by_slope, 3 * state.square().sum())
    with torch.no_grad():
        rate, divergence = with_divergence(lambda z: slope * z**3, state)
    assert not rate.requires_grad
    assert not divergence.requires_grad


@pytest.mark.parametrize("shape", [(2, 0, 3), (1, 1, 3), (2, 1, 4), (2, 3)])
def test_probes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Probes have the shape"):
        with_divergence(lambda z: z, normal(2, 3), probes=torch.ones(shape))


@pytest.mark.parametrize("solver", ["rk4", "dopri5", "torchdiffeq:dopri5"])
def test_any_solver_integrates_the_divergence(solver: str) -> None:
    """dz/dt = t A z has the divergence t trace(A), whose integral is trace(A) / 2 over a second."""
    matrix, state = 0.3 * normal(6, 6), normal(3, 2, 3)

    def drift(time: float | Tensor, z: Tensor) -> Tensor:
        return time * (z.flatten(1) @ matrix.T).reshape(z.shape)

    start = torch.cat((state.flatten(1), torch.zeros(3, 1)), 1)
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    joint = solve(with_log_density(drift, (2, 3)), start, times, solver).trajectory.states[:, -1]
    moved, gained = apart(joint, (2, 3))
    torch.testing.assert_close(gained, matrix.trace().expand(3) / 2, rtol=1e-3, atol=1e-4)
    exact = (state.flatten(1) @ torch.linalg.matrix_exp(matrix / 2).T).reshape(3, 2, 3)
    torch.testing.assert_close(moved, exact, rtol=1e-3, atol=1e-3)


def test_joint_states_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="7 numbers"):
        apart(normal(2, 6), (2, 3))


# Likelihoods


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "angle-uniform"])
@pytest.mark.parametrize("predicts", ["velocity", "v"])
def test_likelihoods_are_those_of_the_closed_forms(schedule: Schedule, predicts: str) -> None:
    clean = normal(3, 2, 2, seed=8)
    for oracle in oracles(schedule):
        with torch.no_grad():
            found = log_likelihood(oracle.denoiser(predicts), clean, solver=PRECISE)
        torch.testing.assert_close(found.nats, oracle.log_density(clean, 0.0), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.bits_per_dimension, -found.nats / 4 / math.log(2))


@pytest.mark.parametrize(("predicts", "levels"), [("clean", (1e-3, 1.0)), ("noise", (0.0, 1 - 1e-4))])
def test_predictions_without_an_answer_at_an_end_stop_beside_it(predicts: str, levels: tuple[float, float]) -> None:
    oracle, clean = oracles(AngleUniform())[1], normal(3, 2, 2, seed=8)
    with torch.no_grad():
        found = log_likelihood(oracle.denoiser(predicts), clean, solver=PRECISE, levels=levels)
    torch.testing.assert_close(found.nats, oracle.log_density(clean, levels[0]), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="says nothing"), torch.no_grad():
        log_likelihood(oracle.denoiser(predicts), clean, solver="rk4")


def test_the_default_solver_is_exact_enough() -> None:
    oracle, clean = oracles(LinearPath())[1], normal(5, 2, 2, seed=8)
    with torch.no_grad():
        found = log_likelihood(oracle.denoiser("velocity"), clean)
    torch.testing.assert_close(found.nats, oracle.log_density(clean, 0.0), rtol=0, atol=1e-3)


def test_data_ends_where_the_flow_of_a_gaussian_takes_it() -> None:
    oracle, clean = Gaussian(normal(2, 2, seed=4), 0.7), normal(5, 2, 2, seed=8)
    with torch.no_grad():
        found = log_likelihood(oracle.denoiser("v"), clean, solver=PRECISE)
    torch.testing.assert_close(found.latent, oracle.flow(clean, 0.0, 1.0), rtol=1e-5, atol=1e-5)


def test_estimates_have_the_exact_likelihood_as_their_mean() -> None:
    """The mean over n sets of probes lies within five of its standard errors, which are small."""
    oracle, clean = oracles(LinearPath())[1], normal(1, 2, 2, seed=8)
    flow, solver, copies = oracle.denoiser("velocity"), Grid(method="rk4", substeps=15), 2000
    with torch.no_grad():
        exact = log_likelihood(flow, clean, solver=solver).nats
        many = log_likelihood(flow, clean.expand(copies, 2, 2), Noise.batch(5, copies), solver=solver).nats
        fewer = log_likelihood(flow, clean.expand(400, 2, 2), Noise.batch(5, 400), solver=solver, probes=8).nats
    error = many.std() / math.sqrt(copies)
    assert 1e-4 < error < 0.03
    assert abs(many.mean() - exact) < 5 * error
    assert 0.5 < fewer.std() / (many.std() / math.sqrt(8)) < 2


@given(SEEDS)
@settings(max_examples=5)
def test_a_likelihood_does_not_depend_on_its_batch(seed: int) -> None:
    oracle, clean, noise = oracles(LinearPath())[1], normal(4, 2, 2, seed=seed), Noise.batch(seed, 4)
    with torch.no_grad():
        for given_noise in (None, noise):
            flow, solver = oracle.denoiser("v"), Grid(method="rk4", substeps=4)
            whole = log_likelihood(flow, clean, given_noise, solver=solver)
            alone = log_likelihood(flow, clean[2:3], given_noise and given_noise[2:3], solver=solver)
            torch.testing.assert_close(alone.nats, whole.nats[2:3], rtol=1e-9, atol=1e-9)


def test_a_likelihood_can_be_learned_from() -> None:
    """The derivative with respect to a deviation, by backpropagation through the solve and in closed form."""
    clean = normal(3, 4, seed=2)
    spread = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def flow(level: float, noisy: Tensor) -> Tensor:
        variance = ((1 - level) * spread) ** 2 + level**2
        return noisy * (level - (1 - level) * spread**2) / variance

    nats = log_likelihood(flow, clean, solver=Grid(method="rk4", substeps=40)).nats.sum()
    closed = torch.distributions.Normal(0.0, spread).log_prob(clean).sum()
    torch.testing.assert_close(nats, closed, rtol=1e-5, atol=1e-5)
    found, exact = (torch.autograd.grad(value, spread)[0] for value in (nats, closed))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_evaluations_are_those_of_the_solver() -> None:
    count = 0

    def flow(level: float, noisy: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return -noisy

    with torch.no_grad():
        found = log_likelihood(flow, normal(2, 3), Noise.batch(0, 2), solver=Grid(method="rk4", substeps=3), probes=2)
    assert found.evaluations == count == 12


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(noise=Noise.batch(0, 3)), "one seed for each"),
        (dict(noise=Noise.batch(0, 2), probes=0), "at least one probe"),
        (dict(levels=(1.0, 0.0)), "upward"),
        (dict(levels=(0.0, 1.1)), "upward"),
        (dict(solver="ddim"), "Denoiser"),
    ],
)
def test_what_has_no_likelihood_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        log_likelihood(lambda level, noisy: -noisy, normal(2, 3), **options)
