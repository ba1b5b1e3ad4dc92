"""The experiment on repetition: its footage is what it says, its verdicts follow, its figure is drawn."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.recipes import SCALES
from experiments.repeated_worlds import clock, flight, loop, mixture
from experiments.repetition import draw, found_in, measure, recipe
from experiments.unique_training import Learning, learn, steps_to


def same(pixels: torch.Tensor) -> torch.Tensor:
    flat = pixels.flatten(1).float()
    return torch.cdist(flat, flat, p=math.inf) == 0


@pytest.mark.parametrize("dated", [False, True])
@pytest.mark.parametrize("start", [0.0, 5000.0])
def test_clocks_show_the_same_where_they_say(dated: bool, start: float) -> None:
    footing = clock(days=2, step=1800.0, side=40, start=start, dated=dated)
    assert len(footing.times) == 96
    assert torch.equal(same(footing.pixels), torch.from_numpy(footing.content[:, None] == footing.content))
    assert len(np.unique(footing.content)) == (24 if not dated else 50 if start else 48)
    assert footing.period == (None if dated else 43200.0)


def test_clocks_tell_the_time() -> None:
    """At three the short hand points right and the long one up; at half past six both point down."""
    footing = clock(days=1, step=1800.0, side=60)
    ink = 255 - footing.pixels[:, 0].float()
    three, late = ink[6], ink[13]
    assert three[30, 32:42].min() > 128
    assert three[8:28, 30].min() > 64
    assert three[30, 48:50].max() < 64
    assert late[34:50, 30].min() > 64
    assert three[36:50, 30].max() < 64


def test_loops_and_flights() -> None:
    turning = loop(turns=3, frames=16, fps=8.0, seed=5)
    assert torch.equal(same(turning.pixels), torch.from_numpy(turning.content[:, None] == turning.content))
    assert turning.period == 2.0
    flying = flight(frames=60, fps=16.0, seed=2)
    assert same(flying.pixels).sum() == 60
    both = mixture(turning, flying)
    assert len(both.times) == 108
    assert len(np.unique(both.content)) == 76
    assert (both.times.diff() > 0).all()


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_complete(scale: str) -> None:
    run = recipe(scale)
    assert len(run.seeds) >= 2
    assert (43200 / run.step).is_integer()
    assert scale == "quick" or run.days == 4


def test_unknown_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="quick, cpu, gpu; got 'huge'"):
        recipe("huge")


def test_steps_are_read_between_measurements() -> None:
    assert steps_to([1.0, 0.1, 0.01], 0.1, 20) == pytest.approx(20)
    assert steps_to([1.0, 0.01], 0.1, 20) == pytest.approx(10)
    assert steps_to([1.0, 0.5], 1.5, 20) == 0
    assert steps_to([1.0, 0.5], 0.4, 20) == math.inf


def test_training_on_the_unique_part_with_weights_is_training_on_all() -> None:
    """The two differ by the draw of windows alone."""
    now, later = (
        mixture(loop(turns=6, frames=16, fps=16.0, seed=1, offset=by), flight(frames=24, fps=16.0, seed=1, offset=by))
        for by in (0.0, 0.5)
    )
    learning = Learning(steps=60, windows=128, batch=16, width=32)
    errors = {way: learn(learning, now, later, found_in(now), fps=16.0, way=way, seed=0) for way in ("all", "unique")}
    assert len(errors["all"]["own"]) == 4
    assert errors["all"]["own"][0] == errors["unique"]["own"][0]
    assert errors["all"]["own"][-1] < 0.3 * errors["all"]["own"][0]
    assert errors["unique"]["own"][-1] == pytest.approx(errors["all"]["own"][-1], rel=0.25)


@pytest.mark.slow
def test_the_quick_experiment_holds_and_is_drawn(tmp_path: Path) -> None:
    run = recipe("quick")
    content = json.loads(json.dumps({**measure(run), "recipe": asdict(run)}, allow_nan=False))
    verdicts = {(found["key"], found["says"]): found["holds"] for found in content["claims"]}
    assert len(verdicts) == len(content["claims"])
    assert all(holds for (key, _), holds in verdicts.items() if key in ("R1", "R2", "R3", "R4"))
    assert content["digits"]["pairs"] == sum(content["digits"]["counts"])
    assert content["digits"]["merged"] == 0
    assert content["worlds"]["clock with date"]["kept"] == [120, 124]
    draw(content, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"repetition.png", *(f"repetition-{panel}.pdf" for panel in ("kept", "digits", "even", "own"))}
