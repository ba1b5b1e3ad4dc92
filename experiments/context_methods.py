"""Methods that are told more or less of a flight, the law of what one frame leaves open, and how they are trained."""

__all__ = ["CONTEXTS", "METHODS", "Context", "Trained", "asked", "known_times", "mean_future", "predicted", "train"]

import dataclasses
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.data.worlds.clips import Clip, render_clips
from flowvid.data.worlds.motions import Flight
from flowvid.encoders.codec import Codec
from flowvid.models.clip_regression import ClipRegression
from flowvid.models.video_model import LearnedModel
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.loop import fit
from flowvid.train.plan import Run
from flowvid.train.run import latents, train_codec, train_model
from flowvid.train.store import Store
from flowvid.video import Condition, Trajectory

CONTEXTS = ("1 frame", "2 frames", "4 frames", "2 frames, end")
"""What is known, from frame 0 backward, and the last frame. Every model takes p from two frames, so these tell p."""

METHODS = ("regression", "multi-scale", "multi-scale, code", "frame flow", "frame flow, multi-scale")
"""All methods; the last draws one frame, which tells the direction, and lets the multi-scale model go on from there."""

_KINDS = ("direct", "multiscale", "coded", "frame-flow")
_GIVEN = {"1 frame": 1, "2 frames": 2, "4 frames": 4}


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is measured about what is known.

    Arguments:
        name: Name of the folder, in ``out``, where weights and films are kept.
        run: The run, of one digit in flight; the seed of its models is replaced by each of ``seeds``.
        seeds: Seeds of the models.
        clips: Held-out clips.
        samples: Samples of each clip.
        futures: Futures that the law is averaged over.
    """

    name: str
    run: Run
    seeds: tuple[int, ...] = (0, 1, 2)
    clips: int = 64
    samples: int = 8
    futures: int = 128


@dataclass(frozen=True, eq=False)
class Trained:
    """Everything that was trained.

    Arguments:
        codec: The codec.
        models: Learned models, by seed and name; regressions by how many frames they are given.
        seconds: Seconds of training, by name, mean over seeds.
    """

    codec: Codec
    models: dict[int, dict[str, LearnedModel]]
    seconds: dict[str, float]


def train(run: Context, folder: Path) -> Trained:
    """Train, or load, the codec and every model with every seed.

    Arguments:
        run: What to train.
        folder: Where weights are kept.
    """
    setup, device = run.run, "cuda" if torch.cuda.is_available() else "cpu"
    codec = train_codec(setup, folder, device=device)

    @cache
    def bank(split: str) -> Trajectory:
        count = setup.clips if split == "train" else setup.validation_clips
        return latents(setup, codec.network, split, setup.times, clips=count, device=device)

    models: dict[int, dict[str, LearnedModel]] = {}
    seconds: dict[str, float] = {}
    for seed in run.seeds:
        seeded = dataclasses.replace(setup, model=dataclasses.replace(setup.model, seed=seed))
        models[seed] = {}
        for kind in _KINDS:
            saved = train_model(kind, seeded, bank, folder, device=device)
            models[seed][kind] = saved.network
            seconds[kind] = seconds.get(kind, 0.0) + saved.seconds / len(run.seeds)
        for given in _GIVEN.values():
            name = f"regression-{given}"
            models[seed][name], spent = _regression(given, seeded, bank, folder, device)
            seconds[name] = seconds.get(name, 0.0) + spent / len(run.seeds)
    return Trained(codec.network, models, {"codec": codec.seconds} | seconds)


def asked(run: Context) -> list[float]:
    """The times of the frames that are predicted; with a known end the last of them is known."""
    return [number * run.run.frame for number in range(1, run.run.reach + 1)]


def known_times(run: Context, context: str) -> list[float]:
    """The times of what is known."""
    end = [run.run.horizon] if context == "2 frames, end" else []
    count = _GIVEN.get(context, 2)
    return [number * run.run.frame for number in range(1 - count, 1)] + end


@torch.no_grad()
def predicted(
    run: Context, models: dict[str, LearnedModel], method: str, context: str, truth: Trajectory
) -> Float[Tensor, "clip sample time channel height width"] | None:
    """Samples of each clip, of a method that knows one future only a single one; None where it refuses the context.

    Arguments:
        run: What is measured.
        models: The models of a seed.
        method: One of `METHODS`.
        context: One of `CONTEXTS`.
        truth: True latents of the clips.
    """
    known, ended = truth.at(*known_times(run, context)), context == "2 frames, end"
    count = 1 if method in ("regression", "multi-scale") else run.samples
    many = Trajectory(known.states.repeat_interleave(count, dim=0), known.times)
    noise = Noise.batch(0, len(many)).fold(f"{method}, {context}")
    solver = "two-sided" if ended else "jump"
    ask: Callable[..., Tensor]
    match method:
        case "regression":
            ask = partial(_ask, models["direct"] if ended else models[f"regression-{_GIVEN[context]}"])
        case "multi-scale" | "multi-scale, code":
            if len(known.times) == 1:
                return None
            ask = partial(_ask, models["multiscale" if method == "multi-scale" else "coded"], solver=solver)
        case "frame flow":
            if ended:
                return None
            ask = partial(_ask, models["frame-flow"], solver="midpoint-5")
        case _:
            if context != "1 frame":
                return None
            next_ = _ask(models["frame-flow"], many, [run.run.frame], noise, solver="midpoint-5")
            many = Trajectory(torch.cat((many.states, next_), dim=1), torch.tensor([0.0, run.run.frame]).double())
            ask = partial(_ask, models["multiscale"], solver=solver)
    return ask(many, asked(run), noise).unflatten(0, (-1, count)).cpu()


@torch.no_grad()
def mean_future(
    run: Context, codec: Codec, clips: list[Clip], *, device: str = "cpu"
) -> Float[Tensor, "clip time channel height width"]:
    """E[z(t) | frame 0]: the mean latents of flights that leave the same place in any direction at any speed.

    Place, direction and speed of a flight are drawn independently at time 0, so frame 0 tells nothing of the last two.

    Arguments:
        run: What is measured; its world is one of flights.
        codec: The codec.
        clips: Which clips.
        device: Where the codec is.
    """
    low, high = run.run.world.speed  # pyrefly: ignore[missing-attribute]
    means = []
    for clip in clips:
        draw = Noise.of([clip.seed]).uniform("law", run.futures, 2, dtype=torch.float64)[0].tolist()
        flight = clip.motions[0]
        assert isinstance(flight, Flight)
        others = []
        for turn, pace in draw:
            speed, angle = low + (high - low) * pace, 2 * math.pi * turn
            way = (speed * math.cos(angle), speed * math.sin(angle))
            others.append(dataclasses.replace(clip, motions=(dataclasses.replace(flight, initial_velocity=way),)))
        frames = render_clips(others, asked(run)).frames
        found = codec.latents(frames.flatten(0, 1).to(device)).unflatten(0, frames.shape[:2])
        means.append(found.mean(dim=0).cpu())
    return torch.stack(means)


def _ask(
    model: LearnedModel, known: Trajectory, times: list[float], noise: Noise, *, solver: str | None = None
) -> Tensor:
    return model.sample(Condition(known), times, noise, solver=solver).require().trajectory.states


def _regression(
    given: int, run: Run, bank: Callable[[str], Trajectory], folder: Path, device: str
) -> tuple[LearnedModel, float]:
    """A regression on so many frames, loaded when it is there."""
    path = folder / f"regression-{given}-seed{run.model.seed}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.model.seed)
        network = ClipRegression(
            run.channels, frame=run.frame, given=given, ahead=run.reach, width=run.width, depth=2
        ).to(device)
    if path.exists():
        tensors, about = load_tensors(path, device=device)
        if Run.of(about["run"]) != run:
            raise ValueError(f"{path} belongs to another run. Use another folder, or delete it to train anew.")
        network.load_state_dict(tensors)
        return network.requires_grad_(False), about["seconds"]
    data = bank("train")
    network.prepare(data)

    def objective(noise: Noise) -> Tensor:
        chosen = noise.integers("clip", 0, len(data), device=device)
        return network.loss(Trajectory(data.states[chosen], data.times), noise)

    def names(noise: Noise) -> list[str]:
        return [f"clip {index}" for index in noise.integers("clip", 0, len(data)).tolist()]

    seconds = fit(network, objective, run.model, folder=path.with_suffix(""), run=asdict(run), names=names)
    save_tensors(path, network.state_dict(), {"kind": "regression", "run": asdict(run), "seconds": seconds})
    Store(path.with_suffix("")).clear()
    return network.requires_grad_(False), seconds
