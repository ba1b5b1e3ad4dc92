"""Hypothesis strategies: fields with known flows, states, times, seeds and gaps.

from hypothesis import given

from flowvid.testing import check_semigroup
from flowvid.testing.strategies import fields, time_grids

@given(fields(), time_grids(min_size=3))
def test_it_is_a_semigroup(field, times):
    check_semigroup(MySolver(), field, times=times, atol=1e-6)
"""

__all__ = ["fields", "gap_sets", "noises", "seeds", "starts", "states", "time_grids"]

import math
import random
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from flowvid.dynamics.heads import dyadic_gaps
from flowvid.noise import Noise
from flowvid.testing.fields import (
    KnownField,
    decay,
    forced,
    gaussian,
    harmonic,
    hyperbola,
    linear,
    logistic,
    swing,
)

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "flowvid.testing.strategies needs hypothesis; install it with the extra: pip install 'flowvid[test]'."
    ) from error

P = ParamSpec("P")
T = TypeVar("T")


def _undisturbed(make: Callable[P, T]) -> Callable[P, T]:
    """The same function, with Python's random state as it was before.

    Run-time type checkers look at a random item of every container, and hypothesis takes that for randomness of ours.
    """

    @wraps(make)
    def made(*args: P.args, **options: P.kwargs) -> T:
        state = random.getstate()
        try:
            return make(*args, **options)
        finally:
            random.setstate(state)

    return made


def fields() -> st.SearchStrategy[KnownField]:
    """Fields with known flows and moderate rates; time in [0, 1] is safe for all of them, forward and backward."""
    rates = st.floats(0.1, 2.0)
    entries = st.floats(-2.0, 2.0)
    return st.one_of(
        st.builds(_undisturbed(decay), st.floats(-2.0, 2.0)),
        st.builds(_undisturbed(linear), st.tuples(st.tuples(entries, entries), st.tuples(entries, entries))),
        st.builds(_undisturbed(harmonic), st.floats(0.5, 4.0)),
        st.builds(_undisturbed(forced), rates, st.floats(0.5, 4.0)),
        st.builds(_undisturbed(logistic), rates),
        st.builds(_undisturbed(hyperbola)),
        st.builds(_undisturbed(swing), st.floats(0.5, 4.0)),
        st.builds(_undisturbed(gaussian), st.floats(-1.0, 1.0), st.floats(0.2, 2.0)),
    )


def states(
    *shape: int,
    min_batch: int = 1,
    max_batch: int = 4,
    low: float = -1.5,
    high: float = 1.5,
    dtype: torch.dtype = torch.float64,
) -> st.SearchStrategy[Tensor]:
    """Batches of states with shape (batch, *shape) and entries in [low, high].

    Arguments:
        shape: Shape of one sample's state.
        min_batch: Least number of samples.
        max_batch: Greatest number of samples.
        low: Least entry.
        high: Greatest entry.
        dtype: Type of the states.
    """

    def of(batch: int) -> st.SearchStrategy[Tensor]:
        count = batch * math.prod(shape)
        entries = st.lists(st.floats(low, high), min_size=count, max_size=count)
        return entries.map(lambda drawn: torch.tensor(drawn, dtype=torch.float64).reshape(batch, *shape).to(dtype))

    return st.integers(min_batch, max_batch).flatmap(of)


def starts(*, min_batch: int = 1, max_batch: int = 4) -> st.SearchStrategy[tuple[KnownField, Tensor]]:
    """Fields, each with a batch of states that it is good for.

    Arguments:
        min_batch: Least number of samples.
        max_batch: Greatest number of samples.
    """

    def of(field: KnownField) -> st.SearchStrategy[tuple[KnownField, Tensor]]:
        sizes = {"min_batch": min_batch, "max_batch": max_batch}
        return st.tuples(st.just(field), states(*field.shape, low=field.low, high=field.high, **sizes))

    return fields().flatmap(of)


def time_grids(
    min_size: int = 2,
    max_size: int = 6,
    *,
    start: float = 0.0,
    stop: float = 1.0,
    backward: bool = False,
) -> st.SearchStrategy[list[float]]:
    """Uneven times inside [start, stop], at least a millionth of it apart.

    Arguments:
        min_size: Least number of times.
        max_size: Greatest number of times.
        start: Seconds before which there are none.
        stop: Seconds after which there are none.
        backward: Whether decreasing times are drawn too.
    """
    ticks = st.lists(st.integers(0, 10**6), min_size=min_size, max_size=max_size, unique=True)
    turned = st.booleans() if backward else st.just(False)

    def placed(drawn: list[int], reverse: bool) -> list[float]:
        return [start + (stop - start) * tick / 10**6 for tick in sorted(drawn, reverse=reverse)]

    return st.builds(_undisturbed(placed), ticks, turned)


def seeds() -> st.SearchStrategy[int]:
    """Seeds: any signed 64-bit integer."""
    return st.integers(-(2**63), 2**63 - 1)


def noises(*, min_batch: int = 1, max_batch: int = 4) -> st.SearchStrategy[Noise]:
    """Noise for batches whose samples all have seeds of their own.

    Arguments:
        min_batch: Least number of samples.
        max_batch: Greatest number of samples.
    """
    return st.lists(seeds(), min_size=min_batch, max_size=max_batch, unique=True).map(_undisturbed(Noise.of))


def gap_sets(*, min_size: int = 1, max_size: int = 5) -> st.SearchStrategy[tuple[float, ...]]:
    """Dyadic gaps of both signs, increasing: two for each doubling, the shortest from 1/64 s to 1/8 s.

    Arguments:
        min_size: Least number of gaps of one sign.
        max_size: Greatest number of gaps of one sign.
    """
    return st.builds(_undisturbed(dyadic_gaps), st.floats(1 / 64, 1 / 8), st.integers(min_size, max_size))
