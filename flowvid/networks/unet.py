r"""A U-Net on frames, and the same one on clips: every layer of space followed by one of time that starts as nothing.

The image network works on each frame by itself: convolutions of 3 x 3, attention among the places of a frame and to
a context such as text, at ever coarser grids and back, with skips. Norms are taken frame by frame. The video network
has the same layers under the same names and behind each of them one of time:

- a convolution of 3 x 3 is followed by one of three neighbouring frames, x + w x with w = 0 at the start: the
  identity, and written so exact in any precision. Together they are the convolutions of 1 x 3 x 3 and 3 x 1 x 1 that
  a full one of 3 x 3 x 3 is factored into ("pseudo"). With `time="attention"` they are left out, as in Video Diffusion
  Models, and frames meet in attention alone;
- attention within a frame is followed by attention along time at each place, turned by real seconds, whose gate is
  zero at the start;
- channels and scalars that only a clip has, such as which frames are known or how many there are in a second, enter
  through layers that are zero at the start.

So a video network that takes over the weights of an image network (`inflate`) at first answers bit for bit as that
one does on each frame. It may then be trained whole, or in its layers of time alone (`train_time_only`).

Frames that do not exist as frames of the clip pass all of this by: the image network answers them one by one and
nobody sees them. They are padding, or single images in a batch of videos (joint training).

References:
    U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., 2015), https://arxiv.org/abs/1505.04597
    Video Diffusion Models (Ho et al., 2022), factored space and time, joint training, https://arxiv.org/abs/2204.03458
    Make-A-Video: Text-to-Video Generation without Text-Video Data (Singer et al., 2022), pseudo-3D layers, https://arxiv.org/abs/2209.14792
"""

__all__ = ["TIMES", "UNet", "inflate", "train_time_only"]

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flowvid.networks.layers import ScalarEmbedding, coordinates, zeroed
from flowvid.networks.transformer import TransformerBlock
from flowvid.networks.unet_blocks import FrameAttention, FrameBlock, FrameConvolution, FrameStage, framewise, kept

TIMES = ("none", "pseudo", "attention")
"""Layers of time that a network may have."""

_OF_TIME = frozenset(("time", "time_enter", "time_embed"))


class UNet(nn.Module):
    """Clips and scalars in, clips out.

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        scalars: Scalars per sample, each of order one.
        widths: Channels at every level, the finest first, multiples of 8 and of twice the heads; each level has half
            the rows and columns of the one before.
        attending: Levels that attend, counted from the coarsest.
        heads: Of every attention.
        context: Features of a token of the context, such as text; None: there is none.
        time: "none", an image network; "pseudo", convolutions and attention along time; "attention", that alone.
        told: (channels, scalars) of a clip beside those of an image, behind them; for a video network.
        seconds: Shortest and longest wavelength of the temporal rotary embedding.

    Raises:
        ValueError: A width is none that norms and heads can have, no such layers of time exist, or an image network is
            told of clips.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        scalars: int,
        widths: Sequence[int] = (32, 64),
        attending: int = 2,
        heads: int = 4,
        context: int | None = None,
        time: str = "none",
        told: tuple[int, int] = (0, 0),
        seconds: tuple[float, float] = (0.1, 30.0),
    ) -> None:
        super().__init__()
        _check(widths, heads, time, told)
        self.inputs, self.scalars = inputs, scalars
        features, convolves = 4 * widths[0], time == "pseudo"

        def stage(level: int) -> FrameStage:
            attends = level >= len(widths) - attending
            attention = (
                FrameAttention(
                    widths[level],
                    heads,
                    features,
                    stride=2**level,
                    context=context,
                    seconds=None if time == "none" else seconds,
                )
                if attends
                else None
            )
            return FrameStage(FrameBlock(widths[level], features, time=convolves), attention)

        finer = range(len(widths) - 1)
        self.embed = ScalarEmbedding(scalars, features)
        self.time_embed = _silent(ScalarEmbedding(told[1], features)) if told[1] else None
        self.enter = FrameConvolution(inputs + 2, widths[0], time=convolves)
        self.time_enter = zeroed(nn.Conv2d(told[0], widths[0], 3, padding=1)) if told[0] else None
        self.down = nn.ModuleList(stage(level) for level in range(len(widths)))
        self.shrink = nn.ModuleList(FrameConvolution(a, b, time=convolves, stride=2) for a, b in pairwise(widths))
        self.middle = stage(len(widths) - 1)
        self.grow = nn.ModuleList(FrameConvolution(b, a, time=convolves) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(FrameConvolution(2 * widths[i], widths[i], time=convolves) for i in finer)
        self.up = nn.ModuleList(stage(level) for level in finer)
        self.norm = nn.GroupNorm(8, widths[0])
        self.leave = FrameConvolution(widths[0], outputs, time=convolves)
        zeroed(self.leave)

    def forward(
        self,
        clip: Float[Tensor, "batch time inputs height width"],
        times: Float[Tensor, "batch time"],
        scalars: Float[Tensor, "batch scalar"],
        *,
        exists: Bool[Tensor, "batch time"] | None = None,
        context: Float[Tensor, "batch *time other context"] | None = None,
        said: Bool[Tensor, "batch *time other"] | None = None,
    ) -> Float[Tensor, "batch time outputs height width"]:
        """The answer, frame by frame.

        Arguments:
            clip: The clip, in the order of its times, with the channels that only a clip has behind the others.
            times: Seconds of its frames.
            scalars: What else is told of each sample, with what is told of a clip behind the rest.
            exists: Which frames are of the clip; the others, padding or single images, are answered one by one as the
                image network would and seen by nobody; None: all are.
            context: Tokens of a context, such as text, for each sample or for each frame.
            said: Which of those exist.
        """
        count = clip.shape[1]
        still = self.embed(scalars[:, : self.scalars])
        moving = still if self.time_embed is None else still + self.time_embed(scalars[:, self.scalars :])
        features = _for_frames(moving, count, 3)
        if exists is not None:
            features = torch.where(exists[:, :, None], features, still[:, None])
        exact = times.to(device=clip.device, dtype=torch.promote_types(clip.dtype, torch.float32))
        place = coordinates(clip[:, 0, :1])[:, None].expand(-1, count, -1, -1, -1)
        heard = {
            "exists": exists,
            "context": None if context is None else _for_frames(context, count, 4).flatten(0, 1),
            "said": None if said is None else _for_frames(said, count, 3).flatten(0, 1),
        }
        grid = self.enter(torch.cat((clip[:, :, : self.inputs], place), dim=2), exists)
        if self.time_enter is not None:
            more = framewise(self.time_enter, clip[:, :, self.inputs :])
            grid = grid + (more if exists is None else kept(more, exists))
        skips = []
        for stage, shrink in zip(self.down, self.shrink, strict=False):
            grid = stage(grid, exact, features, moving, **heard)
            skips.append(grid)
            grid = shrink(grid, exists)
        grid = self.down[-1](grid, exact, features, moving, **heard)
        grid = self.middle(grid, exact, features, moving, **heard)
        for stage, grow, merge in reversed(list(zip(self.up, self.grow, self.merge, strict=True))):
            skip = skips.pop()
            grid = merge(torch.cat((grow(_enlarged(grid, skip), exists), skip), dim=2), exists)
            grid = stage(grid, exact, features, moving, **heard)
        return self.leave(F.silu(framewise(self.norm, grid)), exists)


def inflate(video: UNet, image: UNet) -> None:
    """Give a video network the weights of an image network, as which it then answers on every frame.

    Its layers of time are set to their start. Both must be built alike but for time and what is told of clips.

    Raises:
        ValueError: The layers of space differ.
    """
    own, given = video.state_dict(), image.state_dict()
    space = {name: tensor for name, tensor in own.items() if not _of_time(name)}
    if _shapes(space) != _shapes(given):
        differing = sorted(dict(_shapes(space).items() ^ _shapes(given).items()))
        raise ValueError(f"Both networks need the same layers of space; these differ in {', '.join(differing)}.")
    video.load_state_dict(own | given)
    for module in video.modules():
        match module:
            case FrameConvolution(time=nn.Conv3d() as layer):
                zeroed(layer)
            case FrameAttention(time=TransformerBlock() as block):
                zeroed(block.modulation)
            case UNet(time_enter=enter, time_embed=embed):
                if enter is not None:
                    zeroed(enter)
                if embed is not None:
                    _silent(embed)


def train_time_only(video: UNet) -> None:
    """Freeze the layers of space, so that optimisers see those of time alone; `requires_grad_(True)` undoes it.

    Raises:
        ValueError: The network has no layers of time.
    """
    moving = [name for name, _ in video.named_parameters() if _of_time(name)]
    if not moving:
        raise ValueError("An image network has no layers of time that could be trained alone; build one with time.")
    for name, parameter in video.named_parameters():
        parameter.requires_grad_(_of_time(name))


def _of_time(name: str) -> bool:
    return not _OF_TIME.isdisjoint(name.split("."))


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _silent(embedding: ScalarEmbedding) -> ScalarEmbedding:
    """The embedding with its last layer zero: silu(0) = 0, so it starts as nothing."""
    zeroed(embedding.layers[2])
    return embedding


def _for_frames(told: Tensor, count: int, least: int) -> Tensor:
    """What is told of samples, or of each of their frames, for all frames of each."""
    return told if told.ndim == least else told[:, None].expand(-1, count, *told.shape[1:])


def _enlarged(
    clip: Float[Tensor, "batch time channel height width"], like: Tensor
) -> Float[Tensor, "batch time channel rows columns"]:
    """The clip on the finer grid of another, each value repeated."""
    return F.interpolate(clip.flatten(0, 1), size=like.shape[-2:], mode="nearest").unflatten(0, clip.shape[:2])


def _check(widths: Sequence[int], heads: int, time: str, told: tuple[int, int]) -> None:
    if not widths or any(width < 1 or width % 8 or width % (2 * heads) for width in widths):
        raise ValueError(f"Widths are positive multiples of 8 and of twice the heads, {2 * heads}; got {list(widths)}.")
    if time not in TIMES:
        raise ValueError(f"The layers of time are {', '.join(TIMES)}; got {time!r}.")
    if min(told) < 0 or (time == "none" and any(told)):
        raise ValueError(f"Only a video network is told of clips; got {told} channels and scalars with time={time!r}.")
