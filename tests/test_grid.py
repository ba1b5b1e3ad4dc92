"""Runge-Kutta methods on a grid: orders, counts, exact times, cost, gradients and what is not finite."""

import math
import shutil
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowvid.solve.grid import Grid, grid_methods
from flowvid.solve.solution import SolveError
from flowvid.solve.tableau import ADAPTIVE_TABLEAUS, GRID_TABLEAUS, Tableau

METHODS = tuple(GRID_TABLEAUS)
STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "ralston": 2, "heun3": 3, "rk4": 4, "rk4-38": 4}
RALSTON3 = Tableau(
    name="ralston3",
    order=3,
    c=(0.0, 0.5, 0.75),
    a=((), (0.5,), (0.0, 0.75)),
    b=(2 / 9, 1 / 3, 4 / 9),
    source="Ralston, 1962",
)


def forced(time: Any, state: Tensor) -> Tensor:
    """dz/dt = -z + sin 3t."""
    return -state + math.sin(3 * time)


def falling(time: float, state: Tensor) -> Tensor:
    """dz/dt = -2 t z^2, solved by 1 / (1 + t^2)."""
    return -2 * time * state * state


def ones(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.ones(shape or (1, 1), dtype=dtype)


def noted(drift: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], list[float]]:
    """The drift, and the list of times at which it is asked."""
    asked: list[float] = []

    def noting(time: float, state: Tensor) -> Tensor:
        assert isinstance(time, float)
        asked.append(time)
        return drift(time, state)

    return noting, asked


class Operations(TorchDispatchMode):
    """Counts the operations that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "method", [*METHODS, *ADAPTIVE_TABLEAUS.values(), RALSTON3], ids=lambda one: getattr(one, "name", one)
)
def test_observed_order_is_the_order_of_the_method(method: str | Tableau) -> None:
    order = Grid(method=method).tableau.order
    steps = np.array([24, 32, 48, 64])
    errors = []
    for substeps in steps.tolist():
        reached = Grid(method=method, substeps=substeps).solve(falling, ones(), [0.0, 0.5, 1.5]).trajectory
        errors.append((reached.states[0, :, 0] - 1 / (1 + reached.times**2)).abs().max().item())
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.3)


a_thousand = st.tuples(st.just("euler"), st.integers(1, 1000), st.just(1))
a_few = st.tuples(st.sampled_from(METHODS), st.integers(1, 40), st.sampled_from([1, 2, 3, 7]))


@given(a_thousand | a_few)
def test_n_steps_are_n_steps(case: tuple[str, int, int]) -> None:
    method, count, substeps = case
    still = ones()
    drift, asked = noted(lambda time, state: still)
    times = [n * (1 / count) for n in range(count + 1)]
    solution = Grid(method=method, substeps=substeps).solve(drift, ones(), times)
    steps = count * substeps
    assert len(asked) == solution.evaluations == solution.depth == STAGES[method] * steps
    assert (solution.accepted, solution.rejected, solution.status) == (steps, 0, "complete")
    assert solution.trajectory.times.tolist() == times
    assert solution.trajectory.states.shape == (1, count + 1, 1)
    assert solution.trajectory.states[0, -1].item() == pytest.approx(1 + times[-1], abs=1e-11)


moments = st.lists(st.floats(-10, 10), min_size=2, max_size=40, unique=True)


@given(st.sampled_from(METHODS), moments.map(sorted), st.booleans())
def test_every_output_time_and_every_stage_at_it_is_met_to_the_last_bit(
    method: str, times: list[float], backward: bool
) -> None:
    times = times[::-1] if backward else times
    drift, asked = noted(lambda time, state: torch.zeros_like(state))
    Grid(method=method).solve(drift, ones(dtype=torch.float16), times)
    nodes = GRID_TABLEAUS[method].c
    for stage, node in enumerate(nodes):
        at = asked[stage :: len(nodes)]
        if node in (0, 1):
            assert at == (times[1:] if node else times[:-1])
        else:
            exact = [left + node * (right - left) for left, right in pairwise(times)]
            assert at == pytest.approx(exact, rel=1e-15, abs=1e-15)


def test_substeps_divide_each_interval_evenly() -> None:
    times = [0.0, 0.3, 1.0]
    drift, asked = noted(forced)
    coarse = Grid(method="euler", substeps=7).solve(drift, ones(), times).trajectory
    fine = [start + (stop - start) * j / 7 for start, stop in [(0.0, 0.3), (0.3, 1.0)] for j in range(7)]
    assert asked == fine
    whole = Grid(method="euler").solve(forced, ones(), [*fine, 1.0]).trajectory
    assert torch.equal(coarse.states, whole.at(*times).states)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("euler", "euler"), ("midpoint", "midpoint"), ("heun2", "heun2"), ("heun3", "heun3"), ("rk4-38", "rk4")],
)
def test_steps_are_those_of_torchdiffeq(ours: str, theirs: str) -> None:
    times = torch.tensor([0.0, 0.1, 0.25, 0.7, 1.0, 1.6], dtype=torch.float64)
    start = torch.linspace(-1, 2, 6, dtype=torch.float64).reshape(2, 3)

    def drift(time: float | Tensor, state: Tensor) -> Tensor:
        return torch.sin(state.flip(1) + 2 * time) - state * state / 4

    expected = torchdiffeq.odeint(lambda t, z: drift(t, z), start, times, method=theirs).transpose(0, 1)
    found = Grid(method=ours).solve(drift, start, times).trajectory.states
    assert (found - expected).abs().max().item() < 1e-14


@pytest.mark.parametrize(
    ("method", "count"),
    {"euler": 1, "midpoint": 2, "heun2": 3, "ralston": 3, "heun3": 4, "rk4": 7, "rk4-38": 10}.items(),
)
def test_a_step_is_a_few_operations_beside_the_drift(method: str, count: int) -> None:
    rate, start = ones(2, 3), ones(2, 3)

    def operations(steps: int) -> Counter[str]:
        with Operations() as seen:
            Grid(method=method, substeps=steps).march(lambda time, state: rate, start, [0.0, 0.5, 1.0])
        return seen.counts

    assert operations(10) - operations(5) == {"aten.add.Tensor": 10 * count}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_the_loop_reads_nothing(method: str, dtype: torch.dtype) -> None:
    """A state on the meta device has no numbers to read."""
    reached = Grid(method=method, substeps=2).march(
        forced, torch.empty(2, 3, device="meta", dtype=dtype), [0.0, 1.0, 3.0]
    )
    assert [state.device.type for state in reached] == ["meta"] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_the_loop_is_captured_as_a_cuda_graph(method: str) -> None:
    how, start, times = Grid(method=method, substeps=4), torch.randn(3, 5, device="cuda"), [0.0, 0.3, 1.0]
    expected = how.march(forced, start, times)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = how.march(forced, start, times)
    graph.replay()
    assert all(torch.equal(left, right) for left, right in zip(captured, expected, strict=True))


def test_a_solve_reads_as_often_whatever_its_length() -> None:
    def reads(steps: int) -> Counter[str]:
        with Operations() as seen:
            Grid(substeps=steps).solve(forced, ones(2, 3), [0.0, 0.5, 1.0])
        return Counter({name: count for name, count in seen.counts.items() if "nonzero" in name or "scalar" in name})

    assert reads(1) == reads(20)
    assert reads(1) == Counter({"aten._local_scalar_dense.default": 2})


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_a_thousand_steps_keep_only_the_states_asked_for(method: str) -> None:
    alive: list[weakref.ref] = []
    most = 0

    def watched(time: float, state: Tensor) -> Tensor:
        nonlocal most
        rate = -state
        alive[:] = [found for found in alive if found() is not None]
        alive.extend((weakref.ref(state), weakref.ref(rate)))
        most = max(most, len(alive))
        return rate

    with torch.no_grad():
        Grid(method=method, substeps=1000).solve(watched, ones(), [0.0, 1.0])
    assert most <= {"euler": 4, "rk4": 8}[method]


@given(st.sampled_from(METHODS), moments.map(sorted))
def test_time_runs_backward_as_well_as_forward(method: str, times: list[float]) -> None:
    """dz/dt = f(t, z) from t down is dz/ds = -f(-s, z) from s = -t up, to the last bit."""
    start = torch.linspace(-1, 1, 5, dtype=torch.float64)[None]
    down = Grid(method=method).solve(lambda t, z: torch.sin(z + t), start, times[::-1])
    up = Grid(method=method).solve(lambda s, z: -torch.sin(z - s), start, [-time for time in times[::-1]])
    assert torch.equal(down.trajectory.states, up.trajectory.states)
    assert down.trajectory.times.tolist() == times[::-1]


def test_backward_retraces_forward() -> None:
    times = [0.0, 0.4, 1.0]
    there = Grid(substeps=50).solve(forced, ones(), times).trajectory
    back = Grid(substeps=50).solve(forced, there.states[:, -1], times[::-1]).trajectory
    assert torch.allclose(back.states.flip(1), there.states, rtol=0, atol=1e-8)


@given(st.sampled_from(METHODS), st.permutations(range(5)), st.integers(0, 4), st.integers(1, 9))
def test_a_sample_depends_neither_on_its_place_nor_on_its_neighbours(
    method: str, order: list[int], padding: int, size: int
) -> None:
    generator = torch.Generator().manual_seed(size)
    start = torch.randn(5, size, generator=generator)
    how, times = Grid(method=method, substeps=2), [0.0, 0.3, 1.0]
    whole = how.solve(forced, start, times).trajectory.states
    filled = torch.cat([start[order], torch.randn(padding, size, generator=generator)])
    assert torch.equal(how.solve(forced, filled, times).trajectory.states[:5], whole[order])
    assert torch.equal(how.solve(forced, start[2:3], times).trajectory.states, whole[2:3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_a_thousand_small_steps_add_up_in_any_type(method: str, dtype: torch.dtype) -> None:
    def drift(time: float, state: Tensor) -> Tensor:
        assert state.dtype == dtype
        return torch.ones_like(state)

    asking, asked = noted(drift)
    states = Grid(method=method, substeps=1000).solve(asking, ones(2, 3, dtype=dtype), [0.0, 1.0]).trajectory.states
    assert states.dtype == dtype
    assert states[:, -1].flatten().tolist() == pytest.approx([2.0] * 6, abs=1e-4)
    assert len(set(asked)) == {"euler": 1000, "rk4": 2001}[method]


def test_half_precision_is_rounded_for_the_drift_alone() -> None:
    """A carried float32 state of a drift that works in bfloat16 inside is bit for bit the bfloat16 solve."""
    start = torch.linspace(-2, 2, 7).bfloat16()[None]
    half = Grid(substeps=3).solve(forced, start, [0.0, 0.3, 1.0]).trajectory.states
    full = Grid(substeps=3).solve(lambda t, z: forced(t, z.bfloat16()).float(), start.float(), [0.0, 0.3, 1.0])
    assert torch.equal(half, full.trajectory.states.bfloat16())


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 2, 2, 2)])
def test_states_have_any_shape(shape: tuple[int, ...]) -> None:
    start = torch.linspace(0, 1, math.prod(shape), dtype=torch.float64).reshape(shape)
    states = Grid(substeps=30).solve(lambda t, z: -z, start, [0.0, 1.0, 2.0]).trajectory.states
    assert states.shape == (shape[0], 3, *shape[1:])
    assert torch.equal(states[:, 0], start)
    assert torch.allclose(states[:, 2], start * math.exp(-2), atol=1e-6)


def test_one_time_needs_no_evaluation() -> None:
    solution = Grid(substeps=5).solve(forced, ones(), [0.3])
    assert solution.trajectory.states.tolist() == [[[1.0]]]
    assert (solution.evaluations, solution.depth, solution.accepted, solution.complete) == (0, 0, 0, True)


@pytest.mark.parametrize("tableau", ADAPTIVE_TABLEAUS.values(), ids=lambda tableau: tableau.name)
def test_a_last_stage_without_weight_is_not_evaluated(tableau: Tableau) -> None:
    drift, asked = noted(forced)
    how = Grid(method=tableau, substeps=2)
    solution = how.solve(drift, ones(), [0.0, 1.0, 2.0])
    assert len(asked) == solution.evaluations == 4 * how.stages == 4 * (tableau.stages - 1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_steps(method: str, recompute: bool) -> None:
    def end(start: Tensor, rate: Tensor) -> Tensor:
        how = Grid(method=method, substeps=2, checkpoint=recompute)
        states = how.solve(lambda t, z: torch.sin(rate * z + t), start, [0.0, 0.4, 1.0]).trajectory.states
        return states[:, 1:]

    start = torch.tensor([[0.3, -0.8]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(end, (start, torch.tensor([0.7], dtype=torch.float64, requires_grad=True)))


def graded(how: Grid, drift: Callable[[float, Tensor], Tensor], *leaves: Tensor) -> tuple[tuple[Tensor, ...], int]:
    """Gradients of a sum of squares of all states, and how many numbers were kept for them."""
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = how.solve(drift, leaves[0], [0.0, 0.4, 1.0]).trajectory.states.square().sum()
    return torch.autograd.grad(loss, leaves), kept


def test_a_checkpoint_gives_the_same_gradients_and_keeps_less() -> None:
    start, rate = (torch.linspace(-1, 1, 8)[None] + 0.1 * i for i in range(2))
    leaves = start.requires_grad_(), rate.requires_grad_()
    drift, asked = noted(lambda t, z: torch.tanh(torch.sin(rate * z) + t) * z)
    (direct, much), first = graded(Grid(substeps=8), drift, *leaves), len(asked)
    (again, little), second = graded(Grid(substeps=8, checkpoint=True), drift, *leaves), len(asked) - len(asked) // 3
    assert all(torch.equal(left, right) for left, right in zip(direct, again, strict=True))
    assert (first, second) == (64, 128)
    assert little < much / 8


def test_without_gradients_nothing_is_kept_or_asked_twice() -> None:
    drift, asked = noted(forced)
    with torch.no_grad():
        Grid(checkpoint=True).solve(drift, ones().requires_grad_(), [0.0, 1.0])
    assert len(asked) == 4


class Prepared:
    """A drift that needs to know the step before it is asked: a jump by the exact flow of dz/dt = -rate z."""

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate
        self.calls: list[tuple[float, torch.dtype, float]] = []
        self.weight: Tensor | None = None

    def callback_step(self, time: float, state: Tensor, step: float) -> None:
        self.calls.append((time, state.dtype, step))
        self.weight = torch.expm1(-self.rate * step) / step

    def __call__(self, time: float, state: Tensor) -> Tensor:
        assert self.weight is not None
        return self.weight.to(state.dtype) * state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_drift_is_told_of_each_step_before_it_is_asked(dtype: torch.dtype) -> None:
    drift = Prepared(torch.tensor(2.0, dtype=torch.float64))
    states = Grid(method="euler", substeps=2).solve(drift, ones(2, 3, dtype=dtype), [0.0, 1.0, 1.5]).trajectory.states
    assert drift.calls == [(0.0, dtype, 0.5), (0.5, dtype, 0.5), (1.0, dtype, 0.25), (1.25, dtype, 0.25)]
    assert states[0, :, 0].tolist() == pytest.approx(
        [1, math.exp(-2), math.exp(-3)], rel=1e-6 if dtype.itemsize == 4 else 2e-3
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_step_dependent_weights_have_the_gradients_of_the_jumps(recompute: bool) -> None:
    """A checkpoint that asked again without telling of the step would find the weights of the last one."""
    rate, start = torch.tensor(2.0, dtype=torch.float64, requires_grad=True), ones().requires_grad_()
    states = (
        Grid(method="euler", checkpoint=recompute).solve(Prepared(rate), start, [0.0, 1.0, 1.2, 1.9]).trajectory.states
    )
    found = torch.autograd.grad(states[0, -1, 0], (rate, start))
    assert [gradient.item() for gradient in found] == pytest.approx([-1.9 * math.exp(-3.8), math.exp(-3.8)])


@pytest.mark.parametrize("method", [name for name in METHODS if STAGES[name] > 1])
def test_weights_for_a_whole_step_are_refused_inside_it(method: str) -> None:
    with pytest.raises(ValueError, match=f"callback_step.*but {method} asks it inside the step.*Use euler"):
        Grid(method=method).solve(Prepared(torch.tensor(1.0)), ones(), [0.0, 1.0])


def broken(time: float, state: Tensor) -> Tensor:
    """NaN from 0.6 s on for sample 1, infinity from 0.9 s on for samples 1 and 3."""
    rate = -state
    rate[1] = math.nan if time >= 0.6 else rate[1]
    rate[[1, 3]] = math.inf if time >= 0.9 else rate[[1, 3]]
    return rate


@pytest.mark.parametrize(("method", "seen"), [("euler", "0.6"), ("midpoint", "0.6"), ("rk4", "0.6"), ("heun3", "0.6")])
def test_the_first_time_and_the_samples_of_what_is_not_finite_are_named(method: str, seen: str) -> None:
    times, start = [0.0, 0.2, 0.5, 0.8, 1.1], torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]
    how = Grid(method=method, substeps=3)
    solution = how.solve(broken, start, times)
    assert (
        f"{method} did not finish: the drift returned NaN or infinity at {seen} s in sample 1; look" in solution.status
    )
    assert "samples 1, 3 (of 5) stopped being finite by 1.1 s" in solution.status
    unknown = torch.zeros(5, 5, dtype=torch.bool)
    unknown[1, 3:] = unknown[3, 4:] = True
    assert torch.equal(solution.trajectory.states[..., 0].isnan(), unknown)
    alone = how.solve(lambda time, state: -state, start, times).trajectory.states
    assert torch.equal(solution.trajectory.states[~unknown], alone[~unknown])
    assert solution.evaluations == 12 * STAGES[method]
    with pytest.raises(SolveError, match="in sample 1") as refused:
        solution.require()
    assert refused.value.solution is solution


def test_stage_times_off_the_grid_are_named_too() -> None:
    solution = Grid().solve(lambda t, z: z / (t - 0.5), ones(2, 1), [0.0, 1.0, 2.0])
    assert "the drift returned NaN or infinity at 0.5 s in samples 0, 1; look" in solution.status
    assert not solution.complete


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("times", "substeps"), [([0.0, 2.0, 4.0, 6.0], 2), ([0.0, 1.0, 2.0, 3.0], 1)])
def test_a_state_out_of_range_is_told_from_a_drift_that_is_not_finite(
    dtype: torch.dtype, times: list[float], substeps: int
) -> None:
    """Two fifths of the largest number in each step are too much after three of them."""
    rate = torch.tensor([[0.0], [0.4 * torch.finfo(dtype).max]], dtype=dtype)
    how = Grid(method="euler", substeps=substeps)
    solution = how.solve(lambda time, state: rate, ones(2, 1, dtype=dtype), times)
    assert f"the state left the range of {dtype} at 3 s in sample 1; take shorter steps." in solution.status
    unknown = [False, *(time > 2 for time in times[1:])]
    assert solution.trajectory.states[..., 0].isnan().tolist() == [[False] * 4, unknown]


def test_a_sample_that_left_the_range_does_not_come_back() -> None:
    start = torch.tensor([[60000.0]], dtype=torch.float16)
    solution = Grid(method="euler").solve(
        lambda time, state: torch.full_like(state, 20000.0 if time < 1 else -20000.0), start, [0.0, 1.0, 2.0, 3.0]
    )
    assert "float16 at 1 s in sample 0" in solution.status
    assert solution.trajectory.states.flatten().isnan().tolist() == [False, True, True, True]


def test_a_broken_sample_is_told_of_its_steps_in_the_search_too() -> None:
    drift = Prepared(torch.tensor(math.inf, dtype=torch.float64))
    solution = Grid(method="euler").solve(drift, -ones(), [0.0, -1.0, -2.0])
    assert "at 0 s in sample 0" in solution.status
    assert [time for time, _, _ in drift.calls] == [0.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk5"}, "Unknown grid method 'rk5'; expected one of euler, midpoint, .*rk4-38, or a Tableau"),
        ({"method": "dopri5"}, "Unknown grid method 'dopri5'"),
        ({"substeps": 0}, "substeps >= 1.*got 0"),
        ({"substeps": -3}, "substeps >= 1.*got -3"),
    ],
)
def test_unknown_methods_and_steps_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(**options)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (lambda t, z: z[:1], r"shape \(2, 3\) on cpu; this one returned shape \(1, 3\) on cpu"),
        (lambda t, z: z[..., :1], r"returned shape \(2, 1\)"),
        (lambda t, z: z.sum(), r"returned shape \(\)"),
        (lambda t, z: z.to("meta"), r"this one returned shape \(2, 3\) on meta"),
        (lambda t, z: z.double(), "returned torch.float64 for a state in torch.float32; give a state as precise"),
        (lambda t, z: z + 1j, "returned torch.complex64"),
    ],
)
def test_a_drift_that_does_not_fit_the_state_is_refused(drift: Any, message: str, recompute: bool) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(checkpoint=recompute).solve(drift, ones(2, 3, dtype=torch.float32).requires_grad_(), [0.0, 1.0])


def test_later_stages_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"returned shape \(1, 3\)"):
        Grid(method="midpoint").solve(lambda t, z: z[: 1 if t else 2], ones(2, 3), [0.0, 1.0])


@pytest.mark.parametrize(
    ("state", "times", "message"),
    [
        (ones(), [0.0, 1.0, 0.5], "strictly increase or strictly decrease"),
        (ones(), [0.0, 0.0], "strictly increase or strictly decrease"),
        (ones(), [], "non-empty"),
        (ones() * math.nan, [0.0, 1.0], "initial state holds NaN or infinity in sample 0"),
    ],
)
def test_times_and_states_are_checked(state: Tensor, times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid().solve(forced, state, times)


def test_the_table_tells_what_each_method_does() -> None:
    lines = {line.name: line for line in grid_methods()}
    assert list(lines) == list(METHODS)
    for name, line in lines.items():
        assert (line.family, line.source, line.gradients) == ("ode", "flowvid", "direct, checkpoint")
        assert (line.order, line.adaptive) == (GRID_TABLEAUS[name].order, False)
        drift, asked = noted(forced)
        solver = line.make(substeps=3, checkpoint=True)
        assert solver == Grid(method=name, substeps=3, checkpoint=True)
        solver.solve(drift, ones(), [0.0, 1.0])
        assert len(asked) == 3 * int(line.evaluations)


_COMPILED = """
import math, sys
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from flowvid.dynamics.drift import RowWise, clock
from flowvid.solve import runge_kutta
from flowvid.solve.grid import Grid

backend = sys.argv[1]
counter = CompileCounterWithBackend(backend)
compiled = torch.compile(runge_kutta.advance, fullgraph=True, backend=counter)
runge_kutta._compiler = lambda: compiled
torch.manual_seed(0)
start = torch.randn(3, 4)

def field(net):
    # A closure made anew for every solve, as a model makes one for every condition.
    scale = torch.tensor(0.5)
    return lambda t, z: torch.sin(net(z) * scale + clock(t, z)[:, None])

def agree(drift, state, times, tolerance=1e-5, **options):
    left, right = (Grid(compiled=how, **options).solve(drift, state, times) for how in (True, False))
    assert left.status == right.status == "complete"
    assert (left.evaluations, left.accepted) == (right.evaluations, right.accepted)
    torch.testing.assert_close(left.trajectory.states, right.trajectory.states, rtol=tolerance, atol=tolerance)

with torch.no_grad():
    agree(field(torch.nn.Linear(4, 4)), start, [0.0, 1.0])
    # A backend may be asked twice for one graph, inductor is when its cache is cold.
    once = counter.frame_count
    assert once == 1 or backend != "eager"
    for times, substeps in [([0.0, 1.0], 7), ([0.0, 0.3, 1.0], 1), ([2.0, 1.0, -0.5], 40)]:
        agree(field(torch.nn.Linear(4, 4)), start, times, substeps=substeps)
    assert counter.frame_count == once

net = torch.nn.Linear(4, 4)
leaves = [start.clone().requires_grad_(), *net.parameters()]
found = []
for options in [{}, {"compiled": True}, {"compiled": True, "checkpoint": True}]:
    how = Grid(method="heun2", substeps=3, **options)
    loss = how.solve(field(net), leaves[0], [0.0, 1.0]).trajectory.states.square().sum()
    found.append(torch.autograd.grad(loss, leaves))
for gradients in found[1:]:
    for left, right in zip(gradients, found[0]):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
if backend != "eager":
    sys.exit()
assert counter.frame_count == 2

torch.set_grad_enabled(False)
for number in range(8):
    exec(f"def drift(t, z): return z * {number} - torch.sin(t)", kind := {"torch": torch})
    Grid(method="euler", compiled=True).solve(kind["drift"], start, [0.0, 0.1])
assert counter.frame_count == 10
agree(RowWise(lambda t, z, c: -z * c, (torch.ones(3, 1).bfloat16(),)), start.bfloat16(), [0.0, 1.0], 1e-2, substeps=9)
for method in ("midpoint", "heun3", "rk4-38"):
    agree(lambda t, z: torch.cos(z) * t, start.double(), [0.0, 1.0, 1.7], 1e-14, method=method)

third = RowWise(lambda t, z, rate: rate + 0 * z, (torch.full((3, 1), 1 / 3).bfloat16(),))
ends = [Grid(compiled=how, substeps=9).march(third, start.bfloat16(), [0.0, 1.0])[1] for how in (True, False)]
assert ends[0].dtype == torch.float32
torch.testing.assert_close(*ends, rtol=0, atol=1e-5)

class Told:
    def callback_step(self, time, state, step):
        self.weight = torch.tensor(math.expm1(-step) / step)
    def __call__(self, time, state):
        return self.weight * state
before = counter.frame_count
agree(Told(), start, [0.0, 1.0, 1.2, 1.9], method="euler")
assert counter.frame_count == before + 1

for wrong, message in [(lambda t, z: z[:1], "shape (1, 4)"), (lambda t, z: z.double(), "returned torch.float64")]:
    try:
        Grid(compiled=True).solve(wrong, start, [0.0, 1.0])
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
broken = Grid(compiled=True).solve(lambda t, z: z / torch.sin(t - 0.5), start, [0.0, 1.0])
assert "NaN or infinity at 0.5 s in samples 0, 1, 2" in broken.status, broken.status
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"),
        ),
    ],
)
def test_a_step_is_compiled_once(backend: str) -> None:
    """In a process of its own, for checked signatures do not compile."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _COMPILED, backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
