"""flowvid dedupe: what repeats in a folder of footage, and what is left to train on."""

__all__ = ["add"]

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from flowvid.cli.common import Subparsers, add_common

if TYPE_CHECKING:
    from flowvid.data.repetition.find import FrameStore


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("dedupe", help="find what repeats in footage; no input file is changed")
    parser.add_argument(
        "footage", metavar="FOOTAGE", nargs="+", help="folders, patterns, video files or folders of numbered pictures"
    )
    parser.add_argument("--report", type=Path, help="a .json file of segments, weights, repeats and the map of frames")
    parser.add_argument("--sheet", type=Path, help="a .png of what is kept and what repeats along each file's time")
    parser.add_argument(
        "--tolerance", type=_amount, help="levels of 0..255 by which the same picture may differ; default: from noise"
    )
    parser.add_argument(
        "--shortest",
        type=_amount,
        default=0.25,
        help="seconds of the shortest repeat to leave out; default: %(default)s",
    )
    parser.add_argument("--fps", type=_amount, help="pictures per second of folders of pictures; default: 25")
    add_common(parser, out=None, computes=False)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid import __version__
    from flowvid.cli.common import ProgressBar
    from flowvid.data.files import write_json
    from flowvid.data.footage.reader import BrokenFootage, find_footage
    from flowvid.data.repetition.find import FrameStore, find_repetition

    for option, ending in (("report", ".json"), ("sheet", ".png")):
        path = getattr(options, option)
        if path is not None and path.suffix != ending:
            raise ValueError(f"Expected --{option} to end in {ending}; got {path}.")
    paths = find_footage(options.footage)
    skipped: list[tuple[Path, str]] = []
    progress = ProgressBar("frames read of files")
    with FrameStore() as store:
        for number, path in enumerate(paths, start=1):
            try:
                _read(store, path, options.fps)
            except BrokenFootage as error:
                skipped.append((path, str(error)))
            progress(number, len(paths))
        report = "\n".join((f"Skipped {len(skipped)} of {len(paths)}:", *(f"  {p}: {why}" for p, why in skipped)))
        if not store.files:
            raise ValueError(f"No footage can be read. {report}")
        found = find_repetition(store, tolerance=options.tolerance, shortest=options.shortest)
    print(found.table())
    if skipped:
        print(f"\n{report}")
    content = {
        "version": __version__,
        **found.content(),
        "skipped": [{"file": str(path), "reason": reason} for path, reason in skipped],
    }
    if options.report is not None:
        write_json(options.report, content)
    if options.sheet is not None:
        from flowvid.plot.repetition import draw_repetition

        draw_repetition(options.sheet, content)
    written = [str(path) for path in (options.report, options.sheet) if path is not None]
    if written:
        print("\nLook at:\n  " + "\n  ".join(written))


def _read(store: "FrameStore", path: Path, fps: float | None) -> None:
    from flowvid.data.footage.reader import Footage
    from flowvid.data.repetition.perceptual_hash import thumbnail_size

    with Footage(path, fps=fps if path.is_dir() else None) as footage:
        size = thumbnail_size(footage.info.height, footage.info.width)
        store.read(str(path), footage.stream(size=size, fit="stretch"))


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number that is not negative, got {text!r}")
    return value
