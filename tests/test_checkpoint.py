"""Checkpoints and runs: what is saved returns, what is half done continues to the bit, what is foreign is refused."""

import dataclasses
import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from flowvid.data.worlds.clips import FAMILIES, World
from flowvid.models.rivals import RIVALS
from flowvid.networks.trunk import Trunk
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.loop import Optimisation
from flowvid.train.run import Run, latents, load_codec, load_model, train_codec, train_model
from flowvid.train.store import Store
from flowvid.video import Condition, Trajectory

KINDS = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16)
TINY = Run(
    world=World(canvas=16, scale=1),
    clip_frames=8,
    clips=8,
    validation_clips=4,
    codec_width=8,
    scales=2,
    reach=2,
    width=8,
    codec=Optimisation(steps=22, batch=8, warmup=2),
    model=Optimisation(steps=22, batch=8, warmup=2),
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Runs that differ from the default one in every field."""
    counts, rates = st.integers(1, 10**6), st.floats(1e-6, 1e3)
    optimisation = st.builds(
        Optimisation,
        steps=counts,
        batch=counts,
        learning_rate=rates,
        warmup=counts,
        weight_decay=rates,
        clip=rates,
        average=st.floats(0, 0.9999),
        seed=st.integers(-(2**63), 2**63),
    )
    ranges = st.tuples(rates, rates).map(lambda pair: (min(pair), max(pair)))
    world = st.builds(
        World,
        motion=st.sampled_from((*FAMILIES, "mixed")),
        digits=st.sampled_from([1, 2]),
        canvas=st.integers(1, 100).map(lambda size: 4 * size),
        scale=st.integers(1, 9),
        speed=ranges,
        frequency=ranges,
    )
    scales = draw(st.integers(1, 6))
    reach = draw(st.integers(2 ** (scales - 1), 100))
    return Run(
        world=draw(world),
        frame=draw(st.floats(1e-3, 10)),
        clip_frames=draw(st.integers(2 * reach + 2, 1000)),
        clips=draw(counts),
        validation_clips=draw(counts),
        channels=draw(st.integers(1, 64)),
        codec_width=2 * draw(st.integers(1, 64)),
        codec=draw(optimisation),
        scales=scales,
        reach=reach,
        width=8 * draw(st.integers(1, 16)),
        model=draw(optimisation),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def codec_path(place: Path) -> Path:
    train_codec(TINY, place)
    return place / "codec.safetensors"


@pytest.fixture(scope="module")
def bank(codec_path: Path):
    codec = load_codec(codec_path).network

    @cache
    def encoded(split: str) -> Trajectory:
        clips = TINY.clips if split == "train" else TINY.validation_clips
        return latents(TINY, codec, split, TINY.times, clips=clips, device="cpu")

    return encoded


@contextmanager
def interrupted_at(kind: type[torch.nn.Module], forward: int) -> Iterator[None]:
    """The user's interruption at one of the evaluations of a network."""
    calls = iter(range(10**9))

    def stop(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, kind) and next(calls) == forward:
            raise KeyboardInterrupt

    hook = register_module_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        hook.remove()


def refuse(*_: object) -> None:
    raise AssertionError("nothing may be trained here")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks agree in every parameter and buffer, to the bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# Files


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3))))
def test_tensors_and_description_return(place: Path, shapes: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 200, shape, generator=generator).to(kind)
        for name, (kind, shape) in shapes.items()
        if name != "__metadata__"
    }
    description = {"step": 7, "nested": {"pi": math.pi, "names": list(shapes)}, "none": None}
    save_tensors(place / "any.safetensors", tensors, description)
    found, stated = load_tensors(place / "any.safetensors")
    assert stated == description
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_views_and_gradients_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(6.0, requires_grad=True)
    save_tensors(tmp_path / "x.safetensors", {"t": base.reshape(2, 3).T, "e": base[:1].expand(3)}, {})
    found, _ = load_tensors(tmp_path / "x.safetensors")
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["e"].tolist() == [0, 0, 0]
    assert not found["t"].requires_grad


def test_a_file_is_plain_safetensors(codec_path: Path) -> None:
    """Eight bytes of length, a header of JSON that accounts for every later byte, and numbers: nothing to unpickle."""
    content = codec_path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header.pop("__metadata__")["description"])
    assert Run.of(description["run"]) == TINY
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(content) - 8 - length
    assert {entry["dtype"] for entry in header.values()} == {"F32"}


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -1])
def test_a_truncated_file_is_refused(codec_path: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "codec.safetensors"
    path.write_bytes(codec_path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"codec\.safetensors is not a complete checkpoint.*delete it, train again"):
        load_codec(path)


@pytest.mark.parametrize("content", [b"hello, this is text", b"\x80\x04\x95" + bytes(100), bytes(64)])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a complete checkpoint of flowvid"):
        load_model(path)


@pytest.mark.parametrize("metadata", [None, {"other": "x"}, {"description": "{"}, {"description": "[1]"}])
def test_weights_without_a_description_are_refused(tmp_path: Path, metadata: dict | None) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="not a complete checkpoint of flowvid"):
        load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("load", [load_codec, load_model, load_tensors])
def test_a_missing_file_is_named(tmp_path: Path, load) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match=f"Expected a checkpoint at {path}; there is none. Train it first"):
            load(path)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_does_not_make_a_good_file_a_bad_one(codec_path: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"Expected a device that is there.*got '{device}'"):
        load_codec(codec_path, device=device)


# Runs


@given(runs())
def test_a_run_returns_from_its_description(run: Run) -> None:
    stored = json.loads(json.dumps(dataclasses.asdict(run)))
    assert Run.of(stored) == run
    assert {part.name for part in dataclasses.fields(Run)} == stored.keys()


@given(runs())
def test_times_and_horizon(run: Run) -> None:
    assert len(run.times) == run.clip_frames
    assert run.times[0] == -run.frame
    assert run.times[1].item() == pytest.approx(0, abs=1e-9)
    assert run.horizon == pytest.approx(run.frame * run.reach)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_frames": 5},
        {"scales": 3},
        {"scales": 0},
        {"frame": 0.0},
        {"frame": math.nan},
        {"clips": 0},
        {"validation_clips": 0},
        {"channels": 0},
        {"width": 12},
        {"width": 0},
        {"codec_width": 7},
        {"world": World(canvas=18, scale=1)},
    ],
)
def test_a_run_that_cannot_be_trained_is_refused_at_once(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"Training needs|Expected a positive|must be a multiple"):
        dataclasses.replace(TINY, **wrong)


# Training, loading, continuing


def test_a_finished_codec_is_loaded_and_not_trained_again(codec_path: Path) -> None:
    before = codec_path.stat()
    saved = train_codec(TINY, codec_path.parent, progress=refuse)
    assert saved.run == TINY
    assert saved.seconds > 0
    assert same(saved.network, load_codec(codec_path).network)
    assert (codec_path.stat().st_mtime_ns, codec_path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert not any(parameter.requires_grad for parameter in saved.network.parameters())


def test_a_codec_serves_every_run_that_shares_its_data(codec_path: Path) -> None:
    other = dataclasses.replace(TINY, width=16, validation_clips=9, model=Optimisation(steps=1), scales=1)
    assert same(train_codec(other, codec_path.parent, progress=refuse).network, load_codec(codec_path).network)


@pytest.mark.parametrize("forward", [0, 7, 21])
def test_an_interrupted_codec_is_the_same_codec(codec_path: Path, tmp_path: Path, forward: int) -> None:
    with interrupted_at(torch.nn.PixelShuffle, 2 * forward):
        train_codec(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]
    (checkpoint,) = Store(tmp_path / "codec").paths
    assert load_tensors(checkpoint)[1]["step"] == forward
    saved = train_codec(TINY, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec", "codec.safetensors"]
    assert [path.name for path in (tmp_path / "codec").iterdir()] == ["log.jsonl"]
    assert same(saved.network, load_codec(codec_path).network)


@pytest.mark.parametrize("field", ["world", "clips", "frame", "codec"])
def test_a_codec_of_another_run_is_refused_half_done_and_finished(codec_path: Path, tmp_path: Path, field: str) -> None:
    changes = {"world": World(canvas=16, scale=1, motion="spin"), "clips": 9, "frame": 0.25}
    changes["codec"] = dataclasses.replace(TINY.codec, seed=5)
    other = dataclasses.replace(TINY, **{field: changes[field]})
    with interrupted_at(torch.nn.PixelShuffle, 6):
        train_codec(TINY, tmp_path)
    for folder in (tmp_path, codec_path.parent):
        with pytest.raises(ValueError, match=r"another run .*there.*here.*another folder, or delete"):
            train_codec(other, folder)


@pytest.mark.parametrize("name", RIVALS)
def test_an_interrupted_model_is_the_same_model(bank, tmp_path: Path, name: str) -> None:
    """Stopped inside the loss at several steps, continued each time by a new object."""
    file = f"{name}-seed0.safetensors"
    whole = train_model(name, TINY, bank, tmp_path / "whole")
    parted = tmp_path / "parted"
    for forward in (1, 5, 12):
        with interrupted_at(Trunk, forward):
            train_model(name, TINY, bank, parted)
        assert [path.name for path in parted.iterdir()] == [f"{name}-seed0"]
    continued = train_model(name, TINY, bank, parted)
    assert same(continued.network, whole.network)
    assert sorted(path.name for path in parted.iterdir()) == [f"{name}-seed0", file]
    assert same(load_model(parted / file).network, whole.network)
    with pytest.raises(ValueError, match="not a finished codec"):
        load_codec(parted / file)


@pytest.mark.parametrize("name", RIVALS)
def test_a_finished_model_is_loaded_and_answers_alike(bank, tmp_path: Path, name: str) -> None:
    trained = train_model(name, TINY, bank, tmp_path)
    path = tmp_path / f"{name}-seed0.safetensors"
    before = path.stat()
    loaded = train_model(name, TINY, refuse, tmp_path, progress=refuse)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert loaded.run == TINY
    assert loaded.seconds == pytest.approx(trained.seconds)
    data = bank("validation")
    condition = Condition(data.at(-0.125, 0.0, 0.25))
    answers = [
        saved.network.sample(condition, [0.125, 0.25], Noise.batch(0, len(data))).trajectory.states
        for saved in (trained, loaded)
    ]
    assert answers[0].isfinite().all()
    assert torch.equal(*answers)


def test_a_seed_decides_the_weights_and_other_seeds_give_others(bank, tmp_path: Path) -> None:
    other = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, seed=1))
    first = train_model("direct", TINY, bank, tmp_path / "a").network
    with torch.random.fork_rng():
        torch.manual_seed(123)
        again = train_model("direct", TINY, bank, tmp_path / "b").network
    second = train_model("direct", other, bank, tmp_path / "a").network
    assert same(first, again)
    assert not same(first, second)
    assert sorted(path.name for path in (tmp_path / "a").glob("*.safetensors")) == [
        "direct-seed0.safetensors",
        "direct-seed1.safetensors",
    ]


def test_training_leaves_the_global_random_state_alone(bank, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train_codec(TINY, tmp_path)
    train_model("ddim", TINY, bank, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "change", [{"reach": 3}, {"clips": 7}, {"world": World(canvas=16, scale=1, digits=2)}, {"channels": 5}]
)
def test_a_model_of_another_run_is_refused_half_done_and_finished(bank, tmp_path: Path, change: dict) -> None:
    other, (field,) = dataclasses.replace(TINY, **change), change
    with interrupted_at(Trunk, 5):
        train_model("multiscale", TINY, bank, tmp_path / "half")
    train_model("multiscale", TINY, bank, tmp_path / "done")
    for folder in ("half", "done"):
        with pytest.raises(ValueError, match=rf"another run \({field}: .*there.*here.*another folder, or delete"):
            train_model("multiscale", other, bank, tmp_path / folder)


def test_half_a_model_is_no_model(bank, tmp_path: Path) -> None:
    with interrupted_at(Trunk, 5):
        train_model("direct", TINY, bank, tmp_path)
    for load, wanted in ((load_model, "model"), (load_codec, "codec")):
        with pytest.raises(ValueError, match=f"holds a half-trained network, not a finished {wanted}"):
            load(Store(tmp_path / "direct-seed0").paths[-1])


def test_a_codec_is_no_model(codec_path: Path) -> None:
    with pytest.raises(ValueError, match="holds codec, not a finished model"):
        load_model(codec_path)


@pytest.mark.parametrize("part", ["run", "weights"])
def test_a_file_of_another_version_is_refused(codec_path: Path, tmp_path: Path, part: str) -> None:
    tensors, description = load_tensors(codec_path)
    if part == "run":
        description["run"]["colour"] = "blue"
    else:
        tensors["encoder.0.weight"] = torch.zeros(5, 1, 4, 4)
    save_tensors(tmp_path / "codec.safetensors", tensors, description)
    with pytest.raises(ValueError, match=r"(?s)made by another version of flowvid.*train it again"):
        load_codec(tmp_path / "codec.safetensors")


def test_an_unknown_model_is_refused_by_name(bank, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"models are multiscale, bisection, .*, lstm; got 'flow'"):
        train_model("flow", TINY, bank, tmp_path)


# Latents


def test_latents_do_not_depend_on_chunks(codec_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load_codec(codec_path).network
    whole = latents(TINY, codec, "test", TINY.times, clips=5, device="cpu")
    monkeypatch.setattr("flowvid.train.run._CHUNK", 2)
    parts = latents(TINY, codec, "test", TINY.times, clips=5, device="cpu")
    torch.testing.assert_close(parts.states, whole.states)
    assert torch.equal(parts.times, TINY.times)
    assert whole.states.shape == (5, TINY.clip_frames, TINY.channels, 4, 4)


def test_latents_of_splits_differ_and_those_of_training_are_normalised(bank, codec_path: Path) -> None:
    def mean_and_deviation(states: Tensor) -> tuple[Tensor, Tensor]:
        return states.mean(dim=(0, 1, 3, 4)), states.std(dim=(0, 1, 3, 4))

    mean, deviation = mean_and_deviation(bank("train").states)
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(4), atol=1e-2, rtol=0)
    assert not torch.equal(bank("train").states[:4], bank("validation").states)
