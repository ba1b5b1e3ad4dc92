"""Windows: increasing, inside, as many as asked for; rates and gaps by their laws; nothing depends on the batch."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.footage.irregular import Irregular, PoissonTimes, UniformTimes
from flowvid.data.footage.windows import (
    FixedRate,
    RandomRate,
    Span,
    Window,
    WindowLaw,
    extrapolation,
    frames_shown,
    interpolation,
)
from flowvid.noise import Noise

RATES = st.floats(0.1, 120)
FRAMES = st.integers(2, 40)
RATE_LAWS = ("log", "uniform")
# Made in the tests: the check of types draws random numbers of its own, which no strategy may.
LAWS: st.SearchStrategy[Callable[[], WindowLaw]] = st.one_of(
    st.builds(partial, st.just(FixedRate), RATES, st.integers(1, 40)),
    st.builds(partial, st.just(interpolation), RATES, st.integers(3, 20)),
    st.builds(partial, st.just(extrapolation), RATES, st.integers(1, 9), st.integers(1, 9)),
    st.builds(partial, st.just(Irregular), RATES, st.integers(2, 10), st.integers(10, 20)),
    st.builds(
        partial, st.just(RandomRate), FRAMES, st.floats(0.5, 5), st.floats(5, 60), st.sampled_from(("log", "uniform"))
    ),
    st.builds(partial, st.just(RandomRate), FRAMES, beyond_source=st.just(True)),
    st.builds(partial, st.just(PoissonTimes), st.floats(0.01, 50), st.floats(0.1, 20), st.booleans()),
    st.builds(partial, st.just(UniformTimes), FRAMES, st.floats(0.1, 20), st.booleans()),
)
SEEDS = st.integers(-(2**63), 2**63 - 1)


def kolmogorov(sample: Tensor, distribution: Tensor, level: float = 1e-3) -> tuple[float, float]:
    """The greatest distance of the empirical distribution from the true one, and its bound at a level.

    ``distribution`` holds the values of the true distribution function at the points of the sample. By Dvoretzky,
    Kiefer, Wolfowitz and Massart the distance exceeds sqrt(log(2 / level) / 2n) with at most that probability.
    """
    values, n = distribution.sort().values, len(sample)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = max(float((steps[1:] - values).max()), float((values - steps[:-1]).max()))
    return distance, math.sqrt(math.log(2 / level) / (2 * n))


def windows(law: WindowLaw, span: Span, count: int, seed: int = 0) -> list[Window]:
    noise = Noise.batch(seed, count)
    found = [law.draw(span, noise[n : n + 1]) for n in range(count)]
    assert all(window is not None for window in found)
    return [window for window in found if window is not None]


@given(LAWS, st.floats(-5, 5), st.floats(0, 60), st.floats(1, 60), SEEDS)
def test_a_window_lies_inside_and_there_is_one_where_it_fits(
    make: Callable[[], WindowLaw], start: float, seconds: float, fps: float, seed: int
) -> None:
    law = make()
    span = Span(start, start + seconds, fps)
    needed = law.needs(fps)
    assume(needed == math.inf or abs(span.seconds - needed) > 1e-6 * needed)
    window = law.draw(span, Noise.of([seed]))
    assert (window is None) == (span.seconds < needed)
    if window is not None:
        assert bool((window.times.diff() > 0).all())
        assert float(window.times[0]) >= span.start
        assert float(window.times[-1]) <= span.stop + 1e-9 * (1 + abs(span.stop))
        assert window.times.dtype == torch.float64


@given(LAWS, SEEDS, st.lists(SEEDS, max_size=4), st.integers(0, 4))
def test_a_window_does_not_depend_on_its_batch(
    make: Callable[[], WindowLaw], seed: int, others: list[int], place: int
) -> None:
    law = make()
    place = min(place, len(others))
    noise = Noise.of([*others[:place], seed, *others[place:]])
    span = Span(0.0, 1000.0, 30.0)
    one, other = law.draw(span, Noise.of([seed])), law.draw(span, noise[place : place + 1])
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert torch.equal(one.times, other.times)
        assert torch.equal(one.known, other.known)


@given(LAWS)
def test_a_window_is_of_one_sample(make: Callable[[], WindowLaw]) -> None:
    law = make()
    with pytest.raises(ValueError, match="drawn for one sample; got noise of 2"):
        law.draw(Span(0.0, 1000.0, 60.0), Noise.batch(0, 2))


@given(RATES, st.integers(1, 40), SEEDS)
def test_a_fixed_rate_holds_also_where_the_window_fits_exactly(fps: float, frames: int, seed: int) -> None:
    law = FixedRate(fps, frames)
    window = law.draw(Span(1.0, 1.0 + law.needs(25.0), 25.0), Noise.of([seed]))
    assert window is not None
    expected = 1 + torch.arange(frames, dtype=torch.float64) / fps
    torch.testing.assert_close(window.times, expected, rtol=1e-8, atol=1e-12)
    assert not window.known.any()


def test_starts_are_uniform_over_the_places_where_a_window_fits() -> None:
    for law in (FixedRate(4.0, 5), UniformTimes(2, 1.0, ends=True), PoissonTimes(2.0, 1.0, ends=True), Irregular(19.0)):
        starts = torch.stack([window.times[0] for window in windows(law, Span(3.0, 9.0, 25.0), 150)])
        distance, bound = kolmogorov(starts, (starts - 3) / 5)
        assert distance < bound, law
        # All of 150 miss a twentieth with a chance of 0.95 ** 150 = 5e-4.
        assert float(starts.min()) < 3.25, law
        assert float(starts.max()) > 7.75, law


# Rates


@given(FRAMES, st.floats(1, 60), st.floats(0.1, 60), st.sampled_from(("log", "uniform")), st.booleans(), SEEDS)
def test_a_random_rate_stays_in_its_range(
    frames: int, source: float, seconds: float, law: str, beyond: bool, seed: int
) -> None:
    window = RandomRate(frames, 1.0, 30.0, law, beyond).draw(Span(0.0, seconds, source), Noise.of([seed]))
    if window is not None:
        steps = window.times.diff()
        assert float(steps.max() - steps.min()) < 1e-9 * (1 + seconds)
        rate = 1 / float(steps.mean())
        assert 1 - 1e-6 <= rate <= (30 if beyond else min(30, source)) * (1 + 1e-6)


@pytest.mark.parametrize("law", ["log", "uniform"])
@pytest.mark.parametrize(
    ("seconds", "source", "beyond", "low", "high"),
    [
        (100.0, 60.0, False, 1.0, 30.0),
        (100.0, 12.0, False, 1.0, 12.0),
        (100.0, 12.0, True, 1.0, 30.0),
        (2.0, 60.0, False, 4.0, 30.0),
    ],
)
def test_a_random_rate_has_its_law_on_the_rates_that_fit(
    law: str, seconds: float, source: float, beyond: bool, low: float, high: float
) -> None:
    found = windows(RandomRate(9, 1.0, 30.0, law, beyond), Span(0.0, seconds, source), 150)
    rates = torch.stack([1 / window.times.diff().mean() for window in found])
    values, ends = (rates.log(), (math.log(low), math.log(high))) if law == "log" else (rates, (low, high))
    distance, bound = kolmogorov(rates, (values - ends[0]) / (ends[1] - ends[0]))
    assert distance < bound


def test_a_source_slower_than_the_slowest_rate_has_no_window() -> None:
    law = RandomRate(2, 5.0, 30.0)
    assert law.needs(4.0) == math.inf
    assert law.draw(Span(0.0, 1e6, 4.0), Noise.batch(0, 1)) is None
    assert RandomRate(2, 5.0, 30.0, beyond_source=True).draw(Span(0.0, 1e6, 4.0), Noise.batch(0, 1)) is not None


# Poisson times


def test_poisson_gaps_are_independent_and_exponential() -> None:
    """Of 400 expected points the first 100 are cut off with a chance below 1e-60, so their gaps are a sample."""
    found = windows(PoissonTimes(4.0, 100.0, ends=True), Span(0.0, 100.0, 25.0), 40)
    gaps = torch.stack([window.times[:101].diff() for window in found])
    flat = gaps.flatten()
    distance, bound = kolmogorov(flat, -torch.expm1(-4.0 * flat))
    assert distance < bound
    # The correlation of neighbours has variance 1/n under independence.
    first, second = gaps[:, :-1].flatten(), gaps[:, 1:].flatten()
    correlation = torch.corrcoef(torch.stack((first, second)))[0, 1]
    assert abs(float(correlation)) < 3.3 / math.sqrt(len(first))


@pytest.mark.parametrize("spare", [(6, 8), (0, 1)])
@pytest.mark.parametrize("ends", [False, True])
def test_the_number_of_poisson_times_is_poisson_and_their_places_are_uniform(
    ends: bool, spare: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few are drawn at a time. Without ends it is the law given at least one point."""
    monkeypatch.setattr("flowvid.data.footage.irregular._SPARE", spare)
    rate, seconds, count = 0.8, 1.5, 500
    found = windows(PoissonTimes(rate, seconds, ends), Span(2.0, 3.5, 25.0), count)
    inner = [window.times[1:-1] if ends else window.times for window in found]
    m = rate * seconds
    given_one = 1.0 if ends else -math.expm1(-m)
    for number in range(5):
        if number or ends:
            chance = math.exp(-m) * m**number / math.factorial(number) / given_one
            seen = sum(len(times) == number for times in inner) / count
            assert abs(seen - chance) < 3.5 * math.sqrt(chance * (1 - chance) / count), number
    assert ends or min(len(times) for times in inner) == 1
    places = torch.cat(inner)
    distance, bound = kolmogorov(places, (places - 2.0) / seconds)
    assert distance < bound


@pytest.mark.parametrize("law", [PoissonTimes(3.0, 2.0, ends=True), UniformTimes(5, 2.0, ends=True)])
def test_both_ends_are_times_and_given(law: WindowLaw) -> None:
    for window in windows(law, Span(0.0, 9.0, 25.0), 20):
        assert float(window.times[-1] - window.times[0]) == pytest.approx(2.0, abs=1e-12)
        assert window.known.tolist() == [True, *[False] * (len(window) - 2), True]


def test_uniform_times_are_uniform_and_as_many_as_asked_for() -> None:
    for ends in (False, True):
        found = windows(UniformTimes(7, 2.0, ends), Span(1.0, 3.0, 25.0), 200)
        assert {len(window) for window in found} == {7}
        inner = torch.cat([window.times[1:-1] if ends else window.times for window in found])
        distance, bound = kolmogorov(inner, (inner - 1) / 2)
        assert distance < bound


def test_windows_hold_any_number_of_poisson_times() -> None:
    for window in windows(PoissonTimes(1e4, 1.0), Span(0.0, 1.0, 25.0), 3):
        assert abs(len(window) - 1e4) < 400
        assert float(window.times[-1]) > 0.998


# Vid-ODE


def test_vid_ode_windows_give_what_its_protocols_give() -> None:
    span = Span(0.0, 9.0, 25.0)
    (one,), (other,) = windows(interpolation(8.0), span, 1), windows(extrapolation(8.0), span, 1)
    assert one.known.tolist() == [True, False] * 5
    assert other.known.tolist() == [True] * 5 + [False] * 5
    assert extrapolation(8.0, 2, 3).draw(span, Noise.of([0])) is not None
    chosen = torch.stack([window.known for window in windows(Irregular(8.0), span, 300)])
    assert chosen.shape == (300, 20)
    assert chosen[:, 0].all()
    assert chosen[:, -1].all()
    assert chosen.sum(1).tolist() == [10] * 300
    # Eight of eighteen: every frame between the ends is given with chance 4/9, and so is every pair with 28/153.
    assert (chosen[:, 1:-1].double().mean(0) - 4 / 9).abs().max() < 3.9 * math.sqrt(20 / 81 / 300)
    pair = (chosen[:, 1] & chosen[:, 2]).double().mean().item()
    assert abs(pair - 28 / 153) < 3.5 * math.sqrt(28 / 153 * 125 / 153 / 300)


# Frames shown


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=20), st.lists(st.floats(0, 20), min_size=1, max_size=9))
def test_a_frame_is_shown_from_its_time_to_the_next(gaps: list[float], times: list[float]) -> None:
    presented = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)
    wanted = torch.tensor(times, dtype=torch.float64)
    for time, number in zip(wanted, frames_shown(presented, wanted), strict=True):
        assert presented[number] <= time
        assert number == len(gaps) or time < presented[number + 1]
    assert frames_shown(presented, presented - 0.004, slack=0.005).tolist() == list(range(len(presented)))
    assert frames_shown(presented, presented - 0.006, slack=0.005).tolist() == [0, *range(len(gaps))]


def test_a_window_moves_onto_the_frames_that_it_shows() -> None:
    presented = torch.tensor([0.0, 0.1, 0.25, 0.5], dtype=torch.float64)
    window = Window(torch.tensor([0.05, 0.2499, 0.6], dtype=torch.float64), torch.tensor([True, False, False]))
    moved = window.on(presented)
    assert moved.times.tolist() == [0.0, 0.1, 0.5]
    assert window.on(presented, slack=0.001).times.tolist() == [0.0, 0.25, 0.5]
    assert moved.known.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="two of 3 times show one frame"):
        Window(torch.tensor([0.0, 0.11, 0.2], dtype=torch.float64), window.known).on(presented)


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Span(1.0, 0.0, 25.0), "start <= stop"),
        (lambda: Span(0.0, math.inf, 25.0), "finite"),
        (lambda: Span(0.0, 1.0, 0.0), "fps must be finite and above zero; got 0.0"),
        (lambda: FixedRate(0.0, 4), "fps must be"),
        (lambda: FixedRate(8.0, 0), "at least 1 frames; got 0"),
        (lambda: FixedRate(8.0, 4, (4,)), r"must be 0 to 3; got \(4,\)"),
        (lambda: FixedRate(8.0, 4, (-1,)), "must be 0 to 3"),
        (lambda: RandomRate(1), "at least 2 frames"),
        (lambda: RandomRate(4, 9.0, 8.0), "slowest <= fastest; got 9.0 and 8.0"),
        (lambda: RandomRate(4, law="normal"), "log and uniform; got 'normal'"),
        (lambda: RandomRate(4, -1.0), "slowest must be"),
        (lambda: PoissonTimes(0.0, 1.0), "rate must be"),
        (lambda: PoissonTimes(1.0, math.nan), "seconds must be"),
        (lambda: UniformTimes(0, 1.0), "at least 1 frames"),
        (lambda: UniformTimes(1, 1.0, ends=True), "at least 2 frames"),
        (lambda: UniformTimes(4, 0.0), "seconds must be"),
        (lambda: Irregular(8.0, 1), "2 <= given <= frames; got given=1"),
        (lambda: Irregular(8.0, 21), "got given=21, frames=20"),
        (lambda: Irregular(-8.0), "fps must be"),
        (lambda: Window(torch.tensor([0.0, 0.0]).double(), torch.tensor([True, True])), "increase"),
        (
            lambda: Window(torch.tensor([0.0, 1.0]).double(), torch.tensor([True])),
            "one mark for each of 2 times; got 1",
        ),
    ],
)
def test_refuses_what_is_no_window(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
