"""Known frames as tokens to attend to: each encoded by itself, told apart by learned embeddings of when it was.

As in Flamingo, frames are encoded independently, one at a time, and a learned embedding of its time is added to all
tokens of a frame. The table of embeddings stands at even offsets in seconds and is read between them linearly, so any
real times may be given; times beyond the table read its ends.

References:
    Flamingo: a Visual Language Model for Few-Shot Learning (Alayrac et al., 2022), https://arxiv.org/abs/2204.14198
"""

__all__ = ["FrameContext"]

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class FrameContext(nn.Module):
    """Frames and their offsets in time to tokens.

    Arguments:
        channels: Channels of a frame.
        width: Features of a token.
        reach: Seconds from the moment that is asked about to the ends of the table, both ways.
        entries: Embeddings in the table, odd, so that one stands at the moment itself.
        side: Rows and columns of tokens that a frame becomes.

    Raises:
        ValueError: The reach is not positive, or the entries are not odd.
    """

    def __init__(self, channels: int, width: int, *, reach: float, entries: int = 33, side: int = 4) -> None:
        super().__init__()
        if not reach > 0 or entries < 3 or entries % 2 == 0:
            raise ValueError(f"A table needs a positive reach and 3, 5, ... entries; got {reach} s and {entries}.")
        self.reach = reach
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(side),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.place = nn.Parameter(0.02 * torch.randn(side**2, width))
        self.moments = nn.Parameter(0.02 * torch.randn(entries, width))

    def forward(
        self,
        frames: Float[Tensor, "batch time channel height width"],
        offsets: Float[Tensor, "batch time"],
        *,
        exists: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch token feature"], Bool[Tensor, "batch token"]]:
        """Tokens, and which of them exist.

        Arguments:
            frames: Known frames.
            offsets: Seconds from the moment asked about to each of them.
            exists: Which frames exist; None: all.
        """
        seen = self.encoder(frames.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2])
        tokens = seen + self.place + self._moment(offsets)[:, :, None]
        there = torch.ones_like(offsets, dtype=torch.bool) if exists is None else exists
        return tokens.flatten(1, 2), there.repeat_interleave(tokens.shape[2], 1)

    def _moment(self, offsets: Float[Tensor, "batch time"]) -> Float[Tensor, "batch time feature"]:
        last = len(self.moments) - 1
        place = ((offsets / self.reach + 1) * (last / 2)).clamp(0, last)
        below = place.floor().clamp(max=last - 1)
        index = below.long()
        return torch.lerp(self.moments[index], self.moments[index + 1], (place - below)[..., None].to(self.moments))
