"""Means over a batch that several processes hold in equal parts.

A loss that is a mean over samples needs nothing: the mean of the parts' losses is that of the batch. One that is not,
such as the logarithm of a mean error, takes its means through `whole_batch_mean` and so sees the whole batch.

For L = f(M), M the mean of the parts' m_r, each process computes f'(M) dm_r, and averaging gradients over processes,
as data-parallel training does, gives f'(M) dM. So the mean is exchanged forward and the gradient passes unchanged.
"""

__all__ = ["whole_batch_mean"]

import torch
import torch.distributed as dist
from torch import Tensor


def whole_batch_mean(part: Tensor) -> Tensor:
    """The mean over processes of what each found in its part of a batch; the argument itself in a lone process.

    Without gradients nothing is exchanged, since then one process may ask alone.

    Arguments:
        part: A mean, or a sum that is divided by another; of one shape everywhere.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return part
    total = part.detach().clone()
    dist.all_reduce(total)
    return part + (total / dist.get_world_size() - part.detach())
