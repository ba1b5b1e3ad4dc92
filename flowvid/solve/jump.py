"""Flow-map integrators: jumps as long as the gaps, laid out as a plan, one batch per level.

A flow map answers a state with its average velocities over K gaps; the displacement over any real step h is
h * sum_k w_k(h) u_k. So one evaluation of a state reaches many times at once, and an integrator is only the choice
of which states to evaluate and which of them each requested time is reached from (`flowvid.solve.plans`). One
executor serves every plan.

The precision of an estimate is 1 / (error(h)^2 + variance of the state it starts from), with error(h) the measured
error of a displacement over h (P6); a known state has variance zero, so near a known frame all weight moves there.

References:
    Hierarchical Deep Learning of Multiscale Differential Equation Time-Steppers (Liu et al., 2020), https://arxiv.org/abs/2008.09768
"""

__all__ = ["FlowMap", "integrate"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowvid.solve.plans import Node, levels


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
    level = levels(nodes)
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
