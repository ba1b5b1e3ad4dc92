r"""Long short-term memory on grids: cells that are vectors, or grids whose neighbours they see.

A cell remembers c and shows h. With x what it is given and * a convolution with a k x k kernel over the grid,

    i, f, o = sigmoid(W * [x, h] + b),    g = tanh(W * [x, h] + b),    c <- f c + i g,    h <- o tanh(c).

With a kernel of one every place of the grid is a cell by itself, and all share their weights: an ordinary LSTM that
reads vectors, those of patches, say (Srivastava et al.); on a grid of one place it reads whole frames. With a larger
kernel cells see each other, and what moves can leave one for the next (Shi et al.). There are no peepholes. The
forget gate starts open, biased by one, so that a memory starts long (Jozefowicz et al.).

References:
    Long Short-Term Memory (Hochreiter and Schmidhuber, 1997), https://doi.org/10.1162/neco.1997.9.8.1735
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), https://arxiv.org/abs/1502.04681
    Convolutional LSTM Network (Shi et al., 2015), https://arxiv.org/abs/1506.04214
    An Empirical Exploration of Recurrent Network Architectures (Jozefowicz et al., 2015),
        https://proceedings.mlr.press/v37/jozefowicz15.html
"""

__all__ = ["GridLstm", "Memory"]

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Memory:
    """What all layers of an LSTM show and remember.

    Arguments:
        shown: h.
        cells: c.
    """

    shown: Float[Tensor, "batch layer width rows columns"]
    cells: Float[Tensor, "batch layer width rows columns"]

    def where(self, chosen: Bool[Tensor, "batch"], other: "Memory") -> "Memory":
        """This memory for the chosen samples, the other one for the rest."""
        mask = chosen[:, None, None, None, None]
        return Memory(torch.where(mask, self.shown, other.shown), torch.where(mask, self.cells, other.cells))


class GridLstm(nn.Module):
    """Layers of LSTM cells on a grid; each reads what the one before it shows.

    Arguments:
        inputs: Channels read; none, and the cells only remember.
        width: Channels remembered, in every layer.
        layers: How many layers.
        kernel: Side of the square of cells that a cell sees, odd; 1: itself alone.

    Raises:
        ValueError: There is no channel or layer, or the kernel is not odd.
    """

    def __init__(self, inputs: int, width: int, *, layers: int = 1, kernel: int = 1) -> None:
        super().__init__()
        if inputs < 0 or min(width, layers, kernel) < 1 or kernel % 2 == 0:
            raise ValueError(
                "An LSTM needs at least one channel and one layer, no negative inputs and an odd kernel; got "
                f"inputs={inputs}, width={width}, layers={layers}, kernel={kernel}."
            )
        self.width = width
        sizes = [inputs + width, *(2 * width for _ in range(layers - 1))]
        self.gates = nn.ModuleList(nn.Conv2d(size, 4 * width, kernel, padding=kernel // 2) for size in sizes)
        for gate in self.gates:
            assert isinstance(gate, nn.Conv2d)
            assert gate.bias is not None
            nn.init.zeros_(gate.bias)
            nn.init.ones_(gate.bias[width : 2 * width])

    def empty(self, like: Float[Tensor, "batch inputs rows columns"]) -> Memory:
        """The memory before anything was read."""
        blank = like.new_zeros(len(like), len(self.gates), self.width, *like.shape[-2:])
        return Memory(blank, blank)

    def forward(self, grid: Float[Tensor, "batch inputs rows columns"], memory: Memory) -> Memory:
        """The memory after one more input; its last layer is the answer."""
        shown: list[Tensor] = []
        cells: list[Tensor] = []
        for layer, gate in enumerate(self.gates):
            parts = gate(torch.cat((grid, memory.shown[:, layer]), dim=1)).chunk(4, dim=1)
            enter, keep, leave = (part.sigmoid() for part in (parts[0], parts[1], parts[3]))
            cell = keep * memory.cells[:, layer] + enter * parts[2].tanh()
            grid = leave * cell.tanh()
            shown.append(grid)
            cells.append(cell)
        return Memory(torch.stack(shown, dim=1), torch.stack(cells, dim=1))
