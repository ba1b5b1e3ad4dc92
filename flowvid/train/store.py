"""The checkpoints of a run in one folder: the latest few and the best, and never without a whole one once there was.

A checkpoint gets its name only when it is complete on the disk, and old ones go only after a new one came. So whatever
kills the process, and whenever, the folder holds the last complete state. One that is found damaged all the same is
set aside under another name, with a warning, and the one before counts.
"""

__all__ = ["Store"]

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from flowvid.train.checkpoint import load_tensors, read_description, save_tensors


class Stored(NamedTuple):
    """A checkpoint as it was read."""

    path: Path
    tensors: dict[str, Tensor]
    description: dict[str, Any]


class Store:
    """A folder of checkpoints.

    Arguments:
        folder: Where they live; made when the first is saved.
        keep: How many of the latest stay, beside the one whose value is least.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._values: dict[Path, float] = {}

    @property
    def paths(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))

    @property
    def best(self) -> Path | None:
        """The checkpoint with the least value, the latest among equals; None without any."""
        return min(reversed(self.paths), key=self._value, default=None)

    def newest(self) -> Stored | None:
        """The latest whole checkpoint, read; None without any. Leftovers of a killed process go.

        Raises:
            ValueError: There are checkpoints, and all are damaged.
        """
        for leftover in self.folder.glob(".*.step-*.safetensors"):
            leftover.unlink(missing_ok=True)
        damaged: list[str] = []
        found = None
        for path in reversed(self.paths):
            try:
                found = Stored(path, *load_tensors(path))
                break
            except ValueError as error:
                path.replace(path.with_name(f"{path.name}.damaged"))
                damaged.append(f"{path.name} ({error.__cause__})")
        if damaged and found is None:
            raise ValueError(
                f"All checkpoints in {self.folder} are damaged: {', '.join(damaged)}. They are set aside as *.damaged; "
                "the same command trains from the start."
            )
        if damaged and found is not None:
            warnings.warn(
                f"Damaged checkpoints in {self.folder} are set aside as *.damaged: {', '.join(damaged)}. Continuing "
                f"from {found.path.name}.",
                stacklevel=2,
            )
        return found

    def save(self, step: int, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> Path:
        """Add a checkpoint, then remove those that need not stay.

        Arguments:
            step: The step it was reached at.
            tensors: Tensors by name.
            description: Anything JSON can hold; its "value" says how good the state is, the less the better.

        Raises:
            ValueError: It could not be written, for want of space, say; what was there before stays.
        """
        path = self.folder / f"step-{step:09d}.safetensors"
        try:
            save_tensors(path, tensors, description)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"Could not save step {step} in {self.folder} ({error}). {self.last_good()}") from error
        self._values[path] = _value_of(description)
        stay = {*self.paths[-self.keep :], self.best}
        for old in self.paths:
            if old not in stay:
                old.unlink(missing_ok=True)
                self._values.pop(old, None)
        return path

    def last_good(self) -> str:
        """A sentence that names the latest checkpoint."""
        if not self.paths:
            return "There is no checkpoint before it."
        last = self.paths[-1]
        return f"The last good checkpoint is {last} (step {step_of(last)}); make room, and the same command continues."

    def clear(self) -> None:
        """Remove all checkpoints, the damaged ones too: the run is finished and its result kept elsewhere."""
        for path in (*self.folder.glob("step-*.safetensors*"), *self.folder.glob(".*.step-*.safetensors")):
            path.unlink(missing_ok=True)
        self._values.clear()

    def _value(self, path: Path) -> float:
        if path not in self._values:
            try:
                self._values[path] = _value_of(read_description(path))
            except ValueError:
                self._values[path] = math.inf
        return self._values[path]


def _value_of(description: Mapping[str, Any]) -> float:
    """How good a state is; one that is not a number is worse than any."""
    value = float(description.get("value", math.inf))
    return math.inf if math.isnan(value) else value


def step_of(path: Path) -> int:
    """The step of a checkpoint, from its name."""
    return int(path.name.removeprefix("step-").removesuffix(".safetensors"))
