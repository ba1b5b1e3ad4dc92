"""A coin decides: samples of the law follow and cover both futures, one future covers one, standing still none."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from experiments import branching
from experiments.branching_scores import Futures, path_scores
from experiments.recipes import branching as recipe

RADIUS, TIMES, CLIPS = 1.5, 4, 6
FORWARD = torch.arange(TIMES, dtype=torch.float64)
PATHS = torch.stack((torch.stack((FORWARD, 3 * FORWARD), 1), torch.stack((FORWARD, -3 * FORWARD), 1)))
KNOWN = Futures(
    latents=torch.zeros(CLIPS, 2, TIMES, 1, 2, 2),
    paths=PATHS.expand(CLIPS, -1, -1, -1),
    heads=torch.arange(CLIPS) % 2 == 1,
    after=torch.arange(TIMES) >= 1,
    counts=torch.arange(CLIPS) > 0,
    spread=(9 * FORWARD[1:].square()).mean().expand(CLIPS),
    sharpness=torch.ones(CLIPS, 2, TIMES),
)


def scored(samples: torch.Tensor) -> dict[str, float]:
    return path_scores(samples.expand(CLIPS, -1, -1, -1), KNOWN, radius=RADIUS)


def test_samples_of_both_futures_cover_them_with_half_heads_and_the_spread_of_the_law() -> None:
    found = scored(PATHS.repeat(2, 1, 1))
    assert (found["both"], found["covered"], found["followed"], found["heads"]) == (1, 1, 1, 0.5)
    assert found["error_best"] == 0
    # Four samples, two of each: the unbiased variance is 4 / 3 of the law's.
    assert found["spread"] == pytest.approx(4 / 3)


def test_one_future_again_and_again_covers_half() -> None:
    found = scored(PATHS[:1].repeat(4, 1, 1))
    assert (found["both"], found["covered"], found["followed"], found["heads"], found["spread"]) == (0, 0.5, 1, 0, 0)


def test_the_mean_future_and_standing_still_follow_none() -> None:
    for samples in (PATHS.mean(dim=0, keepdim=True), torch.zeros(1, TIMES, 2, dtype=torch.float64)):
        found = scored(samples)
        assert (found["both"], found["covered"], found["followed"], found["spread"]) == (0, 0, 0, 0)
        assert found["error_best"] > RADIUS


def test_clips_whose_futures_are_close_do_not_count() -> None:
    samples = PATHS.expand(CLIPS, -1, -1, -1).clone()
    samples[0] += 100
    assert path_scores(samples, KNOWN, radius=RADIUS)["both"] == 1


def test_it_runs_and_draws(tmp_path: Path) -> None:
    run = replace(recipe("quick"), clips=4, judged=12, samples=2)
    found = branching.measure(run, work=tmp_path / "work")
    assert found["methods"]["copy last"]["both"] == [0.0, 0.0]
    assert {claim["key"] for claim in found["claims"]} == {f"B{number}" for number in range(1, 17)}
    content = json.loads(json.dumps({"recipe": asdict(run), **found}))
    branching.draw(content, tmp_path / "figures", work=tmp_path / "work")
    assert {"branching.png", "branching_fans.png"} <= {path.name for path in (tmp_path / "figures").iterdir()}
