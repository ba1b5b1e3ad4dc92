"""The end first: draw the last frame, then fill in; against whole clips at equal time and at equal evaluations.

python -m experiments.endpoint --scale cpu

Two frames are known, the last is drawn by a flow, and a deterministic model fills in. Rivals sample the whole clip
together by DDIM, with as many steps as cost the same milliseconds, and with as many as make the same evaluations; and
with fifty. A flight is determined by the two frames; in the two-way world a coin is tossed on the way. Off the grid, a
third of a frame after each, the multi-scale field, bisection and clip models answer themselves, while the trunk rival
blends neighbours. What is expected was fixed before the run and is judged over the seeds of the models.

References:
    Flexible Diffusion Modeling of Long Videos (Harvey et al., 2022), https://arxiv.org/abs/2205.11495
    Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502
"""

__all__ = ["draw", "main", "measure", "path_scores"]

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from experiments.claims import claim
from experiments.endpoint_methods import COLOURS, Endpoint, Place, Way, asked, ours, rivals, sampled, train
from experiments.recipes import endpoint
from experiments.run import run_experiment
from flowvid.data.files import write_atomically
from flowvid.data.worlds.scene import scene_positions
from flowvid.encoders.codec import Codec
from flowvid.metrics.diversity import best_of
from flowvid.metrics.motion import centroid
from flowvid.metrics.rhythm import heartbeat, sharpness
from flowvid.plot.film import Strip, film_strips
from flowvid.plot.lines import COLOURS as INKS
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.plan import Run
from flowvid.train.run import latents
from flowvid.video import Trajectory, from_bytes, to_bytes

_MAIN = "frame flow, multi-scale"
_THIRD = 1 / 3
_COLUMNS = (
    ("error_one", "one sample,\npixels", None, False),
    ("error_best", "best of all,\npixels", None, False),
    ("error_mean", "mean path,\npixels", None, False),
    ("end_best", "end, best,\npixels", None, False),
    ("off_grid", "off the grid,\nbest, pixels", None, False),
    ("heartbeat", "heartbeat", 1.0, False),
    ("seam", "last step /\nothers", 1.0, False),
    ("sharpness", "sharpness /\ntruth", 1.0, False),
    ("evaluations", "evaluations", None, True),
    ("depth", "depth", None, True),
    ("milliseconds", "ms a clip", None, True),
)


def measure(run: Endpoint, *, work: Path | None = None) -> dict[str, Any]:
    """Every method's numbers in each world, one for each seed of its models; the claims.

    Arguments:
        run: What to train and measure.
        work: Where weights and films are kept; default: a folder in ``out`` by the name of the run.
    """
    folder = work or Path("out") / run.name
    found = {name: _measure_place(run, place, folder / name) for name, place in run.places.items()}
    return {"places": found, "claims": _claims({name: part["methods"] for name, part in found.items()})}


def _measure_place(run: Endpoint, place: Place, folder: Path) -> dict[str, Any]:
    setup, trained = place.run, train(place, run.seeds, folder)
    device = str(next(trained.codec.parameters()).device)
    truth = latents(setup, trained.codec, "test", setup.times, clips=run.clips, device=device)
    rows: dict[str, dict[str, list[float]]] = {}
    films = {"truth": _film(trained.codec, truth.at(0.0, *asked(setup)).states[:, None])}
    steps: dict[str, list[str]] = {}

    def note(name: str, way: Way) -> dict[str, float]:
        states, numbers = sampled(setup, way, truth, samples=run.samples)
        between, _ = sampled(setup, way, truth, samples=run.samples, shift=_THIRD)
        numbers |= _scores(run, setup, trained.codec, truth, states)
        times = asked(setup, shift=_THIRD)[:-1]
        numbers["off_grid"] = _errors(run, setup, trained.codec, between[:, :, :-1], times)["error_best"]
        for key, value in numbers.items():
            rows.setdefault(name, {}).setdefault(key, []).append(value)
        start = truth.at(0.0).states[:, None].expand(-1, states.shape[1], -1, -1, -1, -1)
        films.setdefault(name, _film(trained.codec, torch.cat((start, states.to(start)), dim=2)))
        return numbers

    for models in trained.models.values():
        budget: dict[str, float] = {}
        for name, way in ours(setup, models).items():
            cost = note(name, way)
            budget = cost if name == _MAIN else budget
        for name, way in rivals(setup, models, truth, budget).items():
            note(name, way)
            steps.setdefault(name, []).append(way.solver or "")
    save_tensors(folder / "films.safetensors", films, {"times": [0.0, *asked(setup)], "names": list(films)})
    seconds = {name: round(value, 1) for name, value in trained.seconds.items()}
    return {"methods": rows, "steps": steps, "seconds_of_training": seconds}


@torch.no_grad()
def _scores(run: Endpoint, setup: Run, codec: Codec, truth: Trajectory, states: Tensor) -> dict[str, float]:
    """All that samples on the grid tell."""
    times = asked(setup)
    start = truth.at(0.0).states[:, None].expand(-1, states.shape[1], -1, -1, -1, -1)
    shown = torch.cat((start, states.to(start)), dim=2).flatten(0, 1)
    video = codec.decode(Trajectory(shown, torch.tensor([0.0, *times]).double()))
    true = sharpness(codec.decode(truth.at(*times))).mean()
    steps = shown.diff(dim=1).flatten(2).norm(dim=2)
    return _errors(run, setup, codec, states, times) | {
        "heartbeat": float(heartbeat(video, [0.0, times[-1]]).mean()),
        "seam": float((steps[:, -1] / steps[:, :-1].mean(dim=1)).mean()),
        "sharpness": float(sharpness(video)[:, 1:].mean() / true),
    }


@torch.no_grad()
def _errors(run: Endpoint, setup: Run, codec: Codec, states: Tensor, times: list[float]) -> dict[str, float]:
    device = next(codec.parameters()).device
    video = codec.decode(Trajectory(states.flatten(0, 1).to(device), torch.tensor(times).double()))
    places = scene_positions(setup.world.clips(range(run.clips), "test"), times)[:, :, 0]
    return path_scores(centroid(video).cpu().unflatten(0, states.shape[:2]), places)


def path_scores(
    paths: Float64[Tensor, "clip sample time 2"], places: Float64[Tensor, "clip time 2"]
) -> dict[str, float]:
    """Distances in pixels from what came about: of one sample, of the best of all, of the mean path, and at the end.

    Arguments:
        paths: Sampled positions.
        places: True positions.
    """
    errors = (paths - places[:, None]).norm(dim=-1)
    best = best_of(errors.mean(dim=2), (1, errors.shape[1])).mean(dim=0)
    end = best_of(errors[:, :, -1], (1, errors.shape[1])).mean(dim=0)
    return {
        "error_one": float(best[0]),
        "error_best": float(best[1]),
        "error_mean": float((paths.mean(dim=1) - places).norm(dim=-1).mean()),
        "end_one": float(end[0]),
        "end_best": float(end[1]),
    }


def draw(content: dict[str, Any], folder: Path, *, work: Path | None = None) -> None:
    """Draw endpoint.png, a dot for each method, world and seed, and endpoint_WORLD_film.png where films are kept.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        work: Where films are kept; without them no film strip is drawn.
    """
    places = content["places"]
    names = list(next(iter(places.values()))["methods"])
    size = (1.1 * len(_COLUMNS) + 2.6, (0.2 * len(names) + 0.55) * len(places) + 0.2)
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    axes = figure.subplots(len(places), len(_COLUMNS), sharey=True, squeeze=False)
    for (place, part), row in zip(places.items(), axes, strict=True):
        for axis, (key, title, ideal, logarithmic) in zip(row, _COLUMNS, strict=True):
            _dots(axis, part["methods"], key, logarithmic=logarithmic)
            axis.set_title(title, fontsize=7, loc="left")
            if ideal is not None:
                axis.axvline(ideal, color="#444444", linewidth=0.7, linestyle="--")
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.set_yticks(range(len(names)), names)
        row[0].set_ylabel(place, fontsize=8)
    write_atomically(folder / "endpoint.png", lambda target: figure.savefig(target))
    for place in places:
        films = (work or Path("out") / content["recipe"]["name"]) / place / "films.safetensors"
        if films.exists():
            _draw_films(films, folder / f"endpoint_{place}_film.png", place)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("endpoint", about, recipe=endpoint, measure=measure, draw=draw)


def _claims(places: dict[str, dict[str, dict[str, list[float]]]]) -> list[dict[str, Any]]:
    """What was expected before the run."""
    found: list[dict[str, Any]] = []
    for place, rows in places.items():

        def over(one: str, other: str, key: str, rows: dict[str, dict[str, list[float]]] = rows) -> list[float]:
            return [a / b for a, b in zip(rows[one][key], rows[other][key], strict=True)]

        def less(one: str, other: str, key: str, rows: dict[str, dict[str, list[float]]] = rows) -> list[float]:
            return [a - b for a, b in zip(rows[one][key], rows[other][key], strict=True)]

        for rival in ("clip diffusion, trunk", "clip diffusion", "clip flow"):
            for budget in ("equal time", "equal NFE"):
                says = f"{place}: best of all, end first over {rival} at {budget}"
                found.append(claim("", says, over(_MAIN, f"{rival}, {budget}", "error_best"), most=1.0))
        trunk = "clip diffusion, trunk, 50 steps"
        found += [
            claim(
                "",
                f"{place}: best of all, end first over the trunk with 50 steps",
                over(_MAIN, trunk, "error_best"),
                most=1.25,
            ),
            claim(
                "",
                f"{place}: time, end first over the trunk with 50 steps",
                over(_MAIN, trunk, "milliseconds"),
                most=1.0,
            ),
            claim(
                "",
                f"{place}: multi-scale over bisection, one sample",
                over(_MAIN, "frame flow, bisection", "error_one"),
                most=1.1,
                strict=False,
            ),
            claim(
                "",
                f"{place}: a pair less a single end, one sample in pixels",
                less("frame flow, pair, multi-scale", _MAIN, "error_one"),
                least=-0.2,
                most=0.2,
            ),
            claim(
                "",
                f"{place}: true end less drawn end, one sample in pixels",
                less("true end, multi-scale", _MAIN, "error_one"),
                most=0.0,
            ),
            claim(
                "",
                f"{place}: off the grid over on it",
                [a / b for a, b in zip(rows[_MAIN]["off_grid"], rows[_MAIN]["error_best"], strict=True)],
                most=1.25,
            ),
            claim("", f"{place}: heartbeat of the end first", rows[_MAIN]["heartbeat"], least=0.7, most=1.3),
            claim("", f"{place}: the last step over the others", rows[_MAIN]["seam"], least=0.7, most=1.4),
        ]
    return [part | {"key": f"E{number}"} for number, part in enumerate(found, start=1)]


def _dots(axis: Axes, rows: dict[str, dict[str, list[float]]], key: str, *, logarithmic: bool) -> None:
    for place, (name, numbers) in enumerate(rows.items()):
        colour = next(COLOURS[part] for part in (name, name.rsplit(", ", 1)[0]) if part in COLOURS)
        axis.plot(numbers[key], [place] * len(numbers[key]), "o", color=INKS[colour], markersize=2.8, alpha=0.8)
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.ticklabel_format(axis="x", useOffset=False)
    axis.tick_params(labelsize=6.5, length=2)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


@torch.no_grad()
def _film(codec: Codec, states: Tensor) -> Tensor:
    """The first clip's first two samples, as bytes."""
    shown = states[0, :2].to(next(codec.parameters()).device)
    return to_bytes(codec.frames(shown.flatten(0, 1)).cpu()).unflatten(0, shown.shape[:2])


def _draw_films(path: Path, target: Path, place: str) -> None:
    tensors, about = load_tensors(path)
    shown = [name for name in about["names"] if "NFE" not in name]
    strips = [Strip(name, from_bytes(tensors[name][0])) for name in shown]
    film_strips(target, [(place, about["times"], strips)], known=[[0.0]])


if __name__ == "__main__":
    main()
