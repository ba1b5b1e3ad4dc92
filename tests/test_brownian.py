"""Brownian paths: the law of Brownian motion, and the same path whoever asks, when, and in which order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.noise import Noise
from flowvid.solve import brownian
from flowvid.solve.brownian import BrownianPath, _Tree

PATHS = 4000
SEEDS = st.integers(0, 2**63 - 1)


def path(seed: int = 0, size: int = 3, shape: tuple[int, ...] = (2, 3), **options: object) -> BrownianPath:
    settings = {"start": 0.25, "stop": 1.75, "dtype": torch.float64} | options
    return BrownianPath(Noise.batch(seed, size), shape=shape, **settings)


@st.composite
def times(draw: st.DrawFn, start: float = 0.25, stop: float = 1.75) -> list[float]:
    """Distinct times, some dyadic and some not, no two of which share one of 2^12 leaves."""
    leaves = draw(st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=12, unique=True))
    offsets = draw(st.lists(st.sampled_from([0.0, 0.25, 0.3, 0.9]), min_size=len(leaves), max_size=len(leaves)))
    points = [start + (stop - start) * (leaf + offset) / 2**12 for leaf, offset in zip(leaves, offsets, strict=True)]
    return [*points, stop] if draw(st.booleans()) else points


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_covariance_is_the_earlier_of_two_times() -> None:
    moments = [0.0, 0.1, 0.125, 0.3, 1.0, 1.4999, 1.5]
    many = path(size=PATHS, shape=(4,), start=0.0, stop=1.5).at(moments)
    flat = many.transpose(1, 2).flatten(0, 1)
    measured = flat.T @ flat / len(flat)
    expected = torch.minimum(torch.tensor(moments)[:, None], torch.tensor(moments)).double()
    spread = (expected.diagonal()[:, None] * expected.diagonal() + expected**2).sqrt() / math.sqrt(len(flat))
    assert flat.mean(dim=0).abs().max() < 5 * math.sqrt(1.5 / len(flat))
    assert ((measured - expected).abs() <= 5 * spread).all()


@pytest.mark.parametrize(("left", "right", "levels"), [(0.5, 0.5 + 1 / 3, 12), (0.375, 0.75, 2), (1.125, 1.5, 2)])
@pytest.mark.parametrize("fraction", [0.5, 0.25, 1 / 3, 0.9])
def test_between_two_times_it_is_a_bridge(fraction: float, left: float, right: float, levels: int) -> None:
    middle = left + fraction * (right - left)
    many = path(size=PATHS, shape=(4,), start=0.0, stop=1.5, levels=levels)
    before, at, after = many.at([left, middle, right]).unbind(dim=1)
    rest = at - (1 - fraction) * before - fraction * after
    variance = fraction * (1 - fraction) * (right - left)
    assert abs(rest.var().item() / variance - 1) < 5 * math.sqrt(2 / rest.numel())
    for end in (before, after):
        assert abs(torch.corrcoef(torch.stack((rest.flatten(), end.flatten())))[0, 1]) < 5 / math.sqrt(rest.numel())
    kurtosis = (rest**4).mean() / rest.square().mean() ** 2
    assert abs(kurtosis.item() - 3) < 5 * math.sqrt(24 / rest.numel())


def test_increments_are_independent_normals_of_variance_dt() -> None:
    grid = torch.linspace(0.25, 1.75, 101, dtype=torch.float64)
    steps = path(size=500, shape=(4,)).increments(grid).transpose(1, 2).flatten(0, 1) / math.sqrt(0.015)
    assert abs(steps.var().item() - 1) < 5 * math.sqrt(2 / steps.numel())
    correlations = torch.corrcoef(steps.T)[*torch.triu_indices(100, 100, 1)] * math.sqrt(len(steps))
    assert correlations.abs().max() < 5.5
    assert abs(correlations.var().item() - 1) < 0.15


def test_samples_entries_and_seeds_are_independent() -> None:
    one = path(size=40, shape=(5,)).at([0.9]).flatten()
    other = path(seed=1, size=40, shape=(5,)).at([0.9]).flatten()
    assert len(torch.cat((one, other)).unique()) == 400
    grid = torch.linspace(0.25, 1.75, 1025, dtype=torch.float64)
    steps = path(size=6, shape=(2,)).increments(grid).permute(0, 2, 1).flatten(0, 1)
    correlations = torch.corrcoef(steps)[*torch.triu_indices(12, 12, 1)] * 32
    assert correlations.abs().max() < 4.5


def test_second_variation_is_time() -> None:
    total = path(size=2, shape=(8,), levels=12).increments(torch.linspace(0.25, 1.75, 4097).double())
    variation = total.square().sum(dim=1)
    assert (variation - 1.5).abs().max() < 5 * 1.5 * math.sqrt(2 / 4096)


@settings(max_examples=15)
@given(SEEDS, times(), st.randoms(use_true_random=False))
def test_the_path_does_not_depend_on_order_or_company(seed: int, asked: list[float], random: object) -> None:
    whole = path(seed).at(asked)
    shuffled = list(range(len(asked)))
    random.shuffle(shuffled)  # pyrefly: ignore[missing-attribute]
    close(path(seed).at([asked[i] for i in shuffled]), whole[:, shuffled])
    for index, time in enumerate(asked):
        close(path(seed).at([time])[:, 0], whole[:, index])


@settings(max_examples=15)
@given(SEEDS, times(), st.integers(1, 4), st.data())
def test_the_path_does_not_depend_on_the_batch(seed: int, asked: list[float], size: int, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, size - 1))
    whole, alone = (
        path(seed, size),
        BrownianPath(Noise.batch(seed, size)[[row]], 0.25, 1.75, (2, 3), dtype=torch.float64),
    )
    close(whole.at(asked)[row], alone.at(asked)[0])


@settings(max_examples=15)
@given(SEEDS, times(), st.sampled_from([1, 2, 3, 1 << 18]))
def test_walking_is_asking(seed: int, asked: list[float], batch: int) -> None:
    ordered = sorted(asked)
    expected = path(seed).at(ordered).diff(dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brownian, "_BATCH", 18 * batch)
        for direction, sign in ((1, 1), (-1, -1)):
            steps = list(path(seed).walk(ordered[::direction]))
            assert len(steps) == len(ordered) - 1
            for index, step in enumerate(steps[::direction]):
                close(sign * step, expected[:, index])


@settings(max_examples=15)
@given(SEEDS, times())
def test_increments_add_up(seed: int, asked: list[float]) -> None:
    ordered = sorted(asked)
    close(path(seed).increments(ordered).sum(dim=1), path(seed).at([ordered[0], ordered[-1]]).diff(dim=1)[:, 0])
    close(path(seed).increments(ordered[::-1]), -path(seed).increments(ordered).flip(1))


@settings(max_examples=15)
@given(SEEDS, st.integers(1, 8), st.integers(1, 8))
def test_a_finer_path_is_the_same_path_where_the_coarser_one_is_dyadic(seed: int, levels: int, more: int) -> None:
    halves = torch.linspace(0.25, 1.75, 2 ** (levels + 1) + 1, dtype=torch.float64)
    close(path(seed, levels=levels + more).at(halves), path(seed, levels=levels).at(halves))


@settings(max_examples=15)
@given(SEEDS, times())
def test_both_types_hold_the_same_path(seed: int, asked: list[float]) -> None:
    single = path(seed, dtype=torch.float32).at(asked)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), path(seed).at(asked), rtol=1e-4, atol=1e-4)


def test_the_path_starts_at_zero_and_scales_with_time() -> None:
    assert not path().at([0.25]).any()
    short, long = path(start=0.0, stop=1.0), path(start=10.0, stop=14.0)
    grid = torch.linspace(0, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(2 * short.at(grid), long.at(10 + 4 * grid), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1, 5)])
def test_shapes_repeats_and_nothing_at_all(shape: tuple[int, ...]) -> None:
    one = path(shape=shape)
    assert one.at([0.5, 0.25, 0.5]).shape == (3, 3, *shape)
    assert torch.equal(one.at([0.5, 0.25, 0.5])[:, 0], one.at([0.5, 0.25, 0.5])[:, 2])
    assert one.at([]).shape == (3, 0, *shape)
    assert one.increments([0.5, 0.7, 1.1]).shape == (3, 2, *shape)


@pytest.mark.parametrize("steps", [50, 128])
def test_a_walk_remembers_few_states(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered, forget = [], _Tree._forget

    def counting(self: _Tree, leaf: int) -> None:
        forget(self, leaf)
        remembered.append(len(self.known) + len(self.fresh))

    monkeypatch.setattr(brownian, "_BATCH", 1)
    monkeypatch.setattr(_Tree, "_forget", counting)
    grid = torch.linspace(0.25, 1.75, steps + 1, dtype=torch.float64)
    for direction in (grid, grid.flip(0)):
        for _ in path(size=1, shape=(), levels=7).walk(direction):
            pass
    assert len(remembered) == 2 * (steps + 1)
    assert max(remembered) <= 8
    assert sum(remembered) / len(remembered) < 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1.0, "stop": 1.0}, "start < stop; got 1.0 and 1.0"),
        ({"stop": math.inf}, "finite times"),
        ({"levels": 0}, "levels=0"),
        ({"levels": 41}, "levels=41"),
        ({"dtype": torch.float16}, "float32 or float64; got torch.float16"),
    ],
)
def test_wrong_paths_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        path(**options)


@pytest.mark.parametrize("time", [0.2499, 1.7501, math.nan, math.inf, -math.inf])
def test_times_outside_are_refused(time: float) -> None:
    with pytest.raises(ValueError, match=r"runs from 0.25 s to 1.75 s"):
        path().at([time])


def test_two_times_of_one_leaf_are_refused() -> None:
    coarse = path(levels=3)
    assert coarse.resolution == 1.5 / 8
    with pytest.raises(ValueError, match=r"0\.3 s and 0\.31 s fall into one leaf of 0\.188 s.*more than 3 levels"):
        coarse.at([0.31, 0.3])
    with pytest.raises(ValueError, match="one leaf"):
        coarse.increments([0.3, 0.31])
    with pytest.raises(ValueError, match="one leaf"):
        list(coarse.walk([0.31, 0.3]))
    assert coarse.increments([0.25, 0.3, 0.25 + 1.5 / 8]).isfinite().all()
    assert len(list(coarse.walk([0.25 + 1.5 / 8, 0.3, 0.25]))) == 2
    assert torch.equal(*coarse.at([1.0, 1.0 + 1e-12]).unbind(dim=1))


def test_times_out_of_order_are_no_grid() -> None:
    with pytest.raises(ValueError, match="strictly increase or strictly decrease"):
        path().increments([0.5, 0.7, 0.6])
