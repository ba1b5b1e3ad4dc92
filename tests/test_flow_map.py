"""Solvers that jump: exact for exact heads, at any times, by the longest gap that the heads agree on."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.dynamics.weights import one_hot
from flowvid.solve.flow_map import AdaptiveJump, Jump, leave_one_out, nearest_three
from flowvid.solve.ode import Ode
from flowvid.solve.plans import fenwick_plan
from flowvid.solve.solution import SolveError

DYADIC = (-0.8, -0.4, -0.2, -0.1, 0.1, 0.2, 0.4, 0.8)


class Polynomials:
    """Exact average velocities of z' = p'(t), whatever z: the trajectory z0 + p(t) - p(t0), one row per sample."""

    def __init__(self, coefficients: Tensor, gaps: Sequence[float] = DYADIC) -> None:
        self.coefficients = coefficients
        self.gaps = tuple(gaps)
        self.asked: list[Tensor] = []

    def value(self, time: Tensor) -> Tensor:
        """p at one time per sample."""
        powers = torch.arange(self.coefficients.shape[1], dtype=torch.float64)
        return (self.coefficients * time[:, None] ** powers).sum(dim=1)

    def rates(self, times: Sequence[float] | Tensor, states: Tensor, moving: Sequence[bool]) -> Tensor:
        batch, count = states.shape[:2]
        at = torch.as_tensor(times, dtype=torch.float64).expand(batch, count)
        self.asked.append(at)
        columns = [
            [(self.value(at[:, n] + gap) - self.value(at[:, n])) / gap for gap in self.gaps] for n in range(count)
        ]
        rates = torch.stack([torch.stack(column, dim=1) for column in columns], dim=1)
        return rates.reshape(batch, count, len(self.gaps), *(1 for _ in states.shape[2:])).expand(
            batch, count, len(self.gaps), *states.shape[2:]
        )


class RowPolynomials(Polynomials):
    """The same, of some rows."""

    def rows(self, index: Tensor) -> "RowPolynomials":
        chosen = RowPolynomials(self.coefficients[index], self.gaps)
        chosen.asked = self.asked
        return chosen


def decay_map(rate: float = 1.0, gaps: Sequence[float] = DYADIC) -> object:
    """Exact average velocities of dz/dt = -rate z."""

    class Decay:
        def __init__(self) -> None:
            self.gaps = tuple(gaps)

        def rates(self, times: object, states: Tensor, moving: Sequence[bool]) -> Tensor:
            factors = torch.tensor([math.expm1(-rate * gap) / gap for gap in self.gaps], dtype=states.dtype)
            return states[:, :, None] * factors.reshape(-1, *(1 for _ in states.shape[2:]))

    return Decay()


PARABOLAS = torch.tensor([[0.3, -1.0, 0.5, 0.2], [1.0, 2.0, -0.7, 0.0], [0.0, 0.1, 0.0, 0.0]], dtype=torch.float64)
START = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]], dtype=torch.float64)
TICKS = st.lists(st.integers(1, 4000), min_size=1, max_size=8, unique=True).map(sorted)


def expected(world: Polynomials, times: Sequence[float]) -> Tensor:
    moved = [
        world.value(torch.full((3,), time, dtype=torch.float64))
        - world.value(torch.full((3,), times[0], dtype=torch.float64))
        for time in times
    ]
    return START[:, None] + torch.stack(moved, dim=1)[..., None]


@given(st.sampled_from([Jump(), AdaptiveJump(tolerance=0.05), AdaptiveJump(tolerance=1e9)]), TICKS, st.booleans())
def test_cubic_motion_is_exact_at_any_times_either_way(solver: Jump, ticks: list[int], backward: bool) -> None:
    times = [0.05, *(0.05 + tick / 1000 for tick in ticks)]
    times = [-time for time in times] if backward else times
    world = Polynomials(PARABOLAS)
    solution = solver.solve(world, START, times)
    assert solution.complete
    assert torch.allclose(solution.trajectory.states, expected(world, times), atol=1e-9)
    assert solution.trajectory.times.tolist() == times


@given(st.integers(1, 64))
def test_the_tree_costs_one_evaluation_per_parent_and_as_many_levels_as_bits(frame: int) -> None:
    gaps = [0.1 * 2**k for k in range(7)]
    times = [0.1 * n for n in range(frame + 1)]
    solution = Jump().solve(decay_map(gaps=gaps), START, times)
    assert solution.evaluations == len({n & (n - 1) for n in range(1, frame + 1)})
    assert solution.depth == max(n.bit_count() for n in range(1, frame + 1))
    assert torch.allclose(
        solution.trajectory.states, START[:, None] * torch.exp(-solution.trajectory.times)[:, None], rtol=1e-9
    )


@pytest.mark.parametrize("frame", range(1, 17))
def test_torchdiffeqs_euler_with_weights_of_its_steps_is_the_jump_along_one_branch(frame: int) -> None:
    """The field of the heads, told of every step by `callback_step`: frame n by its binary digits, largest first."""
    gaps = (0.1, 0.2, 0.4, 0.8)
    heads = decay_map(gaps=gaps)
    rule = nearest_three(gaps)

    class Stepping:
        weights: np.ndarray

        def callback_step(self, time: float, state: Tensor, step: float) -> None:
            self.weights = rule(step)

        def __call__(self, time: float, state: Tensor) -> Tensor:
            rates = heads.rates([time], state[:, None], [True])[:, 0]
            return torch.einsum("k,bkx->bx", torch.tensor(self.weights), rates)

    plan = fenwick_plan(0.0, [0.1 * frame], gaps)
    branch = [node.time for node in plan]
    stepped = Ode(method="euler").solve(Stepping(), START, branch)
    jumped = Jump().solve(heads, START, [0.0, 0.1 * frame])
    assert torch.allclose(stepped.trajectory.states[:, -1], jumped.trajectory.states[:, -1], rtol=1e-12)
    assert stepped.evaluations == jumped.evaluations == len(branch) - 1


def test_leave_one_out_is_zero_where_neighbours_predict_and_the_cubic_term_where_they_do_not() -> None:
    """Three neighbours predict a quadratic u(gap); of u = gap^3 they miss prod |gap_k - gap_j|, exactly."""
    gaps = (0.1, 0.2, 0.4, 0.8)
    matrix = leave_one_out(gaps)
    for power in range(3):
        assert np.abs(matrix @ np.array(gaps) ** power).max() < 1e-12
    missed = [gap * np.prod([gap - other for other in gaps if other != gap]) for gap in gaps]
    assert matrix @ np.array(gaps) ** 3 == pytest.approx(missed)


@given(st.floats(0.01, 3.0), st.floats(1e-6, 1.0))
def test_jumps_are_the_longest_whose_estimates_are_all_within_the_tolerance(rate: float, tolerance: float) -> None:
    heads, state = decay_map(rate), torch.ones(1, 1, dtype=torch.float64)
    gaps = (0.1, 0.2, 0.4, 0.8)
    estimates = np.abs(leave_one_out(gaps) @ np.array([math.expm1(-rate * gap) / gap for gap in gaps]))
    allowed = 0
    while allowed < 3 and estimates[allowed + 1] <= tolerance:
        allowed += 1
    solution = AdaptiveJump(tolerance=tolerance).solve(heads, state, [0.0, gaps[allowed]])
    assert solution.evaluations == 1
    if allowed < 3:
        assert AdaptiveJump(tolerance=tolerance).solve(heads, state, [0.0, gaps[allowed] + 0.01]).evaluations == 2


def test_a_tighter_tolerance_costs_more_and_errs_less() -> None:
    class Kepler:
        """Average velocities of a phase with unit period, from a closed form that bends: z(t) = sin t of the clock."""

        gaps = tuple(0.05 * 2**k for k in range(6))

        def rates(self, times: Sequence[float] | Tensor, states: Tensor, moving: Sequence[bool]) -> Tensor:
            at = torch.as_tensor(times, dtype=torch.float64).expand(states.shape[:2])
            rates = [(torch.sin((at + gap) ** 2) - torch.sin(at**2)) / gap for gap in self.gaps]
            return torch.stack(rates, dim=2)[..., None]

    times = [0.0, *np.linspace(0.031, 3.0, 40).tolist()]
    truth = torch.sin(torch.tensor(times) ** 2)
    found = []
    for tolerance in (0.3, 0.03, 0.003):
        solution = AdaptiveJump(tolerance=tolerance).solve(Kepler(), torch.zeros(1, 1, dtype=torch.float64), times)
        found.append((solution.evaluations, float((solution.trajectory.states.flatten() - truth).abs().max())))
    evaluations, errors = zip(*found, strict=True)
    assert evaluations[0] < evaluations[1] < evaluations[2]
    assert errors[0] > errors[1] > errors[2]


@given(st.permutations(range(3)), st.integers(1, 3))
def test_a_sample_does_not_depend_on_its_batch(order: list[int], count: int) -> None:
    solver, times = AdaptiveJump(tolerance=0.02), [0.0, 0.33, 1.7]
    together = solver.solve(RowPolynomials(PARABOLAS), START, times)
    chosen = torch.tensor(order[:count])
    some = solver.solve(RowPolynomials(PARABOLAS[chosen]), START[chosen], times)
    assert torch.equal(some.trajectory.states, together.trajectory.states[chosen])
    assert some.samples == tuple(together.samples[i] for i in chosen.tolist())


def test_samples_that_arrived_are_dropped_where_rows_can_be_had() -> None:
    times, solver = [0.0, 2.0], AdaptiveJump(tolerance=0.01)
    rough = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 2.0]], dtype=torch.float64)
    whole, some = Polynomials(rough), RowPolynomials(rough)
    kept, dropped = solver.solve(whole, START[:2], times), solver.solve(some, START[:2], times)
    assert torch.equal(kept.trajectory.states, dropped.trajectory.states)
    assert [len(at) for at in whole.asked] == [2] * kept.depth
    assert kept.evaluations == kept.depth == dropped.depth
    needed = [report.evaluations for report in dropped.samples]
    assert needed[0] < needed[1]
    assert dropped.evaluations == sum(needed) / 2 < kept.evaluations


def test_one_read_per_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, ...]] = []
    original = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: (reads.append(tuple(self.shape)), original(self))[1])
    solution = AdaptiveJump(tolerance=0.0).solve(Polynomials(PARABOLAS), START, [0.0, 1.0])
    # Estimates have a row per sample and a column per gap; the times of a trajectory are on the host already.
    assert [shape for shape in reads if len(shape) > 1] == [(3, 4)] * 10
    assert solution.depth == 10


def test_gaps_of_one_sign_are_enough_to_go_their_way() -> None:
    heads, times = decay_map(gaps=(-0.4, -0.2, -0.1)), [1.0, 0.75, 0.33, 0.0]
    for solver in (Jump(), AdaptiveJump(tolerance=0.0), AdaptiveJump(tolerance=1.0)):
        states = solver.solve(heads, START, times).trajectory.states
        assert torch.allclose(states[:, -1], START * math.e, rtol=2e-3)


@pytest.mark.parametrize("solver", [Jump(), AdaptiveJump()])
def test_states_may_have_any_shape(solver: Jump) -> None:
    for shape in ((3,), (3, 2), (3, 2, 1, 4)):
        states = solver.solve(decay_map(), torch.ones(shape, dtype=torch.float64), [0.0, 0.2, 0.8]).trajectory.states
        assert states.shape == (3, 3, *shape[1:])
        assert torch.allclose(states[:, 2], torch.full(shape, math.exp(-0.8), dtype=torch.float64))


def test_gradients_pass_through_jumps() -> None:
    def end(start: Tensor, rate: Tensor, solver: Jump) -> Tensor:
        class Decay:
            gaps = (0.1, 0.2, 0.4)

            def rates(self, times: object, states: Tensor, moving: Sequence[bool]) -> Tensor:
                return torch.stack([states * torch.expm1(-rate * gap) / gap for gap in self.gaps], dim=2)

        return solver.solve(Decay(), start, [0.0, 0.37, 0.9]).trajectory.states

    start = START.clone().requires_grad_()
    rate = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    for solver in (Jump(), AdaptiveJump(tolerance=0.01)):
        assert torch.autograd.gradcheck(lambda *inputs, s=solver: end(*inputs, s), (start, rate))


def test_a_sample_whose_heads_break_leaves_the_others_whole() -> None:
    broken = PARABOLAS.clone()

    class Breaking(Polynomials):
        def rates(self, times: Sequence[float] | Tensor, states: Tensor, moving: Sequence[bool]) -> Tensor:
            rates = super().rates(times, states, moving).clone()
            rates[1, torch.as_tensor(times)[1] > 0.75] = math.nan
            return rates

    solver, times = AdaptiveJump(tolerance=0.0), [0.0, 0.5, 2.0]
    solution = solver.solve(Breaking(broken), START, times)
    assert [report.status == "complete" for report in solution.samples] == [True, False, True]
    whole = expected(Polynomials(PARABOLAS), times)
    assert torch.allclose(solution.trajectory.states[[0, 2]], whole[[0, 2]], atol=1e-9)
    assert torch.allclose(solution.trajectory.states[1, :2], whole[1, :2], atol=1e-9)
    assert torch.isnan(solution.trajectory.states[1, 2]).all()
    with pytest.raises(SolveError, match=r"heads are not finite .* in sample 1"):
        solution.require()


def test_the_weights_can_be_chosen() -> None:
    gaps = (0.1, 0.2)
    rule = lambda h: one_hot(gaps, 0.1)  # noqa: E731
    exact, first = (Jump(weights=w).solve(decay_map(gaps=gaps), START, [0.0, 0.2]) for w in (None, rule))
    assert torch.allclose(exact.trajectory.states[:, 1], START * math.exp(-0.2))
    assert torch.allclose(first.trajectory.states[:, 1], START * (1 + 2 * math.expm1(-0.1)))


@pytest.mark.parametrize("solver", [Jump(), AdaptiveJump()])
def test_what_cannot_jump_is_refused(solver: Jump) -> None:
    with pytest.raises(ValueError, match="Jumps need a flow map"):
        solver.solve(lambda time, state: -state, START, [0.0, 1.0])
    with pytest.raises(ValueError, match="run backward, but no gap does"):
        solver.solve(decay_map(gaps=(0.1, 0.2)), START, [1.0, 0.0])
    with pytest.raises(ValueError, match="NaN or infinity in sample 2"):
        solver.solve(decay_map(), torch.tensor([[0.0], [1.0], [math.nan]]), [0.0, 1.0])
    assert solver.solve(decay_map(), START, [0.3]).evaluations == 0


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="tolerance >= 0"):
        AdaptiveJump(tolerance=-1.0)
    with pytest.raises(ValueError, match="two gaps or more"):
        AdaptiveJump().solve(decay_map(gaps=(0.1,)), START, [0.0, 1.0])
