"""A small text encoder for the captions of synthetic clips, trained with the network that reads them.

A word is a learned embedding, plus one of its place in its caption, plus a mark whether the caption belongs to a
moment. The moment itself is not embedded: tokens carry their seconds, and a network that turns its attention by
differences of seconds sees them there, so that a shift of all times changes nothing. Transformer layers then let the
words of one caption attend to each other, and to no other caption's.

References:
    Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
    On Layer Normalization in the Transformer Architecture (Xiong et al., 2020), norms first, https://arxiv.org/abs/2002.04745
"""

__all__ = ["WordEncoder", "make_text_encoder"]

import difflib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowvid.data.worlds.captions import split_words, vocabulary
from flowvid.encoders.pretrained_text import PRETRAINED_TEXT, PretrainedTextEncoder
from flowvid.encoders.text import TextEncoder, TextTokens, as_tokens
from flowvid.video import Text

_HEADS = 4
_NEAR = 3


class WordEncoder(TextEncoder):
    """Words of a fixed vocabulary to features; capital letters count as small ones.

    Arguments:
        words: The vocabulary; None: that of the captions of synthetic clips.
        width: Features of a token, a multiple of 4.
        depth: Transformer layers.
        longest: Most words of one caption.

    Raises:
        ValueError: The vocabulary is empty, repeats a word or holds something that is not one word, or a size does
            not fit.
    """

    def __init__(
        self, words: Sequence[str] | None = None, *, width: int = 64, depth: int = 2, longest: int = 96
    ) -> None:
        super().__init__(width)
        if width < 1 or width % _HEADS or depth < 0 or longest < 1:
            raise ValueError(
                f"Words need a width that is a positive multiple of {_HEADS}, depth >= 0 and longest >= 1; got width="
                f"{width}, depth={depth}, longest={longest}."
            )
        self.words = vocabulary() if words is None else tuple(words)
        wrong = [word for word in self.words if split_words(word.lower()) != [word]]
        if not self.words or wrong or len(set(self.words)) < len(self.words):
            raise ValueError(
                "A vocabulary is a list of different words, each as split_words gives it; "
                f"{f'{wrong[0]!r} is none' if wrong else 'it is empty or repeats one'}."
            )
        self.longest = longest
        self._numbers = {word: number for number, word in enumerate(self.words, start=1)}
        self.word = nn.Embedding(len(self.words) + 1, width)
        self.place = nn.Embedding(longest, width)
        self.moment = nn.Embedding(2, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, _HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def tokens(self, text: Text) -> TextTokens:
        """What is said, word by word; see `TextEncoder.tokens`.

        Raises:
            ValueError: A word is unknown, and then near ones are named; or a caption is too long.
        """
        return as_tokens(text, self._number, padding=0, longest=self.longest)

    def forward(self, tokens: TextTokens) -> Float[Tensor, "batch token width"]:
        """Features of every word; see `TextEncoder.forward`."""
        features = (
            self.word(tokens.ids) + self.place(tokens.places.clamp(min=0)) + self.moment(tokens.timed.to(torch.int64))
        )
        if features.numel():
            hidden = _apart(tokens).repeat_interleave(_HEADS, 0)
            for layer in self.layers:
                features = layer(features, src_mask=hidden)
        return self.norm(features) * tokens.said[..., None].to(features.dtype)

    def _number(self, caption: str) -> list[int]:
        split = split_words(caption.lower())
        unknown = next((word for word in split if word not in self._numbers), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, self.words, n=_NEAR, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Words are {', '.join(self.words)}."
            raise ValueError(f"The word {unknown!r} of {caption!r} is not in this encoder's vocabulary. {hint}")
        return [self._numbers[word] for word in split]


def make_text_encoder(name: str, *, width: int) -> TextEncoder:
    """The text encoder of a name, which models save among their arguments.

    Arguments:
        name: "words", a `WordEncoder` of the captions of synthetic clips; or "clip:FOLDER", "t5:FOLDER" or
            "sentence:FOLDER", a `PretrainedTextEncoder` whose weights lie in a folder of the disk.
        width: Features of a token.

    Raises:
        ValueError: The name is none of these, or the folder is missing or holds something else.
        ImportError: The package that reads the folder is not installed.
    """
    if name == "words":
        return WordEncoder(width=width)
    kind, _, folder = name.partition(":")
    if kind in PRETRAINED_TEXT and folder:
        return PretrainedTextEncoder(kind, folder, width=width)
    known = ", ".join(f"{one}:FOLDER" for one in PRETRAINED_TEXT)
    raise ValueError(f"Text encoders are words, {known}; got {name!r}.")


def _apart(tokens: TextTokens) -> Bool[Tensor, "batch token token"]:
    """Which pairs of tokens do not see each other: those of two captions, and all but itself of one not said."""
    captions = tokens.captions()
    together = (captions[:, :, None] == captions[:, None, :]) & tokens.said[:, None, :]
    return ~(together | torch.eye(together.shape[1], dtype=torch.bool, device=together.device))
