"""Training a codec and the models on it, and loading what was trained.

A run's files live in one folder: `codec.safetensors`, and one `NAME-seedN.safetensors` per model, each with the run's
complete description inside, and beside each a folder of the same name with its log and, until it is finished, its
checkpoints. What exists and matches is loaded, what is half done is continued, and what belongs to another run is
refused. Many processes may call these functions alike; the first one writes.
"""

__all__ = ["Run", "Saved", "captions", "latents", "load_codec", "load_model", "train_codec", "train_model"]

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from flowvid.data.worlds.describe import describe
from flowvid.data.worlds.families import world_channels
from flowvid.data.worlds.scene import render_scenes
from flowvid.encoders.autoencoder import Autoencoder
from flowvid.encoders.codec import Codec
from flowvid.encoders.text import TextTokens
from flowvid.models.rivals import build_rival
from flowvid.models.video_model import LearnedModel, ReadingModel
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.loop import PLAIN, Execution, Progress, fit
from flowvid.train.plan import Run
from flowvid.train.processes import Processes, local_device
from flowvid.train.store import Store
from flowvid.video import Text, Times, Trajectory, as_text, from_bytes, to_bytes

_CHUNK = 64
_NOT_OF_THE_CODEC = ("model", "scales", "reach", "width", "validation_clips")


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
            frames = render_scenes(chosen, times).frames.to(device)
            parts.append(codec.latents(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))
    return Trajectory(torch.cat(parts), times)


def captions(run: Run, split: str, *, clips: int) -> Text:
    """What clips number 0, 1, ... of a split do from their first frame after the context to their last, in words."""
    stop = run.times[-1].item()
    scenes = run.world.clips(range(clips), split)
    return as_text([str(describe(scene, 0.0, stop)) for scene in scenes])


def train_codec(
    run: Run,
    folder: Path,
    *,
    device: str = "cpu",
    execution: Execution = PLAIN,
    progress: Progress | None = None,
) -> Saved[Codec]:
    """The run's codec: loaded when it is there, continued when it is half done, trained otherwise.

    Arguments:
        run: The run.
        folder: Where its files live.
        device: Where to train; with many processes on GPUs each takes its own.
        execution: How training is carried out.
        progress: Is told how far training is.

    Raises:
        ValueError: The folder holds a codec of another run; or see `fit`.
    """
    path, device = folder / "codec.safetensors", local_device(device)
    if path.exists():
        return load_codec(path, run=run, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.codec.seed)
        network = Autoencoder(world_channels(run.world), channels=run.channels, width=run.codec_width).to(device)
    pixels = _frames(run, device)

    def objective(noise: Noise) -> Tensor:
        chosen = noise.integers("frame", 0, len(pixels), device=device)
        return network.loss(from_bytes(pixels[chosen]), noise)

    def names(noise: Noise) -> list[str]:
        chosen = noise.integers("frame", 0, len(pixels)).tolist()
        return [f"clip {index // run.clip_frames} frame {index % run.clip_frames}" for index in chosen]

    decisive = {name: value for name, value in asdict(run).items() if name not in _NOT_OF_THE_CODEC}
    seconds = fit(
        network,
        objective,
        run.codec,
        folder=path.with_suffix(""),
        run=decisive,
        execution=execution,
        names=names,
        progress=progress,
    )
    stride = max(1, len(pixels) // 4096)
    network.normalise(from_bytes(pixels[::stride]))
    _finish(path, network.requires_grad_(False), {"kind": "codec", "run": asdict(run), "seconds": seconds})
    return Saved(network, run, seconds)


def train_model(
    name: str,
    run: Run,
    bank: Callable[[str], Trajectory],
    folder: Path,
    *,
    text: Callable[[str], Text] | None = None,
    device: str = "cpu",
    execution: Execution = PLAIN,
    progress: Progress | None = None,
) -> Saved[LearnedModel]:
    """One of the run's models: loaded when it is there, continued when it is half done, trained otherwise.

    Arguments:
        name: One of `flowvid.models.rivals.MODELS`.
        run: The run.
        bank: Latents by split, asked only when training is needed.
        folder: Where its files live.
        text: What is said of the clips of a split, for a model that reads; `captions` by default.
        device: Where to train; with many processes on GPUs each takes its own.
        execution: How training is carried out.
        progress: Is told how far training is.

    Raises:
        ValueError: The folder holds a model of another run; or see `fit`.
    """
    path, device = folder / f"{name}-seed{run.model.seed}.safetensors", local_device(device)
    if path.exists():
        return load_model(path, run=run, device=device)
    network = _build(name, run).to(device)
    data = bank("train")
    network.prepare(data)
    told = _tokens(network, text or partial(captions, run, clips=len(data)), device)

    def objective(noise: Noise) -> Tensor:
        chosen = noise.integers("clip", 0, len(data), device=device)
        clips = Trajectory(data.states[chosen], data.times)
        if told is None or not isinstance(network, ReadingModel):
            return network.loss(clips, noise)
        return network.loss(clips, noise, text=told.rows(chosen))

    def names(noise: Noise) -> list[str]:
        return [f"clip {index}" for index in noise.integers("clip", 0, len(data)).tolist()]

    seconds = fit(
        network,
        objective,
        run.model,
        folder=path.with_suffix(""),
        run=asdict(run),
        execution=execution,
        names=names,
        progress=progress,
    )
    network.requires_grad_(False)
    network.finish(bank("validation"))
    _finish(path, network, {"kind": name, "run": asdict(run), "seconds": seconds})
    return Saved(network, run, seconds)


def load_codec(path: Path, *, run: Run | None = None, device: str = "cpu") -> Saved[Codec]:
    """A trained codec, refused when it does not belong to ``run``.

    Raises:
        ValueError: There is no such file, it is damaged, or it belongs to another run.
    """
    tensors, description = load_tensors(path, device=device)
    found = _checked(path, description, ("codec",), run, _NOT_OF_THE_CODEC)
    network = Autoencoder(world_channels(found.world), channels=found.channels, width=found.codec_width).to(device)
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


def _finish(path: Path, network: Codec | LearnedModel, description: Mapping[str, Any]) -> None:
    """Write the finished network, after which its checkpoints are no longer needed."""
    processes = Processes(next(network.parameters()).device)
    if processes.main:
        save_tensors(path, network.state_dict(), description)
        Store(path.with_suffix("")).clear()
    processes.wait()


def _tokens(network: LearnedModel, text: Callable[[str], Text], device: str) -> TextTokens | None:
    """What is said of all training clips, for a model that reads."""
    if not isinstance(network, ReadingModel) or network.text_encoder is None:
        return None
    return network.text_encoder.tokens(text("train")).to(device)


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
        frames = render_scenes(chosen, run.times).frames.flatten(0, 1)
        parts.append(to_bytes(frames))
    return torch.cat(parts).to(device)
