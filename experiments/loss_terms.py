"""Loss terms of transition heads, each on and off: consistency, roll-out, restoring rate, second differences.

python -m experiments.loss_terms --scale cpu

One digit in straight flight with reflections: given two frames its future is determined, so self-consistency is
legitimate without a code. Every model has the same data, codec, initial weights, draws and steps. Differences from the
regression alone are taken seed by seed.
"""

__all__ = ["TERMS", "draw", "main", "measure"]

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from experiments.claims import claim
from experiments.recipes import Terms, loss_terms
from experiments.run import run_experiment
from flowvid.compare.consistency import semigroup_levels
from flowvid.data.worlds.clips import World, clip_positions
from flowvid.encoders.codec import Codec
from flowvid.metrics.motion import position_error
from flowvid.models.continuous import MultiScale
from flowvid.models.loss_terms import REGRESSION, LossTerms
from flowvid.noise import Noise
from flowvid.plot.lines import Line, draw_lines, draw_panels
from flowvid.train.loop import fit
from flowvid.train.run import latents, train_codec
from flowvid.video import Condition, Trajectory, Video, time_grid

TERMS = {
    "regression": REGRESSION,
    "consistency": LossTerms(consistency=0.3, deterministic=True),
    "roll-out": LossTerms(rollout=0.2, jumps=3),
    "restoring": LossTerms(restoring=2.0),
    "bending": LossTerms(bending=0.3),
    "all": LossTerms(consistency=0.3, deterministic=True, rollout=0.2, jumps=3, restoring=2.0, bending=0.3),
}
"""What each model's loss holds, fixed before the run."""


def measure(run: Terms, *, work: Path | None = None) -> dict[str, Any]:
    """Semigroup gap, position error and second differences of every model and seed, and the claims.

    Arguments:
        run: What to train and measure.
        work: Where the codec is kept; default: a folder in ``out`` by the name of the run.
    """
    setup = run.run
    codec = train_codec(setup, work or Path("out") / run.name).network
    train, validation = (
        latents(setup, codec, split, setup.times, clips=count, device="cpu")
        for split, count in (("train", setup.clips), ("validation", setup.validation_clips))
    )
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in run.seeds:
        for name, terms in TERMS.items():
            model = _trained(run, terms, seed, train, validation)
            for key, value in _scores(run, model, codec).items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    return {"methods": rows, "claims": _claims(rows)}


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw loss_terms.png and a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    titles = {"kappa": "semigroup gap", "position": "position error, pixels", "bend": "second differences, ratio"}
    draw_panels(folder, "loss_terms", {key: partial(_panel, content, key, title) for key, title in titles.items()})


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("loss_terms", about, recipe=loss_terms, measure=measure, draw=draw)


def _trained(run: Terms, terms: LossTerms, seed: int, train: Trajectory, validation: Trajectory) -> MultiScale:
    setup = run.run
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = MultiScale(
            setup.channels,
            frame=setup.frame,
            scales=setup.scales,
            reach=setup.reach,
            width=setup.width,
            bounded=0.0,
            terms=terms,
        )
    model.prepare(train)

    def objective(noise: Noise) -> Tensor:
        chosen = noise.integers("clip", 0, len(train))
        return model.loss(Trajectory(train.states[chosen], train.times), noise)

    fit(model, objective, dataclasses.replace(setup.model, seed=seed))
    model.requires_grad_(False)
    model.finish(validation)
    return model


@torch.no_grad()
def _scores(run: Terms, model: MultiScale, codec: Codec) -> dict[str, float]:
    """Mean semigroup gap over levels; position error; second differences of samples over those of the data."""
    setup = run.run
    assert isinstance(setup.world, World), "positions are those of digits"
    times = time_grid(-setup.frame, setup.horizon, setup.frame)
    clips = setup.world.clips(range(run.clips), "test")
    truth = latents(setup, codec, "test", times, clips=run.clips, device="cpu")
    condition = Condition(truth.at(-setup.frame, 0.0))
    asked = times[2:].tolist()
    sampled = model.sample(condition, asked, Noise.batch(0, run.clips), solver="jump").trajectory
    gaps = semigroup_levels(model, truth, condition)
    video = codec.decode(sampled)
    places = position_error(
        Video(video.frames.clamp(-1, 1), video.times), clip_positions(clips, sampled.times)[:, :, 0]
    )
    bend = [states.diff(n=2, dim=1).square().mean().sqrt() for states in (sampled.states, truth.states[:, 2:])]
    return {"kappa": sum(gaps) / len(gaps), "position": float(places.mean()), "bend": float(bend[0] / bend[1])}


def _claims(rows: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """What was expected before the run."""
    plain = rows["regression"]

    def less(name: str, key: str) -> list[float]:
        return [one - two for one, two in zip(rows[name][key], plain[key], strict=True)]

    def off(name: str) -> list[float]:
        pairs = zip(rows[name]["bend"], plain["bend"], strict=True)
        return [abs(one - 1) - abs(two - 1) for one, two in pairs]

    return [
        claim("L1", "self-consistency less regression, semigroup gap", less("consistency", "kappa"), most=0.0),
        claim("L2", "roll-out less regression, position error", less("roll-out", "position"), most=0.0),
        claim("L3", "restoring rate less regression, position error", less("restoring", "position"), most=0.0),
        claim("L4", "bending less regression, second differences off the data's", off("bending"), most=0.0),
        claim("L5", "all less regression, position error", less("all", "position"), most=0.0),
    ]


def _panel(content: dict[str, Any], key: str, title: str, axis: Axes) -> list[Line]:
    """One mark for each model and seed."""
    rows = content["methods"]
    lines = []
    for place, name in enumerate(rows):
        values = rows[name][key]
        lines.append(Line(x=[place] * len(values), y=values, colour="blue", name=name, style="", marker="o"))
    draw_lines(axis, lines, title=title, xlabel="", ylabel="")
    axis.set_xticks(range(len(rows)), list(rows), rotation=30, ha="right")
    return []


if __name__ == "__main__":
    main()
