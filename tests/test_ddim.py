"""DDIM in the angle (P13): conversions, exactness on a point, and how much it shrinks a Gaussian."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.denoise.ddim import add_noise, clean_from_v, ddim, noise_from_v, v_target
from flowvid.noise import Noise

LEVELS = st.floats(0.0, 1.0) | st.sampled_from([0.0, 1.0])
SEEDS = st.integers(0, 2**31)


def pair(seed: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    noise = Noise.batch(seed, 3)
    return noise.normal("clean", 2, 4, dtype=dtype), noise.normal("noise", 2, 4, dtype=dtype)


def gaussian_v(deviation: float):
    """The exact v of data N(0, deviation^2), with phi the angle.

    x has variance s2 = cos^2 deviation^2 + sin^2, and (x0, eps, x) are jointly normal, hence
    E[x0 | x] = cos deviation^2 x / s2, E[eps | x] = sin x / s2, and v = sin cos (1 - deviation^2) x / s2.
    """

    def v(noisy: Tensor, level: float) -> Tensor:
        sin, cos = math.sin(level * math.pi / 2), math.cos(level * math.pi / 2)
        variance = (cos * deviation) ** 2 + sin**2
        return sin * cos * (1 - deviation**2) / variance * noisy

    return v


def point_v(point: Tensor):
    """The exact v of data that is always ``point``: what is not the point is noise."""

    def v(noisy: Tensor, level: float) -> Tensor:
        sin, cos = math.sin(level * math.pi / 2), math.cos(level * math.pi / 2)
        epsilon = (noisy - cos * point) / sin
        return cos * epsilon - sin * point

    return v


def wavy(noisy: Tensor, level: float) -> Tensor:
    """A smooth field that is no rotation."""
    return torch.sin(1.3 * noisy + 2 * level) + 0.2 * noisy.flip(-1)


# Conversions


@given(SEEDS, LEVELS)
def test_conversions_return_at_every_level(seed: int, level: float) -> None:
    clean, epsilon = pair(seed)
    noisy, v = add_noise(clean, epsilon, level), v_target(clean, epsilon, level)
    torch.testing.assert_close(clean_from_v(noisy, v, level), clean, atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(noise_from_v(noisy, v, level), epsilon, atol=1e-14, rtol=1e-14)


@given(SEEDS, LEVELS)
def test_noising_is_a_rotation(seed: int, level: float) -> None:
    clean, epsilon = pair(seed)
    noisy, v = add_noise(clean, epsilon, level), v_target(clean, epsilon, level)
    torch.testing.assert_close(noisy.square() + v.square(), clean.square() + epsilon.square())
    signal = torch.tensor(level, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(add_noise(clean, epsilon, signal).sum(), signal)
    torch.testing.assert_close(slope, v.sum() * math.pi / 2, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_data_and_noise(dtype: torch.dtype) -> None:
    clean, epsilon = pair(0, dtype=dtype)
    rounding = torch.finfo(dtype).eps
    assert torch.equal(add_noise(clean, epsilon, 0.0), clean)
    assert torch.equal(v_target(clean, epsilon, 0.0), epsilon)
    torch.testing.assert_close(add_noise(clean, epsilon, 1.0), epsilon, atol=rounding, rtol=rounding)
    torch.testing.assert_close(v_target(clean, epsilon, 1.0), -clean, atol=rounding, rtol=rounding)


@given(SEEDS, st.lists(LEVELS, min_size=3, max_size=3))
def test_every_sample_can_have_its_own_level(seed: int, levels: list[float]) -> None:
    clean, epsilon = pair(seed)
    together = torch.tensor(levels, dtype=torch.float64)
    for convert in (add_noise, v_target, clean_from_v, noise_from_v):
        alone = [convert(clean[i : i + 1], epsilon[i : i + 1], level) for i, level in enumerate(levels)]
        torch.testing.assert_close(convert(clean, epsilon, together), torch.cat(alone), atol=1e-15, rtol=1e-15)


# Steps


@given(SEEDS, st.floats(0.0, 1.0))
def test_p13_one_step_with_the_exact_v_is_the_data(seed: int, level: float) -> None:
    clean, epsilon = pair(seed)
    noisy, v = add_noise(clean, epsilon, level), v_target(clean, epsilon, level)
    found = ddim(lambda x, at: v, noisy, steps=1, start=level)
    torch.testing.assert_close(found, clean, atol=1e-14, rtol=1e-14)


@given(SEEDS, st.integers(1, 60), st.floats(0.1, 1.0), st.floats(0.0, 1.0))
def test_p13_is_exact_on_a_point_for_any_number_of_steps(seed: int, steps: int, start: float, part: float) -> None:
    point, epsilon = pair(seed)
    stop = start * part
    found = ddim(point_v(point), add_noise(point, epsilon, start), steps=steps, start=start, stop=stop)
    torch.testing.assert_close(found, add_noise(point, epsilon, stop), atol=1e-10, rtol=1e-10)


@given(st.integers(1, 200))
def test_p13_a_gaussian_shrinks_by_the_stated_factor(steps: int) -> None:
    noisy = pair(0)[1]
    found = ddim(gaussian_v(1.0), noisy, steps=steps)
    torch.testing.assert_close(found, math.cos(math.pi / (2 * steps)) ** steps * noisy, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.0])
def test_p13_the_missing_deviation_falls_as_one_over_the_steps(deviation: float) -> None:
    counts = [64, 128, 256, 512, 1024]
    one = torch.ones(1, dtype=torch.float64)
    reached = np.array([ddim(gaussian_v(deviation), one, steps=steps).item() for steps in counts])
    slope = np.polyfit(np.log(counts), np.log(np.abs(reached / deviation - 1)), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)
    assert (reached < deviation).all()


def test_p13_the_constant_of_the_rate() -> None:
    one = torch.ones(1, dtype=torch.float64)
    missing = 1 - ddim(gaussian_v(1.0), one, steps=1000).item()
    assert 1000 * missing == pytest.approx(math.pi**2 / 8, rel=2e-3)


@given(SEEDS, st.integers(1, 12), st.floats(0.02, 0.98), st.floats(0.0, 0.98))
def test_equals_the_algebraic_form(seed: int, steps: int, start: float, stop: float) -> None:
    """x' = alpha' (x - sigma eps) / alpha + sigma' eps, with eps = sigma x + alpha v."""
    noisy = pair(seed)[0]
    expected = noisy
    levels = np.linspace(start, stop, steps + 1)
    for level, following in pairwise(levels):
        alpha, sigma = (math.cos(level * math.pi / 2), math.sin(level * math.pi / 2))
        epsilon = sigma * expected + alpha * wavy(expected, float(level))
        data = (expected - sigma * epsilon) / alpha
        expected = math.cos(following * math.pi / 2) * data + math.sin(following * math.pi / 2) * epsilon
    found = ddim(wavy, noisy, steps=steps, start=start, stop=stop)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@given(st.integers(1, 50), LEVELS, LEVELS)
def test_the_field_is_asked_once_a_step_at_equal_levels(steps: int, start: float, stop: float) -> None:
    asked = []

    def v(noisy: Tensor, level: float) -> Tensor:
        asked.append(level)
        return torch.zeros_like(noisy)

    ddim(v, torch.ones(1, 2), steps=steps, start=start, stop=stop)
    assert asked[0] == start
    assert len(asked) == steps
    assert asked == pytest.approx(np.linspace(start, stop, steps + 1)[:-1], abs=1e-12)


@given(SEEDS, st.integers(1, 8), st.integers(1, 8))
def test_parts_of_the_way_compose(seed: int, first: int, second: int) -> None:
    noisy = pair(seed)[0]
    middle = 1 - first / (first + second)
    half = ddim(wavy, noisy, steps=first, stop=middle)
    found = ddim(wavy, half, steps=second, start=middle)
    torch.testing.assert_close(found, ddim(wavy, noisy, steps=first + second), atol=1e-11, rtol=1e-11)


@given(SEEDS, st.integers(1, 10), LEVELS, LEVELS)
def test_noising_and_denoising_with_a_constant_pair_return(seed: int, steps: int, start: float, stop: float) -> None:
    assume(start != stop)
    clean, epsilon = pair(seed)

    def v(noisy: Tensor, level: float) -> Tensor:
        return v_target(clean, epsilon, level)

    there = ddim(v, add_noise(clean, epsilon, start), steps=steps, start=start, stop=stop)
    torch.testing.assert_close(there, add_noise(clean, epsilon, stop), atol=1e-12, rtol=1e-12)


@given(st.integers(1, 100), st.sampled_from([torch.float32, torch.float64]))
def test_finite_from_pure_noise_with_a_network_that_says_zero(steps: int, dtype: torch.dtype) -> None:
    noisy = pair(0, dtype=dtype)[1]
    found = ddim(lambda x, level: torch.zeros_like(x), noisy, steps=steps)
    assert found.isfinite().all()
    assert found.dtype == dtype
    assert (found.abs() <= noisy.abs()).all()


def test_a_way_of_no_length_changes_nothing() -> None:
    noisy = pair(0)[0]
    assert torch.equal(ddim(wavy, noisy, steps=3, start=0.4, stop=0.4), noisy)


@pytest.mark.parametrize("steps", [0, -1])
def test_refuses_no_steps(steps: int) -> None:
    with pytest.raises(ValueError, match=f"at least one step; got {steps}"):
        ddim(wavy, torch.ones(1, 2), steps=steps)


@pytest.mark.parametrize(("start", "stop"), [(1.1, 0.0), (1.0, -0.1), (math.nan, 0.0), (1.0, math.inf)])
def test_refuses_levels_outside_their_range(start: float, stop: float) -> None:
    with pytest.raises(ValueError, match=rf"Noise levels lie in \[0, 1\].*start={start}, stop={stop}"):
        ddim(wavy, torch.ones(1, 2), steps=1, start=start, stop=stop)
