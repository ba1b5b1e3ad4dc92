"""What a network hears: features of the words, which of them exist, and when they are.

Silence is one token that does not exist, so that attention to it answers as it does where all words are left out.
"""

__all__ = ["Words", "heard"]

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowvid.encoders.text import TextEncoder, TextTokens
from flowvid.video import Text


@dataclass(frozen=True, eq=False)
class Words:
    """What is said of every sample, as a network asks it.

    Arguments:
        context: Features of every token.
        said: Which tokens exist.
        context_times: Seconds of the caption a token belongs to.
        timed: Whether it has a time.
    """

    context: Float[Tensor, "batch token width"]
    said: Bool[Tensor, "batch token"]
    context_times: Float[Tensor, "batch token"]
    timed: Bool[Tensor, "batch token"]

    def around(self, start: float, stop: float, *, reach: float) -> "Words":
        """The same less what is said of moments out of reach of these seconds, and with times from the first of them.

        Arguments:
            start: The new origin of times.
            stop: Where the frames end.
            reach: Seconds beyond them that are still heard.
        """
        near = (self.context_times >= start - reach) & (self.context_times <= stop + reach)
        return replace(self, said=self.said & (near | ~self.timed), context_times=self.context_times - start)


def heard(
    encoder: TextEncoder | None, text: Text | TextTokens | None, like: Float[Tensor, "batch *state"]
) -> Words | None:
    """What is said, as features; None for a model that does not read.

    Arguments:
        encoder: The model's.
        text: What is said of every sample, or its tokens; None: nothing.
        like: Gives the number of samples, the type of silence and the device.

    Raises:
        ValueError: Something is said but the model does not read, or there is not one text for each sample.
    """
    if text is not None and encoder is None:
        raise ValueError("This model does not read text; leave it out, or build it with a text encoder.")
    if encoder is None:
        return None
    if text is not None and len(text) != len(like):
        raise ValueError(f"There is one text for each of the {len(like)} samples; got {len(text)}.")
    tokens = encoder.tokens(text) if isinstance(text, tuple) else text
    if tokens is not None and tokens.ids.shape[1]:
        tokens = tokens.to(like.device)
        return Words(encoder(tokens), tokens.said, tokens.times, tokens.timed)
    nothing = torch.zeros(len(like), 1, dtype=torch.bool, device=like.device)
    return Words(like.new_zeros(len(like), 1, encoder.width), nothing, nothing.double(), nothing)
