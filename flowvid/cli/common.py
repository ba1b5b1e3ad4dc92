"""What commands share: their options, the reading of arguments, progress."""

__all__ = [
    "ProgressBar",
    "Subparsers",
    "add_common",
    "add_execution",
    "device",
    "execution_of",
    "finish",
    "integers",
    "positive",
    "seconds",
    "times",
]

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowvid.video import time_grid

if TYPE_CHECKING:
    from flowvid.compare.study import Study
    from flowvid.train.loop import Execution

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any


def add_common(
    parser: argparse.ArgumentParser,
    *,
    out: Path | None = Path("out/run"),
    what: str = "the folder of the run",
    computes: bool = True,
) -> None:
    """Options of every command: where results go, where to compute, and with how many threads.

    Arguments:
        parser: The command.
        out: Default of ``--out``; None for a command that writes nothing.
        what: What ``--out`` is.
        computes: Whether the command has a device to choose.
    """
    if out is not None:
        parser.add_argument("--out", type=Path, default=out, help=f"{what}; default: %(default)s")
    if computes:
        there = "cuda" if torch.cuda.is_available() else "cpu"
        parser.add_argument(
            "--device", type=device, default=there, help="default: cuda where there is one; here %(default)s"
        )
    parser.add_argument(
        "--threads",
        type=positive,
        default=int(os.environ.get("OMP_NUM_THREADS", "2")),
        help="CPU threads; default: %(default)s",
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Options of how training is carried out."""
    how = parser.add_argument_group("how training is carried out, which changes results by rounding at most")
    how.add_argument(
        "--precision", choices=("no", "bf16"), default="no", help="no: that of weights; default: %(default)s"
    )
    how.add_argument("--accumulate", type=positive, default=1, help="parts a batch is taken in; default: %(default)s")
    how.add_argument(
        "--recompute", action="store_true", help="recompute inner activations of blocks, to need less memory"
    )
    how.add_argument("--compile", action="store_true", help="compile the network")
    how.add_argument("--save-seconds", type=float, default=30.0, help="between checkpoints; default: %(default)s")
    how.add_argument("--tensorboard", action="store_true", help="log for TensorBoard too")


def execution_of(options: argparse.Namespace) -> "Execution":
    """How training is carried out, from the options of `add_execution`."""
    from flowvid.train.loop import Execution

    return Execution(
        precision=options.precision,
        accumulate=options.accumulate,
        checkpoint_activations=options.recompute,
        compile=options.compile,
        save_seconds=options.save_seconds,
        tensorboard=options.tensorboard,
        command=options.again,
    )


def finish(study: "Study", options: argparse.Namespace) -> None:
    """Run a study into the folder of the options, draw it, and say what to look at."""
    from flowvid.compare.report import draw_study, tables
    from flowvid.compare.results import run_study

    start = time.monotonic()
    content = run_study(study, options.out, device=options.device, stage=ProgressBar)
    paths = draw_study(study, content, options.out, device=options.device, stage=ProgressBar)
    print(f"\n{tables(content)}\n\nDone in {time.monotonic() - start:.0f} s. Look at:")
    for path in [*paths, options.out / "results.json"]:
        print(f"  {path}")


class ProgressBar:
    """A progress bar that appears with the first report and shows rate, time left, loss and peak memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Any = None

    def __call__(self, step: int, steps: int, loss: float | None = None) -> None:
        from tqdm import tqdm

        if self.bar is None:
            # What an earlier try did is no part of the rate.
            begun = step if loss is not None else 0
            self.bar = tqdm(total=steps, desc=f"{self.name:>22}", file=sys.stderr, initial=begun, dynamic_ncols=True)
        self.bar.update(step - self.bar.n)
        if loss is not None:
            self.bar.set_postfix_str(f"{loss:.4f}, peak {_peak() / 2**20:.0f} MiB", refresh=False)
        if step == steps:
            self.bar.close()


def _peak() -> int:
    from flowvid.train.log import peak_memory

    return peak_memory(torch.device("cuda" if torch.cuda.is_initialized() else "cpu"))


def positive(text: str) -> int:
    """A positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text}")
    return int(text)


def device(text: str) -> str:
    """A device that is there."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a device that is there, such as cpu or cuda, got {text!r}"
        ) from error
    return text


def seconds(text: str) -> list[float]:
    """Seconds separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected seconds separated by commas, got {text!r}") from error


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, got {text!r}") from error


def times(text: str) -> list[float]:
    """A grid of seconds, start:stop:step."""
    try:
        start, stop, step = (float(part) for part in text.split(":"))
        return time_grid(start, stop, step).tolist()
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected start:stop:step in seconds, such as 0:2:0.1, got {text!r}"
        ) from error
