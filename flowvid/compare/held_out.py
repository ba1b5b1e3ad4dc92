"""One trained model against the held-out clips of its dataset: every number there is, beside its floor and its ceiling.

The numbers of the comparison (`flowvid.compare.measure`) stand beside those of the codec, which no model can beat, and
of the copied last frame or the linear blend. Added to them are what takes longer: captions read from the frames, lines
of flicker between frames, seams, features, and many samples of each clip where the model is stochastic.

*Flicker* is looked for on a grid four times as fine as the frames the model was trained on: a line at period 4 is a
pulse at every frame time, at period 8 at every other one. *Captions* are read from the sampled frames by a reader that
knows pixels alone; what it makes of the true frames is its ceiling. *Samples*: a score of one sample, of the mean of N
samples, and of the best of N are three numbers (`flowvid.metrics.distortion`), and the last is comparable at equal N
only.
"""

__all__ = ["PROTOCOLS", "evaluate_model"]

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvid.compare.consistency import seam_levels
from flowvid.compare.measure import Bench, condition, digit_classifier, known_times, measure, sample, task_frames
from flowvid.compare.methods import TASKS, Method
from flowvid.data.worlds.clips import Clip
from flowvid.data.worlds.describe import describe
from flowvid.metrics.distortion import mean_squared_error, over_samples, psnr, ssim
from flowvid.metrics.diversity import best_of, pairwise_distance
from flowvid.metrics.features import extract
from flowvid.metrics.found_weights import Networks
from flowvid.metrics.frechet import GaussianStatistics, frechet_distance
from flowvid.metrics.motion import centroid, position_error
from flowvid.metrics.perceptual import lpips
from flowvid.metrics.reader import DigitReader, caption_score
from flowvid.metrics.rhythm import flicker_line
from flowvid.models.continuous import MultiScale
from flowvid.models.video_model import VideoModel
from flowvid.train.run import load_codec, load_model
from flowvid.video import Trajectory, Video, time_grid

Progress = Callable[[int, int], None]

_FINE = 4
_PERIODS = (4, 8)
_LPIPS_SIDE = 17
PROTOCOLS = ("single", "of_mean", "best")
_SCORES = (("psnr", psnr, True), ("ssim", ssim, True), ("mean_squared_error", mean_squared_error, False))
_PARTS = ("digit", "motion", "direction", "speed", "events", "all")


@dataclass(frozen=True, eq=False)
class _Trial:
    """A model on a bench in a task."""

    bench: Bench
    model: VideoModel
    method: Method
    task: str

    def answer(self, times: Sequence[float], *, number: int = 0) -> Video:
        """Sampled frames; ``number`` chooses the noise."""
        noise = self.bench.noise.fold(number) if number else self.bench.noise
        bench = dataclasses.replace(self.bench, noise=noise)
        return bench.codec.decode(self.latents(times, bench))

    def latents(self, times: Sequence[float], bench: Bench | None = None) -> Trajectory:
        """Sampled latents."""
        models = {self.method.model: self.model}
        return sample(bench or self.bench, self.method, models, self.task, times).trajectory


def evaluate_model(
    model: Path,
    codec: Path,
    networks: Networks,
    *,
    task: str = "predict",
    solver: str | None = None,
    clips: int = 64,
    samples: int = 8,
    device: str = "cpu",
    stage: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """All numbers of a trained model on test clips of its dataset, ready for JSON.

    Arguments:
        model: The model file.
        codec: The codec file.
        networks: Networks for distances between sets and for LPIPS.
        task: One of `TASKS`.
        solver: How the model moves; None for its default.
        clips: How many test clips.
        samples: Samples of each clip by a stochastic model, at least two.
        device: Where to compute.
        stage: Announces what begins and returns what to tell its progress to.

    Raises:
        ValueError: A file is missing, damaged or another run's, the task or the solver is unknown, or the model cannot
            answer the task.
    """
    if task not in TASKS or samples < 2:
        raise ValueError(
            f"Expected one of the tasks {', '.join(TASKS)} and two samples or more; got {task}, {samples}."
        )
    saved = load_model(model, device=device)
    network, run = saved.network, saved.run
    bench = Bench.of(run, load_codec(codec, device=device).network, "test", clips=clips, device=device)
    name = model.stem
    trial = _Trial(bench, network, Method(name=name, model=name, solver=solver or network.solvers[0]), task)
    blend = [Method(name="linear blend", model="linear-blend")] if task == "fill" else []
    rows = [trial.method, None, Method(name="copy-last", model="copy-last"), *blend]
    content: dict[str, Any] = {
        "model": model.name,
        "codec": codec.name,
        "task": task,
        "solver": trial.method.solver,
        "clips": clips,
        "known_seconds": known_times(run, task),
        "world": dataclasses.asdict(run.world),
        "not_computed": dict(networks.missing),
        "warnings": [],
    }
    extras: list[Callable[[], dict[str, Any]]] = [
        lambda: {"captions": _captions(trial, content["not_computed"])},
        lambda: {"flicker": _flicker(trial)},
        lambda: {"seams_by_level": _seams(trial)},
        lambda: {"features": _features(trial, networks, content)},
        lambda: {"samples": _samples(trial, samples)},
    ]
    report = stage(f"{name}, {task}") if stage else lambda done, total: None
    total = len(rows) + len(extras)
    report(0, total)
    numbers: dict[str, dict[str, Any]] = {}
    content["rows"] = numbers
    for number, method in enumerate(rows):
        numbers["codec" if method is None else method.name] = measure(bench, method, {name: network}, task)
        report(number + 1, total)
    for number, extra in enumerate(extras):
        content |= extra()
        report(len(rows) + number + 1, total)
    return content


def _captions(trial: _Trial, reasons: dict[str, str]) -> dict[str, dict[str, float]]:
    """How much of the true captions the reader reads off the model's frames, and off the codec's of the truth."""
    clips, times = trial.bench.clips, task_frames(trial.bench.run, trial.task)
    if len(times) < 5:
        reasons["captions"] = f"they are read from at least 5 frames; the task has {len(times)}"
        return {}
    first = clips[0]
    if not isinstance(first, Clip):
        reasons["captions"] = "the reader knows digits only"
        return {}
    reader = DigitReader(digit_classifier(first.scale), len(first.labels))
    said = [describe(clip, times[0], times[-1]) for clip in clips]
    truth = trial.bench.truth(times)
    shown = {
        "model": trial.answer(times),
        "codec": trial.bench.codec.decode(trial.bench.codec.encode(truth)),
        "truth": truth,
    }
    scores = {name: caption_score(reader, video, said) for name, video in shown.items()}
    return {part: {name: float(getattr(score, part).mean()) for name, score in scores.items()} for part in _PARTS}


def _flicker(trial: _Trial) -> dict[str, dict[str, float]]:
    """Lines at the frame times and at every other one, on a finer grid."""
    run = trial.bench.run
    start = run.horizon if trial.task == "extrapolate" else 0.0
    times = time_grid(start, start + run.horizon, run.frame / _FINE).tolist()
    periods = [period for period in _PERIODS if len(times) > max(8 * period, 24)]
    if not periods:
        return {}
    video, truth = trial.answer(times), trial.bench.truth(times)
    shown = {"model": video, "codec": trial.bench.codec.decode(trial.bench.codec.encode(truth)), "truth": truth}
    return {
        f"every {period / _FINE:g} frame(s)": {name: flicker_line(one, period) for name, one in shown.items()}
        for period in periods
    }


def _seams(trial: _Trial) -> list[float] | None:
    if not isinstance(trial.model, MultiScale):
        return None
    run = trial.bench.run
    last = run.horizon if trial.task == "fill" else task_frames(run, trial.task)[-1]
    later = time_grid(run.frame, last, run.frame).tolist()
    known = trial.bench.latents.at(-run.frame, 0.0)
    sampled = trial.latents(later)
    states = torch.cat((known.states, sampled.states), dim=1)
    whole = Trajectory(states, torch.cat((known.times, sampled.times)))
    return seam_levels(trial.model, whole, condition(trial.bench, trial.task))


def _features(trial: _Trial, networks: Networks, content: dict[str, Any]) -> dict[str, dict[str, float]]:
    """LPIPS against the truth and Frechet distances to it, of the model's frames and of the codec's."""
    times = task_frames(trial.bench.run, trial.task)
    truth = trial.bench.truth(times)
    shown = {"model": trial.answer(times), "codec": trial.bench.codec.decode(trial.bench.codec.encode(truth))}
    found: dict[str, dict[str, float]] = {}
    if networks.lpips is not None and min(truth.frames.shape[-2:]) >= _LPIPS_SIDE:
        found["lpips"] = {name: float(lpips(networks.lpips, one, truth).mean()) for name, one in shown.items()}
    for network in networks.features:
        if len(times) < network.least_frames or len(truth) < 2:
            content["not_computed"][network.name] = f"it needs two clips of {network.least_frames} frames"
            continue
        target = GaussianStatistics.of(extract(network, truth))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            found[network.name] = {
                name: frechet_distance(GaussianStatistics.of(extract(network, one)), target).value
                for name, one in shown.items()
            }
        found[network.name] |= {"samples": float(target.count), "features": float(len(target.mean))}
        content["warnings"] += sorted({f"{network.name}: {one.message}" for one in caught})
    return found


def _samples(trial: _Trial, count: int) -> dict[str, Any] | None:
    """Scores by protocol, and how far samples are apart; None of a deterministic model."""
    times = task_frames(trial.bench.run, trial.task)
    first, second = (trial.answer(times, number=number) for number in (0, 1))
    if torch.equal(first.frames, second.frames):
        return None
    truth, positions = trial.bench.truth(times), trial.bench.positions(times)
    errors: list[Tensor] = []
    ends: list[Tensor] = []
    last: list[Tensor] = []
    videos: list[Video] = []

    for number in range(count):
        video = (first, second)[number] if number < 2 else trial.answer(times, number=number)
        videos.append(Video(video.frames.cpu(), video.times))
        errors.append(position_error(video, positions).mean(dim=1))
        ends.append(centroid(Video(video.frames[:, -1:], video.times[-1:]))[:, 0].cpu())
        last.append(video.frames[:, -1].cpu() / 2)
    shown = Video(truth.frames.cpu(), truth.times)
    scores = {name: over_samples(score, videos, shown, greater_is_better=better) for name, score, better in _SCORES}
    pixels = last[0][0].numel()
    return {
        "count": count,
        **{n: {p: float(getattr(found, p).mean()) for p in PROTOCOLS} for n, found in scores.items()},
        "position_error": {
            "single": float(torch.stack(errors).mean()),
            "best": float(best_of(torch.stack(errors, dim=1), [count]).mean()),
        },
        "pairwise_distance": {
            "end_pixels": float(pairwise_distance(torch.stack(ends, dim=1)).mean()),
            "frame_rms": float(pairwise_distance(torch.stack(last, dim=1)).mean()) / pixels**0.5,
        },
    }
