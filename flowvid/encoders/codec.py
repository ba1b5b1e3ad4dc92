"""Codecs: videos to latent trajectories and back, frame by frame.

Every method moves in the same latent space, so the codec is trained once and its reconstruction error is the ceiling
of every table. Coding frame by frame keeps the time axis untouched: any real times, any length, no 4k + 1 rule. A
`VideoCodec` that is not a `Codec` may have such a rule.
"""

__all__ = ["Codec", "IdentityCodec", "VideoCodec"]

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from flowvid.data.model_files import ModelFiles
from flowvid.video import Trajectory, Video


class VideoCodec(nn.Module, ABC):
    """Videos to latent trajectories of zero mean and unit variance per channel, and back."""

    @abstractmethod
    def encode(self, video: Video) -> Trajectory:
        """The latent trajectory of a video."""

    @abstractmethod
    def decode(self, trajectory: Trajectory) -> Video:
        """The video of a latent trajectory."""


class Codec(ModelFiles, VideoCodec):
    """Frames to latents of zero mean and unit variance per channel, and back."""

    @abstractmethod
    def latents(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """Latents of single frames in [-1, 1]."""

    @abstractmethod
    def frames(self, latents: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """Frames in [-1, 1] of single latents."""

    def encode(self, video: Video) -> Trajectory:
        """The latent trajectory of a video, at the same times."""
        return Trajectory(self.latents(video.frames.flatten(0, 1)).unflatten(0, video.frames.shape[:2]), video.times)

    def decode(self, trajectory: Trajectory) -> Video:
        """The video of a latent trajectory, at the same times."""
        states = trajectory.states
        return Video(self.frames(states.flatten(0, 1)).unflatten(0, states.shape[:2]), trajectory.times)


class IdentityCodec(Codec):
    """Latents are the pixels themselves."""

    def latents(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """The frames."""
        return frames

    def frames(self, latents: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """The latents, clipped to [-1, 1]."""
        return latents.clamp(-1, 1)
