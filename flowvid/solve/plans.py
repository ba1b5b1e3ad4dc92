"""Plans of jumps: which states to evaluate, and which of them each requested time is reached from.

A plan is a list of nodes with parents, computed on the host before any network runs; `flowvid.solve.jump` carries it
out, each level one batch.

- `fenwick_plan` goes forward: frame n comes from n - lowbit(n). For N frames that is N / 2 evaluations in depth
  log2 N, and frame n carries popcount(n) errors instead of n (SCIENCE P9).
- `two_sided_plan` uses gaps of both signs: far anchors first, then times between them, each reached from every
  evaluated state a gap away, and the estimates are averaged by their precision (P17). For N frames that is N / 4 + 1
  evaluations. A known last frame is one more anchor; recursive bisection is the special case of equal weights at
  midpoints.

References:
    A New Data Structure for Cumulative Frequency Tables (Fenwick, 1994), https://doi.org/10.1002/spe.4380240306
"""

__all__ = ["Node", "fenwick_plan", "levels", "two_sided_plan"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_CLOSE = 1e-9


@dataclass(frozen=True)
class Node:
    """A time to reach, and the earlier nodes of the plan it is reached from; none for a known state."""

    time: float
    parents: tuple[int, ...] = ()


def fenwick_plan(start: float, times: Sequence[float], gaps: Sequence[float]) -> list[Node]:
    """A forward plan from one known state: frame n from n - lowbit(n), other times from the frame before.

    No jump is longer than the longest gap.

    Arguments:
        start: Time of the known state.
        times: Requested times, none before the start; each is the time of a node, to the last bit.
        gaps: Forward gaps, each a power of two times the shortest.

    Raises:
        ValueError: A time lies before the start, or the gaps are not dyadic.
    """
    shortest, longest = _dyadic(gaps)
    if min(times) < start - _CLOSE:
        raise ValueError(f"A forward plan needs times from {start} s on; got {min(times)} s.")
    reach = round(longest / shortest)
    nodes = [Node(start)]
    frames = {0: 0}

    def frame(number: int) -> int:
        missing = []
        while number not in frames:
            missing.append(number)
            number -= min(number & -number, reach)
        for child in reversed(missing):
            nodes.append(Node(start + child * shortest, (frames[number],)))
            number, frames[child] = child, len(nodes) - 1
        return frames[number]

    for time in sorted(set(times)):
        position = (time - start) / shortest
        before = frame(math.floor(position + _CLOSE))
        if abs(nodes[before].time - time) > _CLOSE:
            nodes.append(Node(time, (before,)))
    return _needed(nodes, times)


def two_sided_plan(
    known: Sequence[float], times: Sequence[float], gaps: Sequence[float], *, spacing: int
) -> list[Node]:
    """A plan with jumps of both signs: anchors, then midpoints down to a spacing, then the requested times.

    No jump is longer than the longest gap.

    Arguments:
        known: Times of the known states, increasing.
        times: Requested times, none before the first known state; each is the time of a node, to the last bit.
        gaps: Forward gaps (backward ones mirror them), each a power of two times the shortest.
        spacing: Evaluated states are at most this many shortest gaps apart.

    Raises:
        ValueError: A time lies before the first known state, or the gaps are not dyadic.
    """
    shortest, longest = _dyadic(gaps)
    if min(times) < known[0] - _CLOSE:
        raise ValueError(f"A plan needs times from the first known state on, {known[0]} s; got {min(times)} s.")
    nodes = [Node(time) for time in known]
    backbone = [0]
    for right in range(1, len(known)):
        chain = _march(nodes, backbone[-1], nodes[right].time - 2 * longest, (longest, longest), shortest * spacing)
        backbone += _filled(nodes, [*chain, right], shortest * spacing, (shortest, longest))
    chain = _march(nodes, backbone[-1], max(times), (shortest, longest), shortest * spacing)
    backbone += _filled(nodes, chain, shortest * spacing, (shortest, longest))
    placed = np.array([nodes[node].time for node in backbone])
    for time in sorted(set(times)):
        right = int(np.searchsorted(placed, time - _CLOSE))
        if abs(placed[min(right, len(placed) - 1)] - time) > _CLOSE:
            nodes.append(Node(time, (backbone[right - 1], backbone[right])))
    return _woven(_needed(nodes, times), gaps)


def _woven(nodes: list[Node], gaps: Sequence[float]) -> list[Node]:
    """The plan in which every node is also reached from each state a gap away that is evaluated no later than others.

    Nothing is evaluated for it and no chain becomes longer: only states of lower levels that have children count.
    """
    level = levels(nodes)
    busy = sorted({parent for node in nodes for parent in node.parents}, key=lambda index: nodes[index].time)
    times = np.array([nodes[index].time for index in busy])
    order = sorted(range(len(nodes)), key=lambda index: level[index])
    renumbered = {index: place for place, index in enumerate(order)}
    woven = []
    for index in order:
        node = nodes[index]
        near = [busy[place] for gap in gaps for step in (-gap, gap) for place in _at(times, node.time + step)]
        more = [other for other in near if level[other] < level[index] and other not in node.parents]
        woven.append(Node(node.time, tuple(renumbered[parent] for parent in (*node.parents, *more))))
    return woven


def _at(times: np.ndarray, time: float) -> list[int]:
    """The place of a time among sorted times, if it is there."""
    place = int(np.searchsorted(times, time - _CLOSE))
    return [place] if place < len(times) and abs(times[place] - time) <= _CLOSE else []


def _dyadic(gaps: Sequence[float]) -> tuple[float, float]:
    """The shortest and the longest gap."""
    powers = np.log2(np.asarray(gaps) / min(gaps)) if min(gaps) > 0 else np.array([math.nan])
    if not (np.abs(powers - np.round(powers)) < 1e-6).all():
        raise ValueError(f"Plans need forward gaps that are powers of two times the shortest; got {tuple(gaps)} s.")
    return min(gaps), max(gaps)


def _march(nodes: list[Node], left: int, until: float, gaps: tuple[float, float], spacing: float) -> list[int]:
    """Jumps forward until a time is reached, each the longest gap or, for a short rest, the least that reaches it.

    Where states between are evaluated anyway, the middle of a jump comes first, so that its end is reached in one
    jump and in two: more accurate ends, at one more level for each jump after the first.
    """
    chain = [left]
    while (rest := until - nodes[chain[-1]].time) > _CLOSE:
        gap = min(gaps[1], gaps[0] * 2.0 ** max(0, math.ceil(math.log2(rest / gaps[0]) - _CLOSE)))
        start = nodes[chain[-1]].time
        if gap >= 2 * spacing * (1 - _CLOSE):
            nodes.append(Node(start + gap / 2, (chain[-1],)))
            chain.append(len(nodes) - 1)
            nodes.append(Node(start + gap, (chain[-2], chain[-1])))
        else:
            nodes.append(Node(start + gap, (chain[-1],)))
        chain.append(len(nodes) - 1)
    return chain


def _filled(nodes: list[Node], chain: Sequence[int], spacing: float, gaps: tuple[float, float]) -> list[int]:
    """The nodes after the first of a chain with midpoints between, or what is nearest to them a gap from the left."""
    filled: list[int] = []
    waiting = list(pairwise(chain))[::-1]
    while waiting:
        left, right = waiting.pop()
        span = nodes[right].time - nodes[left].time
        if span <= spacing * (1 + _CLOSE):
            filled.append(right)
            continue
        gap = min(gaps[0] * 2.0 ** max(0, round(math.log2(span / 2 / gaps[0]))), gaps[1])
        nodes.append(Node(nodes[left].time + gap, (left, right)))
        waiting += [(len(nodes) - 1, right), (left, len(nodes) - 1)]
    return filled


def levels(nodes: Sequence[Node]) -> list[int]:
    """The level of each node: one more than its highest parent's, zero for known states."""
    level: list[int] = []
    for node in nodes:
        level.append(1 + max((level[parent] for parent in node.parents), default=-1))
    return level


def _needed(nodes: Sequence[Node], times: Sequence[float]) -> list[Node]:
    """The plan without the nodes that no requested time descends from, at the exact times; known states stay."""
    asked: dict[int, float] = {}
    wanted = np.asarray(times, dtype=np.float64)
    for index, node in enumerate(nodes):
        nearest = float(wanted[np.abs(wanted - node.time).argmin()])
        if abs(nearest - node.time) < _CLOSE:
            asked[index] = nearest
    keep = {index for index, node in enumerate(nodes) if not node.parents or index in asked}
    for index in reversed(range(len(nodes))):
        if index in keep:
            keep.update(nodes[index].parents)
    renumbered = {index: position for position, index in enumerate(sorted(keep))}
    return [
        Node(asked.get(index, nodes[index].time), tuple(renumbered[parent] for parent in nodes[index].parents))
        for index in sorted(keep)
    ]
