"""The results of a study: rows of numbers, with everything needed to trust or repeat them."""

__all__ = ["environment", "run_study", "table"]

import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from flowvid.compare.measure import Bench, error_by_frame, measure, measure_cost
from flowvid.compare.methods import CHOSEN, TASKS, Method
from flowvid.compare.study import Stage, Study, train_study
from flowvid.data.files import write_json
from flowvid.data.worlds.balls import BallWorld
from flowvid.data.worlds.clips import World
from flowvid.data.worlds.families import AnyWorld
from flowvid.encoders.codec import Codec
from flowvid.models.video_model import LearnedModel, VideoModel
from flowvid.train.run import Saved

_PACKAGES = ("flowvid", "torch", "torchdiffeq", "torchmetrics", "scikit-learn", "numpy")


def run_study(study: Study, folder: Path, *, device: str, stage: Stage) -> dict[str, Any]:
    """Train or load, measure, and write `results.json`; returns its content.

    Arguments:
        study: The study.
        folder: Where everything of the study lives.
        device: Where to compute.
        stage: Announces what begins.
    """
    where = environment(device)
    codec, models = train_study(study, folder / "models", device=device, stage=stage)
    rows: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, str]] = {}
    for seed in study.seeds:
        of_seed: dict[str, VideoModel] = {name: saved.network for (name, s), saved in models.items() if s == seed}
        choice = _choose(study, codec, of_seed, device)
        chosen[str(seed)] = {task: method.name for task, method in choice.items()}
        rows += _rows(study, codec, of_seed, seed, choice, device, stage)
    content = {
        "study": asdict(study),
        "chosen_on_validation": chosen,
        "parameters": {name: _parameters(saved) for (name, s), saved in models.items() if s == study.seeds[0]},
        "training_seconds": {f"{name}, seed {seed}": saved.seconds for (name, seed), saved in models.items()}
        | {"codec": codec.seconds},
        "environment": where,
        "rows": rows,
    }
    write_json(folder / "results.json", content)
    return content


def environment(device: str) -> dict[str, Any]:
    """Versions, commit and machine that numbers come from.

    Arguments:
        device: Where they are computed.
    """
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    accelerator = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return {
        "versions": versions,
        "python": platform.python_version(),
        "commit": _commit(),
        "device": device,
        "hardware": accelerator,
        "threads": torch.get_num_threads(),
    }


def table(content: dict[str, Any], task: str, *, columns: Sequence[tuple[str, str]], split: str = "test") -> str:
    """One task as aligned text: a row per method, mean and spread (one standard deviation) over the seeds.

    Arguments:
        content: What `run_study` returned.
        task: One of `TASKS`.
        columns: (title, key) of the numbers.
        split: "test", "slower" or "faster".
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        if row["task"] == task and row["split"] == split:
            found.setdefault(row["method"], []).append(row)
    lines = [["method", *(title for title, _ in columns)]]
    lines += [[name, *(_cell([row.get(key) for row in rows]) for _, key in columns)] for name, rows in found.items()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def _choose(study: Study, codec: Saved[Codec], models: dict[str, VideoModel], device: str) -> dict[str, Method]:
    """For every task the way of sampling the multi-scale model that does best on validation clips."""
    bench = Bench.of(study.run, codec.network, "validation", clips=study.run.validation_clips, device=device)
    choice = {}
    for task in TASKS:
        errors = {method: float(error_by_frame(bench, method, models, task).mean()) for method in study.candidates}
        choice[task] = min(errors, key=lambda method: errors[method])
    return choice


def _rows(
    study: Study,
    codec: Saved[Codec],
    models: dict[str, VideoModel],
    seed: int,
    choice: dict[str, Method],
    device: str,
    stage: Stage,
) -> list[dict[str, Any]]:
    """All measurements of one seed; methods that differ in their weights alone cost the same and are timed once."""
    run, world = study.run, study.run.world
    worlds: dict[str, AnyWorld] = {"test": world}
    if isinstance(world, World | BallWorld):
        worlds |= {"slower": world.slower(), "faster": world.faster()}
    benches = {
        name: Bench.of(run, codec.network, "test", clips=study.test_clips, device=device, world=of)
        for name, of in worlds.items()
    }
    everything = study.methods
    jobs: list[tuple[str, str, Method | None]] = []
    for task in TASKS:
        rows = [replace(choice[task], name=CHOSEN, group="main"), *(m for m in everything if task in m.tasks)]
        for split in benches:
            jobs += [(task, split, method) for method in [None, *rows] if split == "test" or _is_main(method)]
    progress = stage(f"measuring, seed {seed}")
    found = []
    costs: dict[tuple[str, str | None, str], dict[str, Any]] = {}
    for number, (task, split, method) in enumerate(jobs):
        row: dict[str, Any] = {"seed": seed, "task": task, "split": split}
        row |= (
            {"method": "codec", "group": "ceiling"}
            if method is None
            else {"method": method.name, "group": method.group}
        )
        row |= measure(benches[split], method, models, task)
        if method is not None and split == "test" and task != "extrapolate":
            how = (method.model, method.solver, task)
            if how not in costs:
                costs[how] = measure_cost(
                    benches[split], method, models, task, clips=study.timing_clips, repeats=study.timing_repeats
                )
            row |= costs[how]
        found.append(row)
        progress(number + 1, len(jobs), row["position_error"])
    return found


def _is_main(method: Method | None) -> bool:
    return method is None or method.group in ("main", "baseline")


def _cell(values: list[int | float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    mean = statistics.fmean(numbers)
    shown = f"{mean:.0f}" if abs(mean) >= 1000 else f"{mean:.3g}" if abs(mean) < 0.1 else f"{mean:.2f}"
    return shown if len(numbers) == 1 else f"{shown} ±{statistics.stdev(numbers):.2g}"


def _parameters(saved: Saved[LearnedModel]) -> int:
    """Parameters of a trained network, whose gradients are switched off."""
    return sum(parameter.numel() for parameter in saved.network.parameters())


def _commit() -> str | None:
    """The commit of the source tree this runs from, marked when files were changed; None outside one."""
    here = Path(__file__).parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
