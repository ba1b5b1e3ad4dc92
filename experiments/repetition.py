"""What repeats in a clock over days, a loop and a flight; what is kept, what is merged wrongly, what training saves.

python -m experiments.repetition --scale cpu
"""

__all__ = ["Repeats", "draw", "found_in", "main", "measure", "recipe"]

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from experiments.claims import Interval, claim, interval
from experiments.recipes import SCALES
from experiments.repeated_worlds import Footing, clock, flight, loop, mixture
from experiments.run import run_experiment
from experiments.unique_training import WAYS, Learning, learn, steps_to
from flowvid.data.repetition.find import FrameStore, Repetition, find_repetition
from flowvid.data.repetition.perceptual_hash import RADIUS, SCALE, local_means, perceptual_hash
from flowvid.data.repetition.same_frames import CEILING
from flowvid.data.worlds.digits import load_glyphs, render
from flowvid.plot.lines import Line, draw_lines, draw_panels

_FPS = 16.0
_COLOURS = {"all": "black", "unique": "blue", "evenly": "vermilion"}
_NAMES = {"all": "all frames", "unique": "unique, weighted", "evenly": "unique, evenly"}


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """What is measured about repetition.

    Arguments:
        seeds: Of digits, starts and training.
        days: Of the clock, from the first of January at midnight.
        step: Seconds between its frames.
        side: Its pixels.
        turns: How often the loop is shown.
        turn: Frames of one turn.
        flight: Frames of the flight.
        learning: How the regressor is trained on the loop and then the flight.
    """

    seeds: tuple[int, ...]
    days: int
    step: float
    side: int
    turns: int
    turn: int
    flight: int
    learning: Learning


def recipe(scale: str) -> Repeats:
    """A complete description.

    Arguments:
        scale: quick takes seconds, cpu some minutes on one core, gpu about half an hour on one core.

    Raises:
        ValueError: The scale is unknown.
    """
    match scale:
        case "quick":
            learning = Learning(steps=120, batch=16, windows=256, width=96)
            return Repeats(seeds=(0, 1), days=2, step=720.0, side=40, turns=8, turn=32, flight=96, learning=learning)
        case "cpu":
            learning = Learning(steps=1000)
            return Repeats(
                seeds=(0, 1, 2, 3, 4), days=4, step=120.0, side=48, turns=16, turn=32, flight=128, learning=learning
            )
        case "gpu":
            learning = Learning(steps=4000, windows=16384, width=512)
            return Repeats(
                seeds=tuple(range(10)), days=4, step=60.0, side=64, turns=32, turn=64, flight=256, learning=learning
            )
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


def found_in(footing: Footing) -> Repetition:
    """What repeats in footage, with everything at its defaults."""
    with FrameStore() as store:
        store.read("footage", zip(footing.times.split(32), footing.pixels.split(32), strict=True))
        return find_repetition(store)


def measure(run: Repeats) -> dict[str, Any]:
    """All numbers and claims."""
    worlds, claims = _worlds(run)
    digits, more = _digits()
    training, most = _training(run)
    return {"worlds": worlds, "digits": digits, "training": training, "claims": [*claims, *more, *most]}


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw repetition.png and a PDF of each panel.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
    """
    panels = {
        "kept": partial(_kept, content),
        "digits": partial(_distances, content),
        "even": partial(_curves, content, "even", "Distinct moments alike"),
        "own": partial(_curves, content, "own", "The footage's own law"),
    }
    draw_panels(folder, "repetition", panels)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("repetition", about, recipe=recipe, measure=measure, draw=draw)


def _worlds(run: Repeats) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Frames kept, merged wrongly and the period, for every kind of footage and seed."""
    numbers: dict[str, Any] = {}
    claims: list[dict[str, Any]] = []
    for name in ("clock", "clock with date", "loop", "flight"):
        rows = [_row(_footing(run, name, seed)) for seed in run.seeds]
        numbers[name] = {key: [row[key] for row in rows] for key in rows[0]}
        says = f"{name}: kept frames over distinct ones"
        claims += [
            claim("R1", says, [row["kept"] / row["distinct"] for row in rows], least=1.0, most=1.0),
            claim("R2", f"{name}: frames merged with one that shows something else", numbers[name]["wrong"], most=0.0),
        ]
        if rows[0]["true_period"] is not None:
            off = [abs((row["period"] or math.inf) / row["true_period"] - 1) for row in rows]
            claims.append(claim("R3", f"{name}: relative error of the period", off, most=1e-3))
    return numbers, claims


def _footing(run: Repeats, name: str, seed: int, offset: float = 0.0) -> Footing:
    match name:
        case "loop":
            return loop(turns=run.turns, frames=run.turn, fps=_FPS, seed=seed, offset=offset)
        case "flight":
            return flight(frames=run.flight, fps=_FPS, seed=seed, offset=offset)
        case _:
            return clock(
                days=run.days, step=run.step, side=run.side, start=3000.0 * seed, dated=name == "clock with date"
            )


def _row(footing: Footing) -> dict[str, Any]:
    found = found_in(footing)
    return {
        "frames": found.frames,
        "kept": found.kept,
        "distinct": len(np.unique(footing.content)),
        "wrong": int((footing.content[found.representative.numpy()] != footing.content).sum()),
        "period": found.period(0),
        "true_period": footing.period,
    }


def _digits() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All pairs of the handwritten digits, drawn at one place: by hash, and by local means."""
    banks = [load_glyphs(split) for split in ("train", "validation", "test")]
    glyphs, labels = torch.cat([bank.images for bank in banks]), torch.cat([bank.labels for bank in banks])
    places = torch.full((len(glyphs), 1, 2), 16.0, dtype=torch.float64)
    frames = render(glyphs, places, torch.zeros(len(glyphs), 1, dtype=torch.float64), canvas=32, scale=2)
    pixels = (frames * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    hashes = perceptual_hash(pixels)
    means = torch.from_numpy(local_means(pixels)[:, : 32 * 32]).float() / SCALE
    means = means[:, means.amax(0) > 0]
    merged, alike, least, counts = 0, 0, math.inf, np.zeros(256, dtype=np.int64)
    pairs = 0
    for first in range(len(glyphs) - 1):
        other = labels[first + 1 :] != labels[first]
        distance = (means[first + 1 :][other] - means[first]).abs().amax(1)
        pairs += len(distance)
        merged += int((distance <= CEILING).sum())
        least = min(least, float(distance.min()))
        counts += np.bincount(distance.long().numpy(), minlength=256)
        alike += int((np.bitwise_count(hashes[first + 1 :] ^ hashes[first]) <= RADIUS)[other.numpy()].sum())
    share = alike / pairs
    numbers = {"pairs": pairs, "merged": merged, "same_hash": alike, "least": least, "counts": counts.tolist()}
    return numbers, [
        claim("R4", "pairs of different digits at one place that are one frame", _exact(merged), most=0.0),
        claim("R4", "share of them that the hash alone takes for one", _exact(share), least=1e-4),
        claim("R4", "least difference of two over the greatest tolerance", _exact(least / CEILING), least=2.0),
    ]


def _training(run: Repeats) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Errors while training in every way, and the steps saved."""
    footings, later = (
        [mixture(_footing(run, "loop", seed, offset), _footing(run, "flight", seed, offset)) for seed in run.seeds]
        for offset in (0.0, 0.5)
    )
    found = [found_in(footing) for footing in footings]
    errors = {
        way: [
            learn(run.learning, one, other, repetition, fps=_FPS, way=way, seed=seed)
            for seed, one, other, repetition in zip(run.seeds, footings, later, found, strict=True)
        ]
        for way in WAYS
    }
    same = [a["own"][-1] / b["own"][-1] for a, b in zip(errors["unique"], errors["all"], strict=True)]
    every = run.learning.every
    saved = [
        min(steps_to(a["even"], b["even"][-1], every) / run.learning.steps, 10.0)
        for a, b in zip(errors["evenly"], errors["all"], strict=True)
    ]
    numbers = {
        "share": [one.share for one in found],
        "steps": [*range(0, run.learning.steps, every), run.learning.steps],
        "errors": {
            way: {
                name: [asdict(interval(values)) for values in zip(*(row[name] for row in rows), strict=True)]
                for name in ("own", "even")
            }
            for way, rows in errors.items()
        },
    }
    return numbers, [
        claim(
            "R5",
            "error on the unique part with weights over that on all frames, equal steps",
            same,
            most=1.05,
            strict=False,
        ),
        claim("R5", "share of the frames that an epoch reads", numbers["share"], most=0.5),
        claim("R6", "steps on the unique part, evenly, to the last error on all frames", saved, most=0.9),
    ]


def _exact(value: float) -> Interval:
    """A number without a spread: it was counted over everything."""
    return Interval(value, value, value)


def _kept(content: dict[str, Any], axis: Axes) -> list[Line]:
    names = list(content["worlds"])
    for row, name in enumerate(names):
        world = content["worlds"][name]
        axis.barh(row, world["frames"][0], height=0.7, color="#d0d0d0")
        axis.barh(row, world["kept"][0], height=0.7, color="#0072b2")
        axis.text(world["frames"][0], row, f" {world['kept'][0]} of {world['frames'][0]}", va="center", fontsize=6.5)
    draw_lines(axis, [], title="Frames kept", xlabel="frames", ylabel="")
    axis.set_yticks(range(len(names)), names)
    axis.margins(x=0.35)
    axis.invert_yaxis()
    return []


def _distances(content: dict[str, Any], axis: Axes) -> list[Line]:
    counts = content["digits"]["counts"]
    draw_lines(
        axis,
        [Line(x=list(range(256)), y=counts, colour="black")],
        title="Two digits at one place",
        xlabel="greatest difference of local means (levels)",
        ylabel="pairs",
        log="y",
    )
    axis.axvspan(0, CEILING, color="#d55e00", alpha=0.3, linewidth=0)
    axis.annotate("tolerance", (CEILING, 0.9), xycoords=("data", "axes fraction"), fontsize=6.5, color="#d55e00")
    axis.set_xlim(left=0)
    return []


def _curves(content: dict[str, Any], name: str, title: str, axis: Axes) -> list[Line]:
    steps = content["training"]["steps"]
    lines = []
    for way, found in content["training"]["errors"].items():
        mean, low, high = ([one[key] for one in found[name]] for key in ("mean", "low", "high"))
        low, high = (low, high) if min(low) > 0 else ([], [])
        lines.append(Line(x=steps, y=mean, low=low, high=high, colour=_COLOURS[way], name=_NAMES[way]))
    draw_lines(axis, lines, title=title, xlabel="optimiser steps", ylabel="squared error", log="y")
    return lines


if __name__ == "__main__":
    main()
