"""Recursive bisection against a plain recursion on one sample, and its error propositions (P11, P12)."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.solve.bisect import Bisection, bisect

Pair = tuple[float, Tensor, bool]


def recursively(midpoint: Callable, left: Pair, right: Pair, times: list[float], options: Bisection, level: int = 0):
    """The founding recursion: one pair, one sample; a list of (time, state) from left to right, and evaluations."""
    wanted = any(left[0] + 1e-9 < time < right[0] - 1e-9 for time in times)
    if level == options.depth or not wanted or right[0] - left[0] <= options.shortest + 1e-9:
        return [left[:2], right[:2]], 0
    gap = torch.tensor([right[0] - left[0]], dtype=torch.float64)
    flags = (torch.tensor([left[2]]), torch.tensor([right[2]]))
    middle = (left[0] + right[0]) / 2, midpoint(left[1][None], right[1][None], gap, *flags)[0], True
    surplus = float((middle[1] - (left[1] + right[1]) / 2).square().mean().sqrt())
    if options.tolerance is not None and surplus <= options.tolerance and level + 1 >= options.minimum_depth:
        return [left[:2], middle[:2], right[:2]], 1
    before, first = recursively(midpoint, left, middle, times, options, level + 1)
    after, second = recursively(midpoint, middle, right, times, options, level + 1)
    return before + after[1:], 1 + first + second


def read(points: list[tuple[float, Tensor]], time: float) -> Tensor:
    """Linear interpolation of (time, state) pairs."""
    for (start, first), (stop, last) in pairwise(points):
        if time <= stop + 1e-9:
            return first + (last - first) * (time - start) / (stop - start)
    raise AssertionError(f"{time} is not covered")


def random_rule(seed: int, size: int) -> Callable:
    """A midpoint rule that depends on both ends, the gap, and which velocities are known."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, size, size, generator=generator, dtype=torch.float64)

    def midpoint(left: Tensor, right: Tensor, gap: Tensor, left_moving: Tensor, right_moving: Tensor) -> Tensor:
        flags = 1 + 0.5 * left_moving.double() - 0.3 * right_moving.double()
        bend = torch.tanh(left @ first) - torch.tanh(right @ second)
        return (left + right) / 2 + 0.3 * (gap * flags)[:, None] * bend

    return midpoint


@st.composite
def options(draw: st.DrawFn) -> Bisection:
    depth = draw(st.integers(0, 5))
    return Bisection(
        depth=depth,
        minimum_depth=draw(st.integers(0, depth)),
        tolerance=draw(st.sampled_from([None, 0.0, 0.02, 0.1, 0.5])),
        shortest=draw(st.sampled_from([0.0, 0.1, 0.3])),
    )


@given(st.data(), options(), st.integers(0, 2**32 - 1))
def test_batched_levels_equal_the_recursion_sample_by_sample(data: st.DataObject, how: Bisection, seed: int) -> None:
    ticks = data.draw(st.lists(st.integers(0, 20), min_size=2, max_size=4, unique=True).map(sorted))
    known = [0.1 * tick for tick in ticks]
    shares = data.draw(st.lists(st.integers(0, 64), min_size=1, max_size=9, unique=True).map(sorted))
    times = [known[0] + (known[-1] - known[0]) * share / 64 for share in shares]
    moving = data.draw(st.lists(st.booleans(), min_size=len(known), max_size=len(known)))
    states = torch.randn(3, len(known), 2, generator=torch.Generator().manual_seed(seed % 1000), dtype=torch.float64)
    midpoint, asked, calls = random_rule(seed, 2), 0, []

    def counted(*query: Tensor) -> Tensor:
        calls.append(len(query[0]))
        return midpoint(*query)

    found, evaluations, depth = bisect(counted, known, states, moving, times, options=how)
    for sample in range(3):
        points: list[tuple[float, Tensor]] = []
        for i in range(len(known) - 1):
            ends = [(known[j], states[sample, j], moving[j]) for j in (i, i + 1)]
            more, count = recursively(midpoint, *ends, times, how)
            points, asked = points + more[bool(points) :], asked + count
        expected = torch.stack([read(points, time) for time in times])
        assert torch.allclose(found[sample], expected, atol=1e-9)
    assert evaluations == pytest.approx(asked / 3)
    assert sum(calls) == asked
    assert len(calls) == depth


@given(st.integers(1, 8), st.integers(0, 1000))
def test_every_frame_of_a_clip_takes_logarithmic_depth(power: int, seed: int) -> None:
    times, calls = [float(n) for n in range(2**power + 1)], []
    states = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def midpoint(left: Tensor, right: Tensor, *_: Tensor) -> Tensor:
        calls.append(len(left))
        return left + right

    found, evaluations, depth = bisect(midpoint, [0.0, times[-1]], states, [True, False], times, options=Bisection())
    assert depth == len(calls) == power
    assert calls == [2 * 2**level for level in range(power)]
    assert evaluations == 2**power - 1
    assert torch.equal(found[:, [0, -1]], states)


@given(st.integers(1, 6), st.floats(0.0, 1.0))
def test_times_between_midpoints_are_linear(depth: int, share: float) -> None:
    states = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)

    def midpoint(left: Tensor, right: Tensor, gap: Tensor, *_: Tensor) -> Tensor:
        return (left + right) / 2 + gap[:, None] ** 2

    cell = 2.0**-depth
    index = min(math.floor(share / cell), 2**depth - 1)
    grid = [cell * (index + 1 / 2), cell * index, cell * (index + 1), share]
    found, _, _ = bisect(midpoint, [0.0, 1.0], states, [True, True], grid, options=Bisection(depth=depth))
    inner, left, right, asked = found[0, :, 0].tolist()
    assert inner == pytest.approx((left + right) / 2)
    assert asked == pytest.approx(left + (right - left) * (share / cell - index), abs=1e-8)


def test_a_sample_that_stops_leaves_the_others_as_they_are() -> None:
    states = torch.stack((torch.zeros(2, 2), torch.ones(2, 2))).double()
    times = [n / 16 for n in range(17)]

    def midpoint(left: Tensor, right: Tensor, gap: Tensor, *_: Tensor) -> Tensor:
        return (left + right) / 2 + (left + right) * gap[:, None]

    how = Bisection(depth=6, tolerance=0.01)
    both, evaluations, _ = bisect(midpoint, [0.0, 1.0], states, [True, True], times, options=how)
    alone = [bisect(midpoint, [0.0, 1.0], states[i : i + 1], [True, True], times, options=how) for i in range(2)]
    assert [one[1] for one in alone] == [1, 15]
    assert evaluations == 8
    assert torch.equal(both, torch.cat([one[0] for one in alone]))


def test_the_surplus_is_measured_on_the_observed_part() -> None:
    states, times = torch.zeros(1, 2, 2, dtype=torch.float64), [n / 8 for n in range(9)]

    def midpoint(left: Tensor, right: Tensor, *_: Tensor) -> Tensor:
        return (left + right) / 2 + torch.tensor([0.0, 1.0])

    how = Bisection(tolerance=0.1)
    for part, expected in ((slice(0, 1), 1), (slice(1, 2), 7)):
        observed = lambda state, part=part: state[:, part]  # noqa: E731
        found = bisect(midpoint, [0.0, 1.0], states, [True, True], times, options=how, observed=observed)
        assert found[1] == expected


@pytest.mark.parametrize(("tolerance", "calls"), [(0.25, 1), (0.249, 15)])
def test_a_surplus_of_exactly_the_tolerance_stops(tolerance: float, calls: int) -> None:
    def midpoint(left: Tensor, right: Tensor, *_: Tensor) -> Tensor:
        return (left + right) / 2 + 0.25

    times, states = [n / 16 for n in range(17)], torch.zeros(1, 2, 1)
    found = bisect(midpoint, [0.0, 1.0], states, [True, True], times, options=Bisection(tolerance=tolerance))
    assert found[1] == calls


def worst_errors(levels: int, sign: Callable[[int], int], predict: Callable) -> list[float]:
    """The worst error at every level when each split errs by ``sign(level) * predict(gap)``, with exact ends."""
    times = [n / 2**levels for n in range(2**levels + 1)]

    def midpoint(left: Tensor, right: Tensor, gap: Tensor, *_: Tensor) -> Tensor:
        level = round(-math.log2(gap[0].item()))
        return (left + right) / 2 + sign(level) * predict(gap)[:, None]

    ends = torch.zeros(1, 2, 1, dtype=torch.float64)
    found, _, _ = bisect(midpoint, [0.0, 1.0], ends, [True, True], times, options=Bisection(depth=levels))
    values = found[0, :, 0].abs()
    return [float(values[:: 2 ** (levels - level)].max()) for level in range(levels + 1)]


def test_p11_worst_error_of_averaging_midpoints_is_linear_in_depth() -> None:
    errors = worst_errors(8, lambda level: 1, lambda gap: 0.01 + 0 * gap)
    bounds = [0.01 * (2 / 3 * level + 2 / 9 * (1 - (-1 / 2) ** level)) for level in range(9)]
    assert errors == pytest.approx(bounds, rel=1e-9, abs=1e-12)


@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_p11_no_signs_of_the_errors_are_worse(levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def midpoint(left: Tensor, right: Tensor, *_: Tensor) -> Tensor:
        signs = torch.randint(0, 2, left.shape, generator=generator) * 2 - 1
        return (left + right) / 2 + 0.01 * signs

    times = [n / 2**levels for n in range(2**levels + 1)]
    ends = torch.zeros(4, 2, 1, dtype=torch.float64)
    found, _, _ = bisect(midpoint, [0.0, 1.0], ends, [True, True], times, options=Bisection(depth=levels))
    bound = 0.01 * (2 / 3 * levels + 2 / 9 * (1 - (-1 / 2) ** levels))
    assert float(found.abs().max()) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_p11_the_curvature_form_has_a_bound_without_depth(levels: int) -> None:
    errors = worst_errors(levels, lambda level: 1, lambda gap: 0.01 * gap**2)
    assert max(errors) <= 4 / 3 * 0.01
    assert max(errors) >= 0.01


@pytest.mark.parametrize(("minimum_depth", "calls", "error"), [(0, 1, 1.0), (1, 1, 1.0), (2, 15, 0.0)])
def test_p12_the_stop_rule_is_unsound_without_a_minimum_depth(minimum_depth: int, calls: int, error: float) -> None:
    """Exact midpoints of sin 2 pi t, told apart by a second component that carries the time."""
    times = [n / 16 for n in range(17)]
    states = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)

    def midpoint(left: Tensor, right: Tensor, *_: Tensor) -> Tensor:
        time = (left[:, 1] + right[:, 1]) / 2
        return torch.stack((torch.sin(2 * math.pi * time), time), dim=1)

    how = Bisection(minimum_depth=minimum_depth, tolerance=1e-6)
    found, evaluations, _ = bisect(midpoint, [0.0, 1.0], states, [True, True], times, options=how)
    truth = torch.sin(2 * math.pi * torch.tensor(times, dtype=torch.float64))
    assert evaluations == calls
    assert float((found[0, :, 0] - truth).abs().max()) == pytest.approx(error, abs=1e-12)


def test_low_precision_midpoints_do_not_change_the_type_of_the_states() -> None:
    def midpoint(left: Tensor, right: Tensor, *_: Tensor) -> Tensor:
        return ((left + right) / 2).bfloat16()

    found, _, _ = bisect(midpoint, [0.0, 1.0], torch.ones(1, 2, 3), [True, True], [0.25], options=Bisection(depth=2))
    assert found.dtype == torch.float32


def test_gradients_reach_both_ends() -> None:
    ends = torch.zeros(1, 2, 1, dtype=torch.float64, requires_grad=True)

    def midpoint(left: Tensor, right: Tensor, *_: Tensor) -> Tensor:
        return (left + right) / 2

    found, _, _ = bisect(midpoint, [0.0, 1.0], ends, [True, True], [0.25], options=Bisection(tolerance=1.0))
    found.sum().backward()
    assert ends.grad is not None
    assert ends.grad[0, :, 0].tolist() == [0.75, 0.25]


def test_bisection_cannot_extrapolate() -> None:
    def midpoint(left: Tensor, *_: Tensor) -> Tensor:
        return left

    states = torch.zeros(1, 2, 1)
    with pytest.raises(ValueError, match="cannot extrapolate; only one is known"):
        bisect(midpoint, [0.0], states[:, :1], [True], [0.0], options=Bisection())
    for time in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"in \[0\.0, 1\.0\] s; got {time} s"):
            bisect(midpoint, [0.0, 1.0], states, [True, True], [0.5, time], options=Bisection())


@pytest.mark.parametrize(
    "wrong",
    [{"depth": -1}, {"depth": 2, "minimum_depth": 3}, {"minimum_depth": -1}, {"tolerance": -1.0}, {"shortest": -1.0}],
)
def test_bisection_refuses_impossible_options(wrong: dict) -> None:
    with pytest.raises(ValueError, match="minimum_depth <= depth"):
        Bisection(**wrong)
