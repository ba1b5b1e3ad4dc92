"""Noise: a number depends on seed, stream and index alone, and the numbers have the distributions they claim."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.noise import Noise

COUNT = 50_000
WORDS = st.integers(-(2**63), 2**64 - 1)
KINDS = (torch.float32, torch.float64)


def distance(sample: Tensor, cdf: Tensor) -> float:
    """Kolmogorov-Smirnov distance times sqrt(n), of a sample whose distribution function at its points is ``cdf``."""
    n, cdf = sample.numel(), cdf.double().sort().values
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * max((steps[1:] - cdf).max().item(), (cdf - steps[:-1]).max().item())


def correlation(one: Tensor, other: Tensor) -> float:
    return math.sqrt(one.numel()) * torch.corrcoef(torch.stack((one, other)))[0, 1].item()


def draws(noise: Noise) -> list[Tensor]:
    return [noise.normal("a", 3, 5), noise.uniform("a", 7), noise.integers("a", -3, 9, 4)]


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), st.data())
def test_a_sample_does_not_depend_on_its_batch(seeds: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(seeds) - 1))
    whole, alone = Noise.of(seeds), Noise.of([seeds[place]])
    for many, one in zip(draws(whole) + draws(whole.fold("b")), draws(alone) + draws(alone.fold("b")), strict=True):
        assert torch.equal(many[place], one[0])


@settings(deadline=None)
@given(WORDS, st.integers(0, 40), st.integers(0, 40))
def test_a_number_depends_on_its_index_alone(seed: int, count: int, more: int) -> None:
    noise = Noise.of([seed])
    for kind in KINDS:
        for law in (noise.normal, noise.uniform):
            short, long = law("x", count, dtype=kind), law("x", count + more, dtype=kind)
            assert short.shape == (1, count)
            assert short.dtype == kind
            torch.testing.assert_close(short, long[:, :count], rtol=1e-6, atol=1e-6)


def test_batches_grow_without_changing() -> None:
    small, large = Noise.batch(7, 3), Noise.batch(7, 10)
    assert large.seeds[:3] == small.seeds
    assert len(set(large.seeds)) == len(large) == 10
    assert not set(large.seeds) & set(Noise.batch(8, 10).seeds)


def test_parts_of_a_batch() -> None:
    noise = Noise.of([3, 1, 4, 1, 5])
    assert noise[1:3].seeds == (1, 4)
    assert noise[[4, 0]].seeds == (5, 3)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (3, 1, 5), (0,)])
def test_shapes(shape: tuple[int, ...]) -> None:
    noise = Noise.of([1, 2])
    for values in (noise.normal("x", *shape), noise.uniform("x", *shape), noise.integers("x", 0, 5, *shape)):
        assert values.shape == (2, *shape)


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_is_uniform(kind: torch.dtype) -> None:
    within = Noise.of([12]).uniform("u", COUNT, dtype=kind)[0]
    across = Noise.of(range(COUNT)).uniform("u", dtype=kind)
    for sample in (within, across):
        assert distance(sample, sample) < 1.95
        assert abs(correlation(sample[1:], sample[:-1])) < 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [COUNT, COUNT + 1])
def test_normal_is_normal(kind: torch.dtype, count: int) -> None:
    within = Noise.of([12]).normal("n", count, dtype=kind)[0]
    across = Noise.of(range(count)).normal("n", dtype=kind)
    for sample in (within, across, within[::2], within[1::2]):
        assert sample.isfinite().all()
        assert distance(sample, torch.special.ndtr(sample.double())) < 1.95
    assert abs(within.double().var().item() - 1) < 5 * math.sqrt(2 / count)
    assert abs(correlation(within[: count // 2 * 2 : 2], within[1::2])) < 4
    assert abs(correlation(within[: count // 2 * 2 : 2] ** 2, within[1::2] ** 2)) < 4


def test_streams_seeds_and_folds_are_independent() -> None:
    noise, count = Noise.of(range(8)), 10_000
    folds = [noise, noise.fold("a"), noise.fold("b"), noise.fold(1), noise.fold("1"), noise.fold("a").fold("b")]
    values = torch.cat([fold.normal(stream, count) for fold in folds for stream in ("a", "b", "ab")])
    pairs = torch.triu_indices(len(values), len(values), 1)
    scores = torch.corrcoef(values.double())[pairs[0], pairs[1]] * math.sqrt(count)
    assert len(values) == 144
    assert scores.abs().max() < 5.5
    assert distance(scores, torch.special.ndtr(scores)) < 1.95


def test_the_order_of_reading_does_not_matter() -> None:
    noise = Noise.of([9])
    first = noise.normal("a", 4), noise.normal("b", 4)
    second = noise.normal("b", 4), noise.normal("a", 4)
    assert torch.equal(first[0], second[1])
    assert torch.equal(first[1], second[0])
    assert not torch.equal(first[0], first[1])


@settings(deadline=None)
@given(st.integers(-20, 20), st.integers(1, 12))
def test_integers_cover_their_range_evenly(low: int, width: int) -> None:
    values = Noise.of([low, width]).integers("i", low, low + width, 400 * width)
    assert values.dtype == torch.int64
    counts = torch.bincount((values - low).flatten(), minlength=width)
    assert len(counts) == width
    assert (counts - 800).abs().max() < 5 * math.sqrt(800)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("word", "integer"), [(0, -2), (-1, 4), (2**63 - 1, 1), (-(2**63), 1)])
def test_extreme_words_stay_inside_the_open_interval(
    monkeypatch: pytest.MonkeyPatch, word: int, integer: int, kind: torch.dtype
) -> None:
    monkeypatch.setattr(Noise, "_words", lambda self, stream, count, device: torch.full((1, count), word))
    noise = Noise.of([0])
    uniform = noise.uniform("x", 4, dtype=kind)
    assert (uniform > 0).all()
    assert (uniform < 1).all()
    assert noise.normal("x", 4, dtype=kind).isfinite().all()
    assert (noise.integers("x", -2, 5, 4) == integer).all()


def test_words_are_the_published_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "_keys", lambda self, stream: torch.tensor(self.seeds))
    words = [word % 2**64 for word in Noise.of([1234567])._words("x", 3, "cpu")[0].tolist()]
    assert words == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@settings(deadline=None)
@given(WORDS)
def test_seeds_are_words_of_64_bits(seed: int) -> None:
    assert torch.equal(Noise.of([seed]).normal("x", 3), Noise.of([seed + 2**64]).normal("x", 3))


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"non-empty tuple of integer seeds, one per sample; got \(\)"):
        Noise.of([])
    with pytest.raises(ValueError, match="low < high; got low=3, high=3"):
        Noise.of([0]).integers("x", 3, 3, 1)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(st.integers(0, 2**40), min_size=1, max_size=6), st.data())
def test_a_node_depends_on_its_seed_and_number_alone(seeds: list[int], nodes: list[int], data: st.DataObject) -> None:
    sample, node = data.draw(st.integers(0, len(seeds) - 1)), data.draw(st.integers(0, len(nodes) - 1))
    whole = Noise.of(seeds).normal_at("a", nodes, 2, 3)
    assert whole.shape == (len(seeds), len(nodes), 2, 3)
    alone = Noise.of([seeds[sample]]).normal_at("a", [nodes[node]], 2, 3)[0, 0]
    torch.testing.assert_close(whole[sample, node], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_are_normal_and_independent(kind: torch.dtype) -> None:
    values = Noise.of(range(5)).normal_at("n", range(100), 101, dtype=kind)
    assert values.dtype == kind
    for sample in (values, values[..., ::2], values[..., :50], values[:, :, 0]):
        assert distance(sample.flatten(), torch.special.ndtr(sample.flatten().double())) < 1.95
    rows = values.flatten(0, 1).double()
    pairs = torch.triu_indices(len(rows), len(rows), 1)
    for table in (torch.corrcoef(rows), torch.corrcoef(rows.square())):
        scores = table[pairs[0], pairs[1]] * math.sqrt(101)
        assert abs(scores.mean().item()) < 0.02
        assert abs(scores.var().item() - 1) < 0.1
    along = torch.corrcoef(rows.T)[*torch.triu_indices(101, 101, 1)] * math.sqrt(len(rows))
    assert along.abs().max() < 5
    squares = torch.corrcoef(rows.square().T)[*torch.triu_indices(101, 101, 1)] * math.sqrt(len(rows))
    assert abs(squares.var().item() - 1) < 0.1


def test_nodes_of_streams_and_plain_draws_are_different_numbers() -> None:
    noise = Noise.of([1, 2])
    draws = [noise.normal_at("a", range(50), 8), noise.normal_at("b", range(50), 8), noise.normal("a", 400)]
    assert torch.cat([draw.flatten() for draw in draws]).unique().numel() == 3 * 800
    assert torch.equal(noise.normal_at("a", [3, 2**63 + 5], 1)[:, 1], noise.normal_at("a", [5 - 2**63], 1)[:, 0])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)])
def test_nodes_of_any_shape(shape: tuple[int, ...]) -> None:
    for samples in (1, 2):
        for nodes in ([], [4], [1, 9, 4]):
            assert Noise.of(range(samples)).normal_at("x", nodes, *shape).shape == (samples, len(nodes), *shape)
    single, double = (Noise.of([7]).normal_at("x", [4], *shape, dtype=kind) for kind in KINDS)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"float32 or float64; got torch.float16"):
        Noise.of([7]).normal_at("x", [4], dtype=torch.float16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", [0, -1, 2**63 - 1, -(2**63), 2**31, -(2**31)])
def test_extreme_words_make_finite_nodes(monkeypatch: pytest.MonkeyPatch, word: int, kind: torch.dtype) -> None:
    monkeypatch.setattr("flowvid.noise._mix_", lambda words: words.fill_(word))
    assert Noise.of([0]).normal_at("x", [1], 6, dtype=kind).isfinite().all()
