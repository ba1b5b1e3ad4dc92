r"""Attention that knows where its tokens are in real units: rotary embeddings of seconds and pixels, masks, context.

A query at x and a key at y are turned by the angles w x and w y, a frequency w for every pair of features, before
their product is taken; only w (x - y) remains. So attention depends on *differences* of real coordinates: on seconds,
whatever the frame rate, and not on a frame's number. Several axes (seconds, rows, columns) share out the pairs.
Queries and keys are normalised to unit mean square first, which bounds the logits.

Masks say which tokens exist. A token that does not exist is never attended to, so a padded sample answers as it does
alone; where nothing at all exists to attend to, the answer is zero. Of a context some tokens may lie nowhere, such as
words that are said of a whole video: queries meet those unturned, and so ask them alike from anywhere.

References:
    Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
    RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), https://arxiv.org/abs/2104.09864
    Scaling Vision Transformers to 22 Billion Parameters (Dehghani et al., 2023), normalised queries and keys, https://arxiv.org/abs/2302.05442
"""

__all__ = ["Attention", "Rotary", "rotated"]

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Rotary(nn.Module):
    """The angles by which features at real coordinates are turned.

    Arguments:
        features: Features of one head, even.
        spans: For each axis (shortest, longest): the wavelengths, in its unit, between which its frequencies lie
            evenly on a logarithmic scale. Pairs of features are dealt to the axes in turn.

    Raises:
        ValueError: The features are odd or too few, or a span is not 0 < shortest <= longest.
    """

    frequencies: Tensor

    def __init__(self, features: int, spans: Sequence[tuple[float | int, float | int]]) -> None:
        super().__init__()
        pairs = features // 2
        if features % 2 or pairs < len(spans) or not spans:
            raise ValueError(
                f"Rotary embeddings of {len(spans)} axes need an even number of features, two or more for each axis; "
                f"got {features}."
            )
        if any(not 0 < shortest <= longest < math.inf for shortest, longest in spans):
            raise ValueError(f"Wavelengths are 0 < shortest <= longest; got {list(spans)}.")
        frequencies = torch.zeros(len(spans), pairs)
        for axis, (shortest, longest) in enumerate(spans):
            count = len(range(axis, pairs, len(spans)))
            share = torch.linspace(0, 1, count) if count > 1 else torch.zeros(1)
            frequencies[axis, axis :: len(spans)] = 2 * math.pi / (shortest * (longest / shortest) ** share)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, places: Float[Tensor, "*batch token axis"]) -> Float[Tensor, "*batch token pair"]:
        """Angles in radians of every token.

        Arguments:
            places: Real coordinates, in the units of the spans.
        """
        # No product of matrices, which autocast would take in bfloat16: seconds would lose all but two digits.
        exact = places if places.dtype == torch.float64 else places.float()
        return (exact[..., None] * self.frequencies.to(exact.dtype)).sum(dim=-2)


def rotated(
    features: Float[Tensor, "*batch head token feature"], angles: Float[Tensor, "*batch token pair"]
) -> Float[Tensor, "*batch head token feature"]:
    """Features turned, the first half against the second, by the angles of their tokens.

    Arguments:
        features: Queries or keys.
        angles: From `Rotary`; the same for all heads.
    """
    cosine, sine = (wave(angles).unsqueeze(-3).to(features.dtype) for wave in (torch.cos, torch.sin))
    one, other = features.chunk(2, dim=-1)
    return torch.cat((one * cosine - other * sine, one * sine + other * cosine), dim=-1)


class Attention(nn.Module):
    """Multi-head attention of tokens among themselves or to a context.

    Arguments:
        width: Features of a token, a multiple of the heads.
        heads: How many.
        context: Features of a token of the context; None attends among the tokens themselves.

    Raises:
        ValueError: The width is not a positive multiple of twice the heads.
    """

    def __init__(self, width: int, heads: int, *, context: int | None = None) -> None:
        super().__init__()
        if heads < 1 or width < 1 or width % (2 * heads):
            raise ValueError(f"The width must be a positive multiple of twice the heads; got {width} and {heads}.")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width if context is None else context, 2 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads)
        self.key_norm = nn.RMSNorm(width // heads)
        self.leave = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"],
        context: Float[Tensor, "batch other feature"] | None = None,
        *,
        angles: Float[Tensor, "batch token pair"] | None = None,
        context_angles: Float[Tensor, "batch other pair"] | None = None,
        placed: Bool[Tensor, "batch other"] | None = None,
        exists: Bool[Tensor, "batch other"] | None = None,
    ) -> Float[Tensor, "batch token width"]:
        """What the tokens gather.

        Arguments:
            tokens: Who asks.
            context: Who is asked; None asks the tokens themselves.
            angles: Rotary angles of the tokens.
            context_angles: Those of the context; tokens and context are turned only if both are given.
            placed: Which tokens of the context lie at their angles; the others lie nowhere. None: all do.
            exists: Which of the tokens that are asked exist; None: all.
        """
        asked = tokens if context is None else context
        key, value = (self._split(part) for part in self.key_value(asked).chunk(2, dim=-1))
        query, key = self.query_norm(self._split(self.query(tokens))), self.key_norm(key)
        turned = angles if context is None else context_angles
        scale = query.shape[-1] ** -0.5
        if angles is not None and turned is not None:
            query, key = _turned(query, key, angles, turned, placed)
        if exists is None:
            gathered = F.scaled_dot_product_attention(query, key, value, scale=scale)
        else:
            # A query that has nothing to ask would be 0 / 0; it is shown everything, and its answer dropped.
            some = exists.any(dim=1)
            mask = (exists | ~some[:, None])[:, None, None, :]
            gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
            gathered = gathered * some[:, None, None, None].to(gathered.dtype)
        return self.leave(gathered.transpose(1, 2).flatten(2))

    def _split(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch head token feature"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _turned(query: Tensor, key: Tensor, angles: Tensor, turned: Tensor, placed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries and keys whose products are those of turned ones where a key is placed, of unturned ones elsewhere."""
    here, there = rotated(query, angles), rotated(key, turned)
    if placed is None:
        return here, there
    lies = placed[:, None, :, None].to(key.dtype)
    return torch.cat((here, query), dim=-1), torch.cat((there * lies, key * (1 - lies)), dim=-1)
