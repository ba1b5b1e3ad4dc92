"""Every world can be trained on, comes back from a description, and is measured as far as it has what is measured."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from flowvid.compare.measure import Bench
from flowvid.data.worlds.balls import BallWorld
from flowvid.data.worlds.branching import BranchingWorld
from flowvid.data.worlds.clips import World
from flowvid.data.worlds.families import WORLDS, AnyWorld, world_channels, world_of
from flowvid.data.worlds.pendulums import PendulumWorld
from flowvid.data.worlds.scene import render_scenes
from flowvid.train.options import Optimisation
from flowvid.train.run import Run, captions, latents, load_codec, load_model, train_codec, train_model
from flowvid.video import Trajectory

CHOSEN = (
    World(motion="orbit", digits=2),
    BranchingWorld.two_way(0.5),
    BranchingWorld(coins=3, probability=0.25),
    BallWorld(task="collision", colour=True),
    BallWorld(radius=(0.8, 0.9)),
    PendulumWorld(frequency=(0.2, 0.3), colour=True),
)


def run_of(world: AnyWorld) -> Run:
    few = Optimisation(steps=2, batch=4)
    return Run(world=world, clips=6, validation_clips=4, codec_width=8, width=8, codec=few, model=few)


@pytest.mark.parametrize("world", [*CHOSEN, *(kind() for kind in WORLDS.values())], ids=str)
def test_a_world_comes_back_from_what_a_file_says_of_it(world: AnyWorld) -> None:
    assert world_of(json.loads(json.dumps(dataclasses.asdict(world)))) == world
    run = run_of(world)
    assert Run.of(json.loads(json.dumps(dataclasses.asdict(run)))) == run


@pytest.mark.parametrize("change", [{"coins": 2}, {"another": 1}, {}], ids=str)
def test_a_description_of_no_world_is_refused(change: dict) -> None:
    described = dataclasses.asdict(World()) | change
    if not change:
        del described["motion"]
    with pytest.raises(ValueError, match="No world has exactly the fields"):
        world_of(described)


@pytest.mark.parametrize("world", CHOSEN, ids=str)
def test_channels_are_those_of_the_frames(world: AnyWorld) -> None:
    assert render_scenes(world.clips([0], "test"), [0.0]).frames.shape[2] == world_channels(world)


@pytest.mark.parametrize(
    "world", [BranchingWorld.two_way(), BallWorld(task="bouncing"), PendulumWorld(colour=True)], ids=str
)
def test_any_world_is_trained_on_saved_loaded_and_measured(world: AnyWorld, tmp_path: Path) -> None:
    run = run_of(world)
    codec = train_codec(run, tmp_path).network

    def bank(split: str) -> Trajectory:
        return latents(run, codec, split, run.times, clips=4, device="cpu")

    trained = train_model("direct", run, bank, tmp_path)
    again = load_model(tmp_path / "direct-seed0.safetensors", run=run)
    assert again.run == run
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    bench = Bench.of(run, load_codec(tmp_path / "codec.safetensors", run=run).network, "test", clips=3, device="cpu")
    assert bench.positions([0.0, 0.5]).shape == (3, 2, 2)
    assert bench.truth([0.0]).frames.shape[:2] == (3, 1)
    assert bench.bounces.shape == (3,)


def test_captions_of_a_run_say_what_its_clips_do_in_order() -> None:
    run = run_of(BallWorld(task="bouncing"))
    said = captions(run, "train", clips=3)
    assert [len(entry) for entry in said] == [1, 1, 1]
    assert all("ball" in entry[0].words and entry[0].time is None for entry in said)
    assert captions(run, "train", clips=2) == said[:2]
    assert captions(run, "test", clips=2) != said[:2]
