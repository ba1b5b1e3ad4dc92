"""Files: complete or absent, never half written; videos through PyAV."""

__all__ = ["write_atomically", "write_json", "write_video"]

import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file under a temporary name, flush it to the disk, and move it into place.

    Arguments:
        path: Where the file shall be; its folder is made.
        write: Writes the file at the path it is given, which has the same ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{path.name}")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; numbers must be finite.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"

    def write(place: Path) -> None:
        place.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_video(path: Path, frames: Float[Tensor, "time channel height width"], *, fps: float, zoom: int = 1) -> None:
    """Write frames in [-1, 1] as an h264 mp4, atomically.

    Arguments:
        path: The file; it must end in .mp4.
        frames: One or three channels.
        fps: Frames per second, at least 0.001.
        zoom: Every pixel becomes a square of this side.

    Raises:
        ValueError: The ending, the number of channels, the rate or the zoom is not as described, or a pixel is not
            finite.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"Videos are written as .mp4; got {path.name}.")
    if frames.shape[1] not in (1, 3) or not len(frames):
        raise ValueError(f"A video needs frames of 1 or 3 channels, at least one frame; got {tuple(frames.shape)}.")
    if not (math.isfinite(fps) and fps >= 1e-3 and zoom >= 1):
        raise ValueError(f"Expected a finite fps >= 0.001 and zoom >= 1; got fps={fps}, zoom={zoom}.")
    if not bool(frames.isfinite().all()):
        raise ValueError("A video needs finite frames; some pixels are NaN or infinite.")
    large = frames.detach().cpu().repeat_interleave(zoom, dim=2).repeat_interleave(zoom, dim=3)
    large = torch.nn.functional.pad(large, (0, large.shape[3] % 2, 0, large.shape[2] % 2), mode="replicate")
    pixels = ((large.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    write_atomically(path, lambda place: _encode(place, np.ascontiguousarray(pixels.numpy()), fps))


def _encode(path: Path, pixels: np.ndarray, fps: float) -> None:
    from fractions import Fraction

    import av

    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12"}
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
