"""Gaps in clips of moving digits: models trained as in the comparison of models, and an oracle that is told the motion.

Digits move in closed form, so positions are judged at any real time, a third of a frame off the grid too.
"""

__all__ = ["Digits", "digit_claims", "measure_digits", "told"]

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from experiments.claims import claim
from experiments.fill_in import EVERY, Filler, ceiling, filled, in_pixels, over_clips, scores, through_codec
from experiments.films import save_films
from flowvid.data.worlds.clips import Clip, clip_positions, render_clips
from flowvid.encoders.codec import Codec
from flowvid.metrics.motion import position_error, speed_uniformity
from flowvid.metrics.perceptual import Lpips
from flowvid.models.baselines import CopyLast, LinearBlend
from flowvid.models.optical_flow import FlowInterpolation, KnownMotion
from flowvid.models.video_model import LearnedModel
from flowvid.noise import Noise
from flowvid.train.plan import Run
from flowvid.train.run import latents, train_codec, train_model
from flowvid.video import Condition, Trajectory, Video, time_grid

_THIRD = 1 / 3
_LEARNED = {
    "multi-scale": ("multiscale", "two-sided"),
    "multi-scale, jump": ("multiscale", "jump"),
    "bisection": ("bisection", None),
    "direct": ("direct", None),
}
_FILMED = ("linear blend", "flow, DIS", "bisection", "multi-scale")
_FILMED_CLIPS = 4


@dataclass(frozen=True, kw_only=True)
class Digits:
    """What is measured on moving digits.

    Arguments:
        name: Name of the folder, in ``out``, where weights are kept.
        run: The run; the seed of its models is replaced by each of ``seeds``.
        seeds: Seeds of the models.
        clips: Held-out clips.
        gaps: Gaps of eight frames in each.
    """

    name: str
    run: Run
    seeds: tuple[int, ...] = (0, 1, 2)
    clips: int = 64
    gaps: int = 2


def told(clips: Sequence[Clip]) -> Filler:
    """The oracle of the clips' motion, which moves the nearest given frame."""

    def answer(given: Video, inner: Sequence[float]) -> Tensor:
        times = [start + time for start in given.times[:-1].tolist() for time in inner]
        known = Condition(Trajectory(given.frames, given.times))
        found = KnownMotion(clips).sample(known, times, Noise.batch(0, len(clips)))
        return found.trajectory.states.clamp(-1, 1).unflatten(1, (-1, len(inner)))

    return answer


def measure_digits(run: Digits, folder: Path, perceptual: Lpips | None) -> dict[str, Any]:
    """Means over clips of every number, of every method and seed, and positions frame by frame."""
    codec, models = _trained(run, folder)
    frame = run.run.frame
    clips = [clip for clip in run.run.world.clips(range(run.clips), "test") if isinstance(clip, Clip)]
    truth = render_clips(clips, time_grid(0.0, run.gaps * EVERY * frame, frame))
    methods = _methods(run, codec, models, clips, truth)
    off_grid = [(number + _THIRD) * frame for number in range(EVERY)]
    rows: dict[str, dict[str, list[Any]]] = {}
    for name, seeds in methods.items():
        for filler in seeds:
            answer = filled(filler, truth)
            numbers: dict[str, Any] = over_clips(scores(answer, truth, perceptual=perceptual))
            error = _position(answer, clips)
            numbers["position_error"] = float(error.mean())
            numbers["position_error_by_frame"] = error.unflatten(1, (-1, EVERY - 1)).mean(dim=(0, 1)).tolist()
            numbers["speed_uniformity"] = float(speed_uniformity(answer).mean())
            if name != "codec":
                numbers["position_error_off_grid"] = _off_grid(filler, truth, clips, off_grid)
            for key, value in numbers.items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    truly = over_clips(scores(truth, truth)) | {"speed_uniformity": float(speed_uniformity(truth).mean())}
    answers = {"truth": truth} | {name: filled(methods[name][0], truth) for name in _FILMED}
    names = [f"digit {clips[number].labels[0]}, clip {number}" for number in range(min(_FILMED_CLIPS, len(clips)))]
    films = {
        clip: {name: Video(video.frames[number : number + 1], video.times) for name, video in answers.items()}
        for number, clip in enumerate(names)
    }
    save_films(folder / "digits.safetensors", films, names=names)
    keys = ("warping_error", "flow_change", "heartbeat", "speed_uniformity")
    return {"methods": rows, "truth": {key: truly[key] for key in keys}}


def _trained(run: Digits, folder: Path) -> tuple[Codec, dict[tuple[str, int], LearnedModel]]:
    """The codec, and every model by kind and seed."""
    codec = train_codec(run.run, folder).network

    @cache
    def bank(split: str) -> Trajectory:
        count = run.run.clips if split == "train" else run.run.validation_clips
        return latents(run.run, codec, split, run.run.times, clips=count, device="cpu")

    models = {}
    for seed in run.seeds:
        seeded = dataclasses.replace(run.run, model=dataclasses.replace(run.run.model, seed=seed))
        for kind in dict.fromkeys(kind for kind, _ in _LEARNED.values()):
            models[kind, seed] = train_model(kind, seeded, bank, folder).network
    return codec, models


def _methods(
    run: Digits, codec: Codec, models: dict[tuple[str, int], LearnedModel], clips: Sequence[Clip], truth: Video
) -> dict[str, list[Filler]]:
    """All methods, learned ones once for each seed."""
    return {
        "codec": [ceiling(codec, truth)],
        "oracle": [told(clips)],
        "copy-last": [in_pixels(CopyLast())],
        "linear blend": [in_pixels(LinearBlend())],
        "flow, DIS": [in_pixels(FlowInterpolation("dis"))],
        "flow, Farneback": [in_pixels(FlowInterpolation("farneback"))],
    } | {
        name: [through_codec(codec, models[kind, seed], solver=solver) for seed in run.seeds]
        for name, (kind, solver) in _LEARNED.items()
    }


def _position(answer: Video, clips: Sequence[Clip]) -> Float64[Tensor, "clip time"]:
    """Position errors in pixels of the frames that were not given."""
    between = [number for number in range(len(answer.times)) if number % EVERY]
    found = Video(answer.frames[:, between], answer.times[between])
    return position_error(found, clip_positions(clips, found.times)[:, :, 0])


@torch.no_grad()
def _off_grid(filler: Filler, truth: Video, clips: Sequence[Clip], inner: Sequence[float]) -> float:
    """Mean position error in pixels at times between frames."""
    given = Video(truth.frames[:, ::EVERY], truth.times[::EVERY])
    times = [start + time for start in given.times[:-1].tolist() for time in inner]
    found = Video(filler(given, inner).flatten(1, 2), torch.tensor(times, dtype=torch.float64))
    return float(position_error(found, clip_positions(clips, times)[:, :, 0]).mean())


def digit_claims(rows: dict[str, dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """What was expected before the run, over seeds."""
    ours = rows["multi-scale"]

    def less(key: str, other: str) -> list[float]:
        theirs = rows[other][key]
        return [one - theirs[min(number, len(theirs) - 1)] for number, one in enumerate(ours[key])]

    def over(one: Sequence[float], two: Sequence[float]) -> list[float]:
        return [above / below for above, below in zip(one, two, strict=True)]

    def off(other: str) -> list[float]:
        theirs = abs(1 - rows[other]["heartbeat"][0])
        return [abs(1 - value) - theirs for value in ours["heartbeat"]]

    error, between = "position_error", "position_error_off_grid"
    return [
        claim("I1", "digits: multi-scale less linear blend, position in pixels", less(error, "linear blend"), most=0.0),
        claim("I2", "digits: multi-scale less DIS flow, position in pixels", less(error, "flow, DIS"), most=0.0),
        claim("I3", "digits: multi-scale less linear blend, PSNR in dB", less("psnr", "linear blend"), least=0.0),
        claim("I4", "digits: multi-scale less DIS flow, PSNR in dB", less("psnr", "flow, DIS"), least=0.0),
        claim(
            "I5",
            "digits: multi-scale over bisection, position",
            over(ours[error], rows["bisection"][error]),
            most=1.1,
            strict=False,
        ),
        claim("I6", "digits: a third of a frame off the grid over on it", over(ours[between], ours[error]), most=1.25),
        claim("I7", "digits: heartbeat of multi-scale", ours["heartbeat"], least=0.7, most=1.3),
        claim("I8", "digits: heartbeat off 1, multi-scale less linear blend", off("linear blend"), most=0.0),
    ]
