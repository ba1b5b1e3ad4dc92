"""Measuring one method on held-out clips: the same frames known, the same times asked, the same numbers for all.

Some numbers exist in some cases only, and are None in the others: identity of single digits that stay upright, the
heartbeat where frames lie between given ones, the semigroup gap of models that jump.
"""

__all__ = [
    "Bench",
    "condition",
    "digit_classifier",
    "error_by_frame",
    "known_times",
    "measure",
    "measure_cost",
    "sample",
    "task_frames",
]

import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from flowvid.compare.consistency import semigroup_levels
from flowvid.compare.methods import Method
from flowvid.data.worlds.clips import Clip
from flowvid.data.worlds.families import AnyWorld
from flowvid.data.worlds.motions import Spin
from flowvid.data.worlds.scene import Scene, has_event, render_scenes, scene_positions
from flowvid.encoders.codec import Codec
from flowvid.metrics.cost import cost, median_seconds
from flowvid.metrics.distortion import mean_squared_error, psnr, ssim
from flowvid.metrics.identity import DigitClassifier, identity_kept
from flowvid.metrics.motion import (
    centroid,
    position_error,
    second_difference_ratio,
    speed_unevenness,
    speed_uniformity,
)
from flowvid.metrics.rhythm import heartbeat, sharpness
from flowvid.models.baselines import CopyLast, LinearBlend
from flowvid.models.continuous import MultiScale
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.train.run import Run
from flowvid.video import Condition, Trajectory, Video, time_grid

Value = TypeVar("Value")

_OFF_GRID = 1 / 3
_GAP_CLIPS = 8
_BASELINES: dict[str, VideoModel] = {"copy-last": CopyLast(), "linear-blend": LinearBlend()}


@dataclass(frozen=True, eq=False)
class Bench:
    """Held-out clips with everything that measuring needs; what depends on no method is computed once.

    Arguments:
        run: The run whose frame step and horizon set the tasks.
        codec: The trained codec.
        clips: The clips.
        noise: One seed per clip.
        latents: Encoded frames at times -frame, 0, ..., horizon.
    """

    run: Run
    codec: Codec
    clips: Sequence[Scene]
    noise: Noise
    latents: Trajectory
    _memory: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    @torch.no_grad()
    def of(run: Run, codec: Codec, split: str, *, clips: int, device: str, world: AnyWorld | None = None) -> "Bench":
        """Clips number 0, 1, ... of a split, of the run's world or of another one."""
        chosen = (world or run.world).clips(range(clips), split)
        frames = render_scenes(chosen, time_grid(-run.frame, run.horizon, run.frame)).frames.to(device)
        video = Video(frames, time_grid(-run.frame, run.horizon, run.frame))
        return Bench(run, codec, chosen, Noise.of(range(clips)).fold("sampling"), codec.encode(video))

    @property
    def bounces(self) -> Bool[Tensor, "clip"]:
        """Which clips bounce within the horizon."""
        return has_event(self.clips, 0.0, self.run.horizon)

    def positions(self, times: Tensor | Sequence[float]) -> Float64[Tensor, "clip time 2"]:
        """True positions: in closed form for one digit; of several digits, the centroid of their true frames."""

        def find() -> Tensor:
            positions = scene_positions(self.clips, times)
            return positions[:, :, 0] if positions.shape[2] == 1 else centroid(self.truth(times)).cpu()

        return self._remembered(("positions", *map(float, times)), find)

    def truth(self, times: Tensor | Sequence[float]) -> Video:
        """True frames, on the device of the latents."""

        def draw() -> Video:
            video = render_scenes(self.clips, times)
            return Video(video.frames.to(self.latents.states.device), video.times)

        return self._remembered(("truth", *map(float, times)), draw)

    def ends(self) -> Video:
        """The first and the last frame of filling in, as the codec shows them."""
        return self._remembered("ends", lambda: self.codec.decode(self.latents.at(0.0, self.run.horizon)))

    def semigroup_gaps(self, model: MultiScale, task: str, *, clips: int = _GAP_CLIPS) -> list[float]:
        """The model's semigroup gap by level under the condition of a task, on the first clips."""

        def find() -> list[float]:
            part = Trajectory(self.latents.states[:clips], self.latents.times)
            return semigroup_levels(model, part, Condition(part.at(*known_times(self.run, task))))

        return self._remembered(("semigroup", model, task == "fill", clips), find)

    def _remembered(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]


def known_times(run: Run, task: str) -> list[float]:
    """Times of the known frames of a task."""
    return [-run.frame, 0.0, *([run.horizon] if task == "fill" else [])]


def condition(bench: Bench, task: str) -> Condition:
    """What is known in a task."""
    return Condition(bench.latents.at(*known_times(bench.run, task)))


def task_frames(run: Run, task: str) -> list[float]:
    """Frame times on which a task is measured."""
    count = round(run.horizon / run.frame)
    first, last = {"predict": (1, count), "extrapolate": (count + 1, 2 * count), "fill": (1, count - 1)}[task]
    return [number * run.frame for number in range(first, last + 1)]


def _off_grid(run: Run) -> list[float]:
    return [(number + _OFF_GRID) * run.frame for number in range(round(run.horizon / run.frame))]


@torch.no_grad()
def sample(bench: Bench, method: Method, models: dict[str, VideoModel], task: str, times: Sequence[float]) -> Solution:
    """What a method answers at some times."""
    model = (models | _BASELINES)[method.model]
    options = {} if method.weights is None else {"weights": method.weights}
    return model.sample(condition(bench, task), times, bench.noise, solver=method.solver, **options)


def error_by_frame(
    bench: Bench, method: Method, models: dict[str, VideoModel], task: str
) -> Float64[Tensor, "clip time"]:
    """Position error in pixels of every clip at every frame of a task."""
    times = task_frames(bench.run, task)
    video = bench.codec.decode(sample(bench, method, models, task, times).trajectory)
    return position_error(video, bench.positions(times))


@torch.no_grad()
def measure(bench: Bench, method: Method | None, models: dict[str, VideoModel], task: str) -> dict[str, Any]:
    """All quality numbers of a method in a task; None measures the codec's reconstruction of the truth.

    Arguments:
        bench: The clips.
        method: The method, or None for the ceiling that the codec sets.
        models: Learned models by name.
        task: One of `TASKS`.
    """

    def answered(times: Sequence[float]) -> Video:
        if method is None:
            return bench.codec.decode(bench.codec.encode(bench.truth(times)))
        return bench.codec.decode(sample(bench, method, models, task, times).trajectory)

    times = task_frames(bench.run, task)
    truth, positions = bench.truth(times), bench.positions(times)
    video = answered(times)
    error = position_error(video, positions)
    bounces = bench.bounces
    result = {
        "position_error": float(error.mean()),
        "position_error_by_frame": error.mean(dim=0).tolist(),
        "position_error_bounce": float(error[bounces].mean()) if bool(bounces.any()) else None,
        "position_error_no_bounce": float(error[~bounces].mean()) if bool((~bounces).any()) else None,
        "mse": float(mean_squared_error(video, truth).mean()),
        "psnr": float(psnr(video, truth).mean()),
        "ssim": float(ssim(video, truth).mean()),
        "second_difference_ratio": second_difference_ratio(video, truth),
        "speed_unevenness": speed_unevenness(video, positions),
        "speed_uniformity": float(speed_uniformity(video).mean()) if len(times) > 2 else None,
        "identity_kept": _identity(bench, video),
        "heartbeat": _heartbeat(bench, video) if task == "fill" else None,
    }
    model = None if method is None else models.get(method.model)
    levels = bench.semigroup_gaps(model, task) if isinstance(model, MultiScale) else []
    result["semigroup_gap"] = statistics.fmean(levels) if levels else None
    result["semigroup_gap_by_level"] = levels or None
    if task != "extrapolate":
        between = _off_grid(bench.run)
        result["position_error_off_grid"] = float(position_error(answered(between), bench.positions(between)).mean())
    return result


def _identity(bench: Bench, video: Video) -> float | None:
    """How surely every other frame shows the digit that its clip shows."""
    digits = [clip for clip in bench.clips if isinstance(clip, Clip) and len(clip.labels) == 1]
    if len(digits) < len(bench.clips) or any(isinstance(clip.motions[0], Spin) for clip in digits):
        return None
    labels = [clip.labels[0] for clip in digits]
    every = Video(video.frames[:, ::2], video.times[::2])
    return float(identity_kept(every, labels, digit_classifier(digits[0].scale)).mean())


def _heartbeat(bench: Bench, video: Video) -> float | None:
    """Sharpness of filled-in frames relative to the given ones, as the codec shows both."""
    ends = bench.ends()
    if not bool((sharpness(ends) > 0).all()):
        return None
    first, last = ends.frames[:, :1], ends.frames[:, 1:]
    times = torch.cat((ends.times[:1], video.times, ends.times[1:]))
    return float(heartbeat(Video(torch.cat((first, video.frames, last), dim=1), times), ends.times.tolist()).mean())


@cache
def digit_classifier(scale: int) -> DigitClassifier:
    """The classifier of digits drawn at a scale; fitted once, which takes about a second."""
    return DigitClassifier.fit(scale)


@torch.no_grad()
def measure_cost(
    bench: Bench, method: Method, models: dict[str, VideoModel], task: str, *, clips: int, repeats: int
) -> dict[str, Any]:
    """What sampling a whole clip, first frame to horizon, costs.

    Arguments:
        bench: The clips; the first ``clips`` of them are sampled, again and again if there are fewer.
        method: The method.
        models: Learned models by name.
        task: One of `TASKS`.
        clips: Batch size.
        repeats: Repetitions of the timing.
    """
    index = [number % len(bench.clips) for number in range(clips)]
    part = Bench(
        bench.run,
        bench.codec,
        [bench.clips[number] for number in index],
        bench.noise[index],
        Trajectory(bench.latents.states[index], bench.latents.times),
    )
    times = time_grid(0.0, bench.run.horizon, bench.run.frame).tolist()

    def work() -> Solution:
        return sample(part, method, models, task, times)

    solutions: list[Solution] = []
    counted = cost(lambda: solutions.append(work()))
    return {
        "evaluations": solutions[0].evaluations,
        "depth": solutions[0].depth,
        "multiply_adds_per_frame": counted.multiply_adds / clips / len(times),
        "peak_megabytes": counted.peak_bytes / 2**20,
        "seconds": median_seconds(work, repeats=repeats),
        "clips": clips,
        "frames": len(times),
    }
