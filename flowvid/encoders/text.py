"""Words as tokens, and tokens as features that a network can attend to.

A sample may have one caption, several that each belong to a moment, or none. All their words are one row of tokens;
each carries the time of its caption, so that a network which turns its queries by real seconds can find what is said
of the moment it works on. Nothing said is the null text: no token exists, and attention to it answers zero.

References:
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), https://arxiv.org/abs/2207.12598
"""

__all__ = ["TextEncoder", "TextTokens", "as_tokens", "without_time"]

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from flowvid.video import Said, Text


@dataclass(frozen=True, eq=False)
class TextTokens:
    """What is said of every sample, as numbers.

    Arguments:
        ids: Numbers of words in the encoder's vocabulary; padding where nothing is said.
        places: Place of a word in its caption, from 0; -1 where there is none.
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

    def captions(self) -> Int64[Tensor, "batch token"]:
        """The number within its sample, from 0, of the caption that a token belongs to."""
        return (self.places == 0).cumsum(dim=1) - 1

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


def as_tokens(text: Text, number: Callable[[str], Sequence[int]], *, padding: int, longest: int) -> TextTokens:
    """Tokens of captions, each numbered by itself, one caption after the other.

    Arguments:
        text: What is said of every sample.
        number: A caption to the numbers of its tokens; asked once for each caption that differs.
        padding: Number where no token is.
        longest: Most tokens of one caption.

    Raises:
        ValueError: A caption is longer.
    """
    numbered: dict[str, Sequence[int]] = {}
    rows: list[list[tuple[int, int, float, bool]]] = []
    for sample in text:
        row: list[tuple[int, int, float, bool]] = []
        for said in sample:
            words = without_time(said)
            ids = numbered[words] if words in numbered else numbered.setdefault(words, number(words))
            if len(ids) > longest:
                raise ValueError(
                    f"A caption has at most {longest} tokens; this one has {len(ids)}: {words!r}. Shorten it, or say "
                    "it in several captions."
                )
            row += [(one, place, said.time or 0.0, said.time is not None) for place, one in enumerate(ids)]
        rows.append(row)
    width = max((len(row) for row in rows), default=0)
    filled = [row + [(padding, -1, 0.0, False)] * (width - len(row)) for row in rows]

    def column(part: int, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[token[part] for token in row] for row in filled], dtype=dtype).reshape(len(rows), width)

    places = column(1, torch.int64)
    return TextTokens(column(0, torch.int64), places, column(2, torch.float64), column(3, torch.bool), places >= 0)


def without_time(said: Said) -> str:
    """The words of a caption, less an "at 1.5 s" in front of one that has its time as a number.

    So the same words said at another time are the same tokens, and a shift of all times changes nothing but the times.
    """
    return said.words if said.time is None else re.sub(r"^at -?\d+(?:\.\d+)? s ", "", said.words)
