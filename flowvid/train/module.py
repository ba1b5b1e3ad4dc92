"""What is trained, as one module: the objective in its ``forward``, so that whatever hooks into a forward pass works.

An objective calls methods of its network such as ``network.loss``, never the network itself. DDP and FSDP, though,
prepare the exchange of gradients when the module they wrap is called. `Objective` is that module.

References:
    Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016), https://arxiv.org/abs/1604.06174
"""

__all__ = ["Objective", "adapted"]

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowvid.train.options import Execution


class Objective(nn.Module):
    """A network together with the function that maps what a step is given to the loss.

    Arguments:
        network: What is trained.
        loss: Maps the noise, or a batch and the noise, to a scalar; calls the network.
        precision: "no" or "bf16", see `Execution`.
    """

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor], precision: str) -> None:
        super().__init__()
        self.network = network
        # In a tuple: were the function a module itself, its weights would be counted twice.
        self._loss = (loss,)
        self._precision = precision
        self._device = next(network.parameters()).device.type

    def forward(self, *inputs: Any) -> Tensor:
        """The loss."""
        if self._precision == "no":
            return self._loss[0](*inputs)
        with torch.autocast(self._device, dtype=torch.bfloat16):
            loss = self._loss[0](*inputs)
        return loss.float()


@contextmanager
def adapted(network: nn.Module, execution: Execution) -> Generator[None]:
    """Inside, blocks are computed twice instead of kept, and parts are compiled, where the execution says so.

    Compiled are the network's children, since noise, which differs at every step, belongs to the uncompiled rest.
    """
    blocks = [module for module in network.modules() if _is_block(module)] if execution.checkpoint_activations else []
    parts = [*network.children()] if execution.compile else []
    for block in blocks:
        again = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        object.__setattr__(block, "forward", again)
    for part in parts:
        part.compile()
    try:
        yield
    finally:
        for block in blocks:
            object.__delattr__(block, "forward")
        for part in parts:
            part._compiled_call_impl = None


def _is_block(module: nn.Module) -> bool:
    """Whether a module has several layers with weights, none of them made of layers itself."""
    layers = [child for child in module.children() if any(True for _ in child.parameters())]
    return len(layers) > 1 and not any(any(True for _ in layer.children()) for layer in layers)
