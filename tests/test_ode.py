"""torchdiffeq's methods behind `Ode`: orders, costs, exact times, tolerances and refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.solve.ode import Ode, ode_methods

STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
ADAPTIVE = sorted(name for name in ode_methods() if Ode(method=name).adaptive)
FIXED = sorted(set(ode_methods()) - set(ADAPTIVE))


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
    assert set(ode_methods()) >= {*STAGES, "dopri5", "dopri8", "bosh3", "adaptive_heun"}
    assert set(FIXED) >= set(STAGES)


@pytest.mark.parametrize("method", ode_methods())
def test_every_method_decays(method: str) -> None:
    how = Ode(method=method, rtol=1e-6, atol=1e-6) if Ode(method=method).adaptive else Ode(method=method, substeps=20)
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


@pytest.mark.parametrize("method", ode_methods())
def test_no_method_asks_the_drift_outside_the_times(method: str) -> None:
    def bounded(time: float, state: Tensor) -> Tensor:
        assert 0.2 <= time <= 1.3
        return -state

    Ode(method=method).solve(bounded, ones(), [0.2, 0.5, 1.3])


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
        ({"method": "rk5"}, "Unknown ODE method 'rk5'; expected one of .*dopri5.*euler"),
        ({"method": "scipy_solver"}, "scipy_solver cuts gradients without a word; use one of .*dopri5"),
        ({"method": "explicit_adams"}, "explicit_adams is unstable"),
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


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
@pytest.mark.parametrize("method", ode_methods())
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_an_error(method: str, wrong: float) -> None:
    how = Ode(method=method)
    with pytest.raises(ValueError, match="initial state holds NaN"):
        how.solve(decay, wrong * ones(), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"not finite"):
        how.solve(lambda time, state: torch.full_like(state, wrong), ones(), [0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"not finite"):
        how.solve(lambda time, state: state * (wrong if time > 0.6 else 1.0), ones(), [0.0, 0.5, 0.7, 1.0])


def test_an_error_of_the_drift_is_not_taken_for_one_of_the_solver() -> None:
    def broken(time: float, state: Tensor) -> Tensor:
        raise AssertionError("an invariant of the network")

    with pytest.raises(AssertionError, match="an invariant of the network"):
        Ode().solve(broken, ones(), [0.0, 1.0])


@pytest.mark.parametrize("times", [[], [1.0, 0.0], [0.0, 0.0], [0.0, math.nan]])
def test_times_must_increase(times: list[float]) -> None:
    with pytest.raises(ValueError, match="Times must"):
        Ode().solve(decay, ones(), times)
