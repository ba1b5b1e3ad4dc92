"""Words as tokens, and tokens as features that a network can attend to.

A sample may have one caption, several that each belong to a moment, or none. All their words are one row of tokens;
each carries the time of its caption, so that a network which turns its queries by real seconds can find what is said
of the moment it works on. Nothing said is the null text: no token exists, and attention to it answers zero.

References:
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), https://arxiv.org/abs/2207.12598
"""

__all__ = ["TextEncoder", "TextTokens"]

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from flowvid.video import Text


@dataclass(frozen=True, eq=False)
class TextTokens:
    """What is said of every sample, as numbers.

    Arguments:
        ids: Numbers of words in the encoder's vocabulary; padding where nothing is said.
        places: Place of a word in its caption, from 0.
        times: Seconds of the caption a word belongs to; 0 where it has none.
        timed: Whether it has one.
        said: Which tokens exist.
    """

    ids: Int64[Tensor, "batch token"]
    places: Int64[Tensor, "batch token"]
    times: Float64[Tensor, "batch token"]
    timed: Bool[Tensor, "batch token"]
    said: Bool[Tensor, "batch token"]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: Int64[Tensor, "n"]) -> "TextTokens":
        """What is said of some of the samples."""
        return TextTokens(*(tensor[index] for tensor in self._tensors()))

    def to(self, device: torch.device | str) -> "TextTokens":
        """The same on another device."""
        return TextTokens(*(tensor.to(device) for tensor in self._tensors()))

    def silenced(self, silent: Bool[Tensor, "batch"]) -> "TextTokens":
        """The same, but nothing is said of some of the samples."""
        return TextTokens(self.ids, self.places, self.times, self.timed, self.said & ~silent[:, None])

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.ids, self.places, self.times, self.timed, self.said


class TextEncoder(nn.Module, ABC):
    """Words to features.

    Arguments:
        width: Features of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def tokens(self, text: Text) -> TextTokens:
        """What is said, as tokens on the host; done once for a whole set of clips.

        Raises:
            ValueError: A word is unknown, or a caption is too long for the encoder.
        """

    @abstractmethod
    def forward(self, tokens: TextTokens) -> Float[Tensor, "batch token width"]:
        """Features of every token, zero where none exists; what is said of one sample never reaches another."""
