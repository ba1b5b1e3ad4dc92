"""Text to video on digit worlds, scored by reading what was made; and how much captions of moments tell of a future.

1. One caption of a whole clip: digit, direction, speed, bounces. Flow matching and diffusion in v, alike but for these
   two words, are sampled with words alone and with the first frame too, under several scales of guidance, and what
   they made is read by `flowvid.metrics.reader`. Shuffled captions are the floor, true frames through the codec the
   ceiling.
2. Captions of moments: a digit of a branching world, of which the first two frames are known, so that the coins alone
   are not. One model is trained on captions of random moments, none to four; told none, one, two or four of evenly
   spaced moments, how far are its samples from the truth and from each other? What words leave open is known exactly
   (`experiments.text_scores`). The models are of whole clips and have no semigroup, so kappa_j is not defined for
   them; the energy distance to the law stands in its place.

With one seed of the models, intervals are over held-out clips; with more, over seeds.
"""

__all__ = ["draw", "main", "measure"]

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.claims import claim
from experiments.recipes import text
from experiments.run import run_experiment
from experiments.text_figures import draw_strips, draw_text
from experiments.text_models import Reading, Setting, Texts, moments, seeded, told_moments, train_reader
from experiments.text_scores import WORDS, law, path_scores, said_scores
from flowvid.data.worlds.clips import Clip, render_clips
from flowvid.data.worlds.describe import describe, timed_captions
from flowvid.encoders.codec import Codec
from flowvid.metrics.motion import centroid
from flowvid.metrics.reader import DigitReader
from flowvid.noise import Noise
from flowvid.train.checkpoint import save_tensors
from flowvid.train.run import latents, train_codec
from flowvid.video import Condition, Text, Trajectory, as_text, to_bytes

_SHOWN = 3
_FILMED_GUIDANCE = 2.0
_STEPS = {"flow": "midpoint-{}", "diffusion": "ddim-{}"}

Scores = dict[str, list[list[float]]]
"""By word or number: for each seed, of every clip."""


def measure(run: Texts, *, work: Path | None = None) -> dict[str, Any]:
    """All numbers, means for each seed, and the claims.

    Arguments:
        run: What to train and measure.
        work: Where weights and films are kept; default: a folder in ``out`` by the name of the run.
    """
    folder = work or Path("out") / run.name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    codec = train_codec(run.said.run, folder, device=device)
    seconds = {"codec": codec.seconds}
    models: dict[int, dict[str, Reading]] = {}
    for seed in run.seeds:
        models[seed] = {kind: _trained(run, kind, seed, codec.network, folder, device) for kind in _STEPS}
        models[seed]["moments"] = _trained(run, "moments", seed, codec.network, folder, device)
    for kind in models[run.seeds[0]]:
        seconds[kind] = sum(models[seed][kind].seconds for seed in run.seeds) / len(run.seeds)
    films: dict[str, Tensor] = {}
    said = _said(run, codec.network, models, films)
    told = _told(run, codec.network, models, films)
    save_tensors(folder / "films.safetensors", films, _captions(run))
    return {
        "said": {name: _means(scores) for name, scores in said.items()},
        "told": {name: _means(scores) for name, scores in told.items()},
        "seconds_of_training": {name: round(value, 1) for name, value in seconds.items()},
        "claims": [*_said_claims(said), *_told_claims(told)],
    }


def draw(content: dict[str, Any], folder: Path, *, work: Path | None = None) -> None:
    """Draw text.png and, where films are kept, text_film.png and text_moments_film.png.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        work: Where films are kept; without them no film strip is drawn.
    """
    draw_text(content, folder)
    films = (work or Path("out") / content["recipe"]["name"]) / "films.safetensors"
    if films.exists():
        draw_strips(films, folder)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("text", about, recipe=text, measure=measure, draw=draw)


def _trained(run: Texts, kind: str, seed: int, codec: Codec, folder: Path, device: str) -> Reading:
    """A model of one caption for each clip; or, of flow matching, of captions of moments."""
    setting = seeded(run.told if kind == "moments" else run.said, seed)

    def bank() -> Trajectory:
        at_hand = dataclasses.replace(setting.run, world=setting.world)
        return latents(at_hand, codec, "train", setting.times, clips=setting.run.clips, device=device)

    def texts() -> list[Text]:
        clips = setting.world.clips(range(setting.run.clips), "train")
        if kind != "moments":
            return [as_text(_captioned(clips, setting))]
        return [
            told_moments(clips, _unknown(setting), max(run.counts), seed=version) for version in range(run.versions)
        ]

    path = folder / f"{kind}-seed{seed}.safetensors"
    return train_reader("flow" if kind == "moments" else kind, setting, bank, texts, path, device=device)


@torch.no_grad()
def _said(
    run: Texts, codec: Codec, models: dict[int, dict[str, Reading]], films: dict[str, Tensor]
) -> dict[str, Scores]:
    """Scores by what was made: "ceiling", "floor", or "KIND, text[ and frame], guidance"."""
    setting = run.said
    clips, reader = _said_clips(run), DigitReader.fit(run.said.world.scale)
    captions = [describe(clip, 0.0, setting.times[-1].item()) for clip in clips]
    video = render_clips(clips, setting.times)
    device = next(codec.parameters()).device
    truth = Trajectory(codec.latents(video.frames.flatten(0, 1).to(device)).unflatten(0, (len(clips), -1)), video.times)
    found = {"ceiling": {word: [one] for word, one in said_scores(reader, codec.decode(truth), captions).items()}}
    shuffled = [said_scores(reader, video, _turned(captions, turn)) for turn in (1, len(clips) // 2)]
    floor = {word: [sum(pair) / 2 for pair in zip(*(one[word] for one in shuffled), strict=True)] for word in WORDS}
    found["floor"] = {word: [one] for word, one in floor.items()}
    films["said truth"] = to_bytes(video.frames[:_SHOWN])
    words = [str(caption) for caption in captions]
    conditions = {"text": Condition(text=words), "frame": Condition(truth.at(0.0), text=words)}
    for kind, solver in _STEPS.items():
        steps = run.steps // 2 if kind == "flow" else run.steps
        for mode, condition in conditions.items():
            for guidance in run.guidance:
                name = f"{kind}, {mode}, {guidance:g}"
                for seed, trained in models.items():
                    made = trained[kind].model.sample(
                        condition,
                        setting.times.tolist(),
                        Noise.batch(seed, len(clips)).fold("said"),
                        solver=solver.format(steps),
                        guidance=guidance,
                    )
                    frames = codec.decode(made.require().trajectory)
                    for word, one in said_scores(reader, frames, captions).items():
                        found.setdefault(name, {}).setdefault(word, []).append(one)
                    if guidance == _FILMED_GUIDANCE and seed == run.seeds[0]:
                        films[f"said {kind}, {mode}"] = to_bytes(frames.frames[:_SHOWN].cpu())
    return found


@torch.no_grad()
def _told(
    run: Texts, codec: Codec, models: dict[int, dict[str, Reading]], films: dict[str, Tensor]
) -> dict[str, Scores]:
    """Scores of samples by the number of moments that are told, and the codec's own error."""
    setting, clips = run.told, _told_clips(run)
    video = render_clips(clips, setting.times)
    device = next(codec.parameters()).device
    truth = Trajectory(codec.latents(video.frames.flatten(0, 1).to(device)).unflatten(0, (len(clips), -1)), video.times)
    times = setting.times.tolist()
    asked, known = times[2:], truth.at(*times[:2])
    paths = torch.stack([clip.positions(asked)[:, 0] for clip in clips])
    own = (centroid(codec.decode(truth.at(*asked))).cpu() - paths).norm(dim=2).mean(dim=1)
    found: dict[str, Scores] = {"codec": {"error": [own.tolist()]}}
    films["told truth"] = to_bytes(video.frames[:_SHOWN, 2:])
    for count in run.counts:
        spoken = moments(count, _unknown(setting))
        laws = [law(clip, times[1], spoken, asked) for clip in clips]
        words = [timed_captions(clip, spoken) or None for clip in clips for _ in range(run.samples)]
        states = Trajectory(known.states.repeat_interleave(run.samples, dim=0), known.times)
        condition = Condition(states, text=words if count else None)
        for seed, trained in models.items():
            noise = Noise.batch(seed, len(words)).fold("told")
            made = trained["moments"].model.sample(condition, asked, noise, solver=f"midpoint-{run.steps // 2}")
            frames = codec.decode(made.require().trajectory)
            tracks = centroid(frames).cpu().double().unflatten(0, (len(clips), run.samples))
            rows = [path_scores(*one) for one in zip(tracks, paths, laws, strict=True)]
            for key in rows[0]:
                found.setdefault(str(count), {}).setdefault(key, []).append([row[key] for row in rows])
            if seed == run.seeds[0]:
                shown = frames.frames.cpu().unflatten(0, (len(clips), run.samples))[:_SHOWN, :2]
                films[f"told {count}"] = to_bytes(shown)
    return found


def _said_claims(found: dict[str, Scores]) -> list[dict[str, Any]]:
    """What was expected of one caption before the run."""

    def less(one: str, other: str, word: str) -> list[float]:
        return _over(found[one][word], found[other][word])

    flow, diffusion = "flow, text, 1", "diffusion, text, 1"
    least = {"digit": 0.2, "direction": 0.2, "speed": 0.05, "events": 0.05}
    claims = [
        claim(f"X{number}", f"flow, words alone: {word} less shuffled captions", less(flow, "floor", word), least=end)
        for number, (word, end) in enumerate(least.items(), start=1)
    ]
    silent = less("flow, text, 0", "floor", "digit")
    gain = {word: less("flow, text, 2", flow, word) for word in WORDS}
    strong = less("flow, text, 4", "flow, text, 2", "direction")
    framed = less("flow, frame, 1", flow, "digit")
    alike = less(flow, diffusion, "digit")
    return [
        *claims,
        claim("X5", "guidance 0: digit less shuffled captions", silent, least=-0.2, most=0.2),
        claim("X6", "guidance 2 less 1, words alone: digit", gain["digit"], least=0.0, strict=False),
        claim("X7", "guidance 2 less 1, words alone: direction", gain["direction"], least=0.0, strict=False),
        claim("X8", "guidance 4 less 2, words alone: direction", strong, most=0.0, strict=False),
        claim("X9", "first frame and words less words alone: digit", framed, least=0.0),
        claim("X10", "flow less diffusion, words alone: digit", alike, least=-0.2, most=0.2),
    ]


def _told_claims(found: dict[str, Scores]) -> list[dict[str, Any]]:
    """What was expected of captions of moments before the run."""

    def less(one: str, other: str, key: str, times: float = 1.0) -> list[float]:
        scaled = [[times * value for value in values] for values in found[other][key]]
        return _over(found[one][key], scaled)

    return [
        claim("X11", "told 1 less told 0: position error in pixels", less("1", "0", "error"), most=0.0),
        claim("X12", "told 2 less told 1: position error in pixels", less("2", "1", "error"), most=0.0),
        claim("X13", "told 4 less told 2: position error in pixels", less("4", "2", "error"), most=0.0),
        claim("X14", "told 4 less 0.6 of told 0: position error", less("4", "0", "error", 0.6), most=0.0),
        claim("X15", "told 4 less 0.6 of told 0: spread of samples", less("4", "0", "spread", 0.6), most=0.0),
        claim("X16", "told 0: spread less 0.7 of that of the law", _laws(found["0"], 0.7), least=0.0),
        claim("X17", "told 4 less told 0: energy distance to the law", less("4", "0", "energy"), most=0.0),
    ]


def _laws(found: Scores, share: float) -> list[float]:
    return _over(found["spread"], [[share * value for value in values] for values in found["law_spread"]])


def _over(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Differences over seeds where there are several, else over clips; one row stands for all seeds."""
    count = max(len(one), len(other))
    pairs = [(one[seed % len(one)], other[seed % len(other)]) for seed in range(count)]
    rows = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
    return [sum(row) / len(row) for row in rows] if count > 1 else rows[0]


def _means(scores: Scores) -> dict[str, list[float]]:
    return {key: [sum(values) / len(values) for values in seeds] for key, seeds in scores.items()}


def _captioned(clips: Sequence[Clip], setting: Setting) -> list[str]:
    """A caption of every whole clip."""
    return [str(describe(clip, 0.0, setting.times[-1].item())) for clip in clips]


def _captions(run: Texts) -> dict[str, Any]:
    """What films need besides frames."""
    spoken = moments(max(run.counts), _unknown(run.told))
    return {
        "said": _captioned(_said_clips(run)[:_SHOWN], run.said),
        "told": [[str(words) for _, words in timed_captions(clip, spoken)] for clip in _told_clips(run)[:_SHOWN]],
        "said times": run.said.times.tolist(),
        "told times": run.told.times.tolist()[2:],
        "counts": list(run.counts),
    }


def _said_clips(run: Texts) -> list[Clip]:
    return run.said.world.clips(range(run.clips), "test")


def _told_clips(run: Texts) -> list[Clip]:
    return run.told.world.clips(range(run.branches), "test")


def _unknown(setting: Setting) -> tuple[float, float]:
    """The seconds after the two known frames."""
    return setting.times[1].item(), setting.times[-1].item()


def _turned(captions: Sequence[Any], turn: int) -> list[Any]:
    """Everyone's caption told to another one."""
    return [*captions[turn:], *captions[:turn]]


if __name__ == "__main__":
    main()
