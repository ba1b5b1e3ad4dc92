"""scipy's methods: tolerances, exact times, refusals, and what was reached."""

import math

import pytest
import torch
from torch import Tensor

from flowvid.solve.scipy_solver import Scipy, scipy_methods

METHODS = ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"]
START = torch.tensor([[1.0], [0.2]], dtype=torch.float64)


def forced(time: float, state: Tensor) -> Tensor:
    return -state + math.sin(3 * time)


def solution(time: float) -> Tensor:
    return (START + 0.3) * math.exp(-time) + (math.sin(3 * time) - 3 * math.cos(3 * time)) / 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("times", [[0.0, 0.7, 2.0], [2.0, 0.7, 0.0]])
def test_tolerances_are_met_at_every_output_either_way(method: str, times: list[float]) -> None:
    found = Scipy(method=method, rtol=1e-7, atol=1e-7).solve(forced, solution(times[0]), times).require()
    truth = torch.stack([solution(time) for time in times], dim=1)
    assert torch.allclose(found.trajectory.states, truth, atol=5e-5)
    assert found.trajectory.times.tolist() == times
    assert 0 < found.accepted < found.evaluations


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_drift_sees_its_own_type_and_float64_times_inside_the_interval(method: str, dtype: torch.dtype) -> None:
    seen = []

    def drift(time: float, state: Tensor) -> Tensor:
        assert state.dtype == dtype
        seen.append(time)
        return -state

    for times in ([4096.2, 4096.2001], [4096.2001, 4096.2]):
        seen.clear()
        assert Scipy(method=method).solve(drift, START.to(dtype), times).trajectory.states.dtype == dtype
        assert seen[0] == times[0]
        # Radau's last stage may be off the end by the rounding of a sum.
        assert min(times) - 1e-12 * 4096 <= min(seen) <= max(seen) <= max(times) + 1e-12 * 4096


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_a_stiff_decay_takes_few_steps(method: str) -> None:
    found = Scipy(method=method).solve(lambda time, state: -1e5 * (state - math.cos(time)), START, [0.0, 1.0])
    assert torch.allclose(found.trajectory.states[:, -1], torch.full_like(START, math.cos(1.0)), atol=1e-2)
    assert found.accepted < 200


def test_gradients_are_refused_where_they_would_be_cut() -> None:
    with pytest.raises(ValueError, match="scipy cuts gradients"):
        Scipy().solve(forced, START.clone().requires_grad_(), [0.0, 1.0])
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="scipy cuts gradients"):
        Scipy().solve(lambda time, state: -rate * state, START, [0.0, 1.0])
    with torch.no_grad():
        assert Scipy().solve(lambda time, state: -rate * state, START, [0.0, 1.0]).complete


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_drift_that_is_not_finite_is_named_and_never_looped_on(method: str, wrong: float) -> None:
    found = Scipy(method=method).solve(
        lambda time, state: state * torch.tensor([[1.0], [wrong if time > 0.5 else 1.0]]), START, [0.0, 0.2, 1.0]
    )
    assert "not finite at" in found.status
    assert "in sample 1." in found.status
    assert torch.equal(found.trajectory.states[:, 0], START)


def test_what_explicit_methods_cannot_reach_is_returned_up_to_there() -> None:
    """dz/dt = z^2 from 1 ends at t = 1."""
    found = Scipy(method="RK45").solve(lambda time, state: state**2, START[:1], [0.0, 0.5, 2.0])
    assert "RK45 stopped at" in found.status
    assert found.trajectory.states[0, 1].item() == pytest.approx(2.0, rel=1e-2)
    assert torch.isnan(found.trajectory.states[0, 2])


def test_options_are_checked_and_every_method_is_in_the_table() -> None:
    with pytest.raises(ValueError, match="expected one of RK23, RK45"):
        Scipy(method="rk45")
    with pytest.raises(ValueError, match="positive tolerances"):
        Scipy(rtol=0.0)
    assert [line.name for line in scipy_methods()] == ["scipy_solver", *(f"scipy:{method}" for method in METHODS)]
    assert all(line.make().method in METHODS for line in scipy_methods())
    assert Scipy().solve(forced, START, [0.3]).evaluations == 0
