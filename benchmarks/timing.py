"""Ratios of times in one process: two pieces of work in turn, pair by pair, so that both meet the same machine.

On one thread of the processor time is that which the process got from it, so that waiting for others does not count;
the caches are shared all the same. The median stands for the ratio, the lowest and the highest pair tell how far to
trust it: equal work against itself reads 0.99 to 1.02 on a quiet machine.
"""

__all__ = ["Ratio", "paired", "seconds"]

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """Time of one piece of work over that of another: median, lowest and highest pair, and both medians in seconds."""

    median: float
    low: float
    high: float
    first: float
    second: float

    def per(self, first: float, second: float) -> "Ratio":
        """The ratio of times per step, given how many steps each took."""
        scale = second / first
        return Ratio(self.median * scale, self.low * scale, self.high * scale, self.first / first, self.second / second)


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """How long a piece of work takes, what it left on a device included."""
    if device != "cpu":
        torch.cuda.synchronize()
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def paired(first: Callable[[], object], second: Callable[[], object], pairs: int, *, device: str = "cpu") -> Ratio:
    """Time two pieces of work in turn, the order changing from pair to pair, after one of each to warm up.

    Arguments:
        first: The work whose time is divided.
        second: The work that it is compared with.
        pairs: How many pairs.
        device: Where the work is done.
    """
    first(), second()
    one: list[float] = []
    other: list[float] = []
    collects = gc.isenabled()
    gc.disable()
    try:
        for number in range(pairs):
            if number % 2:
                other.append(seconds(second, device))
            one.append(seconds(first, device))
            if not number % 2:
                other.append(seconds(second, device))
    finally:
        if collects:
            gc.enable()
    ratios = sorted(a / b for a, b in zip(one, other, strict=True))
    return Ratio(statistics.median(ratios), ratios[0], ratios[-1], statistics.median(one), statistics.median(other))
