"""The end first: paths are judged against their own truth, budgets are met, runs resume, claims can fail."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from experiments import endpoint
from experiments.endpoint_methods import asked
from experiments.recipes import endpoint as recipe


def test_the_truth_has_no_error_and_the_mean_of_two_wrong_ways_may_be_right() -> None:
    places = torch.zeros(3, 5, 2, dtype=torch.float64)
    places[..., 0] = torch.arange(5)
    found = endpoint.path_scores(places[:, None], places)
    assert all(value == 0 for value in found.values())
    aside = torch.tensor([0.0, 2.0], dtype=torch.float64)
    found = endpoint.path_scores(torch.stack((places + aside, places - aside), dim=1), places)
    assert (found["error_one"], found["error_best"], found["error_mean"]) == pytest.approx((2.0, 2.0, 0.0))
    late = places.clone()
    late[:, -1] += 3 * aside
    found = endpoint.path_scores(torch.stack((late, places), dim=1), places)
    assert (found["end_one"], found["end_best"]) == pytest.approx((3.0, 0.0))
    assert found["error_one"] == pytest.approx(6.0 / 5 / 2)


def test_times_on_and_off_the_grid_end_at_the_horizon() -> None:
    run = recipe("quick").places["flight"].run
    on, off = asked(run), asked(run, shift=1 / 3)
    assert on == pytest.approx([run.frame * number for number in range(1, run.reach + 1)])
    assert off[:-1] == pytest.approx([time - run.frame * 2 / 3 for time in on])
    assert off[-1] == run.horizon


def test_it_runs_meets_its_budgets_draws_and_resumes(tmp_path: Path) -> None:
    whole = recipe("quick")
    run = replace(whole, places={"two-way": whole.places["two-way"]}, clips=3, samples=2)
    content = {"recipe": asdict(run), **endpoint.measure(run, work=tmp_path / "work")}
    rows = content["places"]["two-way"]["methods"]
    wanted = rows["frame flow, multi-scale"]["evaluations"]
    for name in ("clip diffusion, trunk", "clip diffusion", "clip flow"):
        assert rows[f"{name}, equal NFE"]["evaluations"] == wanted
        assert len(rows[f"{name}, equal time"]["error_one"]) == len(run.seeds)
    assert rows["frame flow, pair, multi-scale"]["depth"] > rows["frame flow, multi-scale"]["depth"]
    again = endpoint.measure(run, work=tmp_path / "work")["places"]["two-way"]["methods"]
    for name in ("frame flow, multi-scale", "true end, multi-scale", "clip flow, equal NFE"):
        assert again[name]["error_one"] == rows[name]["error_one"]
    endpoint.draw(json.loads(json.dumps(content)), tmp_path / "figures", work=tmp_path / "work")
    found = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert found == {"endpoint.png", "endpoint_two-way_film.png"}


def test_claims_can_hold_and_can_fail() -> None:
    names = [
        f"{name}, {budget}"
        for name in ("clip diffusion, trunk", "clip diffusion", "clip flow")
        for budget in ("equal time", "equal NFE")
    ]
    names += ["clip diffusion, trunk, 50 steps", "frame flow, bisection", "frame flow, pair, multi-scale"]
    names += ["true end, multi-scale", "frame flow, multi-scale"]
    keys = ("error_one", "error_best", "off_grid", "heartbeat", "seam", "milliseconds")
    rows = {name: {key: [1.0, 1.0] for key in keys} for name in names}
    found = endpoint._claims({"flight": rows})
    assert [part["key"] for part in found] == [f"E{number}" for number in range(1, 15)]
    assert all(part["holds"] for part in found)
    rows["frame flow, multi-scale"] = {key: [3.0, 3.0] for key in keys}
    assert not any(part["holds"] for part in endpoint._claims({"flight": rows})[:9])
