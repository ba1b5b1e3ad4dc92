"""A coin decides which of two ways a digit leaves a wall: which models sample both ways, and what they cost.

python -m experiments.branching --scale cpu

Two frames are known, and the coin is tossed after them. Every model has the same data and codec; numbers of steps
differ with what a step costs (see `Branching`). Each is asked for several samples of the same clips, which are held
against both futures. What is expected was fixed before the run and is judged over the seeds of the models; the world's
size and frame rate were chosen in pilots in which the model with a code did best.
"""

__all__ = ["draw", "main", "measure"]

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.branching_figures import draw_fans, draw_numbers, draw_strips
from experiments.branching_methods import METHODS, Branching, asked, sampled, train
from experiments.branching_scores import Futures, known_futures, score
from experiments.claims import claim
from experiments.recipes import branching
from experiments.run import run_experiment
from flowvid.compare.consistency import semigroup_levels
from flowvid.encoders.codec import Codec
from flowvid.metrics.branching import code_information
from flowvid.metrics.motion import centroid
from flowvid.models.coded import CodedMultiScale
from flowvid.models.continuous import MultiScale
from flowvid.models.video_model import LearnedModel
from flowvid.noise import Noise
from flowvid.train.checkpoint import save_tensors
from flowvid.train.run import latents
from flowvid.video import Condition, Trajectory, to_bytes

_SHOWN = 3
_FILMED = 2


def measure(run: Branching, *, work: Path | None = None) -> dict[str, Any]:
    """Every method's numbers, one for each seed of its models; paths and films of the first seed; the claims.

    Arguments:
        run: What to train and measure.
        work: Where weights and films are kept; default: a folder in ``out`` by the name of the run.
    """
    folder = work or Path("out") / run.name
    trained = train(run, folder)
    codec, known = trained.codec, known_futures(run, trained.codec)
    truth = _latents(run, codec, "test", run.clips)
    chosen = known.counts.nonzero()[:_SHOWN, 0].tolist()
    rows: dict[str, dict[str, list[float]]] = {}
    paths: dict[str, Any] = {}
    films: dict[str, Tensor] = {}

    def note(name: str, states: Tensor, costs: dict[str, float]) -> None:
        numbers, video = score(run, codec, states, known)
        for key, value in (numbers | costs).items():
            rows.setdefault(name, {}).setdefault(key, []).append(value)
        if name not in paths:
            tracks = centroid(video).cpu().unflatten(0, (run.clips, run.samples))[chosen]
            paths[name] = _rounded(tracks)
            films[name] = to_bytes(video.frames.unflatten(0, (run.clips, run.samples))[chosen[0], :_FILMED].cpu())

    for seed, models in trained.models.items():
        note("the law itself", _drawn(run, known, seed), {})
        for name, method in run.methods.items():
            found, costs = sampled(run, method, models, truth)
            note(name, found.trajectory.states.cpu(), costs)
    films["both futures"] = to_bytes(codec.frames(known.latents[chosen[0]].flatten(0, 1).to(truth.states)).cpu())
    films["both futures"] = films["both futures"].unflatten(0, (2, -1))
    given = codec.frames(truth.at(-run.run.frame, 0.0).states[chosen[0]])
    films["known"] = to_bytes(given.cpu())
    save_tensors(folder / "films.safetensors", films, {"times": asked(run)})
    code = _about_the_code(run, codec, trained.models)
    return {
        "methods": rows,
        "code": code,
        "paths": {
            "sampled": paths,
            "futures": _rounded(known.paths[chosen]),
            "start": _rounded(torch.stack([clip.positions([0.0])[:, 0] for clip in _clips(run, chosen)])),
        },
        "clips_that_count": int(known.counts.sum()),
        "seconds_of_training": {name: round(value, 1) for name, value in trained.seconds.items()},
        "claims": _claims(rows, code),
    }


def draw(content: dict[str, Any], folder: Path, *, work: Path | None = None) -> None:
    """Draw branching.png, branching_fans.png and, where films are kept, branching_film.png.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        work: Where films are kept; without them no film strip is drawn.
    """
    colours = {name: method.colour for name, method in METHODS.items()} | {"the law itself": "black"}
    draw_numbers(content, folder, colours)
    draw_fans(content, folder, colours)
    films = (work or Path("out") / content["recipe"]["name"]) / "films.safetensors"
    if films.exists():
        draw_strips(films, folder, list(content["methods"]))


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("branching", about, recipe=branching, measure=measure, draw=draw)


def _about_the_code(run: Branching, codec: Codec, models: dict[int, dict[str, LearnedModel]]) -> dict[str, list[Any]]:
    """Bits of the coin in the code, whether heads obey it, and semigroup gaps by level with and without it."""
    data = _latents(run, codec, "test", run.judged)
    start = Trajectory(data.states[:, : run.run.reach + 2], data.times[: run.run.reach + 2])
    condition = Condition(start.at(-run.run.frame, 0.0))
    heads = torch.tensor([clip.motions[0].coins[0] for clip in _clips(run, range(run.judged))])
    found: dict[str, list[Any]] = {"bits": [], "held": [], "gain": [], "kappa_with": [], "kappa_without": []}
    for trained in models.values():
        coded, plain = trained["coded"], trained["multiscale"]
        assert isinstance(coded, CodedMultiScale)
        assert isinstance(plain, MultiScale)
        with torch.no_grad():
            code = coded.encode_code(data, Noise.batch(0, run.judged))
            told = coded.report(data)
        found["bits"].append(code_information(code.cpu(), heads))
        found["held"].append(told.bits)
        found["gain"].append(told.gain)
        found["kappa_with"].append(semigroup_levels(coded.moves, start, condition, code=code))
        found["kappa_without"].append(semigroup_levels(plain, start, condition))
    return found


def _claims(rows: dict[str, dict[str, list[float]]], code: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """What was expected before the run."""
    plain, coded = rows["multi-scale, no code"], rows["multi-scale, code"]

    def less(one: str, other: str, key: str) -> list[float]:
        return [a - b for a, b in zip(rows[one][key], rows[other][key], strict=True)]

    def share(one: str, other: str, key: str) -> list[float]:
        return [a / b for a, b in zip(rows[one][key], rows[other][key], strict=True)]

    gaps = [sum(a) / sum(b) for a, b in zip(code["kappa_with"], code["kappa_without"], strict=True)]
    certain = [name for name, method in METHODS.items() if name in rows and not method.decides]
    most = [max(values) for values in zip(*(rows[name]["both"] for name in certain), strict=True)]
    equations = less("multi-scale, code", "kinetic SDE", "followed")
    found = [
        claim("B1", "no code: energy missing over the conditional variance", plain["missing"], least=0.6, most=1.4),
        claim("B2", "code: energy missing over the conditional variance", coded["missing"], least=-0.4, most=0.4),
        claim("B3", "code: bits of the coin in it", code["bits"], least=0.9),
        claim("B4", "semigroup gap with code over without", gaps, most=0.9),
        claim(
            "B5",
            "sharpness, code less no code",
            less("multi-scale, code", "multi-scale, no code", "sharpness"),
            least=0.0,
        ),
        claim("B6", "deterministic methods: clips with both futures, the most", most, most=0.0),
    ]
    for number, name in enumerate(("multi-scale, code", "frame flow", "clip flow", "clip diffusion, trunk")):
        found.append(claim(f"B{7 + number}", f"{name}: clips with both futures", rows[name]["both"], least=0.6))
    return [
        *found,
        claim("B11", "code: share of heads", coded["heads"], least=0.4, most=0.6),
        claim(
            "B12",
            "second differences, first-order SDE over kinetic SDE",
            share("first-order SDE", "kinetic SDE", "bend"),
            least=1.5,
        ),
        claim("B13", "samples that follow a future, code less kinetic SDE", equations, least=0.0),
        claim(
            "B14",
            "clips with both futures, anchors first less frame flow",
            less("anchors first", "frame flow", "both"),
            least=-0.15,
        ),
        claim("B15", "depth, anchors first over frame flow", share("anchors first", "frame flow", "depth"), most=0.3),
        claim(
            "B16",
            "depth, code over clip diffusion",
            share("multi-scale, code", "clip diffusion, trunk", "depth"),
            most=1.5,
        ),
    ]


def _drawn(run: Branching, known: Futures, seed: int) -> Tensor:
    """Samples of the law: a fair coin each."""
    heads = Noise.batch(seed, run.clips).uniform("law", run.samples) < 0.5
    rows = torch.arange(run.clips)[:, None].expand(-1, run.samples)
    return known.latents[rows, heads.long()].flatten(0, 1)


def _latents(run: Branching, codec: Codec, split: str, clips: int) -> Trajectory:
    device = str(next(codec.parameters()).device)
    return latents(run.run, codec, split, run.run.times, clips=clips, device=device)


def _clips(run: Branching, numbers: Any) -> list[Any]:
    return run.run.world.clips(numbers, "test")


def _rounded(values: Tensor) -> list[Any]:
    return (100 * values).round().div(100).tolist()


if __name__ == "__main__":
    main()
