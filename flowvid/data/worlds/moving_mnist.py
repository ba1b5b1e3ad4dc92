"""Moving MNIST in the four ways it is generated: ours, exact at any time, and the three published ones.

Digits of 28 x 28 pixels move on a canvas of 64 x 64. What differs is what happens at a wall and how a position becomes
pixels. With L the free room for the corner of a glyph:

* `ExactMovingMnist`: elastic at any real t, in closed form; drawn at sub-pixel places; overlap is the maximum. Walls
  are where the *ink*, not the glyph's square, meets the canvas.
* `LegacyMovingMnist` (Srivastava et al.): a step clamps to the walls, positions are cut down to whole pixels, overlap
  is the maximum. The first frame is drawn after the first step.
* `SvgMovingMnist` (Denton and Fergus; MCVD): glyphs enlarged to 32 x 32, whole-pixel positions in [0, L - 1], a new
  random velocity at a wall; overlap is the sum, cut off at full ink.
* `SrvpMovingMnist` (Franceschi et al.): steps are cut at collisions. Positions are kept as real numbers and rounded,
  halves to even, only for drawing; overlap is the sum, cut off.

The laws at the walls are in `flowvid.data.worlds.bounces`.

A clip is a pure function of variant, split, seed and glyphs, and the digits of a seed are the same in all four.
Without files the glyphs are scikit-learn's real digits, enlarged as MNIST's are laid out; `load_mnist` gives MNIST's.
The clips have no rate of their own: here they run at `FPS` = 10 frames per second, so that ten frames are a second.

References:
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), arXiv:1502.04681
    Stochastic Video Generation with a Learned Prior (Denton and Fergus, 2018), arXiv:1802.07687
    MCVD: Masked Conditional Video Diffusion (Voleti et al., 2022), arXiv:2205.09853
    Stochastic Latent Residual Video Prediction (Franceschi et al., 2020), arXiv:2002.09219
"""

__all__ = [
    "FPS",
    "ExactMovingMnist",
    "LegacyMovingMnist",
    "MovingDigits",
    "SrvpMovingMnist",
    "SvgMovingMnist",
    "Variant",
    "as_video",
]

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from flowvid.data.worlds.bounces import Points, legacy_path, srvp_path, svg_path
from flowvid.data.worlds.clips import Clip, World, clip_positions, render_clips
from flowvid.data.worlds.digits import SPLITS, Glyphs, centroid
from flowvid.data.worlds.mnist import mnist_like_glyphs, resized
from flowvid.noise import Noise
from flowvid.video import Video, from_bytes, to_bytes

FPS = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class MovingDigits:
    """Clips and the latent record they were drawn from.

    Arguments:
        pixels: Ink, 0..255.
        positions: Upper left corners (x right, y down) of the glyphs in pixels, before any rounding for drawing.
        velocities: Pixels per frame with which the motion leaves the frame.
        glyphs: Ink in [0, 1] of every digit, as large as it is drawn.
        labels: What every digit shows, 0..9.
        seeds: What each clip was drawn from.
    """

    pixels: UInt8[Tensor, "batch time canvas canvas"]
    positions: Float64[Tensor, "batch time digit 2"]
    velocities: Float64[Tensor, "batch time digit 2"]
    glyphs: Float32[Tensor, "batch digit side side"]
    labels: Int64[Tensor, "batch digit"]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def video(self) -> Video:
        """The clips as frames in [-1, 1] at `FPS` frames per second from 0 s."""
        return as_video(self.pixels)

    def centroids(self) -> Float64[Tensor, "batch time digit 2"]:
        """Where the motion has the intensity centroids of the digits, in pixels."""
        return self.positions + centroid(self.glyphs)[:, None]


class Variant(Protocol):
    """A way of generating Moving MNIST."""

    def sample(self, seeds: Iterable[int], split: str, *, glyphs: Glyphs | None = None) -> MovingDigits:
        """The clips of some seeds, each of which depends on the variant, the split, its seed and the glyphs alone.

        Arguments:
            seeds: Any 64-bit integers.
            split: train, validation or test; names the noise, and the glyphs where none are given.
            glyphs: Square digits to choose from; `mnist_like_glyphs` of the split if None.

        Raises:
            ValueError: The split is unknown, there are no seeds, or a glyph is not square or does not fit.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactMovingMnist:
    """Our variant: a `World` of 28-pixel glyphs, known at any real time.

    Arguments:
        world: What moves, how fast, on which canvas. The speed of 36 pixels per second is `LegacyMovingMnist`'s.
        frames: Frames of a sampled clip.
    """

    world: World = field(default_factory=lambda: World(digits=2, canvas=64, scale=1, speed=(36.0, 36.0)))
    frames: int = 20

    def __post_init__(self) -> None:
        _check_counts(frames=self.frames)

    def clips(self, seeds: Iterable[int], split: str, *, glyphs: Glyphs | None = None) -> list[Clip]:
        """The clips themselves, to be drawn at any times; arguments and errors are those of `Variant.sample`."""
        return self.world.clips(seeds, split, glyphs=_bank(split, glyphs))

    def sample(self, seeds: Iterable[int], split: str, *, glyphs: Glyphs | None = None) -> MovingDigits:
        """The clips at whole frames, with ink rounded to 0..255; see `Variant.sample`."""
        clips = self.clips(seeds, split, glyphs=glyphs)
        times = torch.arange(self.frames, dtype=torch.float64) / FPS
        images = torch.stack([clip.glyphs for clip in clips])
        return MovingDigits(
            pixels=to_bytes(render_clips(clips, times).frames[:, :, 0]),
            positions=clip_positions(clips, times) - self.world.scale * centroid(images)[:, None],
            velocities=torch.stack([clip.velocities(times) for clip in clips]) / FPS,
            glyphs=images,
            labels=torch.tensor([clip.labels for clip in clips]),
            seeds=tuple(clip.seed for clip in clips),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyMovingMnist:
    """The variant of Srivastava et al., which OpenSTL and most tables use.

    Arguments:
        canvas: Side of the frames in pixels.
        digits: Digits per clip.
        frames: Frames per clip.
        step: Free room flown per frame.
    """

    canvas: int = 64
    digits: int = 2
    frames: int = 20
    step: float = 0.1

    def __post_init__(self) -> None:
        _check_counts(canvas=self.canvas, digits=self.digits, frames=self.frames)
        if not 0 <= self.step < math.inf:
            raise ValueError(f"The step is a finite share of the free room, at least 0; got {self.step}.")

    def sample(self, seeds: Iterable[int], split: str, *, glyphs: Glyphs | None = None) -> MovingDigits:
        """See `Variant.sample`."""
        chosen = _choose(seeds, split, glyphs, self.digits)
        room = _room(self.canvas, chosen.images, least=0)
        start = chosen.motion.uniform("place", self.digits, 2, dtype=torch.float64)
        angle = 2 * math.pi * chosen.motion.uniform("angle", self.digits, dtype=torch.float64)
        velocity = self.step * torch.stack((angle.cos(), angle.sin()), dim=-1)
        positions, velocities = legacy_path(start, velocity, frames=self.frames)
        positions = room * positions
        pixels = _draw(chosen.images, positions.long(), self.canvas, torch.maximum)
        return MovingDigits(pixels, positions, room * velocities, chosen.images, chosen.labels, chosen.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SvgMovingMnist:
    """The variant of Denton and Fergus, which MCVD and others took over.

    Arguments:
        canvas: Side of the frames in pixels.
        digits: Digits per clip.
        frames: Frames per clip.
        side: Pixels the glyphs are enlarged to.
        speed: Greatest speed per axis in pixels per frame.
        stochastic: Whether a wall draws a new velocity; if not, it reverses the component towards it.
    """

    canvas: int = 64
    digits: int = 2
    frames: int = 20
    side: int = 32
    speed: int = 4
    stochastic: bool = True

    def __post_init__(self) -> None:
        _check_counts(canvas=self.canvas, digits=self.digits, frames=self.frames, side=self.side, speed=self.speed)

    def sample(self, seeds: Iterable[int], split: str, *, glyphs: Glyphs | None = None) -> MovingDigits:
        """See `Variant.sample`."""
        chosen = _choose(seeds, split, glyphs, self.digits)
        images = resized(chosen.images.flatten(0, 1), self.side).unflatten(0, chosen.images.shape[:2])
        room = _room(self.canvas, images, least=1)
        start, velocity = _whole_start(chosen.motion, self.digits, room, self.speed)
        noise = chosen.motion if self.stochastic else None
        positions, velocities = svg_path(start, velocity, noise, frames=self.frames, last=room - 1, speed=self.speed)
        pixels = _draw(images, positions.long(), self.canvas, _saturated_sum)
        return MovingDigits(pixels, positions, velocities, images, chosen.labels, chosen.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SrvpMovingMnist:
    """The variant of Franceschi et al.

    Arguments:
        canvas: Side of the frames in pixels.
        digits: Digits per clip.
        frames: Frames per clip; the authors test on 25 and 100.
        speed: Greatest speed per axis in pixels per frame.
        stochastic: Whether a wall draws a new velocity; if not, it mirrors it.
    """

    canvas: int = 64
    digits: int = 2
    frames: int = 20
    speed: int = 4
    stochastic: bool = False

    def __post_init__(self) -> None:
        _check_counts(canvas=self.canvas, digits=self.digits, frames=self.frames, speed=self.speed)

    def sample(self, seeds: Iterable[int], split: str, *, glyphs: Glyphs | None = None) -> MovingDigits:
        """See `Variant.sample`."""
        chosen = _choose(seeds, split, glyphs, self.digits)
        room = _room(self.canvas, chosen.images, least=1)
        start, velocity = _whole_start(chosen.motion, self.digits, room + 1, self.speed)
        noise = chosen.motion if self.stochastic else None
        positions, velocities = srvp_path(start, velocity, noise, frames=self.frames, room=room, speed=self.speed)
        pixels = _draw(chosen.images, positions.round().long(), self.canvas, _saturated_sum)
        return MovingDigits(pixels, positions, velocities, chosen.images, chosen.labels, chosen.seeds)


def as_video(pixels: UInt8[Tensor, "batch time height width"]) -> Video:
    """Ink of 0..255 as frames in [-1, 1] at `FPS` frames per second from 0 s."""
    times = torch.arange(pixels.shape[1], dtype=torch.float64) / FPS
    return Video(from_bytes(pixels[:, :, None]), times)


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    images: Float32[Tensor, "batch digit side side"]
    labels: Int64[Tensor, "batch digit"]
    motion: Noise
    seeds: tuple[int, ...]


def _choose(seeds: Iterable[int], split: str, glyphs: Glyphs | None, digits: int) -> _Chosen:
    bank, noise = _bank(split, glyphs), Noise.of(seeds)
    index = noise.fold(f"{split}/glyphs").integers("glyph", 0, len(bank), digits)
    return _Chosen(bank.images[index], bank.labels[index], noise.fold(f"{split}/motion"), noise.seeds)


def _bank(split: str, glyphs: Glyphs | None) -> Glyphs:
    if split not in SPLITS:
        raise ValueError(f"The splits are {', '.join(SPLITS)}; got {split!r}.")
    bank = mnist_like_glyphs(split) if glyphs is None else glyphs
    rows, columns = bank.images.shape[1:]
    if rows != columns or len(bank) == 0:
        raise ValueError(f"Moving MNIST needs square glyphs; got {len(bank)} of {rows} x {columns} pixels.")
    return bank


def _room(canvas: int, images: Float32[Tensor, "batch digit side side"], *, least: int) -> int:
    side = images.shape[-1]
    if canvas - side < least:
        raise ValueError(f"Glyphs of {side} pixels need a canvas of at least {side + least}; got {canvas}. Enlarge it.")
    return canvas - side


def _whole_start(noise: Noise, digits: int, places: int, speed: int) -> tuple[Points, Points]:
    start = noise.integers("place", 0, places, digits, 2)
    return start.double(), noise.integers("velocity", -speed, speed + 1, digits, 2).double()


def _draw(
    images: Float32[Tensor, "batch digit side side"],
    corners: Int64[Tensor, "batch time digit 2"],
    canvas: int,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> UInt8[Tensor, "batch time {canvas} {canvas}"]:
    batch, time, digits, _ = corners.shape
    ink, corners = images.mul(255).round().to(torch.uint8), corners.to(images.device)
    frames = ink.new_zeros(batch, time, canvas, canvas)
    clip, frame, reach = (torch.arange(count, device=ink.device) for count in (batch, time, images.shape[-1]))
    clip, frame = clip[:, None, None, None], frame[:, None, None]
    for digit in range(digits):
        x, y = corners[:, :, digit, :, None, None].unbind(2)
        square = (clip, frame, y + reach[:, None], x + reach)
        frames[square] = combine(frames[square], ink[:, digit, None].expand(batch, time, -1, -1))
    return frames


def _saturated_sum(one: UInt8[Tensor, "*shape"], other: UInt8[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    return (one.to(torch.int16) + other).clamp_(max=255).to(torch.uint8)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"Moving MNIST needs {name} of at least 1; got {count}.")
