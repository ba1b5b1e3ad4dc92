"""The main comparison: ways to move through a video's latent time, trained alike, at several seeds.

    python -m experiments.compare_models --scale cpu

Weights and pictures go to `out/compare_models-SCALE/`, the numbers also to `experiments/results/`. An interrupted
experiment goes on where it stopped.
"""

__all__ = ["main"]

import argparse
import os
from pathlib import Path

import torch

from experiments.recipes import SCALES, compare_models
from flowvid.cli.common import ProgressBar
from flowvid.compare.report import draw_study, tables
from flowvid.compare.results import run_study
from flowvid.data.files import write_json

_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the experiment at a scale."""
    parser = argparse.ArgumentParser(prog="python -m experiments.compare_models", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="quick", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: out/compare_models-SCALE")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of the numbers; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument(
        "--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")), help="default: %(default)s"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out or Path("out") / f"compare_models-{options.scale}"
    study = compare_models(options.scale)
    content = run_study(study, out, device=options.device, stage=ProgressBar)
    draw_study(study, content, out, device=options.device, stage=ProgressBar)
    write_json(options.results / f"compare_models-{options.scale}.json", content)
    print(tables(content))
    print(f"\nPictures: {out / 'comparison.png'}, {out / 'curves.png'}, {out / 'samples.mp4'}")


if __name__ == "__main__":
    main()
