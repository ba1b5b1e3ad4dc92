"""A run: everything that decides what a trained codec or model is, and the steps that make it.

A run's files live in one folder: `codec.safetensors`, and one `NAME-seedN.safetensors` per model, each with the run's
complete description inside. What exists and matches is loaded, what is half done is continued, and what belongs to
another run is refused.
"""

__all__ = ["Run", "Saved", "latents", "load_codec", "load_model", "train_codec", "train_model"]

import dataclasses
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from flowvid.data.clips import World, render_clips
from flowvid.encoders.autoencoder import Autoencoder
from flowvid.encoders.codec import Codec
from flowvid.models.rivals import build_rival
from flowvid.models.video_model import LearnedModel
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.loop import Optimisation, Progress, fit
from flowvid.video import Times, Trajectory, time_grid

_CHUNK = 64
_NOT_OF_THE_CODEC = ("model", "scales", "reach", "width", "validation_clips")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Data, codec, network and optimisation of a comparison.

    Arguments:
        world: What the clips are.
        frame: Seconds between training frames.
        clip_frames: Frames per training clip; the first is context at time -frame.
        clips: Training clips.
        validation_clips: Clips for calibration and for choices.
        channels: Channels of a latent.
        codec_width: Width of the codec.
        codec: Optimisation of the codec, whose batch counts frames.
        scales: Gaps of one sign of the multi-scale model; the longest is 2^(scales - 1) frames.
        reach: Frames that every model is trained to look ahead.
        width: Width of the trunk.
        model: Optimisation of every model.

    Raises:
        ValueError: A clip is shorter than twice the reach, or the reach than the longest gap; or a number is one that
            the codec or the trunk cannot have.
    """

    world: World = field(default_factory=World)
    frame: float = 0.125
    clip_frames: int = 50
    clips: int = 1024
    validation_clips: int = 128
    channels: int = 4
    codec_width: int = 48
    codec: Optimisation
    scales: int = 5
    reach: int = 16
    width: int = 48
    model: Optimisation

    def __post_init__(self) -> None:
        if self.clip_frames < 2 * self.reach + 2 or self.reach < 2 ** (self.scales - 1):
            raise ValueError(
                f"Training needs a reach of at least the longest gap, {2 ** (self.scales - 1)} frames, and clips of at "
                f"least twice the reach and two frames; got reach={self.reach}, clip_frames={self.clip_frames}."
            )

        if not self.frame > 0 or min(self.clips, self.validation_clips, self.channels, self.scales) < 1:
            raise ValueError(f"Expected a positive frame and at least one clip, channel and scale; got {self}.")
        if self.width < 8 or self.width % 8 or self.codec_width < 2 or self.codec_width % 2 or self.world.canvas % 4:
            raise ValueError(
                "The width must be a multiple of 8, the width of the codec even, and the canvas a multiple of 4; "
                f"got width={self.width}, codec_width={self.codec_width}, canvas={self.world.canvas}."
            )

    @property
    def horizon(self) -> float:
        """Seconds that every model is trained to look ahead."""
        return self.frame * self.reach

    @property
    def times(self) -> Times:
        """Times of the training frames; the clip starts at 0 and one context frame lies before."""
        return time_grid(-self.frame, (self.clip_frames - 2) * self.frame, self.frame)

    @staticmethod
    def of(description: dict[str, Any]) -> "Run":
        """The run of a description, as it is stored beside weights."""
        parts = dict(description)
        world: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in parts["world"].items()}
        parts["world"] = World(**world)
        parts |= {name: Optimisation(**parts[name]) for name in ("codec", "model")}
        return Run(**parts)


Network = TypeVar("Network", Codec, LearnedModel)


@dataclass(frozen=True)
class Saved(Generic[Network]):
    """A trained network with its run and what training it took.

    Arguments:
        network: The codec or model, ready to use.
        run: The run it belongs to.
        seconds: Seconds of training.
    """

    network: Network
    run: Run
    seconds: float


def latents(run: Run, codec: Codec, split: str, times: Times, *, clips: int, device: str) -> Trajectory:
    """Encoded clips number 0, 1, ... of a split, made in chunks so that frames never pile up.

    Arguments:
        run: The run.
        codec: The trained codec.
        split: train, validation or test.
        times: Seconds.
        clips: How many.
        device: Where the latents shall live.
    """
    parts = []
    with torch.no_grad():
        for first in range(0, clips, _CHUNK):
            chosen = run.world.clips(range(first, min(first + _CHUNK, clips)), split)
            frames = render_clips(chosen, times).frames.to(device)
            parts.append(codec.latents(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))
    return Trajectory(torch.cat(parts), times)


def train_codec(run: Run, folder: Path, *, device: str = "cpu", progress: Progress | None = None) -> Saved[Codec]:
    """The run's codec: loaded when it is there, continued when it is half done, trained otherwise.

    Raises:
        ValueError: The folder holds a codec of another run.
    """
    path = folder / "codec.safetensors"
    if path.exists():
        return load_codec(path, run=run, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.codec.seed)
        network = Autoencoder(1, channels=run.channels, width=run.codec_width).to(device)
    pixels = _frames(run, device)

    def objective(noise: Noise) -> Tensor:
        chosen = noise.integers("frame", 0, len(pixels), device=device)
        return network.loss(_unpacked(pixels[chosen]), noise)

    partial = folder / "codec.partial.safetensors"
    decisive = {name: value for name, value in asdict(run).items() if name not in _NOT_OF_THE_CODEC}
    seconds = fit(network, objective, run.codec, checkpoint=partial, run=decisive, progress=progress)
    stride = max(1, len(pixels) // 4096)
    network.normalise(_unpacked(pixels[::stride]))
    network.requires_grad_(False)
    save_tensors(path, network.state_dict(), {"kind": "codec", "run": asdict(run), "seconds": seconds})
    partial.unlink(missing_ok=True)
    return Saved(network, run, seconds)


def train_model(
    name: str,
    run: Run,
    bank: Callable[[str], Trajectory],
    folder: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Saved[LearnedModel]:
    """One of the run's models: loaded when it is there, continued when it is half done, trained otherwise.

    Arguments:
        name: One of `RIVALS`.
        run: The run.
        bank: Latents by split, asked only when training is needed.
        folder: Where its files live.
        device: Where to train.
        progress: Is told how far training is.

    Raises:
        ValueError: The folder holds a model of another run.
    """
    path = folder / f"{name}-seed{run.model.seed}.safetensors"
    if path.exists():
        return load_model(path, run=run, device=device)
    network = _build(name, run).to(device)
    data = bank("train")
    network.prepare(data)

    def objective(noise: Noise) -> Tensor:
        chosen = noise.integers("clip", 0, len(data), device=device)
        return network.loss(Trajectory(data.states[chosen], data.times), noise)

    partial = path.with_suffix(".partial.safetensors")
    seconds = fit(network, objective, run.model, checkpoint=partial, run=asdict(run), progress=progress)
    network.requires_grad_(False)
    network.finish(bank("validation"))
    save_tensors(path, network.state_dict(), {"kind": name, "run": asdict(run), "seconds": seconds})
    partial.unlink(missing_ok=True)
    return Saved(network, run, seconds)


def load_codec(path: Path, *, run: Run | None = None, device: str = "cpu") -> Saved[Codec]:
    """A trained codec, refused when it does not belong to ``run``.

    Raises:
        ValueError: There is no such file, it is damaged, or it belongs to another run.
    """
    tensors, description = load_tensors(path, device=device)
    found = _checked(path, description, ("codec",), run, _NOT_OF_THE_CODEC)
    network = Autoencoder(1, channels=found.channels, width=found.codec_width).to(device)
    _fill(network, tensors, path)
    return Saved(network.requires_grad_(False), found, description["seconds"])


def load_model(path: Path, *, run: Run | None = None, device: str = "cpu") -> Saved[LearnedModel]:
    """A trained model, refused when it does not belong to ``run``.

    Raises:
        ValueError: There is no such file, it is damaged, or it belongs to another run.
    """
    tensors, description = load_tensors(path, device=device)
    found = _checked(path, description, None, run, ())
    network = _build(description["kind"], found).to(device)
    _fill(network, tensors, path)
    return Saved(network.requires_grad_(False), found, description["seconds"])


def _build(name: str, run: Run) -> LearnedModel:
    return build_rival(
        name,
        channels=run.channels,
        frame=run.frame,
        scales=run.scales,
        reach=run.reach,
        width=run.width,
        seed=run.model.seed,
    )


def _checked(
    path: Path, description: dict[str, Any], kinds: tuple[str, ...] | None, run: Run | None, free: tuple[str, ...]
) -> Run:
    """The run in a description; ``free`` fields may differ from the wanted run."""
    kind = description.get("kind")
    if kind is None or (kinds is None) == (kind == "codec"):
        wanted = "codec" if kinds else "model"
        raise ValueError(f"{path} holds {kind or 'a half-trained network'}, not a finished {wanted}.")
    try:
        found = Run.of(description["run"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was made by another version of flowvid ({error}); train it again.") from error
    differing = [
        part.name
        for part in dataclasses.fields(Run)
        if run is not None and part.name not in free and getattr(run, part.name) != getattr(found, part.name)
    ]
    if differing:
        details = "; ".join(f"{name}: {getattr(found, name)} there, {getattr(run, name)} here" for name in differing)
        raise ValueError(f"{path} belongs to another run ({details}). Use another folder, or delete it to train anew.")
    return found


def _fill(network: Codec | LearnedModel, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} was made by another version of flowvid ({error}); train it again.") from error


def _frames(run: Run, device: str) -> Tensor:
    """All training frames as bytes."""
    parts = []
    for first in range(0, run.clips, _CHUNK):
        chosen = run.world.clips(range(first, min(first + _CHUNK, run.clips)), "train")
        frames = render_clips(chosen, run.times).frames.flatten(0, 1)
        parts.append(((frames + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(parts).to(device)


def _unpacked(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1
