"""A codec of real clips and two models on it, trained through the one loop.

Everything is kept in one folder: checkpoints and logs while a network is trained, and what is finished, which is loaded
the next time. A folder is of one run, and of one set of clips.
"""

__all__ = ["MODELS", "Trained", "train_real"]

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from experiments.fill_in import EVERY
from experiments.real_spans import RealRun, Spans
from flowvid.encoders.codec import Codec
from flowvid.encoders.vae import ConvVae
from flowvid.metrics.perceptual import Lpips
from flowvid.models.rivals import build_rival
from flowvid.models.video_model import LearnedModel
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.log import read_log
from flowvid.train.loop import Optimisation, fit
from flowvid.train.store import Store
from flowvid.video import Trajectory, from_bytes, time_grid

if TYPE_CHECKING:
    from flowvid.encoders.vae import PerceptualDistance

MODELS = {"multi-scale": "multiscale-fill", "bisection": "bisection"}
"""The models by their names in results; both spend their whole training on filling in."""

_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Trained:
    """What training made.

    Arguments:
        codec: The codec.
        models: Models by name and seed.
        curves: For the codec and every model the steps and running losses.
        seconds: For each of them the seconds of training.
    """

    codec: Codec
    models: dict[tuple[str, int], LearnedModel]
    curves: dict[str, dict[str, list[float]]]
    seconds: dict[str, float]


def train_real(
    run: RealRun, spans: Spans, folder: Path, *, perceptual: Lpips | None = None, say: Callable[[str], None] = print
) -> Trained:
    """The codec and all models: loaded when they are there, continued when half done, trained otherwise.

    Arguments:
        run: The run.
        spans: The frames.
        folder: Where checkpoints and results live.
        perceptual: LPIPS for the codec's loss, where its weights are there and the run weighs it.
        say: Is told what is trained.

    Raises:
        ValueError: The folder holds something of another run, or training diverged.
    """
    pixels = torch.cat(spans.training)
    description: dict[str, Any] = {"run": asdict(run), "files": spans.names, "frames": len(pixels)}
    curves: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, float] = {}

    def learn(name: str, network: nn.Module, loss: Callable[[Noise], Tensor], how: Optimisation) -> None:
        say(f"training {name}")
        fit(network, loss, how, folder=folder / name, run=description)

    def keep(name: str, network: Codec | LearnedModel, train: Callable[[], None]) -> None:
        seconds[name] = _kept(folder / name, network, description, train)
        reports = [entry for entry in read_log(folder / name) if "loss" in entry]
        curves[name] = {key: [float(entry[key]) for entry in reports] for key in ("step", "loss")}

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.codec.seed)
        codec = ConvVae(3, factor=run.factor, channels=run.channels, width=run.codec_width)
    distance = _weighted(perceptual, run.perceptual)

    def train_codec() -> None:
        def loss(noise: Noise) -> Tensor:
            return codec.loss(from_bytes(pixels[noise.integers("frame", 0, len(pixels))]), noise, perceptual=distance)

        learn("codec", codec, loss, run.codec)
        codec.normalise(from_bytes(pixels[:: max(1, len(pixels) // 1024)]))

    keep("codec", codec, train_codec)
    codec.requires_grad_(False)
    bank = _Bank(run, codec, spans)
    models: dict[tuple[str, int], LearnedModel] = {}
    for seed in run.seeds:
        for title, kind in MODELS.items():
            models[title, seed] = _train_model(run, kind, seed, bank, keep, learn, f"{title}-seed{seed}")
    return Trained(codec, models, curves, seconds)


class _Bank:
    """Latents of the training spans, encoded when first asked for, and all windows of them."""

    def __init__(self, run: RealRun, codec: Codec, spans: Spans) -> None:
        self._run, self._codec, self._pixels = run, codec, torch.cat(spans.training)
        self._length = 2 * EVERY + 2
        self._latents: Tensor | None = None
        first = 0
        starts: list[Tensor] = []
        for part in spans.training:
            starts.append(torch.arange(first, first + len(part) - self._length + 1))
            first += len(part)
        self.starts = torch.cat(starts)

    @torch.no_grad()
    def windows(self, chosen: Tensor) -> Trajectory:
        """Some of the windows, by number."""
        if self._latents is None:
            parts = self._pixels.split(_CHUNK)
            self._latents = torch.cat([self._codec.latents(from_bytes(part)) for part in parts])
        index = self.starts[chosen][:, None] + torch.arange(self._length)
        return Trajectory(self._latents[index], time_grid(0.0, (self._length - 1) * self._run.frame, self._run.frame))

    @property
    def spread(self) -> Trajectory:
        """Windows that represent all."""
        return self.windows(torch.arange(0, len(self.starts), max(1, len(self.starts) // 192)))


def _train_model(
    run: RealRun,
    kind: str,
    seed: int,
    bank: _Bank,
    keep: Callable[[str, LearnedModel, Callable[[], None]], None],
    learn: Callable[[str, nn.Module, Callable[[Noise], Tensor], Optimisation], None],
    name: str,
) -> LearnedModel:
    scales = EVERY.bit_length()
    network = build_rival(
        kind, channels=run.channels, frame=run.frame, scales=scales, reach=EVERY, width=run.width, seed=seed
    )
    how = Optimisation(**{**asdict(run.model), "seed": seed})

    def train() -> None:
        network.prepare(bank.spread)
        learn(name, network, lambda noise: network.loss(_drawn(bank, noise), noise), how)
        network.finish(bank.spread)

    keep(name, network, train)
    network.requires_grad_(False)
    return network


def _drawn(bank: _Bank, noise: Noise) -> Trajectory:
    return bank.windows(noise.integers("window", 0, len(bank.starts)))


def _kept(place: Path, network: nn.Module, description: dict[str, Any], train: Callable[[], None]) -> float:
    """Load a finished network, or train and keep it; returns the seconds of training.

    Raises:
        ValueError: What is there belongs to another run.
    """
    path = place.with_name(f"{place.name}.safetensors")
    wanted = json.loads(json.dumps(description))
    if path.exists():
        tensors, found = load_tensors(path)
        if found != wanted:
            raise ValueError(f"{path} belongs to another run. Use another folder, or delete it to train anew.")
        network.load_state_dict(tensors)
    else:
        train()
        save_tensors(path, network.state_dict(), wanted)
        Store(place).clear()
    reports = [entry["seconds"] for entry in read_log(place) if "seconds" in entry]
    return float(reports[-1]) if reports else 0.0


def _weighted(network: Lpips | None, weight: float) -> "PerceptualDistance | None":
    if network is None or not weight:
        return None
    return lambda one, other: weight * network(one, other)
