"""The log of a run: one line of JSON per report, and the same numbers for TensorBoard if asked for.

Lines are flushed as they are written. When a run continues, lines beyond its checkpoint are cut off, and so is a line
that was never finished, so that no step is reported twice. The process that trains holds a lock on the file, by which
others tell that it lives; the system lets go of it however the process ends.
"""

__all__ = ["LOG", "Log", "peak_memory", "read_log"]

import fcntl
import json
import resource
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch

LOG = "log.jsonl"


class Log:
    """The log of the run in a folder, locked until it is closed.

    Arguments:
        folder: The folder; it is made.
        tensorboard: Whether to write for TensorBoard too.

    Raises:
        ValueError: Another process trains in this folder.
        ImportError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / LOG).open("ab")
        if not _lock(self._file):
            self._file.close()
            raise ValueError(f"Another process trains in {folder}; wait for it, or use another folder.")
        self._tensorboard = tensorboard
        self._writer: Any = None

    def cut(self, step: int) -> None:
        """Remove what lies beyond a step, to continue from it."""
        size = 0
        for line in (self.folder / LOG).read_bytes().splitlines(keepends=True):
            entry = _entry(line)
            if entry is None or entry["step"] > step:
                break
            size += len(line)
        self._file.truncate(size)
        if self._tensorboard:
            self._writer = _summary_writer(self.folder, step)

    def write(self, entry: dict[str, Any]) -> None:
        """Add a line; it has a "step"."""
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        if self._writer is not None and "loss" in entry:
            for name, value in entry.items():
                if name != "step":
                    self._writer.add_scalar(name, value, entry["step"])
            self._writer.flush()

    def close(self) -> None:
        """Let go of the file and of its lock."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of a folder's log; none where there is no log."""
    path = folder / LOG
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [entry for entry in map(_entry, lines) if entry is not None]


def peak_memory(device: torch.device) -> int:
    """The most bytes this process held so far: on the GPU where it computes, or of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lock(file: IO[bytes]) -> bool:
    """Lock a file, unless it is held for longer than those do who only ask whether it is."""
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            # Some network file systems have no locks; then nothing tells that this run lives.
            return True
        else:
            return True
    return False


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says, if it is complete."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("The log for TensorBoard needs it: pip install 'flowvid[tensorboard]'.") from error
    return SummaryWriter(folder, purge_step=step + 1)
