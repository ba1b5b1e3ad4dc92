"""Layers of a U-Net on clips: what acts within frames, and behind it what acts along time and starts as nothing.

Clips are [batch time channel height width]. Every layer takes frames by themselves unless it is told to go along time,
and then leaves alone, and hides from the others, those that are not of the clip. `flowvid.networks.unet` says more.

References:
    Make-A-Video: Text-to-Video Generation without Text-Video Data (Singer et al., 2022), pseudo-3D layers, https://arxiv.org/abs/2209.14792
    Group Normalization (Wu and He, 2018), https://arxiv.org/abs/1803.08494
"""

__all__ = ["FrameAttention", "FrameBlock", "FrameConvolution", "FrameStage", "framewise", "kept"]

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowvid.networks.attention import Rotary
from flowvid.networks.layers import zeroed
from flowvid.networks.patches import grid
from flowvid.networks.transformer import TransformerBlock


class FrameConvolution(nn.Module):
    """A convolution of 3 x 3 in every frame, and one of three neighbouring frames that starts as the identity.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        time: Whether there is one along time.
        stride: Rows and columns from one place to the next.
    """

    def __init__(self, inputs: int, outputs: int, *, time: bool, stride: int = 1) -> None:
        super().__init__()
        self.space = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.time = zeroed(nn.Conv3d(outputs, outputs, (3, 1, 1), padding=(1, 0, 0))) if time else None

    def forward(
        self, clip: Float[Tensor, "batch time inputs height width"], exists: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time outputs rows columns"]:
        """The convolved clip.

        Arguments:
            clip: The clip.
            exists: Which frames are of the clip; None: all.
        """
        frames = framewise(self.space, clip)
        if self.time is None:
            return frames
        seen = frames if exists is None else kept(frames, exists)
        added = self.time(seen.transpose(1, 2)).transpose(1, 2)
        return frames + (added if exists is None else kept(added, exists))


class FrameBlock(nn.Module):
    """Two convolutions around a residual path, modulated by an embedding; it starts as the identity.

    Arguments:
        channels: Channels in and out.
        features: Length of the embedding.
        time: Whether the convolutions go along time too.
    """

    def __init__(self, channels: int, features: int, *, time: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = FrameConvolution(channels, channels, time=time)
        self.modulation = zeroed(nn.Linear(features, 2 * channels))
        self.second = FrameConvolution(channels, channels, time=time)
        zeroed(self.second)

    def forward(
        self,
        clip: Float[Tensor, "batch time channel height width"],
        features: Float[Tensor, "batch time feature"],
        exists: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time channel height width"]:
        """The clip, changed.

        Arguments:
            clip: The clip.
            features: What modulates each frame.
            exists: Which frames are of the clip; None: all.
        """
        scale, shift = self.modulation(features)[..., None, None].chunk(2, dim=2)
        hidden = self.first(F.silu(framewise(self.norm, clip)), exists)
        return clip + self.second(F.silu(hidden * (1 + scale) + shift), exists)


class FrameAttention(nn.Module):
    """Attention within every frame and to a context, then along time at every place; it starts as the identity.

    Arguments:
        channels: Channels in and out, a multiple of twice the heads.
        heads: Of every attention.
        features: Length of the embedding that modulates.
        stride: Pixels from one place to the next.
        context: Features of a token of the context; None: there is none.
        seconds: Shortest and longest wavelength of the temporal rotary embedding; None: frames are not told of others.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        features: int,
        *,
        stride: int,
        context: int | None,
        seconds: tuple[float, float] | None,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.place = Rotary(channels // heads, ((2.0, 128.0), (2.0, 128.0)))
        self.space = TransformerBlock(channels, heads, features, context=context)
        self.moment = None if seconds is None else Rotary(channels // heads, (seconds,))
        self.time = None if seconds is None else TransformerBlock(channels, heads, features)

    def forward(
        self,
        clip: Float[Tensor, "batch time channel height width"],
        times: Float[Tensor, "batch time"],
        features: Float[Tensor, "batch time feature"],
        moving: Float[Tensor, "batch feature"],
        *,
        exists: Bool[Tensor, "batch time"] | None = None,
        context: Float[Tensor, "frame other context"] | None = None,
        said: Bool[Tensor, "frame other"] | None = None,
    ) -> Float[Tensor, "batch time channel height width"]:
        """The clip, changed.

        Arguments:
            clip: The clip.
            times: Seconds of its frames.
            features: What modulates each frame.
            moving: What modulates a clip along time.
            exists: Which frames are of the clip; None: all.
            context: Tokens that each of all frames may ask.
            said: Which of those exist.
        """
        batch, count, _, rows, columns = clip.shape
        tokens = clip.flatten(3).transpose(2, 3)
        where = self.place(grid(rows, columns, (1, self.stride, self.stride), clip)).expand(batch * count, -1, -1)
        within = self.space(tokens.flatten(0, 1), features.flatten(0, 1), angles=where, context=context, said=said)
        tokens = within.unflatten(0, (batch, count))
        if self.time is not None and self.moment is not None:
            along = moving.repeat_interleave(rows * columns, 0)
            when = self.moment(times[:, :, None]).repeat_interleave(rows * columns, 0)
            real = None if exists is None else exists.repeat_interleave(rows * columns, 0)
            places = tokens.transpose(1, 2).flatten(0, 1)
            passed = self.time(places, along, angles=when, exists=real).unflatten(0, (batch, -1)).transpose(1, 2)
            tokens = passed if exists is None else torch.where(exists[:, :, None, None], passed, tokens)
        # In one layout whatever came before: convolutions round differently in another.
        return tokens.transpose(2, 3).contiguous().unflatten(3, (rows, columns))


class FrameStage(nn.Module):
    """A block, and attention where there is one."""

    def __init__(self, block: FrameBlock, attention: FrameAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(
        self,
        clip: Float[Tensor, "batch time channel height width"],
        times: Float[Tensor, "batch time"],
        features: Float[Tensor, "batch time feature"],
        moving: Float[Tensor, "batch feature"],
        *,
        exists: Bool[Tensor, "batch time"] | None = None,
        context: Float[Tensor, "frame other context"] | None = None,
        said: Bool[Tensor, "frame other"] | None = None,
    ) -> Float[Tensor, "batch time channel height width"]:
        """The clip, changed; for the arguments see `FrameAttention.forward`."""
        clip = self.block(clip, features, exists)
        if self.attention is None:
            return clip
        return self.attention(clip, times, features, moving, exists=exists, context=context, said=said)


def framewise(layer: nn.Module, clip: Float[Tensor, "batch time *frame"]) -> Float[Tensor, "batch time *answer"]:
    """A layer on every frame by itself."""
    return layer(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])


def kept(
    clip: Float[Tensor, "batch time channel height width"], exists: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time channel height width"]:
    """The clip with zero where no frame of it exists."""
    return torch.where(exists[:, :, None, None, None], clip, 0.0)
