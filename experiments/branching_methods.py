"""Methods that say what comes after a coin: which models they are made of, how they are sampled, what that costs."""

__all__ = ["CLOCKED", "METHODS", "Branching", "Method", "Trained", "asked", "sampled", "train"]

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from flowvid.encoders.codec import Codec
from flowvid.models.anchors_first import AnchorsFirst
from flowvid.models.baselines import CopyLast
from flowvid.models.video_model import LearnedModel, VideoModel
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.train.plan import Run
from flowvid.train.run import latents, train_codec, train_model
from flowvid.video import Condition, Text, Trajectory, as_text

CLOCKED = 8
"""Clips that are sampled together when sampling is timed."""


@dataclass(frozen=True, kw_only=True)
class Branching:
    """What is measured about futures that branch.

    Models cost very different times a step. So that none is trained much longer than another, their numbers of steps
    may differ; the multi-scale model has the same with and without a code.

    Arguments:
        name: Name of the folder, in ``out``, where weights and films are kept.
        run: The run; the seed of its models is replaced by each of ``seeds``.
        seeds: Seeds of the models.
        steps: Steps of training, by name of the model; of those not named as the run says.
        left_out: Methods that are not measured.
        clips: Held-out clips.
        judged: Held-out clips whose codes are asked for the coin.
        samples: Samples of each clip.
        radius: Pixels, root mean square over the frames after the coin, within which a sample follows a future.
        apart: Pixels that the two futures of a clip must lie apart, in the same measure, for the clip to count.
    """

    name: str
    run: Run
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    clips: int = 32
    judged: int = 256
    samples: int = 8
    radius: float = 1.5
    apart: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < 2 * self.radius <= self.apart:
            raise ValueError(f"No sample may follow both futures: 2 radius <= apart; got {self.radius}, {self.apart}.")

    @property
    def methods(self) -> "dict[str, Method]":
        """The methods that are measured, by name."""
        return {name: method for name, method in METHODS.items() if name not in self.left_out}


@dataclass(frozen=True)
class Method:
    """A way to say what comes.

    Arguments:
        make: The model, from learned ones by name.
        kinds: Names of the learned models, as in `flowvid.models.rivals.MODELS`.
        solver: How it is sampled.
        colour: In figures.
        decides: Whether its samples differ.
    """

    make: Callable[[dict[str, LearnedModel]], VideoModel]
    kinds: tuple[str, ...]
    solver: str | None
    colour: str
    decides: bool = True


def _one(kind: str, solver: str | None, colour: str, *, decides: bool = True) -> Method:
    return Method(lambda models: models[kind], (kind,), solver, colour, decides)


METHODS: dict[str, Method] = {
    "copy last": Method(lambda models: CopyLast(), (), None, "grey", decides=False),
    "LSTM": _one("lstm", None, "grey", decides=False),
    "multi-scale, no code": _one("multiscale", "jump", "grey", decides=False),
    "multi-scale, code": _one("coded", "jump", "vermilion"),
    "anchors first": Method(
        lambda models: AnchorsFirst(models["frame-flow"], models["multiscale"]),
        ("frame-flow", "multiscale"),
        "midpoint-5/two-sided",
        "orange",
    ),
    "frame flow": _one("frame-flow", "midpoint-5", "blue"),
    "clip flow": _one("clip-flow", "midpoint-5", "sky"),
    "clip diffusion": _one("clip-diffusion", "ddim-20", "green"),
    "clip diffusion, trunk": _one("ddim", "ddim-20", "green"),
    "kinetic SDE": _one("kinetic-sde", None, "purple"),
    "first-order SDE": _one("first-order-sde", None, "purple"),
    "neural SDE": _one("neural-sde", None, "purple"),
}
"""All methods. How each is sampled was fixed before the run."""


@dataclass(frozen=True, eq=False)
class Trained:
    """Everything that was trained.

    Arguments:
        codec: The codec.
        models: Learned models, by seed and name.
        seconds: Seconds of training, by name, mean over seeds.
    """

    codec: Codec
    models: dict[int, dict[str, LearnedModel]]
    seconds: dict[str, float]


def train(run: Branching, folder: Path) -> Trained:
    """Train, or load, the codec and every model with every seed; nothing is said of the clips.

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

    def silence(split: str) -> Text:
        return as_text([None] * len(bank(split)))

    kinds = list(dict.fromkeys(kind for method in run.methods.values() for kind in method.kinds))
    models: dict[int, dict[str, LearnedModel]] = {}
    seconds = dict.fromkeys(kinds, 0.0)
    for seed in run.seeds:
        models[seed] = {}
        for kind in kinds:
            steps = run.steps.get(kind, setup.model.steps)
            seeded = dataclasses.replace(setup, model=dataclasses.replace(setup.model, seed=seed, steps=steps))
            found = train_model(kind, seeded, bank, folder, text=silence, device=device)
            models[seed][kind] = found.network
            seconds[kind] += found.seconds / len(run.seeds)
    return Trained(codec.network, models, {"codec": codec.seconds} | seconds)


def asked(run: Branching) -> list[float]:
    """The times of the frames that are sampled."""
    return [number * run.run.frame for number in range(1, run.run.reach + 1)]


@torch.no_grad()
def sampled(
    run: Branching, method: Method, models: dict[str, LearnedModel], truth: Trajectory
) -> tuple[Solution, dict[str, float]]:
    """All samples of all clips, clip by clip, and what a sample costs.

    Arguments:
        run: What is measured.
        method: The method.
        models: The learned models of a seed.
        truth: True latents of the clips.
    """
    model, times = method.make(models), asked(run)
    known = truth.at(-run.run.frame, 0.0)
    many = Condition(Trajectory(known.states.repeat_interleave(run.samples, dim=0), known.times))
    found = model.sample(many, times, Noise.batch(0, len(truth) * run.samples), solver=method.solver).require()
    few = Condition(Trajectory(known.states[:CLOCKED], known.times))
    begun = time.perf_counter()
    model.sample(few, times, Noise.batch(0, len(known.states[:CLOCKED])), solver=method.solver)
    milliseconds = 1000 * (time.perf_counter() - begun) / len(known.states[:CLOCKED])
    return found, {
        "evaluations": float(found.evaluations),
        "depth": float(found.depth),
        "milliseconds": milliseconds,
    }
