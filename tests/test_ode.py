"""torchdiffeq's methods behind `Ode`: orders, costs, exact times, tolerances and refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS

from flowvid.dynamics.drift import RowWise
from flowvid.solve.ode import Ode, ode_methods
from flowvid.solve.solution import SolveError

STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
LINES = {method.name: method for method in ode_methods()}
ADAPTIVE = sorted(name for name, line in LINES.items() if line.adaptive)
FIXED = sorted(LINES.keys() - set(ADAPTIVE))
ADAMS = ["explicit_adams", "fixed_adams", "implicit_adams"]


def decay(time: float, state: Tensor) -> Tensor:
    return -state


def forced(time: float, state: Tensor) -> Tensor:
    """dz/dt = -z + sin 3t: the time matters."""
    return -state + math.sin(3 * time)


def forced_solution(time: float, start: float = 1.0) -> float:
    return (start + 0.3) * math.exp(-time) + (math.sin(3 * time) - 3 * math.cos(3 * time)) / 10


def ones(dtype: torch.dtype = torch.float64, batch: int = 1) -> Tensor:
    return torch.ones(batch, 1, 1, 1, dtype=dtype)


def test_the_methods_are_those_that_are_documented_and_installed() -> None:
    assert LINES.keys() == set(SOLVERS) - {"scipy_solver"}
    assert set(FIXED) == {*STAGES, *ADAMS}
    assert {name: line.order for name, line in LINES.items() if name in ORDERS} == ORDERS
    assert {name: line.evaluations for name, line in LINES.items() if name in STAGES} == {
        name: str(stages) for name, stages in STAGES.items()
    }
    assert [LINES[name].evaluations for name in ("dopri5", "bosh3", "dopri8")] == ["6", "3", "13"]


@pytest.mark.parametrize("method", LINES)
def test_every_method_decays(method: str) -> None:
    how = Ode(method=method, rtol=1e-6, atol=1e-6) if LINES[method].adaptive else Ode(method=method, substeps=20)
    with torch.no_grad():
        solution = how.solve(decay, ones(), [0.0, 0.5, 1.0])
    expected = torch.exp(-solution.trajectory.times)
    assert torch.allclose(solution.trajectory.states.flatten(), expected, atol=0.02 if method == "euler" else 1e-4)
    assert solution.depth == solution.evaluations > 0
    assert solution.status == "complete"


@pytest.mark.parametrize(("method", "order"), ORDERS.items())
def test_observed_order_is_the_order_of_the_method(method: str, order: int) -> None:
    steps, times = np.array([4, 8, 16]), [0.0, 0.3, 1.0]
    errors = []
    for substeps in steps.tolist():
        states = Ode(method=method, substeps=substeps).solve(forced, ones(), times).trajectory.states.flatten()
        errors.append(max(abs(states[i].item() - forced_solution(time)) for i, time in enumerate(times)))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.3)


@given(st.sampled_from(sorted(STAGES)), st.integers(1, 4), st.integers(1, 80))
def test_a_unit_interval_in_n_steps_takes_n_steps(method: str, substeps: int, count: int) -> None:
    asked: list[float] = []

    def noted(time: float, state: Tensor) -> Tensor:
        asked.append(time)
        return decay(time, state)

    times = [n * (1 / count) for n in range(count + 1)]
    solution = Ode(method=method, substeps=substeps).solve(noted, ones(), times)
    assert solution.evaluations == len(asked) == STAGES[method] * substeps * count
    assert solution.accepted == substeps * count
    assert solution.rejected == 0
    assert solution.trajectory.times.tolist() == times
    assert max(asked) <= times[-1]


@given(
    st.sampled_from(["euler", "rk4", "dopri5"]),
    st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True).map(sorted),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_drift_sees_float64_times_whatever_the_type_of_the_state(
    method: str, ticks: list[int], dtype: torch.dtype
) -> None:
    times, seen = [tick / 999_983 for tick in ticks], []

    def noted(time: float, state: Tensor) -> Tensor:
        assert state.dtype == dtype
        seen.append(time)
        return torch.zeros_like(state)

    solution = Ode(method=method).solve(noted, ones(dtype), times)
    asked = np.array(seen)
    assert solution.trajectory.states.dtype == dtype
    for time in times[:-1] if method == "euler" else times:
        assert np.abs(asked - time).min() <= 2 * np.spacing(time)
    assert asked.max() <= times[-1]


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_a_thousand_steps_are_a_thousand_times_even_in_bfloat16(method: str) -> None:
    seen: set[float] = set()

    def noted(time: float, state: Tensor) -> Tensor:
        seen.add(time)
        return torch.ones_like(state)

    solution = Ode(method=method, substeps=1000).solve(noted, ones(torch.bfloat16), [0.0, 1.0])
    assert len(seen) >= 1000
    assert solution.trajectory.states.flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_adaptive_methods_meet_their_tolerance_at_every_output(method: str, tolerance: float) -> None:
    times = [0.0, 0.07, 0.25, 0.7, 1.0, 2.0]
    solution = Ode(method=method, rtol=tolerance, atol=tolerance).solve(forced, ones(), times)
    errors = [
        abs(state - forced_solution(time))
        for state, time in zip(solution.trajectory.states.flatten().tolist(), times, strict=True)
    ]
    assert max(errors) <= (200 if method == "fehlberg2" else 20) * tolerance
    assert solution.accepted >= len(times) - 1
    assert solution.evaluations > solution.accepted


@pytest.mark.parametrize("method", ADAPTIVE)
def test_tighter_tolerances_cost_more(method: str) -> None:
    loose, tight = (
        Ode(method=method, rtol=tolerance, atol=tolerance).solve(forced, ones(), [0.0, 2.0]).evaluations
        for tolerance in (1e-2, 1e-6)
    )
    assert tight > loose


@pytest.mark.parametrize("method", LINES)
def test_no_method_asks_the_drift_outside_the_times(method: str) -> None:
    def bounded(time: float, state: Tensor) -> Tensor:
        assert 0.2 <= time <= 1.3
        return -state

    Ode(method=method).solve(bounded, ones(), [0.2, 0.5, 1.3])


@pytest.mark.parametrize("method", LINES)
@pytest.mark.parametrize("times", [[4096.2, 4096.2001], [4096.2001, 4096.2]])
@torch.no_grad()
def test_no_method_asks_beyond_the_end_of_a_short_interval(method: str, times: list[float]) -> None:
    def bounded(time: float, state: Tensor) -> Tensor:
        assert min(times) <= time <= max(times)
        return -state

    assert Ode(method=method).solve(bounded, ones(), times).complete


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_rejected_and_accepted_steps_are_told_apart(method: str) -> None:
    def stiff(time: float, state: Tensor) -> Tensor:
        return -50 * (state - math.cos(20 * time))

    how = Ode(method=method) if method == "dopri5" else Ode(method=method, substeps=100)
    solution = how.solve(stiff, ones(), [0.0, 1.0])
    assert (solution.rejected > 0) == (method == "dopri5")
    if method == "dopri5":
        assert solution.evaluations == 2 + 6 * (solution.accepted + solution.rejected)


@given(st.sampled_from(["euler", "rk4"]), st.integers(2, 5))
def test_fixed_steps_do_not_depend_on_the_batch(method: str, batch: int) -> None:
    start = torch.linspace(-1, 2, batch, dtype=torch.float64).reshape(batch, 1, 1, 1)
    how, times = Ode(method=method, substeps=3), [0.0, 0.4, 1.0]
    together = how.solve(forced, start, times).trajectory.states
    alone = [how.solve(forced, start[i : i + 1], times).trajectory.states for i in range(batch)]
    assert torch.equal(together, torch.cat(alone))


def test_gradients_flow_to_the_start_and_into_the_drift() -> None:
    start, rate = ones(torch.float32).requires_grad_(), torch.tensor(1.0, requires_grad=True)
    states = Ode(method="rk4", substeps=20).solve(lambda t, z: -rate * z, start, [0.0, 1.0]).trajectory.states
    states[0, 1].sum().backward()
    assert start.grad is not None
    assert start.grad.item() == pytest.approx(math.exp(-1), abs=1e-6)
    assert rate.grad is not None
    assert rate.grad.item() == pytest.approx(-math.exp(-1), abs=1e-6)


def test_one_time_needs_no_evaluation() -> None:
    solution = Ode().solve(decay, ones(), [0.3])
    assert solution.trajectory.states.tolist() == [[[[[1.0]]]]]
    assert (solution.evaluations, solution.depth, solution.accepted) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk5"}, "Unknown ODE method 'rk5'; torchdiffeq offers .*dopri5.*euler"),
        ({"gradients": "exact"}, "Gradients are direct or adjoint; got 'exact'"),
        ({"method": "rk4", "max_steps": 3}, "rk4 takes fixed steps"),
        ({"method": "dopri5", "substeps": 2}, "dopri5 chooses its own steps and ignores substeps"),
        ({"method": "euler", "rtol": 1e-3}, "euler takes fixed steps whatever the tolerances; give substeps"),
        ({"method": "rk4", "atol": 1e-3}, "rk4 takes fixed steps"),
        ({"method": "euler", "substeps": 0}, "substeps >= 1"),
        ({"method": "dopri5", "rtol": 0.0}, "positive tolerances"),
        ({"method": "dopri5", "atol": -1.0}, "positive tolerances"),
    ],
)
def test_unknown_methods_and_ignored_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ode(**options)


@pytest.mark.parametrize("method", LINES)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@torch.no_grad()
def test_what_is_not_finite_is_named(method: str, wrong: float) -> None:
    def late(time: float, state: Tensor) -> Tensor:
        return state * torch.tensor([1.0, wrong if time > 0.6 else 1.0]).reshape(2, 1, 1, 1)

    how, two = Ode(method=method), ones(batch=2)
    with pytest.raises(ValueError, match="initial state holds NaN or infinity in samples 0, 1;"):
        how.solve(decay, wrong * two, [0.0, 1.0])
    with pytest.raises(SolveError, match=r"not finite at 0\.0 s in samples 0, 1\."):
        how.solve(lambda time, state: torch.full_like(state, wrong), two, [0.0, 0.5, 1.0]).require()
    solution = how.solve(late, two, [0.0, 0.5, 0.7, 1.0])
    assert "not finite at" in solution.status
    assert "in sample 1." in solution.status
    assert torch.isfinite(solution.trajectory.states[:, :2]).all()


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_spent_budget_returns_what_was_reached(method: str) -> None:
    whole = Ode(method=method, rtol=1e-5, atol=1e-5).solve(forced, ones(), [0.0, 0.01, 9.0])
    short = Ode(method=method, rtol=1e-5, atol=1e-5, max_steps=whole.accepted - 10)
    solution = short.solve(forced, ones(), [0.0, 0.01, 9.0])
    assert "the budget of steps is spent" in solution.status
    assert torch.allclose(solution.trajectory.states[:, :2], whole.trajectory.states[:, :2], rtol=1e-12)
    assert torch.isnan(solution.trajectory.states[:, 2]).all()
    with pytest.raises(SolveError, match="Raise max_steps") as caught:
        solution.require()
    assert caught.value.solution is solution


@pytest.mark.parametrize("method", LINES)
@torch.no_grad()
def test_backward_in_time_retraces_forward(method: str) -> None:
    tolerance = 1e-6 if LINES[method].order == 2 else 1e-8
    options = {"rtol": tolerance, "atol": tolerance} if LINES[method].adaptive else {"substeps": 200}
    how = Ode(method=method, **options)
    there = how.solve(forced, ones(), [0.1, 0.4, 1.0])
    back = how.solve(forced, there.trajectory.states[:, -1], [1.0, 0.4, 0.1])
    assert back.trajectory.times.tolist() == [1.0, 0.4, 0.1]
    assert torch.allclose(
        back.trajectory.states.flip(1), there.trajectory.states, atol=0.01 if method == "euler" else 1e-4
    )


@pytest.mark.parametrize("method", ADAMS)
def test_adams_methods_have_order_four_on_any_output_times(method: str) -> None:
    steps, errors = np.array([16, 32, 64]), []
    for substeps in steps.tolist():
        states = (
            Ode(method=method, substeps=substeps).solve(forced, ones(), [0.0, 0.3, 1.0]).trajectory.states.flatten()
        )
        errors.append(abs(states[-1].item() - forced_solution(1.0)))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "implicit_adams"])
@pytest.mark.parametrize("gradients", ["direct", "adjoint"])
@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [1.0, 0.4, 0.0]])
def test_gradients_reach_the_start_the_parameters_and_what_the_drift_holds(
    method: str, gradients: str, times: list[float]
) -> None:
    """z(t) = z0 exp(-r c t), with c made by an encoder from a leaf: d/dr, d/dleaf and d/dz0 in closed form."""
    options = {"rtol": 1e-8, "atol": 1e-8} if LINES[method].adaptive else {"substeps": 40}
    how = Ode(method=method, gradients=gradients, **options)
    start = ones().requires_grad_()
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    leaf = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    held = leaf**2
    solution = how.solve(RowWise(lambda time, state, c: -rate * c * state, (held,)), start, times)
    span = times[-1] - times[0]
    solution.trajectory.states[:, -1].sum().backward()
    value = math.exp(-0.7 * 1.21 * span)
    for tensor, expected in ((start, value), (rate, -1.21 * span * value), (leaf, -0.7 * 2.2 * span * value)):
        assert tensor.grad is not None
        assert tensor.grad.sum().item() == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("method", sorted(set(LINES) - {"fixed_adams"}))
def test_direct_gradients_pass_gradcheck(method: str) -> None:
    options = {"rtol": 1e-2, "atol": 1e-2} if LINES[method].adaptive else {"substeps": 2}

    def end(start: Tensor, rate: Tensor) -> Tensor:
        how = Ode(method=method, **options)
        return how.solve(lambda time, state: torch.sin(rate * state + time), start, [0.0, 0.1]).trajectory.states[:, -1]

    start = torch.tensor([[0.3], [-0.8]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(end, (start, torch.tensor(0.9, dtype=torch.float64, requires_grad=True)), atol=1e-4)


class Announced:
    """A drift for which every step is announced: the exact displacement of dz/dt = -z over it."""

    def __init__(self) -> None:
        self.step = math.nan

    def callback_step(self, time: float, state: Tensor, step: float) -> None:
        self.step = step

    def __call__(self, time: float, state: Tensor) -> Tensor:
        return state * math.expm1(-self.step) / self.step


@pytest.mark.parametrize("times", [[0.0, 0.5, 2.0], [2.0, 0.5, 0.0]])
def test_euler_announces_its_steps_and_takes_step_dependent_weights(times: list[float]) -> None:
    states = Ode(method="euler").solve(Announced(), ones(), times).trajectory.states.flatten()
    assert torch.allclose(states, torch.exp(-(torch.tensor(times, dtype=torch.float64) - times[0])), rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{"method": "rk4"}, {"method": "dopri5"}, {"method": "euler", "gradients": "adjoint"}]
)
def test_step_dependent_weights_are_refused_elsewhere(options: dict) -> None:
    with pytest.raises(ValueError, match="only euler takes it, with direct gradients"):
        Ode(**options).solve(Announced(), ones(), [0.0, 1.0])


@pytest.mark.parametrize("method", ["euler", "dopri5"])
def test_a_drift_of_another_shape_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\) on cpu; this one returned shape \(2, 1\)"):
        Ode(method=method).solve(lambda time, state: state[:, :1], torch.ones(2, 3), [0.0, 1.0])


def test_an_error_of_the_drift_is_not_taken_for_one_of_the_solver() -> None:
    def broken(time: float, state: Tensor) -> Tensor:
        raise AssertionError("an invariant of the network")

    with pytest.raises(AssertionError, match="an invariant of the network"):
        Ode().solve(broken, ones(), [0.0, 1.0])


@pytest.mark.parametrize("times", [[], [1.0, 0.0, 0.5], [0.0, 0.0], [0.0, math.nan]])
def test_times_must_go_one_way(times: list[float]) -> None:
    with pytest.raises(ValueError, match="Times must"):
        Ode().solve(decay, ones(), times)
