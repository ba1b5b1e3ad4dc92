"""The state of a run and its one step: the network, its averaged weights, the optimiser, and how far it is.

Nothing is read back from the device at a step: losses and norms of gradients gather there and are read together, when
progress is reported and before every checkpoint. A loss that is not finite is therefore found within `REPORT_EVERY`
steps, at the step it happened, and never saved.

References:
    Decoupled Weight Decay Regularization (Loshchilov and Hutter, 2017), https://arxiv.org/abs/1711.05101
    Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2023), https://arxiv.org/abs/2312.02696
"""

__all__ = ["REPORT_EVERY", "DivergedError", "Trainer"]

import copy
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from flowvid.train.module import Objective
from flowvid.train.options import Execution, Optimisation
from flowvid.train.processes import Processes, whole

REPORT_EVERY = 20
_RECENT = 0.02
"""Weight of the last loss in the running one."""


class DivergedError(Exception):
    """A loss or a gradient is not finite.

    Arguments:
        step: The step that met it, counted from zero.
        loss: The loss.
        norm: The norm of the gradient.
    """

    def __init__(self, step: int, loss: float, norm: float) -> None:
        super().__init__(step, loss, norm)
        self.step, self.loss, self.norm = step, loss, norm


class Trainer:
    """The state of a run.

    Arguments:
        network: What is trained, in place.
        objective: Maps what a step is given to a scalar loss.
        options: How long and how.
        execution: How it is carried out.
        processes: Who trains together.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Callable[..., Tensor],
        options: Optimisation,
        execution: Execution,
        processes: Processes,
    ) -> None:
        self.network = network
        self.options = options
        self.processes = processes
        self._plain = copy.deepcopy(network) if processes.sharded else None
        optimiser = torch.optim.AdamW(
            _trainable(network), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self._module, self._optimiser = processes.prepare(Objective(network, objective, execution.precision), optimiser)
        self._parameters = _trainable(network)
        self._average = [parameter.detach().clone() for parameter in self._parameters]
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self.accumulate = execution.accumulate
        self.step = 0
        self.whole = True
        self.seconds = 0.0
        self.loss = 0.0
        self.norm = 0.0

    def advance(self, inputs: Iterator[tuple[Any, ...]]) -> None:
        """One optimiser step, on the next ``accumulate`` inputs."""
        for group in self._optimiser.param_groups:
            group["lr"] = self.options.rate(self.step)
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._gradients(inputs)
        norm = nn.utils.clip_grad_norm_(self._parameters, self.options.clip, foreach=True)
        self.whole = False
        self._optimiser.step()
        keep = min(self.options.average, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(_local(self._average), _local(self._parameters), 1 - keep)
        self._losses.append(loss)
        self._norms.append(whole(norm))
        self.step += 1
        self.whole = True

    def check(self) -> None:
        """Read the losses since the last time into the running loss; every process must ask.

        Raises:
            DivergedError: One of them, or a gradient, is not finite.
        """
        if not self._losses:
            return
        losses = self.processes.mean(torch.stack(self._losses)).tolist()
        norms = torch.stack(self._norms).tolist()
        first = self.step - len(losses)
        for step, loss, norm in zip(range(first, self.step), losses, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergedError(step, loss, norm)
            self.loss = loss if step == 0 else self.loss + _RECENT * (loss - self.loss)
        self.norm = norms[-1]
        self._losses.clear()
        self._norms.clear()

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Inside, the network has its averaged weights."""
        own = [tensor.clone() for tensor in _local(self._parameters)]
        torch._foreach_copy_(_local(self._parameters), _local(self._average))
        try:
            yield
        finally:
            torch._foreach_copy_(_local(self._parameters), own)

    def take_average(self) -> None:
        """Give the network its averaged weights for good; a sharded one becomes whole again."""
        torch._foreach_copy_(_local(self._parameters), _local(self._average))
        if self._plain is None:
            return
        self._plain.load_state_dict({name: whole(tensor) for name, tensor in self.network.state_dict().items()})
        # The caller's object stays the caller's; only what sharding made of it is undone.
        self.network.__class__ = type(self._plain)
        self.network.__dict__ = self._plain.__dict__

    def tensors(self) -> dict[str, Tensor]:
        """Everything that continuing needs, on the main process; every process must ask."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        named |= {f"average.{index}": tensor for index, tensor in enumerate(self._average)}
        for index, parameter in enumerate(self._parameters):
            for name, value in self._optimiser.state[parameter].items():
                named[f"optimiser.{index}.{name}"] = value
        if not self.processes.sharded:
            return named
        gathered = {}
        for name, tensor in named.items():
            full = whole(tensor)
            if self.processes.main:
                gathered[name] = full.cpu()
        return gathered

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors` returned, on this or any number of processes.

        Raises:
            KeyError: Something is missing.
            RuntimeError: The shapes are those of another network.
        """
        own = self.network.state_dict()
        stored = _under(tensors, "network.")
        if own.keys() != stored.keys():
            raise KeyError(f"its tensors differ in {', '.join(sorted(own.keys() ^ stored.keys()))}")
        for name, tensor in own.items():
            _put(tensor, stored[name])
        for index, (parameter, average) in enumerate(zip(self._parameters, self._average, strict=True)):
            _put(average, tensors[f"average.{index}"])
            state = {}
            for name, value in _under(tensors, f"optimiser.{index}.").items():
                state[name] = torch.empty_like(parameter) if value.ndim else torch.empty_like(value, device=self.device)
                _put(state[name], value)
            self._optimiser.state[parameter] = {name: tensor.detach() for name, tensor in state.items()}

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self._parameters[0].device

    def _gradients(self, inputs: Iterator[tuple[Any, ...]]) -> Tensor:
        """Gradients of the mean loss of the next parts; returns it."""
        if self.accumulate == 1:
            loss = self._module(*next(inputs))
            loss.backward()
            return loss.detach()
        losses = []
        with self.processes.quiet(self._module):
            for _ in range(self.accumulate - 1):
                losses.append(self._module(*next(inputs)) / self.accumulate)
                losses[-1].backward()
        losses.append(self._module(*next(inputs)) / self.accumulate)
        losses[-1].backward()
        return torch.stack([loss.detach() for loss in losses]).sum()


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _local(tensors: list[Any]) -> list[Tensor]:
    """What of the tensors this process holds, sharing their memory."""
    detached = [tensor.detach() for tensor in tensors]
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in detached]


@torch.no_grad()
def _put(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be in shards."""
    if target.shape != value.shape:
        raise RuntimeError(f"expected a tensor of shape {tuple(target.shape)}, it has {tuple(value.shape)}")
    if isinstance(target, DTensor):
        value = value.to(target.device)
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
