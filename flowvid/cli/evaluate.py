"""flowvid evaluate: a folder of videos against another, or a trained model against held-out clips."""

__all__ = ["add"]

import argparse
import os
from pathlib import Path
from typing import Any

from flowvid.cli.common import ProgressBar, Subparsers, add_common, integers, positive

_TASKS = ("predict", "fill", "extrapolate")
_FOLDERS_ONLY = ("fps", "frames", "size", "periods", "paired")
_MODEL_ONLY = ("codec", "task", "solver", "clips", "samples")


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser(
        "evaluate", help="score a folder of videos against another, or a trained model against held-out clips"
    )
    parser.add_argument("generated", metavar="GENERATED", nargs="*", help="videos to score: folders, patterns or files")
    parser.add_argument("--against", metavar="REFERENCE", nargs="+", help="true videos: folders, patterns or files")
    parser.add_argument("--model", type=Path, help="instead of videos: a model file, scored on test clips")
    add_common(parser, out=Path("out/evaluation.json"), what="the .json to write")
    data = os.environ.get("FLOWVID_DATA")
    parser.add_argument(
        "--weights",
        type=Path,
        default=data and Path(data) / "weights",
        help="folder of weights for FVD, FID, LPIPS and the like; default: weights/ in FLOWVID_DATA",
    )
    _add_folders(parser.add_argument_group("folders"))
    _add_model(parser.add_argument_group("a model"))
    parser.set_defaults(command=_run)


def _add_folders(parser: Any) -> None:
    parser.add_argument("--frames", type=positive, help="frames of a clip, from its start; default: 16")
    parser.add_argument("--fps", type=float, help="frames per second; default: what most files have")
    parser.add_argument(
        "--size", type=_size, help="HEIGHTxWIDTH, or one number for both; default: what most files have, at most 256"
    )
    parser.add_argument("--paired", action="store_true", default=None, help="refuse names that do not match one to one")
    parser.add_argument("--periods", type=integers, help="flicker is looked for at these periods, such as 8,16 frames")
    parser.add_argument(
        "--resamples", type=int, default=100, help="of the bootstrap; 0 leaves intervals out; default: %(default)s"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("out/cache"), help="what is known of single files; default: %(default)s"
    )


def _add_model(parser: Any) -> None:
    parser.add_argument("--codec", type=Path, help="the codec file; default: codec.safetensors beside the model")
    parser.add_argument("--task", choices=_TASKS, help="default: predict")
    parser.add_argument("--solver", help="how to move; default: the model's first")
    parser.add_argument("--clips", type=positive, help="test clips; default: 64")
    parser.add_argument("--samples", type=positive, help="samples of each clip by a stochastic model; default: 8")


def _run(options: argparse.Namespace) -> None:
    from flowvid.data.files import write_json

    if (options.model is None) == (not options.generated) or (options.against is None) == (options.model is None):
        raise ValueError("Expected videos and --against others, or --model FILE alone.")
    ignored = _FOLDERS_ONLY if options.model is not None else _MODEL_ONLY
    given = [name for name in ignored if getattr(options, name) is not None]
    if given:
        raise ValueError(f"--{given[0]} is for {'folders of videos' if options.model is not None else 'a --model'}.")
    content, text = _model(options) if options.model is not None else _folders(options)
    write_json(options.out, content)
    print(f"\n{text}\n\nAll numbers: {options.out}")


def _folders(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from flowvid import __version__
    from flowvid.data.cache import TensorCache
    from flowvid.metrics.clip_set import Sampling
    from flowvid.metrics.evaluate import Evaluation, evaluate
    from flowvid.metrics.evaluation_table import evaluation_table
    from flowvid.metrics.found_weights import find_networks

    asked = Evaluation(
        sampling=Sampling(frames=options.frames or 16, fps=options.fps, size=options.size),
        paired=bool(options.paired),
        periods=options.periods or (),
        resamples=options.resamples,
    )
    content = evaluate(
        options.generated,
        options.against,
        find_networks(options.weights, device=options.device),
        asked=asked,
        cache=TensorCache(options.cache),
        stage=ProgressBar,
    )
    sources = {"generated": options.generated, "reference": options.against}
    return {"version": __version__, "sources": sources, **content}, evaluation_table(content)


def _model(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from flowvid import __version__
    from flowvid.compare.held_out import evaluate_model
    from flowvid.compare.held_out_table import model_table
    from flowvid.metrics.found_weights import find_networks

    content = evaluate_model(
        options.model,
        options.codec or options.model.with_name("codec.safetensors"),
        find_networks(options.weights, device=options.device),
        task=options.task or "predict",
        solver=options.solver,
        clips=options.clips or 64,
        samples=options.samples or 8,
        device=options.device,
        stage=ProgressBar,
    )
    return {"version": __version__, **content}, model_table(content)


def _size(text: str) -> tuple[int, int]:
    """Height and width."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, such as 64x96, or 64; got {text!r}")
    return int(sides[0]), int(sides[-1])
