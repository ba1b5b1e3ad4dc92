r"""Transformer blocks for video, and two networks of them: factorised in space and time, and on space-time patches.

Every block is a residual path that starts as the identity. What is told of levels, gaps and rates modulates it: from
one embedding come a shift, a scale and a gate for each part (adaptive norm, its gate zero at the start).

`SpaceTimeTransformer` attends within each frame, then along time at each place: N frames of P places cost N P^2 + P N^2
products. `PatchTransformer` cuts the clip into tubelets of pt x ph x pw and lets all attend to all, at real
coordinates (seconds, rows, columns): one network for any duration, resolution and aspect ratio, an image being a video
of one frame. A clip whose frames do not fill the last tubelet repeats its last frame, as one whose rows or columns do
not; what was added is cut off again. Clips of different lengths share a batch through a mask of frames.

Times are seconds, and both networks depend on their differences alone. A context, such as words, may lie in time too:
tokens then meet what is said of a moment by the difference of seconds to it, and what is said of no moment unturned.
In the factorised network the blocks along time ask it, since they are the ones that know moments.

References:
    Is Space-Time Attention All You Need for Video Understanding? (Bertasius et al., 2021), https://arxiv.org/abs/2102.05095
    ViViT: A Video Vision Transformer (Arnab et al., 2021), tubelets, https://arxiv.org/abs/2103.15691
    Scalable Diffusion Models with Transformers (Peebles and Xie, 2022), adaptive norm, https://arxiv.org/abs/2212.09748
    Video generation models as world simulators (Brooks et al., 2024), native sizes, https://openai.com/index/video-generation-models-as-world-simulators
"""

__all__ = ["LastLayer", "PatchTransformer", "SpaceTimeTransformer", "TransformerBlock"]

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowvid.networks.attention import Attention, Rotary
from flowvid.networks.layers import ScalarEmbedding, zeroed
from flowvid.networks.patches import grid, pixels, tubelets

_PARTS = 3


class TransformerBlock(nn.Module):
    """Attention, attention to a context where there is one, and a two-layer perceptron, each modulated and gated.

    Arguments:
        width: Features of a token.
        heads: Of the attention.
        features: Length of the embedding that modulates.
        context: Features of a token of the context; None: there is none.
        ratio: Hidden features of the perceptron in widths.
    """

    def __init__(self, width: int, heads: int, features: int, *, context: int | None = None, ratio: int = 4) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.cross = None if context is None else Attention(width, heads, context=context)
        self.perceptron = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(features, 3 * _PARTS * width))

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"],
        embedding: Float[Tensor, "batch feature"],
        *,
        angles: Float[Tensor, "batch token pair"],
        exists: Bool[Tensor, "batch token"] | None = None,
        context: Float[Tensor, "batch other context"] | None = None,
        context_angles: Float[Tensor, "batch other pair"] | None = None,
        placed: Bool[Tensor, "batch other"] | None = None,
        said: Bool[Tensor, "batch other"] | None = None,
    ) -> Float[Tensor, "batch token width"]:
        """The tokens, changed.

        Arguments:
            tokens: The tokens.
            embedding: What modulates.
            angles: Rotary angles of the tokens.
            exists: Which tokens exist.
            context: What may be asked besides.
            context_angles: Rotary angles of the context, where it lies in the same coordinates; None: it has none.
            placed: Which tokens of the context lie at their angles; None: all.
            said: Which tokens of the context exist.
        """
        attend, ask, think = self.modulation(embedding)[:, None].unflatten(2, (_PARTS, -1)).unbind(2)
        tokens = tokens + _gated(tokens, self.norm, attend, lambda x: self.attention(x, angles=angles, exists=exists))
        if self.cross is not None and context is not None:
            cross, own = self.cross, None if context_angles is None else angles
            tokens = tokens + _gated(
                tokens,
                self.norm,
                ask,
                lambda x: cross(x, context, angles=own, context_angles=context_angles, placed=placed, exists=said),
            )
        return tokens + _gated(tokens, self.norm, think, self.perceptron)


class SpaceTimeTransformer(nn.Module):
    """Clips and scalars in, clips out; attention within frames, then along time.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        scalars: Scalars per sample, each of order one.
        width: Features of a token.
        heads: Of every attention.
        depth: Pairs of blocks.
        patch: Side of the square of pixels that makes a token.
        context: Features of a token of the context, such as text; None: there is none.
        seconds: Shortest and longest wavelength of the temporal rotary embedding.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        scalars: int,
        width: int = 96,
        heads: int = 4,
        depth: int = 4,
        patch: int = 1,
        context: int | None = None,
        seconds: tuple[float, float] = (0.1, 30.0),
    ) -> None:
        super().__init__()
        self.patch = (1, patch, patch)
        self.embed = ScalarEmbedding(scalars, 2 * width)
        self.enter = nn.Linear(inputs * patch**2, width)
        self.space = nn.ModuleList(TransformerBlock(width, heads, 2 * width) for _ in range(depth))
        self.time = nn.ModuleList(TransformerBlock(width, heads, 2 * width, context=context) for _ in range(depth))
        self.place = Rotary(width // heads, ((2.0, 128.0), (2.0, 128.0)))
        self.moment = Rotary(width // heads, (seconds,))
        self.leave = LastLayer(width, 2 * width, outputs * patch**2)

    def forward(
        self,
        clip: Float[Tensor, "batch time inputs height width"],
        times: Float[Tensor, "batch time"],
        scalars: Float[Tensor, "batch scalar"],
        *,
        exists: Bool[Tensor, "batch time"] | None = None,
        context: Float[Tensor, "batch other context"] | None = None,
        said: Bool[Tensor, "batch other"] | None = None,
        context_times: Float[Tensor, "batch other"] | None = None,
        timed: Bool[Tensor, "batch other"] | None = None,
    ) -> Float[Tensor, "batch time outputs height width"]:
        """The answer, frame by frame.

        Arguments:
            clip: The clip.
            times: Seconds of its frames, in any order.
            scalars: What else is told of each sample: levels, gaps, rates.
            exists: Which frames exist; None: all.
            context: Tokens of a context, such as text.
            said: Which of those exist.
            context_times: Seconds of the tokens of the context; None: none of them has a time.
            timed: Which of those have a time; None: all.
        """
        batch, count, _, height, wide = clip.shape
        embedding = self.embed(scalars)
        tokens, rows, columns = tubelets(clip, self.patch)
        tokens = self.enter(tokens).unflatten(1, (count, rows * columns))
        place = self.place(grid(rows, columns, self.patch, tokens))
        moment = self.moment(_exact(times, tokens)[:, :, None])
        each = embedding.repeat_interleave(count, 0)
        along = embedding.repeat_interleave(rows * columns, 0)
        where = place.expand(batch * count, -1, -1)
        when, real = _repeated(moment, rows * columns), _repeated(exists, rows * columns)
        moments = None if context_times is None else self.moment(_exact(context_times, tokens)[:, :, None])
        heard, meant = (_repeated(part, rows * columns) for part in (context, moments))
        placed, said = (_repeated(part, rows * columns) for part in (timed, said))
        for within, across in zip(self.space, self.time, strict=True):
            inside = within(tokens.flatten(0, 1), each, angles=where)
            columned = inside.unflatten(0, (batch, count)).transpose(1, 2).flatten(0, 1)
            passed = across(
                columned,
                along,
                angles=when,
                exists=real,
                context=heard,
                context_angles=meant,
                placed=placed,
                said=said,
            )
            tokens = passed.unflatten(0, (batch, rows * columns)).transpose(1, 2)
        answer = self.leave(tokens.flatten(1, 2), embedding)
        return pixels(answer, (count, rows, columns), self.patch)[:, :, :, :height, :wide]


class PatchTransformer(nn.Module):
    """Clips of any size and scalars in, clips out; space-time patches attend to all others.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        scalars: Scalars per sample, each of order one.
        tubelet: Frames, rows and columns of a patch.
        width: Features of a token.
        heads: Of every attention.
        depth: Blocks.
        context: Features of a token of the context, such as text; None: there is none.
        seconds: Shortest and longest wavelength of the temporal rotary embedding.

    Raises:
        ValueError: A side of the tubelet is not positive.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        scalars: int,
        tubelet: tuple[int, int, int] = (1, 2, 2),
        width: int = 96,
        heads: int = 4,
        depth: int = 6,
        context: int | None = None,
        seconds: tuple[float, float] = (0.1, 30.0),
    ) -> None:
        super().__init__()
        if min(tubelet) < 1:
            raise ValueError(f"A tubelet has at least one frame, row and column; got {tubelet}.")
        volume = tubelet[0] * tubelet[1] * tubelet[2]
        self.tubelet = tubelet
        self.embed = ScalarEmbedding(scalars, 2 * width)
        self.enter = nn.Linear(inputs * volume, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 2 * width, context=context) for _ in range(depth))
        self.rotary = Rotary(width // heads, (seconds, (2.0, 128.0), (2.0, 128.0)))
        self.leave = LastLayer(width, 2 * width, outputs * volume)

    def forward(
        self,
        clip: Float[Tensor, "batch time inputs height width"],
        times: Float[Tensor, "batch time"],
        scalars: Float[Tensor, "batch scalar"],
        *,
        exists: Bool[Tensor, "batch time"] | None = None,
        context: Float[Tensor, "batch other context"] | None = None,
        said: Bool[Tensor, "batch other"] | None = None,
        context_times: Float[Tensor, "batch other"] | None = None,
        timed: Bool[Tensor, "batch other"] | None = None,
    ) -> Float[Tensor, "batch time outputs height width"]:
        """The answer, frame by frame.

        Arguments:
            clip: The clip.
            times: Seconds of its frames, increasing; a tubelet stands at the mean of its frames that exist.
            scalars: What else is told of each sample.
            exists: Which frames exist, the first ones of each sample; None: all.
            context: Tokens of a context, such as text.
            said: Which of those exist.
            context_times: Seconds of the tokens of the context; None: none of them has a time.
            timed: Which of those have a time; None: all.
        """
        count, height, wide = clip.shape[1], *clip.shape[3:]
        embedding = self.embed(scalars)
        there = torch.ones(clip.shape[:2], dtype=torch.bool, device=clip.device) if exists is None else exists
        tokens, rows, columns = tubelets(_held(clip, there), self.tubelet)
        centres, filled = _centres(_exact(times, clip), there, self.tubelet[0])
        depth = centres.shape[1]
        where = grid(rows, columns, self.tubelet, tokens).expand(len(clip), depth, -1, -1)
        places = torch.cat(
            (centres[:, :, None, None].expand(-1, -1, rows * columns, 1), where.to(centres)), dim=3
        ).flatten(1, 2)
        whole = None if exists is None else filled.repeat_interleave(rows * columns, 1)
        tokens, angles = self.enter(tokens), self.rotary(places)
        meant = None
        if context_times is not None:
            moments = _exact(context_times, clip)[:, :, None]
            # Words lie in time, and in space at the middle of the frame, from which places are counted.
            meant = self.rotary(F.pad(moments, (0, 2)))
        for block in self.blocks:
            tokens = block(
                tokens,
                embedding,
                angles=angles,
                exists=whole,
                context=context,
                context_angles=meant,
                placed=timed,
                said=said,
            )
        answer = self.leave(tokens, embedding)
        return pixels(answer, (depth, rows, columns), self.tubelet)[:, :count, :, :height, :wide]


class LastLayer(nn.Module):
    """The modulated last layer, which answers zero at the start.

    Arguments:
        width: Features of a token.
        features: Length of the embedding that modulates.
        outputs: Features out.
    """

    def __init__(self, width: int, features: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(features, 2 * width))
        self.last = zeroed(nn.Linear(width, outputs))

    def forward(
        self, tokens: Float[Tensor, "batch token width"], embedding: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch token output"]:
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=2)
        return self.last(self.norm(tokens) * (1 + scale) + shift)


def _gated(tokens: Tensor, norm: nn.Module, modulation: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    scale, shift, gate = modulation.chunk(3, dim=-1)
    return gate * part(norm(tokens) * (1 + scale) + shift)


def _repeated(tensor: Tensor | None, count: int) -> Tensor | None:
    return None if tensor is None else tensor.repeat_interleave(count, 0)


def _exact(times: Tensor, like: Tensor) -> Tensor:
    """Seconds in single precision at least, however coarse the features are."""
    return times.to(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))


def _held(
    clip: Float[Tensor, "batch time channel height width"], there: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time channel height width"]:
    """The clip with each sample's last existing frame held where there is none."""
    last = there.sum(dim=1, keepdim=True).clamp(min=1) - 1
    index = torch.minimum(torch.arange(clip.shape[1], device=clip.device).expand_as(there), last)
    return clip[torch.arange(len(clip), device=clip.device)[:, None], index]


def _centres(
    times: Float[Tensor, "batch time"], there: Bool[Tensor, "batch time"], frames: int
) -> tuple[Float[Tensor, "batch tubelet"], Bool[Tensor, "batch tubelet"]]:
    """When tubelets are, and which hold a frame that exists."""
    missing = -times.shape[1] % frames
    weight = F.pad(there.to(times), (0, missing)).unflatten(1, (-1, frames))
    sums = (F.pad(times, (0, missing)).unflatten(1, (-1, frames)) * weight).sum(2)
    counts = weight.sum(2)
    return sums / counts.clamp(min=1), counts > 0
