"""What decides a comparison: data, codec, network and optimisation, as one value that is stored beside the weights."""

__all__ = ["Run"]

from dataclasses import dataclass, field
from typing import Any

from flowvid.data.worlds.clips import World
from flowvid.data.worlds.families import AnyWorld, world_of
from flowvid.train.options import Optimisation
from flowvid.video import Times, time_grid


@dataclass(frozen=True, kw_only=True)
class Run:
    """Data, codec, network and optimisation of a comparison.

    Arguments:
        world: What the clips are.
        frame: Seconds between training frames.
        clip_frames: Frames per training clip; the first is context at time -frame.
        clips: Training clips.
        validation_clips: Clips for calibration and for choices.
        channels: Channels of a latent.
        codec_width: Width of the codec.
        codec: Optimisation of the codec, whose batch counts frames.
        scales: Gaps of one sign of the multi-scale model; the longest is 2^(scales - 1) frames.
        reach: Frames that every model is trained to look ahead.
        width: Width of the trunk.
        model: Optimisation of every model.

    Raises:
        ValueError: A clip is shorter than twice the reach, or the reach than the longest gap; or a number is one that
            the codec or the trunk cannot have.
    """

    world: AnyWorld = field(default_factory=World)
    frame: float = 0.125
    clip_frames: int = 50
    clips: int = 1024
    validation_clips: int = 128
    channels: int = 4
    codec_width: int = 48
    codec: Optimisation
    scales: int = 5
    reach: int = 16
    width: int = 48
    model: Optimisation

    def __post_init__(self) -> None:
        if self.clip_frames < 2 * self.reach + 2 or self.reach < 2 ** (self.scales - 1):
            raise ValueError(
                f"Training needs a reach of at least the longest gap, {2 ** (self.scales - 1)} frames, and clips of at "
                f"least twice the reach and two frames; got reach={self.reach}, clip_frames={self.clip_frames}."
            )

        if not self.frame > 0 or min(self.clips, self.validation_clips, self.channels, self.scales) < 1:
            raise ValueError(f"Expected a positive frame and at least one clip, channel and scale; got {self}.")
        if self.width < 8 or self.width % 8 or self.codec_width < 2 or self.codec_width % 2 or self.world.canvas % 4:
            raise ValueError(
                "The width must be a multiple of 8, the width of the codec even, and the canvas a multiple of 4; "
                f"got width={self.width}, codec_width={self.codec_width}, canvas={self.world.canvas}."
            )

    @property
    def horizon(self) -> float:
        """Seconds that every model is trained to look ahead."""
        return self.frame * self.reach

    @property
    def times(self) -> Times:
        """Times of the training frames; the clip starts at 0 and one context frame lies before."""
        return time_grid(-self.frame, (self.clip_frames - 2) * self.frame, self.frame)

    @staticmethod
    def of(description: dict[str, Any]) -> "Run":
        """The run of a description, as it is stored beside weights."""
        parts = dict(description)
        parts["world"] = world_of(parts["world"])
        parts |= {name: Optimisation(**parts[name]) for name in ("codec", "model")}
        return Run(**parts)
