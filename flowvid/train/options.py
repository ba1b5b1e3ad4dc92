"""How long and how to train, which decides the result; and how that is carried out, which does not, but for rounding.

A checkpoint may be continued under another `Execution`: on more processes or fewer, in other parts, compiled or not.
"""

__all__ = ["PLAIN", "Execution", "Optimisation"]

import math
from dataclasses import dataclass

PRECISIONS = ("no", "bf16")


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How long and how to train.

    Arguments:
        steps: Optimiser steps.
        batch: Samples per step, on all processes together.
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


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How training is carried out, on one process or on each of many.

    Arguments:
        precision: "no" for that of the weights, or "bf16" for bfloat16 products under autocast.
        accumulate: Parts that a process takes its share of a batch in, one after the other, to need less memory.
        checkpoint_activations: Whether residual blocks are computed a second time in the backward pass rather than
            their inner activations kept.
        compile: Whether the parts of the network are compiled by ``torch.compile``.
        save_seconds: Seconds between checkpoints.
        keep: How many of the latest checkpoints are kept, beside the best.
        tensorboard: Whether the log is also written for TensorBoard.
        command: The command that continues the run, which is told when it is interrupted.

    Raises:
        ValueError: A value is not as described.
    """

    precision: str = "no"
    accumulate: int = 1
    checkpoint_activations: bool = False
    compile: bool = False
    save_seconds: float = 30.0
    keep: int = 2
    tensorboard: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"Precisions are {', '.join(PRECISIONS)}; got {self.precision!r}.")
        if self.accumulate < 1 or self.keep < 1 or not self.save_seconds >= 0:
            raise ValueError(f"Expected accumulate >= 1, keep >= 1 and save_seconds >= 0; got {self}.")


PLAIN = Execution()
"""One pass over each batch in the precision of the weights, saved twice a minute."""
