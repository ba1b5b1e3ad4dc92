"""The end first and the way after it, against whole clips at equal time and at equal evaluations."""

__all__ = ["COLOURS", "Endpoint", "Place", "Trained", "Way", "asked", "ours", "rivals", "sampled", "train"]

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.encoders.codec import Codec
from flowvid.models.anchors_first import AnchorsFirst
from flowvid.models.video_model import LearnedModel, VideoModel
from flowvid.noise import Noise
from flowvid.train.plan import Run
from flowvid.train.run import latents, train_codec, train_model
from flowvid.video import Condition, Text, Trajectory, as_text

_KINDS = ("frame-flow", "clip-flow", "clip-diffusion", "ddim", "multiscale-fill", "bisection")
_CLOCKED = 8
_RIVALS = {"clip diffusion, trunk": "ddim", "clip diffusion": "clip-diffusion", "clip flow": "clip-flow"}
_LONG = 50
_PROBED = (2, 6)

COLOURS = {
    "frame flow, multi-scale": "vermilion",
    "frame flow, bisection": "green",
    "frame flow, pair, multi-scale": "purple",
    "clip flow, multi-scale": "orange",
    "true end, multi-scale": "black",
} | {name: colour for name, colour in zip(_RIVALS, ("blue", "sky", "grey"), strict=True)}
"""Colours of the methods, of rivals by their name without their budget."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A world, with what is trained on it.

    Arguments:
        run: The run; the seed of its models is replaced by each seed.
        steps: Steps of training of the models that differ from the run's, by name.
    """

    run: Run
    steps: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What is measured about the end first.

    Arguments:
        name: Name of the folder, in ``out``, where weights and films are kept, a folder for each world.
        places: The worlds, by name.
        seeds: Seeds of the models.
        clips: Held-out clips.
        samples: Samples of each clip.
    """

    name: str
    places: dict[str, Place]
    seeds: tuple[int, ...] = (0, 1, 2)
    clips: int = 32
    samples: int = 8


@dataclass(frozen=True, eq=False)
class Trained:
    """Everything that was trained in one world.

    Arguments:
        codec: The codec.
        models: Learned models, by seed and name.
        seconds: Seconds of training, by name, mean over seeds.
    """

    codec: Codec
    models: dict[int, dict[str, LearnedModel]]
    seconds: dict[str, float]


def train(place: Place, seeds: Sequence[int], folder: Path) -> Trained:
    """Train, or load, the codec and every model with every seed; nothing is said of the clips.

    Arguments:
        place: What to train on.
        seeds: Seeds of the models.
        folder: Where weights are kept.
    """
    setup, device = place.run, "cuda" if torch.cuda.is_available() else "cpu"
    codec = train_codec(setup, folder, device=device)

    @cache
    def bank(split: str) -> Trajectory:
        count = setup.clips if split == "train" else setup.validation_clips
        return latents(setup, codec.network, split, setup.times, clips=count, device=device)

    def silence(split: str) -> Text:
        return as_text([None] * len(bank(split)))

    models: dict[int, dict[str, LearnedModel]] = {}
    seconds = dict.fromkeys(_KINDS, 0.0)
    for seed in seeds:
        models[seed] = {}
        for kind in _KINDS:
            steps = place.steps.get(kind, setup.model.steps)
            seeded = dataclasses.replace(setup, model=dataclasses.replace(setup.model, seed=seed, steps=steps))
            found = train_model(kind, seeded, bank, folder, text=silence, device=device)
            models[seed][kind] = found.network
            seconds[kind] += found.seconds / len(seeds)
    return Trained(codec.network, models, {"codec": codec.seconds} | seconds)


def asked(run: Run, *, shift: float = 0.0) -> list[float]:
    """The times of the frames that are sampled: the grid, or each but the last so many frames later.

    Arguments:
        run: The run.
        shift: Frames, less than one.
    """
    return [(number + shift) * run.frame for number in range(0 if shift else 1, run.reach)] + [run.horizon]


@dataclass(frozen=True)
class Way:
    """A way to sample.

    Arguments:
        model: The model.
        solver: How it is sampled.
        ended: Whether it is told the last frame.
    """

    model: VideoModel
    solver: str | None
    ended: bool = False


def ours(run: Run, models: dict[str, LearnedModel]) -> dict[str, Way]:
    """The end first, by every filling and every end; and the true end, which shows what filling in loses by itself."""
    flow, whole, fill = (models[name] for name in ("frame-flow", "clip-flow", "multiscale-fill"))
    return {
        "frame flow, multi-scale": Way(AnchorsFirst(flow, fill), "midpoint-5/two-sided"),
        "frame flow, bisection": Way(AnchorsFirst(flow, models["bisection"]), "midpoint-5/"),
        "frame flow, pair, multi-scale": Way(AnchorsFirst(flow, fill, pair=run.frame), "midpoint-5/two-sided"),
        "clip flow, multi-scale": Way(AnchorsFirst(whole, fill), "midpoint-5/two-sided"),
        "true end, multi-scale": Way(fill, "two-sided", ended=True),
    }


def rivals(run: Run, models: dict[str, LearnedModel], truth: Trajectory, budget: dict[str, float]) -> dict[str, Way]:
    """Whole clips by DDIM, which is Euler's method for clip flow, with steps that cost what a budget holds.

    Milliseconds of a call are fitted by a line through two numbers of steps, and those that the budget buys rounded.

    Arguments:
        run: The run.
        models: The models of a seed.
        truth: True latents, to measure time on.
        budget: Milliseconds and evaluations of a clip.
    """
    found = {}
    for name, kind in _RIVALS.items():
        few, many = (
            sampled(run, Way(models[kind], f"ddim-{steps}"), truth, samples=1, clock_only=True)[1]["milliseconds"]
            for steps in _PROBED
        )
        each = max((many - few) / (_PROBED[1] - _PROBED[0]), 1e-6)
        bought = round((budget["milliseconds"] - (few - _PROBED[0] * each)) / each)
        found[f"{name}, equal time"] = Way(models[kind], f"ddim-{max(1, bought)}")
        found[f"{name}, equal NFE"] = Way(models[kind], f"ddim-{max(1, round(budget['evaluations']))}")
    found[f"clip diffusion, trunk, {_LONG} steps"] = Way(models["ddim"], f"ddim-{_LONG}")
    return found


@torch.no_grad()
def sampled(
    run: Run, way: Way, truth: Trajectory, *, samples: int, shift: float = 0.0, clock_only: bool = False
) -> tuple[Float[Tensor, "clip sample time channel height width"], dict[str, float]]:
    """All samples of all clips, and what they cost: milliseconds of a clip, evaluations, and depth.

    Arguments:
        run: The run.
        way: How.
        truth: True latents: the first two frames are known, and where the way says so the last.
        samples: Samples of each clip.
        shift: See `asked`.
        clock_only: Whether only a few clips are sampled, for their cost.
    """
    known = truth.at(-run.frame, 0.0, *([run.horizon] if way.ended else []))
    times = asked(run, shift=shift)

    def sample(states: Tensor, label: str) -> tuple[Tensor, dict[str, float]]:
        solution = way.model.sample(
            Condition(Trajectory(states, known.times)),
            times,
            Noise.batch(0, len(states)).fold(label),
            solver=way.solver,
        ).require()
        cost = {"evaluations": float(solution.evaluations), "depth": float(solution.depth)}
        return solution.trajectory.states, cost

    few = known.states[:_CLOCKED]
    found, cost = sample(few, "samples")
    if not shift:
        clocked = min(_timed(lambda: sample(few, "samples"), few) for _ in range(2))
        cost["milliseconds"] = 1e3 * clocked / len(few)
    if not clock_only:
        found, _ = sample(known.states.repeat_interleave(samples, dim=0), "samples")
    return found.unflatten(0, (-1, samples)).cpu(), cost


def _timed(call: Callable[[], object], like: Tensor) -> float:
    """Seconds of a call; a GPU is waited for."""

    def settle() -> None:
        if like.is_cuda:
            torch.cuda.synchronize()

    settle()
    begun = time.perf_counter()
    call()
    settle()
    return time.perf_counter() - begun
