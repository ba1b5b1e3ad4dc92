"""Which metric sees what: every metric against known damage, on digits and on real clips.

python -m experiments.metric_sanity --scale cpu [--data FOLDER]

Scores are comparable only in units of something harmless. A paired or a set metric is measured in units of what it
gives the same clips *one frame late*, which no viewer could call damage: 1 is a delay of one frame, and a metric that
gives real damage less than that punishes lateness more. A metric that looks at a clip alone is measured in standard
deviations over undamaged clips: below 1 the damage drowns in how clips differ.
"""

__all__ = ["draw", "main", "measure"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.claims import claim
from experiments.corruptions import CORRUPTIONS, PERIOD, Corruption, undamaged
from experiments.local_data import frame_network, i3d, perceptual, real_footage
from experiments.recipes import SCALES
from experiments.run import run_experiment
from experiments.sanity_scores import ALONE, FLICKER, PAIRED, Alone, Paired, digit_scores
from flowvid.data.footage.reader import Footage, as_video
from flowvid.data.worlds.clips import World, render_clips
from flowvid.metrics.features import FeatureNetwork, extract
from flowvid.metrics.frechet import GaussianStatistics, frechet_distance
from flowvid.metrics.perceptual import lpips
from flowvid.noise import Noise
from flowvid.plot.heat import draw_heat
from flowvid.video import Video, time_grid

_I3D_FRAMES = 16
_ALL: dict[str, Corruption] = {"clean": undamaged, **CORRUPTIONS}
Scores = dict[str, dict[str, list[float]]]
"""Metric -> damage -> score of every clip; "clean" is no damage."""


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """What is measured.

    Arguments:
        seeds: Of the digit clips and of the damage.
        digits: Digit clips for each seed.
        files: Real clips, evenly among those that are long enough.
        windows: Windows of each real clip for each seed.
        side: Pixels of real frames.
        frames: Frames of a clip.
        fps: Frames per second.
        i3d: Whether to ask I3D too, which takes seconds a clip.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    digits: int = 32
    files: int = 6
    windows: int = 1
    side: int = 96
    frames: int = 8 * PERIOD + 1
    fps: float = 16.0
    i3d: bool = False


def recipe(scale: str) -> Sanity:
    """The run at a scale.

    Raises:
        ValueError: The scale is unknown.
    """
    match scale:
        case "quick":
            return Sanity(seeds=(0, 1), digits=4, files=2, side=48)
        case "cpu":
            return Sanity(i3d=True)
        case "gpu":
            return Sanity(seeds=(0, 1, 2, 3, 4), digits=128, files=100, windows=6, side=128, i3d=True)
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


def measure(run: Sanity, data: Path | None) -> dict[str, Any]:
    """Responses of all metrics on digits and, where there are some, on real clips.

    Arguments:
        run: What to measure.
        data: The folder of real clips and weights, if there is one.
    """
    found: dict[str, Any] = {"digits": _over_seeds([_digits(run, seed) for seed in run.seeds])}
    claims = _digit_claims(found["digits"]["scores"])
    if data is not None:
        clips, names = _real_clips(run, data)
        network = perceptual(data)
        paired: dict[str, Paired] = {"LPIPS": lambda video, truth: float(lpips(network, video, truth).mean())}
        networks = [frame_network(data), *([i3d(data)] if run.i3d else [])]
        parts = [_real(clips[number], Noise.of([seed]), paired, networks) for number, seed in enumerate(run.seeds)]
        real = _over_seeds(parts)
        found["real"] = {"footage": names, **real}
        claims += _set_claims(real["scores"])
    return {**found, "claims": claims}


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw metric_sanity.png: a table of responses, darker for more.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figure goes.
    """
    panels = {
        {"digits": "moving digits", "real": "real clips"}[key]: content[key]["response"]
        for key in ("digits", "real")
        if key in content
    }
    legend = "1 = one frame late (paired, sets), one standard deviation over clean clips (alone)"
    draw_heat(folder / "metric_sanity.png", panels, legend=legend)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("metric_sanity", about, recipe=recipe, measure=measure, draw=draw, real=True)


def _digits(run: Sanity, seed: int) -> Scores:
    clips = World().clips(range(1000 * seed, 1000 * seed + run.digits), "test")
    video = render_clips(clips, time_grid(0.0, run.frames / run.fps, 1 / run.fps))
    knowing, alone = digit_scores(clips)
    return _scores(video, Noise.of([seed]), PAIRED, ALONE | FLICKER | alone, knowing)


def _real(video: Video, noise: Noise, paired: dict[str, Paired], networks: Sequence[FeatureNetwork]) -> Scores:
    scores = _scores(video, noise, PAIRED | paired, ALONE | FLICKER, {})
    for network in networks:
        scores[network.name] = {name: [max(value, 0.0)] for name, value in _distances(network, video, noise).items()}
    return scores


def _scores(
    video: Video,
    noise: Noise,
    paired: dict[str, Paired],
    alone: dict[str, Alone],
    knowing: dict[str, Callable[[Video, int], float]],
) -> Scores:
    """Scores of every clip under every damage; with a number for those that know which clip it is."""
    truth = Video(video.frames[:, :-1], video.times[:-1])
    found: Scores = {name: {} for name in (*paired, *knowing, *alone)}
    for damage, corrupt in _ALL.items():
        damaged = corrupt(video, _each(noise, len(video)))
        singles = [Video(frames[None], damaged.times) for frames in damaged.frames]
        truths = [Video(frames[None], truth.times) for frames in truth.frames]
        for name, score in paired.items():
            found[name][damage] = [score(*pair) for pair in zip(singles, truths, strict=True)]
        for name, judge in knowing.items():
            found[name][damage] = [judge(clip, number) for number, clip in enumerate(singles)]
        for name, look in alone.items():
            found[name][damage] = [look(clip) for clip in singles]
    return found


def _distances(network: FeatureNetwork, video: Video, noise: Noise) -> dict[str, float]:
    """Frechet distance of the damaged set from the clean one."""
    clean = video.frames[:, :-1]
    frames = _I3D_FRAMES if network.name == "fd_i3d_mixed4d" else clean.shape[1]
    reference: GaussianStatistics | None = None
    found: dict[str, float] = {}
    for damage, corrupt in _ALL.items():
        damaged = corrupt(video, _each(noise, len(video)))
        part = Video(damaged.frames[:, :frames], damaged.times[:frames])
        statistics = GaussianStatistics.of(extract(network, part, batch=2))
        reference = reference or statistics
        found[damage] = frechet_distance(reference, statistics).value
    return found


def _over_seeds(parts: Sequence[Scores]) -> dict[str, Any]:
    """Mean scores of each seed, and the mean response in harmless units."""
    scores = {
        name: {damage: [sum(part[name][damage]) / len(part[name][damage]) for part in parts] for damage in found}
        for name, found in parts[0].items()
    }
    response: dict[str, dict[str, float]] = {}
    for name in scores:
        responses = [_response(name, part[name]) for part in parts]
        response[name] = {damage: sum(one[damage] for one in responses) / len(responses) for damage in CORRUPTIONS}
    return {"scores": scores, "response": response}


def _response(name: str, scores: dict[str, list[float]]) -> dict[str, float]:
    means = {damage: torch.tensor(values, dtype=torch.float64).mean().item() for damage, values in scores.items()}
    excess = {damage: max(means[damage] - means["clean"], 0.0) for damage in CORRUPTIONS}
    if name in (*ALONE, *FLICKER, "speed uniformity", "identity lost"):
        unit = torch.tensor(scores["clean"], dtype=torch.float64).std().item()
    else:
        unit = excess["late"]
    return {damage: value / max(unit, 1e-12) for damage, value in excess.items()}


def _digit_claims(scores: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    def less(name: str, damage: str, other: str) -> list[float]:
        return [one - two for one, two in zip(scores[name][damage], scores[name][other], strict=True)]

    def over(name: str, damage: str, other: str) -> list[float]:
        return [one / two for one, two in zip(scores[name][damage], scores[name][other], strict=True)]

    tiny = 1e-9
    return [
        claim(
            "S1",
            "position is not moved by blur (in units of a frame)",
            over("position error", "blur", "late"),
            most=0.5,
        ),
        claim(
            "S2",
            "speed uniformity of every other frame frozen is half",
            scores["speed uniformity"]["frozen"],
            least=0.4,
            most=0.6,
        ),
        claim(
            "S3",
            "speed uniformity is blind to time reversal",
            less("speed uniformity", "reversed", "clean"),
            least=-tiny,
            most=tiny,
        ),
        claim("S4", "identity is blind to order", less("identity lost", "shuffled", "clean"), least=-tiny, most=tiny),
        claim("S5", "heartbeat sees blur between sharp frames", less("heartbeat", "between", "clean"), least=0.3),
        claim("S6", "heartbeat is blind to even blur", less("heartbeat", "blur", "clean"), least=-0.15, most=0.15),
        claim(
            "S7",
            "the flicker line sees a seam every eighth frame (ln of line over floor)",
            scores["flicker line"]["seam"],
            least=2,
        ),
        claim(
            "S8", "the flicker line is blind to noise (ln of line over floor)", scores["flicker line"]["noise"], most=1
        ),
        claim(
            "S9",
            "flow change sees jitter of two pixels (pixels per frame squared)",
            less("flow change", "jitter", "clean"),
            least=0.5,
        ),
    ]


def _set_claims(scores: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    claims = []
    for name, damages in (("fd_squeezenet", ("shuffled", "reversed")), ("fd_i3d_mixed4d", ("shuffled",))):
        if name not in scores:
            continue
        for damage in damages:
            shares = [one / two for one, two in zip(scores[name][damage], scores[name]["blur"], strict=True)]
            if name == "fd_squeezenet":
                says = f"a distance on frames is blind to {damage} frames (share of blur's)"
                claims.append(claim("S10", says, shares, least=-1e-4, most=1e-4))
            else:
                says = f"I3D, of 16 frames, sees {damage} frames (share of blur's)"
                claims.append(claim("S11", says, shares, least=0.1))
    return claims


def _real_clips(run: Sanity, data: Path) -> tuple[list[Video], list[str]]:
    """For each seed one batch of windows, spread evenly over every file that is long enough."""
    length = run.frames / run.fps
    entries = real_footage(data, least=length + 0.1)
    step = max(1, len(entries) // run.files)
    entries = entries[::step][: run.files]
    count = run.windows * len(run.seeds)
    batches: list[list[torch.Tensor]] = [[] for _ in run.seeds]
    times = time_grid(0.0, length, 1 / run.fps)
    for path, info in entries:
        with Footage(path) as footage:
            for number in range(count):
                start = (info.duration - length - 0.05) * number / max(count - 1, 1)
                pixels = footage.at((times + start).tolist(), size=(run.side, run.side))
                batches[number % len(run.seeds)].append(pixels)
    return [as_video(torch.stack(batch), times) for batch in batches], [path.name for path, _ in entries]


def _each(noise: Noise, count: int) -> Noise:
    """One seed for every clip, from the seed of the run."""
    return Noise.batch(noise.seeds[0], count)


if __name__ == "__main__":
    main()
