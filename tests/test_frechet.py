"""Frechet and kernel distances: closed forms, exact merging, what a bootstrap must say, and refusals."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.metrics.frechet import GaussianStatistics, bootstrap_frechet, frechet_distance
from flowvid.metrics.kernel import kernel_distance


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: Tensor, covariance: Tensor, *, count: int = 1000) -> GaussianStatistics:
    return GaussianStatistics(count, mean.double(), covariance.double() * (count - 1))


def distance(one: Tensor, other: Tensor) -> float:
    return frechet_distance(GaussianStatistics.of(one), GaussianStatistics.of(other)).value


# Statistics


def test_statistics_of_features_are_those_of_numpy() -> None:
    features = draws(7, 3) * 2 + 5
    statistics = GaussianStatistics.of(features)
    assert statistics.count == 7
    np.testing.assert_allclose(statistics.mean, features.numpy().mean(axis=0))
    np.testing.assert_allclose(statistics.covariance, np.cov(features.numpy(), rowvar=False))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms(use_true_random=False), st.floats(-1e6, 1e6))
def test_merged_statistics_in_any_order_are_those_of_the_whole(sizes: list[int], random: object, offset: float) -> None:
    features = draws(sum(sizes), 3) + offset
    parts = list(features.split(sizes))
    random.shuffle(parts)
    whole, merged = GaussianStatistics.of(features), GaussianStatistics.over(iter(parts))
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-14, atol=1e-14)
    slack = 1e-14 * sum(sizes) * (1 + abs(offset) * 1e2)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-12, atol=slack)
    torch.testing.assert_close(merged.scatter, merged.scatter.T, rtol=0, atol=0)


def test_merging_is_associative_and_commutative_and_leaves_its_parts() -> None:
    one, two, three = (GaussianStatistics.of(draws(n, 4, seed=n) + n) for n in (1, 5, 9))
    kept = one.mean.clone(), one.scatter.clone()
    left, right = one.merge(two).merge(three), three.merge(two.merge(one))
    torch.testing.assert_close(left.mean, right.mean)
    torch.testing.assert_close(left.scatter, right.scatter)
    assert torch.equal(one.mean, kept[0])
    assert torch.equal(one.scatter, kept[1])


def test_single_precision_features_are_summed_in_double() -> None:
    """The variance of 1e4 + {0, 1} is lost when squares of float32 are subtracted."""
    features = torch.tensor([[1e4], [1e4 + 1]], dtype=torch.float32)
    assert GaussianStatistics.of(features).covariance.item() == pytest.approx(0.5, rel=1e-12)


# Closed forms


@given(st.floats(-3, 3), st.floats(0, 4), st.floats(0, 4))
def test_distance_on_the_line(shift: float, one: float, other: float) -> None:
    """Normal laws of the line: the squared difference of means and of standard deviations."""
    numbers = torch.tensor([[0, one], [shift, other]], dtype=torch.float64)
    laws = [gaussian(mean[None], sd[None, None] ** 2) for mean, sd in numbers]
    found = frechet_distance(*laws)
    assert found.mean_term == pytest.approx(shift**2, abs=1e-9)
    assert found.covariance_term == pytest.approx((one - other) ** 2, abs=1e-9)
    assert found.value == pytest.approx(shift**2 + (one - other) ** 2, abs=1e-9)


@given(st.integers(0, 50))
def test_distance_in_the_plane(seed: int) -> None:
    """tr (S T)^(1/2) of 2 x 2 matrices is the root of tr S T + 2 (det S T)^(1/2)."""
    roots = draws(2, 2, 2, seed=seed)
    one, other = roots[0] @ roots[0].T, roots[1] @ roots[1].T
    trace = math.sqrt(float((one @ other).trace()) + 2 * math.sqrt(float((one @ other).det().clamp(min=0))))
    expected = float(one.trace() + other.trace()) - 2 * trace
    found = frechet_distance(gaussian(torch.zeros(2), one), gaussian(torch.zeros(2), other))
    assert found.value == pytest.approx(expected, abs=1e-7)


def test_distance_of_covariances_that_commute_and_of_one_direction() -> None:
    basis = torch.linalg.qr(draws(5, 5)).Q
    spreads = torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.5], [3.0, 2.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    laws = [gaussian(torch.zeros(5), basis @ torch.diag(spread**2) @ basis.T) for spread in spreads]
    assert frechet_distance(*laws).value == pytest.approx(4 + 0 + 9 + 0 + 0.25)
    a, b = draws(2, 5, seed=3)
    lines = [gaussian(torch.zeros(5), torch.outer(v, v)) for v in (a, b)]
    assert frechet_distance(*lines).value == pytest.approx(float(a @ a + b @ b - 2 * (a @ b).abs()))


def test_narrow_directions_count_beside_wide_ones() -> None:
    laws = [gaussian(torch.zeros(2), torch.diag(torch.tensor([1, narrow**2]))) for narrow in (1e-5, 2e-5)]
    assert frechet_distance(*laws).value == pytest.approx(1e-10, rel=1e-3)


@given(st.integers(0, 50), st.floats(-4, 4), st.floats(0, 3))
def test_equal_shifted_and_scaled_sets(seed: int, shift: float, scale: float) -> None:
    features = draws(12, 4, seed=seed)
    assert distance(features, features) == pytest.approx(0, abs=1e-12)
    assert distance(features, features + shift) == pytest.approx(4 * shift**2, abs=1e-9)
    statistics = GaussianStatistics.of(features)
    second_moment = float(statistics.mean.square().sum() + statistics.covariance.trace())
    assert distance(features, scale * features) == pytest.approx((scale - 1) ** 2 * second_moment, abs=1e-9)


@given(st.integers(0, 50))
def test_distance_is_symmetric_and_blind_to_rotation(seed: int) -> None:
    one, other = draws(9, 4, seed=seed), 1 + 2 * draws(11, 4, seed=seed + 1000)
    turn = torch.linalg.qr(draws(4, 4, seed=seed + 2000)).Q
    assert distance(other, one) == pytest.approx(distance(one, other), rel=1e-9)
    assert distance(one @ turn, other @ turn) == pytest.approx(distance(one, other), rel=1e-9)


def test_equal_sets_of_few_samples_have_no_distance() -> None:
    features = draws(5, 40) * 100
    with pytest.warns(UserWarning, match="5 samples of 40 features is singular"):
        assert distance(features, features) == pytest.approx(0, abs=1e-8)


# What is said and refused


def test_the_counts_are_printed() -> None:
    found = frechet_distance(*(GaussianStatistics.of(draws(count, 2)) for count in (8, 9)))
    assert str(found) == f"{found.value:.4f} (8 and 9 samples of 2 features)"
    assert (found.counts, found.features) == ((8, 9), 2)


def test_the_warning_comes_when_a_covariance_is_singular_and_only_then() -> None:
    enough = GaussianStatistics.of(draws(5, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(enough, enough)
    few = GaussianStatistics.of(draws(4, 4))
    for pair in ((few, enough), (enough, few)):
        with pytest.warns(UserWarning, match="4 samples of 4 features is singular.*more than 4 samples"):
            frechet_distance(*pair)


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
@pytest.mark.parametrize(
    "use", [GaussianStatistics.of, lambda x: kernel_distance(x, x), lambda x: bootstrap_frechet(x, x)]
)
def test_broken_features_are_refused_with_their_number(use: Callable[[Tensor], object], spoil: float) -> None:
    features = draws(6, 3)
    features[1, 2] = features[4, 0] = spoil
    with pytest.raises(ValueError, match="2 of 6 vectors hold NaN or infinity"):
        use(features)


def test_too_few_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one feature vector.*\(0, 3\)"):
        GaussianStatistics.of(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="at least one batch"):
        GaussianStatistics.over(iter([]))
    with pytest.raises(ValueError, match=r"at least one feature vector.*\(3,\)"):
        GaussianStatistics.of(torch.zeros(3))
    with pytest.raises(ValueError, match="at least two samples; got 1"):
        frechet_distance(GaussianStatistics.of(draws(1, 3)), GaussianStatistics.of(draws(9, 3)))
    with pytest.raises(ValueError, match="at least two samples; got 1 and 9"):
        kernel_distance(draws(1, 3), draws(9, 3))
    with pytest.raises(ValueError, match="at least two in each set; got 9 and 1"):
        bootstrap_frechet(draws(9, 3), draws(1, 4, 3))


@pytest.mark.parametrize(
    "compare",
    [
        kernel_distance,
        bootstrap_frechet,
        lambda one, other: frechet_distance(GaussianStatistics.of(one), GaussianStatistics.of(other)),
        lambda one, other: GaussianStatistics.of(one).merge(GaussianStatistics.of(other)),
    ],
)
def test_features_of_different_networks_are_refused(compare: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(ValueError, match="vectors of 3 and 4 numbers"):
        compare(draws(9, 3), draws(9, 4))


def test_the_features_are_left_as_they_were() -> None:
    one, other = draws(9, 3), draws(8, 3, seed=1)
    kept = one.clone(), other.clone()
    distance(one, other)
    kernel_distance(one, other)
    bootstrap_frechet(one, other, resamples=3)
    assert torch.equal(one, kept[0])
    assert torch.equal(other, kept[1])


# Bootstrap


@pytest.mark.filterwarnings("ignore:A covariance of")
@given(st.integers(0, 20), st.sampled_from([(30, 20, 4), (5, 6, 8), (20, 3, 5)]))
def test_the_bootstrapped_distance_is_that_of_the_statistics(seed: int, sizes: tuple[int, int, int]) -> None:
    one, other = draws(sizes[0], sizes[2], seed=seed), 1 + draws(sizes[1], sizes[2], seed=seed + 100)
    found = bootstrap_frechet(one, other, resamples=2)
    assert found.distance.value == pytest.approx(distance(one, other), rel=1e-6)
    assert found.distance.counts == (sizes[0], sizes[1])


def test_a_bootstrap_depends_on_its_seed_alone() -> None:
    sets = draws(20, 3), 1 + draws(25, 3, seed=1)
    one, again, other = (bootstrap_frechet(*sets, resamples=20, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.low != other.low
    assert one.low < one.distance.value < one.high


@pytest.mark.parametrize("video", range(4))
def test_every_video_is_drawn(video: int) -> None:
    features = torch.zeros(4, 1)
    features[video] = 1
    assert bootstrap_frechet(features, torch.zeros(4, 1), resamples=20).standard_error > 0
    assert bootstrap_frechet(torch.zeros(4, 1), features, resamples=20).standard_error > 0


def test_the_standard_error_of_a_shift_is_the_delta_methods() -> None:
    """|m_1 - m_2|^2 of unit normals 3 apart has deviation 6 (1/n + 1/m)^(1/2) at first order."""
    sets = draws(100, 1), 3 + draws(50, 1, seed=1)
    standard = [(features - features.mean()) / features.std() for features in sets]
    found = bootstrap_frechet(standard[0], standard[1] + 3, resamples=600)
    expected = 6 * math.sqrt(1 / 100 + 1 / 50)
    assert found.distance.value == pytest.approx(9)
    assert found.standard_error == pytest.approx(expected, rel=0.15)
    assert found.high - found.low == pytest.approx(2 * 1.96 * expected, rel=0.2)
    narrow = bootstrap_frechet(standard[0], standard[1] + 3, resamples=600, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 * expected, rel=0.25)
    assert narrow.standard_error == found.standard_error


def test_the_excess_of_resamples_is_taken_off_the_quantiles() -> None:
    """Of n numbers -1 and 1 the variance hardly moves: resamples are apart by 2 / n times chi squared of one degree.

    With 30 features the excess is many deviations of a resample, so quantiles left where they are would lie above it.
    """
    signs = torch.tensor([-1.0, 1.0]).repeat(50)[:, None]
    found = bootstrap_frechet(signs, signs, resamples=600)
    assert found.distance.value == pytest.approx(0, abs=1e-12)
    assert found.excess == pytest.approx(2 / 100, rel=0.1)
    many = bootstrap_frechet(draws(60, 30), draws(60, 30), resamples=60)
    assert many.low == 0
    assert many.standard_error < many.high < 4 * many.standard_error < many.excess


def test_vectors_of_one_video_stay_together() -> None:
    """Repeating every vector five times adds no information, and must not narrow the interval."""
    one, other = draws(30, 2), 2 + draws(30, 2, seed=1)
    alone = bootstrap_frechet(one, other, resamples=200)
    repeated = bootstrap_frechet(*(x[:, None].expand(-1, 5, -1) for x in (one, other)), resamples=200)
    assert repeated.standard_error == pytest.approx(alone.standard_error, rel=0.05)
    assert repeated.videos == (30, 30)
    assert repeated.distance.counts == (150, 150)
    assert "over 30 and 30 videos (200 resamples" in str(repeated)


@pytest.mark.parametrize("wrong", [{"resamples": 1}, {"level": 0.0}, {"level": 1.0}])
def test_a_bootstrap_needs_resamples_and_a_level(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="resamples >= 2 and 0 < level < 1"):
        bootstrap_frechet(draws(5, 2), draws(5, 2), **wrong)


def test_a_bootstrap_warns_once_of_few_samples() -> None:
    with pytest.warns(UserWarning, match="4 samples of 4 features") as caught:
        bootstrap_frechet(draws(4, 4), draws(9, 4), resamples=5)
    assert len(caught) == 1


# Kernel distance


@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(1, 4))
def test_kernel_distance_of_two_points(a: float, b: float, features: int) -> None:
    """Constant vectors: k(a, a) + k(b, b) - 2 k(a, b), whatever the number of samples and features."""
    sets = [torch.full((count, features), value, dtype=torch.float64) for count, value in ((3, a), (5, b))]
    expected = (a * a + 1) ** 3 + (b * b + 1) ** 3 - 2 * (a * b + 1) ** 3
    assert kernel_distance(*sets).value == pytest.approx(expected, abs=1e-9)


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    one, other = draws(4, 3), draws(5, 3, seed=1)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    within = [
        sum(kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j)
        / (len(rows) * (len(rows) - 1))
        for rows in (one, other)
    ]
    between = sum(kernel(x, y) for x in one for y in other) / 20
    found = kernel_distance(one, other)
    assert found.value == pytest.approx(sum(within) - 2 * between)
    assert str(found) == f"{found.value:.6g} (4 and 5 samples of 3 features)"
    assert kernel_distance(other, one).value == pytest.approx(found.value)


def test_kernel_distance_is_unbiased() -> None:
    """Averaged over all ways to leave one sample out, an unbiased estimate does not move."""
    one, other = draws(6, 2), draws(7, 2, seed=1) + 1
    rest = [torch.cat((one[:n], one[n + 1 :])) for n in range(6)]
    assert np.mean([kernel_distance(part, other).value for part in rest]) == pytest.approx(
        kernel_distance(one, other).value
    )


def test_kernel_distance_takes_more_rows_than_it_holds_at_once() -> None:
    """On the line E (xy + 1)^3 is a polynomial of moments, so sums over pairs follow from sums of powers."""
    one, other = draws(2500, 1), draws(1100, 1, seed=1) * 1.5
    moments = [[float((rows**power).mean()) for power in (0, 1, 2, 3)] for rows in (one, other)]

    def pairs(a: list[float], b: list[float]) -> float:
        return sum(weight * x * y for weight, x, y in zip((1, 3, 3, 1), a, b, strict=True))

    within = [
        (len(rows) * pairs(m, m) - float(((rows**2 + 1) ** 3).mean())) / (len(rows) - 1)
        for rows, m in zip((one, other), moments, strict=True)
    ]
    assert kernel_distance(one, other).value == pytest.approx(sum(within) - 2 * pairs(*moments), rel=1e-9)
