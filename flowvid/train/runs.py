"""Which runs a folder holds and how they stand, from their logs, locks and checkpoints; nothing is changed."""

__all__ = ["RunState", "find_runs", "runs_table"]

import fcntl
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flowvid.train.checkpoint import read_description
from flowvid.train.log import LOG, read_log
from flowvid.train.store import Store


@dataclass(frozen=True)
class RunState:
    """How a run stands.

    Arguments:
        folder: Where its log and its checkpoints are.
        state: running, finished, interrupted, killed (it ended without a word), diverged, or damaged.
        step: Steps done, as far as its log or its latest checkpoint tells.
        steps: Steps it is to have; 0 if it does not say.
        loss: The last running loss it told; NaN if none.
        changed: When anything in its folder last changed, in seconds since 1970.
        note: What is damaged, or the command that continues it.
    """

    folder: Path
    state: str
    step: int
    steps: int
    loss: float
    changed: float
    note: str


def find_runs(folder: Path) -> list[RunState]:
    """The runs in a folder and below, by name.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"Expected a folder with runs at {folder}; there is none.")
    return [_state(log.parent) for log in sorted(folder.rglob(LOG))]


def runs_table(runs: Sequence[RunState], folder: Path) -> str:
    """One line per run: name within the folder, state, step, loss, last change, note."""
    rows = [("run", "state", "step", "loss", "changed", "")]
    for run in runs:
        name = "." if run.folder == folder else str(run.folder.relative_to(folder))
        loss = "" if math.isnan(run.loss) else f"{run.loss:.4g}"
        changed = datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M:%S")
        rows.append((name, run.state, f"{run.step}/{run.steps or '?'}", loss, changed, run.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _state(folder: Path) -> RunState:
    entries = read_log(folder)
    events = [entry for entry in entries if "event" in entry]
    started = next((entry for entry in reversed(events) if entry["event"] == "started"), {})
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    damaged, saved = _checkpoints(folder)
    last = events[-1]["event"] if events else ""
    if _locked(folder):
        state = "running"
    elif last == "finished":
        state = "finished"
    elif damaged or not entries:
        state = "damaged"
    else:
        state = last if last in ("interrupted", "diverged") else "killed"
    command = started.get("execution", {}).get("command", "")
    unreadable = ", ".join(damaged) if damaged else "no readable line in its log"
    note = {"damaged": unreadable, "running": "", "finished": ""}.get(state, command)
    return RunState(
        folder=folder,
        state=state,
        step=max([saved, *(entry["step"] for entry in entries)]),
        steps=_whole_number(started.get("steps")),
        loss=float(losses[-1]) if losses else math.nan,
        changed=max(path.stat().st_mtime for path in (folder / LOG, *Store(folder).paths) if path.exists()),
        note=note,
    )


def _checkpoints(folder: Path) -> tuple[list[str], int]:
    """Names of unreadable checkpoints, and the step of the latest readable one."""
    damaged: list[str] = []
    step = 0
    for path in Store(folder).paths:
        try:
            step = _whole_number(read_description(path).get("step"))
        except ValueError:
            # A process that trains may have removed it since it was listed.
            if path.exists():
                damaged.append(path.name)
    return damaged, step


def _locked(folder: Path) -> bool:
    """Whether a process that trains holds the folder's log."""
    with (folder / LOG).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _whole_number(value: Any) -> int:
    return value if isinstance(value, int) else 0
