"""Pictures of a study, drawn from its results and its trained models."""

__all__ = ["COLUMNS", "draw_study", "tables"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowvid.compare.measure import Bench, known_times, sample, task_frames
from flowvid.compare.methods import CHOSEN, TASKS, Method
from flowvid.compare.results import table
from flowvid.compare.study import Stage, Study, train_study
from flowvid.data.footage.writers import write_video
from flowvid.models.video_model import VideoModel
from flowvid.plot.curves import CostPoint, Curve, draw_curves
from flowvid.plot.film import Strip, film_strips, side_by_side
from flowvid.video import Video

COLUMNS = (
    ("error px", "position_error"),
    ("t+1/3", "position_error_off_grid"),
    ("bounce", "position_error_bounce"),
    ("none", "position_error_no_bounce"),
    ("MSE", "mse"),
    ("PSNR", "psnr"),
    ("SSIM", "ssim"),
    ("2nd diff", "second_difference_ratio"),
    ("uneven", "speed_unevenness"),
    ("uniform", "speed_uniformity"),
    ("identity", "identity_kept"),
    ("heartbeat", "heartbeat"),
    ("kappa", "semigroup_gap"),
    ("NFE", "evaluations"),
    ("depth", "depth"),
    ("seconds", "seconds"),
    ("MB", "peak_megabytes"),
)
"""Columns of the printed tables: (title, key in results.json)."""

_TITLES = {
    "predict": "predict: two context frames, inside the trained horizon",
    "extrapolate": "extrapolate: two context frames, beyond the trained horizon",
    "fill": "fill in: first and last frame, one context frame",
}
_SHOWN = {
    "predict": (CHOSEN, "direct", "ddim", "copy-last"),
    "fill": (CHOSEN, "bisection", "direct", "ddim", "linear blend"),
}
_ZOOM = 4
_UNLABELLED = ("-8", "-4", "-2")


def tables(content: dict[str, Any]) -> str:
    """All tasks as text, and errors out of distribution."""
    parts = []
    for task in TASKS:
        parts.append(f"{_TITLES[task]}\n{table(content, task, columns=COLUMNS)}")
        columns = (("slower px", "position_error"),), (("faster px", "position_error"),)
        for split, chosen in zip(("slower", "faster"), columns, strict=True):
            parts.append(f"{task}, {split} than trained\n{table(content, task, columns=chosen, split=split)}")
    return "\n\n".join(parts)


def draw_study(study: Study, content: dict[str, Any], folder: Path, *, device: str, stage: Stage) -> list[Path]:
    """Draw `comparison.png`, `curves.png` and `samples.mp4`; returns their paths.

    Arguments:
        study: The study.
        content: Its results.
        folder: Where they and the weights live.
        device: Where to sample.
        stage: Announces what begins; nothing is trained when the study is complete.
    """
    codec, saved = train_study(study, folder / "models", device=device, stage=stage)
    seed = study.seeds[0]
    shown = _Shown(
        study,
        Bench.of(study.run, codec.network, "test", clips=4, device=device),
        {name: found.network for (name, at), found in saved.items() if at == seed},
        content["chosen_on_validation"][str(seed)],
    )
    paths = [folder / "comparison.png", folder / "curves.png", folder / "samples.mp4"]
    _draw_strips(paths[0], shown)
    _draw_costs(paths[1], study, content)
    _draw_video(paths[2], shown)
    return paths


@dataclass(frozen=True, eq=False)
class _Shown:
    """What pictures show: a few test clips and the models of the first seed."""

    study: Study
    bench: Bench
    models: dict[str, VideoModel]
    chosen: dict[str, str]

    def answers(self, task: str, times: list[float]) -> dict[str, Video]:
        """The truth and every shown method at some times."""
        rows = {method.name: method for method in self.study.methods}
        found = {"truth": self.bench.truth(times)}
        for name in _SHOWN[task]:
            method = rows[self.chosen[task]] if name == CHOSEN else rows[_row_name(name, self.study)]
            found[name] = self.bench.codec.decode(sample(self.bench, method, self.models, task, times).trajectory)
        return found


def _row_name(name: str, study: Study) -> str:
    """The row behind a short name."""
    return f"ddim, {study.ddim_steps[-1]} steps" if name == "ddim" else name


def _draw_strips(path: Path, shown: _Shown) -> None:
    run = shown.study.run
    panels: list[tuple[str, list[float], list[Strip]]] = []
    known: list[list[float]] = []
    for task in ("predict", "fill"):
        if task == "predict":
            ahead = task_frames(run, "predict") + task_frames(run, "extrapolate")
            times = [-run.frame, 0.0, *ahead[1::2]]
        else:
            times = [-run.frame, 0.0, *task_frames(run, "fill"), run.horizon]
        answers = shown.answers(task, times)
        for clip in range(2):
            strips = [Strip(name, video.frames[clip]) for name, video in answers.items()]
            panels.append((f"{_TITLES[task].split(',')[0]} (test clip {clip})", times, strips))
            known.append(known_times(run, task))
    film_strips(path, panels, known=known)


def _draw_costs(path: Path, study: Study, content: dict[str, Any]) -> None:
    frame, horizon = study.run.frame, study.run.horizon
    over_time = []
    for title, tasks, names in (
        ("predict", ("predict", "extrapolate"), _SHOWN["predict"]),
        ("fill in", ("fill",), _SHOWN["fill"]),
    ):
        curves = []
        for name in names:
            row_name = _row_name(name, study)
            by_seed = [
                [value for task in tasks for value in _row(content, task, row_name, seed)["position_error_by_frame"]]
                for seed in study.seeds
            ]
            values = torch.tensor(by_seed)
            x = [(number + 1) * frame for number in range(values.shape[1])]
            spread = values.mean(0).tolist(), values.amin(0).tolist(), values.amax(0).tolist()
            curves.append(Curve(row_name, x, *spread))
        over_time.append((title, curves, horizon if len(tasks) > 1 else None))
    costs = []
    for title, task in (("predict", "predict"), ("fill in", "fill")):
        points = []
        for method in study.methods:
            found = [r for r in content["rows"] if (r["task"], r["split"], r["method"]) == (task, "test", method.name)]
            if found and method.group != "baseline":
                mean = {k: sum(r[k] for r in found) / len(found) for k in ("evaluations", "seconds", "position_error")}
                label = "" if method.name.endswith(_UNLABELLED) else method.name
                points.append(CostPoint(label, _family(method), *mean.values()))
        costs.append((title, points))
    batch = f"{study.timing_clips} clips x {round(horizon / frame) + 1} frames"
    draw_curves(path, over_time=over_time, costs=costs, batch=batch)


def _draw_video(path: Path, shown: _Shown) -> None:
    run = shown.study.run
    times = [-run.frame, 0.0, *task_frames(run, "predict"), *task_frames(run, "extrapolate")]
    answers = shown.answers("predict", times)
    count = len(shown.bench.clips)
    clips = [[Strip(name, video.frames[clip]) for name, video in answers.items()] for clip in range(count)]
    phases = ["known" if t <= 0 else "predicted" if t <= run.horizon else "beyond the trained horizon" for t in times]
    captions = [f"{time:+.3f} s: {phase}" for time, phase in zip(times, phases, strict=True)]
    write_video(path, side_by_side(clips, zoom=_ZOOM, captions=captions), fps=1 / run.frame)


def _row(content: dict[str, Any], task: str, method: str, seed: int) -> dict[str, Any]:
    return next(
        row
        for row in content["rows"]
        if (row["task"], row["split"], row["method"], row["seed"]) == (task, "test", method, seed)
    )


def _family(method: Method) -> str:
    if method.model != "multiscale":
        return method.model
    return (
        "multi-scale, jumps"
        if method.solver and method.solver.startswith(("two", "jump"))
        else "multi-scale, ODE solvers"
    )
