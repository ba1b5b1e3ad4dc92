"""What a solver does, counted: operations, host reads, memory. The same everywhere, whatever else a machine does.

Operations are those that reach torch's dispatcher, views and copies included. A host read is a place where the host
waits for the device: a scalar read, indices of what is true, indexing by a mask, a comparison of tensors, a copy to the
host. Copies count where they are spelled ``cpu()`` or ``tolist()``; ``to("cpu")`` on a processor is no copy and is not
seen.

Counts per step are difference quotients of two lengths, so that what a solve costs once drops out. Memory is that of
all storages made inside, each from the operation that returns it until it is freed.
"""

__all__ = ["Counted", "Live", "per_step"]

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select")
_COPIES = (Tensor.cpu, Tensor.tolist)


class _Copies(TorchFunctionMode):
    """Counts copies to the host, which on the processor never reach the dispatcher."""

    def __init__(self, counted: "Counted") -> None:
        super().__init__()
        self.counted = counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _COPIES and not self.counted.paused:
            self.counted.reads += 1
        return func(*args, **(kwargs or {}))


class Counted(TorchDispatchMode):
    """Counts operations and host reads, except those of functions made `outside`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.reads = 0
        self.paused = False
        self._copies = _Copies(self)

    def __enter__(self) -> "Counted":
        self._copies.__enter__()
        super().__enter__()
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        self._copies.__exit__(exc_type, exc_val, exc_tb)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused:
            name = func.name().partition(".")[0]
            self.operations[name] += 1
            self.reads += name in _READS or (name == "aten::index" and _by_mask(args[1]))
        return func(*args, **(kwargs or {}))

    def outside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose operations do not count."""

        def uncounted(*arguments: Any) -> Any:
            with self._pause():
                return function(*arguments)

        return uncounted

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self.paused = True
        try:
            yield
        finally:
            self.paused = False


class Live(TorchDispatchMode):
    """Bytes of the storages that are alive.

    Arguments:
        given: Tensors that were there before and do not count.

    ``now`` and ``most`` are bytes at present and at the worst moment.
    """

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.now = 0
        self.most = 0
        self._known: dict[int, Any] = {}
        for tensor in given:
            self._watch(tensor, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor, tensor.untyped_storage().nbytes())
        return result

    def _watch(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def freed(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.most = max(self.most, self.now)


def _by_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)


def per_step(solve: Callable[[Counted, int], int]) -> tuple[float, float]:
    """Operations and host reads per step.

    Arguments:
        solve: Solves while being counted, longer for a larger number, and tells how many steps that took.
    """
    found: list[tuple[int, int, int]] = []
    # The first solve fills what is computed once for all.
    for length in (20, 20, 40):
        with torch.no_grad(), Counted() as counted:
            steps = solve(counted, length)
        found.append((sum(counted.operations.values()), counted.reads, steps))
    _, (less, few, short), (more, many, long) = found
    return (more - less) / (long - short), (many - few) / (long - short)
