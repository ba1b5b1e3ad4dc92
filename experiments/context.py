r"""How much is known of a flight: with one frame the best single answer stands still, and samples fly anywhere (F10).

python -m experiments.context --scale cpu

A frame tells the place of a digit, not where it goes. Least squares then learns the mean displacement E[z' - z | z],
which is nearly none, and the video freezes; two frames tell the velocity. Here that mean is known from the world, and
so is how little it moves. For any answer d of least squares to a displacement D the projection says

    E |d|^2 = E <d, D> = E |D|^2 - E |d - D|^2,

so its *energy* E |d|^2 / E |D|^2 is its *explained* share 1 - E |d - D|^2 / E |D|^2, and samples of the right law have
energy 1 whatever they know. What is expected was fixed before the run and is judged over the seeds of the models.

References:
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), https://arxiv.org/abs/1502.04681
"""

__all__ = ["draw", "main", "measure", "motion_scores"]

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from torch import Tensor

from experiments.claims import claim, interval
from experiments.context_methods import CONTEXTS, METHODS, Context, asked, known_times, mean_future, predicted, train
from experiments.recipes import context
from experiments.run import run_experiment
from flowvid.data.worlds.clips import Clip, clip_positions
from flowvid.encoders.codec import Codec
from flowvid.metrics.diversity import best_of
from flowvid.metrics.motion import centroid
from flowvid.plot.film import Strip, film_strips
from flowvid.plot.lines import Line, draw_lines, draw_panels
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.run import latents
from flowvid.video import Trajectory, from_bytes, time_grid, to_bytes

_COLOURS = dict(zip(METHODS, ("blue", "vermilion", "purple", "green", "orange"), strict=True))
_LAW = "the law's mean"
_FILMED = 2
_SHOWN = (
    "truth",
    "1 frame: the law's mean",
    "1 frame: regression",
    "1 frame: frame flow",
    "2 frames: regression",
    "2 frames: multi-scale",
    "2 frames, end: multi-scale",
)


def measure(run: Context, *, work: Path | None = None) -> dict[str, Any]:
    """Every method's numbers in every context it takes, one for each seed; the law; the claims.

    Arguments:
        run: What to train and measure.
        work: Where weights and films are kept; default: a folder in ``out`` by the name of the run.
    """
    folder = work or Path("out") / run.name
    trained = train(run, folder)
    clips = [clip for clip in run.run.world.clips(range(run.clips), "test") if isinstance(clip, Clip)]
    assert all(isinstance(clip, Clip) for clip in clips)
    device = str(next(trained.codec.parameters()).device)
    times = time_grid(min(known_times(run, "4 frames")), run.run.horizon, run.run.frame)
    truth = latents(run.run, trained.codec, "test", times, clips=run.clips, device=device)
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}
    films: dict[str, Tensor] = {"truth": _film(trained.codec, truth.at(*asked(run)).states)}

    def note(told: str, method: str, states: Tensor) -> None:
        numbers = motion_scores(run, trained.codec, states, truth, clips)
        for key, value in numbers.items():
            rows.setdefault(told, {}).setdefault(method, {}).setdefault(key, []).append(value)
        films.setdefault(f"{told}: {method}", _film(trained.codec, states[:, 0]))

    note("1 frame", _LAW, mean_future(run, trained.codec, clips, device=device)[:, None])
    for models in trained.models.values():
        for told in CONTEXTS:
            for method in METHODS:
                states = predicted(run, models, method, told, truth)
                if states is not None:
                    note(told, method, states)
    save_tensors(folder / "films.safetensors", films, {"times": asked(run), "names": list(films)})
    refused = [f"{told}: {method}" for told in CONTEXTS for method in METHODS if method not in rows[told]]
    seconds = {name: round(value, 1) for name, value in trained.seconds.items()}
    return {"contexts": rows, "refused": refused, "seconds_of_training": seconds, "claims": _claims(rows)}


@torch.no_grad()
def motion_scores(
    run: Context,
    codec: Codec,
    states: Float[Tensor, "clip sample time channel height width"],
    truth: Trajectory,
    clips: list[Clip],
) -> dict[str, float]:
    """How far predicted videos move, and where to.

    Of latents, over all but the last frame, which may be known: *energy* and *explained* as above, mean over samples.
    Of positions in pixels: *way*, the mean distance from frame 0 relative to the truth; *along*, the share of the true
    displacement that is met, E <d, D> / E |D|^2; and the errors of one sample and of the best of all.

    Arguments:
        run: What is measured.
        codec: The codec.
        states: Predicted latents.
        truth: True latents.
        clips: What they are of.
    """
    device, inner = truth.states.device, slice(0, -1)
    start = truth.at(0.0).states.cpu()
    wanted = (truth.at(*asked(run)).states.cpu() - start)[:, None, inner]
    moved = (states.cpu() - start[:, None])[:, :, inner]
    whole = wanted.square().mean()
    decoded = codec.decode(Trajectory(states.flatten(0, 1).to(device), torch.tensor(asked(run)).double()))
    paths = centroid(decoded).cpu().unflatten(0, states.shape[:2])
    places = clip_positions(clips, [0.0, *asked(run)])[:, :, 0]
    return {
        "energy": float(moved.square().mean() / whole),
        "explained": float(1 - (moved - wanted).square().mean() / whole),
    } | _of_paths(paths[:, :, inner], places[:, :-1])


def _of_paths(
    paths: Float64[Tensor, "clip sample time 2"], places: Float64[Tensor, "clip place 2"]
) -> dict[str, float]:
    start, true = places[:, None, :1], places[:, None, 1:]
    moved, wanted = paths - start, true - start
    errors = (paths - true).norm(dim=-1).mean(dim=2)
    best = best_of(errors, (1, errors.shape[1])).mean(dim=0)
    return {
        "way": float(moved.norm(dim=-1).mean() / wanted.norm(dim=-1).mean()),
        "along": float((moved * wanted).sum(dim=-1).mean() / wanted.square().sum(dim=-1).mean()),
        "error_one": float(best[0]),
        "error_best": float(best[1]),
    }


def draw(content: dict[str, Any], folder: Path, *, work: Path | None = None) -> None:
    """Draw context.png with a PDF of each panel and, where films are kept, context_film.png.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        work: Where films are kept; without them no film strip is drawn.
    """
    titles = {
        "energy": ("Energy of displacements", "relative to the truth"),
        "way": ("Distance travelled", "relative to the truth"),
        "along": ("Displacement met", "share of the truth"),
        "error_best": ("Position, best of all samples", "pixels"),
    }
    panels = {key: partial(_by_context, content, key, title, unit) for key, (title, unit) in titles.items()}
    draw_panels(folder, "context", panels)
    films = (work or Path("out") / content["recipe"]["name"]) / "films.safetensors"
    if films.exists():
        _draw_films(films, folder)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("context", about, recipe=context, measure=measure, draw=draw)


def _claims(rows: dict[str, dict[str, dict[str, list[float]]]]) -> list[dict[str, Any]]:
    """What was expected before the run."""
    one, two, end = rows["1 frame"], rows["2 frames"], rows["2 frames, end"]
    law = one[_LAW]

    def less(first: dict[str, list[float]], second: dict[str, list[float]], *keys: str) -> list[float]:
        return [a - b for a, b in zip(first[keys[0]], second[keys[-1]], strict=True)]

    frozen, pair = one["regression"], two["regression"]
    off = [value - law["energy"][0] for value in frozen["energy"]]
    drift = less(one["frame flow, multi-scale"], one["frame flow"], "along")
    return [
        claim("C1", "1 frame, regression: energy of displacements", frozen["energy"], most=0.6),
        claim("C2", "1 frame, regression: energy less the law's", off, least=-0.1, most=0.1),
        claim(
            "C3",
            "1 frame, regression: energy less explained",
            less(frozen, frozen, "energy", "explained"),
            least=-0.1,
            most=0.1,
        ),
        claim("C4", "1 frame, regression: displacement of positions met", frozen["along"], most=0.3),
        claim("C5", "2 frames less 1, regression: displacement met", less(pair, frozen, "along"), least=0.3),
        claim(
            "C6",
            "2 frames, regression: energy less explained",
            less(pair, pair, "energy", "explained"),
            least=-0.1,
            most=0.1,
        ),
        claim("C7", "1 frame, samples of frame flow: energy", one["frame flow"]["energy"], least=0.8, most=1.2),
        claim(
            "C8", "1 frame, samples of frame flow: distance travelled", one["frame flow"]["way"], least=0.7, most=1.3
        ),
        claim(
            "C9", "1 frame, samples of frame flow: displacement met", one["frame flow"]["along"], least=-0.1, most=0.3
        ),
        claim("C10", "2 frames, multi-scale: displacement met", two["multi-scale"]["along"], least=0.7),
        claim(
            "C11",
            "2 frames, code less no code: displacement met",
            less(two["multi-scale, code"], two["multi-scale"], "along"),
            least=-0.1,
            strict=False,
        ),
        claim(
            "C12",
            "4 frames less 2, multi-scale: displacement met",
            less(rows["4 frames"]["multi-scale"], two["multi-scale"], "along"),
            least=-0.1,
            most=0.1,
        ),
        claim(
            "C13",
            "end less none, multi-scale: position in pixels",
            less(end["multi-scale"], two["multi-scale"], "error_one"),
            most=0.0,
        ),
        claim(
            "C14",
            "1 frame: first step drawn, then multi-scale, less frame flow: displacement met",
            drift,
            least=-0.2,
            most=0.2,
        ),
    ]


def _by_context(content: dict[str, Any], key: str, title: str, unit: str, axis: Axes) -> list[Line]:
    rows = content["contexts"]
    lines: list[Line] = []
    for number, method in enumerate(METHODS):
        there = [place for place, told in enumerate(CONTEXTS) if method in rows[told]]
        found = [interval(rows[CONTEXTS[place]][method][key]) for place in there]
        marks = {"low": [part.low for part in found], "high": [part.high for part in found], "marker": "o"}
        x, y = [place + 0.06 * (number - 2) for place in there], [part.mean for part in found]
        style = "" if len(x) == 1 else "-"
        lines.append(Line(x=x, y=y, colour=_COLOURS[method], name=method, style=style, **marks))
    law = rows["1 frame"][_LAW][key]
    lines.append(Line(x=[0.2], y=law, colour="black", name=_LAW, style="", marker="D"))
    draw_lines(axis, lines, title=title, xlabel="", ylabel=unit)
    axis.set_xticks(range(len(CONTEXTS)), [told.replace(", ", ",\n") for told in CONTEXTS])
    if key != "error_best":
        axis.axhline(1.0, color="#444444", linewidth=0.7, linestyle="--")
        axis.set_ylim(-0.3, 1.5)
    return lines


@torch.no_grad()
def _film(codec: Codec, states: Tensor) -> Tensor:
    device = next(codec.parameters()).device
    shown = states[:_FILMED].to(device)
    return to_bytes(codec.frames(shown.flatten(0, 1)).cpu()).unflatten(0, shown.shape[:2])


def _draw_films(path: Path, folder: Path) -> None:
    tensors, about = load_tensors(path)
    panels = [
        (f"clip {clip}", about["times"], [Strip(name, from_bytes(tensors[name][clip])) for name in _SHOWN])
        for clip in range(len(tensors["truth"]))
    ]
    film_strips(folder / "context_film.png", panels, known=[[]] * len(panels))


if __name__ == "__main__":
    main()
