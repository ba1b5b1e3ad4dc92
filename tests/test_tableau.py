"""Runge-Kutta tableaus: conditions of order for every rooted tree, dense output, and what is refused."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowvid.solve.tableau import ADAPTIVE_TABLEAUS, GRID_TABLEAUS, Tableau

TABLEAUS = {**GRID_TABLEAUS, **ADAPTIVE_TABLEAUS}
# A rooted tree is the sorted tuple of its branches; the single node is ().
Tree = tuple


@cache
def forests(size: int, largest: int) -> tuple[Tree, ...]:
    """Sorted tuples of trees with ``size`` nodes in all and no tree above ``largest`` nodes."""
    if size == 0:
        return ((),)
    found = {
        tuple(sorted((tree, *rest)))
        for first in range(1, min(size, largest) + 1)
        for tree in forests(first - 1, first - 1)
        for rest in forests(size - first, first)
    }
    return tuple(sorted(found))


def trees(order: int) -> tuple[Tree, ...]:
    return forests(order - 1, order - 1)


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(branch) for branch in tree)


def density(tree: Tree) -> int:
    product = nodes(tree)
    for branch in tree:
        product *= density(branch)
    return product


def stage_weights(tableau: Tableau, tree: Tree) -> list[float]:
    """The elementary weight of a tree at each stage."""
    found = [1.0] * tableau.stages
    for branch in tree:
        inner = stage_weights(tableau, branch)
        for stage, row in enumerate(tableau.a):
            found[stage] *= sum(weight * inner[other] for other, weight in enumerate(row))
    return found


def residuals(tableau: Tableau, weights: Sequence[float], order: int, theta: float = 1.0) -> list[float]:
    """By how much the conditions of one order are missed, at the fraction theta of a step."""
    return [
        abs(sum(b * inner for b, inner in zip(weights, stage_weights(tableau, tree), strict=True)) - exact)
        for tree in trees(order)
        for exact in [theta**order / density(tree)]
    ]


def order_of(tableau: Tableau, weights: Sequence[float]) -> int:
    order = 0
    while max(residuals(tableau, weights, order + 1)) < 1e-11:
        order += 1
    return order


def dense_weights(tableau: Tableau, theta: float, derivative: int = 0) -> list[float]:
    if derivative:
        return [sum(p * c * theta ** (p - 1) for p, c in enumerate(row, 1)) for row in tableau.dense]
    return [sum(c * theta**p for p, c in enumerate(row, 1)) for row in tableau.dense]


def test_there_are_as_many_rooted_trees_as_cayley_counted() -> None:
    assert [len(trees(order)) for order in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]
    assert Counter(density(tree) for tree in trees(4)) == Counter([4, 8, 12, 24])


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_order_is_met_and_not_exceeded(name: str) -> None:
    assert order_of(TABLEAUS[name], TABLEAUS[name].b) == TABLEAUS[name].order


@pytest.mark.parametrize("name", TABLEAUS)
def test_stage_times_are_the_sums_of_their_rows(name: str) -> None:
    tableau = TABLEAUS[name]
    assert tableau.name == name
    assert tableau.source
    assert [sum(row) for row in tableau.a] == pytest.approx(tableau.c, abs=1e-14)
    assert tableau.c[0] == 0
    assert max(tableau.c) <= 1


def test_methods_of_one_order_are_told_apart_by_their_quadrature() -> None:
    def rule(name: str) -> dict[float, float]:
        weights: Counter[float] = Counter()
        for node, weight in zip(GRID_TABLEAUS[name].c, GRID_TABLEAUS[name].b, strict=True):
            weights[node] += weight
        return {node: weight for node, weight in weights.items() if weight}

    assert rule("midpoint") == {0.5: 1}
    assert rule("heun2") == {0: 0.5, 1: 0.5}
    assert rule("ralston") == pytest.approx({0: 0.25, 2 / 3: 0.75})
    assert rule("heun3") == pytest.approx({0: 0.25, 2 / 3: 0.75})
    assert rule("rk4") == pytest.approx({0: 1 / 6, 0.5: 2 / 3, 1: 1 / 6})
    assert rule("rk4-38") == pytest.approx({0: 1 / 8, 1 / 3: 3 / 8, 2 / 3: 3 / 8, 1: 1 / 8})
    assert [GRID_TABLEAUS[name].stages for name in ("euler", "midpoint", "heun2", "ralston", "heun3")] == [
        1,
        2,
        2,
        2,
        3,
    ]
    assert GRID_TABLEAUS["rk4"].stages == GRID_TABLEAUS["rk4-38"].stages == 4


@pytest.mark.parametrize(("name", "order"), [("bosh3", 2), ("dopri5", 4), ("tsit5", 4)])
def test_the_error_estimate_is_that_of_a_method_one_order_lower(name: str, order: int) -> None:
    tableau = ADAPTIVE_TABLEAUS[name]
    embedded = [b - error for b, error in zip(tableau.b, tableau.error, strict=True)]
    assert order_of(tableau, embedded) == order == tableau.order - 1


@pytest.mark.parametrize(("name", "order"), [("bosh3", 3), ("dopri5", 4), ("tsit5", 4)])
@pytest.mark.parametrize("theta", [0.0, 0.1, 0.37, 0.5, 0.81, 1.0])
def test_dense_output_has_its_order_everywhere(name: str, order: int, theta: float) -> None:
    tableau = ADAPTIVE_TABLEAUS[name]
    for low in range(1, order + 1):
        assert max(residuals(tableau, dense_weights(tableau, theta), low, theta)) < 1e-11


@pytest.mark.parametrize("name", ADAPTIVE_TABLEAUS)
def test_dense_output_joins_the_steps_smoothly(name: str) -> None:
    tableau = ADAPTIVE_TABLEAUS[name]
    first, last = ([float(stage == end) for stage in range(tableau.stages)] for end in (0, tableau.stages - 1))
    assert tableau.first_same_as_last
    assert dense_weights(tableau, 0.0) == [0.0] * tableau.stages
    assert dense_weights(tableau, 1.0) == pytest.approx(tableau.b, abs=1e-12)
    assert dense_weights(tableau, 0.0, derivative=1) == pytest.approx(first, abs=1e-12)
    assert dense_weights(tableau, 1.0, derivative=1) == pytest.approx(last, abs=1e-11)


@pytest.mark.parametrize("name", ["bosh3", "dopri5"])
def test_rational_weights_are_the_nearest_numbers_to_their_fractions(name: str) -> None:
    """Every weight of these two is a fraction with a denominator below a million, and the nearest number to it."""
    tableau = ADAPTIVE_TABLEAUS[name]
    for row in (*tableau.a, tableau.b, tableau.error):
        for weight in row:
            assert float(Fraction(weight).limit_denominator(10**6)) == weight


@pytest.mark.parametrize("name", GRID_TABLEAUS)
def test_grid_methods_evaluate_nothing_that_they_do_not_use(name: str) -> None:
    assert not GRID_TABLEAUS[name].first_same_as_last
    assert GRID_TABLEAUS[name].b[-1] != 0


@given(st.floats(0.05, 1.0))
def test_any_two_stages_make_a_method_of_order_two(node: float) -> None:
    tableau = Tableau(name="own", order=2, c=(0.0, node), a=((), (node,)), b=(1 - 0.5 / node, 0.5 / node))
    assert order_of(tableau, tableau.b) == 2
    assert not tableau.first_same_as_last


def test_the_last_stage_is_the_first_of_the_next_step_only_if_it_is_asked_there() -> None:
    bosh3 = ADAPTIVE_TABLEAUS["bosh3"]
    parts = {"name": "own", "order": 2}
    assert not Tableau(**parts, c=(0.0, 1.0, 1.0), a=((), (1.0,), (1.0, 0.0)), b=(0.5, 0.5, 0.0)).first_same_as_last
    assert not dataclasses.replace(bosh3, b=(0.0, 1.0, 0.0, 0.0), dense=()).first_same_as_last
    assert not Tableau(**parts, c=(0.0, 0.5), a=((), (0.5,)), b=(1.0, 0.0)).first_same_as_last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": ((), (2 / 3, 0.0))}, "rows of ralston do not fit its 2 stages; row i of a has i entries"),
        ({"a": ((),)}, "do not fit its 2 stages"),
        ({"a": ((), ()), "c": (0.0, 0.0)}, "do not fit its 2 stages"),
        ({"b": (1.0,)}, "do not fit its 2 stages"),
        ({"error": (0.0,)}, "do not fit its 2 stages"),
        ({"dense": ((1.0,),)}, "do not fit its 2 stages"),
        ({"c": (0.0, 0.5)}, "In ralston each row of a must sum to its c"),
        ({"c": (0.1, 2 / 3)}, "must sum to its c"),
        ({"b": (0.25, 0.5)}, "b to one"),
        ({"b": (0.25, float("nan"))}, "b to one"),
        ({"error": (0.25, 0.25)}, "the error weights to zero"),
        ({"dense": ((1.0, -0.75), (0.7,))}, "each row of dense to its b"),
        ({"c": (), "a": (), "b": ()}, "b to one"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GRID_TABLEAUS["ralston"], **changes)
