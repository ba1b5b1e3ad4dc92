"""A model and its codec, from files of a run or from folders, and frames as the codec takes them."""

__all__ = ["Loaded", "load_networks", "opened"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from flowvid.data.footage.reader import BrokenFootage, Footage
from flowvid.encoders.codec import Codec
from flowvid.models.hub import load_pretrained
from flowvid.models.video_model import LearnedModel
from flowvid.train.run import load_codec, load_model
from flowvid.video import Video, as_times, from_bytes, luminance


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with its codec.

    Arguments:
        model: The model.
        codec: The codec of its latents.
        frame: Seconds between the frames it was trained on.
        canvas: Side of the frames it was trained on, where it knows no others; None: any.
        device: Where both live.
    """

    model: LearnedModel
    codec: Codec
    frame: float
    canvas: int | None
    device: str

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the codec takes, near those of a picture."""
        if self.canvas is not None:
            return self.canvas, self.canvas
        unit = 2 * getattr(self.codec, "factor", 1)
        return max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit)

    def video(self, pixels: UInt8[Tensor, "time 3 height width"], times: Sequence[float]) -> Video:
        """Pixels as one video of the codec's channels, on its device."""
        frames = from_bytes(pixels)
        if getattr(self.codec, "pixels", 3) == 1:
            frames = luminance(frames)
        return Video(frames[None].to(self.device), as_times(times))


def opened(path: Path) -> Footage:
    """A video or a picture, open for reading.

    Raises:
        ValueError: It cannot be read; the message names it and says why.
    """
    try:
        return Footage(path)
    except BrokenFootage as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def load_networks(model: Path, codec: Path | None, *, device: str) -> Loaded:
    """A model and its codec.

    Arguments:
        model: A file of a run, or a folder that `save_pretrained` wrote.
        codec: Its codec, likewise; None: that beside the model.
        device: Where they shall live.

    Raises:
        ValueError: A file or folder is missing, damaged, or holds something else.
    """
    if model.is_dir():
        network, own = load_pretrained(model, device=device), codec or model.with_name("codec")
        frame, canvas = getattr(network, "frame", None), None
    else:
        saved = load_model(model, device=device)
        network, own = saved.network, codec or model.with_name("codec.safetensors")
        frame, canvas = saved.run.frame, saved.run.world.canvas
    coder = load_pretrained(own, device=device) if own.is_dir() else load_codec(own, device=device).network
    if not isinstance(network, LearnedModel) or not isinstance(coder, Codec) or frame is None:
        raise ValueError(f"Expected a model and a codec; got {type(network).__name__} and {type(coder).__name__}.")
    return Loaded(network, coder, frame, canvas, device)
