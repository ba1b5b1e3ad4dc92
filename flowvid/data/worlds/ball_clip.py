"""Clips of balls: hard discs in a world of 10 x 10 units, drawn at any resolution, and errors in those units."""

__all__ = ["SIDE", "BallClip", "BallErrors", "ball_errors"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from flowvid.data.worlds.drawing import colour_mix, draw_discs, object_centres
from flowvid.data.worlds.hard_discs import HardDiscs
from flowvid.video import Video, as_times

SIDE = 10.0

Seconds = Tensor | Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class BallClip:
    """Balls in a world of 10 x 10 units, y down.

    Arguments:
        discs: How they move, in units.
        canvas: Side of the frames in pixels.
        seed: What the clip was drawn from.
        colour: Whether frames have three channels, the balls red and blue on white; else white on black.
        soft: Whether balls are drawn with the wide soft edge of the RTRBM's balls; else anti-aliased.

    Raises:
        ValueError: The canvas is below 1, or there are balls without a colour; or, from the methods, times are not
            finite and strictly increasing.
    """

    discs: HardDiscs
    canvas: int
    seed: int
    colour: bool = False
    soft: bool = False

    def __post_init__(self) -> None:
        if self.canvas < 1:
            raise ValueError(f"A canvas has a positive whole number of pixels; got {self.canvas}.")
        if self.colour and len(self.discs.radii) > 2:
            raise ValueError(f"Colours tell one or two balls apart; got {len(self.discs.radii)}.")

    @property
    def scale(self) -> float:
        """Pixels per unit of the world."""
        return self.canvas / SIDE

    @property
    def radii(self) -> Float64[Tensor, "ball"]:
        """Radii in pixels."""
        return self.scale * torch.from_numpy(self.discs.radii)

    @property
    def masses(self) -> Float64[Tensor, "ball"]:
        """Masses; PhyWorld's are squared radii in units."""
        return torch.from_numpy(self.discs.masses)

    def frames(self, times: Seconds) -> Float32[Tensor, "time channel canvas canvas"]:
        """Frames in [-1, 1] at ``times`` seconds."""
        return BallClip.draw([self], times)[0]

    def positions(self, times: Seconds) -> Float64[Tensor, "time ball 2"]:
        """Centres (x right, y down) in pixels at ``times`` seconds; they may lie outside the canvas."""
        return self.scale * torch.from_numpy(self.discs.state(as_times(times).numpy())[0])

    def velocities(self, times: Seconds) -> Float64[Tensor, "time ball 2"]:
        """Pixels per second at ``times`` seconds; at an event those just after it."""
        return self.scale * torch.from_numpy(self.discs.state(as_times(times).numpy())[1])

    def events(self, start: float, stop: float) -> Float64[Tensor, "event"]:
        """The times in [start, stop], in increasing order, of collisions with walls and with each other."""
        return torch.from_numpy(self.discs.events(start, stop))

    def visible(self, times: Seconds) -> Bool[Tensor, "time ball"]:
        """Whether the whole ball lies on the canvas at ``times`` seconds; others are left out of published errors."""
        positions = self.positions(times)
        room = torch.minimum(positions, self.canvas - positions).amin(dim=2)
        return room >= self.radii - 1e-9

    @staticmethod
    def draw(clips: "Sequence[BallClip]", times: Seconds) -> Float32[Tensor, "batch time channel canvas canvas"]:
        """Frames in [-1, 1] of many clips at ``times`` seconds.

        Raises:
            ValueError: There are no clips, they differ in canvas, number of balls or look, or the times are not finite
                and strictly increasing.
        """
        kinds = {(clip.canvas, len(clip.discs.radii), clip.colour, clip.soft) for clip in clips}
        if len(kinds) != 1:
            raise ValueError(f"A batch needs clips of one canvas, number of balls and look; got {sorted(kinds)}.")
        first, times = clips[0], as_times(times)
        centres = torch.stack([clip.positions(times) for clip in clips])
        radii = torch.stack([clip.radii for clip in clips])[:, None].expand(centres.shape[:3])
        paint = _draw_soft if first.soft else draw_discs
        layers = paint(centres.flatten(0, 2), radii.flatten(), canvas=first.canvas).unflatten(0, centres.shape[:3])
        frames = colour_mix(layers) if first.colour else layers.sum(dim=2, keepdim=True).clamp_(max=1)
        return frames.mul_(2).sub_(1)


@dataclass(frozen=True, slots=True, eq=False)
class BallErrors:
    """Errors of measured balls in units of the world; NaN where the true or the measured ball is not wholly seen.

    Arguments:
        position: Distance from the true centre, in units.
        velocity: Length of the error of the mean velocity between two frames, in units per second.
    """

    position: Float64[Tensor, "batch time ball"]
    velocity: Float64[Tensor, "batch step ball"]


def ball_errors(clips: Sequence[BallClip], video: Video) -> BallErrors:
    """Errors of the balls seen in a video that should show the clips, measured by colour as PhyWorld does.

    Arguments:
        clips: The truth; one ball, or two in colour.
        video: What is measured, at any times of the clips.

    Raises:
        ValueError: The video has another number of clips than given, or its channels do not tell the balls apart.
    """
    if len(clips) != len(video):
        raise ValueError(f"Errors need one clip for each video; got {len(clips)} clips and {len(video)} videos.")
    truth = torch.stack([clip.positions(video.times) for clip in clips])
    seen = torch.stack([clip.visible(video.times) for clip in clips])
    balls, centres = truth.shape[2], object_centres(video)
    if centres.shape[2] < balls:
        raise ValueError(f"{balls} balls are told apart by colour only; got frames of {video.frames.shape[2]} channel.")
    scale = torch.tensor([clip.scale for clip in clips], dtype=torch.float64)[:, None, None, None]
    error = torch.where(seen[..., None], (centres[:, :, :balls] - truth) / scale, torch.nan)
    return BallErrors(error.norm(dim=3), (error.diff(dim=1) / video.times.diff()[:, None, None]).norm(dim=3))


def _draw_soft(
    centres: Float64[Tensor, "n 2"], radii: Float64[Tensor, "n"], *, canvas: int
) -> Float32[Tensor, "n {canvas} {canvas}"]:
    pixels = torch.arange(canvas, dtype=torch.float64) + 0.5
    x, y = (((pixels - centres[:, axis, None]) / radii[:, None]).square().to(torch.float32) for axis in (0, 1))
    return (x[:, None, :] + y[:, :, None]).pow_(4).neg_().exp_()
