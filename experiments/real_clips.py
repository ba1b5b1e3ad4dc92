"""Real clips from the file to the model: codec and models trained on parts of clips, gaps filled in on later parts.

python -m experiments.real_clips --scale cpu --data FOLDER

Every clip is cut in time: models learn from its first part and are judged on its last, on windows of which every eighth
frame is given. The codec's loss stands above everything its models do; linear blend and optical flow, which move
pixels, do not pass through it. Carrying the experiment out again goes on where it stopped.
"""

__all__ = [
    "PARTS",
    "Rows",
    "draw",
    "filled_films",
    "fillers",
    "main",
    "measure",
    "measure_part",
    "per_clip",
]

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from experiments.claims import claim
from experiments.fill_in import Filler, ceiling, filled, found_perceptual, in_pixels, scores, through_codec
from experiments.films import draw_films, save_films
from experiments.real_spans import RealRun, Spans, read_spans
from experiments.real_training import MODELS, Trained, train_real
from experiments.recipes import real_clips
from experiments.run import run_experiment
from flowvid.metrics.perceptual import Lpips
from flowvid.metrics.reconstruction import reconstruction
from flowvid.models.baselines import CopyLast, LinearBlend
from flowvid.models.optical_flow import FlowInterpolation
from flowvid.plot.lines import Line, draw_lines, draw_panels
from flowvid.video import Video

PARTS = ("training", "held_out")
Rows = dict[str, dict[str, list[list[float]]]]
"""Method -> number -> for each seed (one, where nothing is trained) the means of the clips."""

_FILMS = "films.safetensors"
_FILMED = ("linear blend", "flow, DIS", "bisection, detail kept", "multi-scale, detail kept")
_COLOURS = {"linear blend": "grey", "flow, DIS": "blue", "bisection": "green", "multi-scale": "vermilion"}


def measure(run: RealRun, data: Path | None, *, work: Path | None = None) -> dict[str, Any]:
    """Losses, the codec's ceiling and every method's numbers on both parts of the clips.

    Arguments:
        run: What to train and measure.
        data: The folder of real clips and weights.
        work: Where decoded frames, checkpoints and films are kept; default: ``out/NAME`` by the run's name.

    Raises:
        ValueError: There is no such folder, or see `read_spans` and `train_real`.
    """
    if data is None:
        raise ValueError("This experiment is about real clips: name their folder with --data, or in FLOWVID_DATA.")
    folder = work or Path("out") / run.name
    perceptual = found_perceptual(data)
    spans = read_spans(run, data, folder)
    trained = train_real(run, spans, folder, perceptual=perceptual)
    found: dict[str, Any] = {"footage": spans.names, "curves": trained.curves, "training_seconds": trained.seconds}
    for part in PARTS:
        found[part] = measure_part(run, spans, trained, part, perceptual=perceptual)
    found["frames"] = {part: [len(pixels) for pixels in getattr(spans, part)] for part in PARTS}
    save_films(folder / _FILMS, filled_films(run, spans, trained, "held_out", _FILMED), names=spans.names)
    return {**found, "claims": _claims(found, perceptual=perceptual is not None)}


def measure_part(
    run: RealRun, spans: Spans, trained: Trained, part: str, *, perceptual: Lpips | None
) -> dict[str, Any]:
    """The codec's loss and all methods' numbers on windows of one part of the clips.

    Arguments:
        run: The run.
        spans: The frames.
        trained: Codec and models.
        part: "training", where only each frame is judged, or "held_out".
        perceptual: LPIPS, where its weights are there.
    """
    truth, clips = spans.windows(run, part)
    rows: Rows = {}
    for name, seeds in fillers(run, trained, truth).items():
        for filler in seeds:
            numbers = scores(filled(filler, truth), truth, perceptual=perceptual, moving=part == "held_out")
            for key, values in numbers.items():
                rows.setdefault(name, {}).setdefault(key, []).append(_by_clip(values, clips, len(spans.names)))
    floors = {key: _by_clip(values, clips, len(spans.names)) for key, values in scores(truth, truth).items()}
    return {
        "codec": reconstruction(trained.codec, truth, perceptual),
        "methods": rows,
        "truth": {key: floors[key] for key in ("warping_error", "flow_change", "heartbeat")},
        "windows": len(truth),
    }


def fillers(run: RealRun, trained: Trained, truth: Video) -> dict[str, list[Filler]]:
    """All methods, learned ones once for each seed.

    Arguments:
        run: The run.
        trained: Codec and models.
        truth: The true frames, for the ceiling that the codec sets.
    """
    codec = trained.codec
    found: dict[str, list[Filler]] = {
        "copy-last": [in_pixels(CopyLast())],
        "linear blend": [in_pixels(LinearBlend())],
        "flow, DIS": [in_pixels(FlowInterpolation("dis"))],
        "flow, Farneback": [in_pixels(FlowInterpolation("farneback"))],
    }
    for suffix, detail in (("", False), (", detail kept", True)):
        found[f"codec{suffix}"] = [ceiling(codec, truth, detail=detail)]
        found[f"blend of latents{suffix}"] = [through_codec(codec, LinearBlend(), detail=detail)]
        for name in MODELS:
            found[f"{name}{suffix}"] = [
                through_codec(codec, trained.models[name, seed], detail=detail) for seed in run.seeds
            ]
    return found


def filled_films(
    run: RealRun, spans: Spans, trained: Trained, part: str, names: Sequence[str]
) -> dict[str, dict[str, Video]]:
    """For each clip the truth and the answers of some methods, by the first seed, on the clip's middle window."""
    truth, clips = spans.windows(run, part)
    chosen = []
    for clip in range(len(spans.names)):
        own = [number for number, of in enumerate(clips) if of == clip]
        chosen.append(own[len(own) // 2])
    truth = Video(truth.frames[chosen], truth.times)
    methods = fillers(run, trained, truth)
    answers = {"truth": truth} | {name: filled(methods[name][0], truth) for name in names}
    return {
        clip: {name: Video(video.frames[number : number + 1], video.times) for name, video in answers.items()}
        for number, clip in enumerate(spans.names)
    }


def draw(content: dict[str, Any], folder: Path, *, work: Path | None = None) -> None:
    """Draw real_clips.png with a PDF of each panel, real_clips_film.png and real_clips.mp4.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        work: Where films are kept; without them only lines are drawn.
    """
    panels = {
        "codec": partial(_losses, content, ("codec",)),
        "models": partial(_losses, content, tuple(MODELS)),
        "quality": partial(_quality, content),
    }
    draw_panels(folder, "real_clips", panels)
    films = (work or Path("out") / content["recipe"]["name"]) / _FILMS
    if films.exists():
        draw_films(films, folder, "real_clips", fps=content["recipe"]["fps"])


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("real_clips", about, recipe=real_clips, measure=measure, draw=draw, real=True)


def per_clip(rows: Rows, method: str, key: str) -> list[float]:
    """A number of a method for every clip, the mean over seeds."""
    seeds = rows[method][key]
    return [sum(values) / len(values) for values in zip(*seeds, strict=True)]


def _by_clip(values: Sequence[float], clips: Sequence[int], count: int) -> list[float]:
    """The mean over the windows of every clip."""
    own = [[value for value, of in zip(values, clips, strict=True) if of == clip] for clip in range(count)]
    return [sum(some) / len(some) for some in own]


def _claims(found: dict[str, Any], *, perceptual: bool) -> list[dict[str, Any]]:
    """What was expected before the run; each clip is one observation, the mean over its windows and over seeds."""

    def more(part: str, key: str, method: str, other: str) -> list[float]:
        rows = found[part]["methods"]
        return [one - two for one, two in zip(per_clip(rows, method, key), per_clip(rows, other, key), strict=True)]

    ours = "multi-scale, detail kept"
    claims = [
        claim(
            "R1",
            "on its own training spans the multi-scale model beats linear blend (dB)",
            more("training", "psnr", ours, "linear blend"),
            least=0.0,
        ),
        claim(
            "R2",
            "on held-out spans the multi-scale model beats linear blend (dB)",
            more("held_out", "psnr", ours, "linear blend"),
            least=0.0,
        ),
        claim(
            "R3",
            "on held-out spans it beats optical flow (DIS; dB)",
            more("held_out", "psnr", ours, "flow, DIS"),
            least=0.0,
        ),
        claim(
            "R4",
            "on held-out spans it is at most 0.25 dB below bisection",
            more("held_out", "psnr", ours, "bisection, detail kept"),
            least=-0.25,
            strict=False,
        ),
        claim(
            "R5",
            "in latents alone it beats the blend of latents on held-out spans (dB)",
            more("held_out", "psnr", "multi-scale", "blend of latents"),
            least=0.0,
        ),
        claim(
            "R6",
            "keeping the detail of given frames helps on held-out spans (dB)",
            more("held_out", "psnr", ours, "multi-scale"),
            least=0.0,
        ),
        claim(
            "R7",
            "its frames between given ones are as sharp as the truth's (heartbeat over the truth's)",
            [
                one / two
                for one, two in zip(
                    per_clip(found["held_out"]["methods"], ours, "heartbeat"),
                    found["held_out"]["truth"]["heartbeat"],
                    strict=True,
                )
            ],
            least=0.8,
            most=1.2,
        ),
    ]
    if perceptual:
        claims.append(
            claim(
                "R8",
                "on held-out spans it looks closer to the truth than linear blend (LPIPS, less is closer)",
                more("held_out", "lpips", ours, "linear blend"),
                most=0.0,
            )
        )
    return claims


def _losses(content: dict[str, Any], names: tuple[str, ...], axis: Axes) -> list[Line]:
    lines = []
    for name in names:
        curves = [curve for title, curve in content["curves"].items() if title.split("-seed")[0] == name]
        for number, curve in enumerate(curves):
            colour = _COLOURS.get(name, "black")
            lines.append(Line(x=curve["step"], y=curve["loss"], colour=colour, name="" if number else name))
    title = "Training of the codec" if names == ("codec",) else "Training of the models, all seeds"
    draw_lines(axis, lines, title=title, xlabel="step", ylabel="running loss")
    return lines


def _quality(content: dict[str, Any], axis: Axes) -> list[Line]:
    """PSNR less that of linear blend, clip by clip."""
    rows = content["held_out"]["methods"]
    base = per_clip(rows, "linear blend", "psnr")
    lines = []
    for name, method in (("flow, DIS", "flow, DIS"), *((name, f"{name}, detail kept") for name in MODELS)):
        gains = [one - two for one, two in zip(per_clip(rows, method, "psnr"), base, strict=True)]
        lines.append(
            Line(x=list(range(1, len(base) + 1)), y=gains, colour=_COLOURS[name], name=name, style="", marker="o")
        )
    axis.axhline(0.0, color="#444444", linewidth=0.7, linestyle="--")
    title = "Held-out spans, over linear blend"
    draw_lines(axis, lines, title=title, xlabel="clip", ylabel="PSNR gained, dB")
    return lines


if __name__ == "__main__":
    main()
