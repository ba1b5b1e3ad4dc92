"""Models as folders: bit for bit the same after the journey, and never half written, wrongly read or guessed at."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowvid import __version__
from flowvid.data.model_files import ModelFiles
from flowvid.encoders.autoencoder import Autoencoder
from flowvid.encoders.codec import Codec, IdentityCodec
from flowvid.encoders.vae import ConvVae
from flowvid.encoders.vector_vae import VectorVae
from flowvid.models.bisection import RecursiveBisection
from flowvid.models.clip_generator import ClipGenerator
from flowvid.models.clip_regression import ClipRegression
from flowvid.models.coded import CodedMultiScale
from flowvid.models.continuous import MultiScale
from flowvid.models.diffusion import ClipDiffusion
from flowvid.models.frame_flow import FrameFlow
from flowvid.models.hub import PRETRAINED, load_pretrained
from flowvid.models.latent_sde import LatentSde
from flowvid.models.loss_terms import LossTerms
from flowvid.models.recurrent import RecurrentComposite
from flowvid.models.regression import DirectRegression
from flowvid.models.unet_video import UNetVideo
from flowvid.models.video_model import LearnedModel
from flowvid.noise import Noise
from flowvid.solve.bisect import Bisection
from flowvid.video import Condition, Trajectory, as_times

FRAME = 0.125
FILES = {"config.json", "model.safetensors", "README.md"}


def built(kind: type[Codec] | type[LearnedModel]) -> Codec | LearnedModel:
    """A small network of every kind with arguments that are not the defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if kind is Autoencoder:
            return Autoencoder(3, channels=2, width=6, latent_noise=0.1)
        if kind is ConvVae:
            return ConvVae(1, factor=8, channels=3, width=8, attention=True, beta=0.5)
        if kind is MultiScale:
            return MultiScale(2, frame=FRAME, scales=2, reach=4, width=8, bounded=0.75, input_noise=0.01)
        if kind is LatentSde:
            return LatentSde(2, frame=FRAME, reach=4, width=8, parameters=25_000, steps=2, lagged=True)
        if kind is VectorVae:
            return VectorVae(16, pixels=3, channels=5, width=4, hidden=16, beta=0.5)
        if kind is ClipRegression:
            return ClipRegression(2, frame=FRAME, given=2, ahead=5, fold=2, width=8, depth=2)
        if kind is RecurrentComposite:
            return RecurrentComposite(2, frame=FRAME, patch=2, width=6, layers=2, given=5, ahead=4)
        if kind is RecursiveBisection:
            options = Bisection(depth=5, tolerance=0.25, shortest=FRAME)
            return RecursiveBisection(2, frame=FRAME, reach=4, width=8, parameters=20_000, options=options)
        if kind is ClipDiffusion:
            return ClipDiffusion(2, frame=FRAME, frames=6, width=8, parameters=20_000, steps=3)
        if kind is DirectRegression:
            return DirectRegression(2, frame=FRAME, reach=4, width=8, parameters=20_000)
        if kind is ClipGenerator:
            return ClipGenerator(2, frame=FRAME, frames=6, width=24, heads=2, depth=1, predicts="v", steps=2)
        if kind is CodedMultiScale:
            return CodedMultiScale(
                2, frame=FRAME, scales=2, reach=4, width=8, code=3, terms=LossTerms(consistency=0.5), features=16
            )
        if kind is FrameFlow:
            return FrameFlow(2, frame=FRAME, reach=4, width=8, start="noise", steps=2)
        if kind is UNetVideo:
            return UNetVideo(2, frame=FRAME, frames=6, widths=(8, 16), heads=2, embedding=4, steps=2)
        assert kind is IdentityCodec
        return IdentityCodec()


def clips(count: int = 8, frames: int = 18) -> Trajectory:
    noise = torch.randn(count, frames, 2, 4, 4, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    return Trajectory(noise, as_times([FRAME * (i - 1) for i in range(frames)]))


def stirred(network: Codec | LearnedModel) -> Codec | LearnedModel:
    """The network with weights, units and calibration that no constructor gives."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if isinstance(network, LearnedModel):
        network.prepare(clips())
        network.finish(clips())
    elif not isinstance(network, IdentityCodec):
        network.normalise(frames_of(network))
    return network


def frames_of(codec: Codec) -> Tensor:
    shape = (4, getattr(codec, "pixels", 1), 16, 16 if isinstance(codec, VectorVae) else 8)
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(2)) - 1


def answers(network: Codec | LearnedModel) -> list[Tensor]:
    """What the network says, of everything it is there to say."""
    with torch.no_grad():
        if isinstance(network, Codec):
            latents = network.latents(frames_of(network))
            return [latents, network.frames(latents)]
        between = 3.0 if isinstance(network, UNetVideo) else 2.6
        times = [0.0, FRAME, 2 * FRAME, between * FRAME, 4 * FRAME]
        later = () if isinstance(network, ClipRegression | FrameFlow | RecurrentComposite) else (4 * FRAME,)
        condition = Condition(clips(2).at(-FRAME, 0.0, *later))
        samples = network.sample(condition, times, Noise.batch(0, 2)).trajectory.states
        return [samples, network.loss(clips(), Noise.batch(0, 8))]


def trained(folder: Path) -> ConvVae:
    network = stirred(built(ConvVae))
    network.save_pretrained(folder)
    assert isinstance(network, ConvVae)
    return network


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ----------------------------------------------------------------------------------------------------------------------
# There and back
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PRETRAINED, ids=lambda kind: kind.__name__)
def test_the_journey_changes_nothing(kind: type[Codec] | type[LearnedModel], tmp_path: Path) -> None:
    network = stirred(built(kind))
    network.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    for found in (load_pretrained(tmp_path / "model"), kind.from_pretrained(str(tmp_path / "model"))):
        assert type(found) is kind
        assert not found.training
        ours, theirs = network.state_dict(), found.state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype
            assert torch.equal(tensor, theirs[name]), name
        for one, other in zip(answers(network), answers(found), strict=True):
            assert torch.equal(one, other)


def test_the_description_names_every_argument(tmp_path: Path) -> None:
    built(MultiScale).save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {
        "_class_name": "MultiScale",
        "_flowvid_version": __version__,
        "channels": 2,
        "frame": FRAME,
        "scales": 2,
        "reach": 4,
        "width": 8,
        "bounded": 0.75,
        "velocity_weight": 0.1,
        "input_noise": 0.01,
        "terms": {
            "consistency": 0.0,
            "deterministic": False,
            "rollout": 0.0,
            "jumps": 4,
            "restoring": None,
            "bending": 0.0,
        },
        "code": 0,
    }


def test_options_come_back_as_they_were(tmp_path: Path) -> None:
    built(RecursiveBisection).save_pretrained(tmp_path / "model")
    found = RecursiveBisection.from_pretrained(tmp_path / "model")
    assert found.options == Bisection(depth=5, tolerance=0.25, shortest=FRAME)


def test_abstract_classes_give_whichever_of_their_kinds_it_is(tmp_path: Path) -> None:
    built(MultiScale).save_pretrained(tmp_path / "model")
    built(Autoencoder).save_pretrained(tmp_path / "codec")
    assert isinstance(LearnedModel.from_pretrained(tmp_path / "model"), MultiScale)
    assert isinstance(Codec.from_pretrained(tmp_path / "codec"), Autoencoder)
    with pytest.raises(ValueError, match=r"holds a MultiScale; expected .*Autoencoder or "):
        Codec.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a MultiScale; expected ConvVae"):
        ConvVae.from_pretrained(tmp_path / "model")


def test_a_loaded_model_can_be_saved_again(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    load_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    network = trained(tmp_path / "model")
    before = torch.get_rng_state()
    load_pretrained(tmp_path / "model")
    network.save_pretrained(tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
def test_a_model_saved_on_a_gpu_is_loaded_on_the_processor(tmp_path: Path) -> None:
    network = stirred(built(MultiScale))
    network.to("cuda").save_pretrained(tmp_path / "model")
    found = load_pretrained(tmp_path / "model")
    for name, tensor in network.state_dict().items():
        assert found.state_dict()[name].device.type == "cpu"
        assert torch.equal(tensor.cpu(), found.state_dict()[name])
    assert next(load_pretrained(tmp_path / "model", device="cuda").parameters()).is_cuda


def test_weights_can_be_read_without_flowvid(tmp_path: Path) -> None:
    network = trained(tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == network.state_dict().keys()
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


# ----------------------------------------------------------------------------------------------------------------------
# The card
# ----------------------------------------------------------------------------------------------------------------------


def test_the_card_says_what_it_was_told(tmp_path: Path) -> None:
    facts = {
        "summary": "Codes flowers.",
        "data": "flower.mp4, 64 px",
        "steps": 600,
        "scores": {"psnr": 26.75, "lpips": 0.0098},
        "licence": "cc0-1.0",
    }
    built(ConvVae).save_pretrained(tmp_path / "model", model_card_kwargs=facts)
    card = (tmp_path / "model" / "README.md").read_text()
    head = card.split("---")[1]
    assert "library_name: flowvid" in head
    assert "license: cc0-1.0" in head
    for part in (
        "# ConvVae",
        "Codes flowers.",
        "flower.mp4, 64 px",
        "600 optimiser steps",
        "| psnr | 26.75 |",
        "| lpips | 0.0098 |",
        "load_pretrained(",
        "- beta: `0.5`",
        f"{sum(x.numel() for x in built(ConvVae).parameters())} parameters",
    ):
        assert part in card


def test_a_card_that_was_told_nothing_says_so(tmp_path: Path) -> None:
    built(ConvVae).save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.count("not stated") == 3
    assert "license:" not in card
    assert "Frames with sides that are multiples of the factor" in card


# ----------------------------------------------------------------------------------------------------------------------
# Folders
# ----------------------------------------------------------------------------------------------------------------------


def test_a_model_replaces_a_model(tmp_path: Path) -> None:
    trained(tmp_path / "model")
    built(MultiScale).save_pretrained(tmp_path / "model")
    assert isinstance(load_pretrained(tmp_path / "model"), MultiScale)
    assert "MultiScale" in (tmp_path / "model" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    trained(tmp_path / "model")
    assert isinstance(load_pretrained(tmp_path / "model"), ConvVae)


@pytest.mark.parametrize("names", [["notes.txt"], [*FILES, "notes.txt"], ["model.safetensors"]])
def test_other_files_are_never_lost(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "model").mkdir()
    for name in names:
        (tmp_path / "model" / name).write_text('{"_class_name": "X"}')
    with pytest.raises(ValueError, match="holds other things than a model of flowvid"):
        built(ConvVae).save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(names)


def test_the_model_of_another_library_is_never_lost(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["Other"]}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="holds other things"):
        built(ConvVae).save_pretrained(tmp_path / "model")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        built(ConvVae).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("moment", ["weights", "card", "place", "aside"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    before = trained(tmp_path / "model")
    rename = Path.rename

    def fails(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    def fails_at(path: Path, target: Path) -> Path:
        if path.name.endswith(".new") == (moment == "place"):
            raise OSError("No space left on device")
        return rename(path, target)

    with monkeypatch.context() as patch:
        if moment == "weights":
            patch.setattr("flowvid.data.model_files.save_file", fails)
        elif moment == "card":
            patch.setattr(ModelFiles, "generate_model_card", fails)
        else:
            calls = iter([True])
            patch.setattr(Path, "rename", lambda *a: fails_at(*a) if next(calls, moment == "place") else rename(*a))
        with pytest.raises(OSError, match="No space"):
            built(MultiScale).save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    found = load_pretrained(tmp_path / "model")
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name])


# ----------------------------------------------------------------------------------------------------------------------
# Refusals
# ----------------------------------------------------------------------------------------------------------------------


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json. Nothing is downloaded"):
        load_pretrained("someone/some-model")
    trained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model.safetensors"):
        load_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "Unheard"}, "holds a Unheard; expected .*MultiScale"),
        ({"_class_name": "Codec"}, "holds a Codec; expected"),
        ({"_class_name": None}, "holds a None; expected"),
        ({"colour": 1}, "no arguments colour; it has pixels, factor"),
        ({"width": "wide"}, "does not describe a ConvVae"),
        ({"width": 12}, "positive multiple of 8"),
        ({"factor": 4}, "does not hold the tensors of ConvVae .missing|unknown|another shape"),
        ({"channels": 2}, r"of another shape or type: decoder.0.weight.*mean"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    trained(tmp_path / "model")
    rewrite(tmp_path / "model", **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "model")


def test_options_with_unknown_parts_are_refused(tmp_path: Path) -> None:
    built(RecursiveBisection).save_pretrained(tmp_path / "model")
    rewrite(tmp_path / "model", options={"depth": 5, "speed": 3})
    with pytest.raises(ValueError, match="options has parts that it does not know"):
        load_pretrained(tmp_path / "model")


def test_an_argument_that_came_later_takes_its_default(tmp_path: Path) -> None:
    trained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "beta"}))
    assert ConvVae.from_pretrained(tmp_path / "model").beta == ConvVae().beta


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    trained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        load_pretrained(tmp_path / "model")


@pytest.mark.parametrize("kept", [0, 7, 200])
def test_truncated_weights_are_refused(tmp_path: Path, kept: int) -> None:
    trained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_pretrained(tmp_path / "model")


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    trained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    for changed, message in (
        ({name: tensor for name, tensor in tensors.items() if name != "mean"}, "missing: mean"),
        ({**tensors, "extra": torch.zeros(1)}, "unknown: extra"),
        ({**tensors, "mean": tensors["mean"].double()}, "of another shape or type: mean"),
        ({**tensors, "mean": tensors["mean"].flatten()}, "of another shape or type: mean"),
    ):
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path / "model")


class Wrapped(IdentityCodec):
    """Built from what JSON cannot hold."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


@dataclass(frozen=True)
class Odd:
    part: object = None


class Described(IdentityCodec):
    """Built from a number, or from options that JSON cannot hold."""

    def __init__(self, size: float = 1.0, odd: Odd | None = None) -> None:
        super().__init__()
        self.size = size
        self.odd = odd


def test_what_cannot_be_described_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Wrapped was built with inner, which JSON cannot hold"):
        Wrapped(nn.Linear(1, 1)).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Described was built with something else \(.*which JSON cannot hold"):
        Described(odd=Odd(nn.Linear(1, 1))).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Described was built with something else \(.*which JSON cannot hold"):
        Described(float("inf")).save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_would_not_come_back_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not hold the tensors of ConvVae \(of another shape or type"):
        built(ConvVae).double().save_pretrained(tmp_path / "model")
    changed = built(ClipDiffusion)
    changed.steps = 9
    with pytest.raises(ValueError, match="steps would not come back as now"):
        changed.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
