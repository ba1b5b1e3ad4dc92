"""`flowvid.testing`: our solvers pass its checks, every planted bug is caught, and its closed forms are right."""

import ast
import importlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import flowvid.testing
from flowvid.dynamics.drift import RowDrift, RowWise, clock
from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.noise import Noise
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.grid import Grid
from flowvid.solve.jump import FlowMap
from flowvid.solve.ode import Ode
from flowvid.solve.sde_grid import StochasticGrid
from flowvid.solve.solution import Solution
from flowvid.solve.solver import check_problem
from flowvid.solve.tableau import GRID_TABLEAUS
from flowvid.testing import (
    ExactHeads,
    KnownField,
    KnownSde,
    arcsinh,
    check_accuracy,
    check_batch_invariance,
    check_consistent_heads,
    check_drift,
    check_dtype,
    check_errors,
    check_evaluations,
    check_noise_invariance,
    check_order,
    check_pure,
    check_reversible,
    check_semigroup,
    check_single_time,
    check_solver,
    check_strong_order,
    check_times,
    decay,
    forced,
    gaussian,
    geometric,
    harmonic,
    hyperbola,
    linear,
    logistic,
    settling,
    swing,
)
from flowvid.testing.probe import far
from flowvid.testing.strategies import fields, gap_sets, noises, seeds, starts, states, time_grids
from flowvid.video import Trajectory

ROOT = Path(__file__).parent.parent
FIELDS = (decay(), linear(), harmonic(), forced(), logistic(), hyperbola(), swing(), gaussian())
SDES = (
    geometric(),
    geometric(calculus="stratonovich"),
    geometric(noise="scalar"),
    geometric(noise="general"),
    arcsinh(),
    arcsinh(calculus="ito"),
    settling(),
)


@dataclass(frozen=True)
class Midpoint:
    """The midpoint rule in a dozen lines, with a fault to be found."""

    substeps: int = 4
    fault: str = ""
    kept: tuple[list[int]] = ([],)

    def solve(self, drift: Any, state: Tensor, times: Any, noise: Noise | None = None) -> Solution:
        fault = self.fault
        points = self.checked(state, times)
        z, out, calls = state.double() if fault == "drift in float64" else state, [state], 0
        self.kept[0].append(1)
        if fault == "draws a global number":
            torch.rand(())
        rates = []
        for left, right in pairwise(points):
            steps = self.substeps + (fault == "a step too many" and self.substeps == 49)
            for n in range(steps):
                t, h = left + (right - left) * n / steps, (right - left) / steps
                h = abs(h) if fault == "never goes back" else h
                asked = [t, t + h * (1.01 if fault == "asks beyond" else 0.5)]
                asked = [float(np.float32(t)) for t in asked] if fault == "times in float32" else asked
                asked[0] -= 0.01 * h if fault == "asks before" else 0
                asked = [points[0], points[0]] if fault == "asks at one time" else asked
                k = drift(asked[0], z)
                rates.append(k if fault == "order one" else drift(asked[1], z + h / 2 * k))
                calls += 2
                z = self.stepped(z, h, rates)
                if fault == f"leaks {'with' if isinstance(drift, RowDrift) else 'without'} rows":
                    z = z + 1e-12 * z.mean(dim=0, keepdim=True)
            out.append(z.to(state.dtype))
        calls += (fault == "counts a call too many") - (fault == "counts a call too few")
        if fault == "writes into the state":
            state += 1
        if fault == "a single time moves" and len(out) == 1:
            out[0] = state + 1
        if fault == "first state is the second" and len(out) > 1:
            out[0] = out[1]
        answered = torch.tensor(points, dtype=torch.float64)
        if fault == "answers in float32":
            answered = (
                answered.float().double() if len(answered.unique()) == len(answered.float().unique()) else answered
            )
        if fault == "skips the last" and len(out) > 1:
            out, answered = out[:-1], answered[:-1]
        found = torch.stack(out, dim=1)
        found = found.double() if fault == "answers in float64" else found
        spent = 1 if fault == "a single time costs" else calls
        depth = 2 * calls if fault == "depth of two" else calls
        status = "stopped for no reason" if fault == "gives up" else "complete"
        accepted = self.substeps * (len(points) - 1)
        return Solution(Trajectory(found, answered), spent, depth, accepted, int(fault == "rejects"), status)

    def checked(self, state: Tensor, times: Any) -> list[float]:
        fault, listed = self.fault, [float(time) for time in times]
        if fault == "sorts the times" and len(listed) > 2:
            return sorted(set(listed), reverse=listed[0] > listed[-1])
        if fault == "takes what is not finite" and len(listed) > 1:
            return listed
        if fault == "another error" and not listed:
            raise IndexError("list index out of range")
        if fault == "writes into the times" and isinstance(times, Tensor):
            times += 1
        return check_problem(state, listed).tolist()

    def stepped(self, z: Tensor, h: float, rates: Sequence[Tensor]) -> Tensor:
        match self.fault:
            case "leaks a mean":
                return z + h * rates[-1] + 1e-12 * h * z.mean(dim=0, keepdim=True)
            case "knows the batch size":
                return z + h * rates[-1] * (1 + 1e-9 * (len(z) > 4))
            case "knows the place":
                return z + h * rates[-1] + 1e-9 * torch.arange(len(z)).to(z).reshape(-1, *[1] * (z.ndim - 1))
            case "remembers a rate":
                return z + h * (rates[-1] + 1e-9 * (rates[-2] if len(rates) > 1 else 0))
            case "remembers a solve":
                return z + h * rates[-1] + 1e-9 * len(self.kept[0])
            case "loses bits" if z.dtype == torch.float32:
                return (z + h * rates[-1]).bfloat16().float()
        return z + h * rates[-1]


def at_steps(fault: str) -> Callable[[int], Midpoint]:
    return lambda n: Midpoint(n, fault, ([],))


CHECKS: dict[str, Callable[[str], None]] = {
    "order": lambda fault: check_order(at_steps(fault), 2),
    "accuracy": lambda fault: check_accuracy(at_steps(fault)(32), atol=1e-3),
    "semigroup": lambda fault: check_semigroup(at_steps(fault)(4)),
    "reversible": lambda fault: check_reversible(at_steps(fault)(32), atol=1e-3),
    "times": lambda fault: check_times(at_steps(fault)(4)),
    "single": lambda fault: check_single_time(at_steps(fault)(4)),
    "dtype": lambda fault: check_dtype(at_steps(fault)(4)),
    "evaluations": lambda fault: check_evaluations(at_steps(fault), 2),
    "errors": lambda fault: check_errors(at_steps(fault)(4)),
    "pure": lambda fault: check_pure(at_steps(fault)(4)),
    "batch": lambda fault: check_batch_invariance(at_steps(fault)(4)),
    "solver": lambda fault: check_solver(at_steps(fault), order=2, per_step=2),
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_right_solver_passes_every_check(check: str) -> None:
    CHECKS[check]("")


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("order one", "order", r"Expected order 2 within 0.3 on swing.*measured (0.9|1.0|1.1)"),
        ("order one", "accuracy", r"errors of at most 1.00e-03 on swing.*measured"),
        ("never goes back", "reversible", "way back along swing"),
        ("remembers a rate", "semigroup", r"same state at 1.0 s of hyperbola in one solve as in 2.*differ by"),
        (
            "skips the last",
            "times",
            r"Expected the times \[0.0, 0.1, .*, 1.0\] as they were asked.*; got \[0.0, 0.1, [^,]*\]",
        ),
        ("answers in float32", "times", "Expected the times .* as they were asked, to the last bit"),
        ("first state is the second", "times", "Expected the given state at the first time"),
        ("times in float32", "times", r"asked inside \[4096.2, 4096.2001\] s.*asked from"),
        ("asks beyond", "times", r"asked inside \[0.0, 1.0\] s.*to 1.00"),
        ("asks before", "times", r"asked inside \[0.0, 1.0\] s.*asked from -0.000"),
        ("asks at one time", "times", r"asked at 3 different times or more; it was asked at 1"),
        ("a single time moves", "single", "answered by the given state; the answer is 1.00e.00 off"),
        ("a single time costs", "single", r"single time to cost nothing; .* are \(1, 0, 0, 0, 0\)"),
        ("writes into the state", "pure", "given state to be left as it was"),
        ("writes into the times", "pure", "given times to be left as they were"),
        ("draws a global number", "pure", "global random states to be left alone"),
        ("remembers a solve", "pure", "same answer from a second solve"),
        ("answers in float64", "dtype", "Expected states of torch.float32"),
        ("drift in float64", "dtype", "drift that sees states of torch.float32"),
        ("loses bits", "dtype", "Expected torch.float32 to cost at most .* against float64; it costs"),
        ("counts a call too many", "evaluations", r"the 4.0 evaluations per sample that happened; the solution says 5"),
        ("counts a call too few", "evaluations", r"the 4.0 evaluations per sample that happened; the solution says 3"),
        ("a step too many", "evaluations", r"Expected 196 evaluations in 98 accepted steps; got 200"),
        ("rejects", "evaluations", "and 1 rejected"),
        ("depth of two", "evaluations", "depth of 1 to 4, the calls that happened; the solution says 8"),
        ("sorts the times", "errors", r"ValueError for the times \[0.0, 0.5, 0.3\]; it was accepted"),
        ("takes what is not finite", "errors", "it was accepted|got"),
        ("another error", "errors", r"ValueError for the times \[\]; got IndexError"),
        ("leaks a mean", "batch", "sample of hyperbola to be the same"),
        ("leaks with rows", "batch", "sample of hyperbola to be the same"),
        ("leaks without rows", "batch", "sample of hyperbola to be the same"),
        ("knows the batch size", "batch", "same beside three other samples"),
        ("knows the place", "batch", "same in another order"),
        ("gives up", "order", "Expected a complete solution; its status is: stopped for no reason"),
    ],
)
def test_a_planted_bug_is_caught_with_its_name(fault: str, check: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        CHECKS[check](fault)


def test_all_failures_are_reported_together() -> None:
    with pytest.raises(AssertionError, match="3 of 11 checks failed") as caught:
        CHECKS["solver"]("never goes back")
    named = re.findall(r"^- (check_\w+): Expected", str(caught.value), flags=re.MULTILINE)
    assert named == ["check_times", "check_reversible", "check_order"]


COMMON = ["batch_invariance", "dtype", "errors", "evaluations", "pure", "single_time", "times"]


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"order": 2}, ["order", "order", "reversible", "semigroup"]),
        ({"order": 2, "backward": False}, ["order", "semigroup"]),
        ({"accuracy": 1e-3}, ["accuracy", "reversible", "semigroup"]),
        ({"accuracy": 1e-3, "backward": False, "problem": decay()}, ["accuracy", "semigroup"]),
        ({"order": 1, "problem": geometric()}, ["noise_invariance", "strong_order"]),
    ],
)
def test_the_suite_is_every_check_that_applies(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], more: list[str]
) -> None:
    suite, ran = importlib.import_module("flowvid.testing.suite"), []
    for name in [name for name in vars(suite) if name.startswith("check_") and name != "check_solver"]:
        monkeypatch.setattr(suite, name, lambda *args, name=name[6:], **given: ran.append((name, args, given)))
    suite.check_solver(at_steps(""), per_step=3, batch_atol=0.5, **options)
    assert sorted(name for name, _, _ in ran) == sorted(COMMON + more)
    given = {name: given for name, _, given in ran}
    problem, backward = options.get("problem"), options.get("backward", True)
    assert given["times"]["backward"] == (backward and not isinstance(problem, KnownSde))
    assert given["batch_invariance"]["atol"] == 0.5
    if "reversible" in more:
        assert given["reversible"]["atol"] == pytest.approx(10 * options.get("accuracy", 32**-2))
    if "semigroup" in more:
        assert given["semigroup"]["atol"] == options.get("accuracy", 0.0)
    if more.count("order") == 2:
        assert given["order"]["times"] == (1.0, 0.3, 0.0)
    for name, args, others in ran:
        assert problem in args or others.get("problem") is problem
        assert name != "evaluations" or args[1] == 3


def test_an_order_that_rounding_hides_is_refused() -> None:
    with pytest.raises(AssertionError, match="No order can be seen in errors of rounding"):
        check_order(at_steps(""), 2, decay(0.0))


def test_more_than_the_claimed_order_is_another_order() -> None:
    with pytest.raises(AssertionError, match="Expected order 1"):
        check_order(at_steps(""), 1)
    check_order(at_steps(""), 2.5, tolerance=0.6)


@pytest.mark.parametrize("method", ["heun3"])
def test_our_grid_solvers_pass(method: str) -> None:
    tableau = GRID_TABLEAUS[method]
    check_solver(partial_grid(method), order=tableau.order, per_step=tableau.stages)


@pytest.mark.parametrize(("method", "order", "stages"), [("euler", 1, 1), ("midpoint", 2, 2), ("rk4", 4, 4)])
def test_torchdiffeqs_fixed_steps_pass(method: str, order: int, stages: int) -> None:
    check_solver(lambda n: Ode(method=method, substeps=n), order=order, per_step=stages)


@pytest.mark.parametrize("method", ["dopri5"])
def test_our_adaptive_solvers_pass(method: str) -> None:
    check_solver(lambda n: Adaptive(method=method, rtol=1e-5, atol=1e-5), accuracy=1e-3)


def test_joint_error_control_is_caught_and_is_all_that_is_wrong_with_it() -> None:
    joint = Ode(method="dopri5", rtol=1e-6, atol=1e-6)
    with pytest.raises(AssertionError, match="Expected each sample of hyperbola to be the same"):
        check_batch_invariance(joint)
    check_batch_invariance(joint, atol=1e-5)
    check_accuracy(joint, atol=1e-4)
    check_semigroup(joint, atol=1e-5)
    check_reversible(joint, atol=1e-4)
    check_evaluations(lambda n: joint)
    check_dtype(joint)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_shows_the_order(field: KnownField) -> None:
    check_order(partial_grid("heun3"), 3, field)


def partial_grid(method: str) -> Callable[[int], Grid]:
    return lambda n: Grid(method=method, substeps=n)


@dataclass(frozen=True)
class Walk:
    """Euler-Maruyama, or Heun's method for Stratonovich equations, with a fault to be found."""

    substeps: int = 4
    heun: bool = False
    fault: str = ""

    def solve(
        self, drift: StochasticDrift, state: Tensor, times: Sequence[float] | Tensor, noise: Noise | None = None
    ) -> Solution:
        assert noise is not None
        points = check_problem(state, times).tolist()
        z, out, calls = state.double(), [state], 0
        for interval, (left, right) in enumerate(pairwise(points)):
            for n in range(self.substeps):
                t, h = left + (right - left) * n / self.substeps, (right - left) / self.substeps
                stream, columns = f"{interval} {n}", drift.volatility(t, z.to(state.dtype)).double()
                dW = math.sqrt(h) * self.numbers(noise, stream, columns, drift.noise)
                move = h * drift.drift(t, z.to(state.dtype)).double() + self.driven(columns, dW, drift.noise)
                calls += 1
                if self.heun:
                    y, t = (z + move).to(state.dtype), min(t + h, right)
                    other = h * drift.drift(t, y).double()
                    move = (move + other + self.driven(drift.volatility(t, y).double(), dW, drift.noise)) / 2
                    calls += 1
                z = z + move
            out.append(z.to(state.dtype))
        points = torch.tensor(points, dtype=torch.float64)
        return Solution(Trajectory(torch.stack(out, dim=1), points), calls, calls, self.substeps * (len(points) - 1))

    def numbers(self, noise: Noise, stream: str, columns: Tensor, kind: str) -> Tensor:
        shape = {"scalar": (1,), "diagonal": tuple(columns.shape[1:])}.get(kind, (columns.shape[-1],))
        match self.fault:
            case "one generator":
                return torch.randn(len(noise), *shape, generator=torch.Generator().manual_seed(len(noise))).double()
            case "global generator":
                return torch.randn(len(noise), *shape, dtype=torch.float64)
            case "batch size":
                stream = f"{stream} {len(noise) > 1}"
            case "large batch":
                stream = f"{stream} {len(noise) > 2}"
            case "place":
                noise = Noise.of(seed + place for place, seed in enumerate(noise.seeds))
            case "no seed":
                noise = Noise.of([0] * len(noise))
        numbers = noise.normal(stream, *shape, dtype=torch.float64)
        return numbers

    def driven(self, columns: Tensor, dW: Tensor, kind: str) -> Tensor:
        scale = 1 + 0.2 * float(columns.std() > 0) if self.fault == "variance" else 1
        if kind in ("diagonal", "scalar"):
            return scale * columns * dW.reshape(len(dW), -1, *[1] * (columns.ndim - 2))
        return scale * torch.einsum("b...m,bm->b...", columns, dW)


def of_steps(*, heun: bool = False, fault: str = "") -> Callable[[int], Walk]:
    return lambda n: Walk(n, heun, fault)


@pytest.mark.parametrize(("heun", "calculus"), [(False, "ito"), (True, "stratonovich")])
def test_right_stochastic_solvers_pass(heun: bool, calculus: Any) -> None:
    order = 1 if heun else 0.5
    check_solver(of_steps(heun=heun), order=order, per_step=1 + heun, problem=geometric(calculus=calculus))


def test_our_stochastic_solver_passes() -> None:
    check_solver(
        lambda n: StochasticGrid(method="milstein", substeps=n), order=1, per_step=1, problem=geometric(noise="scalar")
    )


@pytest.mark.parametrize(
    ("sde", "heun", "order"),
    [
        (geometric(noise="scalar"), False, 0.5),
        (geometric(noise="general"), False, 0.5),
        (geometric(noise="general", calculus="stratonovich"), True, 1),
        (arcsinh(), True, 1),
        (arcsinh(calculus="ito"), False, 0.5),
        (settling(), False, 1),
        (settling(calculus="stratonovich"), True, 2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_strong_orders_on_the_other_equations(sde: KnownSde, heun: bool, order: float) -> None:
    check_strong_order(of_steps(heun=heun), order, sde)


@pytest.mark.parametrize(("heun", "calculus"), [(False, "stratonovich"), (True, "ito")])
@pytest.mark.parametrize("make", [geometric, arcsinh])
def test_the_wrong_calculus_is_caught(make: Callable[..., KnownSde], heun: bool, calculus: str) -> None:
    with pytest.raises(AssertionError, match=r"measured -?0\.[012].*the wrong calculus"):
        check_strong_order(of_steps(heun=heun), 1 if heun else 0.5, make(calculus=calculus))


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("variance", partial(check_strong_order, order=0.5), "noise of the wrong variance"),
        ("one generator", check_noise_invariance, r"path of seed 11 to be that of seed 11 .* seeds \(11, 12\)"),
        ("batch size", check_noise_invariance, r"path of seed 11 to be that of seed 11 .* seeds \(11, 12\)"),
        ("place", check_noise_invariance, r"path of seed 11 to be that of seed 11 .* seeds \(12, 11\)"),
        ("large batch", check_noise_invariance, r"path of seed 11 to be that .* seeds \(3, 4, 5, 11, 6, 7\)"),
        ("no seed", check_noise_invariance, r"path of seed 12 to be another than that of seed 11"),
        ("batch size", partial(check_batch_invariance, problem=geometric()), "to be the same alone"),
        ("place", partial(check_batch_invariance, problem=geometric()), "to be the same in another order"),
        ("no seed", partial(check_pure, problem=geometric()), "other seeds to give other paths"),
        ("global generator", partial(check_pure, problem=geometric()), "global random states to be left alone"),
    ],
)
def test_planted_noise_is_caught(fault: str, check: Callable[..., None], message: str) -> None:
    made = of_steps(fault=fault)
    with pytest.raises(AssertionError, match=message):
        check(made if isinstance(check, partial) and check.func is check_strong_order else made(4))


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ([1.0, math.nan], [1.0, math.nan], 0.0),
        ([math.nan, 1.0], [0.0, 1.0], math.inf),
        ([math.inf, 1.0], [math.inf, -1.0], 2.0),
        ([math.inf], [1.0], math.inf),
        ([1.0], [1.0, 1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_far_is_the_greatest_difference_and_nan_equals_nan_alone(
    one: list[float], other: list[float], apart: float
) -> None:
    assert far(torch.tensor(one), torch.tensor(other)) == far(torch.tensor(other), torch.tensor(one)) == apart


class Leaky:
    """Rows that are not those that were asked for."""

    def __call__(self, time: Any, state: Tensor) -> Tensor:
        return -state * torch.arange(1, len(state) + 1).to(state)[:, None]

    def rows(self, index: Tensor) -> "Leaky":
        return self


def per_row(time: Any, state: Tensor) -> Tensor:
    return clock(time, state)[:, None] * state


def written(time: Any, state: Tensor) -> Tensor:
    return state.mul_(-1.0)


BATCH = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.7, -0.3], [1.5, 0.2, 0.9]])


def numbered(time: Any, state: Tensor) -> Tensor:
    """A closure over something per sample, which is allowed."""
    return BATCH * state


@pytest.mark.parametrize("drift", [per_row, numbered, RowWise(lambda t, z, c: c * z, (BATCH,)), geometric().drift])
def test_right_drifts_pass(drift: Any) -> None:
    check_drift(drift, BATCH)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
def test_stochastic_fields_are_row_wise(sde: KnownSde) -> None:
    for field in (sde.drift, sde.driver):
        check_drift(field, sde.states(3), atol=1e-12)


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (lambda time, z: z - z.mean(dim=0), "drift of sample 0 at 0.0 s beside other samples"),
        (lambda time, z: z / (1 + z.flatten(1).norm(dim=1).max()), "beside other samples"),
        (lambda time, z: z * float(torch.as_tensor(time).flatten()[0]), "at a time of its own for each sample"),
        (lambda time, z: z * (2.0 if isinstance(time, Tensor) else 1.0), r"float64 tensor of shape \(\)"),
        (lambda time, z: z * (2.0 if isinstance(time, Tensor) and time.ndim else 1.0), "as one time per sample"),
        (lambda time, z: z + torch.rand(()), "asked a second time"),
        (lambda time, z: z / 0, "Expected a finite drift at 0.0 s"),
        (lambda time, z: z.double(), "shape .* torch.float32"),
        (lambda time, z: z[:, :1], r"shape \(3, 3\)"),
        (written, "leaves its state alone"),
        (Leaky(), r"from rows\(\[1\]\)"),
        (StochasticDrift(lambda t, z: z - z.mean(dim=0), lambda t, z: z), "drift of sample 0"),
        (StochasticDrift(lambda t, z: z, lambda t, z: z - z.mean(dim=0)), "volatility of sample 0"),
        (StochasticDrift(lambda t, z: z, lambda t, z: z, "additive"), "volatility of shape .*'noise'"),
        (StochasticDrift(lambda t, z: z, lambda t, z: z[..., None], "diagonal"), "volatility of shape"),
    ],
)
def test_wrong_drifts_are_caught(drift: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_drift(drift, BATCH)


def test_one_state_says_nothing_of_others() -> None:
    with pytest.raises(ValueError, match="two states or more; got 1"):
        check_drift(per_row, BATCH[:1])


class Skewed(ExactHeads):
    """Heads one of which is wrong."""

    def __init__(self, field: KnownField, gaps: Sequence[float], wrong: Callable[[Tensor], Tensor]) -> None:
        super().__init__(field, gaps)
        self.wrong = wrong

    def rates(self, times: Sequence[float], states: Tensor, moving: Sequence[bool]) -> Tensor:
        return self.wrong(super().rates(times, states, moving))


def skewed(rates: Tensor) -> Tensor:
    return torch.cat((rates[:, :, :-1], 1.01 * rates[:, :, -1:]), dim=2)


@given(starts(), gap_sets(min_size=1, max_size=3), st.floats(0.2, 0.4))
def test_exact_heads_are_consistent(start: tuple[KnownField, Tensor], gaps: tuple[float, ...], time: float) -> None:
    field, state = start
    near = tuple(gap / 8 for gap in gaps)
    heads = ExactHeads(field, near)
    assert isinstance(heads, FlowMap)
    check_consistent_heads(heads, state, time=time)


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        ((0.1, 0.2), r"jumps over 0.1 s and 0.1 s to make the jump over 0.2 s"),
        ((-0.1, 0.1), r"jumps over -0.1 s and 0.1 s to make the jump over 0 s"),
        ((0.1, 0.3), "so there is nothing to compare"),
    ],
)
def test_inconsistent_heads_are_caught(gaps: tuple[float, ...], message: str) -> None:
    state = harmonic().states(3)
    with pytest.raises(AssertionError, match=message):
        check_consistent_heads(Skewed(harmonic(), gaps, skewed), state)
    with pytest.raises(AssertionError, match="Expected rates of shape"):
        check_consistent_heads(Skewed(harmonic(), gaps, lambda rates: rates.transpose(0, 2)), state)


def test_heads_answer_each_state_at_its_own_time() -> None:
    field, state = swing(), swing().states(2)
    rates = ExactHeads(field, (-0.1, 0.2)).rates([0.0, 0.5], torch.stack((state, 2 * state), dim=1), [True, True])
    assert torch.equal(rates[:, 0, 1], (field.flow(state, 0.0, 0.2) - state) / 0.2)
    assert torch.equal(rates[:, 1, 0], (field.flow(2 * state, 0.5, 0.4) - 2 * state) / -0.1)


@settings(max_examples=30)
@given(starts(min_batch=2), time_grids(min_size=3, max_size=3, backward=True))
def test_flows_are_flows_of_their_drifts(start: tuple[KnownField, Tensor], times: list[float]) -> None:
    field, state = start
    first, middle, last = times
    there = field.flow(state, first, middle)
    torch.testing.assert_close(field.flow(state, first, first), state, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(field.flow(there, middle, last), field.flow(state, first, last), rtol=1e-8, atol=1e-8)
    slope = (field.flow(state, first, middle + 1e-5) - field.flow(state, first, middle - 1e-5)) / 2e-5
    torch.testing.assert_close(field.drift(middle, there), slope, rtol=1e-4, atol=1e-4)


@settings(max_examples=20)
@given(starts(min_batch=2))
def test_known_drifts_are_fit_for_any_solver(start: tuple[KnownField, Tensor]) -> None:
    check_drift(start[0].drift, start[1], atol=1e-12)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_the_states_of_a_field_are_unequal_inside_its_range_and_do_not_depend_on_their_number(
    field: KnownField,
) -> None:
    many = field.states(9)
    assert many.shape == (9, *field.shape)
    assert field.low <= many.min() < many.max() <= field.high
    assert len(many.unique()) == many.numel()
    assert torch.equal(field.states(4), many[:4])
    assert field.states(2, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_average_velocity_times_gap_is_the_displacement() -> None:
    state = decay().states(2)
    moved = state - 0.5 * decay().average_velocity(state, 1.0, -0.5)
    torch.testing.assert_close(moved, state * math.exp(0.5), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)
def test_solutions_solve_their_equations(sde: KnownSde) -> None:
    """dz = f dt + g o dW for a smooth path, with f the drift less the correction g dg/dz / 2 of an Ito equation."""
    state, eps = sde.states(2), 1e-5
    path = 0.3 * torch.cos(torch.arange(state.numel()).double()).reshape(state.shape)
    at = partial(sde.solution, state, 0.2)
    z = at(0.7, path)

    def volatility(z: Tensor) -> Tensor:
        columns = sde.drift.volatility(0.7, z)
        return columns.square().sum(-1).sqrt() if columns.ndim > z.ndim else columns

    correction = (volatility(z + eps) - volatility(z - eps)) / (2 * eps) * volatility(z) / 2
    smooth = sde.drift.drift(0.7, z) - (correction if sde.drift.calculus == "ito" else 0)
    torch.testing.assert_close((at(0.7 + eps, path) - at(0.7 - eps, path)) / (2 * eps), smooth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        (at(0.7, path + eps) - at(0.7, path - eps)) / (2 * eps), volatility(z), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(sde.solution(state, 0.2, 0.2, torch.zeros_like(path)), state, rtol=1e-12, atol=1e-12)
    assert sde.driver.noise == sde.drift.noise
    assert sde.driver.calculus == sde.drift.calculus
    assert float(sde.driver.drift(0.7, z).abs().max()) == 0
    columns = sde.driver.volatility(0.7, z)
    assert columns.shape == sde.drift.volatility(0.7, z).shape
    norm = columns.square().sum(-1) if columns.ndim > z.ndim else columns.square()
    torch.testing.assert_close(norm, torch.ones_like(z))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(((1.0, 2.0),)), r"square matrix; got rows of lengths \[2\]"),
        (lambda: linear(()), "square matrix"),
        (lambda: harmonic(0.0), "frequency that is not zero"),
        (lambda: swing(0.0), "frequency that is not zero"),
        (lambda: forced(0.0, 0.0), "a rate or a frequency that is not zero"),
        (lambda: gaussian(0.0, 0.0), "positive standard deviation; got 0.0"),
        (lambda: decay().average_velocity(BATCH, 0.0, 0.0), "gap that is not zero"),
        (lambda: ExactHeads(decay(), ()), "at least one gap"),
        (lambda: ExactHeads(decay(), (0.1, 0.0)), "none that is zero"),
        (lambda: check_solver(at_steps("")), "the order that is claimed, or the accuracy"),
        (lambda: check_solver(of_steps(), accuracy=1.0, problem=geometric()), "give its strong order alone"),
        (lambda: check_solver(of_steps(), order=1, accuracy=1.0, problem=geometric()), "give its strong order alone"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@settings(max_examples=15)
@given(st.data())
def test_strategies_draw_what_they_promise(data: st.DataObject) -> None:
    state = data.draw(states(2, 3, min_batch=2, max_batch=5, low=-0.5, high=0.25, dtype=torch.float32))
    assert 2 <= len(state) <= 5
    assert state.shape[1:] == (2, 3)
    assert state.dtype == torch.float32
    assert -0.5 <= float(state.min()) <= float(state.max()) <= 0.25
    times = data.draw(time_grids(1, 7, start=-1.0, stop=3.0))
    assert 1 <= len(times) <= 7
    assert times == sorted(times)
    assert -1 <= times[0] <= times[-1] <= 3
    assert all(np.diff(times) > 3.9e-6)
    turned = data.draw(time_grids(backward=True))
    assert turned in (sorted(turned), sorted(turned, reverse=True))
    noise = data.draw(noises(min_batch=2, max_batch=3))
    assert 2 <= len(noise) == len(set(noise.seeds)) <= 3
    assert -(2**63) <= data.draw(seeds()) < 2**63
    gaps = data.draw(gap_sets(min_size=2, max_size=4))
    forward = [gap for gap in gaps if gap > 0]
    assert 2 <= len(forward) <= 4
    assert list(gaps) == sorted(gaps) == [-gap for gap in reversed(gaps)]
    assert all(late == 2 * early for early, late in pairwise(forward))
    assert isinstance(data.draw(fields()), KnownField)


def test_hypothesis_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "flowvid.testing.strategies")
    with pytest.raises(ImportError, match=r"pip install 'flowvid\[test\]'"):
        importlib.import_module("flowvid.testing.strategies")


def test_hypothesis_is_imported_in_one_place() -> None:
    found = set()
    for path in (ROOT / "flowvid").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {path.name for name in names if name.split(".")[0] in ("hypothesis", "pytest")}
    assert found == {"strategies.py"}


def test_the_examples_of_the_page_run_and_its_table_is_complete() -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        names: dict[str, Any] = {}
        exec(compile(block, "docs/testing.md", "exec"), names)
        for name, test in list(names.items()):
            if name.startswith("test_"):
                test()
    table = set(re.findall(r"^\| `(check_\w+)", page, flags=re.MULTILINE))
    assert table == {name for name in flowvid.testing.__all__ if name.startswith("check_")}
