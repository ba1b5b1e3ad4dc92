"""One training loop for everything that learns: AdamW, warm-up and cosine, clipped gradients, averaged weights.

The loop owns the optimiser and nothing else: an objective maps the noise of one step to a loss, and draws its batch
from that noise. Since noise is a function of (seed, step), a run that was interrupted and continued is the same run:
on the CPU the same weights bit for bit.

References:
    Decoupled Weight Decay Regularization (Loshchilov and Hutter, 2017), https://arxiv.org/abs/1711.05101
    Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2023), https://arxiv.org/abs/2312.02696
"""

__all__ = ["Optimisation", "Progress", "fit"]

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors

Progress = Callable[[int, int, float], None]
"""Called with (step, steps, running loss) every few steps."""

_REPORT_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How long and how to train.

    Arguments:
        steps: Optimiser steps.
        batch: Samples per step.
        learning_rate: Peak learning rate, reached after the warm-up and lowered to zero along a half cosine.
        warmup: Steps of linear warm-up.
        weight_decay: Decoupled weight decay.
        clip: Largest norm of the gradient.
        average: Decay of the averaged weights per step, which are the result.
        seed: Seed of everything random, any 64-bit value.

    Raises:
        ValueError: A number is out of range.
    """

    steps: int
    batch: int = 64
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.995
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.warmup < 0:
            raise ValueError(f"Expected steps >= 1, batch >= 1 and warmup >= 0; got {self}.")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"Expected a seed of 64 bits; got seed={self.seed}.")
        if not (self.learning_rate > 0 and self.clip > 0 and self.weight_decay >= 0 and 0 <= self.average < 1):
            raise ValueError(f"Expected learning_rate > 0, clip > 0, weight_decay >= 0, 0 <= average < 1; got {self}.")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        return self.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


def fit(
    network: nn.Module,
    objective: Callable[[Noise], Tensor],
    options: Optimisation,
    *,
    checkpoint: Path | None = None,
    run: dict[str, Any] | None = None,
    save_seconds: float = 30.0,
    progress: Progress | None = None,
) -> float:
    """Train a network in place; it ends with its averaged weights. Returns the seconds this and earlier tries took.

    An interruption inside a step of the optimiser leaves no whole state to save; then the last saved one counts.

    Arguments:
        network: What is trained.
        objective: The noise of a step to a scalar loss.
        options: How long and how.
        checkpoint: A file to continue from if it exists and to save to every ``save_seconds`` and when interrupted.
        run: What else decides the result, anything JSON can hold; a checkpoint that names another one is refused.
        save_seconds: Seconds between saves.
        progress: Is told how far training is.

    Raises:
        ValueError: The loss is no longer finite, or the checkpoint belongs to another run.
    """
    trainer = _Trainer(network, options, json.loads(json.dumps(run)))
    if checkpoint is not None and checkpoint.exists():
        trainer.load(checkpoint)
    noise = Noise.batch(options.seed, options.batch)
    saved = clock = time.monotonic()
    before = trainer.seconds
    try:
        while trainer.step < options.steps:
            trainer.advance(objective(noise.fold(trainer.step)))
            now = time.monotonic()
            trainer.seconds = before + now - clock
            if trainer.step % _REPORT_EVERY == 0 or trainer.step == options.steps:
                loss = trainer.running_loss()
                if progress is not None:
                    progress(trainer.step, options.steps, loss)
            if checkpoint is not None and now - saved > save_seconds:
                trainer.save(checkpoint)
                saved = now
    except KeyboardInterrupt:
        if checkpoint is not None and trainer.whole:
            trainer.save(checkpoint)
        raise
    trainer.take_average()
    return trainer.seconds


class _Trainer:
    """The state of a run: the network, its average, the optimiser, and how far it is."""

    def __init__(self, network: nn.Module, options: Optimisation, run: dict[str, Any] | None) -> None:
        self.network = network
        self.options = options
        self.run = run
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.step = 0
        self.whole = True
        self.seconds = 0.0
        self.loss = torch.zeros((), device=self.parameters[0].device)

    def advance(self, loss: Tensor) -> None:
        """One optimiser step."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.options.clip, foreach=True)
        self.whole = False
        self.optimiser.step()
        keep = min(self.options.average, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - keep)
        self.loss = loss.detach() if self.step == 0 else torch.lerp(self.loss, loss.detach(), 0.02)
        self.step += 1
        self.whole = True

    def running_loss(self) -> float:
        """The loss averaged over recent steps.

        Raises:
            ValueError: It is not finite.
        """
        loss = self.loss.item()
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss is {loss} at step {self.step}: training diverged. Lower the learning rate "
                f"({self.options.learning_rate}) or the clipping norm ({self.options.clip}), or check the data."
            )
        return loss

    def take_average(self) -> None:
        """Give the network its averaged weights."""
        torch._foreach_copy_([parameter.detach() for parameter in self.parameters], self.average)

    def save(self, path: Path) -> None:
        """Write everything that continuing needs.

        Raises:
            ValueError: Training diverged; a good checkpoint is not replaced by a useless one.
        """
        self.running_loss()
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{index}": tensor for index, tensor in enumerate(self.average)}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{index}.{name}"] = value
        tensors["loss"] = self.loss
        description = {"step": self.step, "seconds": self.seconds, "options": asdict(self.options), "run": self.run}
        save_tensors(path, tensors, description)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: It belongs to another run, or is none.
        """
        tensors, description = load_tensors(path, device=str(self.loss.device))
        for theirs, mine in ((description.get("options"), asdict(self.options)), (description.get("run"), self.run)):
            if theirs and mine and theirs != mine:
                names = sorted(name for name in theirs.keys() | mine.keys() if theirs.get(name) != mine.get(name))
                details = "; ".join(f"{name}: {theirs.get(name)} there, {mine.get(name)} here" for name in names)
                raise ValueError(
                    f"The checkpoint {path} belongs to another run ({details}). Use the same options, another "
                    "folder, or delete the checkpoint."
                )
        try:
            self.network.load_state_dict(_under(tensors, "network."))
            for index, average in enumerate(self.average):
                average.copy_(tensors[f"average.{index}"])
            self.loss, self.step, self.seconds = tensors["loss"], description["step"], description["seconds"]
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{path} is not a checkpoint of this network ({error}). Use another folder, or delete it."
            ) from error
        for index, parameter in enumerate(self.parameters):
            self.optimiser.state[parameter] = _under(tensors, f"optimiser.{index}.")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
