"""P14, P15 and P16 of the theory on laws that are known: what branching costs, where it breaks consistency, and noise.

Of P15 the worlds' own tests hold the law of conditional means on the tree, and of P16 test_propositions holds the
identity for data of a few points.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.branching import BranchingWorld, flight_of, future_moments, futures
from flowvid.data.worlds.clips import Clip, render_clips
from flowvid.data.worlds.digits import load_glyphs
from flowvid.data.worlds.motions import Flight

WORLD = BranchingWorld(coins=4, speed=(8.0, 12.0), probability=0.3)
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def expected(function: Callable[[Tensor], Tensor], mean: Tensor, deviation: float) -> Tensor:
    """E f(mean + deviation * xi) for standard normal xi, by Gauss and Hermite's quadrature."""
    return (function(mean[..., None] + deviation * NODES) * WEIGHTS).sum(dim=-1)


# P14: regression to the mean.


def drawn_futures(clip: Clip, time: float) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, positions and frames of all futures at a time, given the start."""
    tree = futures(clip, 0.0, time)
    frames = render_clips([future for _, future in tree], [time]).frames[:, 0].double()
    positions = torch.stack([future.positions([time])[0, 0] for _, future in tree])
    return torch.tensor([probability for probability, _ in tree], dtype=torch.float64), positions, frames.flatten(1)


def test_p14_the_energy_that_the_best_prediction_lacks_is_the_trace_of_the_covariance() -> None:
    """In positions against the exact moments, and in frames; before the first coin nothing is missing."""
    lacking = []
    for clip in WORLD.clips(range(3), "train"):
        share, positions, frames = drawn_futures(clip, 3.0)
        moments = future_moments(clip, 0.0, [3.0])
        energy = (share @ positions.square()).sum() - (share @ positions).square().sum()
        torch.testing.assert_close(energy, moments.covariance[0].trace())
        mean = share @ frames
        centred = (frames - mean) * share[:, None].sqrt()
        trace = torch.linalg.svdvals(centred).square().sum()
        missing = (share @ frames.square()).sum() - mean.square().sum()
        torch.testing.assert_close(missing, trace)
        best, other = ((share @ (frames - guess).square()).sum() for guess in (mean, 0.9 * mean + 0.1 * frames[0]))
        torch.testing.assert_close(best, missing)
        torch.testing.assert_close(other - best, 0.01 * (mean - frames[0]).square().sum())
        lacking.append(float(missing / (share @ frames.square()).sum()))
        early = float(flight_of(clip).coin_times()[0]) / 2
        assert len(drawn_futures(clip, early)[0]) == 1
    assert min(lacking) > 0.02


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_p14_uncertain_translation_is_a_gaussian_filter_of_drawn_digits(spread: float) -> None:
    """The expected frame has the spectrum of the frame times exp(-s^2 k^2 / 2), k in radians per pixel."""
    glyph = load_glyphs("train").images[3:4]
    shifts = torch.linspace(-4, 4, 65, dtype=torch.float64) * spread
    weights = torch.softmax(-(shifts**2) / (2 * spread**2), dim=0)

    def spectrum(clips: list[Clip]) -> Tensor:
        frames = render_clips(clips, [0.0]).frames[:, 0, 0].double() + 1
        return torch.fft.rfft(frames.sum(dim=1), dim=-1)

    def drawn(shift: float) -> Clip:
        place = (20.0 + shift, 20.0)
        motion = Flight(place, (0.0, 0.0), (0.0, 0.0), (40.0, 40.0))
        return Clip(glyphs=glyph, motions=(motion,), labels=(0,), canvas=40, scale=2, seed=0)

    mean = (weights[:, None] * spectrum([drawn(shift) for shift in shifts.tolist()])).sum(dim=0)
    still = spectrum([drawn(0.0)])[0]
    k = 2 * math.pi * torch.arange(1, 7, dtype=torch.float64) / 40
    torch.testing.assert_close((mean / still)[1:7].real, torch.exp(-(spread**2) * k**2 / 2), atol=0.03, rtol=0)


@given(st.floats(0.1, 2.0), st.floats(0.05, 2.0), st.floats(0.1, 1.0))
def test_p14_blur_of_an_unknown_velocity_grows_with_the_gap(k: float, gap: float, spread: float) -> None:
    """A wave cos(k (x - v gap)), v ~ N(0, spread^2): its expectation fades as exp(-(spread gap k)^2 / 2)."""
    places = torch.linspace(0, 5, 7, dtype=torch.float64)
    found = expected(lambda place: torch.cos(k * place), places, spread * gap)
    faded = math.exp(-((spread * gap * k) ** 2) / 2)
    torch.testing.assert_close(found, faded * torch.cos(k * places), atol=1e-6, rtol=0)


# P15: regression and self-consistency.


@given(st.floats(0.1, 3.0), st.floats(0.05, 1.0), st.floats(-3.0, 3.0))
def test_p15_the_means_of_an_ornstein_uhlenbeck_process_are_consistent_though_it_is_random(
    rate: float, gap: float, start: float
) -> None:
    z = torch.tensor(start, dtype=torch.float64)
    spread = math.sqrt((1 - math.exp(-2 * rate * gap)) / (2 * rate))

    def mean(state: Tensor) -> Tensor:
        return math.exp(-rate * gap) * state

    twice = math.exp(-2 * rate * gap) * z
    torch.testing.assert_close(expected(mean, mean(z), spread), twice)
    torch.testing.assert_close(mean(mean(z)), twice)
    assert spread > 0.1 * gap


@given(st.floats(-1.0, 1.0), st.floats(0.0, 0.6), st.floats(0.1, 0.9))
def test_p15_the_conflict_is_half_the_curvature_of_the_mean_times_the_variance(
    start: float, spread: float, bend: float
) -> None:
    """Steps z' = z - bend z^2 + spread xi: m_2 = E m(z') as the tower says, and m(m) differs by bend * spread^2."""
    z = torch.tensor(start, dtype=torch.float64)

    def mean(state: Tensor) -> Tensor:
        return state - bend * state.square()

    both = (mean(z) + spread * NODES)[:, None]
    twice = ((both - bend * both.square() + spread * NODES) * WEIGHTS[:, None] * WEIGHTS).sum()
    torch.testing.assert_close(expected(mean, mean(z), spread), twice)
    torch.testing.assert_close(mean(mean(z)) - twice, torch.tensor(bend * spread**2, dtype=torch.float64))


def onward(clip: Clip, middle: float, end: float) -> Tensor:
    """Where the digit of a clip is at the end if it starts afresh from its state in the middle, with its coins left."""
    flight = flight_of(clip)
    tossed = int((flight.coin_times() <= middle).sum())
    assert tossed < len(flight.coins)
    start, velocity = (tuple(values([middle])[0, 0].tolist()) for values in (clip.positions, clip.velocities))
    later = dataclasses.replace(flight, start=start, initial_velocity=velocity, coins=flight.coins[tossed:])
    return dataclasses.replace(clip, motions=(later,)).positions([end - middle])[0, 0]


def test_p15_given_the_coins_going_on_from_the_middle_is_going_there_at_once() -> None:
    """Every future alone is consistent; their mean is not (see test_branching), so a code of the coins settles it."""
    world, met = BranchingWorld(coins=8, speed=(8.0, 12.0)), 0
    for clip in world.clips(range(5), "train"):
        for _, future in futures(clip, 0.0, 4.0):
            tosses = flight_of(future).coin_times()
            if min(abs(float(toss) - 2.0) for toss in tosses) > 1e-3:
                torch.testing.assert_close(onward(future, 2.0, 4.0), future.positions([4.0])[0, 0], atol=1e-6, rtol=0)
                met += 1
    assert met > 20


# P16: noise on the input.


MEANS, DEVIATIONS = torch.tensor([-1.2, 0.7], dtype=torch.float64), torch.tensor([0.3, 0.5], dtype=torch.float64)
SHARES = torch.tensor([0.4, 0.6], dtype=torch.float64)
GRID = torch.linspace(-6, 6, 4001, dtype=torch.float64)


def moved(z: Tensor) -> Tensor:
    return torch.sin(2 * z) + 0.3 * z


def noisy_density(x: Tensor, sigma: float) -> Tensor:
    variances = DEVIATIONS**2 + sigma**2
    return (SHARES * torch.exp(-((x[..., None] - MEANS) ** 2) / (2 * variances)) / variances.sqrt()).sum(dim=-1)


def posterior_mean(function: Callable[[Tensor], Tensor], noisy: float, sigma: float) -> Tensor:
    """E[f(z) | z + sigma xi = noisy] for z of the mixture, on a grid."""
    weight = noisy_density(GRID, 0.0) * torch.exp(-((noisy - GRID) ** 2) / (2 * sigma**2))
    return (weight * function(GRID)).sum() / weight.sum()


@given(st.floats(-2.5, 2.5), st.floats(0.15, 1.0), st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_p16_the_anchored_target_pulls_by_kappa_times_the_score(
    noisy: float, sigma: float, gap: float, share: float
) -> None:
    """Least squares on U + kappa (z - z~) finds E[U | z~] + kappa sigma^2 score; at 1 / gap it is the plain one."""
    kappa = share / gap
    x = torch.tensor(noisy, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(noisy_density(x, sigma).log(), x)
    optimum = posterior_mean(lambda z: (moved(z) - z) / gap + kappa * (z - noisy), noisy, sigma)
    transport = posterior_mean(lambda z: (moved(z) - z) / gap, noisy, sigma)
    torch.testing.assert_close(optimum, transport + kappa * sigma**2 * score, rtol=1e-6, atol=1e-6)
    if share == 1:
        plain = posterior_mean(lambda z: (moved(z) - noisy) / gap, noisy, sigma)
        torch.testing.assert_close(optimum, plain)


def test_p16_least_squares_on_noisy_samples_finds_that_optimum() -> None:
    """Piecewise constants fitted to drawn pairs, against the closed form; without the score they would miss."""
    generator, sigma, gap = torch.Generator().manual_seed(0), 0.4, 0.5
    side = torch.multinomial(SHARES, 200_000, replacement=True, generator=generator)
    normal = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    z = MEANS[side] + DEVIATIONS[side] * normal[0]
    noisy = z + sigma * normal[1]
    missed = []
    for at in (-1.5, -0.5, 0.3, 1.2):
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        (score,) = torch.autograd.grad(noisy_density(x, sigma).log(), x)
        transport = posterior_mean(lambda state: (moved(state) - state) / gap, at, sigma)
        targets = ((moved(z) - noisy) / gap)[(noisy - at).abs() < 0.05]
        error = 5 * float(targets.std()) / math.sqrt(len(targets)) + 0.01
        assert float(targets.mean()) == pytest.approx(float(transport + sigma**2 / gap * score), abs=error)
        missed.append(abs(float(sigma**2 / gap * score)) / error)
    assert max(missed) > 3


@given(st.floats(0.0, 1.5), st.floats(0.01, 0.5), st.floats(0.0, 1.0), st.floats(0.0, 0.05))
def test_p16_off_the_manifold_errors_stay_below_their_bound(
    expansion: float, gap: float, share: float, error: float
) -> None:
    """A line that a flow leaves at rate L: jumps with pull kappa obey E' <= (1 - kappa d) e^(L d) E + eps."""
    kappa = share / gap
    distance, bound = 1.0, 1.0
    for number in range(30):
        pulled = distance - kappa * gap * distance
        distance = abs(pulled * math.exp(expansion * gap) + error * math.cos(number))
        bound = (1 - kappa * gap) * math.exp(expansion * gap) * bound + error
        assert distance <= bound + 1e-9
    factor = (1 - kappa * gap) * math.exp(expansion * gap)
    if factor < 0.8:
        assert distance <= error / (1 - factor) + 0.8**30 + 1e-9
