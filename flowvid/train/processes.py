"""The processes that train together, through accelerate: one, many on CPUs (gloo), or one per GPU (DDP or FSDP).

`torchrun` and `accelerate launch` start the processes and say who they are in the environment. Process r of w takes
every w-th sample of a batch, from the r-th on, so that samples treated by their place keep their shares. Since noise
is one seed per sample, the parts together are the batch that one process would draw, and the mean of the gradients of
their mean losses is the gradient of its mean loss.

What all must do alike, such as saving and stopping, is agreed on at every step by one number per process; on GPUs over
a group of its own on the hosts, so that no device is waited for.

References:
    PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., 2020), https://arxiv.org/abs/2006.15704
    PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel (Zhao et al., 2023), https://arxiv.org/abs/2304.11277
"""

__all__ = ["Processes", "local_device", "whole"]

import contextlib
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flowvid.noise import Noise

Value = TypeVar("Value")


def local_device(device: str) -> str:
    """The device of this process: with many processes on GPUs the one it has to itself, else the given one."""
    if not device.startswith("cuda") or "LOCAL_RANK" not in os.environ:
        return device
    _accelerator(on_cpu=False)
    return f"cuda:{torch.cuda.current_device()}"


class Processes:
    """Who trains together.

    Arguments:
        device: Where the network of this process lives.
    """

    def __init__(self, device: torch.device) -> None:
        self._accelerator = _accelerator(on_cpu=device.type == "cpu")
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self._hosts = _host_group(device.type) if self.count > 1 else None

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a shard of the weights (FSDP)."""
        return str(self._accelerator.distributed_type) == "DistributedType.FSDP"

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def parts(self, noise: Noise, accumulate: int) -> tuple[Noise, ...]:
        """What this process takes of a batch, in ``accumulate`` equal parts.

        Raises:
            ValueError: The batch does not divide.
        """
        count = self.count * accumulate
        if len(noise) % count:
            raise ValueError(
                f"A batch of {len(noise)} samples does not divide into {self.count} processes times {accumulate} "
                f"accumulated parts; choose a batch that is a multiple of {count}."
            )
        return tuple(noise[self.rank * accumulate + part :: count] for part in range(accumulate))

    def prepare(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module as all processes train it together, and its optimiser.

        Raises:
            ValueError: The first version of FSDP is asked for.
        """
        if self.count == 1 and not self.sharded:
            return module, optimiser
        if self.sharded and not self._accelerator.is_fsdp2:
            raise ValueError("Sharded training needs the second version of FSDP; set fsdp_version: 2 for accelerate.")
        with warnings.catch_warnings():
            # Accelerate calls an option of DDP by a name that DDP has deprecated.
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
            prepared, wrapped = self._accelerator.prepare(module, optimiser)
        return prepared, wrapped.optimizer

    def quiet(self, module: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Inside, gradients add up in each process and are not exchanged."""
        return self._accelerator.no_sync(module) if self.count > 1 else contextlib.nullcontext()

    def any(self, *flags: bool) -> list[bool]:
        """Which of the flags are raised on at least one process."""
        if self.count == 1:
            return list(flags)
        numbers = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._hosts)
        return [bool(number) for number in numbers.tolist()]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.count == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.count

    def first(self, make: Callable[[], Value]) -> Value:
        """What the main process makes, on all of them. It must be something that can be pickled."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.main else None]
        dist.broadcast_object_list(box, src=0, group=self._hosts)
        return box[0]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            self.any(False)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is not in shards; every process must ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _accelerator(*, on_cpu: bool) -> Any:
    """Accelerate's description of the processes; a lone one keeps its network where it is."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # Noise makes all processes start and stay alike, so that buffers need not be sent around at every step.
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    return Accelerator(cpu=together and on_cpu, device_placement=together, kwargs_handlers=handlers)


@cache
def _host_group(kind: str) -> Any:
    """The group that agrees on the hosts: the default one on CPUs, one of its own on GPUs."""
    return None if kind == "cpu" else dist.new_group(backend="gloo")
