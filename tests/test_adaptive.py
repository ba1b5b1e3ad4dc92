"""Adaptive methods: tolerances, orders, dense output, and samples that do not see each other."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowvid.dynamics.drift import RowWise
from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.solve import adaptive
from flowvid.solve.adaptive import Adaptive, adaptive_methods
from flowvid.solve.control import StepControl
from flowvid.solve.solution import SolveError
from flowvid.solve.tableau import ADAPTIVE_TABLEAUS

METHODS = sorted(ADAPTIVE_TABLEAUS)
STAGES = {"bosh3": 4, "dopri5": 7, "tsit5": 7}
CONTROLLED = {"bosh3": 3, "dopri5": 5, "tsit5": 5}
RATES = torch.tensor([0.3, 40.0, 2.0, 9.0], dtype=torch.float64)


def column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def pull(time: Tensor, state: Tensor) -> Tensor:
    """dz/dt = -z^2 (1 + cos 3t): nonlinear, and the time matters."""
    return -(state**2) * (1 + torch.cos(3 * column(time, state)))


def pulled(start: Tensor, time: float, begin: float = 0.0) -> Tensor:
    return 1 / (1 / start + time - begin + (math.sin(3 * time) - math.sin(3 * begin)) / 3)


def swing(time: Tensor, state: Tensor, rate: Tensor) -> Tensor:
    """Elementwise, with a rate for each sample."""
    rate = column(rate, state)
    return rate * torch.sin(rate * column(time, state) - 2 * state) - state


def singular_at(moment: Tensor) -> RowWise:
    """NaN from a moment on, another one for each sample."""
    return RowWise(
        lambda time, state, moment: torch.where(column(time >= moment, state) > 0, math.nan, -state), (moment,)
    )


def spread(batch: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(0.5, 2.0, batch * math.prod(shape), dtype=torch.float64).reshape(batch, *shape).to(dtype)


def forced(time: Tensor, state: Tensor) -> Tensor:
    """dz/dt = -z + sin 3t."""
    return torch.sin(3 * column(time, state)) - state


def forced_solution(start: Tensor, time: float) -> Tensor:
    return (start + 0.3) * math.exp(-time) + (math.sin(3 * time) - 3 * math.cos(3 * time)) / 10


class Log:
    """A drift that notes what it is asked."""

    def __init__(self, drift: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.drift = drift
        self.times: list[Tensor] = []
        self.answers: list[Tensor] = []

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        assert time.dtype == torch.float64
        assert time.shape == (len(state),)
        self.times.append(time.clone())
        self.answers.append(self.drift(time, state))
        return self.answers[-1]


def same(first: Tensor, second: Tensor) -> bool:
    """Equal to the last bit, NaN and all."""
    return first.shape == second.shape and bool(((first == second) | (first.isnan() & second.isnan())).all())


# Accuracy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("times", [[0.0, 0.07, 0.3, 1.0, 4.0], [1.0, 0.8, -0.4]])
def test_tolerances_are_met_at_every_output_forward_and_backward(method: str, times: list[float]) -> None:
    start, tolerances = spread(3, 2), np.array([1e-4, 1e-6, 1e-8])
    errors = []
    for tolerance in tolerances:
        how = Adaptive(method=method, rtol=tolerance, atol=tolerance)
        solution = how.solve(pull, start if times[0] == 0 else start / 8, times)
        expected = torch.stack([pulled(solution.trajectory.states[:, 0], time, times[0]) for time in times], dim=1)
        errors.append((solution.trajectory.states - expected).abs().max().item())
        assert solution.trajectory.times.tolist() == times
        assert solution.require() is solution
    assert (errors < 10 * tolerances).all()
    assert np.polyfit(np.log(tolerances), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_forced_steps_show_the_order_of_the_method_and_of_its_dense_output(method: str) -> None:
    counts, start = np.array([16, 32, 64]), spread(2, 1)
    between = np.linspace(0.02, 1.97, 23).tolist()
    ends, inside = [], []
    for count in counts.tolist():
        step = 2.0 / count
        how = Adaptive(method=method, rtol=1e3, atol=1e3, first_step=step, longest_step=step, dense=True)
        solution = how.solve(forced, start, [0.0, 2.0])
        assert (solution.accepted, solution.rejected) == (count, 0)
        ends.append((solution.trajectory.states[:, -1] - forced_solution(start, 2.0)).abs().max().item())
        inside.append(max((solution.dense(time) - forced_solution(start, time)).abs().max().item() for time in between))
    for errors in (ends, inside):
        assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(CONTROLLED[method], abs=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_a_foreign_solver_agrees(method: str) -> None:
    def hunted(time: float, state: np.ndarray) -> list[float]:
        prey, hunters = state
        return [prey * (1.5 - hunters), hunters * (prey - 3 + math.sin(time))]

    def rows(time: Tensor, state: Tensor) -> Tensor:
        prey, hunters = state.unbind(dim=1)
        return torch.stack((prey * (1.5 - hunters), hunters * (prey - 3 + torch.sin(time))), dim=1)

    times = [0.0, 1.0, 2.5, 4.0]
    start = np.array([[1.0, 1.0], [4.0, 0.5]])
    tolerance = 1e-7 if method == "bosh3" else 1e-10
    states = Adaptive(method=method, rtol=tolerance, atol=tolerance).solve(rows, torch.tensor(start), times)
    for row, state in enumerate(start):
        answer = solve_ivp(hunted, (0.0, 4.0), state, "DOP853", t_eval=times, rtol=1e-12, atol=1e-12).y.T
        assert np.abs(states.trajectory.states[row].numpy() - answer).max() < 100 * tolerance


@pytest.mark.parametrize("method", METHODS)
def test_the_way_back_ends_where_the_way_out_began(method: str) -> None:
    tolerance = 1e-7 if method == "bosh3" else 1e-9
    how, start = Adaptive(method=method, rtol=tolerance, atol=tolerance), spread(2, 3)
    out = how.solve(pull, start, [0.2, 1.7]).trajectory.states[:, -1]
    assert torch.allclose(
        how.solve(pull, out, [1.7, 0.2]).trajectory.states[:, -1], start, rtol=0, atol=100 * tolerance
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("estimated", [True, False])
def test_time_has_no_preferred_direction(method: str, estimated: bool) -> None:
    how, start = Adaptive(method=method, first_step=None if estimated else 0.1, dense=True), spread(3, 2)
    there = how.solve(pull, start, [0.0, 0.4, 1.5])
    mirrored = how.solve(lambda time, state: -pull(-time, state), start, [0.0, -0.4, -1.5])
    assert torch.equal(there.trajectory.states, mirrored.trajectory.states)
    assert there.samples == mirrored.samples
    assert torch.equal(there.dense(0.77), mirrored.dense(-0.77))


# Dense output


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_dense_output_is_within_tolerance_and_joins_the_outputs(method: str, sign: float) -> None:
    drift = RowWise(lambda time, state, rate: -sign * column(rate, state) * state, (RATES,))
    how, start, times = Adaptive(method=method, rtol=1e-7, atol=1e-9, dense=True), spread(4, 3), [0.0, 0.3, 1.0]
    solution = how.solve(drift, start, [sign * time for time in times])
    for time in (0.0, 1e-9, 0.123, 0.3, 0.777, 1.0):
        exact = start * torch.exp(-column(RATES, start) * time)
        assert torch.allclose(solution.dense(sign * time), exact, rtol=0, atol=1e-6)
    for number, time in enumerate(times):
        assert torch.allclose(solution.dense(sign * time), solution.trajectory.states[:, number], rtol=0, atol=1e-14)
    for outside in (-0.01, 1.01):
        with pytest.raises(ValueError, match="Solve over a longer time"):
            solution.dense(sign * outside)


def test_dense_output_costs_no_evaluations_and_is_absent_unless_asked_for() -> None:
    plain, dense = (Adaptive(dense=dense).solve(pull, spread(2, 2), [0.0, 1.0]) for dense in (False, True))
    assert plain.dense is None
    assert plain.samples == dense.samples
    assert torch.equal(plain.trajectory.states, dense.trajectory.states)


# Samples do not see each other


@settings(max_examples=25)
@given(
    st.sampled_from(METHODS),
    st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=4),
    st.sampled_from([(1,), (7,), (3, 5), ()]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.booleans(),
)
def test_a_sample_alone_is_the_sample_in_its_batch_to_the_last_bit(
    method: str, rates: list[float], shape: tuple[int, ...], dtype: torch.dtype, rows: bool
) -> None:
    how = Adaptive(method=method, rtol=1e-2, atol=1e-2, dense=True)
    rate, times = torch.tensor(rates, dtype=torch.float64), [0.1, 0.4, 0.8]
    start = spread(len(rates), *shape, dtype=dtype)

    def solved(index: slice) -> tuple[Tensor, Tensor, tuple]:
        drift = RowWise(swing, (rate[index],))
        solution = how.solve(drift if rows else lambda *given: drift(*given), start[index], times)
        return solution.trajectory.states, solution.dense(0.7), solution.samples

    together = solved(slice(None))
    for number in range(len(rates)):
        alone = solved(slice(number, number + 1))
        assert torch.equal(alone[0], together[0][number : number + 1])
        assert torch.equal(alone[1], together[1][number : number + 1])
        assert alone[2] == together[2][number : number + 1]


@settings(max_examples=8)
@given(st.permutations(range(4)), st.booleans())
def test_the_order_of_samples_does_not_matter(order: list[int], rows: bool) -> None:
    start = spread(4, 5, dtype=torch.float32)

    def solved(index: list[int]) -> tuple[Tensor, tuple]:
        drift = RowWise(swing, (RATES[index],))
        solution = Adaptive().solve(drift if rows else lambda *given: drift(*given), start[index], [0.0, 0.2, 0.5])
        return solution.trajectory.states, solution.samples

    (states, samples), (shuffled, reports) = solved([0, 1, 2, 3]), solved(order)
    assert torch.equal(states[order], shuffled)
    assert tuple(samples[number] for number in order) == reports


@pytest.mark.parametrize("size", [33_000, 70_001])
def test_large_states_do_not_depend_on_their_batch_either(size: int) -> None:
    start, rate = spread(3, size, dtype=torch.float32), RATES[:3] / 10
    together = Adaptive(rtol=1e-5).solve(RowWise(swing, (rate,)), start, [0.0, 0.5]).trajectory.states
    for number in range(3):
        alone = Adaptive(rtol=1e-5).solve(
            RowWise(swing, (rate[number : number + 1],)), start[number : number + 1], [0.0, 0.5]
        )
        assert torch.equal(alone.trajectory.states[0], together[number])


def test_finished_samples_are_dropped_where_the_drift_can_be_had_for_the_others() -> None:
    asked = []

    def noted(time: Tensor, state: Tensor, rate: Tensor) -> Tensor:
        asked.append(len(state))
        return swing(time, state, rate)

    start, times = spread(4, 5), [0.0, 0.3, 1.0]
    drift = RowWise(noted, (RATES,))
    dropped = Adaptive(rtol=1e-6, atol=1e-6).solve(drift, start, times)
    evaluations = [report.evaluations for report in dropped.samples]
    assert sum(asked) == sum(evaluations) == 4 * dropped.evaluations
    assert len(asked) == dropped.depth == max(evaluations)
    asked.clear()
    kept = Adaptive(rtol=1e-6, atol=1e-6).solve(lambda time, state: drift(time, state), start, times)
    assert asked == [4] * dropped.depth
    assert kept.evaluations == kept.depth == dropped.depth > 1.5 * dropped.evaluations
    assert torch.equal(kept.trajectory.states, dropped.trajectory.states)
    assert kept.samples == dropped.samples


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first_step", [None, 0.01])
def test_evaluations_are_those_that_were_made(method: str, first_step: float | None) -> None:
    log = Log(lambda time, state: -50 * (state - torch.cos(20 * column(time, state))))
    solution = Adaptive(method=method, first_step=first_step).solve(log, spread(1, 2), [0.0, 1.0])
    (report,) = solution.samples
    assert report.rejected == solution.rejected > 0
    assert report.accepted == solution.accepted > report.rejected
    assert len(log.times) == solution.evaluations == solution.depth == report.evaluations
    tried = report.accepted + report.rejected
    assert report.evaluations == (2 if first_step is None else 1) + (STAGES[method] - 1) * tried


def test_averages_are_averages() -> None:
    solution = Adaptive().solve(RowWise(swing, (RATES,)), spread(4, 2), [0.0, 1.0])
    assert solution.accepted == np.mean([report.accepted for report in solution.samples])
    assert solution.rejected == np.mean([report.rejected for report in solution.samples]) > 0
    assert len({report.accepted for report in solution.samples}) == 4


# Times


@given(
    st.sampled_from(METHODS),
    st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=8, unique=True).map(sorted),
    st.booleans(),
    st.booleans(),
)
def test_output_times_are_met_exactly_and_none_is_asked_beyond(
    method: str, ticks: list[int], backward: bool, wild: bool
) -> None:
    times = [tick / 999_983 for tick in (reversed(ticks) if backward else ticks)]
    log = Log(lambda time, state: 1e4 * torch.sin(state + 30 * column(time, state)) if wild else -state)
    solution = Adaptive(method=method, rtol=1e-2, atol=1e-2, max_steps=25).solve(log, spread(2, 1), times)
    asked = torch.stack(log.times)
    assert min(times) <= asked.min()
    assert asked.max() <= max(times)
    assert asked[0].tolist() == [times[0]] * 2
    if solution.complete:
        for row in range(2):
            assert set(times) <= set(asked[:, row].tolist())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_probe_for_the_first_step_stays_within_the_times(sign: float) -> None:
    """A drift so slow that the probe goes as far as it may, from times with start + (end - start) > end in float64."""
    ends = np.sort(np.random.default_rng(0).uniform(-1, 1, (200, 2)).round(3), axis=1)
    ends = ends[ends[:, 0] + (ends[:, 1] - ends[:, 0]) > ends[:, 1]].tolist()
    assert len(ends) > 2
    for start, end in ends[:5]:
        log = Log(lambda time, state: 1e-2 * state)
        Adaptive().solve(log, spread(1, 1), [sign * start, sign * end])
        assert max(sign * time.item() for time in log.times) == end


def test_many_output_times_do_not_keep_steps_short() -> None:
    how = Adaptive(rtol=1e-6, atol=1e-6)
    free = how.solve(pull, spread(1, 2), [0.0, 2.0]).accepted
    few, many = [0.0, 0.9, 0.9 + 1e-7, 2.0], [number / 200 for number in range(401)]
    assert how.solve(pull, spread(1, 2), few).accepted <= free + 3
    assert how.solve(pull, spread(1, 2), many).accepted == pytest.approx(400, abs=15)


def test_no_step_is_longer_than_allowed() -> None:
    log = Log(lambda time, state: torch.ones_like(state))
    solution = Adaptive(longest_step=0.125, first_step=4.0).solve(log, spread(1, 1), [0.0, 1.0, 1.06])
    assert solution.accepted == 9
    assert solution.trajectory.states[0, -1].item() == pytest.approx(1.56)
    assert max(np.diff(torch.unique(torch.cat(log.times)).numpy())) <= 0.125


@pytest.mark.parametrize("method", METHODS)
def test_the_first_step_is_that_of_the_textbook(method: str) -> None:
    """z = 2, f = -3z, tolerances 1e-3: h0 = 0.01 / 3, then (0.01 / max(d1, d2))^(1/p)."""
    log = Log(lambda time, state: -3 * state)
    Adaptive(method=method, rtol=1e-3, atol=1e-3).solve(log, torch.full((1, 4), 2.0, dtype=torch.float64), [0.0, 9.0])
    assert log.times[1].item() == pytest.approx(0.01 / 3)
    node = ADAPTIVE_TABLEAUS[method].c[1]
    expected = (0.01 / (2 * 9 / 3e-3)) ** (1 / CONTROLLED[method])
    assert log.times[2].item() == pytest.approx(node * min(expected, 1 / 3), rel=1e-5)


def test_a_step_taken_back_leaves_no_trace_on_the_others() -> None:
    control, rows = StepControl(np.array([0.0, 1e3]), 3, order=5, longest=math.inf, max_steps=10), np.arange(3)
    control.begin(np.ones(3))
    control.plan()
    control.judge(rows, np.array([2.0, 0.5, 0.5]), together=True)
    control.advance()
    control.plan()
    before = [control.length[:2].copy(), control.before[:2].copy(), control.time[:2].copy()]
    control.judge(rows, np.array([0.1, 0.1, math.nan]), together=True)
    control.advance()
    assert not control.accepted.any()
    assert np.array_equal(before, [control.length[:2], control.before[:2], control.time[:2]])
    assert (control.taken.tolist(), control.rejected.tolist()) == ([0, 1, 1], [1, 0, 1])
    control.plan()
    length = control.length
    control.judge(rows, np.full(3, 1e-9), together=True)
    assert control.length / length == pytest.approx([1, 10, 1])


@pytest.mark.parametrize("method", METHODS)
def test_the_norm_is_that_of_the_textbook(method: str) -> None:
    """rms(sum_i e_i k_i / (atol + rtol max(|z|, |z_new|))), per second of the step."""
    tableau, how = ADAPTIVE_TABLEAUS[method], Adaptive(method=method, rtol=0.1, atol=0.02)
    state, new, *stages = torch.randn(2 + STAGES[method], 3, 4, generator=torch.Generator().manual_seed(0)).double()
    error = sum(weight * stage for weight, stage in zip(tableau.error, stages, strict=True))
    scaled = error.numpy() / (0.02 + 0.1 * np.maximum(np.abs(state.numpy()), np.abs(new.numpy())))
    norms = adaptive._read(adaptive._errors(how, tableau, state, new, stages))
    assert norms == pytest.approx(np.sqrt((scaled**2).mean(axis=1)), rel=1e-6)


def test_norms_do_not_depend_on_the_order_of_summation() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(99, 1000, generator=generator, dtype=torch.float64).exp()
    shuffled = values[:, torch.randperm(1000, generator=generator)].contiguous()
    sums = [adaptive._mean_square(order) for order in (values, shuffled, values.flip(1))]
    assert not torch.equal(sums[0], sums[1])
    norms = [adaptive._read(order).tolist() for order in sums]
    assert norms[0] == norms[1] == norms[2]


def test_sizes_follow_the_controller() -> None:
    """h 0.9 norm^(-0.85/p) before^(0.2/p) after a success, h 0.9 norm^(-1/p) after a failure, no growth after that."""
    control = StepControl(np.array([0.0, 1e3]), 5, order=5, longest=math.inf, max_steps=10)
    control.begin(np.ones(5))
    rows, before = np.arange(5), np.full(5, 1e-4)
    control.plan()
    control.judge(rows, np.array([0.3, 4.0, 1e-9, 1e9, np.nan]), together=False)
    assert control.accepted.tolist() == [True, False, True, False, False]
    expected = [0.9 * 0.3**-0.17 * before[0] ** 0.04, 0.9 * 4.0**-0.2, 10.0, 0.2, 0.2]
    assert control.length == pytest.approx(expected)
    control.advance()
    control.plan()
    assert control.time.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    length = control.length
    control.judge(rows, 0.5 / length, together=False)
    assert control.accepted.all()
    memory = np.array([0.3, 1e-4, 1e-4, 1e-4, 1e-4]) ** 0.04
    assert control.length / length == pytest.approx(0.9 * 0.5**-0.17 * memory)
    for norms, factors in (
        ([2.0, 1.0, 1e-9, 1.0, 1.0], [0.9 * 2.0**-0.2, 0.9, 10, 0.9, 0.9]),
        ([1e-9] * 5, [1, 10, 10, 10, 10]),
    ):
        control.before[:] = 1.0
        control.advance()
        control.plan()
        length = control.length
        control.judge(rows, np.array(norms) / np.abs(control.step), together=False)
        assert control.length / length == pytest.approx(factors)


def test_the_host_reads_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(TorchDispatchMode):
        waits = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.name()
            self.waits += name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")
            return func(*args, **(kwargs or {}))

    reads = []
    monkeypatch.setattr(adaptive, "_read", lambda norms, read=adaptive._read: reads.append(norms) or read(norms))
    waits, counts = [], []
    for tolerance in (1e-2, 1e-7):
        reads.clear()
        with Counted() as counted:
            solution = Adaptive(rtol=tolerance, atol=tolerance).solve(RowWise(pull), spread(3, 2), [0.0, 0.5, 2.0])
        waits.append(counted.waits)
        counts.append(len(reads))
        assert len(reads) == 2 + (solution.depth - 2) // 6
    assert waits[0] == waits[1]
    assert counts[1] > 2 * counts[0]


# Samples that stop


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_sample_that_breaks_down_leaves_the_others_whole(method: str, rows: bool) -> None:
    how, times = Adaptive(method=method, dense=True), [0.0, 0.25, 0.5, 1.0]
    moments = torch.tensor([9.0, 0.0, 9.0, 0.6, 9.0], dtype=torch.float64)
    drift, start = singular_at(moments), spread(5, 3)
    solution = how.solve(drift if rows else lambda *given: drift(*given), start, times)
    states = solution.trajectory.states
    for number in (0, 2, 4):
        alone = how.solve(singular_at(moments[number : number + 1]), start[number : number + 1], times)
        assert torch.equal(alone.trajectory.states[0], states[number])
        assert torch.equal(alone.dense(0.9)[0], solution.dense(0.9)[number])
        assert alone.samples == solution.samples[number : number + 1]
    assert states.isnan().all(dim=2).tolist() == [
        [False] * 4,
        [False, True, True, True],
        [False] * 4,
        [False, False, False, True],
        [False] * 4,
    ]
    assert solution.dense(0.9).isnan().any(dim=1).tolist() == [False, True, False, True, False]
    assert not solution.dense(0.0).isnan().any()
    assert solution.samples[1].status == "stopped at 0 s: the drift is not finite there"
    assert solution.samples[1].evaluations == 1
    assert solution.samples[3].status.startswith("stopped at 0.6 s: the drift or the state is not finite")
    assert solution.status.startswith("samples 1, 3 of 5 did not finish: sample 1 stopped at 0 s")
    assert not solution.complete
    with pytest.raises(SolveError, match=r"sample 3 stopped at 0\.6 s"):
        solution.require()


def test_a_state_that_overflows_is_noticed_though_its_drift_is_finite() -> None:
    def steep(time: Tensor, state: Tensor) -> Tensor:
        return torch.full_like(state, 1e30)

    solution = Adaptive(max_steps=50).solve(steep, spread(2, 2, dtype=torch.float32), [0.0, 1e8, 1e9])
    assert solution.trajectory.states[:, 1].isfinite().all()
    assert solution.trajectory.states[:, 2].isnan().all()


def test_a_singularity_is_reported_where_it_is() -> None:
    start = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    solution = Adaptive().solve(lambda time, state: state**2, start, [0.0, 1.5])
    assert solution.samples[0].status == "complete"
    assert solution.trajectory.states[0, -1].item() == pytest.approx(2.0, rel=1e-2)
    assert float(solution.samples[1].status.split()[2]) == pytest.approx(1.0, abs=1e-2)
    assert solution.samples[1].accepted + solution.samples[1].rejected < 500


def test_a_step_below_the_rounding_of_time_is_reported() -> None:
    """A jump in the drift that no step resolves: every error estimate across it is above the tolerance."""

    def jump(time: Tensor, state: Tensor) -> Tensor:
        return torch.where(column(time, state) < 0.5, 0.0, 1e30).expand_as(state)

    solution = Adaptive(first_step=0.1).solve(jump, spread(1, 2), [0.0, 1.0])
    assert "fell below the rounding" in solution.status
    assert "stopped at 0.5 s" in solution.status


@pytest.mark.parametrize("budget", [1, 5, 20])
def test_the_budget_of_steps_is_kept_by_each_sample(budget: int) -> None:
    solution = Adaptive(rtol=1e-6, atol=1e-6, max_steps=budget).solve(
        RowWise(swing, (RATES,)), spread(4, 2), [0.0, 1.0]
    )
    stopped = [report for report in solution.samples if report.status != "complete"]
    assert stopped
    assert all(report.accepted + report.rejected == budget for report in stopped)
    assert all(f"max_steps={budget} steps were not enough" in report.status for report in stopped)
    assert all(report.accepted + report.rejected <= budget for report in solution.samples)
    assert (budget == 20) == any(report.status == "complete" for report in solution.samples)


def test_a_long_list_of_failures_is_cut() -> None:
    solution = Adaptive(dense=True).solve(singular_at(torch.zeros(11, dtype=torch.float64)), spread(11, 1), [0.0, 1.0])
    assert "and 3 more of 11 did not finish" in solution.status
    assert solution.dense(0.5).isnan().all()
    assert solution.status.count("stopped at") == 8


# Gradients


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_steps_taken(method: str) -> None:
    def ends(start: Tensor, rate: Tensor) -> Tensor:
        how = Adaptive(method=method, rtol=1e3, atol=1e3, first_step=0.25, longest_step=0.25, dense=True)
        drift = RowWise(lambda time, state, rate: torch.sin(column(rate, state) * state + column(time, state)), (rate,))
        solution = how.solve(drift, start, [0.0, 0.4, 1.0])
        return torch.cat((solution.trajectory.states[:, 1:], solution.dense(0.7)[:, None]), dim=1)

    start, rate = spread(3, 2).requires_grad_(), torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ends, (start, rate))


def root(time: Tensor, state: Tensor, speed: Tensor) -> Tensor:
    """dz/dt = -speed sqrt(z), so z = (sqrt(z0) - speed t / 2)^2 until it reaches zero; NaN below."""
    return -speed * torch.sqrt(state)


@pytest.mark.parametrize("rows", [True, False])
def test_a_trial_that_is_not_finite_poisons_no_gradient(rows: bool) -> None:
    start = torch.tensor([[0.6], [100.0], [4.0]], dtype=torch.float64, requires_grad=True)
    speed = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    log = Log(lambda time, state: root(time, state, speed))
    drift = RowWise(log) if rows else log
    how, end = Adaptive(rtol=1e-8, atol=1e-8, first_step=1.5), 1.5
    solution = how.solve(drift, start, [0.0, end])
    assert any(bool(answer.isnan().any()) for answer in log.answers)
    by_start, by_speed = torch.autograd.grad(solution.trajectory.states[:, -1].sum(), (start, speed))
    left = start.detach().sqrt() - end / 2
    assert torch.allclose(solution.trajectory.states[:, -1], left**2, atol=1e-6)
    assert torch.allclose(by_start, left / start.detach().sqrt(), atol=1e-5)
    assert by_speed.item() == pytest.approx(-(left * end).sum().item(), abs=1e-5)
    with torch.no_grad():
        free = how.solve(drift, start, [0.0, end])
    assert torch.equal(free.trajectory.states, solution.trajectory.states)
    assert free.samples == solution.samples
    assert free.depth <= solution.depth


def test_a_gradient_reaches_the_start_through_the_first_output() -> None:
    start = spread(2, 2).requires_grad_()
    Adaptive().solve(pull, start, [0.0, 1.0]).trajectory.states[:, 0].sum().backward()
    assert torch.equal(start.grad, torch.ones_like(start))


# States and types


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_half_states_are_carried_in_float32_and_drifts_see_their_own_type(dtype: torch.dtype) -> None:
    def seen(time: Tensor, state: Tensor) -> Tensor:
        assert state.dtype == dtype
        return torch.full_like(state, 0.001)

    solution = Adaptive(first_step=0.02, longest_step=0.02, dense=True).solve(
        seen, torch.ones(2, 3, dtype=dtype), [0.0, 4.0]
    )
    states = solution.trajectory.states
    assert states.dtype == solution.dense(4.0).dtype == dtype
    rate = torch.tensor(0.001, dtype=dtype).item()
    assert torch.allclose(states[:, -1].double(), torch.tensor(1 + 4 * rate, dtype=dtype).double(), atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4, 5)])
def test_states_have_any_shape(shape: tuple[int, ...]) -> None:
    start = spread(2, *shape)
    solution = Adaptive(rtol=1e-8, atol=1e-8, dense=True).solve(pull, start, [0.0, 1.0])
    assert solution.trajectory.states.shape == (2, 2, *shape)
    assert torch.allclose(solution.trajectory.states[:, -1], pulled(start, 1.0), atol=1e-6)
    assert solution.dense(0.5).shape == start.shape


def test_a_rate_may_come_in_any_layout_and_type() -> None:
    start = spread(2, 3, 4, dtype=torch.float32)
    odd = Adaptive().solve(lambda time, state: (-state.double()).mT.contiguous().mT, start, [0.0, 1.0])
    assert torch.equal(
        odd.trajectory.states, Adaptive().solve(lambda _, state: -state, start, [0.0, 1.0]).trajectory.states
    )


def test_a_drift_may_return_its_state_or_a_buffer_of_its_own() -> None:
    """Nothing the drift returned is written to."""
    start = spread(2, 2)
    kept = torch.ones_like(start)
    grown = Adaptive(rtol=1e-8, atol=1e-8).solve(lambda time, state: state, start, [0.0, 1.0]).trajectory.states
    Adaptive().solve(lambda time, state: kept, start, [0.0, 1.0])
    assert torch.allclose(grown[:, -1], start * math.e, atol=1e-6)
    assert torch.equal(kept, torch.ones_like(start))
    assert torch.equal(start, spread(2, 2))


def test_a_solution_does_not_change_with_the_state_it_began_from() -> None:
    start = spread(2, 2)
    solution = Adaptive(dense=True).solve(pull, start, [0.0, 1.0])
    early = solution.dense(1e-3)
    start.zero_()
    assert torch.equal(solution.dense(0.0), spread(2, 2))
    assert torch.equal(solution.dense(1e-3), early)
    assert torch.equal(solution.trajectory.states[:, 0], spread(2, 2))


@pytest.mark.parametrize("dense", [True, False])
def test_a_single_time_costs_nothing(dense: bool) -> None:
    start = spread(2, 3)
    solution = Adaptive(dense=dense).solve(pull, start, [0.7])
    assert torch.equal(solution.trajectory.states, start[:, None])
    assert (solution.evaluations, solution.depth, solution.accepted, solution.complete) == (0, 0, 0, True)
    assert all(report.evaluations == 0 for report in solution.samples)
    if dense:
        assert torch.equal(solution.dense(0.7), start)


def test_a_field_at_rest_stays_at_rest() -> None:
    solution = Adaptive().solve(lambda time, state: torch.zeros_like(state), torch.zeros(2, 3), [0.0, 1.0])
    assert torch.equal(solution.trajectory.states, torch.zeros(2, 2, 3))
    assert solution.rejected == 0
    assert solution.accepted < 12


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk4"}, "Unknown adaptive method 'rk4'; expected one of bosh3, dopri5, tsit5"),
        ({"rtol": -1e-3}, "rtol >= 0 and atol > 0"),
        ({"rtol": math.nan}, "rtol >= 0 and atol > 0"),
        ({"atol": 0.0}, "rtol >= 0 and atol > 0"),
        ({"atol": math.inf}, "rtol >= 0 and atol > 0"),
        ({"first_step": 0.0}, "positive seconds"),
        ({"longest_step": -1.0}, "positive seconds"),
        ({"longest_step": math.nan}, "positive seconds"),
        ({"max_steps": 0}, "max_steps >= 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adaptive(**options)


def test_drifts_that_do_not_fit_are_refused() -> None:
    class Stepped:
        def __call__(self, time: Tensor, state: Tensor) -> Tensor:
            return -state

        def callback_step(self, start: Tensor, state: Tensor, step: Tensor) -> None: ...

    for drift, message in (
        (Stepped(), "callback_step"),
        (lambda time, state: state[:, :1], "one rate of change for each entry"),
    ):
        with pytest.raises(ValueError, match=message):
            Adaptive().solve(drift, spread(2, 3), [0.0, 1.0])
    with pytest.raises(ValueError, match="no use for a volatility"):
        adaptive._check_drift(StochasticDrift(pull, pull))
    with pytest.raises(ValueError, match="NaN or infinity in sample 1"):
        Adaptive().solve(pull, torch.tensor([[1.0], [math.inf]]), [0.0, 1.0])
    with pytest.raises(ValueError, match="strictly"):
        Adaptive().solve(pull, spread(2, 3), [0.0, 1.0, 1.0])


def test_the_table_tells_what_each_method_costs() -> None:
    assert [method.name for method in adaptive_methods()] == ["bosh3", "dopri5", "tsit5"]
    for method in adaptive_methods():
        solver = method.make(rtol=1e-5)
        assert isinstance(solver, Adaptive)
        assert (solver.method, solver.rtol) == (method.name, 1e-5)
        assert (method.family, method.adaptive, method.source) == ("ode", True, "flowvid")
        assert method.order == CONTROLLED[method.name]
        assert method.evaluations.startswith(str(STAGES[method.name] - 1))
