r"""Solvers that jump: average velocities in, steps as long as the gaps out.

A flow map answers one state with its average velocities over K gaps, and the displacement over any real step h is
h sum_k w_k(h) u_k, with w(h) interpolating the gaps, between them over the three nearest alone (SCIENCE P1, P3). So a
state that is evaluated answers every requested time within its longest gap.

- `Jump` lays out the jumps beforehand, on the Fenwick tree: all that can be evaluated together is.
- `AdaptiveJump` decides on the way, for every sample by itself. The heads of one evaluation check each other: head k,
  left out, is interpolated from its neighbours j, and

      est_k = gap_k || u_k - sum_{j != k} L_j(gap_k) u_j ||

  says how far the displacement over gap_k is from what the other gaps expect. It jumps by the longest gap up to which
  every estimate is within the tolerance; the shortest gap needs no permission. The estimate costs no evaluation. It
  measures how fast the motion turns, and so how much w(h) may err between gaps; of a head's own error it sees what its
  neighbours do not share.

References:
    Hierarchical Deep Learning of Multiscale Differential Equation Time-Steppers (Liu et al., 2020), https://arxiv.org/abs/2008.09768
"""

__all__ = ["AdaptiveJump", "Jump", "jump_methods", "leave_one_out", "nearest_three"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowvid.dynamics.weights import ScaleWeights, lagrange
from flowvid.noise import Noise
from flowvid.solve.jump import FlowMap, integrate
from flowvid.solve.plans import fenwick_plan
from flowvid.solve.solution import COMPLETE, SampleReport, Solution
from flowvid.solve.solver import Method, Solver, check_problem, named_samples, not_finite
from flowvid.video import Times, Trajectory

_CLOSE = 1e-9


@runtime_checkable
class _RowMap(FlowMap, Protocol):
    """A flow map that can be had for some rows of the batch alone."""

    def rows(self, index: Int64[Tensor, "n"]) -> FlowMap: ...


@dataclass(frozen=True, kw_only=True)
class Jump(Solver):
    """Jumps on the Fenwick tree: depth log2 N and N / 2 evaluations for N frames.

    Arguments:
        weights: The rule w(h), one weight for each gap of the flow map; interpolation over the three nearest gaps of
            the sign of h when left out.
    """

    weights: ScaleWeights | None = None

    def solve(
        self,
        drift: Any,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others; see `Solver.solve`.

        Arguments:
            drift: A flow map; the state's velocity is known.
            state: The state at the first time.
            times: Strictly increasing seconds; or decreasing, with gaps that are negative.
            noise: Unused.

        Raises:
            ValueError: The field is no flow map, or its gaps are not dyadic or do not go the way of the times.
        """
        points, gaps, sign = _checked(drift, state, times)
        if len(points) == 1:
            return Solution(Trajectory(state[:, None], points), 0, 0)
        forward = (sign * points).tolist()
        plan = fenwick_plan(forward[0], forward[1:], [sign * gap for gap in gaps])
        mirrored = plan if sign > 0 else [type(node)(-node.time, node.parents) for node in plan]
        rule = self.weights or nearest_three(drift.gaps)
        states, evaluations, depth = integrate(
            drift, mirrored, state[:, None], [True], weights=lambda h, _: rule(h), error=lambda h, _: 1.0
        )
        order = [min(range(len(plan)), key=lambda i: abs(plan[i].time - time)) for time in forward]
        found = states[:, order]
        wrong = not_finite(found)
        status = COMPLETE if not wrong else f"jump reached NaN or infinity in {named_samples(wrong)}; check the heads."
        return Solution(Trajectory(found, points), evaluations, depth, len(plan) - 1, 0, status)


@dataclass(frozen=True, kw_only=True)
class AdaptiveJump(Solver):
    """Jumps by the longest gap within a tolerance, for every sample by itself; one host read per jump.

    Arguments:
        tolerance: Largest leave-one-out estimate, as root mean square over the entries of a state.
        weights: The rule w(h); interpolation over the three nearest gaps of the sign of h when left out.

    Raises:
        ValueError: The tolerance is negative.
    """

    tolerance: float = 1e-2
    weights: ScaleWeights | None = None

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(f"Expected tolerance >= 0; got {self.tolerance}.")

    def solve(
        self,
        drift: Any,
        state: Float[Tensor, "batch *state"],
        times: Sequence[float] | Tensor,
        noise: Noise | None = None,
    ) -> Solution:
        """Move a state from the first of the times through the others; see `Solver.solve`.

        Samples that arrived are dropped from the batch if the flow map has ``rows(index)``.

        Arguments:
            drift: A flow map with at least two gaps the way of the times; it is asked with one time per sample.
            state: The state at the first time.
            times: Strictly increasing or decreasing seconds.
            noise: Unused.

        Raises:
            ValueError: The field is no flow map, or has fewer than two gaps the way of the times.
        """
        points, gaps, sign = _checked(drift, state, times)
        if len(points) == 1:
            return Solution(Trajectory(state[:, None], points), 0, 0)
        if len(gaps) < 2:
            raise ValueError(f"Heads can only check each other with two gaps or more; got {gaps} s.")
        march = _March(drift, gaps, self.weights or nearest_three(drift.gaps), state, points, sign)
        while len(march.running):
            march.jump(self.tolerance)
        return march.solution()


class _March:
    """Samples on their own clocks; clocks and decisions are on the host."""

    def __init__(
        self,
        flow_map: FlowMap,
        gaps: Sequence[float],
        rule: ScaleWeights,
        state: Tensor,
        points: Times,
        sign: float,
    ) -> None:
        self.whole, self.rule, self.sign = flow_map, rule, sign
        self.points = points
        self.ahead = np.array([sign * time for time in points.tolist()])
        self.spans = np.array(sorted(sign * gap for gap in gaps))
        check = leave_one_out(tuple(sign * self.spans))
        self.columns = [list(flow_map.gaps).index(sign * span) for span in self.spans]
        self.check = torch.tensor(check, dtype=state.dtype, device=state.device)
        self.droppable = isinstance(flow_map, _RowMap)
        self.state = state
        self.running = np.arange(len(state))
        self.clock = np.full(len(state), self.ahead[0])
        self.found = [state, *(torch.full_like(state, torch.nan) for _ in self.ahead[1:])]
        self.jumps = np.zeros(len(state), dtype=np.int64)
        self.asked = np.zeros(len(state), dtype=np.int64)
        self.status = [COMPLETE] * len(state)
        self.depth = 0

    def jump(self, tolerance: float) -> None:
        """One evaluation, and one jump of every sample that has not arrived."""
        rows = self.running if self.droppable else np.arange(len(self.state))
        index = torch.as_tensor(rows, device=self.state.device)
        field = (
            self.whole.rows(index) if isinstance(self.whole, _RowMap) and len(rows) < len(self.state) else self.whole
        )
        clock = torch.tensor(self.sign * self.clock[rows], dtype=torch.float64, device=self.state.device)
        states = self.state[index]
        rates = field.rates(clock[:, None], states[:, None], [True])[:, 0]
        rates = rates.reshape(*rates.shape[:2], -1)
        disagreement = (self.check.to(rates) @ rates[:, self.columns]).float().square().mean(dim=2).sqrt()
        estimates = disagreement.detach().double().cpu().numpy()
        self.depth += 1
        self.asked[rows] += 1
        estimates = estimates[np.isin(rows, self.running)]
        within = np.cumprod(estimates[:, 1:] <= tolerance, axis=1).sum(axis=1).astype(int)
        self._move(rows, states, rates, np.minimum(self.spans[within], self.ahead[-1] - self.clock[self.running]))
        failed = self.running[~np.isfinite(estimates).all(axis=1)]
        for sample in failed:
            at = self.sign * self.clock[sample]
            self.status[sample] = f"jump-adaptive stopped: the heads are not finite after a jump to {at} s"
        self.running = self.running[(self.clock[self.running] < self.ahead[-1] - _CLOSE)]
        self.running = np.setdiff1d(self.running, failed)

    def _move(self, rows: np.ndarray, states: Tensor, rates: Tensor, steps: Float64[np.ndarray, "running"]) -> None:
        """Displace every running sample by its step, and answer the requested times on the way."""
        running, start = self.running, self.clock[self.running]
        arrive = start + steps
        arrive[np.abs(arrive - self.ahead[-1]) < _CLOSE] = self.ahead[-1]
        place = np.searchsorted(rows, running)
        reach = [
            (after > start + _CLOSE) & (after <= arrive + _CLOSE) if i else np.zeros(len(running), dtype=bool)
            for i, after in enumerate(self.ahead)
        ]
        wanted = [i for i, mask in enumerate(reach) if mask.any()]
        spans = np.stack([*(self.ahead[i] - start for i in wanted), arrive - start], axis=1)
        spans[:, :-1] *= np.stack([reach[i] for i in wanted], axis=1) if wanted else 1.0
        go = torch.tensor(_products(self.rule, self.sign * spans, len(self.whole.gaps))).to(rates)
        at = torch.as_tensor(place, device=rates.device)
        with torch.autocast(rates.device.type, enabled=False):
            moved = states[at].reshape(len(at), 1, -1) + go @ rates[at]
        moved = moved.reshape(*moved.shape[:2], *states.shape[1:])
        samples = torch.as_tensor(running, device=rates.device)
        for column, i in enumerate(wanted):
            there = torch.as_tensor(np.flatnonzero(reach[i]), device=rates.device)
            self.found[i] = self.found[i].index_put((samples[there],), moved[there, column])
        self.state = self.state.index_put((samples,), moved[:, -1])
        self.clock[running] = arrive
        self.jumps[running] += 1

    def solution(self) -> Solution:
        """What was found, and what it cost."""
        trajectory = Trajectory(torch.stack(self.found, dim=1), self.points)
        reports = tuple(
            SampleReport(int(jumps), int(jumps), 0, status)
            for jumps, status in zip(self.jumps, self.status, strict=True)
        )
        wrong = [sample for sample, report in enumerate(reports) if report.status != COMPLETE]
        status = COMPLETE if not wrong else f"{reports[wrong[0]].status} in {named_samples(wrong)}; check the heads."
        return Solution(trajectory, float(self.asked.mean()), self.depth, float(self.jumps.mean()), 0, status, reports)


def nearest_three(gaps: Sequence[float]) -> ScaleWeights:
    """Interpolation over the three gaps nearest to h, of its sign (P3); forward ones for h = 0."""

    def rule(h: float) -> Float64[np.ndarray, "gap"]:
        chosen = [k for k, gap in enumerate(gaps) if (gap > 0) == (h >= 0)]
        weights = np.zeros(len(gaps))
        weights[chosen] = lagrange([gaps[k] for k in chosen], h, local=min(3, len(chosen)))
        return weights

    return rule


def leave_one_out(gaps: Sequence[float]) -> Float64[np.ndarray, "gap gap"]:
    """The matrix that takes velocities over the gaps to est_k, each against its three nearest neighbours.

    Arguments:
        gaps: Gaps of one sign, at least two.
    """
    nodes = np.asarray(gaps, dtype=np.float64)
    matrix = np.diag(np.abs(nodes))
    for k, gap in enumerate(nodes):
        others = np.delete(np.arange(len(nodes)), k)
        matrix[k, others] = -abs(gap) * lagrange(nodes[others].tolist(), float(gap), local=min(3, len(others)))
    return matrix


def jump_methods() -> tuple[Method, ...]:
    """Lines of the table for the solvers of flow maps."""
    shared: dict[str, Any] = {"family": "flow map", "order": None, "gradients": "direct", "source": "flowvid"}
    return (
        Method(name="jump", adaptive=False, evaluations="N/2 for N frames", make=partial(Jump), **shared),
        Method(
            name="jump-adaptive",
            adaptive=True,
            evaluations="1 per jump",
            make=partial(AdaptiveJump),
            note="every sample by itself",
            **shared,
        ),
    )


def _products(rule: ScaleWeights, spans: Float64[np.ndarray, "row n"], gaps: int) -> Float64[np.ndarray, "row n gap"]:
    """h w(h) of many steps, each different step worked out once; nothing for a step of no length."""
    different, place = np.unique(np.round(spans, 12), return_inverse=True)
    weights = np.stack([h * rule(float(h)) if h else np.zeros(gaps) for h in different])
    return weights[place.reshape(spans.shape)]


def _checked(flow_map: Any, state: Tensor, times: Sequence[float] | Tensor) -> tuple[Times, list[float], float]:
    """The times, the gaps that go their way, and which way that is."""
    points = check_problem(state, times)
    if not isinstance(flow_map, FlowMap):
        raise ValueError(
            f"Jumps need a flow map, with gaps and rates(times, states, moving); got {type(flow_map).__name__}. For a "
            "vector field take an ODE solver."
        )
    sign = 1.0 if len(points) == 1 or points[-1] > points[0] else -1.0
    gaps = [gap for gap in flow_map.gaps if sign * gap > 0]
    if not gaps:
        raise ValueError(f"These times run {'forward' if sign > 0 else 'backward'}, but no gap does: {flow_map.gaps}.")
    return points, gaps, sign
