"""Motion in the latent space of a frozen image generator, against the same networks trained end to end on pixels.

python -m experiments.image_motion --scale cpu

A variational autoencoder of single frames gives a vector for each frame of a flying digit. Frozen: it is trained on
single frames, then an LSTM on its vectors. Joint: both networks, with the same initial weights, learn at once to
predict pixels, in as many steps as the two stages take together. Predictions are free running, for all frames after
the known ones. A third row trains the motion alone, on the vectors of a generator that was never trained.
"""

__all__ = ["ImageMotion", "draw", "main", "measure", "recipe"]

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from matplotlib.axes import Axes
from torch import Tensor, nn

from experiments.claims import claim
from experiments.recipes import SCALES
from experiments.run import run_experiment
from flowvid.data.worlds.clips import World, clip_positions, render_clips
from flowvid.encoders.vector_vae import VectorVae
from flowvid.metrics.distortion import psnr
from flowvid.metrics.motion import position_error
from flowvid.models.baselines import CopyLast
from flowvid.models.image_motion import joint_loss
from flowvid.models.recurrent import RecurrentComposite
from flowvid.noise import Noise
from flowvid.plot.lines import Line, draw_lines, draw_panels
from flowvid.train.loop import Optimisation, fit
from flowvid.video import Condition, Trajectory, Video, time_grid

_DRAWN = {"copy-last": "grey", "untrained": "orange", "joint": "green", "frozen": "vermilion", "generator": "blue"}
_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class ImageMotion:
    """What is trained and measured.

    Arguments:
        world: What the clips are.
        seeds: Of weights and batches.
        clips: Training clips.
        test_clips: Test clips.
        frame: Seconds between frames.
        given: Known frames.
        ahead: Frames to predict.
        channels: Length of a vector.
        width: What the LSTM remembers.
        codec: Optimisation of the image generator, whose batch counts frames.
        motion: Optimisation of the motion.
        joint_batch: Clips in a step of joint training.
    """

    world: World = dataclasses.field(default_factory=lambda: World(canvas=16, scale=1, speed=(2.0, 4.5)))
    seeds: tuple[int, ...] = (0, 1, 2)
    clips: int = 4096
    test_clips: int = 256
    frame: float = 0.25
    given: int = 5
    ahead: int = 5
    channels: int = 16
    width: int = 128
    codec: Optimisation
    motion: Optimisation
    joint_batch: int = 16


def recipe(scale: str) -> ImageMotion:
    """The run at a scale: quick takes seconds, cpu some five minutes on one core, gpu an hour on one core.

    Raises:
        ValueError: The scale is unknown.
    """
    match scale:
        case "quick":
            short = Optimisation(steps=20, batch=32, warmup=5, average=0.8)
            return ImageMotion(seeds=(0, 1), clips=64, test_clips=16, codec=short, motion=short)
        case "cpu":
            return ImageMotion(codec=Optimisation(steps=1000), motion=Optimisation(steps=1000))
        case "gpu":
            return ImageMotion(
                world=World(),
                seeds=(0, 1, 2, 3, 4),
                clips=32768,
                test_clips=1024,
                channels=24,
                width=256,
                codec=Optimisation(steps=6000),
                motion=Optimisation(steps=6000),
            )
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


def measure(run: ImageMotion) -> dict[str, Any]:
    """Errors of every method and seed, and claims."""
    times = time_grid(0.0, (run.given + run.ahead - 1) * run.frame, run.frame)
    train = render_clips(run.world.clips(range(run.clips), "train"), times)
    clips = run.world.clips(range(run.test_clips), "test")
    truth, places = render_clips(clips, times), clip_positions(clips, times)[:, :, 0]
    rows: dict[str, dict[str, list[Any]]] = {}
    for seed in run.seeds:
        for name, (answer, seconds) in _answers(run, seed, train, truth).items():
            first = -answer.frames.shape[1]
            error = position_error(answer, places[:, first:])
            target = Video(truth.frames[:, first:], truth.times[first:])
            quality = psnr(answer, target).double()
            numbers = {
                "position_error": float(error.mean()),
                "position_error_by_frame": error.mean(dim=0).tolist(),
                "psnr": float(quality.mean()),
                "psnr_by_frame": quality.mean(dim=0).tolist(),
                "seconds": round(seconds, 1),
            }
            for key, value in numbers.items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    return {"methods": rows, "claims": _claims(rows)}


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw image_motion.png with a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {
        "position": partial(_by_frame, content, "position_error", "position error in pixels"),
        "psnr": partial(_by_frame, content, "psnr", "PSNR in dB"),
    }
    draw_panels(folder, "image_motion", panels)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("image_motion", about, recipe=recipe, measure=measure, draw=draw)


def _answers(run: ImageMotion, seed: int, train: Video, truth: Video) -> dict[str, tuple[Video, float]]:
    """The predicted frames of every method with the seconds that training took; of the generator all, decoded."""
    known = Trajectory(truth.frames[:, : run.given], truth.times[: run.given])
    later = truth.times[run.given :].tolist()
    copied = CopyLast().sample(Condition(known), later, Noise.batch(0, len(truth))).trajectory
    found = {"copy-last": (Video(copied.states, copied.times), 0.0)}
    generators = {"untrained": _networks(run, seed)[0]}
    generators["frozen"], spent = _trained_generator(run, seed, train)
    found["generator"] = (_decoded(generators["frozen"], generators["frozen"].encode(truth)), spent)
    for name, codec in generators.items():
        motion, seconds = _trained_motion(run, seed, codec, train)
        found[name] = (_predicted(codec, motion, known, later), seconds + (spent if name == "frozen" else 0.0))
    codec, motion, seconds = _trained_jointly(run, seed, train)
    found["joint"] = (_predicted(codec, motion, known, later), seconds)
    return found


def _networks(run: ImageMotion, seed: int) -> tuple[VectorVae, RecurrentComposite]:
    """Untrained networks, the same for every method; the generator's units are those of its training frames later."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        codec = VectorVae(run.world.canvas, channels=run.channels)
        shape = {"given": run.given, "ahead": run.ahead, "width": run.width, "frame": run.frame}
        kinds = {"reconstruction": "off", "prediction": "unconditional"}
        return codec, RecurrentComposite(run.channels, patch=1, **shape, **kinds)


def _trained_generator(run: ImageMotion, seed: int, train: Video) -> tuple[VectorVae, float]:
    codec, frames = _networks(run, seed)[0], train.frames.flatten(0, 1)

    def loss(noise: Noise) -> Tensor:
        return codec.loss(frames[noise.integers("frame", 0, len(frames))], noise)

    seconds = fit(codec, loss, dataclasses.replace(run.codec, seed=seed))
    return codec, seconds


def _trained_motion(run: ImageMotion, seed: int, codec: VectorVae, train: Video) -> tuple[RecurrentComposite, float]:
    """The motion alone, in the latent space of a frozen generator."""
    codec.requires_grad_(False).normalise(train.frames.flatten(0, 1)[::_EVERY])
    motion, latents = _networks(run, seed)[1], codec.encode(train)

    def loss(noise: Noise) -> Tensor:
        return motion.loss(Trajectory(latents.states[noise.integers("clip", 0, len(latents))], latents.times), noise)

    motion.prepare(latents)
    return motion, fit(motion, loss, dataclasses.replace(run.motion, seed=seed))


def _trained_jointly(run: ImageMotion, seed: int, train: Video) -> tuple[VectorVae, RecurrentComposite, float]:
    codec, motion = _networks(run, seed)

    def loss(noise: Noise) -> Tensor:
        return joint_loss(codec, motion, Video(train.frames[noise.integers("clip", 0, len(train))], train.times))

    steps = run.codec.steps + run.motion.steps
    options = dataclasses.replace(run.motion, steps=steps, batch=run.joint_batch, seed=seed)
    seconds = fit(nn.ModuleList((codec, motion)), loss, options)
    return codec, motion, seconds


@torch.no_grad()
def _predicted(codec: VectorVae, motion: RecurrentComposite, known: Trajectory, later: list[float]) -> Video:
    latents = codec.encode(Video(known.states, known.times))
    solution = motion.sample(Condition(latents), later, Noise.batch(0, len(latents)))
    return _decoded(codec, solution.trajectory)


@torch.no_grad()
def _decoded(codec: VectorVae, latents: Trajectory) -> Video:
    return codec.decode(latents)


def _claims(rows: dict[str, dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """What was expected before the run, over seeds."""

    def less(key: str, one: str, other: str) -> list[float]:
        return [a - b for a, b in zip(rows[one][key], rows[other][key], strict=True)]

    where = "position_error"
    return [
        claim("M1", "frozen less copy-last, position in pixels", less(where, "frozen", "copy-last"), most=0.0),
        claim("M2", "frozen less untrained generator, position", less(where, "frozen", "untrained"), most=0.0),
        claim("M3", "frozen less joint, position in pixels", less(where, "frozen", "joint"), most=0.0),
        claim("M4", "frozen less joint, PSNR in dB", less("psnr", "frozen", "joint"), least=0.0),
        claim("M5", "frozen less joint, seconds of training", less("seconds", "frozen", "joint"), most=0.0),
    ]


def _by_frame(content: dict[str, Any], key: str, unit: str, axis: Axes) -> list[Line]:
    given = content["recipe"]["given"]
    lines = []
    for name, colour in _DRAWN.items():
        values: Float64[Tensor, "seed frame"]
        values = torch.tensor(content["methods"][name][f"{key}_by_frame"], dtype=torch.float64)
        mean = values.mean(dim=0).tolist()[-content["recipe"]["ahead"] :]
        lines.append(Line(x=list(range(1, 1 + len(mean))), y=mean, colour=colour, name=name))
    title = f"{given} frames given"
    draw_lines(axis, lines, title=title, xlabel="frames after the last known one", ylabel=unit)
    return lines


if __name__ == "__main__":
    main()
