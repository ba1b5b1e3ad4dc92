"""What keeps a run: its checkpoints and its log, written by the main process and agreed on by all."""

__all__ = ["Keeper"]

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from flowvid.train.checkpoint import load_tensors
from flowvid.train.log import Log, peak_memory
from flowvid.train.options import Execution
from flowvid.train.store import Store
from flowvid.train.trainer import Trainer


class Keeper:
    """Saves, logs and continues a run; without a folder it does nothing.

    Arguments:
        folder: Where checkpoints and log live, or None.
        trainer: The state of the run.
        execution: How it is carried out.
        run: What else decides the result, anything JSON can hold.
        validate: How good the averaged network is, the less the better; the running loss by default.
    """

    def __init__(
        self,
        folder: Path | None,
        trainer: Trainer,
        execution: Execution,
        run: dict[str, Any] | None,
        validate: Callable[[], float] | None,
    ) -> None:
        self.store = None if folder is None else Store(folder, keep=execution.keep)
        self._trainer = trainer
        self._execution = execution
        self._run = json.loads(json.dumps(run))
        self._validate = validate
        self._log: Log | None = None
        self._saved = self._reported = 0.0
        self._reported_step = 0

    def __enter__(self) -> "Keeper":
        if self.store is not None and self._trainer.processes.main:
            self._log = Log(self.store.folder, tensorboard=self._execution.tensorboard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.close()

    def resume(self) -> None:
        """Continue from the latest whole checkpoint, if there is one.

        Raises:
            ValueError: It belongs to another run or another network, or all are damaged.
        """
        store, trainer = self.store, self._trainer
        if store is None:
            return
        found = store.newest() if trainer.processes.main else None
        path = trainer.processes.first(lambda: None if found is None else found.path)
        if path is not None:
            tensors, description = load_tensors(path) if found is None else (found.tensors, found.description)
            self._check_same(path, description)
            try:
                trainer.restore(tensors)
                trainer.loss, trainer.step = description["loss"], description["step"]
                trainer.seconds = description["seconds"]
            except (KeyError, RuntimeError) as error:
                raise ValueError(
                    f"{path} is not a checkpoint of this network ({error}). Use another folder, or delete it."
                ) from error
        self._saved = self._reported = time.monotonic()
        self._reported_step = trainer.step
        if self._log is not None:
            self._log.cut(trainer.step)
        how = asdict(self._execution) | {"processes": trainer.processes.count}
        self.note("started", steps=trainer.options.steps, options=asdict(trainer.options), run=self._run, execution=how)

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return self.store is not None and time.monotonic() - self._saved > self._execution.save_seconds

    def save(self) -> None:
        """Write a checkpoint; every process must ask.

        Raises:
            DivergedError: A loss was not finite; a good checkpoint is not replaced by a useless one.
            ValueError: There is no room.
        """
        trainer = self._trainer
        trainer.check()
        if self.store is None:
            return
        value = trainer.loss
        if self._validate is not None:
            with torch.no_grad(), trainer.averaged():
                value = float(self._validate())
        description = {
            "step": trainer.step,
            "seconds": trainer.seconds,
            "loss": trainer.loss,
            "value": value,
            "options": asdict(trainer.options),
            "run": self._run,
            "execution": asdict(self._execution) | {"processes": trainer.processes.count},
        }
        tensors = trainer.tensors()
        failure = trainer.processes.first(lambda: self._write(tensors, description))
        if failure is not None:
            raise ValueError(failure)
        self._saved = time.monotonic()

    def report(self, waiting: float) -> None:
        """Log how far training is.

        Arguments:
            waiting: The share of time that training waited for data.

        Raises:
            ValueError: There is no room.
        """
        trainer, now = self._trainer, time.monotonic()
        elapsed, done = now - self._reported, trainer.step - self._reported_step
        self._reported, self._reported_step = now, trainer.step
        self._line(
            step=trainer.step,
            loss=trainer.loss,
            rate=trainer.options.rate(trainer.step - 1),
            norm=trainer.norm,
            steps_per_second=done / elapsed if elapsed > 0 else 0.0,
            waiting=waiting,
            peak_memory=peak_memory(trainer.device),
            seconds=trainer.seconds,
        )

    def note(self, event: str, **details: Any) -> None:
        """Log that something happened."""
        self._line(step=self._trainer.step, event=event, **details)

    def farewell(self) -> str:
        """Where an interrupted run stands and how to continue it."""
        trainer, command = self._trainer, self._execution.command
        text = f"Interrupted at step {trainer.step} of {trainer.options.steps}"
        if self.store is None:
            return f"{text}; without a folder, nothing is saved."
        if not self.store.paths:
            return f"{text}, before anything was saved in {self.store.folder}."
        way = f"continue with: {command}" if command else "the same command continues from here."
        return f"{text}, saved in {self.store.paths[-1]}; {way}"

    def _write(self, tensors: dict[str, Any], description: dict[str, Any]) -> str | None:
        """Save on this process; returns what went wrong, for all to hear."""
        assert self.store is not None
        try:
            self.store.save(self._trainer.step, tensors, description)
        except ValueError as error:
            return str(error)
        return None

    def _line(self, **entry: Any) -> None:
        if self._log is None or self.store is None:
            return
        try:
            self._log.write(entry)
        except OSError as error:
            raise ValueError(
                f"Could not write the log in {self.store.folder} ({error}). {self.store.last_good()}"
            ) from error

    def _check_same(self, path: Path, description: dict[str, Any]) -> None:
        """Refuse the checkpoint of another run."""
        pairs = ((description.get("options"), asdict(self._trainer.options)), (description.get("run"), self._run))
        for theirs, mine in pairs:
            if theirs and mine and theirs != mine:
                names = sorted(name for name in theirs.keys() | mine.keys() if theirs.get(name) != mine.get(name))
                details = "; ".join(f"{name}: {theirs.get(name)} there, {mine.get(name)} here" for name in names)
                raise ValueError(
                    f"The checkpoint {path} belongs to another run ({details}). Use the same options, another "
                    "folder, or delete the checkpoint."
                )
