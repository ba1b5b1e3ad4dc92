"""Stochastic solvers: strong orders, the right calculus, one path for all, exact counts, pinned and kinetic fields."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowvid.dynamics.stochastic import StochasticDrift, bridge, kinetic
from flowvid.noise import Noise
from flowvid.solve.brownian import BrownianPath
from flowvid.solve.sde import Sde, sde_methods
from flowvid.solve.sde_grid import StochasticGrid, sde_grid_methods
from flowvid.solve.solution import SolveError
from flowvid.testing.accuracy import check_strong_order
from flowvid.testing.stochastic import KnownSde, arcsinh, geometric

METHODS = {f"{method.source}:{method.name}": method for method in (*sde_grid_methods(), *sde_methods())}
OURS = [name for name in METHODS if name.startswith("flowvid")]
THEIRS = [name for name in METHODS if name.startswith("torchsde")]


def calculi(name: str) -> list[str]:
    return METHODS[name].note.partition(";")[0].split(" or ")


def noises(name: str) -> list[str]:
    return METHODS[name].note.partition("; ")[2].removesuffix(" noise").split(", ")


def areas(name: str, noise: str) -> bool:
    """Whether torchsde brings its own path, which is slow."""
    return name == "torchsde:srk" or (name == "torchsde:log_ode" and noise == "general")


EVERY = [
    pytest.param(name, noise, calculus, id=f"{name}-{noise}-{calculus}")
    for name in METHODS
    for noise in noises(name)
    for calculus in calculi(name)
]

ONCE = [case for case in EVERY if case.values[2] == calculi(case.values[0])[0]]


def field(noise: str, calculus: str = "ito", rate: float | Tensor = 0.4) -> StochasticDrift:
    """A nonlinear field on states of any shape; three columns where noise has columns."""

    def volatility(time: Any, state: Tensor) -> Tensor:
        if noise == "additive":
            return torch.stack([torch.full_like(state, 0.3 + 0.1 * k + 0.2 * time) for k in range(3)], dim=-1)
        strength = 0.3 + 0.2 * torch.sin(state + time)
        return torch.stack([strength * (k + 1) / 3 for k in range(3)], dim=-1) if noise == "general" else strength

    return StochasticDrift(lambda time, state: torch.cos(rate * state + time), volatility, noise, calculus)


def start(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(0.2, 1.4, math.prod(shape), dtype=dtype).reshape(shape)


def solved(
    name: str, what: StochasticDrift, state: Tensor, times: list[float], seed: int = 0, **options: Any
) -> Tensor:
    how = METHODS[name].make(**options)
    return how.solve(what, state, times, Noise.batch(seed, len(state))).require().trajectory.states


# Convergence


def known(noise: str, calculus: str) -> list[KnownSde]:
    diagonal = [arcsinh(calculus=calculus)] if noise == "diagonal" else []
    return [geometric(noise=noise, calculus=calculus), *diagonal]


@pytest.mark.parametrize(("name", "noise", "calculus"), [case for case in EVERY if "additive" not in case.values])
def test_strong_order(name: str, noise: str, calculus: str) -> None:
    method, slow = METHODS[name], areas(name, noise)
    assert method.order is not None
    for sde in known(noise, calculus)[: 1 if slow else 2]:
        check_strong_order(
            lambda n: method.make(substeps=n),
            method.order,
            sde,
            batch=(2 if slow else 12) if noise == "diagonal" else (16 if slow else 150),
            steps=(4, 16) if slow else (4, 8, 16, 32),
            tolerance=0.4 if slow else 0.3,
        )


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
@pytest.mark.parametrize("name", METHODS)
def test_additive_noise_has_order_one_in_both_calculi(name: str, calculus: str) -> None:
    what, state, noise = field("additive", calculus), start(8 if areas(name, "additive") else 32, 2), "additive"
    assert noise in noises(name)
    fine = 64 if areas(name, noise) else 256
    reference = solved(name, what, state, [0.0, 1.0], substeps=fine)[:, -1]
    counts = (4, 8, 16)
    errors = [(solved(name, what, state, [0.0, 1.0], substeps=n)[:, -1] - reference).square().mean() for n in counts]
    slope = math.log2(errors[0] / errors[-1]) / 4
    assert slope > (1.3 if name == "torchsde:srk" else 0.9)
    if not areas(name, noise):
        torch.testing.assert_close(
            reference, solved("flowvid:heun", what, state, [0.0, 1.0], substeps=256)[:, -1], rtol=0, atol=8e-3
        )


@pytest.mark.parametrize(
    ("name", "calculus"),
    [
        ("flowvid:euler-maruyama", "ito"),
        ("torchsde:euler", "ito"),
        ("flowvid:heun", "stratonovich"),
        ("torchsde:heun", "stratonovich"),
        ("torchsde:midpoint", "stratonovich"),
        ("torchsde:reversible_heun", "stratonovich"),
    ],
)
def test_columns_that_do_not_commute_cost_half_an_order(name: str, calculus: str) -> None:
    columns = torch.tensor([[[0.0, 0.9], [-0.9, 0.0]], [[0.6, 0.0], [0.0, -0.6]]], dtype=torch.float64)
    shift = torch.einsum("kij,kjl->il", columns, columns) / 2 if calculus == "stratonovich" else torch.zeros(2, 2)
    what = StochasticDrift(
        lambda time, z: -z @ shift.to(z).T,
        lambda time, z: torch.einsum("kij,bj->bik", columns, z),
        "general",
        calculus,
    )
    ito = StochasticDrift(lambda time, z: torch.zeros_like(z), what.volatility, "general")
    state = torch.ones(200, 2, dtype=torch.float64)
    truth = solved("flowvid:euler-maruyama", ito, state, [0.0, 1.0], substeps=512)[:, -1]
    counts = (2, 4, 8, 16)
    errors = [(solved(name, what, state, [0.0, 1.0], substeps=n)[:, -1] - truth).square().mean() for n in counts]
    assert abs(math.log2(errors[0] / errors[-1]) / 6 - 0.5) < 0.25


@pytest.mark.parametrize("name", ["flowvid:milstein", "torchsde:milstein"])
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_milstein_takes_scalar_noise_that_mixes_entries(name: str, calculus: str) -> None:
    mixing = torch.tensor([[0.2, 1.0], [0.0, 0.4]], dtype=torch.float64)
    what = StochasticDrift(lambda time, z: torch.zeros_like(z), lambda time, z: z @ mixing.T, "scalar", calculus)
    state = torch.ones(100, 2, dtype=torch.float64)
    end = BrownianPath(Noise.batch(0, 100), 0.0, 1.0, dtype=torch.float64).at([1.0])
    correction = mixing @ mixing / 2 if calculus == "ito" else torch.zeros(2, 2)
    exact = torch.linalg.matrix_exp(mixing * end[..., None] - correction) @ state[..., None]
    errors = [(solved(name, what, state, [0.0, 1.0], substeps=n)[:, -1] - exact[..., 0]).norm() for n in (8, 64)]
    assert abs(math.log2(errors[0] / errors[1]) / 3 - 1) < 0.3


# One path for all


@pytest.mark.parametrize("name", METHODS)
def test_a_field_of_noise_alone_is_the_path(name: str) -> None:
    calculus = calculi(name)[0]
    what = StochasticDrift(lambda t, z: torch.zeros_like(z), lambda t, z: torch.full_like(z, 2.0), "diagonal", calculus)
    times = [0.5, 0.625, 0.9, 1.7]
    states = solved(name, what, torch.zeros(3, 2, 2, dtype=torch.float64), times, substeps=3)
    if areas(name, "diagonal"):
        assert states.unique().numel() == 1 + 3 * 3 * 4
        return
    path = BrownianPath(Noise.batch(0, 3), 0.5, 1.7, (2, 2), dtype=torch.float64)
    torch.testing.assert_close(states, 2 * path.at(times))


def test_areas_under_the_path_have_their_law_over_any_time() -> None:
    def drift(time: float, state: Tensor) -> Tensor:
        return torch.cat((state[:, 1:], torch.zeros_like(state[:, 1:])), dim=1)

    span, zeros = 4.0, torch.zeros(2, 2, 1000, dtype=torch.float64)
    end = solved("torchsde:srk", kinetic(drift, 1.0), zeros, [1.0, 1.0 + span])[:, -1].transpose(0, 1).flatten(1)
    expected = torch.tensor([[span**3 / 3, span**2 / 2], [span**2 / 2, span]], dtype=torch.float64)
    torch.testing.assert_close(end @ end.T / 2000, expected, rtol=5 * math.sqrt(2 / 2000), atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "calculus"),
    [
        ("flowvid:euler-maruyama", "torchsde:euler", "ito"),
        ("flowvid:heun", "torchsde:heun", "stratonovich"),
    ],
)
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive", "general"])
def test_the_same_method_of_torchsde_takes_the_same_steps(ours: str, theirs: str, calculus: str, noise: str) -> None:
    state, times = start(3, 2, 1, 2), [0.1, 0.2, 0.55, 1.0]
    one, other = (solved(name, field(noise, calculus), state, times, substeps=2) for name in (ours, theirs))
    assert one.shape == (3, 4, 2, 1, 2)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "noise", "calculus"), ONCE)
def test_a_sample_depends_on_its_seed_alone(name: str, noise: str, calculus: str) -> None:
    what, state, times = field(noise, calculus), start(3, 2, 2), [0.0, 0.4, 1.0]
    how, seeds = METHODS[name].make(), Noise.batch(5, 3)
    whole = how.solve(what, state, times, seeds).trajectory.states
    alone = how.solve(what, state[1:2], times, seeds[[1]]).trajectory.states
    torch.testing.assert_close(whole[1:2], alone)
    other = how.solve(what, state, times, Noise.batch(6, 3)).trajectory.states
    assert not torch.isclose(whole[:, 1:], other[:, 1:]).any()


@pytest.mark.parametrize(("name", "noise", "calculus"), ONCE)
def test_flattening_the_state_changes_nothing(name: str, noise: str, calculus: str) -> None:
    state, times = start(2, 3, 1, 2), [0.0, 0.3, 1.0]
    deep, flat = (solved(name, field(noise, calculus), z, times) for z in (state, state.flatten(1)))
    torch.testing.assert_close(deep.flatten(2), flat)


@pytest.mark.parametrize("name", METHODS)
def test_more_output_times_leave_the_path_alone(name: str) -> None:
    what, state = field("diagonal", calculi(name)[-1]), start(2, 3)
    few = solved(name, what, state, [0.0, 0.5, 1.0], substeps=6)
    many = solved(name, what, state, [n / 12 for n in range(13)])
    torch.testing.assert_close(few[:, 1:], many[:, 6::6])


@settings(max_examples=10)
@given(st.integers(1, 9), st.integers(1, 5))
def test_a_given_path_is_walked(intervals: int, substeps: int) -> None:
    path = BrownianPath(Noise.of([3, 4]), -1.0, 2.0, (3,), dtype=torch.float64)
    what = StochasticDrift(lambda t, z: torch.zeros_like(z), lambda t, z: torch.ones_like(z))
    times = [n / intervals for n in range(intervals + 1)]
    for how in (StochasticGrid(substeps=substeps, path=path), Sde(substeps=substeps, path=path)):
        states = how.solve(what, torch.zeros(2, 3, dtype=torch.float64), times).trajectory.states
        torch.testing.assert_close(states, path.at(times) - path.at([0.0]))


@pytest.mark.parametrize("name", ["flowvid:heun", "flowvid:milstein"])
def test_backward_a_stratonovich_equation_retraces_its_path(name: str) -> None:
    path = BrownianPath(Noise.batch(2, 16), 0.0, 1.0, (2,), dtype=torch.float64)
    how, state = METHODS[name].make(substeps=300, path=path), start(16, 2)
    there = how.solve(field("diagonal", "stratonovich"), state, [0.0, 1.0]).trajectory.states[:, -1]
    back = how.solve(field("diagonal", "stratonovich"), there, [1.0, 0.4, 0.0]).trajectory
    assert back.times.tolist() == [1.0, 0.4, 0.0]
    torch.testing.assert_close(back.states[:, -1], state, rtol=0, atol=2e-2)
    assert (there - state).abs().mean() > 0.2


# Cost


EVALUATIONS = {"flowvid:heun": 2, "torchsde:srk": 10, "torchsde:midpoint": 2, "torchsde:heun": 2, "torchsde:log_ode": 2}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [1, 49])
def test_evaluations_and_times_are_exact(name: str, steps: int) -> None:
    asked: list[float] = []

    def drift(time: float, state: Tensor) -> Tensor:
        assert type(time) is float
        asked.append(time)
        return -state

    what = StochasticDrift(drift, lambda time, state: 0.1 * state, "diagonal", calculi(name)[0])
    solution = METHODS[name].make(substeps=steps).solve(what, start(1, 2), [0.25, 0.5, 0.75], Noise.batch(0, 1))
    expected = 2 * steps * EVALUATIONS.get(name, 1) + (name == "torchsde:reversible_heun")
    assert (solution.evaluations, solution.depth, len(asked)) == (expected,) * 3
    assert (solution.accepted, solution.rejected, solution.status) == (2 * steps, 0, "complete")
    assert min(asked) == 0.25
    assert max(asked) <= 0.75 + 1e-15
    starts = {0.25 + 0.25 * n / steps for n in range(steps)} | {0.5 + 0.25 * n / steps for n in range(steps)}
    assert starts <= set(asked)


@pytest.mark.parametrize("name", METHODS)
def test_one_time_costs_nothing(name: str) -> None:
    state = start(2, 3)
    solution = METHODS[name].make().solve(field("diagonal", calculi(name)[0]), state, [0.3])
    assert torch.equal(solution.trajectory.states, state[:, None])
    assert (solution.evaluations, solution.depth, solution.accepted) == (0, 0, 0)


class Reads(TorchDispatchMode):
    """Counts reads of single numbers, which on a GPU wait for the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_steps_read_nothing(name: str, noise: str) -> None:
    counts = []
    for substeps in (1, 5):
        with Reads() as reads:
            solved(name, field(noise, calculi(name)[-1]), start(2, 3), [0.0, 0.3, 1.0], substeps=substeps)
        counts.append(reads.count)
    assert counts[0] == counts[1]


# Types and gradients


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_field_sees_its_own_type(name: str, dtype: torch.dtype) -> None:
    seen = set()

    def drift(time: float, state: Tensor) -> Tensor:
        seen.add(state.dtype)
        return torch.ones_like(state)

    def volatility(time: float, state: Tensor) -> Tensor:
        seen.add(state.dtype)
        return torch.zeros_like(state)

    what = StochasticDrift(drift, volatility, "diagonal", calculi(name)[0])
    steps = 20 if areas(name, "diagonal") else 100
    states = solved(name, what, torch.ones(1, 2, dtype=dtype), [0.0, 1.0], substeps=steps)
    assert states.dtype == dtype
    assert seen == {dtype}
    assert (states[:, -1] - 2).abs().max() < 1e-4


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive", "general"])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_the_steps(name: str, noise: str) -> None:
    if noise not in noises(name):
        pytest.skip("the method does not take this noise")
    state, rate = start(1, 2).requires_grad_(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def end(state: Tensor, rate: Tensor) -> Tensor:
        return solved(name, field(noise, calculi(name)[0], rate), state, [0.0, 0.3, 0.5])[:, 1:]

    assert torch.autograd.gradcheck(end, (state, rate))
    assert not end(state.detach(), rate.detach()).requires_grad
    assert end(state.detach(), rate).requires_grad


# Fields


def test_noise_on_the_velocity_alone_leaves_the_latent_smooth() -> None:
    g, dt, batch = 0.7, 0.25, 3000
    frames, noise = [n * dt for n in range(4)], Noise.batch(0, batch)

    def drift(time: float, state: Tensor) -> Tensor:
        return torch.cat((state[:, 1:], torch.zeros_like(state[:, 1:])), dim=1)

    start = torch.zeros(batch, 2, 2, dtype=torch.float64)
    moving = StochasticGrid(substeps=16).solve(kinetic(drift, g), start, frames, noise).trajectory.states[:, :, 0]
    white = StochasticDrift(lambda t, z: torch.zeros_like(z), lambda t, z: torch.full_like(z, g))
    jagged = StochasticGrid(substeps=16).solve(white, start, frames, noise).trajectory.states[:, :, 0]
    for states, expected in ((moving, 2 / 3 * g**2 * dt**3), (jagged, 2 * g**2 * dt)):
        flicker = states.diff(n=2, dim=1)
        assert flicker.square().mean().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / flicker.numel()))


def test_kinetic_volatility_may_be_a_function_and_enters_the_velocity_alone() -> None:
    what = kinetic(lambda time, state: -state, lambda time, state: time * state[:, :1], calculus="stratonovich")
    assert (what.noise, what.calculus) == ("diagonal", "stratonovich")
    assert what.volatility(0.5, torch.tensor([[2.0, 7.0]])).tolist() == [[0.0, 1.0]]
    assert torch.equal(what.drift(0.0, torch.ones(1, 2)), -torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"two halves of dimension 1.*got shape \(1, 3\)"):
        what.volatility(0.5, torch.ones(1, 3))


@pytest.mark.parametrize("name", ["flowvid:euler-maruyama", "flowvid:milstein", "torchsde:euler"])
def test_a_bridge_ends_where_it_should(name: str) -> None:
    batch, steps, g = 2000, 32, 0.8
    free = StochasticDrift(lambda t, z: torch.zeros_like(z), lambda t, z: torch.full_like(z, g))
    state, end = torch.full((batch, 1), 1.0, dtype=torch.float64), torch.full((batch, 1), -2.0, dtype=torch.float64)
    pinned = bridge(free, end, 2.0, landing=1.5 / steps)
    states = solved(name, pinned, state, [0.5, 1.0, 1.25, 2.0], substeps=steps // 2)
    assert torch.allclose(states[:, -1], end, atol=1e-12)
    for column, time in ((1, 1.0), (2, 1.25)):
        passed = (time - 0.5) / 1.5
        variance = g**2 * 1.5 * passed * (1 - passed)
        assert states[:, column].mean().item() == pytest.approx(1 - 3 * passed, abs=5 * math.sqrt(variance / batch))
        assert states[:, column].var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / batch) + 1 / steps)


@settings(max_examples=20)
@given(st.integers(1, 20), st.floats(-3, 3), st.floats(0, 2))
def test_a_bridge_lands_whatever_the_field(steps: int, rate: float, strength: float) -> None:
    wild = StochasticDrift(lambda t, z: rate * torch.sin(z) + t, lambda t, z: strength * torch.cos(z))
    state, end = start(2, 3), start(2, 3).flip(0)
    how = StochasticGrid(substeps=steps)
    pinned = bridge(wild, end, 1.0, landing=1 / steps)
    reached = how.solve(pinned, state, [0.0, 1.0], Noise.batch(0, 2)).trajectory.states[:, -1]
    torch.testing.assert_close(reached, end, rtol=0, atol=1e-9)


def test_a_bridge_refuses_what_it_cannot_pin() -> None:
    end = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="sense of Ito"):
        bridge(field("diagonal", "stratonovich"), end, 1.0, landing=0.1)
    with pytest.raises(ValueError, match=r"positive number of seconds.*got 0"):
        bridge(field("diagonal"), end, 1.0, landing=0.0)
    with pytest.raises(ValueError, match=r"no drift at its end, 1.0 s, or after; got 1.0 s"):
        solved("flowvid:heun", bridge(field("additive"), end, 1.0, landing=0.1), torch.ones(1, 2), [0.0, 1.0])


# Refusals


@pytest.mark.parametrize("make", [StochasticGrid, Sde])
def test_unknown_methods_and_steps_are_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"Unknown .*'rk4'; expected one of .*milstein"):
        make(method="rk4")
    with pytest.raises(ValueError, match="adjoint_reversible_heun"):
        make(method="adjoint_reversible_heun")
    with pytest.raises(ValueError, match=r"substeps >= 1.*got 0"):
        make(substeps=0)
    with pytest.raises(TypeError):
        make(substep=1)


@pytest.mark.parametrize("name", METHODS)
def test_the_wrong_calculus_or_noise_is_refused(name: str) -> None:
    for calculus in {"ito", "stratonovich"} - set(calculi(name)):
        with pytest.raises(ValueError, match=f"in that of {calculus}: it would converge to another solution"):
            solved(name, field("diagonal", calculus), start(1, 2), [0.0, 1.0])
    for noise in {"diagonal", "scalar", "additive", "general"} - set(noises(name)):
        with pytest.raises(ValueError, match=f"not {noise}: several columns that do not commute need Levy areas"):
            solved(name, field(noise, calculi(name)[0]), start(1, 2), [0.0, 1.0])


@pytest.mark.parametrize("how", [StochasticGrid(), Sde(), Sde(method="srk")])
def test_noise_must_fit(how: StochasticGrid | Sde) -> None:
    solve = partial(how.solve, field("diagonal"), start(2, 3), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"pass noise=Noise.batch\(seed, 2\)"):
        solve()
    with pytest.raises(ValueError, match="one seed for each of 2 samples; the noise has 3"):
        solve(Noise.batch(0, 3))
    with pytest.raises(ValueError, match=r"along a StochasticDrift.*got function"):
        how.solve(lambda time, state: state, start(2, 3), [0.0, 1.0], Noise.batch(0, 2))
    with pytest.raises(ValueError, match=r"volatility of diagonal noise has shape \(2, 3\).*returned shape \(2,\)"):
        how.solve(StochasticDrift(lambda t, z: z, lambda t, z: z[:, 0]), start(2, 3), [0.0, 1.0], Noise.batch(0, 2))
    bad = StochasticDrift(lambda t, z: z, lambda t, z: z, "additive")
    with pytest.raises(ValueError, match=r"shape \(2, 3\) and one more dimension"):
        how.solve(bad, start(2, 3), [0.0, 1.0], Noise.batch(0, 2))
    with pytest.raises(ValueError, match=r"one rate of change for each entry"):
        how.solve(StochasticDrift(lambda t, z: z[:, :1], lambda t, z: z), start(2, 3), [0.0, 1.0], Noise.batch(0, 2))
    precise = StochasticDrift(lambda t, z: z, lambda t, z: z.double())
    with pytest.raises(ValueError, match=r"volatility returned torch.float64 for a state in torch.float32"):
        how.solve(precise, start(2, 3).float(), [0.0, 1.0], Noise.batch(0, 2))


@pytest.mark.parametrize("make", [StochasticGrid, Sde])
def test_a_path_must_fit(make: Callable[..., Any]) -> None:
    seeds = Noise.batch(0, 2)
    solve = partial(lambda path, *noise: make(path=path).solve(field("diagonal"), start(2, 3), [0.0, 1.0], *noise))
    with pytest.raises(ValueError, match=r"needs a path of shape \(3,\) for 2 samples; got one of shape \(4,\) for 2"):
        solve(BrownianPath(seeds, 0.0, 1.0, (4,)))
    with pytest.raises(ValueError, match=r"got one of shape \(3,\) for 3"):
        solve(BrownianPath(Noise.batch(0, 3), 0.0, 1.0, (3,)))
    with pytest.raises(ValueError, match=r"runs from 0.0 s to 0.5 s"):
        solve(BrownianPath(seeds, 0.0, 0.5, (3,)))
    with pytest.raises(ValueError, match="a path with other noise"):
        solve(BrownianPath(seeds, 0.0, 1.0, (3,)), Noise.batch(1, 2))
    with pytest.raises(ValueError, match="more than 4 levels"):
        make(path=BrownianPath(seeds, 0.0, 1.0, (3,), levels=4), substeps=33).solve(
            field("diagonal"), start(2, 3), [0.0, 1.0]
        )
    same = solve(BrownianPath(seeds, 0.0, 1.0, (3,)), seeds)
    assert same.trajectory.states.dtype == torch.float64


def test_areas_are_not_taken_from_a_path() -> None:
    path = BrownianPath(Noise.batch(0, 2), 0.0, 1.0, (3,))
    with pytest.raises(ValueError, match="srk needs areas"):
        Sde(method="srk", path=path).solve(field("diagonal"), start(2, 3), [0.0, 1.0])
    with pytest.raises(ValueError, match="log_ode needs areas"):
        Sde(method="log_ode", path=path).solve(field("general", "stratonovich"), start(2, 3), [0.0, 1.0])
    Sde(method="log_ode", path=path).solve(field("diagonal", "stratonovich"), start(2, 3), [0.0, 1.0])


@pytest.mark.parametrize("name", METHODS)
def test_backward_is_refused_where_it_means_something_else(name: str) -> None:
    message = "forward in time only" if name in THEIRS else "Ito integral backward"
    if "ito" in calculi(name):
        with pytest.raises(ValueError, match=message):
            solved(name, field("diagonal", "ito"), start(1, 2), [1.0, 0.0])
    elif name in THEIRS:
        with pytest.raises(ValueError, match=message):
            solved(name, field("diagonal", "stratonovich"), start(1, 2), [1.0, 0.0])


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_finite_is_named(name: str) -> None:
    def drift(time: float, state: Tensor) -> Tensor:
        return torch.where((state > 5) & (time > 0.4), math.inf, 0.0 * state)

    what = StochasticDrift(drift, lambda time, state: 0.01 * state, "diagonal", calculi(name)[0])
    state = torch.tensor([[1.0, 1.0], [1.0, 9.0], [1.0, 1.0]])
    solution = METHODS[name].make().solve(what, state, [0.0, 0.5, 1.0], Noise.batch(0, 3))
    assert not solution.complete
    assert "sample 1 of 3" in solution.status
    finite = torch.isfinite(solution.trajectory.states).flatten(2).all(dim=2)
    first = 1 if solution.evaluations > 2 and not finite[1, 1] else 2
    assert f"between {[0, 0.5][first - 1]:.6g} s and {[0, 0.5, 1][first]} s" in solution.status
    assert finite[[0, 2]].all()
    assert finite[1].tolist() == [True, first == 2, False]
    assert torch.isnan(solution.trajectory.states[1, -1]).all()
    with pytest.raises(SolveError):
        solution.require()
    with pytest.raises(ValueError, match="initial state holds NaN"):
        solved(name, what, state * math.nan, [0.0, 1.0])


def test_what_left_the_range_of_its_type_does_not_come_back() -> None:
    there_and_back = StochasticDrift(
        lambda time, state: torch.full_like(state, 4e4 if time < 0.5 else -4e4),
        lambda time, state: torch.zeros_like(state),
    )
    state = torch.tensor([[6e4], [0.0]], dtype=torch.float16)
    solution = StochasticGrid().solve(there_and_back, state, [0.0, 0.5, 1.0], Noise.batch(0, 2))
    assert solution.trajectory.states[1, :, 0].tolist() == [0.0, 2e4, 0.0]
    assert torch.isfinite(solution.trajectory.states[0, :, 0]).tolist() == [True, False, False]
    assert "sample 0 of 2 stopped being finite, the first between 0 s and 0.5 s" in solution.status


def test_the_table_names_every_method_once() -> None:
    assert [method.name for method in sde_grid_methods()] == ["euler-maruyama", "milstein", "heun"]
    theirs = {"euler", "milstein", "srk", "midpoint", "heun", "euler_heun", "log_ode", "reversible_heun"}
    assert {method.name for method in sde_methods()} == theirs
    for method in METHODS.values():
        assert method.make().method == method.name
        assert (method.family, method.adaptive, method.gradients) == ("sde", False, "direct")
