"""The command line that experiments share: `python -m experiments.NAME --scale quick|cpu|gpu`.

It measures, writes `experiments/results/NAME-SCALE.json` with the recipe, the environment and the seconds beside the
numbers, and draws the figures from what it wrote.
"""

__all__ = ["run_experiment"]

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.claims import report
from experiments.recipes import SCALES
from flowvid.compare.results import environment
from flowvid.data.files import write_json

_RESULTS = Path(__file__).parent / "results"


def run_experiment(
    name: str,
    about: str,
    *,
    recipe: Callable[[str], Any],
    measure: Callable[..., dict[str, Any]],
    draw: Callable[[dict[str, Any], Path], None],
    real: bool = False,
) -> None:
    """The command line of an experiment: measure at a scale, write the numbers, draw them from what was written.

    Arguments:
        name: Module of the experiment, and of its results.
        about: What it is about.
        recipe: Scale -> complete description of the run, a dataclass.
        measure: Description -> numbers, among them a list of claims; of a ``real`` experiment (description, folder of
            real clips and weights or None) -> numbers.
        draw: (results, folder) -> figures in the folder.
        real: Whether it measures real clips too, where the user has some.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=about)
    parser.add_argument("--scale", choices=SCALES, default="quick", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help=f"folder of the figures; default: out/{name}-SCALE")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of the numbers; default: %(default)s")
    parser.add_argument(
        "--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")), help="default: %(default)s"
    )
    if real:
        where = os.environ.get("FLOWVID_DATA")
        parser.add_argument(
            "--data",
            type=Path,
            default=where and Path(where),
            help="folder of clips/ and weights/; default: FLOWVID_DATA",
        )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run, begun = recipe(options.scale), time.monotonic()
    numbers = measure(run, options.data) if real else measure(run)
    content = {
        "experiment": name,
        "scale": options.scale,
        "recipe": asdict(run),
        "environment": environment("cpu"),
        "seconds": round(time.monotonic() - begun, 2),
        **numbers,
    }
    write_json(options.results / f"{name}-{options.scale}.json", content)
    out = options.out or Path("out") / f"{name}-{options.scale}"
    draw(content, out)
    print(report(content))
    print(f"\nFigures: {out}")
