"""flowvid probe: what footage a folder holds, as a table and a contact sheet, and what cannot be read."""

__all__ = ["add"]

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowvid.cli.common import ProgressBar, Subparsers, positive

if TYPE_CHECKING:
    from flowvid.data.footage.reader import Catalogue, FootageInfo

_HEADINGS = ("file", "size", "fps", "frames", "seconds", "container", "codec", "bits", "notes")


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("probe", help="list the footage of a folder, draw a contact sheet, name broken files")
    parser.add_argument("source", metavar="FOLDER", nargs="+", help="folders, video files or patterns")
    parser.add_argument("--sheet", type=Path, help="also draw a contact sheet into this .png")
    parser.add_argument("--rows", type=positive, default=40, help="pieces on the sheet at most; default: %(default)s")
    parser.add_argument("--frames", type=positive, default=6, help="frames of each on the sheet; default: %(default)s")
    parser.add_argument("--fps", type=float, help="rate of folders of numbered pictures; default: 25")
    parser.add_argument(
        "--deep", action="store_true", help="decode every frame, not only the first and the last of each file"
    )
    parser.set_defaults(command=_run, threads=1)


def _run(options: argparse.Namespace) -> None:
    from flowvid.data.footage.reader import catalogue

    if options.sheet is not None and options.sheet.suffix != ".png":
        raise ValueError(f"A contact sheet is a .png; got {options.sheet}.")
    found = catalogue(
        options.source,
        fps=options.fps,
        deep=options.deep,
        progress=ProgressBar("probing") if sys.stderr.isatty() else None,
    )
    names = _names([path for path, _ in found.entries])
    print(_table([_cells(name, info) for name, (_, info) in zip(names, found.entries, strict=True)]))
    total = sum(info.duration for _, info in found.entries)
    frames = sum(info.frames for _, info in found.entries)
    print(f"\n{len(found.entries)} readable, {frames} frames, {total:.1f} s in all.")
    if found.skipped:
        print(found.report())
    if options.sheet is not None:
        _draw(options, found, names)
        print(f"Look at:\n  {options.sheet}")


def _draw(options: argparse.Namespace, found: "Catalogue", names: Sequence[str]) -> None:
    from flowvid.data.footage.reader import BrokenFootage, Footage
    from flowvid.plot.contact import contact_sheet, reel

    reels = []
    for name, (path, _) in list(zip(names, found.entries, strict=True))[: options.rows]:
        try:
            with Footage(path, fps=options.fps if path.is_dir() else None) as footage:
                reels.append(reel(footage, name, count=options.frames))
        except BrokenFootage as error:
            print(f"Not on the sheet: {name}: {error}")
    contact_sheet(options.sheet, reels)
    if options.rows < len(names):
        print(f"The sheet shows the first {options.rows} of {len(names)}; --rows shows more.")


def _names(paths: Sequence[Path]) -> list[str]:
    """Paths without the folders that all share."""
    if len(paths) < 2:
        return [path.name for path in paths]
    shared = os.path.commonpath([path.absolute().parent for path in paths])
    return [os.path.relpath(path.absolute(), shared) for path in paths]


def _cells(name: str, info: "FootageInfo") -> tuple[str, ...]:
    notes = [
        *(["variable rate"] if info.variable else []),
        *([f"turned {info.rotation} degrees"] if info.rotation else []),
        *(["alpha"] if info.alpha else []),
        *([f"starts at {info.start:.3f} s"] if info.start else []),
    ]
    size, fps = f"{info.width} x {info.height}", f"{info.fps:.5g}"
    numbers = str(info.frames), f"{info.duration:.2f}"
    return name, size, fps, *numbers, info.container, info.codec, str(info.bits), ", ".join(notes)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    right = {"fps", "frames", "seconds", "bits"}
    lines = []
    for row in (_HEADINGS, *rows):
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, _HEADINGS, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
