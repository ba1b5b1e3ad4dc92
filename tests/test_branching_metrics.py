"""Information about coins: binary channels, independence, and Gaussian codes, in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.metrics.branching import code_information, coin_information
from flowvid.noise import Noise


def entropy(share: float) -> float:
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


def counted(wrong: int, size: int) -> tuple[Tensor, Tensor]:
    """A fair coin, and guesses of which so many are wrong on each side."""
    coin = torch.arange(2 * size) % 2
    return torch.where(torch.arange(2 * size) < 2 * wrong, 1 - coin, coin), coin


@given(st.integers(1, 199), st.sampled_from([200, 400]))
def test_a_binary_symmetric_channel_holds_one_minus_its_entropy(wrong: int, size: int) -> None:
    """The correction of the joint entropy, three cells beyond one against twice one: a bit over 1 / (4 size nats)."""
    found, coin = counted(wrong, size)
    exact = 1 - entropy(wrong / size) - 1 / (4 * size * math.log(2))
    assert coin_information(found, coin) == pytest.approx(exact, abs=1e-9)


def test_a_perfect_guess_holds_the_entropy_of_the_coin_whatever_it_is_called() -> None:
    coin = (torch.arange(1000) % 4 == 0).long()
    assert coin_information(7 - 3 * coin, coin) == pytest.approx(entropy(0.25) + 1 / (2000 * math.log(2)), abs=1e-9)
    assert coin_information(torch.zeros_like(coin), coin) == pytest.approx(0, abs=1e-12)


def test_independent_variables_hold_nothing_on_average() -> None:
    """Uncorrected, 6 clusters of 60 samples would hold 5 / (2 * 60 * ln 2) = 0.06 bits of a coin."""
    noise = Noise.batch(0, 600)
    found, coin = noise.integers("found", 0, 6, 60), noise.integers("coin", 0, 2, 60)
    values = torch.tensor([coin_information(*pair) for pair in zip(found, coin, strict=True)])
    assert values.mean().item() == pytest.approx(0, abs=5 * values.std().item() / math.sqrt(600) + 0.004)
    assert 0.01 < values.std().item() < 0.05


def test_more_clusters_than_sides_lose_nothing() -> None:
    coin = torch.arange(800) % 2
    clusters = 2 * ((torch.arange(800) // 2) % 3) + coin
    assert coin_information(clusters, coin) == pytest.approx(1, abs=0.01)


def gaussian_bits(distance: float) -> float:
    """I of a fair coin and x ~ N(+-distance, 1), by quadrature."""
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    densities = [torch.exp(-((x - s * distance) ** 2) / 2) / math.sqrt(math.tau) for s in (-1, 1)]
    mixed = (densities[0] + densities[1]) / 2
    return float(sum((d / 2 * (d / mixed).log2().nan_to_num()).sum() for d in densities) * (x[1] - x[0]))


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 3.0])
def test_the_bound_is_tight_for_gaussian_codes_whose_log_odds_are_linear(distance: float) -> None:
    size = 4000
    coin = torch.arange(size) % 2
    code = Noise.batch(1, size).normal("code", 2, 2, dtype=torch.float64)
    code[:, 0, 1] += distance * (2 * coin - 1)
    bits = code_information(100 * code + 5, coin)
    assert bits == pytest.approx(gaussian_bits(distance), abs=0.03)
    assert bits <= gaussian_bits(distance) + 0.02


def test_a_code_that_holds_the_coin_shows_more_than_nine_tenths_of_a_bit() -> None:
    coin = torch.arange(200) % 2 == 1
    code = Noise.batch(2, 200).normal("code", 3) + 8 * coin[:, None]
    assert 0.9 < code_information(code, coin) <= 1.01


def test_the_bound_is_asked_of_samples_not_seen() -> None:
    """As many numbers as samples would tell all of a coin that was fitted, and tell nothing of one that was not."""
    coin = torch.arange(60) % 2
    assert code_information(Noise.batch(3, 60).normal("code", 60), coin) < 0.1


def test_what_is_no_sample_is_refused() -> None:
    coin = torch.arange(10) % 2
    with pytest.raises(ValueError, match="got 9 samples and 10 coins"):
        coin_information(coin[1:], coin)
    with pytest.raises(ValueError, match="got 0 samples"):
        coin_information(coin[:0], coin[:0])
    with pytest.raises(ValueError, match="finite"):
        code_information(torch.full((10, 1), math.nan), coin)
    for folds, coins in ((6, coin), (1, coin), (2, torch.zeros(10, dtype=torch.int64))):
        with pytest.raises(ValueError, match=f"got {folds} folds"):
            code_information(torch.zeros(10, 1), coins, folds=folds)
    with pytest.raises(ValueError, match="got 3 samples"):
        code_information(torch.zeros(3, 1), coin)
