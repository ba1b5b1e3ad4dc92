"""The experiments on weights (F1 to F3) and on DDIM (F7): their closed forms, their verdicts, and what is committed."""

import cmath
import json
import math
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from experiments.claims import Interval, claim, fitted_slope, geometric, interval, report, student
from experiments.crossover import bias_moment, fixed_rules
from experiments.latents import dyadic, root_mean_square, smooth_latents
from experiments.order import CONVEX
from experiments.recipes import SCALES, ddim_limit, weights
from experiments.run import run_experiment
from experiments.shrinkage import Gaussian, gaussian_factor, leading, sampler
from flowvid.denoise.denoiser import Denoiser
from flowvid.dynamics.weights import lagrange, one_hot
from flowvid.noise import Noise
from flowvid.plot.lines import COLOURS, Line, draw_lines, draw_panels, spread

RESULTS = Path(__file__).parent.parent / "experiments" / "results"
RECIPES = {"weights": weights, "ddim_limit": ddim_limit}
RUNS = [(name, scale) for name in RECIPES for scale in ("quick", "cpu")]
PANELS = {
    "weights": ("order", "between", "noise", "crossover", "solver", "speed"),
    "ddim_limit": ("gaussian", "mixture"),
}
FIGURES = {name: {f"{name}.png", *(f"{name}-{panel}.pdf" for panel in PANELS[name])} for name in PANELS}
FINITE = st.floats(-1e3, 1e3)


def committed(name: str, scale: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}-{scale}.json").read_text(encoding="utf-8"))


def means(found: list[dict[str, float]]) -> list[float]:
    return [one["mean"] for one in found]


# Claims


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (29, 2.0452)])
def test_student_quantiles(freedom: int, expected: float) -> None:
    assert student(0.95, freedom) == pytest.approx(expected, rel=1e-4)


@given(st.lists(FINITE, min_size=2, max_size=8), st.floats(-3, 3), FINITE)
def test_intervals_move_and_stretch_with_what_they_are_of(values: list[float], factor: float, shift: float) -> None:
    found, moved = interval(values), interval([factor * value + shift for value in values])
    assert found.low <= found.mean <= found.high
    assert moved.mean == pytest.approx(factor * found.mean + shift, abs=1e-6)
    assert moved.high - moved.low == pytest.approx(abs(factor) * (found.high - found.low), abs=1e-6)


def test_the_interval_of_three_numbers() -> None:
    found = interval([1.0, 2.0, 6.0])
    assert (found.mean, found.high - found.mean) == pytest.approx((3.0, 4.3027 * math.sqrt(7 / 3)), rel=1e-4)


@given(st.lists(FINITE, min_size=2, max_size=6, unique=True), st.integers(2, 50))
def test_many_comparisons_widen_every_interval(values: list[float], comparisons: int) -> None:
    assume(np.std(values) > 1e-6)
    assert interval(values, comparisons=comparisons).high > interval(values).high
    level = 1 - 0.05 / comparisons
    assert interval(values, comparisons=comparisons).high == pytest.approx(interval(values, level=level).high)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least two seeds; got 1"):
        interval([1.0])


@given(FINITE, st.floats(0, 10), st.floats(0, 10), st.none() | FINITE, st.none() | FINITE, st.booleans())
def test_a_claim_holds_where_it_says(
    mean: float, down: float, up: float, least: float | None, most: float | None, strict: bool
) -> None:
    low, high = mean - down, mean + up
    found = claim("F0", "so", Interval(mean, low, high), least=least, most=most, strict=strict)
    above = least is None or (low >= least if strict else high >= least)
    below = most is None or (high <= most if strict else low <= most)
    assert found["holds"] == (above and below)
    assert json.loads(json.dumps(found)) == found


def test_a_claim_takes_the_interval_of_its_seeds() -> None:
    found = claim("F0", "so", [0.9, 1.0, 1.1], least=0.5)
    assert (found["low"], found["high"]) == (interval([0.9, 1.0, 1.1]).low, interval([0.9, 1.0, 1.1]).high)
    shown = report({"claims": [found, claim("F0", "not so", [1.0, 1.0], most=0.5)]}).splitlines()
    assert [line.split()[0] for line in shown] == ["holds", "FAILS"]


@given(st.floats(-6, 6), st.floats(1e-3, 1e3))
def test_slopes_of_power_laws(slope: float, factor: float) -> None:
    x = [1.0, 2.0, 5.0, 7.0]
    assert fitted_slope(x, [factor * value**slope for value in x]) == pytest.approx(slope, abs=1e-9)


def test_geometric_means() -> None:
    found = geometric([1e-4, 1e-2])
    assert found.mean == pytest.approx(1e-3)
    assert 0 < found.low < 1e-4
    assert found.high > 1e-2


# Latents with a closed form


def test_draws_do_not_depend_on_how_many_there_are_and_parts_are_independent() -> None:
    few, many = (smooth_latents(3, "test", count, length=0.5) for count in (4, 9))
    other = smooth_latents(3, "training", 4, length=0.5)
    assert np.array_equal(few.rate(0.3), many.rate(0.3)[:4])
    assert not np.isclose(few.rate(0.3), other.rate(0.3)).any()


@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(0.1, 2))
@settings(max_examples=20)
def test_displacements_are_those_of_the_cosines(seed: int, step: float, length: float) -> None:
    latents = smooth_latents(seed, "test", 5, length=length)
    at = [latents.size * np.cos(latents.frequencies * time + latents.phases).sum(axis=1) for time in (0.0, step)]
    assert latents.displacement(step) == pytest.approx(at[1] - at[0], abs=1e-12)


def test_short_rates_tend_to_the_velocity_without_rounding() -> None:
    latents = smooth_latents(0, "test", 50, length=0.25)
    curvature = -latents.size * (latents.frequencies**2 * np.cos(latents.phases)).sum(axis=1)
    for step in (1e-6, 1e-10):
        assert latents.rate(step) - latents.rate(0.0) == pytest.approx(step / 2 * curvature, rel=1e-3, abs=1e-13)
    assert np.array_equal(latents.rates((0.1, 0.2)), np.stack((latents.rate(0.1), latents.rate(0.2)), axis=1))


def test_derivatives_stay_below_their_bound_and_come_near_it() -> None:
    latents = smooth_latents(0, "test", 20, length=0.25)
    times = np.linspace(-50, 50, 20001)
    for order in (1, 4):
        phase = latents.frequencies[:1, :, None] * times + latents.phases[:1, :, None] + order * np.pi / 2
        found = latents.size * (latents.frequencies[:1, :, None] ** order * np.cos(phase)).sum(axis=1)
        assert 0.4 < np.abs(found).max() / latents.largest(order)[0] <= 1


@pytest.mark.parametrize("length", [0.25, 1.0])
def test_errors_of_perfect_heads_have_the_moment_of_the_gaussian_process(length: float) -> None:
    gaps = dyadic(length / 4, 4)
    assert gaps == tuple(length / 4 * factor for factor in (1, 2, 4, 8))
    latents = smooth_latents(1, "test", 20_000, length=length)
    error = latents.rates(gaps) - latents.rate(0.0)[:, None]
    moment = bias_moment(gaps, length)
    assert error.T @ error / len(error) == pytest.approx(moment, abs=0.03 * moment.max())
    assert root_mean_square(latents.rate(0.0)) == pytest.approx(1 / length, rel=0.02)


def test_fixed_rules_are_affine_and_what_they_are_called() -> None:
    gaps = dyadic(0.1, 4)
    rules = fixed_rules(gaps)
    assert all(rule.sum() == pytest.approx(1) for rule in rules.values())
    assert rules["Richardson, 2"] == pytest.approx([2, -1, 0, 0])
    assert rules["Richardson, 4"] == pytest.approx(lagrange(gaps, 0.0))
    assert np.array_equal(rules["head 3"], one_hot(gaps, gaps[2]))
    assert rules["least squares, degree 1"].min() < 0 < rules["least squares, degree 1"].max()


# DDIM on Gaussian data


@given(st.integers(1, 400))
def test_p13_the_closed_form_at_deviation_one(steps: int) -> None:
    assert gaussian_factor(1.0, steps) == pytest.approx(math.cos(math.pi / (2 * steps)) ** steps, abs=1e-12)


@given(st.floats(0.02, 50), st.integers(2, 200))
def test_no_deviation_fares_better_than_one_and_inverses_fare_alike(deviation: float, steps: int) -> None:
    found = gaussian_factor(deviation, steps)
    assert 0 < found <= gaussian_factor(1.0, steps) + 1e-12
    assert gaussian_factor(1 / deviation, steps) == pytest.approx(found, rel=1e-9)


@given(st.floats(0.1, 10))
def test_what_is_missing_tends_to_its_limit(deviation: float) -> None:
    steps = 20_000
    missing = 1 - gaussian_factor(deviation, steps)
    assert steps * missing == pytest.approx(leading(deviation, rotation=True), rel=5e-3)
    assert leading(deviation, rotation=True) == pytest.approx(math.pi**2 / 16 * (deviation + 1 / deviation))
    assert leading(deviation, rotation=False) >= 0


@given(st.integers(0, 100), st.lists(st.floats(0.1, 5), min_size=1, max_size=4), st.integers(1, 20))
@settings(max_examples=15)
def test_ddim_shrinks_every_direction_by_the_product_of_cosines(seed: int, deviations: list[float], steps: int) -> None:
    world = Gaussian(seed, deviations)
    noise = Noise.batch(seed, 3).normal("noise", len(deviations), dtype=torch.float64)
    found = sampler("ddim", steps).solve(world.denoiser(), noise, [1.0, 0.0]).trajectory.states[:, -1]
    factors = torch.tensor([gaussian_factor(s, steps) * s for s in deviations], dtype=torch.float64)
    torch.testing.assert_close(found @ world.directions, noise @ world.directions * factors, atol=1e-10, rtol=1e-8)


def test_the_denoiser_of_a_gaussian_predicts_from_its_covariance() -> None:
    world = Gaussian(0, (0.3, 2.0))
    assert isinstance(world.denoiser(), Denoiser)
    level, noisy = 0.4, torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    sin, cos = math.sin(level * math.pi / 2), math.cos(level * math.pi / 2)
    gain = torch.linalg.inv(cos**2 * world.covariance + sin**2 * torch.eye(2, dtype=torch.float64)) @ noisy[0]
    clean, epsilon = cos * world.covariance @ gain, sin * gain
    torch.testing.assert_close(world.denoiser().predict("v", noisy, level)[0], cos * epsilon - sin * clean)
    torch.testing.assert_close(
        world.covariance, world.directions @ torch.diag(world.deviations**2) @ world.directions.T
    )


# Recipes and what is committed


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", list(RECIPES))
def test_every_scale_is_complete_and_larger_ones_are_larger(name: str, scale: str) -> None:
    run = RECIPES[name](scale)
    seeds = run.order.seeds if name == "weights" else run.seeds
    assert len(set(seeds)) == len(seeds) >= 3
    with pytest.raises(ValueError, match="quick, cpu, gpu; got 'huge'"):
        RECIPES[name]("huge")


@pytest.mark.parametrize(("name", "scale"), RUNS)
def test_committed_results_follow_their_recipe(name: str, scale: str) -> None:
    content = committed(name, scale)
    assert (content["experiment"], content["scale"]) == (name, scale)
    assert content["recipe"] == json.loads(json.dumps(asdict(RECIPES[name](scale))))
    assert {"versions", "python", "commit", "device"} <= content["environment"].keys()
    assert 0 < content["seconds"] < {"quick": 30, "cpu": 600}[scale]


@pytest.mark.parametrize(("name", "scale"), RUNS)
def test_committed_verdicts_follow_from_the_numbers(name: str, scale: str) -> None:
    claims = committed(name, scale)["claims"]
    assert len({one["says"] for one in claims}) == len(claims) >= 15
    for one in claims:
        again = claim(
            one["key"],
            one["says"],
            Interval(one["mean"], one["low"], one["high"]),
            least=one["least"],
            most=one["most"],
            strict=one["strict"],
        )
        assert again == one
        assert one["least"] is not None or one["most"] is not None
    assert [one["says"] for one in claims if not one["holds"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_the_command_repeats_the_committed_results_and_draws_them(name: str, tmp_path: Path) -> None:
    """In a process of its own, since checked annotations make the solvers several times slower."""
    command = [sys.executable, "-m", f"experiments.{name}", "--scale", "quick", "--threads", "1"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path), "--out", str(tmp_path / "figures")],
        cwd=RESULTS.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    content, before = (
        json.loads((tmp_path / f"{name}-quick.json").read_text(encoding="utf-8")),
        committed(name, "quick"),
    )
    assert content.keys() == before.keys()
    assert [one["says"] for one in content["claims"]] == [one["says"] for one in before["claims"]]
    for old, new in zip(before["claims"], content["claims"], strict=True):
        assert new["holds"] == old["holds"], new["says"]
        assert new["mean"] == pytest.approx(old["mean"], rel=1e-3, abs=1e-8), new["says"]
    assert done.stdout.count("holds") == len(content["claims"])
    assert {path.name for path in (tmp_path / "figures").iterdir()} == FIGURES[name]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return committed("weights", "cpu")


def claimed(content: dict[str, Any], says: str) -> dict[str, Any]:
    (one,) = (one for one in content["claims"] if one["says"] == says)
    return one


def test_f1_slopes_follow_from_the_stored_points(found: dict[str, Any]) -> None:
    order, fitted = found["order"], found["recipe"]["order"]["fitted"]
    for name, rule in order["rules"].items():
        again = fitted_slope(order["shortest"][:fitted], means(rule["bias"])[:fitted])
        assert again == pytest.approx(np.mean(rule["slopes"]), abs=1e-6)
        assert again == pytest.approx(rule["expected"], abs=0.05)
        one = claimed(found, f"{name}: order in the shortest gap")
        assert (one["mean"], one["low"], one["high"]) == pytest.approx(tuple(asdict(interval(rule["slopes"])).values()))
        assert (one["least"], one["most"]) == pytest.approx((rule["expected"] - 0.1, rule["expected"] + 0.1))
    assert {order["rules"][name]["expected"] for name in CONVEX} == {1.0}
    assert [order["rules"][f"Richardson, {count}"]["expected"] for count in range(1, 6)] == [1, 2, 3, 4, 5]


def test_f1_biases_are_those_of_the_gaussian_process(found: dict[str, Any]) -> None:
    order, length = found["order"], found["recipe"]["order"]["length"]
    for n, shortest in enumerate(order["shortest"]):
        gaps = dyadic(shortest, 4)
        moment = bias_moment(gaps, length)
        for name, rule in (("instant", one_hot(gaps, gaps[0])), ("uniform", np.full(4, 0.25))):
            exact = math.sqrt(rule @ moment @ rule) * length
            assert order["rules"][name]["bias"][n]["mean"] == pytest.approx(exact, rel=0.03)


def test_f1_between_gaps_three_heads_keep_the_error_of_a_head_and_all_do_not(found: dict[str, Any]) -> None:
    finite, error = found["order"]["finite"], found["recipe"]["order"]["head_error"]
    steps, gaps = finite["steps"], finite["gaps"]
    beyond = [n for n, step in enumerate(steps) if step >= gaps[0]]
    wrong = {name: np.array(means(rule["wrong"])) for name, rule in finite["rules"].items()}
    clean = {name: np.array(means(rule["clean"])) for name, rule in finite["rules"].items()}
    assert wrong["three nearest"][beyond].max() < 2 * error
    assert wrong["all heads"][beyond].max() > 50 * error
    assert wrong["nearest head"][beyond].max() > 10 * error
    at_gaps = [n for n, step in enumerate(steps) if step in gaps]
    assert len(at_gaps) == len(gaps)
    assert all(values[at_gaps].max() < 1e-12 for values in clean.values())


def test_f2_errors_are_those_of_the_closed_form(found: dict[str, Any]) -> None:
    crossover, length = found["crossover"], found["recipe"]["crossover"]["length"]
    gaps = np.array(crossover["gaps"])
    moment = bias_moment(tuple(crossover["gaps"]), length)
    noise = np.diag(gaps**-2.0) + np.outer(1 / gaps, 1 / gaps)
    for name, rule in fixed_rules(tuple(crossover["gaps"])).items():
        exact = [math.sqrt(rule @ (moment + s**2 * noise) @ rule) * length for s in crossover["sigmas"]]
        assert means(crossover["rules"][name]) == pytest.approx(exact, rel=0.05)
    best = [
        min(fixed_rules(tuple(crossover["gaps"])), key=lambda name: crossover["rules"][name][n]["mean"])
        for n in range(len(crossover["sigmas"]))
    ]
    assert crossover["best_fixed_rule"] == best


def test_f2_no_rule_beats_calibrated_weights_by_more_than_the_interval(found: dict[str, Any]) -> None:
    crossover = found["crossover"]
    every = [one for rule in crossover["excess"].values() for one in rule]
    lowest = min(every, key=lambda one: one["high"])
    (one,) = (one for one in found["claims"] if "calibrated weights" in one["says"])
    assert (one["mean"], one["low"], one["high"]) == tuple(lowest.values())
    assert one["holds"] == all(one["high"] >= 0 for one in every)
    assert len(every) == len(crossover["sigmas"]) * (len(fixed_rules((1.0, 2.0, 4.0, 8.0))) + 1)
    for name, rule in crossover["excess"].items():
        ratio = np.square(np.array(means(crossover["rules"][name])) / means(crossover["rules"]["calibrated"])) - 1
        assert means(rule) == pytest.approx(ratio, rel=0.05, abs=0.01)


def test_f2_calibration_on_the_heads_own_frames_repeats_their_noise(found: dict[str, Any]) -> None:
    rules, noisy = found["crossover"]["rules"], found["crossover"]["sigmas"].index(0.3)
    true, other, same = (rules[f"calibrated{how}"][noisy]["mean"] for how in ("", ", other frames", ", same frames"))
    assert other == pytest.approx(true, rel=0.01)
    assert same > 1.2 * true


def test_f2_the_crossover_follows_its_closed_forms(found: dict[str, Any]) -> None:
    crossings, length = found["crossover"]["crossings"], found["recipe"]["crossover"]["length"]
    for n, shortest in enumerate(crossings["shortest"]):
        curvature = math.sqrt(3) / length**2
        assert crossings["simple"][n] == pytest.approx(0.2357 * shortest**2 * curvature, rel=1e-3)
        gaps = dyadic(shortest, 2)
        sigma, noise = (
            crossings["with_bias"][n],
            np.diag(np.array(gaps) ** -2.0) + np.outer(1 / np.array(gaps), 1 / np.array(gaps)),
        )
        moment = bias_moment(gaps, length) + sigma**2 * noise
        assert np.array([2, -1]) @ moment @ [2, -1] == pytest.approx(moment[0, 0], rel=1e-6)
        for key, by in (("over_simple", "simple"), ("over_with_bias", "with_bias")):
            assert crossings[key][n]["mean"] == pytest.approx(crossings["sigma"][n]["mean"] / crossings[by][n])
        assert crossings["over_with_bias"][n]["mean"] == pytest.approx(1, abs=0.02)


def test_f3_the_drift_moves_as_its_eigenvalue_says(found: dict[str, Any]) -> None:
    mismatch, recipe = found["mismatch"], found["recipe"]["mismatch"]
    gaps, omega = mismatch["gaps"], recipe["frequency"]
    for name, rule in (
        ("uniform", [1 / 6] * 6),
        ("instant", [1, 0, 0, 0, 0, 0]),
        ("Richardson, 3", [8 / 3, -2, 1 / 3, 0, 0, 0]),
    ):
        mu = sum(w * (cmath.exp(1j * omega * gap) - 1) / gap for w, gap in zip(rule, gaps, strict=True))
        last = {what: values[-1]["mean"] for what, values in mismatch["rules"][name].items()}
        assert last["speed"] == pytest.approx(mu.imag / omega, abs=1e-6)
        assert last["amplitude"] == pytest.approx(math.exp(mu.real), abs=1e-6)
        assert last["error"] == pytest.approx(abs(cmath.exp(mu - 1j * omega) - 1), rel=0.02)
        predicted = mismatch["predicted"][name]
        assert (predicted["speed"], predicted["amplitude"]) == pytest.approx((mu.imag / omega, math.exp(mu.real)))


def test_f3_jumps_are_exact_at_the_cost_of_the_tree(found: dict[str, Any]) -> None:
    last, every = (found["mismatch"]["jumps"][name] for name in ("last frame", "all frames"))
    assert (last["evaluations"], last["depth"], last["frames"]) == (2, 2, 1)
    assert (every["evaluations"], every["depth"], every["frames"]) == (32, 6, 64)
    assert 0 < max(last["error"]["mean"], every["error"]["mean"]) < 1e-14


def test_f3_single_heads_slow_and_fade_as_predicted(found: dict[str, Any]) -> None:
    sweep = found["mismatch"]["sweep"]
    assert len(sweep["turn"]) == len(found["recipe"]["mismatch"]["seeds"]) * found["recipe"]["mismatch"]["states"]
    assert 0.05 < min(sweep["turn"]) < 0.5
    assert 2.5 < max(sweep["turn"]) < 3.0
    for turn, speed, damping in zip(*sweep.values(), strict=True):
        assert speed == pytest.approx(math.sin(turn) / turn, abs=1e-5)
        assert damping == pytest.approx((1 - math.cos(turn)) / (turn**2 / 2), abs=1e-5)


def test_f7_measured_deviations_are_the_closed_form_and_orders_follow_from_them() -> None:
    content = committed("ddim_limit", "cpu")
    steps, fitted = content["steps"], content["recipe"]["fitted"]
    for name, direction in content["gaussian"].items():
        exact = [gaussian_factor(float(name), count) for count in steps]
        assert direction["closed_form"] == pytest.approx(exact)
        assert means(direction["reached"]["ddim"]) == pytest.approx(exact, abs=1e-9)
        for method, order in (("ddim", 1), ("euler", 1), ("midpoint", 2), ("heun2", 2)):
            missing = np.abs(1 - np.array(means(direction["reached"][method])))
            if float(name) == 1 and method != "ddim":
                assert missing.max() < 1e-12
                continue
            slope = -fitted_slope(steps[-fitted:], missing[-fitted:])
            assert slope == pytest.approx(order, abs=0.1)
            assert claimed(content, f"deviation {name}: {method}, order of what is missing")["mean"] == pytest.approx(
                slope
            )


def test_f7_a_mixture_shrinks_at_order_one_and_better_solvers_do_not() -> None:
    content = committed("ddim_limit", "cpu")
    steps, fitted = content["steps"], content["recipe"]["fitted"]
    for method, order in (("ddim", 1), ("euler", 1), ("midpoint", 2), ("heun2", 2)):
        error = means(content["mixture"][method]["error"])
        assert -fitted_slope(steps[-fitted:], error[-fitted:]) == pytest.approx(order, abs=0.05)
    missing = means(content["mixture"]["ddim"]["missing"])
    assert missing[0] == pytest.approx(1)
    assert all(a > b > 0 for a, b in pairwise(missing))


# The command line and the figures


def test_an_experiment_writes_its_numbers_with_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["x", "--scale", "cpu", "--out", f"{tmp_path}/o", "--results", f"{tmp_path}/r", "--threads", "1"]
    )
    drawn: list[tuple[str, Path]] = []
    run_experiment(
        "trial",
        "about",
        recipe=lambda scale: Interval(1.0, 0.0, {"cpu": 2.0}[scale]),
        measure=lambda run: {"value": run.high, "claims": [claim("F0", "so", run, least=0.0)]},
        draw=lambda content, folder: drawn.append((content["scale"], folder)),
    )
    content = json.loads((tmp_path / "r" / "trial-cpu.json").read_text(encoding="utf-8"))
    assert content["recipe"] == {"mean": 1.0, "low": 0.0, "high": 2.0}
    assert (content["experiment"], content["scale"], content["value"]) == ("trial", "cpu", 2.0)
    assert content["environment"]["device"] == "cpu"
    assert content["environment"]["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert content["seconds"] >= 0
    assert drawn == [("cpu", tmp_path / "o")]
    assert "holds  F0  so" in capsys.readouterr().out


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.floats(0.1, 12))
def test_labels_keep_their_distance_their_order_and_the_panel(places: list[float], distance: float) -> None:
    moved = spread(places, distance, low=0.0, high=100.0)
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= distance - 1e-9).all()
    assert moved.max() <= 100 + 1e-9
    assert moved.min() >= -1e-9
    if len(places) == 1 or np.diff(np.sort(places)).min() >= distance:
        assert moved == pytest.approx(np.array(places))


def test_labels_that_collide_move_by_the_least_amount() -> None:
    assert spread([50.0, 50.0, 90.0], 10.0, low=0.0, high=100.0) == pytest.approx([45, 55, 90])
    assert spread([99.0, 98.0], 10.0, low=0.0, high=100.0) == pytest.approx([100, 90])
    assert spread([1.0, 2.0], 10.0, low=0.0, high=100.0) == pytest.approx([0, 10])


def test_lines_carry_their_interval_and_their_name(tmp_path: Path) -> None:
    lines = [
        Line(x=[1, 2], y=[1.0, 0.0], low=[0.5, -1.0], high=[2.0, 1.0], colour="blue", name="band"),
        Line(x=[1, 2], y=[1.0, 4.0], low=[0.5, 3.0], high=[2.0, 5.0], colour="green", name="bars", marker="o"),
    ]
    drawn: list[Any] = []

    def panel(axis: Any) -> list[Line]:
        draw_lines(axis, lines, title="title", xlabel="x (s)", ylabel="y", log="y")
        drawn.append(axis)
        return lines

    draw_panels(tmp_path, "figure", {"a": panel, "b": panel}, columns=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure-a.pdf", "figure-b.pdf", "figure.png"]
    axis = drawn[0]
    assert (axis.get_yscale(), axis.get_xscale(), axis.get_xlabel()) == ("log", "linear", "x (s)")
    assert [text.get_text() for text in axis.texts] == ["band", "bars"]
    assert axis.texts[0].get_color() == COLOURS["blue"]
    assert axis.texts[0].xyann[1] < axis.texts[1].xyann[1]
    assert np.isnan(axis.lines[0].get_ydata()[1])
    assert len(axis.containers) == 1
    assert len(axis.collections) == 2
    assert isinstance(axis.figure, Figure)
    assert axis.figure.get_size_inches() == pytest.approx([3.3, 5.0])


def test_colours_are_okabe_and_itos() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert {"#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"} <= set(COLOURS.values())
