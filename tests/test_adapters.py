"""Fields in other packages' forms: the same answers there and back, and nothing lost on the way."""

import math

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

from flowvid.dynamics.drift import clock
from flowvid.solve.adapters import from_flow_matching, from_torchdiffeq, to_flow_matching, to_torchdiffeq
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.grid import Grid
from flowvid.solve.ode import Ode

START = torch.tensor([[1.0, -0.5], [0.3, 2.0], [0.0, 1.0]], dtype=torch.float64)
TIMES = [0.0, 0.3, 1.0]


class Velocity(nn.Module):
    """A model in the manner of flow_matching: dx/dt = shift + scale * t - x."""

    def forward(self, x: Tensor, t: Tensor, *, shift: Tensor, scale: float = 0.0) -> Tensor:
        assert t.shape == (len(x),)
        assert t.dtype == x.dtype
        return shift[:, None] + scale * t[:, None] - x


def truth(shift: Tensor, scale: float, time: float) -> Tensor:
    constant = shift[:, None] - scale
    return constant + scale * time + (START - constant) * math.exp(-time)


@pytest.mark.parametrize(
    "solver", [Grid(method="rk4", substeps=20), Adaptive(rtol=1e-8, atol=1e-8), Ode(rtol=1e-8, atol=1e-8)]
)
def test_a_flow_matching_model_is_a_drift_with_its_extras(solver: Grid) -> None:
    shift = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    drift = from_flow_matching(Velocity(), per_sample={"shift": shift}, scale=0.7)
    states = solver.solve(drift, START, TIMES).require().trajectory.states
    for index, time in enumerate(TIMES):
        assert torch.allclose(states[:, index], truth(shift, 0.7, time), atol=1e-6)
    index = torch.tensor([2, 0])
    assert torch.equal(drift.rows(index)(0.2, START[index]), drift(0.2, START)[index])


def test_a_drift_becomes_a_flow_matching_model_and_back() -> None:
    def drift(time: float | Tensor, state: Tensor) -> Tensor:
        return torch.sin(3 * clock(time, state))[:, None] * state

    model = to_flow_matching(drift)
    for t in (torch.tensor(0.4), torch.tensor([0.1, 0.4, 0.9])):
        assert torch.equal(model(x=START, t=t), drift(t.double(), START))
    back = from_flow_matching(lambda x, t: model(x=x, t=t))
    assert torch.equal(back(0.4, START), drift(0.4, START))


@pytest.mark.parametrize(
    ("extras", "match"), [({"x": 1}, "got x"), ({"shift": 1}, "got shift"), ({"t": 0, "x": 1}, "got t, x")]
)
def test_extras_that_clash_are_refused(extras: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        from_flow_matching(Velocity(), per_sample={"shift": torch.zeros(3)}, **extras)


def test_a_torchdiffeq_function_gets_a_float64_time_without_dimensions() -> None:
    seen = []

    def function(t: Tensor, y: Tensor) -> Tensor:
        seen.append((t.dtype, t.shape))
        return -y * t.cos()

    states = Grid(method="rk4", substeps=30).solve(from_torchdiffeq(function), START.float(), TIMES).trajectory.states
    assert set(seen) == {(torch.float64, torch.Size(()))}
    assert torch.allclose(states[:, -1], START.float() * math.exp(-math.sin(1.0)), atol=1e-6)
    with pytest.raises(ValueError, match="one time for the whole batch"):
        Adaptive().solve(from_torchdiffeq(function), START, TIMES)


def test_a_drift_runs_under_torchdiffeq_itself() -> None:
    def drift(time: float | Tensor, state: Tensor) -> Tensor:
        return -state * torch.cos(clock(time, state))[:, None]

    times = torch.tensor(TIMES, dtype=torch.float64)
    theirs = torchdiffeq.odeint(to_torchdiffeq(drift), START, times, method="dopri5", rtol=1e-9, atol=1e-9)
    ours = Adaptive(rtol=1e-9, atol=1e-9).solve(drift, START, TIMES).trajectory.states
    assert torch.allclose(theirs.transpose(0, 1), ours, atol=1e-7)


def test_a_drift_is_a_torchode_field_and_both_control_every_sample_by_itself() -> None:
    torchode = pytest.importorskip("torchode")

    def drift(time: float | Tensor, state: Tensor) -> Tensor:
        return -state * (1 + 5 * torch.cos(clock(time, state)))[:, None]

    evaluation = torch.tensor([TIMES], dtype=torch.float64).expand(3, -1)
    theirs = torchode.solve_ivp(drift, START, evaluation, method="dopri5")
    ours = Adaptive(method="dopri5", rtol=1e-9, atol=1e-9).solve(drift, START, TIMES)
    assert torch.allclose(theirs.ys, ours.trajectory.states, atol=1e-5)
