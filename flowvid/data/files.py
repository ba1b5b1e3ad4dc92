"""Files: complete or absent, never half written."""

__all__ = ["replaced", "write_atomically", "write_json"]

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary name to write under; what is there in the end is flushed to the disk and moved into place.

    Where the block fails nothing is left of it, and an old file stays.

    Arguments:
        path: Where the file shall be, with the same ending as the temporary name; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file under a temporary name, flush it to the disk, and move it into place.

    Arguments:
        path: Where the file shall be; its folder is made.
        write: Writes the file at the path it is given, which has the same ending.
    """
    with replaced(path) as temporary:
        write(temporary)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; numbers must be finite.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"

    def write(place: Path) -> None:
        place.write_text(text, encoding="utf-8")

    write_atomically(path, write)
