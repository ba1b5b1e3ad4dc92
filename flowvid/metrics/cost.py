"""What a computation costs: multiplications, live memory, wall time."""

__all__ = ["Cost", "cost", "median_seconds"]

import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """What one call took.

    Arguments:
        multiply_adds: Multiply-adds of its matrix products and convolutions.
        peak_bytes: Most bytes held at once by tensors that its operations made, on any device. What was there before,
            weights and inputs, does not count, and neither do views of it.
    """

    multiply_adds: int
    peak_bytes: int


def cost(work: Callable[[], Any]) -> Cost:
    """Call ``work`` once and count what it took."""
    with FlopCounterMode(display=False) as counter, _LiveTensors() as live:
        work()
    return Cost(counter.get_total_flops() // 2, live.peak)


def median_seconds(work: Callable[[], Any], *, repeats: int) -> float:
    """Median wall time of ``work``, which should have run before; waits for the GPU where there is one.

    Raises:
        ValueError: There is nothing to repeat.
    """
    if repeats < 1:
        raise ValueError(f"Timing needs at least one repetition; got {repeats}.")
    seconds = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _LiveTensors(TorchDispatchMode):
    """Follows the storages of all tensors made under it: views count once, freed storages are taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.users: Counter[int] = Counter()
        self.current = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {self._address(tensor) for tensor in self._tensors((args, kwargs))} - self.users.keys()
        result = func(*args, **(kwargs or {}))
        for tensor in self._tensors(result):
            if self._address(tensor) not in before:
                self._follow(tensor)
        return result

    @staticmethod
    def _tensors(values: Any) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type != "meta"]

    @staticmethod
    def _address(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def _follow(self, tensor: Tensor) -> None:
        address, size = self._address(tensor), tensor.untyped_storage().nbytes()
        if self.users[address] == 0:
            self.current += size
            self.peak = max(self.peak, self.current)
        self.users[address] += 1
        weakref.finalize(tensor, self._release, address, size)

    def _release(self, address: int, size: int) -> None:
        self.users[address] -= 1
        if self.users[address] == 0:
            del self.users[address]
            self.current -= size
