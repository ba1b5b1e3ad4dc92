"""Diversity: exact means by enumeration, order statistics of known laws, and closed forms of Gaussian distances."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.metrics.diversity import best_of, coverage, energy_distance, pairwise_distance

FINITE = st.floats(-100, 100)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def folded(mean: float, deviation: float) -> float:
    """E |N(mean, deviation^2)|."""
    ratio = mean / deviation
    return deviation * math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2) + mean * math.erf(ratio / math.sqrt(2))


# Best of N


@given(st.lists(FINITE, min_size=1, max_size=7), st.data())
def test_best_of_n_is_the_mean_of_the_least_over_all_choices(errors: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(errors)))
    choices = [min(choice) for choice in itertools.combinations(errors, count)]
    found = best_of(torch.tensor([errors], dtype=torch.float64), [count])
    assert float(found) == pytest.approx(sum(choices) / len(choices), abs=1e-9)


def test_best_of_n_of_uniform_errors() -> None:
    """The ranks 1..M stand for uniform errors: the least of N is (M + 1) / (N + 1) on average, also for large M."""
    for samples in (1, 10, 1000, 20_000):
        counts = sorted({1, min(2, samples), min(7, samples), samples // 2 or 1, samples})
        ranks = torch.arange(1.0, samples + 1, dtype=torch.float64).flip(0)[None]
        expected = [(samples + 1) / (count + 1) for count in counts]
        assert best_of(ranks, counts)[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_best_of_n_is_unbiased_and_every_clip_is_by_itself() -> None:
    """Exponential errors: the least of N has the mean 1 / N."""
    errors = -torch.log(torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    found = best_of(errors, [1, 2, 4, 8])
    assert found.mean(dim=0).tolist() == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8], rel=0.03)
    assert torch.equal(best_of(errors[5:6], [1, 2, 4, 8]), found[5:6])
    assert bool((found.diff(dim=1) <= 0).all())


@pytest.mark.parametrize("counts", [[], [0], [6], [1, -1]])
def test_best_of_n_refuses_counts_out_of_range(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="1 <= N <= 5"):
        best_of(torch.zeros(2, 5), counts)


# Pairwise distance


@given(st.lists(FINITE, min_size=2, max_size=6))
def test_pairwise_distance_is_the_mean_over_pairs(values: list[float]) -> None:
    pairs = [abs(one - other) for one, other in itertools.combinations(values, 2)]
    found = pairwise_distance(torch.tensor(values, dtype=torch.float64)[None, :, None])
    assert float(found) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)


def test_pairwise_distance_of_a_triangle_and_of_gaussians() -> None:
    triangle = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], [[1.0, 1.0]] * 3])
    assert pairwise_distance(triangle).tolist() == pytest.approx([4.0, 0.0])
    near = 1e6 + torch.tensor([[[0.0], [1e-3]]], dtype=torch.float64).repeat(1, 20, 1)
    assert float(pairwise_distance(near)) == pytest.approx(1e-3 * 20 / 39, rel=1e-5)
    found = pairwise_distance(0.3 * normal(0, 400, 20, 1) + 1e6)
    assert float(found.mean()) == pytest.approx(0.3 * 2 / math.sqrt(math.pi), rel=0.02)


# Coverage


def test_coverage_counts_the_futures_with_a_sample_within_the_radius() -> None:
    futures = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]])
    samples = torch.tensor([[[3.0, 4.0], [10.0, 1.0], [9.0, 0.0], [50.0, 50.0]]])
    for radius, expected in ((0.99, 0.0), (1.0, 0.25), (4.9, 0.25), (5.0, 0.5), (6.9, 0.75), (9.3, 1.0)):
        assert coverage(samples, futures, radius=radius).tolist() == [expected]
    assert coverage(futures, futures, radius=1e-9).tolist() == [1.0]


def test_coverage_of_independent_samples_of_equally_likely_futures() -> None:
    modes, samples = 5, 8
    futures = 10 * torch.eye(modes, dtype=torch.float64).expand(4000, -1, -1)
    chosen = torch.randint(modes, (4000, samples), generator=torch.Generator().manual_seed(0))
    found = coverage(futures.gather(1, chosen[:, :, None].expand(-1, -1, modes)), futures, radius=1)
    assert float(found.mean()) == pytest.approx(1 - (1 - 1 / modes) ** samples, abs=0.01)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_coverage_needs_a_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        coverage(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), radius=radius)


def test_coverage_needs_samples_and_futures() -> None:
    for shapes in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match=f"got {shapes[0]} and {shapes[1]}"):
            coverage(torch.zeros(1, shapes[0], 2), torch.zeros(1, shapes[1], 2), radius=1.0)


# Energy distance


def test_energy_distance_of_points_by_hand() -> None:
    """{0, 2} against {1, 5}: cross distances 1, 5, 1, 3 have the mean 2.5; within 2 and 4."""
    found = energy_distance(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [5.0]]]))
    assert found.tolist() == pytest.approx([2 * 2.5 - 2 - 4])


@pytest.mark.parametrize(("shift", "deviation"), [(0.0, 1.0), (1.5, 1.0), (0.5, 3.0)])
def test_energy_distance_of_gaussians_without_bias(shift: float, deviation: float) -> None:
    """E |X - Y| of N(0, 1) and N(shift, deviation^2) is a folded normal; few samples already have the right mean."""
    found = energy_distance(normal(0, 20_000, 3, 1), shift + deviation * normal(1, 20_000, 4, 1))
    expected = 2 * folded(shift, math.hypot(1, deviation)) - 2 * (1 + deviation) / math.sqrt(math.pi)
    spread = float(found.std()) / math.sqrt(20_000)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * spread)
    assert spread < 0.03


@given(st.integers(0, 1000), st.floats(-3, 3))
def test_energy_distance_is_symmetric_and_moves_along(seed: int, shift: float) -> None:
    one, other = normal(seed, 2, 4, 3), normal(seed + 1, 2, 5, 3)
    found = energy_distance(one, other)
    assert torch.allclose(energy_distance(other, one), found)
    assert torch.allclose(energy_distance(one + shift, other + shift), found, atol=1e-9)
    assert torch.allclose(energy_distance(one.unflatten(2, (3, 1)), other.unflatten(2, (3, 1))), found)


# Refusals


@pytest.mark.parametrize(
    "work",
    [
        lambda x: best_of(x[:, :, 0], [1]),
        pairwise_distance,
        lambda x: coverage(x, torch.zeros_like(x), radius=1.0),
        lambda x: coverage(torch.zeros_like(x), x, radius=1.0),
        lambda x: energy_distance(x, torch.zeros_like(x)),
        lambda x: energy_distance(torch.zeros_like(x), x),
    ],
)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(work: Callable[[Tensor], Tensor], wrong: float) -> None:
    values = torch.zeros(2, 3, 2)
    values[1, 2, 0] = wrong
    with pytest.raises(ValueError, match="must be finite"):
        work(values)


def test_one_sample_has_no_distance_to_others() -> None:
    with pytest.raises(ValueError, match="between samples need at least two; got 1"):
        pairwise_distance(torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match="between samples need at least two; got 1"):
        energy_distance(torch.zeros(2, 1, 3), torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="between true samples need at least two; got 1"):
        energy_distance(torch.zeros(2, 5, 3), torch.zeros(2, 1, 3))


def test_inputs_are_left_alone() -> None:
    samples, other = normal(0, 2, 5, 3), normal(1, 2, 4, 3)
    before = samples.clone(), other.clone()
    best_of(samples[:, :, 0], [2])
    pairwise_distance(samples)
    coverage(samples, other, radius=1)
    energy_distance(samples, other)
    assert torch.equal(samples, before[0])
    assert torch.equal(other, before[1])
