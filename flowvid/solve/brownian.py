r"""Brownian motion as a function of seed and time: a Wiener path that does not depend on who asks for it, or when.

Levy's construction. W is 0 at the start and one normal at the stop; the middle of an interval [l, r] between them is

    W((l + r) / 2) = (W(l) + W(r)) / 2 + sqrt(r - l) / 2 * xi,

and so on by halves. The normal xi of every node of this tree is a function of the sample's seed and the number of the
node (`Noise.normal_at`), so W(t) is the same whatever else is asked: other samples, other times, another order, a
finer grid of steps. Halving ends after ``levels`` levels, at leaves of (stop - start) / 2^levels seconds. Inside a leaf
a time gets the law of the bridge between its ends, W = (1 - a) W(l) + a W(r) + sqrt(a (1 - a) (r - l)) xi, with the
leaf's own xi: the law of all times is then exact as long as no two of them share a leaf, and two that do are refused.
A time within 1e-8 of a leaf's end, in units of leaves, is that end.

In order of time the path is walked with the stack of pending ends only: at most ``levels`` + 1 states, about half that
on average, and a batch of nodes drawn together, which is more than one node only where states are small. On dyadic
times a step draws one normal. Others draw one more for each level between the spacing of the times and the leaves: for
speed, as many levels as it takes to keep neighbours apart and no more.

Only increments of W are given. Levy areas are not: methods that need them are refused, or bring their own path.

References:
    Processus stochastiques et mouvement brownien (Levy, 1948)
    Variable step size control in the numerical solution of stochastic differential equations (Gaines and Lyons, 1997),
    https://doi.org/10.1137/S0036139995286515
    Scalable gradients for stochastic differential equations (Li et al., 2020), https://arxiv.org/abs/2001.01328
"""

__all__ = ["BrownianPath"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.noise import Noise
from flowvid.video import as_times

_SNAP = 1e-8
_BATCH = 1 << 16
"""Normals drawn at once, if a single state does not have more."""


@dataclass(frozen=True)
class BrownianPath:
    """A Wiener path per sample, over an interval of time.

    Arguments:
        noise: One seed per sample.
        start: Where every path is zero, in seconds.
        stop: Last time of the paths.
        shape: Shape of one sample's path at one time; entries are independent.
        levels: How often the interval is halved; a finer path agrees with a coarser one wherever that one is dyadic.
        device: Where the path lies.
        dtype: float32 or float64; both are the same path up to rounding.

    Raises:
        ValueError: The interval is empty or not finite, or the number of levels or the type is out of range.
    """

    noise: Noise
    start: float
    stop: float
    shape: tuple[int, ...] = ()
    levels: int = 12
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.stop) and self.start < self.stop):
            raise ValueError(f"A path needs finite times start < stop; got {self.start} and {self.stop}.")
        if not 1 <= self.levels <= 40:
            raise ValueError(f"A path is halved 1 to 40 times; got levels={self.levels}.")
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"A path is float32 or float64; got {self.dtype}.")

    @property
    def resolution(self) -> float:
        """Length of a leaf in seconds; times at least this far apart never share one."""
        return (self.stop - self.start) / 2**self.levels

    def at(self, times: Sequence[float] | Tensor) -> Float[Tensor, "batch time *shape"]:
        """W at times in any order, repeated ones included.

        The same times asked in other company are the same numbers up to rounding.

        Raises:
            ValueError: A time lies outside the interval, or two share a leaf.
        """
        asked = torch.as_tensor(times, dtype=torch.float64, device="cpu").tolist()
        ordered = sorted(set(asked))
        rows = {time: row for row, time in enumerate(ordered)}
        values = torch.empty(len(ordered), len(self.noise), *self.shape, dtype=self.dtype, device=self.device)
        for row, value in enumerate(self._values(ordered)):
            values[row] = value
        if asked != ordered:
            values = values[[rows[time] for time in asked]]
        return values.transpose(0, 1)

    def increments(self, times: Sequence[float] | Tensor) -> Float[Tensor, "batch step *shape"]:
        """W(next) - W(this) for neighbouring times.

        Raises:
            ValueError: Times are out of order or outside the interval, or two share a leaf.
        """
        return self.at(as_times(times, backward=True)).diff(dim=1)

    def walk(self, times: Sequence[float] | Tensor) -> Iterator[Float[Tensor, "batch *shape"]]:
        """The same increments one by one, holding a few states however many times there are.

        Arguments:
            times: Strictly increasing or strictly decreasing seconds.

        Raises:
            ValueError: Times are out of order or outside the interval, or two share a leaf.
        """
        values = self._values(as_times(times, backward=True).tolist())
        last = next(values)
        for value in values:
            yield value - last
            last = value

    def _values(self, times: Sequence[float]) -> Iterator[Tensor]:
        """W at monotone times, one after the other."""
        places = [self._place(time) for time in times]
        self._check_apart(times, places)
        backward = len(places) > 1 and places[-1] < places[0]
        size = max(1, _BATCH // max(1, len(self.noise) * math.prod(self.shape)))
        tree = _Tree(self, backward=backward)
        for first in range(0, len(places), size):
            yield from tree.values(places[first : first + size])

    def _place(self, time: float) -> tuple[int, float]:
        """The leaf of a time and how far into it, as a fraction; zero at its start."""
        leaves = 2**self.levels
        position = (time - self.start) / (self.stop - self.start) * leaves
        nearest = round(position) if math.isfinite(position) else -1
        if abs(position - nearest) <= _SNAP and 0 <= nearest <= leaves:
            return nearest, 0.0
        if not 0 < position < leaves:
            raise ValueError(f"The path runs from {self.start} s to {self.stop} s; got {time} s.")
        leaf = math.floor(position)
        return leaf, position - leaf

    def _check_apart(self, times: Sequence[float], places: Sequence[tuple[int, float]]) -> None:
        for index in range(1, len(places)):
            (one, before), (other, after) = places[index - 1], places[index]
            if one == other and before and after:
                raise ValueError(
                    f"Times {times[index - 1]} s and {times[index]} s fall into one leaf of {self.resolution:.3g} s, "
                    f"where a path knows one time only. Use a BrownianPath with more than {self.levels} levels, and "
                    "give it to the solver as its path."
                )


class _Tree:
    """The known nodes of a path while it is walked: W by position, counted in leaves from the start."""

    def __init__(self, path: BrownianPath, *, backward: bool) -> None:
        self.path = path
        self.backward = backward
        whole = self._drawn([0])[0].mul_(math.sqrt(path.stop - path.start))
        self.known: dict[int, Tensor] = {0: torch.zeros_like(whole), 2**path.levels: whole}
        self.fresh: dict[int, Tensor] = {}

    def values(self, places: Sequence[tuple[int, float]]) -> list[Tensor]:
        """W at the next few places; nodes that neither these nor later ones can need are forgotten first."""
        self._forget(places[0][0])
        groups = self._missing(places)
        inside = [place for place in places if place[1]]
        numbers = [[self._number(node, half) for node in nodes] for half, nodes in groups.items()]
        normals = self._normals([*numbers, [2**self.path.levels + leaf for leaf, _ in inside]])
        for (half, nodes), middles in zip(groups.items(), normals, strict=False):
            middles.mul_(math.sqrt(half * self.path.resolution / 2))
            middles.add_(self._gathered([node - half for node in nodes]), alpha=0.5)
            middles.add_(self._gathered([node + half for node in nodes]), alpha=0.5)
            self.fresh.update(zip(nodes, middles.unbind(), strict=True))
        between = iter(self._between(inside, next(normals)) if inside else ())
        return [next(between) if fraction else self._value(leaf) for leaf, fraction in places]

    def _between(self, places: Sequence[tuple[int, float]], normals: Tensor) -> Sequence[Tensor]:
        """W inside leaves whose ends are known."""
        ones = [1] * (normals.ndim - 1)
        fraction = torch.tensor([fraction for _, fraction in places], dtype=normals.dtype)
        spread = (fraction * (1 - fraction) * self.path.resolution).sqrt()
        fraction, spread = (
            number.to(normals.device, non_blocking=True).reshape(-1, *ones) for number in (fraction, spread)
        )
        left, right = (self._gathered([leaf + end for leaf, _ in places]) for end in (0, 1))
        return normals.mul_(spread).add_(torch.lerp(left, right, fraction)).unbind()

    def _missing(self, places: Sequence[tuple[int, float]]) -> dict[int, list[int]]:
        """Nodes to be made for these places, by half the length of the interval they halve, longest first."""
        groups: dict[int, list[int]] = {}
        found: set[int] = set()

        def need(node: int) -> None:
            if node in self.known or node in found:
                return
            half = node & -node
            need(node - half)
            need(node + half)
            found.add(node)
            groups.setdefault(half, []).append(node)

        for leaf, fraction in places:
            need(leaf)
            if fraction:
                need(leaf + 1)
        return dict(sorted(groups.items(), reverse=True))

    def _forget(self, leaf: int) -> None:
        """Keep what a place and those after it can be reached from: the pending ends, and the nearest one passed.

        What is kept of the last batch is copied, so that the rest of the batch can go.
        """
        levels = self.path.levels
        leaf = min(leaf, 2**levels - 1)
        lefts = [leaf >> level << level for level in range(levels + 1)]
        rights = [left + (1 << level) for level, left in enumerate(lefts)]
        passed, pending = (rights, lefts) if self.backward else (lefts, rights)
        nearest = next(node for node in passed if node in self.known or node in self.fresh)
        kept: dict[int, Tensor] = {}
        for node in (nearest, *pending):
            if node in self.fresh:
                kept[node] = self.fresh[node].clone()
            elif node in self.known:
                kept[node] = self.known[node]
        self.known = kept
        self.fresh.clear()

    def _normals(self, parts: Sequence[Sequence[int]]) -> Iterator[Float[Tensor, "node batch *shape"]]:
        """Normals of parts that are used one after the other: drawn together while that is little."""
        entries = len(self.path.noise) * math.prod(self.path.shape)
        if sum(map(len, parts)) * entries <= _BATCH:
            together = self._drawn([number for part in parts for number in part])
            yield from together.split([len(part) for part in parts])
        else:
            yield from (self._drawn(part) for part in parts)

    def _drawn(self, numbers: Sequence[int]) -> Float[Tensor, "node batch *shape"]:
        path = self.path
        return path.noise.normal_at("brownian", numbers, *path.shape, device=path.device, dtype=path.dtype).transpose(
            0, 1
        )

    def _number(self, node: int, half: int) -> int:
        """The number of a node in the infinite tree, the same however many levels a path has: 1 is the middle."""
        return (2**self.path.levels + node) // (2 * half)

    def _value(self, node: int) -> Tensor:
        return self.fresh[node] if node in self.fresh else self.known[node]

    def _gathered(self, nodes: Sequence[int]) -> Tensor:
        return self._value(nodes[0])[None] if len(nodes) == 1 else torch.stack([self._value(node) for node in nodes])
