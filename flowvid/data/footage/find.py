"""Where footage is: in folders, behind patterns, in lists."""

__all__ = ["find_footage"]

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from flowvid.data.footage.frame_index import BrokenFootage
from flowvid.data.footage.frame_source import numbered_pictures

_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".gif", ".avi"),
        *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv", ".ogv", ".mxf", ".mjpeg", ".mjpg"),
    )
)


def find_footage(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The footage of a folder, a pattern, a list of any of these, or one file.

    A folder is searched through, hidden files aside, for video files (by their endings) and for folders that hold at
    least two numbered pictures; one that holds pictures itself is footage as it is. What a list or a pattern names
    is kept whatever its ending. In natural order (clip2 before clip10) where the order is not given by a list.

    Raises:
        ValueError: Nothing is found.
    """
    if not isinstance(source, str | Path):
        lists = [[Path(one)] if _is_plain(one) else find_footage(one) for one in source]
        return list(dict.fromkeys(path for found in lists for path in found))
    path = Path(source)
    if path.is_dir():
        found = [path] if _is_sequence(path) else []
        found += [inner for inner in path.rglob("*") if _is_footage(inner, path)]
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(str(source), recursive=True)]
        found = [one for one in found if one.is_file() or _is_sequence(one)]
    if not found:
        raise ValueError(f"No footage at {source}: expected video files, folders of numbered pictures, or a pattern.")
    return sorted(found, key=_natural)


def _is_plain(path: str | Path) -> bool:
    """Whether a name stands for one file, there or not: it is no folder and no pattern."""
    return Path(path).is_file() or not (Path(path).is_dir() or glob.has_magic(str(path)))


def _is_sequence(path: Path) -> bool:
    try:
        return path.is_dir() and len(numbered_pictures(path)) > 1
    except BrokenFootage:
        return True


def _is_footage(path: Path, root: Path) -> bool:
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        return False
    return _is_sequence(path) if path.is_dir() else path.suffix.lower() in _SUFFIXES


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts numbers inside names by value."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]
