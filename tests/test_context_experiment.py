"""What is known of a flight: truth scores one, standing still none, the law's mean is a projection, claims can fail."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import context
from experiments.context_methods import CONTEXTS, METHODS, Context, asked, known_times, mean_future
from experiments.recipes import context as recipe
from flowvid.encoders.codec import IdentityCodec
from flowvid.train.run import latents
from flowvid.video import Trajectory, time_grid


@pytest.fixture(scope="module")
def told() -> tuple[Context, Trajectory, list[Any]]:
    """A quick run with frames as latents, its true latents, and its clips."""
    run = replace(recipe("quick"), clips=24, futures=32)
    times = time_grid(min(known_times(run, "4 frames")), run.run.horizon, run.run.frame)
    truth = latents(run.run, IdentityCodec(), "test", times, clips=run.clips, device="cpu")
    return run, truth, list(run.run.world.clips(range(run.clips), "test"))


def test_the_truth_moves_as_far_as_the_truth_and_a_copy_not_at_all(told: tuple[Context, Trajectory, list[Any]]) -> None:
    run, truth, clips = told
    true = truth.at(*asked(run)).states[:, None]
    found = context.motion_scores(run, IdentityCodec(), true, truth, clips)
    assert (found["energy"], found["explained"]) == pytest.approx((1.0, 1.0))
    assert (found["way"], found["along"]) == pytest.approx((1.0, 1.0), abs=0.1)
    assert found["error_one"] < 0.3
    still = truth.at(0.0).states[:, None].expand_as(true)
    found = context.motion_scores(run, IdentityCodec(), still, truth, clips)
    assert (found["energy"], found["explained"]) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert (found["way"], found["along"]) == pytest.approx((0.0, 0.0), abs=0.15)
    assert found["error_one"] > 1.0


def test_the_wrong_way_is_the_right_distance_with_no_displacement_met(
    told: tuple[Context, Trajectory, list[Any]],
) -> None:
    run, truth, _ = told
    places = torch.zeros(len(truth), run.run.reach, 2, dtype=torch.float64)
    places[..., 0] = torch.arange(run.run.reach)
    both = torch.stack((places, -places), dim=1)
    found = context._of_paths(both[:, :, 1:], places)
    assert (found["way"], found["along"], found["error_best"]) == pytest.approx((1.0, 0.0, 0.0))
    assert found["error_one"] == pytest.approx(torch.arange(1.0, run.run.reach).mean().item())


def test_the_mean_future_is_a_projection(told: tuple[Context, Trajectory, list[Any]]) -> None:
    """Its energy is its explained share, up to sampling, and another mean explains less."""
    run, truth, clips = told
    mean = mean_future(run, IdentityCodec(), clips)
    found = context.motion_scores(run, IdentityCodec(), mean[:, None], truth, clips)
    assert found["energy"] == pytest.approx(found["explained"], abs=0.1)
    assert 0.1 < found["energy"] < 0.7
    half = truth.at(0.0).states + 0.5 * (mean - truth.at(0.0).states)
    less = context.motion_scores(run, IdentityCodec(), half[:, None], truth, clips)
    assert less["explained"] < found["explained"]


def test_what_is_known(told: tuple[Context, Trajectory, list[Any]]) -> None:
    run, _, _ = told
    frame = run.run.frame
    times = {name: known_times(run, name) for name in CONTEXTS}
    assert times["1 frame"] == [0.0]
    assert times["2 frames"] == [-frame, 0.0]
    assert times["4 frames"] == [-3 * frame, -2 * frame, -frame, 0.0]
    assert times["2 frames, end"] == [-frame, 0.0, run.run.horizon]
    assert asked(run)[-1] == run.run.horizon


def test_it_runs_draws_and_resumes(tmp_path: Path) -> None:
    run = replace(recipe("quick"), clips=4, samples=2, futures=4)
    content = {"recipe": asdict(run), **context.measure(run, work=tmp_path / "work")}
    again = context.measure(run, work=tmp_path / "work")
    assert again["contexts"] == content["contexts"]
    assert set(content["contexts"]["2 frames"]) == set(METHODS[:-1])
    assert "1 frame: multi-scale" in content["refused"]
    context.draw(json.loads(json.dumps(content)), tmp_path / "figures", work=tmp_path / "work")
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {"context.png", "context_film.png"}
    other = replace(run, run=replace(run.run, model=replace(run.run.model, steps=7)))
    with pytest.raises(ValueError, match="belongs to another run"):
        context.measure(other, work=tmp_path / "work")


def test_claims_can_hold_and_can_fail() -> None:
    def rows(value: float) -> dict[str, list[float]]:
        return {key: [value, value] for key in ("energy", "explained", "way", "along", "error_one", "error_best")}

    everywhere = {told: {method: rows(1.0) for method in (*METHODS, "the law's mean")} for told in CONTEXTS}
    verdicts = {found["key"]: found["holds"] for found in context._claims(everywhere)}
    assert not verdicts["C1"]
    assert not verdicts["C4"]
    assert not verdicts["C5"]
    assert verdicts["C7"]
    assert verdicts["C10"]
    everywhere["1 frame"] |= {"regression": rows(0.2), "the law's mean": rows(0.2)}
    verdicts = {found["key"]: found["holds"] for found in context._claims(everywhere)}
    assert verdicts["C1"]
    assert verdicts["C2"]
    assert verdicts["C5"]
