"""Flow-map integrators: jumps as long as the gaps, laid out as a tree, one batch per level.

A flow map answers a state with its average velocities over K gaps; the displacement over any real step h is
h * sum_k w_k(h) u_k. So one evaluation of a state reaches many times at once, and an integrator is only the choice
of which states to evaluate and which of them each requested time is reached from. That choice is a plan, a list of
nodes with parents, computed on the host before any network runs; one executor serves every plan.

- `fenwick_plan` goes forward: frame n comes from n - lowbit(n). For N frames that is N / 2 evaluations in depth
  log2 N, and frame n carries popcount(n) errors instead of n (SCIENCE P9).
- `two_sided_plan` uses gaps of both signs: far anchors first, then times between them, each reached from every
  evaluated state a gap away, and the estimates are averaged by their precision (P17). For N frames that is N / 4 + 1
  evaluations. A known last frame is one more anchor; recursive bisection is the special case of equal weights at
  midpoints.

The precision of an estimate is 1 / (error(h)^2 + variance of the state it starts from), with error(h) the measured
error of a displacement over h (P6); a known state has variance zero, so near a known frame all weight moves there.

References:
    A New Data Structure for Cumulative Frequency Tables (Fenwick, 1994), https://doi.org/10.1002/spe.4380240306
    Hierarchical Deep Learning of Multiscale Differential Equation Time-Steppers (Liu et al., 2020), https://arxiv.org/abs/2008.09768
"""

__all__ = ["FlowMap", "Node", "fenwick_plan", "integrate", "two_sided_plan"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

_CLOSE = 1e-9


@runtime_checkable
class FlowMap(Protocol):
    """Average velocities of states over signed gaps."""

    @property
    def gaps(self) -> tuple[float, ...]:
        """Signed gaps in seconds."""
        ...

    def rates(
        self,
        times: Sequence[float] | Float64[Tensor, "batch n"],
        states: Float[Tensor, "batch n *state"],
        moving: Sequence[bool],
    ) -> Float[Tensor, "batch n gap *state"]:
        """Average velocities of n states over every gap; the times are those of all samples, or of each."""
        ...


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
    level = _levels(nodes)
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


def integrate(
    flow_map: FlowMap,
    nodes: Sequence[Node],
    known: Float[Tensor, "batch known *state"],
    moving: Sequence[bool],
    *,
    weights: Callable[[float, bool], np.ndarray],
    error: Callable[[float, bool], float],
) -> tuple[Float[Tensor, "batch node *state"], int, int]:
    """Carry out a plan: the states at all its nodes, the number of evaluations, and the depth.

    Arguments:
        flow_map: Average velocities over the gaps.
        nodes: The plan; parents come before children, and its parentless nodes are the known states, in order.
        known: The known states.
        moving: Whether the velocity of each known state is known.
        weights: (h, moving) -> w(h), for any real step h in seconds from a state whose velocity is known or not.
        error: (h, moving) -> root mean square error of a displacement over h from such a state.
    """
    roots = [index for index, node in enumerate(nodes) if not node.parents]
    weights, error = cache(weights), cache(error)
    assert len(roots) == known.shape[1] == len(moving), "one known state for each parentless node"
    level = _levels(nodes)
    busy = sorted({parent for node in nodes for parent in node.parents}, key=lambda index: (level[index], index))
    states: dict[int, Tensor] = {node: known[:, position] for position, node in enumerate(roots)}
    is_moving = dict.fromkeys(range(len(nodes)), True) | dict(zip(roots, moving, strict=True))
    shares = _shares(nodes, is_moving, error)
    outwards = sorted(range(len(nodes)), key=level.__getitem__)
    last_use = {parent: level[child] for child in outwards for parent in nodes[child].parents}
    batches: list[_Batch] = []
    depth = 0
    for stage in range(max(level) + 1):
        sources = [index for index in busy if level[index] == stage]
        arrivals = [index for index, at in enumerate(level) if at == stage + 1]
        if sources:
            stacked = torch.stack([states[index] for index in sources], dim=1)
            found = flow_map.rates([nodes[i].time for i in sources], stacked, [is_moving[i] for i in sources])
            batches.append(_Batch(sources, found.reshape(len(found), found.shape[1] * found.shape[2], -1)))
            depth += 1
        if arrivals:
            go = _coefficients(nodes, arrivals, shares, lambda h, parent: weights(h, is_moving[parent]))
            origin = torch.stack([_origin(nodes[index], shares[index], states) for index in arrivals], dim=1)
            moved = origin.reshape(*origin.shape[:2], -1) + sum(
                _displacement(batch, arrivals, go, origin) for batch in batches
            )
            states |= dict(zip(arrivals, moved.reshape(origin.shape).unbind(dim=1), strict=True))
        batches = [batch for batch in batches if max(last_use[source] for source in batch.sources) > stage + 1]
    return torch.stack([states[index] for index in range(len(nodes))], dim=1), len(busy), depth


@dataclass(frozen=True)
class _Batch:
    """States evaluated together, and their velocities over all gaps, shape (batch, source * gap, entry)."""

    sources: list[int]
    rates: Tensor


def _coefficients(
    nodes: Sequence[Node],
    arrivals: Sequence[int],
    shares: Sequence[Sequence[float]],
    weights: Callable[[float, int], np.ndarray],
) -> dict[tuple[int, int], np.ndarray]:
    """By (arrival, parent): what the parent's velocities are multiplied by, share * h * w(h)."""
    found = {}
    for index in arrivals:
        for parent, share in zip(nodes[index].parents, shares[index], strict=True):
            step = nodes[index].time - nodes[parent].time
            found[index, parent] = share * step * weights(step, parent)
    return found


def _origin(node: Node, shares: Sequence[float], states: dict[int, Tensor]) -> Tensor:
    """What a node's parents share, added up outside any product that may run in a lower precision (TF32)."""
    first, *others = zip(node.parents, shares, strict=True)
    total = states[first[0]] if not others else first[1] * states[first[0]]
    for parent, share in others:
        total = total + share * states[parent]
    return total


def _displacement(
    batch: _Batch, arrivals: Sequence[int], go: dict[tuple[int, int], np.ndarray], like: Tensor
) -> Tensor:
    """The part of the arrivals' displacements that comes from one batch of evaluated states: one product."""
    gaps = batch.rates.shape[1] // len(batch.sources)
    zero = np.zeros(gaps)
    rows = [np.concatenate([go.get((index, source), zero) for source in batch.sources]) for index in arrivals]
    with torch.autocast(like.device.type, enabled=False):
        return torch.tensor(np.stack(rows)).to(like) @ batch.rates.to(like)


def _levels(nodes: Sequence[Node]) -> list[int]:
    level: list[int] = []
    for node in nodes:
        level.append(1 + max((level[parent] for parent in node.parents), default=-1))
    return level


def _shares(
    nodes: Sequence[Node], is_moving: dict[int, bool], error: Callable[[float, bool], float]
) -> list[list[float]]:
    """The share of each parent's estimate in a node: its precision, normalised.

    The variance passed on, the mean with these shares, bounds that of the average however its parts are correlated.
    """
    variance: list[float] = []
    shares: list[list[float]] = []
    for node in nodes:
        steps = [(parent, node.time - nodes[parent].time) for parent in node.parents]
        found = [variance[parent] + error(step, is_moving[parent]) ** 2 for parent, step in steps]
        precision = [1 / max(value, 1e-30) for value in found]
        shares.append([value / sum(precision) for value in precision])
        variance.append(sum(share * value for share, value in zip(shares[-1], found, strict=True)))
    return shares


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
