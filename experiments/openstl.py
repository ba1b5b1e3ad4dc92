r"""OpenSTL's Moving MNIST, ten frames from ten: what a network of few parameters reaches in a fixed time of training.

python -m experiments.openstl --scale cpu [--data FOLDER]

The clips are the legacy ones that most tables use, drawn anew for every step from the training digits; FOLDER holds
mnist/. Without it scikit-learn's digits are drawn instead, and numbers compare with no table. Every model trains for
the same minutes by the clock: before its first step it is timed, and the number of steps is fixed and kept, so that a
run that was interrupted continues as the same run.

Scores are OpenSTL's: squared and absolute errors summed over the pixels of a frame, before predictions are clipped to
[0, 1]; SSIM and PSNR after. SSIM is that of the scikit-image its tables were made with: uniform 7 x 7 windows with
sample covariances, and for floating-point frames a range of 2, though they lie in [0, 1].

References:
    OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning (Tan et al., 2023), arXiv:2306.11249
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), arXiv:1502.04681
"""

__all__ = ["OpenStl", "draw", "main", "measure", "openstl_scores", "recipe", "uniform_ssim"]

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from torch import Tensor

from experiments.claims import Interval, claim
from experiments.recipes import SCALES
from experiments.run import run_experiment
from flowvid.data.files import write_json
from flowvid.data.worlds.digits import Glyphs
from flowvid.data.worlds.mnist import mnist_like_glyphs
from flowvid.data.worlds.protocols import OpenStlMovingMnist, Prediction
from flowvid.models.baselines import CopyLast
from flowvid.models.clip_regression import ClipRegression
from flowvid.models.recurrent import RecurrentComposite
from flowvid.models.video_model import LearnedModel, VideoModel
from flowvid.networks.trunk import count_parameters
from flowvid.noise import Noise
from flowvid.plot.lines import Line, draw_lines, draw_panels
from flowvid.train.log import read_log
from flowvid.train.loop import Execution, Optimisation, fit
from flowvid.video import Condition, Trajectory

_FRAME = 0.1
_MOST = 10_000_000
_CHUNK = 32
_DRAWN = {"copy-last": "grey", "LSTM composite": "orange", "direct": "vermilion"}
_WINDOW, _RANGE = 7, 2.0
_TIMED = 10


@dataclass(frozen=True, kw_only=True)
class OpenStl:
    """What is trained and measured.

    Arguments:
        name: Name of the folder, in ``out``, where weights are kept.
        minutes: By the clock, for each model.
        most_steps: No model takes more steps, however fast it is.
        test_clips: Of the 10 000, the first so many.
        width: Width of the direct network.
        depth: Blocks of the direct network at half resolution.
        memory: What a cell of the LSTM composite remembers.
        training: How each is trained; its steps are replaced by what fits in the minutes.
        precision: See `Execution`.
        device: Where.
        target: The squared error that the direct network shall be below.
    """

    name: str
    minutes: float
    most_steps: int = 10_000_000
    test_clips: int = 10_000
    width: int = 64
    depth: int = 3
    memory: int = 48
    training: Optimisation
    precision: str = "no"
    device: str = "cpu"
    target: float


def recipe(scale: str) -> OpenStl:
    """The run at a scale: quick takes seconds, cpu 20 minutes a model on one core, gpu 25 minutes a model on one GPU.

    Raises:
        ValueError: The scale is unknown.
    """
    match scale:
        case "quick":
            short = Optimisation(steps=1, batch=4, warmup=2, average=0.8)
            return OpenStl(
                name="openstl-quick",
                minutes=0.05,
                most_steps=6,
                test_clips=16,
                width=16,
                depth=1,
                memory=8,
                training=short,
                target=400.0,
            )
        case "cpu":
            return OpenStl(
                name="openstl-cpu",
                minutes=20.0,
                test_clips=1000,
                training=Optimisation(steps=1, batch=16, learning_rate=2e-3),
                target=110.0,
            )
        case "gpu":
            return OpenStl(
                name="openstl-gpu",
                minutes=25.0,
                width=128,
                depth=6,
                memory=128,
                training=Optimisation(steps=1, batch=256, learning_rate=2e-3, warmup=500, average=0.999),
                precision="bf16",
                device="cuda",
                target=30.0,
            )
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


def measure(run: OpenStl, data: Path | None, *, work: Path | None = None) -> dict[str, Any]:
    """Scores of every model, how it learned, and claims.

    Arguments:
        run: What to train and measure.
        data: The folder that holds mnist/, if there is one.
        work: Where weights are kept; default: a folder in ``out``, by the run's name.
    """
    protocol, source = _protocol(run, data)
    folder = work or Path("out") / run.name
    rows: dict[str, dict[str, Any]] = {"copy-last": {"parameters": 0, **_tested(run, CopyLast(), protocol)}}
    for name, build in (("LSTM composite", _composite), ("direct", _direct)):
        network, training = _trained(run, name, build, protocol, folder / name.replace(" ", "-"), source)
        rows[name] = {"parameters": count_parameters(network), **training, **_tested(run, network, protocol)}
    return {"source": source, "methods": rows, "claims": _claims(run, rows)}


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw openstl.png with a PDF of each panel: the error by frame, and the loss by minute.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {"error": partial(_by_frame, content), "loss": partial(_by_minute, content)}
    draw_panels(folder, "openstl", panels)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("openstl", about, recipe=recipe, measure=measure, draw=draw, real=True)


def openstl_scores(
    predicted: Float[Tensor, "batch time 1 height width"], truth: Float[Tensor, "batch time 1 height width"]
) -> dict[str, Float64[Tensor, "batch time"]]:
    """MSE, MAE, SSIM and PSNR of every frame, as OpenSTL counts them.

    Arguments:
        predicted: Frames around [-1, 1], not clipped.
        truth: Frames in [-1, 1].
    """
    ink, true = (predicted.double() + 1) / 2, (truth.double() + 1) / 2
    off, clipped = ink - true, ink.clamp(0, 1)
    mean = (clipped - true).square().mean(dim=(2, 3, 4))
    return {
        "mse": off.square().sum(dim=(2, 3, 4)),
        "mae": off.abs().sum(dim=(2, 3, 4)),
        "ssim": uniform_ssim(clipped, true),
        "psnr": -10 * mean.clamp(min=1e-10).log10(),
    }


def uniform_ssim(
    one: Float64[Tensor, "batch time 1 height width"], other: Float64[Tensor, "batch time 1 height width"]
) -> Float64[Tensor, "batch time"]:
    """Structural similarity in uniform 7 x 7 windows with sample covariances and a range of 2, per frame."""
    x, y = one.flatten(0, 1), other.flatten(0, 1)
    count = _WINDOW**2

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, _WINDOW, stride=1)

    def covariance(a: Tensor, b: Tensor) -> Tensor:
        return (mean(a * b) - mean(a) * mean(b)) * count / (count - 1)

    first, second = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
    light = (2 * mean(x) * mean(y) + first) / (mean(x).square() + mean(y).square() + first)
    shape = (2 * covariance(x, y) + second) / (covariance(x, x) + covariance(y, y) + second)
    return (light * shape).mean(dim=(1, 2, 3)).unflatten(0, one.shape[:2])


def _protocol(run: OpenStl, data: Path | None) -> tuple[OpenStlMovingMnist, str]:
    """The protocol with its training digits where the networks are, and where clips come from."""
    if data is None:
        found = OpenStlMovingMnist(mnist_like_glyphs("train"), mnist_like_glyphs("test"))
        source = "scikit-learn's digits, not MNIST"
    else:
        found = OpenStlMovingMnist.load(data / "mnist")
        source = found.source
    train = found.train_glyphs
    return dataclasses.replace(found, train_glyphs=Glyphs(train.images.to(run.device), train.labels)), source


def _direct(run: OpenStl) -> LearnedModel:
    return ClipRegression(1, frame=_FRAME, fold=4, width=run.width, depth=run.depth)


def _composite(run: OpenStl) -> LearnedModel:
    return RecurrentComposite(1, frame=_FRAME, patch=4, kernel=3, width=run.memory, prediction="unconditional")


def _trained(
    run: OpenStl,
    name: str,
    build: Callable[[OpenStl], LearnedModel],
    protocol: OpenStlMovingMnist,
    folder: Path,
    source: str,
) -> tuple[LearnedModel, dict[str, Any]]:
    network = _seeded(run, build)
    options = dataclasses.replace(run.training, steps=_steps(run, build, protocol, folder))

    def objective(noise: Noise) -> Tensor:
        return _loss(network, protocol, noise)

    decisive = {"model": name, "source": source, "width": run.width, "depth": run.depth, "memory": run.memory}
    seconds = fit(
        network, objective, options, folder=folder, run=decisive, execution=Execution(precision=run.precision)
    )
    curve = [(entry["seconds"] / 60, entry["loss"]) for entry in read_log(folder) if "loss" in entry]
    return network.requires_grad_(False).eval(), {
        "steps": options.steps,
        "seconds": round(seconds, 1),
        "curve": [[round(minute, 2), loss] for minute, loss in curve[:: max(1, len(curve) // 100)]],
    }


def _seeded(run: OpenStl, build: Callable[[OpenStl], LearnedModel]) -> LearnedModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.training.seed)
        return build(run).to(run.device)


def _loss(network: LearnedModel, protocol: OpenStlMovingMnist, noise: Noise) -> Tensor:
    clips = protocol.training(noise.fold("clip").seeds)
    states = torch.cat((clips.known.frames, clips.target.frames), dim=1)
    return network.loss(Trajectory(states, torch.cat((clips.known.times, clips.target.times))), noise)


def _steps(run: OpenStl, build: Callable[[OpenStl], LearnedModel], protocol: OpenStlMovingMnist, folder: Path) -> int:
    """Steps that fit in the minutes: timed once, on a network of its own, and kept."""
    path = folder / "steps.json"
    if path.exists():
        return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
    network, options = _seeded(run, build), dataclasses.replace(run.training, steps=_TIMED)
    execution = Execution(precision=run.precision)

    def objective(noise: Noise) -> Tensor:
        return _loss(network, protocol, noise)

    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        fit(network, objective, options, execution=execution)
        seconds.append(time.monotonic() - begun)
    steps = min(run.most_steps, max(1, int(run.minutes * 60 / (seconds[-1] / _TIMED))))
    write_json(path, {"steps": steps, "seconds_a_step": seconds[-1] / _TIMED})
    return steps


@torch.no_grad()
def _tested(run: OpenStl, model: VideoModel, protocol: OpenStlMovingMnist) -> dict[str, Any]:
    """Means over clips and frames, and the squared error by frame."""
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, run.test_clips, _CHUNK):
        clips: Prediction = protocol.testing(range(first, min(first + _CHUNK, run.test_clips)))
        known = Trajectory(clips.known.frames.to(run.device), clips.known.times)
        solution = model.sample(Condition(known), clips.target.times.tolist(), Noise.batch(0, len(known)))
        for key, values in openstl_scores(solution.trajectory.states.cpu(), clips.target.frames).items():
            parts.setdefault(key, []).append(values)
    scores = {key: torch.cat(values) for key, values in parts.items()}
    numbers: dict[str, Any] = {key: float(values.mean()) for key, values in scores.items()}
    error = float(scores["mse"].mean(dim=1).std() / len(scores["mse"]) ** 0.5)
    return {**numbers, "mse_error": error, "mse_by_frame": scores["mse"].mean(dim=0).tolist()}


def _claims(run: OpenStl, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was aimed at before the run; intervals are over test clips, of one training."""

    def around(name: str) -> Interval:
        mean, reach = rows[name]["mse"], 1.96 * rows[name]["mse_error"]
        return Interval(mean, mean - reach, mean + reach)

    size = float(rows["direct"]["parameters"])
    return [
        claim("O1", "direct: squared error of a frame", around("direct"), most=run.target),
        claim("O2", "direct: parameters", Interval(size, size, size), most=float(_MOST)),
        claim(
            "O3", "LSTM composite: squared error of a frame", around("LSTM composite"), most=rows["copy-last"]["mse"]
        ),
    ]


def _by_frame(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = [
        Line(x=list(range(1, 11)), y=content["methods"][name]["mse_by_frame"], colour=colour, name=name)
        for name, colour in _DRAWN.items()
    ]
    draw_lines(axis, lines, title="Moving MNIST", xlabel="predicted frame", ylabel="squared error of a frame")
    return lines


def _by_minute(content: dict[str, Any], axis: Axes) -> list[Line]:
    lines = []
    for name, colour in _DRAWN.items():
        curve = content["methods"][name].get("curve", [])
        if curve:
            minutes, losses = zip(*curve, strict=True)
            lines.append(Line(x=minutes, y=losses, colour=colour, name=name))
    draw_lines(axis, lines, title="training", xlabel="minutes", ylabel="loss", log="y")
    return lines


if __name__ == "__main__":
    main()
