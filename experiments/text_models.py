"""Clip models that read, and what they are told in training: one caption of a whole clip, or captions of moments.

Models of one experiment are kept like those of `flowvid.train.run`: what exists and matches is loaded, what is half
done is continued, and what belongs to another run is refused.
"""

__all__ = ["Reading", "Setting", "Texts", "moments", "seeded", "told_moments", "train_reader"]

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from flowvid.data.worlds.branching import BranchingWorld
from flowvid.data.worlds.clips import Clip, World
from flowvid.data.worlds.describe import timed_captions
from flowvid.models.clip_generator import ClipGenerator
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.loop import Optimisation, fit
from flowvid.train.plan import Run
from flowvid.train.store import Store
from flowvid.video import Text, Times, Trajectory, as_text, time_grid

KINDS: dict[str, dict[str, Any]] = {
    "flow": {"predicts": "velocity", "schedule": "linear"},
    "diffusion": {"predicts": "v", "schedule": "angle-uniform"},
}
"""Models by name; they differ in these two words alone."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Clips and models of one part of the experiment.

    Arguments:
        world: What the clips are.
        run: The codec's run; its world, training clips and seconds between frames.
        frames: Frames of a clip, which is one window of a model; the first is at 0 s.
        width: Features of a token; each is what a frame has in a square of latents.
        side: Side of that square.
        depth: Blocks.
        model: Optimisation of every model; its seed is replaced by each of the seeds.
    """

    world: World | BranchingWorld
    run: Run
    frames: int
    width: int
    side: int = 4
    depth: int = 4
    model: Optimisation

    @property
    def times(self) -> Times:
        """Seconds of the frames."""
        return time_grid(0.0, (self.frames - 1) * self.run.frame, self.run.frame)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is measured about words.

    Arguments:
        name: Name of the folder, in ``out``, where weights and films are kept.
        said: Clips with one caption each.
        told: Clips of a branching world with captions of moments; its codec is that of ``said``.
        seeds: Seeds of the models.
        guidance: Scales of guidance, among them 0, 1, 2 and 4.
        counts: Numbers of moments that are told, among them 0, 1, 2 and 4.
        clips: Held-out clips with one caption.
        branches: Held-out clips of the branching world, each with more than one future.
        samples: Samples of each of those.
        versions: Draws of moments for every training clip.
        steps: Evaluations of the network without guidance.
    """

    name: str
    said: Setting
    told: Setting
    seeds: tuple[int, ...] = (0,)
    guidance: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    counts: tuple[int, ...] = (0, 1, 2, 4)
    clips: int = 64
    branches: int = 32
    samples: int = 8
    versions: int = 4
    steps: int = 20


@dataclass(frozen=True, eq=False)
class Reading:
    """A trained model and the seconds of its training."""

    model: ClipGenerator
    seconds: float


def train_reader(
    kind: str,
    setting: Setting,
    bank: Callable[[], Trajectory],
    text: Callable[[], Sequence[Text]],
    path: Path,
    *,
    device: str = "cpu",
) -> Reading:
    """A model that reads: loaded when it is there, continued when it is half done, trained otherwise.

    Arguments:
        kind: One of `KINDS`.
        setting: Clips, sizes and optimisation.
        bank: Latents of the training clips, asked only when training is needed.
        text: What is said of them, in one or more versions, of which every sample of a step draws one.
        path: The file.
        device: Where to train.

    Raises:
        ValueError: The file belongs to another run; or see `fit`.
    """
    run = {"kind": kind, **asdict(setting)}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(setting.model.seed)
        model = ClipGenerator(
            setting.run.channels,
            frame=setting.run.frame,
            frames=setting.frames,
            tubelet=(1, setting.side, setting.side),
            width=setting.width,
            depth=setting.depth,
            starts=True,
            **KINDS[kind],
        ).to(device)
    if path.exists():
        tensors, about = load_tensors(path, device=device)
        if about["run"] != _plain(run):
            raise ValueError(f"{path} belongs to another run. Use another folder, or delete it to train anew.")
        model.load_state_dict(tensors)
        return Reading(model.requires_grad_(False), about["seconds"])
    data, encoder = bank(), model.text_encoder
    assert encoder is not None
    model.prepare(data)
    versions = text()
    tokens = encoder.tokens(tuple(said for version in versions for said in version)).to(device)

    def objective(noise: Noise) -> torch.Tensor:
        chosen = noise.integers("clip", 0, len(data), device=device)
        version = noise.integers("version", 0, len(versions), device=device)
        clips = Trajectory(data.states[chosen], data.times)
        return model.loss(clips, noise, text=tokens.rows(version * len(data) + chosen))

    seconds = fit(model, objective, setting.model, folder=path.with_suffix(""), run=_plain(run))
    save_tensors(path, model.state_dict(), {"run": _plain(run), "seconds": seconds})
    Store(path.with_suffix("")).clear()
    return Reading(model.requires_grad_(False), seconds)


def moments(count: int, span: tuple[float, float]) -> list[float]:
    """Evenly spaced moments of a span, each in the middle of its share."""
    start, stop = span
    return [start + (stop - start) * (number + 0.5) / count for number in range(count)]


def told_moments(clips: Sequence[Clip], span: tuple[float, float], most: int, *, seed: int) -> Text:
    """Of every clip captions of 0 to ``most`` random moments of a span, each number equally often.

    Arguments:
        clips: The clips.
        span: First and last second that is spoken of.
        most: Most captions of a clip.
        seed: Seed of the moments.
    """
    noise = Noise.batch(seed, len(clips)).fold("moments")
    counts = noise.integers("count", 0, most + 1).tolist()
    draws = noise.uniform("time", most, dtype=torch.float64).tolist()
    start, stop = span
    told = []
    for clip, count, draw in zip(clips, counts, draws, strict=True):
        times = sorted(start + (stop - start) * part for part in draw[:count])
        told.append(timed_captions(clip, times) if times else None)
    return as_text(told)


def seeded(setting: Setting, seed: int) -> Setting:
    """The setting with another seed of its model."""
    return dataclasses.replace(setting, model=dataclasses.replace(setting.model, seed=seed))


def _plain(run: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(run))
