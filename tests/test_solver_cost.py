"""Work-precision diagrams: what is counted and fitted, where curves reach their floor, and what the results hold."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments import precision
from experiments.floors import Exact, first_within, measure_exact
from experiments.precision import (
    Oracles,
    Paths,
    fields,
    fitted_order,
    measure_oracles,
    measure_paths,
    point,
    solvers_of,
)
from experiments.recipes import SCALES, solver_cost
from experiments.solver_cost import draw, mean_points
from experiments.stiffness import Stiffness, at_equal_error, measure_stiffness
from flowvid.solvers import solve, solver_methods
from flowvid.testing import hyperbola

RESULTS = Path(__file__).parent.parent / "experiments" / "results"
ODES = {name for name, method in solver_methods().items() if method.family == "ode"}


def curve(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    """Points with (evaluations, error)."""
    return [{"setting": cost, "evaluations": cost, "depth": 2 * cost, "error": error} for cost, error in pairs]


def test_a_fitted_order_is_that_of_the_last_points_above_rounding() -> None:
    points = curve(*((n, 3.0 * n**-4.0) for n in (8, 16, 32)))
    assert fitted_order(points) == pytest.approx(4.0)
    assert fitted_order([*curve((2, 9.0), (4, 9.0)), *points]) == pytest.approx(4.0)
    assert fitted_order([*points, *curve((64, 1e-15), (128, 0.0))]) == pytest.approx(4.0)
    assert fitted_order([*curve((4, 9.0)), *points], last=4) != pytest.approx(4.0, abs=0.1)
    assert fitted_order(curve((8, 1e-3), (16, 1e-14))) is None


def test_a_point_holds_what_a_solve_costs() -> None:
    known, calls = hyperbola(), []

    def work() -> Any:
        calls.append(1)
        return solve(known.drift, known.states(2), [0.0, 1.0], "rk4")

    found = point(1, work, lambda solution: {"error": 0.5}, repeats=3)
    assert len(calls) == 4
    assert (found["setting"], found["evaluations"], found["depth"], found["error"]) == (1, 4.0, 4.0, 0.5)
    assert 0 <= found["seconds"] < 10


def test_settings_are_steps_or_tolerances_and_low_orders_stop_early() -> None:
    table = solver_methods()
    options: dict[str, Any] = {"steps": (2, 5), "tolerances": (1e-2, 1e-6), "least": 1e-4}
    assert [solver.substeps for solver in solvers_of("rk4", table["rk4"], **options).values()] == [2, 5]
    assert [solver.rtol for solver in solvers_of("tsit5", table["tsit5"], **options).values()] == [1e-2, 1e-6]
    assert list(solvers_of("fehlberg2", table["fehlberg2"], **options)) == [1e-2]
    assert list(solvers_of("scipy_solver", table["scipy_solver"], **options)) == [1e-2, 1e-6]


def test_oracles_hold_every_method_on_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    known = fields()
    assert set(known) == {"harmonic", "forced", "logistic", "hyperbola", "swing"}
    monkeypatch.setattr(precision, "fields", lambda: {name: known[name] for name in ("forced", "hyperbola")})
    found = measure_oracles(Oracles(steps=(8, 16), tolerances=(1e-2,), batch=2, duration=1.0, repeats=1))
    assert list(found["fields"]) == ["forced", "hyperbola"]
    for curves in found["fields"].values():
        assert set(curves) == ODES
        assert curves["rk4"]["points"][0]["evaluations"] == 32
        assert curves["rk4"]["points"][0]["error"] < curves["euler"]["points"][1]["error"]
        assert curves["torchdiffeq:rk4"]["points"][1]["error"] == pytest.approx(
            curves["rk4-38"]["points"][1]["error"], rel=1e-3, abs=1e-13
        )
        assert curves["euler"]["fitted"] == pytest.approx(1.0, abs=0.35)
        assert all(kept["fitted"] is None for kept in curves.values() if kept["adaptive"])
    fixed = {name for name in ODES if not solver_methods()[name].adaptive}
    assert {found["says"].partition(":")[0] for found in found["claims"] if ":" in found["says"]} >= {"rk4", "euler"}
    assert len(found["claims"]) == len(fixed)


def test_costs_are_compared_at_the_same_error() -> None:
    one, other = (curve(*((a * n, n**-2.0) for n in (1, 10, 100))) for a in (6.0, 2.0))
    assert at_equal_error(one, other) == pytest.approx(3.0)
    assert at_equal_error(other, one, key="depth") == pytest.approx(1 / 3)
    shifted = curve(*((2.0 * n, 0.01 * n**-2.0) for n in (1, 10, 100)))
    assert at_equal_error(one, shifted) == pytest.approx(30.0)
    bent = curve((2.0, 1.0), (10.0, 1e-2), (2000.0, 1e-4))
    assert at_equal_error(one, bent) == pytest.approx(6.0)
    assert at_equal_error(one, shifted[::-1]) == pytest.approx(30.0)
    with pytest.raises(ValueError, match="no errors in common"):
        at_equal_error(one, curve((1, 1e-9), (2, 1e-10)))


def test_a_mixed_batch_needs_fewer_evaluations_under_control_per_sample() -> None:
    how: dict[str, Any] = {"seeds": (0, 1), "tolerances": (1e-2, 1e-4), "batch": 16, "duration": 0.7}
    mixed = measure_stiffness(Stiffness(**how))
    alike = measure_stiffness(Stiffness(**how, slowest=20.0, fastest=20.5))
    assert mixed["evaluations_ratio"]["mean"] > 1.3
    assert alike["evaluations_ratio"]["mean"] < 1.3
    for found in mixed["methods"].values():
        for points in found["batches"]:
            assert points[1]["error"] < points[0]["error"] < 0.1
            assert all(one["evaluations"] <= one["depth"] for one in points)
    assert len(mixed["claims"]) == 1


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6), st.floats(0.2, 5.0))
def test_a_floor_is_reached_where_a_curve_stays_near_it(errors: list[float], floor: float) -> None:
    points = curve(*((2.0**n, error) for n, error in enumerate(errors)))
    least = first_within(points, floor, 1.1, "error")
    assert least == first_within(points[::-1], floor, 1.1, "error")
    near = [error <= 1.1 * floor for error in errors]
    if math.isinf(least):
        assert not near[-1]
    else:
        index = round(math.log2(least))
        assert all(near[index:])
        assert index == 0 or not near[index - 1]


def test_perfect_heads_make_exact_jumps_and_a_drift_with_a_floor() -> None:
    exact = Exact(
        seeds=(0, 1), methods=("rk4", "tsit5"), steps=(8, 32), tolerances=(1e-2,), jump_tolerances=(1.0, 1e-3), batch=8
    )
    found = measure_exact(exact)
    saving, on_grid = found["claims"]
    assert on_grid["holds"]
    assert on_grid["high"] < 1e-12
    assert saving["mean"] > 3
    for n, floor in enumerate(found["floors"]):
        jump = found["methods"]["jump"]["seeds"][n]
        assert [one["evaluations"] for one in jump] == [9, 5, 3]
        assert all(one["error"] < 0.1 * floor for one in jump)
        crude, fine = found["methods"]["rk4"]["seeds"][n]
        assert fine["solver_error"] < 0.1 * floor < crude["solver_error"]
        assert fine["error"] == pytest.approx(floor, rel=0.1)
        assert found["methods"]["rk4"]["first_within"][n] == 128
        assert found["methods"]["jump"]["first_within"][n] == 3


def test_paths_hold_every_method_of_a_calculus() -> None:
    found = measure_paths(Paths(seeds=(0, 1), steps=(4, 16), batch=6))
    table = solver_methods()
    sdes = {name for name, method in table.items() if method.family == "sde"}
    assert set(found["calculi"]["ito"]) | set(found["calculi"]["stratonovich"]) == sdes
    assert "srk" not in found["calculi"]["stratonovich"]
    assert "heun" not in found["calculi"]["ito"]
    for calculus in found["calculi"].values():
        for name, kept in calculus.items():
            assert kept["fitted"] == pytest.approx(table[name].order, abs=0.35)
            assert kept["points"][1]["error"] < kept["points"][0]["error"]
    srk, rough = (found["calculi"]["ito"][name]["points"][1]["error"] for name in ("srk", "euler-maruyama"))
    assert srk < 0.2 * rough


def test_means_over_seeds_are_geometric_and_by_increasing_cost() -> None:
    cost, error = mean_points([curve((4, 1e-4), (2, 1.0)), curve((8, 1e-2), (2, 4.0))], "error", "evaluations")
    assert cost == [2.0, 6.0]
    assert error == pytest.approx([2.0, 1e-3])
    _, error = mean_points([curve((4, 0.0), (2, 1.0))], "error", "evaluations")
    assert error[0] == 1.0
    assert np.isnan(error[1])


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_complete(scale: str) -> None:
    recipe = solver_cost(scale)
    assert recipe.trained.methods == recipe.exact.methods
    assert recipe.trained.steps[0] == 1
    assert len(recipe.trained.seeds) >= 2
    assert recipe.oracles.tolerances[0] == pytest.approx(1e-2)
    assert len(recipe.oracles.steps) >= 3
    assert recipe.trained.run.horizon == pytest.approx(2.0)


def test_unknown_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="quick, cpu, gpu; got 'huge'"):
        solver_cost("huge")


@pytest.mark.parametrize("scale", ["quick", "cpu"])
def test_results_are_complete_and_drawn(scale: str, tmp_path: Path) -> None:
    content = json.loads((RESULTS / f"solver_cost-{scale}.json").read_text(encoding="utf-8"))
    assert (content["experiment"], content["scale"]) == ("solver_cost", scale)
    assert content["environment"]["threads"] == 1
    measured = set(content["oracles"]["fields"]["swing"])
    assert {name for name in ODES if solver_methods()[name].source != "scipy"} <= measured <= ODES
    recipe = solver_cost(scale)
    assert content["recipe"]["trained"]["run"]["model"]["steps"] == recipe.trained.run.model.steps
    assert len(content["trained"]["floors"]) == len(recipe.trained.seeds)
    says = " ".join(found["says"] for found in content["claims"])
    assert all(
        words in says for words in ("mixed batch", "perfect heads", "trained heads", "strong order", "rk4: order")
    )
    if scale == "cpu":
        draw(content, tmp_path)
        assert len(list(tmp_path.glob("*.pdf"))) == 8
        with Image.open(tmp_path / "solver_cost.png") as image:
            assert image.size[0] == 1320
